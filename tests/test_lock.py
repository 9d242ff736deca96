"""What is installed is what was locked: every pin has hashes, with one exception that is named."""

import re
import subprocess
import sys

import pytest
from conftest import load_tool

from lib.runs.places import ROOT

tool = load_tool("lock")

WITHOUT_HASHES = {"requirements-torch.lock": ["torch"]}  # its builds come from elsewhere
FILES = (*tool.LOCKED, *WITHOUT_HASHES)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Version by package of a locked file."""
    return dict(pin.split("==") for pin in tool.hashes(read(name)))


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_hashes_but_the_named_exceptions(name):
    bare = [pin.split("==")[0] for pin, own in tool.hashes(read(name)).items() if not own]
    assert bare == WITHOUT_HASHES.get(name, [])
    for line in read(name).splitlines():  # nothing but exact pins, hashes and comments
        assert re.match(r"#|$|    --hash=sha256:[0-9a-f]{64}( \\)?$|\S+==\S+( \\)?$", line), line


def test_a_package_has_one_version_in_all_locked_files():
    seen: dict[str, str] = {}
    for name in FILES:
        for package, version in pins(name).items():
            assert seen.setdefault(package, version) == version, package


def test_make_installs_locked_files_and_resolves_only_torch():
    installs = re.findall(r"^\t\$\(BIN\)/python -m pip install .*$", read("Makefile"), re.M)
    for name in tool.LOCKED:
        assert any(line.endswith(f"--no-deps -r {name}") for line in installs), name
    assert any(line.endswith("-r requirements-torch.lock") for line in installs)
    assert not any("-c requirements" in line for line in installs)  # hashes forbid it


def test_the_tool_keeps_versions_order_and_comments():
    text = "# why\nb_b==2.0\n\n# more\nA.a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n"
    known = {"a-a==1": [f"--hash=sha256:{'2' * 64}", f"--hash=sha256:{'1' * 64}"]}
    known["b-b==2.0"] = [f"--hash=sha256:{'3' * 64}"]
    done = tool.locked(text, known)
    assert [line for line in done.splitlines() if "--hash" not in line] == [
        "# why", "b_b==2.0 \\", "", "# more", "A.a==1 \\",
    ]  # fmt: skip
    assert tool.hashes(done) == {name: sorted(own) for name, own in known.items()}
    assert tool.locked(done, known) == done


def test_pip_refuses_a_file_of_another_hash(tmp_path):
    """The wheel is made here and nothing is asked of an index."""
    import zipfile

    wheel = tmp_path / "lock_probe-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "lock_probe-1.dist-info"
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: lock-probe\nVersion: 1\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    listed = tmp_path / "requirements.lock"
    listed.write_text(
        tool.locked("lock-probe==1\n", {"lock-probe==1": [f"--hash=sha256:{'0' * 64}"]})
    )
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--dry-run"]
    command += ["--find-links", str(tmp_path), "-r", str(listed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "DO NOT MATCH THE HASHES" in done.stderr


def test_without_uv_the_tool_says_so_and_writes_nothing(tmp_path):
    before = [read(name) for name in tool.LOCKED]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "lock.py")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "uv is not here, and it asks the index for hashes: pip install uv\n"
    assert [read(name) for name in tool.LOCKED] == before
