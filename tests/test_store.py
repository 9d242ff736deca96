"""Tables are written whole, and never over results on another text."""

import pytest

from lib.results import store
from lib.runs.task import Outcome


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "folder", lambda kind, size: tmp_path)
    return tmp_path


def outcome(corpus: str, digest: str, **more) -> Outcome:
    row = {"experiment": "exp03", "variant": "Standard", "seed": 0, "val_ppl": 9.0, "test_ppl": 9.5}
    row |= {"corpus": corpus, "corpus_sha256": digest * 64, "seconds": 1.0, "device": "cpu"}
    return Outcome({**row, "code_hash": "c", "run_id": f"{corpus}-{digest}", **more}, {})


def test_another_text_does_not_replace_full_results(place):
    first = outcome("wikitext-2-standin", "a")
    store.write("03_x", [first], "full")
    before = (place / "03_x.csv").read_bytes()
    sentence = r"results on wikitext-2-standin \(a{12}\) and this run is on python-docs \(b{12}\)"
    with pytest.raises(ValueError, match=sentence + ".*move that file away first"):
        store.write("03_x", [outcome("python-docs", "b")], "full")
    with pytest.raises(ValueError, match="holds results on"):  # one name, another slice
        store.write("03_x", [outcome("wikitext-2-standin", "c")], "full")
    assert (place / "03_x.csv").read_bytes() == before
    store.write("03_x", [first, outcome("python-docs", "b")], "full")  # a further text may come
    assert store.read("03_x")["corpus"].tolist() == ["wikitext-2-standin", "python-docs"]


def test_small_sizes_are_written_over(place):
    for corpus, digest in (("repeated", "a"), ("python-docs", "b")):
        store.write("03_x", [outcome(corpus, digest)], "quick")
    assert store.read("03_x", size="quick")["corpus"].tolist() == ["python-docs"]
