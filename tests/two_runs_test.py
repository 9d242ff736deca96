"""Several `make run` in one clone at once, one of them killed: every run once, tables whole.

python tests/two_runs_test.py --kills 3      prints a line a round; exits 1 at a difference

A round begins with an empty folder. Two processes run the same two notebooks at the tiny size, one
another set of parameters of the first notebook's experiment; one is killed with its whole tree at a
random time, and the same command is given again. Compared are the tables of both sets, clocks
aside, with those of runs that nothing disturbed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_test import PATIENCE, Differs, counted, members

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
NOTEBOOKS = [PYTHON, "tools/notebooks.py", "run", "--size", "tiny", "--only", "00,03"]
OTHERS = [PYTHON, "tools/experiments.py", "run", "--size", "tiny", "--only", "03"]
OTHERS += ["-p", "epochs", "3", "-p", "workers", "1"]
BUSY = "another process is running it"


def begin(command: list[str], kept: Path) -> subprocess.Popen:
    """A command in a session of its own."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "DEPTH_KEEP": str(kept), "OMP_NUM_THREADS": "1"},
    )


def end(child: subprocess.Popen, busy: bool = False) -> None:
    """Wait for an end without failure; ``busy`` allows the refusal of what another one does."""
    said = child.communicate()[0]
    if child.returncode and not (busy and BUSY in said):
        raise Differs(f"{' '.join(child.args[1:])} ended with {child.returncode}:\n{said[-2000:]}")


def kill(child: subprocess.Popen) -> None:
    """SIGKILL for the tree; kernels, which have sessions of their own, end by themselves."""
    sessions = [child.pid, *kernels(child.pid)]
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    limit = time.monotonic() + PATIENCE
    while any(members(session) for session in sessions):
        if time.monotonic() > limit:
            raise Differs(f"processes outlived the killed command by {PATIENCE:.0f} s")
        time.sleep(0.1)


def kernels(parent: int) -> list[int]:
    """Sessions begun by descendants of a process."""
    parents, sessions = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, above, _, session = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(above)
        sessions[int(stat.parent.name)] = int(session)
    below = {parent}
    while more := {pid for pid, above in parents.items() if above in below} - below:
        below |= more
    return sorted({sessions[pid] for pid in below if pid in sessions} - {parent})


def state(kept: Path) -> dict[str, str]:
    """The tables of every set, clocks aside, and how often each run was begun."""
    found = {
        str(path.relative_to(kept)): counted(path) for path in sorted(kept.rglob("sets/**/*.csv"))
    }
    left = [p for p in kept.rglob("*") if p.name.endswith((".part", ".old")) or "damaged" in p.name]
    if left:
        raise Differs(f"{left[0].name} was left")
    for record in sorted(kept.glob("runs/*/run.json")):
        json.loads(record.read_text())
        found[str(record.relative_to(kept))] = counted(record)
    return found


def test(kills: int, seed: int = 0) -> str:
    """So many rounds; a sentence of counts. Raises Differs."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        began = time.monotonic()
        end(begin(NOTEBOOKS, plain))
        span = time.monotonic() - began
        end(begin(OTHERS, plain))
        expected = state(plain)
        for number in range(kills):
            kept = Path(folder) / f"killed{number}"
            first, second, other = (begin(c, kept) for c in (NOTEBOOKS, NOTEBOOKS, OTHERS))
            time.sleep(chance.uniform(0.1, 0.9) * span)
            if first.poll() is None:
                kill(first)
            end(second, busy=True)
            end(other)
            end(begin(NOTEBOOKS, kept))
            if (found := state(kept)) != expected:
                names = [n for n in found.keys() | expected if found.get(n) != expected.get(n)]
                raise Differs(f"in round {number + 1} these differ: {', '.join(sorted(names)[:5])}")
            print(f"round {number + 1}: {len(found)} tables and records are the same", flush=True)
    return f"{kills} kills among three commands at once, no difference"


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    given = parser.parse_args()
    if given.kills < 1:
        sys.exit(f"--kills is {given.kills}; allowed: a whole number at least 1")
    try:
        print(test(given.kills, given.seed), flush=True)
    except Differs as difference:
        sys.exit(str(difference))


if __name__ == "__main__":
    main()
