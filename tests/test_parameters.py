"""How parameters are declared and read; what they refuse is in ``test_bad_input``."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib import notebook
from lib.character.experiments.e03_iterative_refinement import E03
from lib.parameters import ParameterError, Parameters, real, reals, switch, whole, wholes, words

Exp03 = E03.parameters


class Lists(Parameters):
    """Kinds of parameters that Experiment 3 has not."""

    depths: str = wholes("1,3,6", 1, 9)
    rates: str = reals("0.5,0.8", 0.0, 1.0, above=True)
    beside: str = reals("0.1,0.1", 0.0, repeats=True)
    shuffle: bool = switch(True)
    note: str = words("")
    scale: float = real(1.0, 0.5, 2.0)
    steps: int = whole(4, 0)

    QUICK = {"steps": 2}
    TINY = {"steps": 1}
    LADDER = {"third": {"steps": 3}}


def test_good_values_pass_and_whole_numbers_widen():
    run = Exp03.checked({"learning_rate": 1, "seeds": 3})
    assert run.learning_rate == 1.0 and isinstance(run.learning_rate, float)
    assert run.seeds == 3 and run.size == "custom"
    assert run.changed(seeds=10, learning_rate=1e-3) == Exp03()
    with pytest.raises(ParameterError, match="'seeds' is 0"):
        run.changed(seeds=0)


def test_lists_take_every_way_to_write_a_number():
    run = Lists.checked({"rates": "1e-4,0.001, 1", "depths": "9, 1"})
    assert run.numbers("rates") == [1e-4, 1e-3, 1.0]
    assert run.numbers("depths") == [9, 1] and run.numbers("beside") == [0.1, 0.1]
    assert all(isinstance(depth, int) for depth in run.numbers("depths"))


def test_sizes_are_named_by_their_values_and_places_do_not_count(tmp_path):
    assert Exp03.sizes() == ("full", "quick", "tiny")
    assert Lists.sizes() == ("full", "third", "quick", "tiny")
    for schema in (Exp03, Lists):
        assert [schema.at(size).size for size in schema.sizes()] == list(schema.sizes())
    moved = {"workers": 1, "corpus": "repeated", "data_dir": str(tmp_path), "device": "cpu"}
    assert Exp03(**moved).size == "full" and Exp03(seeds=3).size == "custom"
    with pytest.raises(KeyError):
        Exp03.at("third")


def test_parameters_cannot_be_changed_behind_their_check():
    with pytest.raises(ValueError, match="frozen"):
        Exp03().seeds = -1


@pytest.fixture
def names():
    """A notebook's names; what ``begin`` and ``configure`` remember is forgotten afterwards."""

    def forget():
        for held in (notebook._known, notebook._refused, notebook._reserved, notebook._space):
            held.clear()

    forget()
    yield {"ROOT": 1}
    forget()


def test_names_from_before_the_parameters_cell_do_not_count(names, capsys):
    notebook.begin(names)
    names.update(seeds=2, _private=5, module=json, corpus="embedded")
    assert notebook.configure(E03, names).seeds == 2
    said = capsys.readouterr().out
    assert said.startswith("size: custom\n") and "  seeds            2\n" in said
    assert "device cpu" in said


def test_a_notebook_that_shows_committed_rows_has_their_size(names, capsys, monkeypatch):
    e = dataclasses.replace(E03, parameters=Lists)
    monkeypatch.setenv("DEPTH_SHOW", "committed")
    for held, expected in (([], "full"), (["third"], "third"), (["third", "full"], "full")):
        monkeypatch.setattr(notebook.store, "has_committed", lambda slug, held=held: bool(held))
        found = SimpleNamespace(sizes=held)
        monkeypatch.setattr(notebook.store, "committed", lambda slug, found=found: found)
        notebook.begin(names)
        assert notebook.configure(e, names).size == expected
        assert capsys.readouterr().out.startswith(f"size: {expected}\n")


def test_a_parameter_with_the_name_of_something_there_before_is_refused(names):
    names.update(here=Path.cwd(), exit=object())
    for name in ("here", "exit"):
        notebook.begin(names)
        before, names[name] = names[name], 5
        with pytest.raises(ParameterError, match=f"unknown parameter '{name}'"):
            notebook.configure(E03, names)
        names[name] = before  # the first cell runs again
        notebook.begin(names)
        notebook.configure(E03, names)
    names["label"] = "left by a loop of a later cell"
    notebook.begin(names)  # "run all" again, after which that cell runs as well
    names["label"] = "another"
    notebook.configure(E03, names)


def test_a_second_run_in_the_same_kernel_is_checked_like_the_first(names, capsys):
    notebook.begin(names)
    names.update(seeds=2)
    assert notebook.configure(E03, names).seeds == 2
    names.update(run=Exp03(), results=object())  # later cells define these
    assert notebook.configure(E03, names).seeds == 2
    notebook.begin(names)  # "run all" again
    names.update(seeds=4)
    assert notebook.configure(E03, names).seeds == 4
    names.update(sedes=3)
    for _ in range(2):
        with pytest.raises(ParameterError, match="sedes"):
            notebook.configure(E03, names)
        notebook.begin(names)
    assert "restart the kernel: the old name still exists" in capsys.readouterr().out


def test_folders_that_exist_pass(names, tmp_path, monkeypatch, capsys):
    notebook.begin(names)
    for given in ("", str(tmp_path), "~"):
        assert notebook.configure(E03, {**names, "data_dir": given}).data_dir == given
    assert str(tmp_path) not in capsys.readouterr().out, "a folder is a fact of the machine"
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path))
    notebook.configure(E03, names)


def test_a_library_without_its_repository_says_so(names, monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        notebook.begin(names)
