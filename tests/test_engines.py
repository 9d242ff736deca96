"""Runs on a cluster land in the same folders, and a worker that dies loses none."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
from small_experiment import SmallVariant, experiment
from small_runs import task

from lib.runs import engines
from lib.runs.places import ROOT
from lib.runs.sweep import SweepFailed, sweep
from lib.runs.task import finished


def mixed(marks: Path) -> list:
    """Runs of every fate: two that end well, one that fails, one that diverges."""
    tasks = [task("a", s, fate="none", mark=str(marks)) for s in (0, 1)]
    return [*tasks, task("bad", fate="fails"), task("nan", fate="diverges")]


def check_mixed(engine: str, kept: Path, marks: Path) -> None:
    """What any engine does with them is what the local one does."""
    with pytest.raises(SweepFailed) as failed:
        sweep(mixed(marks), 2, engine=engine)
    lines = sorted(str(failed.value).splitlines())
    assert lines[0].startswith("  bad, seed 0: ValueError: it cannot be done (log: ")
    assert lines[1].startswith("  nan, seed 0: training loss nan in epoch 1, update 2")
    assert lines[2] == "2 of 4 runs failed, the others are kept:"
    assert os.getpid() not in {int(path.read_text()) for path in marks.iterdir()}
    good = mixed(marks)[:2]
    records = [finished(kept / "runs" / t.key())["row"] for t in good]
    by_hand = sweep(good)  # they are finished: the folders are those of every engine
    assert [record["row"]["val_ppl"] for _, record in by_hand] == [r["val_ppl"] for r in records]
    assert all(path.read_text().count("\n") == 1 for path in marks.iterdir())


@pytest.fixture
def cluster(monkeypatch):
    """A Dask cluster of two processes, at the address in DEPTH_DASK."""
    distributed = pytest.importorskip("distributed", reason="pip install distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as found:
        monkeypatch.setenv("DEPTH_DASK", found.scheduler_address)
        yield found


def test_dask_runs_each_once_and_goes_on_where_a_dead_worker_stopped(cluster, kept, marks):
    check_mixed("dask", kept, marks)
    waiting = task("kills once", fate="kills once", mark=str(marks))
    others = [task("slow", s, fate="slow", mark=str(marks)) for s in range(3)]
    found = sweep([waiting, *others], 2, engine="dask")
    assert len(found) == 4
    assert (marks / "1.0-kills once-0").read_text().count("\n") == 2
    assert all((marks / f"1.0-slow-{s}").read_text().count("\n") <= 2 for s in range(3))


def test_threads_of_a_dask_worker_leave_each_other_alone(kept, monkeypatch):
    """All draw from the one generator of their process."""
    distributed = pytest.importorskip("distributed", reason="pip install distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    tasks = [task("a", s, fate="draws") for s in range(6)]
    alone = [record["row"]["val_ppl"] for _, record in sweep(tasks)]
    monkeypatch.setenv("DEPTH_KEEP", str(kept / "elsewhere"))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=4, dashboard_address=None, silence_logs=50
    ) as found:
        monkeypatch.setenv("DEPTH_DASK", found.scheduler_address)
        assert [r["row"]["val_ppl"] for _, r in sweep(tasks, 2, engine="dask")] == alone


def test_dask_without_an_address_starts_processes_of_this_machine(kept, marks, monkeypatch):
    pytest.importorskip("distributed", reason="pip install distributed")
    monkeypatch.delenv("DEPTH_DASK", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    tasks = [task("a", s, fate="none", mark=str(marks)) for s in (0, 1)]
    assert len(sweep(tasks, 2, engine="dask")) == 2
    assert os.getpid() not in {int(path.read_text()) for path in marks.iterdir()}


@pytest.mark.parametrize(
    ("engine", "name", "given", "sentence"),
    [
        ("dask", "DEPTH_DASK", "nonsense", "DEPTH_DASK is 'nonsense', where no scheduler answers"),
        ("dask", "DEPTH_DASK", "tcp://127.0.0.1:1", "where no scheduler answers: Timed out"),
        ("slurm", "DEPTH_SLURM", "cluster=local nonsense", "Parameter .nonsense. need to"),
        ("slurm", "DEPTH_SLURM", "cluster=cloud", "executor named cloud"),
        ("slurm", "DEPTH_SLURM", "cluster=local slurm_nope=1", "Unknown argument 'nope'"),
        ("slurm", "DEPTH_SLURM", "", "srun"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_sentence(
    kept, monkeypatch, engine, name, given, sentence
):
    pytest.importorskip({"dask": "distributed", "slurm": "submitit"}[engine])
    if engine == "slurm" and shutil.which("srun"):
        pytest.skip("Slurm is here")
    monkeypatch.setenv(name, given)
    monkeypatch.setattr(engines, "ANSWER", 1)
    with pytest.raises(engines.EngineUnavailable, match=sentence) as refusal:
        sweep([task()], engine=engine)
    assert "\n" not in str(refusal.value) and "allowed: " in str(refusal.value)


def test_slurm_jobs_run_each_once_and_a_killed_one_is_submitted_again(kept, marks, monkeypatch):
    pytest.importorskip("submitit", reason="pip install submitit")
    monkeypatch.setenv("DEPTH_SLURM", "cluster=local timeout_min=5")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    e = experiment(
        base=SmallVariant(1.0, "Base", "none", mark=str(marks)),
        mortal=SmallVariant(2.0, "Mortal", "kills once", mark=str(marks)),
    )
    results = e.run(e.parameters(seeds=1, engine="slurm", workers=2))
    assert results()["variant"].tolist() == ["base", "mortal"]
    assert (marks / "2.0-kills once-0").read_text().count("\n") == 2
    assert os.getpid() not in {int(p.read_text().split()[0]) for p in marks.iterdir()}
    assert results.folder == e.run(e.parameters(seeds=1)).folder, "an engine is no parameter"


def test_an_engine_is_a_place_and_one_without_its_package_is_refused(kept, monkeypatch):
    schema = experiment().parameters
    assert schema(engine="dask").size == "full"
    with pytest.raises(ValueError, match="engine is 'cloud'; allowed: local, dask, slurm"):
        sweep([task()], engine="cloud")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package submitit: pip install -r requirements"):
        sweep([task()], engine="slurm")


def test_the_lines_of_the_docs_are_accepted(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from experiments import parameters

    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("DEPTH_")]
    words = [shlex.split(line) for line in lines]
    given = [[w[i + 1 : i + 3] for i, word in enumerate(w) if word == "-p"] for w in words]
    found = [parameters("03_iterative_refinement", "full", pairs) for pairs in given]
    assert [(p.engine, p.workers) for p in found] == [("dask", 40), ("slurm", 40)]
    assert [w[0].split("=")[0] for w in words] == ["DEPTH_DASK", "DEPTH_SLURM"]
