"""Seed defects into copies of the library, one at a time, and see golden numbers catch each.

python tools/golden_defects.py              all of tests/golden/defects.toml
python tools/golden_defects.py --only 3,7   some of them by their place in that file

A defect that no number notices is reported, and the command fails: the small size is too blind.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "golden" / "defects.toml"
COPIED = ("lib", "tools", "tests/golden", "results/reported.csv")


def defects() -> list[dict[str, str]]:
    """The entries of the list: file, old and new text, and the experiments that must notice."""
    return tomllib.loads(LIST.read_text(encoding="utf-8"))["defect"]


def copied(folder: Path) -> Path:
    """A copy of what golden numbers need."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def seed(root: Path, defect: dict[str, str]) -> None:
    """Put a defect into a copy. Raises ValueError if its place is not there exactly once."""
    path = root / defect["file"]
    text = path.read_text(encoding="utf-8")
    if text.count(defect["old"]) != 1:
        raise ValueError(
            f"{defect['file']} holds {defect['old']!r} {text.count(defect['old'])} times"
        )
    path.write_text(text.replace(defect["old"], defect["new"]), encoding="utf-8")


def noticed(defect: dict[str, str]) -> bool:
    """Whether the check fails on a copy with the defect."""
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        seed(root, defect)
        command = [sys.executable, "tools/golden.py", "check", "--only", defect["only"]]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return done.returncode != 0


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    wanted = [int(part) for part in given.only.split(",") if part.strip()]
    missed = []
    for number, defect in enumerate(defects(), start=1):
        if wanted and number not in wanted:
            continue
        caught = noticed(defect)
        print(f"{number:2} {'caught' if caught else 'MISSED'}  {defect['why']}", flush=True)
        if not caught:
            missed.append(str(number))
    if missed:
        sys.exit(f"no golden number noticed defect {', '.join(missed)}")


if __name__ == "__main__":
    main()
