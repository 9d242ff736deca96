"""The speed script runs, and says what it says of every part."""

import subprocess
import sys

from lib.runs.places import ROOT


def test_the_speed_script_runs():
    arguments = ["--base", "tiny", "--rounds", "1", "--batch", "1", "--layers", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bench_cascade.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in (
        "Base forward",
        "Update on 32 single tokens, 8 layers",
        "Stage step",
        "Routing",
        "Generation",
        "peak memory",
    ):
        assert part in done.stdout
