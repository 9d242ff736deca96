"""What is typed or damaged, through every entrance: one sentence, and nothing is written over."""

import hashlib
import os
import subprocess
import sys

import pytest
from conftest import load_tool
from small_experiment import experiment
from test_parameters import Lists, names  # noqa: F401

from lib import notebook, registry
from lib.cascade.dataset import wikitext_windows
from lib.character.experiments.e03_iterative_refinement import E03
from lib.parameters import ParameterError, no_folder, typed
from lib.refusals import told
from lib.results import store
from lib.results.schema import SchemaError
from lib.runs import devices, fetch, files
from lib.runs.places import ROOT, cache_folder, kept_folder
from lib.text import corpus as corpora
from lib.text.corpus import CorpusUnavailable, load_corpus
from lib.text.instructions import load_instructions

Exp03 = E03.parameters
NUMBER, ABOVE = "allowed: a whole number at least", "allowed: a finite number above 0, at most 1"

PARAMETERS = [
    ({"sedes": 3}, "unknown parameter 'sedes'; did you mean 'seeds'? Allowed: corpus"),
    ({"wholly_unknown": 3}, "unknown parameter 'wholly_unknown'. Allowed: corpus"),
    ({"Seeds": 3}, "unknown parameter 'Seeds'; did you mean 'seeds'?"),
    ({"learning_rate": "1e-3"}, "of type str; allowed: a value of type float, such as 0.001"),
    ({"learning_rate": float("nan")}, f"'learning_rate' is nan; {ABOVE}"),
    ({"learning_rate": float("inf")}, f"'learning_rate' is inf; {ABOVE}"),
    ({"learning_rate": 0.0}, f"'learning_rate' is 0.0; {ABOVE}"),
    ({"learning_rate": -1e-3}, f"'learning_rate' is -0.001; {ABOVE}"),
    ({"learning_rate": 1.5}, f"'learning_rate' is 1.5; {ABOVE}"),
    ({"learning_rate": None}, "'learning_rate' is None, of type NoneType; allowed"),
    ({"learning_rate": True}, "'learning_rate' is True, of type bool; allowed"),
    ({"learning_rate": [1e-3]}, "'learning_rate' is [0.001], of type list; allowed"),
    ({"workers": "false"}, "'workers' is 'false', of type str; allowed: a value of type int"),
    ({"workers": 0}, f"'workers' is 0; {NUMBER} 1, at most 64"),
    ({"workers": 65}, f"'workers' is 65; {NUMBER} 1, at most 64"),
    ({"epochs": True}, "'epochs' is True, of type bool; allowed: a value of type int"),
    ({"epochs": 10**9}, f"'epochs' is 1000000000; {NUMBER} 1, at most 10000"),
    ({"seeds": 2.0}, "'seeds' is 2.0, of type float; allowed: a value of type int"),
    ({"seeds": "[1,2]"}, "'seeds' is '[1,2]', of type str"),
    ({"seeds": {"a": 1}}, "'seeds' is {'a': 1}, of type dict"),
    ({"seeds": ""}, "'seeds' is '', of type str"),
    ({"train_chars": -5}, f"'train_chars' is -5; {NUMBER} 100"),
    ({"patience": 0}, f"'patience' is 0; {NUMBER} 1"),
    ({"corpus": "wikitext"}, "'corpus' is 'wikitext'; allowed: auto, wikipedia, wikitext-2"),
    ({"corpus": ""}, "'corpus' is ''; allowed: auto"),
    ({"corpus": 3}, "'corpus' is 3, of type int; allowed: a value of type str"),
    ({"data_dir": "no/such"}, "'data_dir' is 'no/such'; there is no such folder"),
    (
        {"data_dir": str(ROOT / "Makefile")},
        "there is no such folder; allowed: a folder that exists",
    ),
    ({"device": "tpu"}, "'device' is 'tpu'; allowed: auto, cpu, cuda"),
    ({"engine": "cloud"}, "'engine' is 'cloud'; allowed: local, dask, slurm"),
]
LISTS = [
    ({"depths": "1,2,"}, "'depths' is '1,2,'; allowed: numbers parted by commas, such as '1,2,3'"),
    ({"depths": ""}, "allowed: numbers parted by commas"),
    ({"depths": "1;2"}, "allowed: numbers parted by commas"),
    ({"depths": "1,1"}, "allowed: each number once"),
    ({"depths": "0,1"}, f"{NUMBER} 1, at most 9"),
    ({"depths": "1,10"}, f"{NUMBER} 1, at most 9"),
    ({"depths": "1.5"}, "allowed: numbers parted by commas"),
    ({"depths": [1, 2]}, "'depths' is [1, 2], of type list"),
    ({"rates": "0.0,0.1"}, "allowed: a finite number above 0, at most 1"),
    ({"rates": "nan"}, "allowed: a finite number above 0, at most 1"),
    ({"rates": "0.1,0.10"}, "allowed: each number once"),
    ({"rates": "1e-1,2"}, "allowed: a finite number above 0, at most 1"),
    ({"beside": "0.1,-0.1"}, "allowed: a finite number at least 0"),
    ({"shuffle": 1}, "'shuffle' is 1, of type int; allowed: a value of type bool"),
    ({"shuffle": "yes"}, "'shuffle' is 'yes', of type str"),
    ({"note": 5}, "'note' is 5, of type int"),
    ({"scale": 0.4}, "'scale' is 0.4; allowed: a finite number at least 0.5, at most 2"),
]


