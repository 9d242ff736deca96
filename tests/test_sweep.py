"""Every run exactly once, failures beside each other, and no process left behind."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import Small, Text, task

from lib.runs import engines, files, places
from lib.runs import sweep as sweeping
from lib.runs.key import run_function
from lib.runs.sweep import SweepFailed, _Progress, spoken, sweep
from lib.runs.task import CPU, Outcome, Place, Task, finished, run_one, run_together
from lib.runs.tensors import load_tensors

ROOT = places.ROOT
PATIENCE = 240  # seconds; a busy machine may take a minute to load torch


def starts(folder: Path) -> dict[str, int]:
    """How often each run was begun."""
    return {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}


def numbers(pairs) -> list[tuple]:
    return [(record["key"], record["row"]["val_ppl"], record["tables"]) for _, record in pairs]


def test_workers_and_one_process_give_the_same_and_finished_runs_are_read(
    kept, tmp_path, monkeypatch, capsys
):
    tasks = [task(v, s, value=x) for v, x in (("a", 1.0), ("b", 2.0)) for s in range(2)]
    plain = sweep(tasks, 1)
    first = capsys.readouterr().out.splitlines()
    assert len(first) == 4 and first[-1].startswith("[4/4] b, seed 1: val_ppl ")
    again = sweep(list(reversed(tasks)), 2)
    assert capsys.readouterr().out == "", "nothing was run"
    assert numbers(again) == numbers(plain)[::-1]
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path / "beside"))
    assert numbers(sweep(tasks, 2)) == numbers(plain)
    for folder in (kept / "runs", tmp_path / "beside" / "runs"):
        assert sorted(p.name for p in folder.iterdir()) == sorted(r["key"] for _, r in plain)
        for run in folder.iterdir():
            assert sorted(p.name for p in run.iterdir()) == ["lock", "run.json"]


def test_a_record_says_what_was_run_with_what(kept):
    ((_, record),) = sweep([task(value=3.0, text=Text("embedded", "b" * 64))])
    assert record["config"]["class"] == "Small" and record["config"]["value"] == 3.0
    assert record["config"]["text"] == {"name": "embedded", "sha256": "b" * 64}
    assert {"seconds", "device", "code_hash", "commit", "torch"} <= record["row"].keys()
    assert record["environment"]["torch"] and record["function"] == "small"


def test_tasks_that_are_the_same_run_are_run_once(kept, marks):
    tasks = [task("a", mark=str(marks)), task("b", mark=str(marks))]
    one, other = sweep(tasks)
    assert one[1]["key"] == other[1]["key"] and list(starts(marks).values()) == [1]


def test_failures_stop_nothing_else_and_are_listed_with_their_log(kept, capsys):
    tasks = [task("good", 0), task("bad", fate="fails"), task("nan", fate="diverges")]
    tasks += [task("good", 1)]
    told = []
    with pytest.raises(SweepFailed) as failed:
        sweep(tasks, told=told.append)
    lines = str(failed.value).splitlines()
    assert lines[0] == "2 of 4 runs failed, the others are kept:"
    bad, nan = sorted(lines[1:])
    log = kept / "runs" / tasks[1].key() / "error.txt"
    assert bad == f"  bad, seed 0: ValueError: it cannot be done (log: {places.shown(log)})"
    assert "second line" in log.read_text() and "Traceback" in log.read_text()
    assert nan.startswith("  nan, seed 0: training loss nan in epoch 1, update 2 (log: ")
    assert len(told[-1]) == 2, "what is there is told before the error"
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("FAILED bad") and said[-1].startswith("[4/4] good, seed 1: ")
    assert finished(kept / "runs" / tasks[3].key())
    with pytest.raises(SweepFailed, match="2 of 4"):
        sweep(tasks)


def test_a_test_loss_that_is_no_number_is_a_failure_and_no_empty_cell(kept):
    with pytest.raises(SweepFailed, match=r"a, seed 0: test_ppl is nan \(log: "):
        sweep([task(fate="no test")])
    assert not list((kept / "runs").glob("*/run.json"))


def test_a_run_whose_worker_is_killed_is_tried_again_and_takes_no_other_with_it(
    kept, marks, capsys
):
    tasks = [
        task("deadly", fate="kills", mark=str(marks)),
        task("mortal", fate="kills once", mark=str(marks)),
    ]
    tasks += [
        task("good", fate="none", mark=str(marks)),
        task("bad", fate="fails", mark=str(marks)),
    ]
    with pytest.raises(SweepFailed) as failed:
        sweep(tasks, 2)
    first, *lines = str(failed.value).splitlines()
    assert first == "2 of 4 runs failed, the others are kept:"
    assert "  deadly, seed 0: its worker process was killed (out of memory?)" in lines
    assert any(line.startswith("  bad, seed 0: ValueError: it cannot be done") for line in lines)
    assert "a worker was killed; tried again" in capsys.readouterr().out
    assert starts(marks).keys() == {"1.0-kills-0", "1.0-kills once-0", "1.0-none-0", "1.0-fails-0"}
    assert 2 <= starts(marks)["1.0-kills-0"] <= 3 and starts(marks)["1.0-kills once-0"] == 2
    assert all(finished(kept / "runs" / t.key()) for t in tasks[1:3])


def test_a_finished_run_is_read_from_elsewhere_and_nothing_is_trained(kept, marks):
    tasks = [task("a", mark=str(marks)), task("b", value=2.0, mark=str(marks))]
    held = {tasks[0].key(): {"row": {"val_ppl": 5.0}, "tables": {}}}
    (_, read), (_, made) = sweep(tasks, recorded=held)
    assert read["row"] == {"val_ppl": 5.0} and read["key"] == tasks[0].key()
    assert list(starts(marks)) == ["2.0--0"] and made["row"]["val_ppl"] > 2


def test_a_damaged_record_is_set_aside_and_the_run_is_made_again(kept, capsys):
    (pair,) = sweep([task()])
    path = kept / "runs" / pair[1]["key"] / "run.json"
    path.write_text(path.read_text().replace("val_ppl", "val_pql", 1))
    assert numbers(sweep([task()])) == numbers([pair])
    said = capsys.readouterr().out
    assert "run.json is not what was written" in said and "the run is made again" in said
    assert path.with_name("run.json.damaged-1").is_file()


def test_what_a_kill_leaves_beside_a_finished_record_is_removed(kept):
    """SIGKILL between the record and the end of the run, or in the middle of a write."""
    (pair,) = sweep([task()])
    folder = kept / "runs" / pair[1]["key"]
    for name in ("checkpoint.safetensors", "error.txt"):
        (folder / name).write_text("stale")
    sweep([task()])
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "run.json"]
    (folder / "run.json").unlink()
    (folder / ".checkpoint.safetensors.abc.part").write_text("half")
    sweep([task()])
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "run.json"]


def test_a_run_that_another_needs_is_made_once_and_again_if_a_file_is_gone(kept, marks):
    config = Small(mark=str(marks))
    place = Place(kept / "runs" / "above")
    first = place.need(small_runs.run, config, 4)
    assert place.need(small_runs.run, config, 4) == first and first.record()["row"]["val_ppl"]
    assert list(starts(marks).values()) == [1]
    (first.folder / "best.safetensors").write_text("kept")
    place.need(small_runs.run, config, 4, "best.safetensors")
    assert list(starts(marks).values()) == [1]
    place.need(small_runs.run, config, 4, "last.safetensors")
    assert list(starts(marks).values()) == [2]
    assert (first.folder / "run.json.damaged-1").is_file()


def test_seeds_that_run_as_one_leave_out_what_another_process_has_finished(kept, monkeypatch):
    asked = []

    def together(config, seeds, places):
        asked.append(seeds)
        for place in places:  # nobody else may be at these runs
            with pytest.raises(BlockingIOError), files.locked(place.folder / "lock", wait=False):
                pass
        time.sleep(0.2)
        return [
            small_runs.run(config, seed, place) for seed, place in zip(seeds, places, strict=True)
        ]

    monkeypatch.setattr(small_runs.run, "together", together, raising=False)
    tasks = [task(seed=seed) for seed in range(3)]
    first = run_one(tasks[1], kept / "runs", CPU)
    half = kept / "runs" / tasks[2].key() / ".checkpoint.safetensors.abc.part"
    half.parent.mkdir()
    half.write_text("half")
    begun = time.perf_counter()
    records = run_together(tasks, kept / "runs", CPU)
    wall = time.perf_counter() - begun
    assert asked == [[0, 2]] and records[1] == first and not half.exists()
    seconds = [records[place]["row"]["seconds"] for place in (0, 2)]
    assert 0.2 <= sum(seconds) <= wall + 0.02, "seeds that run as one share its time"
    assert seconds[0] == pytest.approx(seconds[1], abs=0.02)
    assert records == [finished(kept / "runs" / t.key()) for t in tasks]
    assert run_together(tasks, kept / "runs", CPU) == records and len(asked) == 1


def test_kept_weights_that_were_damaged_are_set_aside_and_made_again(kept, capsys):
    def above() -> Task:
        return Task(small_runs.on_kept, Small(), 4, {"variant": "above"})

    (made,) = sweep([above()])
    (path,) = (kept / "runs").glob("*/best.safetensors")
    weights, content = str(load_tensors(path)), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (kept / "runs" / made[1]["key"] / "run.json").unlink()
    capsys.readouterr()
    assert numbers(sweep([above()])) == numbers([made])
    said = capsys.readouterr().out
    assert "best.safetensors is not what was written" in said and "is made again" in said
    assert str(load_tensors(path)) == weights
    assert path.with_name("best.safetensors.damaged-1").is_file()


def test_what_reads_the_clock_runs_alone_and_last(kept, capsys):
    tasks = [task("a"), task("b", value=2.0), task("c", value=3.0)]
    tasks[0] = dataclasses.replace(tasks[0], function=small_runs.of_clocks)
    sweep(tasks)
    order = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert order == ["b,", "c,", "keeps,", "a,"], "after what it starts from"


def test_two_that_read_the_clock_do_not_run_beside_each_other(kept, monkeypatch):
    asked, submit = [], engines.submit

    def spy(engine, tasks, workers, *more):
        asked.append(([task.labels["variant"] for task in tasks], workers))
        return submit(engine, tasks, 1, *more)

    monkeypatch.setattr(engines, "submit", spy)
    sweep([*clocks(), task("a"), task("b", value=2.0)], 2)
    assert asked == [(["a", "b", "keeps", "keeps"], 2), (["c"], 1), (["c"], 1)]
    assert sweep(clocks())[0][1]["row"]["val_ppl"] == 3.0 and len(asked) == 3, "nothing is left"


def test_what_has_ended_is_told_after_every_clock_and_before_an_interrupt(kept, monkeypatch):
    submit, heard = engines.submit, []

    def interrupted(engine, tasks, *more):
        yield from submit(engine, tasks[:3], *more)
        if len(tasks) > 3:
            raise KeyboardInterrupt

    def told(pairs):
        heard.append(len(pairs))
        time.sleep(0.01)

    monkeypatch.setattr(sweeping, "TOLD_SHARE", 0)
    monkeypatch.setattr(engines, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep([task("a", seed) for seed in range(4)], told=told)
    assert heard == [1, 3], "the second is not told by itself: telling takes time"
    heard.clear()
    sweep(clocks(), told=told)
    assert heard[-2:] == [1, 2], "each clock"


def test_what_cannot_be_sent_to_a_worker_is_run_here(kept, capsys):
    """A reader's factor, say, that is a function of a cell."""
    tasks = [task("a", seed, value=2.0) for seed in (0, 1)]
    held = [dataclasses.replace(t, labels={**t.labels, "kind": lambda: 0}) for t in tasks]
    found = sweep(held, 2)
    assert numbers(found) == numbers(sweep(tasks)) and len(found) == 2
    assert "2 runs in this process" in capsys.readouterr().out


