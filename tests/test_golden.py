"""Golden numbers: what they catch, and that the kept ones still hold for one experiment."""

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from conftest import load_tool

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
    infinite = change(kept, math.inf)
    assert golden.moved("03", infinite, infinite) == []
    assert len(golden.moved("03", infinite, kept)) == len(golden.moved("03", kept, infinite)) == 1
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


def test_golden_numbers_are_not_kept_over_a_default_that_changed(tmp_path, monkeypatch):
    tool, kept = load_tool("golden"), tmp_path / "declared.json"
    kept.write_text('{"Block": {"version": 1, "defaults": {"width": 8}}}')
    now = {"Block": {"version": 1, "defaults": {"width": 9}}}
    monkeypatch.setattr(tool, "DECLARED", kept)
    monkeypatch.setattr(golden, "declared", lambda: now)
    monkeypatch.setattr(golden, "compute", lambda experiment: pytest.fail("work has begun"))
    monkeypatch.setattr(sys, "argv", ["golden.py", "write", "--only", "03"])
    with patch.dict(os.environ), pytest.raises(SystemExit) as end:
        tool.main()
    assert "Block.width has the default 9, it was 8" in end.value.code
    assert json.loads(kept.read_text()) != now


def test_golden_numbers_use_nothing_that_other_processes_have_kept(monkeypatch, tmp_path):
    """Neither their runs nor their cached states, which may have gone another way to the last
    digit."""
    tool, seen = load_tool("golden"), {}
    monkeypatch.setattr(sys, "argv", ["golden.py", "check", "--only", "03"])
    with patch.dict(os.environ, DEPTH_KEEP=str(tmp_path), DEPTH_CACHE=str(tmp_path)):
        monkeypatch.setattr(tool, "check", lambda slugs: seen.update(os.environ) or [])
        tool.main()
    assert seen["DEPTH_KEEP"] != str(tmp_path) and seen["DEPTH_CACHE"] != str(tmp_path)
    assert Path(seen["DEPTH_CACHE"]).is_relative_to(seen["DEPTH_KEEP"])


def test_an_experiment_without_golden_numbers_is_named(monkeypatch, tmp_path):
    tool = load_tool("golden")
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "declared", lambda: {})
    compared = platform.machine() in ("x86_64", "AMD64")  # elsewhere nothing is
    sentence = "98_small has no golden numbers; `make golden NB=98` keeps them"
    assert tool.check(["98_small"])[-1:] == ([sentence] if compared else [])


def test_every_defect_has_its_place_in_the_library(tmp_path):
    tool = load_tool("golden_defects")
    for defect in tool.defects():
        copy = tmp_path / defect["file"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / defect["file"]).read_bytes())
        tool.seed(tmp_path, defect)
        assert defect["new"] in copy.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="lib/gone.py holds 'x' 0 times"):
        tool.seed(tmp_path, {"file": "lib/gone.py", "old": "x", "new": "y"})


def test_the_classes_of_a_configuration_are_all_found():
    found: dict = {}
    parameters = golden.small(E03)
    for task in E03.tasks(parameters, E03.texts(parameters)):
        golden._collect(task.config, found)
    assert {"CharacterRun", "TransformerConfig", "HRMConfig", "Training", "Segments"} <= set(found)
    assert "Corpus" not in found and found["Training"]["defaults"]["clip"] == 1.0


def test_clocks_and_whole_numbers_do_not_count():
    frame = pd.DataFrame(
        {"val_ppl": [1.5], "updates": [3], "epoch_seconds": [1.0], "steps_speed": [2.0]}
    )
    assert [c for c in frame if golden._counts(frame[c], c)] == ["val_ppl"]


def test_the_kept_numbers_hold():
    """Those of Experiment 3 here; all of them in ``make check``."""
    command = [sys.executable, "tools/golden.py", "check", "--only", "03"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "compared" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert "numbers of 11 runs, 0 complaints" in done.stdout