EMBEDDED = {"corpus": "embedded"}
TOGETHER = [
    ("05", {"train_chars": 1_034}, "'train_chars' is 1034; allowed: at least 1035, one batch"),
    ("05", {"valid_chars": 1_024}, "'valid_chars' is 1024; allowed: at least 1025, one batch"),
    ("12", {"hard_ratio": 0.4}, "'hard_ratio' is 0.4; allowed: below 1/3"),
    ("12", {"hard_ratio": 0.02}, "'hard_ratio' 0.02 of 'train_windows' 20 give 51 tokens"),
    ("12", {"natural_windows": 5}, "'natural_windows' is 5; allowed: at most 'valid_windows', 4"),
    ("13", {"tokens": 298}, "'tokens' is 298; allowed: at most 297, as many as 'hard_ratio' 0.116"),
    ("13", {"text_windows": 21}, "'text_windows' is 21; allowed: at most 'train_windows', 20"),
    ("14", {"arrangement": "packed", "train_tokens": 127}, "give 127 tokens; allowed: at least"),
    ("15", {"train_tokens": 10}, "and 'train_tokens' 10 give 10 tokens; allowed: at least 128"),
    ("15", {"served_windows": 9}, "'served_windows' is 9; allowed: at most 'test_windows', 8"),
    ("16", {"batch": 600}, "'batch' is 600; allowed: below tokens (600)"),
    ("16", {"vocabulary_tokens": 599}, "'vocabulary_tokens' is 599; allowed: 0, or at least"),
    ("16", {"wide_tokens": 1}, "'wide_tokens' is 1; allowed: 0, or at least 100"),
    ("16", {"width": 1}, "'width' is 1; allowed: 0"),
    ("16", {"base": " "}, "'base' is ' '; allowed: a name"),
    ("16", {"width": 33, **EMBEDDED}, "'width' is 33; allowed: at most 32, as the table of tiny"),
    (
        "17",
        {"depths": "1,64"},
        "'depths' is '1,64'; allowed: a whole number at least 1, at most 12",
    ),
    ("18", {"batch": 150}, "'batch' is 150; allowed: below the smallest of 'text_sizes', 150"),
    ("18", {"text_sizes": "150,300,700"}, "must equal tokens (600)"),
    ("19", {"depths": "1,3,4"}, "'depths' is '1,3,4'; allowed: some of 1, 2, 4"),
    ("19", {"depths": "1,2"}, "differ in number"),
    ("19", {"rate": 0.3}, "'rate' is 0.3; allowed: one of 'rates', 0.1,0.25,0.5,1.0"),
    ("19", {"rate": 1.0}, "a joint gate learns at a rate below 1"),
    ("19", {"baseline_layers": 2}, "behind an adapter of at least 3 layers"),
    ("19", {"text_windows": 21}, "'text_windows' is 21; allowed: at most 'train_windows', 20"),
    ("19", {"study_windows": 21}, "'study_windows' is 21; allowed: at most 'train_windows', 20"),
    ("19", {"stopping_windows": 3}, "allowed: at most 0.5 times 'valid_windows', 2"),
    ("19", {"scored_windows": 9}, "'scored_windows' is 9; allowed: at most 'test_windows', 8"),
    ("19", {"layers": 4}, "'layers' is 4; allowed: at most 'baseline_layers', 3"),
    ("19", {"layers": 2}, "'layers' 2 (up to 4 times) and 'baseline_layers' 3 are layers of the"),
    ("19", {"baseline_layers": 5}, "'baseline_layers' 5 are layers of the base; allowed: at most"),
    ("21", {"test_tokens": 1_023}, "'test_tokens' is 1023; allowed: a whole number at least 1024"),
    ("23", {"apart": 1_099}, "'apart' is 1099; allowed: at least train_chars, 1100"),
]


