"""Golden numbers from the command line.

python tools/golden.py check        fails where a number moved and its key did not
python tools/golden.py write        after a VERSION was raised: keep the new numbers
--only 03,19 takes some experiments.

The small size overfits at a high rate, where the last digit of a sum grows into a difference. The
numerical libraries are therefore told to take the same way on every x86-64 processor with AVX2;
numbers of another kind of processor (ARM) are not compared.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

WAY = {  # read by the libraries when they are loaded
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
}
os.environ.update(WAY)

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import golden, registry  # noqa: E402
from lib.parameters import listed  # noqa: E402
from lib.runs import files  # noqa: E402
from lib.runs.key import release  # noqa: E402

DECLARED = golden.FOLDER / "declared.json"


def chosen(only: str) -> list[str]:
    """Slugs of the experiments that ``only`` lists by number, without notebooks that have none.
    Exits for a number that is neither."""
    wanted = [part.zfill(2) for part in listed(only)]
    numbers = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    numbers |= {slug[:2] for slug in registry.module_names()}
    if missing := [number for number in wanted if number not in numbers]:
        sys.exit(f"no experiment {', '.join(missing)}; allowed: {', '.join(sorted(numbers))}")
    return [slug for slug in registry.module_names() if not wanted or slug[:2] in wanted]


def check(slugs: list[str]) -> list[str]:
    """What is wrong, a sentence each; prints a line an experiment."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"nothing is compared: golden numbers are of x86-64, this is {platform.machine()}")
        return []
    wrong = golden.changed_defaults(json.loads(DECLARED.read_text()), golden.declared())
    for slug in slugs:
        try:
            old = golden.kept(slug)
        except FileNotFoundError:
            wrong.append(f"{slug} has no golden numbers; `make golden NB={slug[:2]}` keeps them")
            continue
        if old["torch"] != release("torch"):
            print(
                f"{slug}: not compared, its golden numbers are of torch {old['torch']} and "
                f"{release('torch')} is installed"
            )
            continue
        new = golden.compute(registry.experiment(slug))
        found = golden.moved(slug, old["runs"], new)
        other = len(old["runs"].keys() ^ new.keys())
        if other:
            found.append(
                f"{slug}: {other} runs have keys or names of their own now; keep their numbers "
                f"with `make golden NB={slug[:2]}`"
            )
        numbers = sum(len(c) for run in new.values() for t in run.values() for c in t.values())
        print(f"{slug}: {numbers} numbers of {len(new)} runs, {len(found)} complaints", flush=True)
        wrong += found
    return wrong


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("--only", default="", help="numbers, such as 03,19")
    given = parser.parse_args()
    torch.set_num_threads(1)
    slugs = chosen(given.only)
    if given.action == "write":
        now = golden.declared()
        changed = golden.changed_defaults(json.loads(DECLARED.read_text()), now)
        if moved := [sentence for sentence in changed if "default (gone)" not in sentence]:
            sys.exit("; ".join(moved))  # else keeping numbers would hide them
    with tempfile.TemporaryDirectory() as folder:
        # a cache of their own: states that other processes keep went another way
        os.environ.update(DEPTH_KEEP=folder, DEPTH_CACHE=str(Path(folder) / "cache"))
        if given.action == "write":
            for slug in slugs:
                golden.keep(slug, golden.compute(registry.experiment(slug)))
                print(f"{slug}: kept", flush=True)
            files.write_text(DECLARED, json.dumps(now, indent=1) + "\n")
            return
        wrong = check(slugs)
    for sentence in wrong[:40]:
        print(sentence, file=sys.stderr)
    if wrong:
        sys.exit(f"{len(wrong)} complaints; golden numbers say what a change of code has moved")


if __name__ == "__main__":
    main()