def test_what_starts_from_a_failure_is_not_begun(kept):
    begun = []

    @run_function("fails at once")
    def fails(config, seed, place):
        begun.append("start")
        raise ValueError("no network")

    @run_function("of it", starts_from=lambda c, seed: [(fails, c, seed)], clock=True)
    def of_it(config, seed, place):
        begun.append("clock")

    with pytest.raises(SweepFailed, match="2 of 2 runs failed") as failed:
        sweep([Task(of_it, None, 0, {})])
    assert begun == ["start"] and "what it starts from failed" in str(failed.value)


def clocks() -> list[Task]:
    """Two tasks that read the clock."""
    return [
        dataclasses.replace(task("c", seed, value=3.0), function=small_runs.clocked)
        for seed in (0, 1)
    ]


def test_a_run_takes_one_thread(kept):
    seen = []

    @run_function("threads")
    def run(config, seed, place):
        seen.append(torch.get_num_threads())
        return Outcome({"val_ppl": 2.0})

    torch.set_num_threads(2)
    run_one(Task(run, None, 0, {}), kept / "runs", CPU)
    assert seen == [1] and torch.get_num_threads() == 2


def test_finished_runs_are_read_from_a_folder_that_takes_no_writes(kept, monkeypatch):
    made = sweep([task()])

    def refuse(*given, **more):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert numbers(sweep([task()])) == numbers(made)


