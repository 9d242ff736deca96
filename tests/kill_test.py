"""Kill experiments at random times, go on, and compare every bit with an undisturbed run.

python tests/kill_test.py --kills 50 --only 03      prints a line a round; exits 1 at a difference

A round begins with empty folders and ends when the experiment comes to its end by itself. Of four
kills two take the whole tree of processes, two the parent alone, whose workers must then
end within ten seconds. Compared are rows, tables, kept weights and the names of all files; clocks
are not. Checkpoints are written after every batch here, so that kills meet writes.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.results.verify import TIMES  # noqa: E402
from lib.training import loop  # noqa: E402


def often() -> None:
    """Checkpoints after every batch in this process."""
    loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.0, 1.0


if __name__ in ("__main__", "__mp_main__"):  # in worker processes too
    often()
ONE_A_STUDY = ("03", "14", "16", "20")
WANTED = {"corpus": "embedded", "seeds": 2, "epochs": 3, "device": "cpu"}
CLOCKS = (*TIMES, "commit")
PATIENCE = 10.0  # seconds for orphans to end


class Differs(AssertionError):
    """A killed run that did not end as the undisturbed one."""


def drive(number: str, workers: int) -> None:
    """Run an experiment at a small size; says when it begins, after all imports."""
    from lib import registry

    slug = next(slug for slug in registry.module_names() if slug.startswith(number))
    experiment = registry.experiment(slug)
    schema = experiment.parameters
    own = {name: value for name, value in WANTED.items() if name in schema.names()}
    parameters = schema.checked({**schema.TINY, **own, "workers": workers})
    variants = {
        name: dataclasses.replace(entry, settings={**entry.settings, "keep": True})
        if type(entry).__module__ == "lib.character.variants" and hasattr(entry, "settings")
        else entry
        for name, entry in experiment.variants.items()
    }
    experiment = dataclasses.replace(experiment, variants=variants)
    print("begun", flush=True)
    experiment.run(parameters)


def start(number: str, kept: Path, workers: int) -> subprocess.Popen:
    """The experiment in a session of its own; returns when it has begun."""
    command = [sys.executable, str(Path(__file__)), "--drive", number, "--workers", str(workers)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "DEPTH_KEEP": str(kept), "OMP_NUM_THREADS": "1"},
    )
    if child.stdout.readline() != "begun\n":
        raise Differs(f"experiment {number} did not begin")
    return child


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(own) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def kill(child: subprocess.Popen, whole: bool) -> None:
    """SIGKILL for the tree or the parent; then nothing of it may live on."""
    (os.killpg if whole else os.kill)(child.pid, signal.SIGKILL)
    child.communicate()
    end = time.monotonic() + PATIENCE
    while left := members(child.pid):
        if time.monotonic() > end:
            os.killpg(child.pid, signal.SIGKILL)
            raise Differs(f"{len(left)} processes outlived their parent by {PATIENCE:.0f} s")
        time.sleep(0.05)


def state(kept: Path) -> dict[str, str]:
    """What an experiment left: each file's name and the hash of what counts in it."""
    found = {}
    for path in sorted(p for p in kept.rglob("*") if p.is_file()):
        name = str(path.relative_to(kept))
        if path.name.endswith((".part", ".old", "error.txt")) or "checkpoint" in path.name:
            raise Differs(f"{name} was left")
        found[name] = hashlib.sha256(counted(path).encode()).hexdigest()
    return found


def counted(path: Path) -> str:
    """What counts of a file: all of it but clocks."""
    import pandas as pd

    if path.suffix == ".safetensors":
        from lib.runs.tensors import load_tensors

        tensors, about = load_tensors(path)  # the bytes of its header have no fixed order
        raw = {n: v.reshape(-1).view(torch.uint8).numpy().tobytes() for n, v in tensors.items()}
        told = {name: hashlib.sha256(content).hexdigest() for name, content in raw.items()}
        return json.dumps([told, about], sort_keys=True)
    if path.suffix == ".csv":
        frame = pd.read_csv(path, dtype=str)
        return frame[[c for c in frame if not any(word in c for word in CLOCKS)]].to_csv()
    if path.name == "run.json":
        return json.dumps(without_clocks(json.loads(path.read_text())["content"]))
    return ""


def without_clocks(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in CLOCKS)}
        return {name: without_clocks(part) for name, part in kept.items()}
    return [without_clocks(part) for part in value] if isinstance(value, list) else value


def test(number: str, kills: int, seed: int = 0) -> str:
    """So many kills of one experiment; a sentence of counts. Raises Differs."""
    chance, done, rounds, late = random.Random(f"{number} {seed}"), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        plain, kept = Path(folder) / "plain", Path(folder) / "killed"
        child = start(number, plain, 1)
        began = time.monotonic()
        if child.wait():
            raise Differs(f"experiment {number} fails without any kill")
        span = time.monotonic() - began
        expected = state(plain)
        while done < kills:
            shutil.rmtree(kept, ignore_errors=True)
            rounds += 1
            ended = False
            while not ended:
                child = start(number, kept, 1 + done % 2)
                if done < kills:
                    try:
                        child.wait(timeout=chance.uniform(0, 0.5 * span))
                    except subprocess.TimeoutExpired:
                        kill(child, whole=done % 4 < 2)
                        done += 1
                        continue
                    late += 1  # it came to its end before the kill
                ended = True
                child.stdout.read()
                if code := child.wait():
                    raise Differs(f"experiment {number} ended with {code} after {done} kills")
            if (found := state(kept)) != expected:
                names = [n for n in found.keys() | expected if found.get(n) != expected.get(n)]
                raise Differs(f"after {done} kills these differ: {', '.join(sorted(names)[:5])}")
            print(f"round {rounds}: {done} kills, {len(found)} files are the same", flush=True)
    return f"experiment {number}: {done} kills in {rounds} rounds, no difference"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5, help="of each experiment")
    parser.add_argument("--only", default=",".join(ONE_A_STUDY), help="numbers, such as 03,14")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which it is killed")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    numbers = [number.strip().zfill(2) for number in given.only.split(",")]
    known = [path.name[1:3] for path in ROOT.glob("lib/*/experiments/e[0-9][0-9]_*.py")]
    if missing := [number for number in numbers if number not in known]:
        sys.exit(f"no experiment {', '.join(missing)}; allowed: {', '.join(sorted(known))}")
    if given.kills < 1:
        sys.exit(f"--kills is {given.kills}; allowed: a whole number at least 1")
    if given.drive:
        drive(given.drive, given.workers)
        return
    for number in numbers:
        try:
            print(test(number, given.kills, given.seed), flush=True)
        except Differs as difference:
            sys.exit(str(difference))


if __name__ == "__main__":
    main()