@pytest.mark.parametrize(("number", "given", "sentence"), TOGETHER, ids=lambda x: str(x)[:40])
def test_parameters_that_do_not_go_together(number, given, sentence):
    """Each is named before anything is trained; some need the base or the text to be known."""
    slug = next(slug for slug in registry.module_names() if slug.startswith(number))
    schema = registry.experiment(slug).parameters
    with pytest.raises(ParameterError) as refusal:
        schema.checked({**schema.TINY, **given}).texts()
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("slug", list(registry.module_names()))
def test_every_size_goes_together(slug):
    schema = registry.experiment(slug).parameters
    assert [schema.at(size).size for size in schema.sizes()] == list(schema.sizes())


@pytest.mark.parametrize(("given", "sentence"), PARAMETERS + LISTS, ids=lambda x: str(x)[:40])
def test_parameters(given, sentence):
    schema = Exp03 if (given, sentence) in PARAMETERS else Lists
    with pytest.raises(ParameterError) as refusal:
        schema.checked(given)
    said = str(refusal.value)
    assert sentence in said and "\n" not in said and said.endswith(".") and len(said) < 300


@pytest.mark.parametrize(("given", "sentence"), PARAMETERS[::4], ids=lambda x: str(x)[:40])
def test_the_same_sentence_in_a_notebook(given, sentence, names):  # noqa: F811
    notebook.begin(names)
    with pytest.raises(ParameterError) as refusal:
        notebook.configure(E03, {**names, **given})
    assert sentence in str(refusal.value)


