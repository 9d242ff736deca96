"""What changes the key of a run, and what does not."""

import dataclasses
import importlib.metadata
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from lib.character.experiments.e03_iterative_refinement import E03
from lib.runs import key
from lib.runs.key import defaults, described, digest, run_function, run_key
from lib.runs.places import ROOT
from lib.runs.provenance import code_hash


@dataclass(frozen=True)
class Text:
    name: str
    sha256: str


def declared(name: str = "one", version: int = 1):
    @run_function(name, version)
    def anything(config, seed, place):
        raise NotImplementedError

    return anything


def model(module: str = "here", version: int | None = None, **more: tuple[Any, Any]) -> type:
    """A class called Model as it stands in ``module``, with a VERSION and further fields."""
    fields = [("width", int, 8), ("layers", list, field(default_factory=list))]
    fields += [(name, kind, default) for name, (kind, default) in more.items()]
    space = {"__module__": module} | ({} if version is None else {"VERSION": version})
    return dataclasses.make_dataclass("Model", fields, namespace=space, frozen=True)


@dataclass(frozen=True)
class Config:
    text: Text
    model: Any
    rate: float = 0.1
    folder: str = field(default="", metadata={"place": True})


TEXT = Text("embedded", "a" * 64)
BEFORE = run_key(declared(), Config(TEXT, model()()), 0)


def test_where_something_lies_is_no_default_that_could_move():
    assert defaults(Config) == {"rate": 0.1}


def test_moving_rewriting_and_defaults_change_nothing():
    other = declared()
    other.__module__, other.__qualname__, other.__doc__ = "elsewhere", "renamed", "Rewritten."
    same = [
        run_key(other, Config(TEXT, model()()), 0),
        run_key(declared(), Config(TEXT, model("moved")()), 0),
        run_key(declared(), Config(TEXT, model(version=1)()), 0),
        run_key(declared(), Config(TEXT, model(dropout=(float, 0.0))()), 0),
        run_key(declared(), Config(TEXT, model()(8, []), 0.1), 0),
        run_key(declared(), Config(TEXT, model()(), folder="/somewhere"), 0),
    ]
    assert set(same) == {BEFORE} and len(BEFORE) == key.KEY_DIGITS