def test_a_file_in_the_place_of_the_kept_folder_is_a_sentence(kept):
    kept.write_text("a file")
    with pytest.raises(SweepFailed, match="could not be written: a file is where a folder should"):
        sweep([task()])


def test_a_read_only_folder_is_a_sentence_for_each_run(kept, monkeypatch):
    def refuse(*given, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.Path, "mkdir", refuse)
    with pytest.raises(SweepFailed, match="a, seed 0: .*lock could not be written: the folder is"):
        sweep([task()])


SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path[:0] = [{root!r}, {tests!r}]
from small_runs import task
from lib.runs.sweep import sweep
if __name__ == "__main__":
    mark, workers, fate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    print(len(sweep([task("a", s, fate=fate, mark=mark) for s in range(6)], workers)))
"""


@pytest.fixture
def script(tmp_path, kept, marks):
    """``script(workers, fate) -> Popen`` of a sweep of six runs in a process of its own."""
    path = tmp_path / "sweep.py"
    path.write_text(SWEEP.format(root=str(ROOT), tests=str(ROOT / "tests")))

    def start(workers: int, fate: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(path), str(marks), str(workers), fate],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start


def test_two_sweeps_of_the_same_tasks_do_every_run_once(script, marks):
    other, deadline = script(1, "slow"), time.monotonic() + PATIENCE
    while not list(marks.iterdir()):
        assert other.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert len(sweep([task("a", s, fate="slow") for s in reversed(range(6))])) == 6
    assert other.communicate(timeout=PATIENCE)[0].splitlines()[-1] == "6"
    assert all(count == 1 for count in starts(marks).values()), "and the rest began here"
    assert 0 < len(starts(marks)) < 6


def alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def waiting(script, marks: Path) -> tuple[subprocess.Popen, list[int]]:
    """A sweep whose two workers are both inside a long run: its process, and their numbers."""
    parent = script(2, "waits")
    deadline = time.monotonic() + PATIENCE
    while len(list(marks.iterdir())) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = [int(path.read_text()) for path in marks.iterdir()]
    assert all(map(alive, workers)) and parent.pid not in workers
    return parent, workers


def test_a_script_whose_workers_run_it_again_is_refused_in_one_sentence(kept, tmp_path):
    path = tmp_path / "plain.py"
    plain = SWEEP.replace('if __name__ == "__main__":', "if True:")
    path.write_text(plain.format(root=str(ROOT), tests=str(ROOT / "tests")))
    given = [sys.executable, str(path), str(tmp_path), "2", "none"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=PATIENCE)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "allowed: the run under if __name__ == '__main__':, or wor" in last
    assert "out of memory" not in done.stdout + done.stderr and "tried again" not in done.stdout


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_workers_die_with_a_parent_that_is_killed(script, marks):
    parent, workers = waiting(script, marks)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 5
    while any(map(alive, workers)):
        assert time.monotonic() < end, "a worker outlived its parent by five seconds"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_an_interrupt_of_the_parent_alone_waits_for_no_run(script, marks):
    parent, workers = waiting(script, marks)
    os.kill(parent.pid, signal.SIGINT)
    parent.wait(timeout=PATIENCE / 2)
    assert not any(map(alive, workers))


@dataclasses.dataclass(frozen=True)
class Celled(Small):
    """A configuration as a notebook's cell would define it."""


