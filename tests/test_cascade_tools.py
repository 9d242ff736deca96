"""The speed script runs, and says what it says of every part."""

import runpy
import sys

from lib.runs.places import ROOT


def test_the_speed_script_runs(monkeypatch, capsys):
    """In this process, which has loaded what it needs; its peak memory is that of further ones."""
    script = str(ROOT / "tools" / "bench_cascade.py")
    arguments = ["--base", "tiny", "--rounds", "1", "--batch", "1", "--layers", "1"]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    for part in (
        "Base forward",
        "Update on 32 single tokens, 8 layers",
        "Stage step",
        "Routing",
        "Generation",
        "peak memory",
    ):
        assert part in said
