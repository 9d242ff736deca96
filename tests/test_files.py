"""A file is there whole or not at all, and a damaged one is noticed."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from lib.runs import files, places


def test_a_file_and_a_record_come_back_as_written(tmp_path):
    path = tmp_path / "a" / "b.json"
    content = {"x": [1, 2.5, None], "ü": "字", "places": {9: "a", 10: "b"}}
    files.write_record(path, content)
    assert files.read_record(path) == {**content, "places": {"9": "a", "10": "b"}}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
    assert oct(path.stat().st_mode)[-3:] == "644"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("12345", "12346"),
        lambda text: "{}",
        lambda text: "",
        lambda text: json.dumps({"sha256": "0" * 64, "content": {"x": 12345}}),
        lambda text: "[1, 2]",
        lambda text: "\udcff",
    ],
    ids=["half", "a digit", "no fields", "empty", "another seal", "a list", "no UTF-8"],
)
def test_a_record_that_is_not_what_was_written_is_damaged(tmp_path, damage):
    path = tmp_path / "run.json"
    files.write_record(path, {"x": 12345})
    path.write_bytes(damage(path.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.raises(files.Damaged, match="run.json is not what was written"):
        files.read_record(path)


def test_damaged_files_are_kept_under_names_of_their_own(tmp_path):
    names = []
    for text in "ab":
        (tmp_path / "x").write_text(text)
        names.append(files.set_aside(tmp_path / "x").name)
    assert names == ["x.damaged-1", "x.damaged-2"]
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b"]


def test_a_damaged_file_that_another_process_has_set_aside_is_no_error(tmp_path, capsys):
    def read(path):
        files.set_aside(path)  # the other one, between reading and setting aside
        raise files.Damaged("x is bad", path)

    (tmp_path / "x").write_text("")
    assert files.kept(tmp_path / "x", read) is None and capsys.readouterr().out == ""


def test_a_damaged_file_in_a_folder_that_takes_no_writes_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*given):
        raise PermissionError(errno.EACCES, "Permission denied")

    def read(path):
        raise files.Damaged("x is bad", path)

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(files.NoRoom, match="x.damaged-1 could not be written: the folder is read-"):
        files.kept(tmp_path / "x", read)


def test_a_named_cache_needs_no_home(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(places.Path, "home", nobody)
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    assert places.cache_folder() == tmp_path


REFUSALS = [
    (errno.ENOSPC, "the disk is full"),
    (errno.EROFS, "the disk is read-only"),
    (errno.EACCES, "the folder is read-only"),
    (errno.EPERM, "the folder is read-only"),
    (errno.EDQUOT, "the quota is used up"),
    (errno.EFBIG, "the file is larger than is allowed here"),
]


@pytest.mark.parametrize(("number", "said"), REFUSALS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_takes_no_more_is_one_sentence_and_changes_nothing(
    tmp_path, monkeypatch, call, number, said
):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def refuse(*given):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, refuse)
        with pytest.raises(files.NoRoom, match=f"x.txt could not be written: {said}.*is safe"):
            files.write_text(path, "new")
        with pytest.raises(files.NoRoom, match=said), files.whole_folder(tmp_path / "set") as part:
            (part / "a").write_text("a")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_disk_that_is_really_full(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    size = ["-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", *size]).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        files.write_text(place / "x", "old")
        with pytest.raises(files.NoRoom, match="x could not be written: the disk is full, 200,000"):
            files.write_bytes(place / "x", b"n" * 200_000)
        with pytest.raises(files.NoRoom, match="the disk is full"):
            with files.whole_folder(place / "set") as part:
                (part / "a").write_bytes(b"n" * 200_000)
        assert (place / "x").read_text() == "old"
        assert [path.name for path in place.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "kept").write_text("a file")
    place = tmp_path / "kept" / "runs" / "x"
    with pytest.raises(files.NoRoom, match="a file is where a folder should be"):
        files.write_text(place, "")
    with pytest.raises(files.NoRoom, match="a file is where a folder should be"):
        with files.locked(place):
            pass
    with pytest.raises(files.NoRoom, match="a file is where a folder should be"):
        with files.whole_folder(place):
            pass


def test_an_error_of_another_kind_stays_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "bad")))
    with pytest.raises(OSError, match="bad") as found:
        files.write_text(tmp_path / "x", "")
    assert not isinstance(found.value, files.NoRoom)


def test_what_does_not_fit_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10**9)
    files.budgeted(tmp_path, 10**9, "it")
    with pytest.raises(files.NoRoom, match=r"it needs 2.0 GB in .* 1.0 GB are free; allowed"):
        files.budgeted(tmp_path, 2 * 10**9, "it")
    assert files.free_bytes(tmp_path / "no" / "such") > 0


def test_a_folder_replaces_another_as_one_and_an_error_leaves_the_old_one(tmp_path):
    for text in "ab":
        with files.whole_folder(tmp_path / "set") as part:
            for name in ("one", "two"):
                (part / name).write_text(text)
    assert [(tmp_path / "set" / n).read_text() for n in ("one", "two")] == ["b", "b"]
    with (
        pytest.raises(RuntimeError, match="half way"),
        files.whole_folder(tmp_path / "set") as part,
    ):
        (part / "one").write_text("c")
        raise RuntimeError("half way")
    assert (tmp_path / "set" / "one").read_text() == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one_in_its_place(tmp_path, monkeypatch):
    move = os.replace

    def refuse(old, new):
        if str(old).endswith(".part"):
            raise OSError(errno.ENOSPC, "full")
        move(old, new)

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one").write_text("a")
    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(files.NoRoom, match="is full"), files.whole_folder(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "one").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def _write_for_ever(folder, letter):
    while True:
        files.write_text(folder / "x", letter * 50_000)


def test_readers_under_load_see_one_writer_or_the_other_and_a_kill_leaves_no_half_file(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_for_ever, args=(tmp_path, c)) for c in "ab"]
    for writer in writers:
        writer.start()
    try:
        end, seen = time.monotonic() + 1.0, set()
        while not (tmp_path / "x").is_file():
            assert time.monotonic() < end + 60
        while time.monotonic() < end or (len(seen) < 2 and time.monotonic() < end + 60):
            text = (tmp_path / "x").read_text()
            assert len(text) == 50_000 and len(set(text)) == 1
            seen.add(text[0])
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    assert seen == {"a", "b"}
    files.clear_partial(tmp_path, "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_the_partial_files_of_one_name_are_cleared(tmp_path):
    for name in (".x.abc.part", ".x.abc.old", ".y.abc.part", "x.part", ".x"):
        (tmp_path / name).mkdir() if name.endswith("old") else (tmp_path / name).write_text("")
    files.clear_partial(tmp_path, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x", ".y.abc.part", "x.part"]
    files.clear_partial(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x", "x.part"]


def test_a_lock_is_held_by_one_and_shared_by_readers(tmp_path):
    lock = tmp_path / "lock"
    with files.shared(lock):
        assert not lock.exists(), "nothing was locked, nothing is written"
    with files.locked(lock):
        with pytest.raises(BlockingIOError), files.locked(lock, wait=False):
            pass
    with files.shared(lock), files.shared(lock):
        with pytest.raises(BlockingIOError), files.locked(lock, wait=False):
            pass
    with files.locked(lock, wait=False):
        pass


def test_a_disk_without_locks_or_modes_keeps_what_is_written(tmp_path, monkeypatch, capsys):
    files._say_unlocked.cache_clear()

    def refused(*given):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refused)
    monkeypatch.setattr(files.os, "chmod", refused)
    with files.locked(tmp_path / "lock"), files.locked(tmp_path / "lock", wait=False):
        files.write_text(tmp_path / "a" / "text", "held")
    assert (tmp_path / "a" / "text").read_text() == "held"
    assert capsys.readouterr().out.count("this disk has no locks") == 1


def test_scratch_space_is_budgeted_goes_and_says_what_is_full(tmp_path):
    with pytest.raises(files.NoRoom, match="the parcel needs .* GB in .*; allowed: a smaller size"):
        with files.scratch(tmp_path / "cache", 10**18, "the parcel"):
            raise AssertionError
    assert not (tmp_path / "cache").exists(), "nothing is made before"
    with pytest.raises(files.NoRoom, match="the-parcel could not be written: the disk is full, 1"):
        with files.scratch(tmp_path / "cache", 1_000, "the parcel") as folder:
            (folder / "part").write_text("x")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list((tmp_path / "cache").iterdir())
