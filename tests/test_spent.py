"""The seconds of a run count all its starts, a killed one too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.runs import spent
from lib.runs.key import run_function
from lib.runs.spent import NOTE, counted
from lib.runs.task import CPU, Outcome, Task, run_one

ROOT = Path(__file__).parents[1]
KILLED = """
import sys, time
from pathlib import Path
from lib.runs import spent
spent.EVERY = 0.05
with spent.counted(Path(sys.argv[1]), time.process_time) as seconds:
    while True:
        print(seconds(), flush=True)
"""


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_killed_start_counts(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if (tmp_path / NOTE).is_file() and float(line) > 0.3:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with counted(tmp_path, Clock()) as seconds:
        assert 0 < seconds() < 600


def test_starts_add_up_and_a_note_that_is_damaged_is_set_aside(tmp_path, capsys):
    clock = Clock()
    for start in range(3):
        with pytest.raises(KeyboardInterrupt), counted(tmp_path, clock) as seconds:
            assert seconds() == 5.0 * start
            clock.now += 5.0
            raise KeyboardInterrupt
    (tmp_path / NOTE).write_text("5")
    with counted(tmp_path, clock) as seconds:
        assert seconds() == 0.0
    assert "seconds count from now" in capsys.readouterr().out


def test_a_record_holds_the_seconds_of_all_starts_and_the_note_goes(tmp_path, monkeypatch):
    clock, starts = Clock(), []
    monkeypatch.setattr("time.process_time", clock)

    @run_function("interrupted_once")
    def run(config, seed, place):
        clock.now += 40.0
        starts.append(seed)
        if len(starts) == 1:
            raise KeyboardInterrupt
        return Outcome({"val_ppl": 2.0})

    task = Task(run, None, 0, {})
    with pytest.raises(KeyboardInterrupt):
        run_one(task, tmp_path, CPU)
    assert run_one(task, tmp_path, CPU)["row"]["seconds"] == 80.0
    assert sorted(path.name for path in (tmp_path / task.key()).iterdir()) == ["lock", "run.json"]


def test_a_folder_that_takes_no_note_stops_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr(spent.files, "write_record", full)
    with pytest.raises(KeyError), counted(tmp_path, Clock()):
        raise KeyError("what the run itself says")