def test_a_data_folder_of_the_environment_that_is_none(names, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DEPTH_DATA", "no/such")
    notebook.begin(names)
    with pytest.raises(ParameterError, match="DEPTH_DATA is 'no/such'; there is no such folder"):
        notebook.configure(E03, names)


def test_values_that_were_typed_are_refused_in_one_sentence(monkeypatch):
    assert typed("{[]:1}") == "{[]:1}"
    assert no_folder("x" * 300).startswith("there is no such folder")
    with pytest.raises(ParameterError, match="allowed: a whole number at least 1, at most 9"):
        Lists.checked({"depths": "1" + 400 * "0"})
    monkeypatch.setenv("DEPTH_CORES", "abc")
    with pytest.raises(ValueError, match="DEPTH_CORES is 'abc'; allowed: a whole number of at le"):
        devices.environment(2)


def test_a_home_folder_that_is_not_known(monkeypatch):
    def nobody(_):
        raise KeyError

    said = r"^~\S* begins in a home folder that is not known; allowed: a path without ~"
    monkeypatch.setenv("DEPTH_KEEP", "~nobody-of-this-name/kept")
    with pytest.raises(SystemExit, match=said), told():
        kept_folder()
    assert no_folder("~nobody-of-this-name/text").startswith("there is no such folder")
    # a container may run as a user who has neither name nor home
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("DEPTH_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(SystemExit, match=said), told():
        cache_folder()


GOOD = "".join(f"sentence {i} .\n" for i in range(12_000))
NO_TEXT = "is no text in UTF-8: found"
TEXTS = {
    "UTF-16": (GOOD[:9_000].encode("utf-16"), f"validation.txt {NO_TEXT} UTF-16"),
    "UTF-16 without a mark": (GOOD[:9_000].encode("utf-16-le"), f"{NO_TEXT} a zero byte at 1,"),
    "Latin-1": (("é" + GOOD).encode("latin-1"), f"{NO_TEXT} the byte 0xe9 at 0, as in Latin-1"),
    "binary": (bytes(range(256)) * 40, f"{NO_TEXT} a zero byte at 0, as in binary data"),
    "gzip": (b"\x1f\x8b\x08" + b"x" * 9_000, f"{NO_TEXT} a gzip archive"),
    "zip": (b"PK\x03\x04" + b"x" * 9_000, f"{NO_TEXT} a zip archive"),
    "empty": (b"", "validation.txt is empty; expected text in UTF-8"),
    "blank": (b"\n \n", "validation.txt is empty; expected text in UTF-8"),
    "one symbol": (b"a" * 200_000, "validation.txt holds one symbol only"),
    "another text": (b"another " * 30_000, "this is not WikiText-2: the first 5,000 characters"),
    "too short": (GOOD[:3_000].encode(), "this is not WikiText-2"),
    "a truncated letter": (GOOD.encode() + b"\xc3", f"{NO_TEXT} the byte 0xc3 at "),
}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder in the place of WikiText-2, whose expected hash is that of the good text."""
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")
    digest = hashlib.sha256(GOOD[:5_000].encode()).hexdigest()
    monkeypatch.setattr(corpora, "VALID_SHA256", digest)
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    (folder / "train.txt").write_text(GOOD)
    (folder / "validation.txt").write_text(GOOD)
    return folder


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind, shelf):
    content, sentence = TEXTS[kind]
    (shelf / "validation.txt").write_bytes(content)
    with pytest.raises(CorpusUnavailable) as refusal:
        load_corpus("wikitext-2", str(shelf.parent), 1_000, 1_000, 1_000)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    assert (shelf / "validation.txt").read_bytes() == content


def test_a_training_text_of_other_letters_is_refused(shelf):
    (shelf / "train.txt").write_text("書き言葉 " * 2_000)
    with pytest.raises(
        CorpusUnavailable, match="800 of the 1,000 training characters of wikitext-2"
    ):
        load_corpus("wikitext-2", str(shelf), 1_000, 1_000, 1_000)


def test_windows_of_wikitext_name_a_file_that_is_no_text(shelf):
    (shelf / "test.txt").write_bytes(("é" + GOOD).encode("latin-1"))
    with pytest.raises(CorpusUnavailable, match=r"test\.txt is no text in UTF-8: found the byte"):
        wikitext_windows(None, 10, str(shelf))


def test_what_is_unusual_about_a_text_is_said_aloud(shelf, capsys):
    (shelf / "train.txt").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    corpus = load_corpus("wikitext-2", str(shelf), 1_000, 1_000, 1_000)
    said = capsys.readouterr().out
    assert "train.txt begins with a byte order mark, which is left out" in said
    assert "train.txt has Windows line ends" in said and corpus.train.startswith("sentence 0 .\r\n")


def test_folders_without_the_text(shelf, tmp_path, monkeypatch):
    (shelf / "validation.txt").unlink()
    with pytest.raises(CorpusUnavailable, match="holds no validation and train or test file"):
        load_corpus("wikitext-2", str(shelf), 1_000, 1_000, 1_000)
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path))
    with pytest.raises(CorpusUnavailable, match="DEPTH_DATA holds no such text, and "):
        load_corpus("wikitext-2", "", 1_000, 1_000, 1_000)
    for name, sizes, sentence in [
        ("embedded", (10**7, 100, 100), "train_chars is 10,000,000; at most"),
        ("embedded", (100, 10**7, 100), "valid_chars is 10,000,000; at most"),
        ("embedded", (100, 100, 10**7), "test_chars is 10,000,000; at most"),
        ("repeated", (40, 100, 0), "at least 45 train"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            load_corpus(name, "", *sizes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"instruction": "A"', "some.json is no JSON: "),
        (b"", "some.json is empty"),
        (b'{"instruction": "A"}', "some.json holds no list of records but a dict"),
        (
            b'[{"instruction": "A", "output": "B"}, {"instruction": "A"}]',
            "row 1 of some.json lacks an instruction or an output",
        ),
        (b'["A"]', "row 0 of some.json lacks an instruction"),
        (b'[{"instruction": "A", "output": 3}]', "row 0 of some.json lacks an instruction"),
        (b'[{"instruction": "", "output": "B"}]', "row 0 of some.json lacks an instruction"),
        ('[{"instruction": "é"}]'.encode("latin-1"), "the byte 0xe9"),
        (b"[" * 5 + b"\0", "some.json is no text in UTF-8: found a zero byte"),
    ],
)
def test_instruction_records(content, sentence, tmp_path):
    (tmp_path / "alpaca").mkdir()
    (tmp_path / "alpaca" / "some.json").write_bytes(content)
    for source in ("local", "auto"):  # what is damaged is not fetched from the hub instead
        with pytest.raises(fetch.Refused) as refusal:
            load_instructions(source, str(tmp_path))
        assert sentence in str(refusal.value)


def half(text: str) -> str:
    return text[: len(text) - 20]


TABLES = {
    "half a line": (half, "98_small.csv ends in the middle of a line"),
    "no column": (lambda t: t.replace("run_id", "id", 1), "98_small.csv has no column run_id"),
    "another header": (lambda t: "a,b\n1,2\n", "98_small.csv has no column variant"),
    "empty": (lambda t: "", "98_small.csv ends in the middle of a line"),
    "blank": (lambda t: "\n", "98_small.csv is no table of results"),
    "more cells": (lambda t: t + "1," * 60 + "\n", "98_small.csv is no table of results"),
    "a short row": (lambda t: t + "exp98\n", "98_small.csv has a row without variant"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_committed_tables(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path))
    monkeypatch.setattr(store, "TABLES", tmp_path / "results")
    e = experiment()
    store.publish(e.run(e.parameters(seeds=3)))
    path = tmp_path / "results" / "98_small.csv"
    damage, sentence = TABLES[kind]
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=sentence):
        store.committed("98_small")
    with pytest.raises(SchemaError, match=sentence):
        store.publish(e.run(e.parameters(seeds=3)))
    assert path.read_bytes() == before, "a damaged table is not written over"


def test_a_damaged_set_is_named_and_the_others_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path))
    e = experiment()
    one, other = (e.run(e.parameters(seeds=s)).folder for s in (1, 2))
    for damaged in ('{"experiment": ', "{}", "[]"):
        (one / "set.json").write_text(damaged)
        assert [about["folder"] for about in store.all_sets()] == [other]
        said = capsys.readouterr().out
        assert "set.json is not what was written; run its experiment again" in said
    with pytest.raises(files.Damaged, match="set.json"):
        store.load_set(one)
    assert len(e.run(e.parameters(seeds=1))()) == 2 and len(store.all_sets()) == 2


def test_a_damaged_table_of_a_set_hides_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path))
    e = experiment()
    one, other = (e.run(e.parameters(seeds=s)).folder for s in (1, 2))
    path = one / "98_small.csv"
    path.write_text(half(path.read_text()))
    monkeypatch.setattr(registry, "has", lambda slug: True)
    monkeypatch.setattr(registry, "experiment", lambda slug: e)
    capsys.readouterr()
    load_tool("results").table("")
    said = capsys.readouterr().out
    assert "98_small.csv ends in the middle of a line; run its experiment again" in said
    assert one.name in said and other.name in said and said.count("test_ppl") == 1


COMMANDS = [
    ("NB=99", "NB names no notebook: allowed are 00 01 02 "),
    ("NB=50", "NB names no notebook: allowed are 00 01 02 "),
    ("NB=abc", "NB names no notebook"),
    ("NB=03 04", "NB is a list parted by commas without blanks"),
    ("NB=3,,99", "NB names no notebook"),
    ("NB=../x", "NB names no notebook"),
    ("NB=$(shell touch x)", "NB"),
    ("NB=`touch x`", "NB"),
    ("NB=03;touch x", "NB"),
    ("NB=*", "NB names no notebook"),
    ("SIZE=huge", "SIZE is none of the sizes: allowed are full large third tenth small quick tiny"),
    ("SIZE=$(shell touch x)", "SIZE is none of the sizes"),
    ("SIZE=full;touch x", "SIZE is none of the sizes"),
    ("SIZE=full tiny", "SIZE is none of the sizes"),
    ("NB=,", "NB names no notebook"),
    ("SIZE=tiny", "SIZE is not of run: it is of reproduce verify outstanding table"),
    ("SEEDS=1", "SEEDS is not of run: it is of outstanding"),
    ("RECORD=1", "RECORD is not of run: it is of verify"),
    ("RECORD=0", "RECORD is neither 1 nor left out"),
    ("RECORD=$(shell touch x)", "RECORD is neither 1 nor left out"),
]


@pytest.mark.parametrize(("argument", "sentence"), COMMANDS)
def test_make(argument, sentence, tmp_path):
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-C", str(ROOT), "run", argument]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()
    assert done.returncode and done.stdout.count("notebooks.py") == 0
    assert any(sentence in line and "Stop." in line for line in last[-2:]), done.stderr
    assert not (ROOT / "x").exists() and not (tmp_path / "x").exists()


TOOLS = [
    (["--only", "99"], "no experiment 99; allowed: 00, 01"),
    (["--only", "03", "-p", "sedes", "3"], "unknown parameter 'sedes'; did you mean 'seeds'?"),
    (["--only", "03", "--size", "third"], "03_iterative_refinement has no size 'third'; allowed"),
    (["--only", "03", "-p", "device", "cuda"], "device 'cuda' is not on this machine"),
    (["--only", "03", "-p", "corpus", "embedded"], "test_chars is 20,000; at most"),
    (["--only", "03", "--size", "huge"], "invalid choice: 'huge'"),
    (["--only", "03", "-p", "learning_rate", "nan"], "'learning_rate' is nan; allowed: a finite"),
    (["--only", "17", "-p", "depths", "1,64"], "'depths' is '1,64'; allowed: a whole number at"),
    (["--only", "03", "--variants", "irt,mine"], "no variant mine; allowed: standard, irt, hrm"),
    (["--only", "03,12", "--variants", "irt"], "12_two_layer_stage has no variant irt; allowed"),
    (["--only", "03", "--seeds", "2,x"], "--seeds has 'x'; allowed: whole numbers, such as 2,3"),
    (["--only", "00", "--size", "tiny", "--seeds", "7"], "has no seed 7 with these parameters"),
    (["--only", "03", "--size", "tiny", "--publish"], "size tiny is not published; allowed:"),
    (["--only", "03", "-p", "seeds", "3", "--publish"], "size custom is not published; allowed:"),
    (["--only", "19", "--size", "tiny", "-p", "base", "nowhere"], "base source 'nowhere' is not"),
    (
        ["--only", "12", "--size", "tiny", "-p", "train_windows", "9999"],
        "; 9999 were asked for",
    ),
    (
        ["--only", "20", "--size", "tiny", "-p", "train_tokens", "99999"],
        "a smaller train_tokens",
    ),
]


@pytest.mark.parametrize("name", ["colab", "lock", "new_experiment"])
def test_a_tool_that_is_asked_what_it_does_does_nothing(name, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), "--help"]
    given = {**os.environ, "NAME": "never_made", "STUDY": "depth", "PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=120)
    assert not done.returncode and done.stdout.startswith("usage: "), done.stderr
    assert not [*ROOT.glob("lib/depth/experiments/e*never_made.py")]


OTHERS = [
    ("tools/golden.py", ["check", "--only", "99"], "no experiment 99; allowed: 00, 01"),
    ("tools/golden.py", ["write", "--only", "abc"], "no experiment abc; allowed: 00, 01"),
    ("tools/results.py", ["table", "--size", "huge"], "invalid choice: 'huge'"),
    ("tools/results.py", ["claims", "--record"], "--record is of verify; claims records nothing"),
    ("tools/results.py", ["verify", "--only", "zz"], "no experiment zz; allowed: 00, 01"),
    ("tools/notebooks.py", ["run", "--only", "99"], "no notebook 99; allowed: 00, 01"),
    ("tools/notebooks.py", ["run", "--parallel", "0"], "--parallel is 0; allowed: a whole number"),
    ("tools/notebooks.py", ["run", "--only", "03", "--size", "third"], "has no size 'third'"),
    ("tools/bench_sweep.py", ["--runs", "0"], "--runs is 0; allowed: a whole number at least 100"),
    ("tests/kill_test.py", ["--only", "99"], "no experiment 99; allowed: 00, 01"),
    ("tests/kill_test.py", ["--kills", "0"], "--kills is 0; allowed: a whole number at least 1"),
]


def test_every_tool_refuses_in_one_sentence():
    """In one process, because each takes seconds to start: what it leaves on the screen."""
    calls = [("tools/experiments.py", ["run", *arguments], said) for arguments, said in TOOLS]
    code = f"""
import contextlib, io, runpy, sys
sys.path[:0] = [{str(ROOT / "tools")!r}, {str(ROOT / "tests")!r}]
for tool, arguments, sentence in {[*calls, *OTHERS]!r}:
    sys.argv = [tool, *arguments]
    out, screen = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(out):
            runpy.run_path(f"{ROOT}/{{tool}}", run_name="__main__")
        left = 0
    except SystemExit as end:
        left = end.code
    if isinstance(left, str):
        print(left, file=screen)
    last = screen.getvalue().strip().splitlines()[-1:]
    begun = tool != "tools/experiments.py" and out.getvalue()  # which names what it begins
    if not left or sentence not in " ".join(last) or begun:
        print("WRONG", tool, arguments, left, screen.getvalue(), out.getvalue())
"""
    given = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr[-500:]
