"""One check behind four doors: hand edit, Colab form, papermill, nbmake mock."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lib import notebook
from lib.experiments import registry
from lib.character.experiments.e03_iterative_refinement import Exp03
from lib.parameters import ParameterError

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "notebooks" / "03_iterative_refinement.ipynb"

BAD = [
    ({"sedes": 3}, "unknown parameter 'sedes'; did you mean 'seeds'"),
    ({"wholly_unknown": 3}, "unknown parameter 'wholly_unknown'. Allowed: corpus"),
    ({"learning_rate": "1e-3"}, "'learning_rate' is '1e-3', of type str; allowed: .* type float"),
    ({"learning_rate": float("nan")}, "'learning_rate' is nan; allowed: a finite number above 0"),
    ({"learning_rate": 0.0}, "'learning_rate' is 0.0; allowed: a finite number above 0"),
    ({"workers": "false"}, "'workers' is 'false', of type str; allowed: .* type int"),
    ({"epochs": True}, "'epochs' is True, of type bool; allowed: .* type int"),
    ({"seeds": 2.0}, "'seeds' is 2.0, of type float"),
    ({"seeds": "[1,2]"}, "'seeds' is '\\[1,2\\]', of type str"),
    ({"train_chars": -5}, "'train_chars' is -5; allowed: a whole number at least 100"),
    ({"corpus": "wikitext"}, "'corpus' is 'wikitext'; allowed: auto, wikitext-2, python-docs"),
    ({"data_dir": "no/such"}, "'data_dir' is 'no/such'; there is no such folder"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_a_hand_edit_or_form_is_stopped(given, sentence):
    notebook._known.clear()
    with pytest.raises(ParameterError, match=sentence):
        notebook.configure(Exp03, dict(given))


def test_good_values_pass_and_whole_numbers_widen():
    run = Exp03.checked({"learning_rate": 1, "seeds": 3})
    assert run.learning_rate == 1.0 and isinstance(run.learning_rate, float)
    assert run.seeds == 3 and run.size == "custom"


def test_folders_that_exist_pass_and_a_wrong_environment_does_not(tmp_path, monkeypatch):
    notebook._known.clear()
    monkeypatch.delenv("DEPTH_DATA", raising=False)
    for given in ("", str(tmp_path), "~"):
        assert notebook.configure(Exp03, {"data_dir": given}).data_dir == given
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path))
    notebook.configure(Exp03, {})
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path / "absent"))
    with pytest.raises(ParameterError, match="DEPTH_DATA is '.*absent'; there is no such folder"):
        notebook.configure(Exp03, {})


def test_every_experiment_checks_its_folder():
    for module in registry.modules().values():
        with pytest.raises(ParameterError, match="there is no such folder"):
            module.PARAMETERS.checked({"data_dir": "no/such"})


def test_names_from_before_the_parameters_cell_do_not_count():
    names = {"ROOT": 1}
    notebook.begin(names)
    names.update(seeds=2, _private=5, module=json)
    assert notebook.configure(Exp03, names).seeds == 2


def test_a_parameter_with_the_name_of_something_there_before_is_refused():
    names = {"here": Path.cwd(), "exit": object()}
    for name in list(names):
        notebook.begin(names)
        before, names[name] = names[name], 5
        with pytest.raises(ParameterError, match=f"unknown parameter '{name}'"):
            notebook.configure(Exp03, names)
        names[name] = before  # the first cell runs again
        notebook.begin(names)
        notebook.configure(Exp03, names)
    names["label"] = "left by a loop of a later cell"
    notebook.begin(names)  # "run all" again, after which that cell runs as well
    names["label"] = "another"
    notebook.configure(Exp03, names)
    notebook._refused.clear()


def test_a_library_without_its_repository_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        notebook.begin({})


def test_a_second_run_in_the_same_kernel_is_checked_like_the_first():
    names = {"ROOT": 1}
    notebook.begin(names)
    names.update(seeds=2)
    assert notebook.configure(Exp03, names).seeds == 2
    names.update(run=Exp03(), results=object())  # later cells define these
    assert notebook.configure(Exp03, names).seeds == 2
    notebook.begin(names)  # "run all" again
    names.update(seeds=4)
    assert notebook.configure(Exp03, names).seeds == 4
    names.update(sedes=3)
    for _ in range(2):
        with pytest.raises(ParameterError, match="sedes"):
            notebook.configure(Exp03, names)
        notebook.begin(names)
    notebook._refused.clear()


def test_lists_take_every_way_to_write_a_number():
    variants = registry.modules()["19_cascade_that_works"].PARAMETERS
    written = variants.checked({"study_rates": "1e-4,0.001, 1"})
    assert written.numbers("study_rates") == [1e-4, 1e-3, 1.0]
    assert all(isinstance(depth, int) for depth in written.numbers("depths"))


@pytest.mark.parametrize(
    ("slug", "given", "sentence"),
    [
        ("19_cascade_that_works", {"study_rates": "0.0,0.1"}, "a finite number above 0"),
        ("19_cascade_that_works", {"all_learning_rates": "0,0.1"}, "a finite number above 0"),
        ("19_cascade_that_works", {"rates": "0.1,0.10"}, "allowed: each number once"),
        ("19_cascade_that_works", {"depths": "1,2,"}, "numbers parted by commas"),
        ("11_lpt_routing", {"scales": "20000,20000"}, "allowed: each number once"),
        ("18_scaling", {"sizes": "2000,-4000"}, "a whole number at least 50"),
    ],
)
def test_lists_are_checked_number_by_number(slug, given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        registry.modules()[slug].PARAMETERS.checked(given)


def test_a_list_beside_another_may_repeat_itself():
    schema = registry.modules()["19_cascade_that_works"].PARAMETERS
    assert schema.checked({"all_learning_rates": "0.001,0.001"})


def test_sizes_are_named_by_their_values_and_places_do_not_count():
    for size in ("full", "quick", "tiny"):
        assert Exp03.at(size).size == size
    assert Exp03(workers=1, corpus="repeated", data_dir="elsewhere").size == "full"
    assert Exp03(seeds=3).size == "custom"


@pytest.mark.parametrize("slug", list(registry.modules()))
def test_every_size_of_every_experiment_is_valid(slug):
    schema = registry.modules()[slug].PARAMETERS
    assert {schema.at(size).size for size in ("full", "quick", "tiny")} == {"full", "quick", "tiny"}


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (["-p", "sedes", "3"], "unknown parameter 'sedes'"),
        (["-y", "{learning_rate: 1e-3}"], "'learning_rate' is '1e-3'"),
        (["-p", "workers", "false"], "'workers' is"),
        (["-p", "train_chars", "-5"], "'train_chars' is -5; allowed: a whole number at least 100"),
        (["-p", "corpus", "wikitext"], "'corpus' is 'wikitext'; allowed: auto, wikitext-2"),
        (["-p", "here", "5"], "unknown parameter 'here'"),
        (["-p", "data_dir", "no/such"], "'data_dir' is 'no/such'; there is no such folder"),
    ],
)
def test_papermill_is_stopped_before_training(argument, sentence, tmp_path):
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(BOOK), str(out), "-k", "python3", *argument]
    done = subprocess.run(
        [*command, "--cwd", str(BOOK.parent)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    book = nbformat.read(out, as_version=4)
    errors = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert [error.ename for error in errors] == ["ParameterError"]
    assert sentence in errors[0].evalue
    trained = [c for c in book.cells if c.cell_type == "code" and "experiment.run" in c.source]
    assert trained and all(cell.execution_count is None for cell in trained)


def test_a_bad_mock_is_stopped(tmp_path):
    book = nbformat.read(BOOK, as_version=4)
    cell = next(c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    cell.metadata["nbmake"]["mock"] = {"seeds": 1, "epoches": 1}
    folder = ROOT / "scratch" / tmp_path.name  # inside the repository, so that lib is found
    folder.mkdir(parents=True)
    try:
        nbformat.write(book, folder / "bad.ipynb")
        command = [sys.executable, "-m", "pytest", "-q", "--nbmake", str(folder / "bad.ipynb")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    finally:
        (folder / "bad.ipynb").unlink()
        folder.rmdir()
    assert done.returncode != 0
    assert "unknown parameter 'epoches'; did you mean 'epochs'" in done.stdout
