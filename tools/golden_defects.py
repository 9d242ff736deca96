"""Seed defects into copies of the library, one at a time, and see golden numbers catch each.

python tools/golden_defects.py              all of tests/golden/defects.toml
python tools/golden_defects.py --only 3,7   some of them by their place in that file

A defect is caught where the check complains of a number; one that stops the check in another way
shows nothing. A defect that is not caught fails the command: the small size is too blind.
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
MOVED = "under an unchanged key"  # a complaint of tools/golden.py on a number


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
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(defect["old"]) != 1:
        raise ValueError(
            f"{defect['file']} holds {defect['old']!r} {text.count(defect['old'])} times"
        )
    path.write_text(text.replace(defect["old"], defect["new"]), encoding="utf-8")


def noticed(defect: dict[str, str]) -> bool:
    """Whether the check complains of a number on a copy with the defect."""
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        seed(root, defect)
        command = [sys.executable, "tools/golden.py", "check", "--only", defect["only"]]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return MOVED in done.stderr


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    every = list(enumerate(defects(), start=1))
    numbers = {str(number) for number, _ in every}
    wanted = {part.strip() for part in given.only.split(",") if part.strip()}
    if strange := wanted - numbers:
        sys.exit(f"no defect {', '.join(sorted(strange))}; allowed: 1 to {len(every)}")
    missed = []
    for number, defect in every:
        if wanted and str(number) not in wanted:
            continue
        caught = noticed(defect)
        print(f"{number:2} {'caught' if caught else 'MISSED'}  {defect['why']}", flush=True)
        if not caught:
            missed.append(str(number))
    if missed:
        sys.exit(f"no golden number noticed defect {', '.join(missed)}")


if __name__ == "__main__":
    main()
