"""Write the hash of every file that pip may choose beside every pin of the locked files.

    python tools/lock.py            requirements.lock and requirements-site.txt

Versions, order and comments stay as they are in the files: edit a version there, then run this.
The hashes are those that the package index lists for a release, for every platform and Python; uv
asks for them (`pip install uv`). Nothing is written unless every pin of both files has hashes.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.runs import files  # noqa: E402

LOCKED = ("requirements.lock", "requirements-site.txt")
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+)")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def plain(name: str) -> str:
    """A package's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes(text: str) -> dict[str, list[str]]:
    """The hashes of each pin of a locked file, by ``name==version``."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if pin := PIN.match(line):
            current = found.setdefault(f"{plain(pin['name'])}=={pin['version']}", [])
        if not line.lstrip().startswith("#"):
            current += HASH.findall(line)
    return found


def asked(pins: list[str]) -> dict[str, list[str]]:
    """The hashes that the index lists for some pins. Exits if uv is not here or fails."""
    uv = shutil.which("uv")
    if not uv:
        sys.exit("uv is not here, and it asks the index for hashes: pip install uv")
    command = [uv, "pip", "compile", "-", "--quiet", "--no-deps", "--universal", "--no-header"]
    command += ["--no-annotate", "--generate-hashes", "--python-version", "3.11"]
    done = subprocess.run(command, input="\n".join(pins), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"uv could not get the hashes: {done.stderr.strip()[-500:]}")
    return hashes(done.stdout)


def locked(text: str, known: dict[str, list[str]]) -> str:
    """A locked file with the hashes ``known`` under its pins, and no others."""
    lines = []
    for line in text.splitlines():
        pin = PIN.match(line)
        if pin:
            own = known[f"{plain(pin['name'])}=={pin['version']}"]
            lines.append(" \\\n    ".join([pin[0], *sorted(own)]))
        elif not line.lstrip().startswith("--hash="):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKED}
    pins = sorted({pin for text in texts.values() for pin in hashes(text)})
    known = asked(pins)
    if missing := [pin for pin in pins if not known.get(pin)]:
        sys.exit(f"the index lists no hashes for {', '.join(missing)}; nothing was written")
    for name, text in texts.items():
        files.write_text(ROOT / name, locked(text, known))
        print(f"{name}: {len(hashes(text))} pins")


if __name__ == "__main__":
    main()