CHANGES = {
    "version of a class": lambda: run_key(declared(), Config(TEXT, model(version=2)()), 0),
    "version of the function": lambda: run_key(declared(version=2), Config(TEXT, model()()), 0),
    "name of the function": lambda: run_key(declared("two"), Config(TEXT, model()()), 0),
    "seed": lambda: run_key(declared(), Config(TEXT, model()()), 1),
    "a value": lambda: run_key(declared(), Config(TEXT, model()(9)), 0),
    "a list": lambda: run_key(declared(), Config(TEXT, model()(8, [1])), 0),
    "the type of a value": lambda: run_key(declared(), Config(TEXT, model()(8.0)), 0),
    "a further field": lambda: run_key(
        declared(), Config(TEXT, model(dropout=(float, 0.0))(8, [], 0.1)), 0
    ),
    "the text": lambda: run_key(declared(), Config(Text("embedded", "b" * 64), model()()), 0),
    "the name of the text": lambda: run_key(declared(), Config(Text("x", "a" * 64), model()()), 0),
    "the device": lambda: run_key(declared(), Config(TEXT, model()()), 0, "cuda"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_computed_changes_the_key(what):
    assert CHANGES[what]() != BEFORE
    others = [found for name in CHANGES if name != what and (found := CHANGES[name]())]
    assert CHANGES[what]() not in others


@pytest.fixture
def installed(monkeypatch):
    """Versions that seem installed, by library."""
    real, found = importlib.metadata.version, {}

    monkeypatch.setattr(
        key.importlib.metadata, "version", lambda name: found.get(name) or real(name)
    )
    yield found
    key.release.cache_clear()


def test_the_release_of_torch_counts_and_its_patch_does_not(installed):
    found = {}
    for version in ("2.13.0", "2.13.1+cpu", "2.14.0"):
        installed["torch"] = version
        key.release.cache_clear()
        found[version] = run_key(declared(), Config(TEXT, model()()), 0)
    assert found["2.13.0"] == found["2.13.1+cpu"] != found["2.14.0"]


def test_a_library_counts_where_a_class_names_it(installed):
    @dataclass(frozen=True)
    class Base:
        LIBRARIES: ClassVar[tuple[str, ...]] = ("numpy",)

    for config, counts in ((Config(TEXT, [{"x": Base()}]), True), (Config(TEXT, model()()), False)):
        keys = set()
        for version in ("1.26.0", "2.0.0"):
            installed["numpy"] = version
            key.release.cache_clear()
            keys.add(run_key(declared(), config, 0))
        assert len(keys) == (2 if counts else 1)


def test_what_has_no_stable_description_is_refused():
    for thing in (object(), {1, 2}, lambda: 0, Config):
        with pytest.raises(TypeError, match="a configuration cannot hold a"):
            described({"thing": thing})
    with pytest.raises(TypeError, match="is not declared with run_function"):
        run_key(test_what_has_no_stable_description_is_refused, 1, 0)


def test_a_key_is_the_same_in_another_process_and_whatever_the_order():
    assert digest({"a": 1, "b": [2.0, None]}) == digest({"b": [2.0, None], "a": 1})
    code = "from lib.runs.key import digest; print(digest({'b': [2.0, None], 'a': 1}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == digest({"a": 1, "b": [2.0, None]})


def test_the_keys_of_an_experiment_name_each_its_computation(capsys):
    parameters = E03.parameters.at("tiny").changed(corpus="embedded", seeds=2)
    texts = E03.texts(parameters)
    keys = [task.key() for task in E03.tasks(parameters, texts)]
    assert len(keys) == len(set(keys)) == 2 * 9 + 2
    for place in ({"workers": 7}, {"device": "cpu"}, {"data_dir": str(ROOT)}):
        moved = parameters.changed(**place)
        assert [t.key() for t in E03.tasks(moved, E03.texts(moved))] == keys
    other = parameters.changed(learning_rate=2e-3)
    counted = [task.key() for task in E03.tasks(other, texts)]
    assert set(counted) & set(keys) == {
        task.key() for task in E03.tasks(other, texts) if task.function.run_name == "ngram"
    }, "counts of a text know no learning rate"


def test_the_hash_of_code_ignores_words_and_follows_imports(tmp_path, monkeypatch):
    from lib.runs import provenance

    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    other = tmp_path / "lib" / "other.py"
    found = []
    for text, beside in [
        ('"""One."""\nfrom lib import other\nX = 1\n', "Y = 1"),
        ('"""Two."""\n# note\nfrom lib import other\nX  =  1\n', "Y = 1  # words"),
        ('"""One."""\nfrom lib import other\nX = 2\n', "Y = 1"),
        ('"""One."""\nfrom lib import other\nX = 1\n', "Y = 2"),
    ]:
        (tmp_path / "lib" / "__init__.py").write_text("")
        (tmp_path / "lib" / "m.py").write_text(text)
        other.write_text(beside)
        for cached in (provenance.code_hash, provenance.imports):
            cached.cache_clear()
        found.append(code_hash("lib.m"))
    for cached in (provenance.code_hash, provenance.imports):
        cached.cache_clear()
    assert found[0] == found[1] and len(set(found)) == 3
    with pytest.raises(FileNotFoundError, match="lib.absent has no file"):
        code_hash("lib.absent")


def test_the_commit_says_where_library_files_were_changed(tmp_path, monkeypatch):
    from lib.runs import provenance

    def commit() -> str:
        provenance.commit.cache_clear()
        return provenance.commit()

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    try:
        assert commit() == "", "no checkout"
        git("init")
        assert commit() == "", "no commit"
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "m.py").write_text("X = 1\n")
        git("add", ".")
        git("commit", "-m", "one")
        clean = commit()
        assert re.fullmatch("[0-9a-f]{9,}", clean)
        (tmp_path / "note.txt").write_text("beside the library\n")
        assert commit() == clean
        (tmp_path / "inner" / "lib").mkdir(parents=True)
        monkeypatch.setattr(provenance, "ROOT", tmp_path / "inner")
        assert commit() == "", "a library that lies in a checkout of something else"
        monkeypatch.setattr(provenance, "ROOT", tmp_path)
        (tmp_path / "lib" / "m.py").write_text("X = 2\n")
        assert commit() == clean + "+"
        index = tmp_path / ".git" / "index"
        (tmp_path / "lib" / "m.py").write_text("X = 1\n")  # as committed, but for its time
        before = index.read_bytes()
        assert commit() == clean and index.read_bytes() == before, "reading writes nothing"
        monkeypatch.setenv("PATH", "")
        assert commit() == "", "no git"
    finally:
        provenance.commit.cache_clear()
