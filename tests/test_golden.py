"""Golden numbers: what they catch, and that the kept ones still hold for one experiment."""

import json
import subprocess
import sys
import tomllib

import pytest

from lib import golden
from lib.character.experiments.e03_iterative_refinement import E03
from lib.runs.places import ROOT


def change(numbers: dict, factor: float) -> dict:
    """A copy in which one number is another."""
    copy = json.loads(json.dumps(numbers))
    name = next(name for name in copy if " irt " in name)
    copy[name][""]["val_ppl"][0] *= factor
    return copy


def test_a_number_that_moves_under_an_unchanged_key_is_named():
    kept = golden.kept("03_iterative_refinement")["runs"]
    assert golden.moved("03", kept, kept) == []
    assert golden.moved("03", kept, change(kept, 1 + 1e-4)) == [], "another processor's sums"
    (sentence,) = golden.moved("03", kept, change(kept, 1.01))
    assert "variant irt on embedded, seed 0: row.val_ppl moved from" in sentence
    assert "raise the VERSION" in sentence
    gone = json.loads(json.dumps(kept))
    for run in gone.values():
        run[""].pop("val_ppl", None)
    assert len(golden.moved("03", kept, gone)) == len(kept)
    renamed = {f"x{name}": value for name, value in kept.items()}
    assert golden.moved("03", kept, renamed) == [], "a run with a key of its own is another run"


def test_defaults_may_not_change_under_one_version():
    old = {"Block": {"version": 1, "defaults": {"width": 8, "heads": 2}}}
    new = {"Block": {"version": 1, "defaults": {"width": 9, "heads": 2, "more": 0}}}
    (sentence,) = golden.changed_defaults(old, new)
    assert sentence.startswith("Block.width has the default 9, it was 8: raise the VERSION")
    new["Block"]["version"] = 2
    assert golden.changed_defaults(old, new) == []


def test_the_classes_of_a_configuration_are_all_found():
    found: dict = {}
    parameters = golden.small(E03)
    for task in E03.tasks(parameters, E03.texts(parameters)):
        golden._collect(task.config, found)
    assert {"CharacterRun", "TransformerConfig", "HRMConfig", "Training", "Segments"} <= set(found)
    assert "Corpus" not in found and found["Training"]["defaults"]["clip"] == 1.0


def test_every_defect_that_is_seeded_has_its_place_in_the_library():
    listed = tomllib.loads((golden.FOLDER / "defects.toml").read_text(encoding="utf-8"))["defect"]
    places = {d["why"]: (ROOT / d["file"]).read_text(encoding="utf-8") for d in listed}
    assert {d["why"] for d in listed if places[d["why"]].count(d["old"]) != 1} == set()


def test_numbers_of_times_do_not_count_and_all_others_do():
    import pandas as pd

    frame = pd.DataFrame({"val_ppl": [1.5], "epoch_seconds": [1.0], "steps_speed": [2.0]})
    assert [c for c in frame if golden._counts(frame[c], c)] == ["val_ppl"]


def test_the_kept_numbers_hold():
    """Those of Experiment 3 here; all of them in ``make check``."""
    command = [sys.executable, "tools/golden.py", "check", "--only", "03"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "compared" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert "numbers of 11 runs, 0 complaints" in done.stdout