def test_code_of_a_cell_runs_in_this_process_beside_workers(kept, marks, monkeypatch, capsys):
    def own(config, seed, place):
        return Outcome({"corpus": "embedded", "val_ppl": 4.0, "test_ppl": 4.0})

    own.run_name = "of a cell"
    local = dataclasses.replace(task("mine"), function=run_function("of a cell")(own))
    celled = Task(task().function, Celled(value=7.0, mark=str(marks)), 0, task("class").labels)
    others = [task("a", seed, mark=str(marks)) for seed in range(3)]
    monkeypatch.setattr(Celled, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Celled", Celled, raising=False)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    found = sweep([local, celled, *others], 2)
    assert [record["row"]["val_ppl"] for _, record in found][0] == 4.0 and len(found) == 5
    said = capsys.readouterr().out
    assert "2 runs in this process, one after the other: their code was defined in a cell" in said
    assert "memory" not in said
    here = {int(path.read_text()) == os.getpid() for path in marks.glob("7.0*")}
    there = {int(path.read_text()) == os.getpid() for path in marks.glob("1.0*")}
    assert (here, there) == ({True}, {False})


def test_the_time_left_is_that_of_runs_of_one_kind(kept, capsys):
    trained, timed = [task("a", seed) for seed in (0, 1)], clocks()
    sweep([*timed, *trained])
    ends = [line.partition(" left")[2] for line in capsys.readouterr().out.splitlines()]
    assert ends == [*4 * [", then 2 clocks"], "", ""], "two rows and what the clocks start from"
    progress = _Progress(2, 1)
    for batch, started in ((trained, 60), (timed[:1], 2)):
        progress.begin(batch)
        for done in batch:
            progress.started = time.monotonic() - started
            progress.line(done, {"row": {"seconds": started}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("about 60 s left, then 1 clock")
    assert lines[2].endswith("about 0 s left")


def test_the_time_left_is_spoken():
    assert [spoken(s) for s in (5, 99.6, 150, 7200)] == ["5 s", "100 s", "2 min", "2.0 h"]


def test_a_run_keeps_the_number_of_threads_of_its_caller(kept):
    torch.set_num_threads(2)
    run_one(task(), kept / "runs", CPU)
    assert torch.get_num_threads() == 2
