"""Large blocks that a step frees are there for the next one, and change no number."""

import platform
import subprocess
import sys

import pytest

from lib.runs.places import ROOT

PAGES = 64_000_000 // 4096  # of a step

# page faults of 120 steps that each fill and free 64 MB, and what they computed
PROGRAM = """
import resource, sys
import torch
sys.path.insert(0, {root!r})
from lib.runs.memory import keep_freed
if {keep}:
    assert keep_freed() and keep_freed()
torch.manual_seed(0)
x = torch.randn(64, 64)
def step():
    parts = [torch.full((2_000_000,), 1.0 + i) for i in range(8)]
    return sum(part[:4096].view(64, 64) @ x for part in parts)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = sum(step() for _ in range(120))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, total.double().sum().item())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_kept_and_numbers_stay():
    found = []
    for keep in (False, True):
        program = PROGRAM.format(root=str(ROOT), keep=keep)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        faults, value = run.stdout.split()
        found.append((int(faults), value))
    (taken, plain), (kept, same) = found
    assert plain == same
    # mostly all 120 steps take their pages again; by chance what lies above them keeps them alive
    assert kept < 3 * PAGES, f"{kept} page faults, {taken} without"
