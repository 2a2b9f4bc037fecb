from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from imagen_flow._store import file_digests
from imagen_flow._store.file_digests import FileDigests, TooManyFiles
from imagen_flow._system.seals import Seals
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.values import File, FileChanged

LATER = 10**10  # a clock far ahead: every file has long settled


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def reads(digests: FileDigests, path: Path) -> int:
    """Count the blocks that a digest reads: 0 if it is remembered."""
    calls: list[int] = []
    digests.digest_file(path, check=lambda: calls.append(1))
    return len(calls)


@pytest.mark.parametrize("kept", [False, True])
def test_a_settled_file_is_read_once(tmp_path: Path, kept: bool) -> None:
    """A digest is remembered for as long as the file system says that the file is the same."""
    path = written(tmp_path / "a.txt", b"hello")
    digests = FileDigests(tmp_path if kept else None, clock=lambda: LATER)
    assert digests.digest_file(path) == digest_bytes(b"hello")
    assert reads(digests, path) == 0
    path.write_bytes(b"other")
    assert digests.digest_file(path) == digest_bytes(b"other")
    digests.close()


def test_digests_are_remembered_across_processes(tmp_path: Path) -> None:
    """Digests that one instance wrote are known to the next one in the same folder."""
    path = written(tmp_path / "a.txt", b"hello")
    first = FileDigests(tmp_path, clock=lambda: LATER)
    assert reads(first, path) == 1
    first.close()
    second = FileDigests(tmp_path, clock=lambda: LATER)
    assert reads(second, path) == 0
    second.close()


def test_digests_that_somebody_else_wrote_are_not_believed(tmp_path: Path) -> None:
    """In a store that came along with its folder, only what this user wrote counts."""
    path = written(tmp_path / "a.txt", b"hello")
    theirs, mine = (Seals(secret, only_own=True) for secret in (b"theirs", b"mine"))
    for seals, blocks in ((theirs, 1), (theirs, 0), (mine, 1), (mine, 0)):
        digests = FileDigests(tmp_path, seals=seals, clock=lambda: LATER)
        assert reads(digests, path) == blocks
        digests.close()


def test_what_is_digested_after_a_pause_is_remembered_too(tmp_path: Path) -> None:
    """The file is opened again when it is needed again."""
    one, two = (written(tmp_path / name, name.encode()) for name in ("a.txt", "b.txt"))
    digests = FileDigests(tmp_path, clock=lambda: LATER)
    for path in (one, two):
        digests.digest_file(path)
        digests.suspend()
    digests = FileDigests(tmp_path, clock=lambda: LATER)
    assert (reads(digests, one), reads(digests, two)) == (0, 0)
    digests.close()


def test_times_beyond_64_bits_are_remembered(tmp_path: Path) -> None:
    """Some file systems keep times after the year 2262, in nanoseconds, and are no slower for it."""
    path, far = written(tmp_path / "a.txt", b"hello"), 13 * 10**18
    os.utime(path, ns=(far, far))
    if os.stat(path).st_mtime_ns != far:
        pytest.skip("the file system does not keep such times")
    for blocks in (1, 0):
        digests = FileDigests(tmp_path, clock=lambda: 2e10)
        assert reads(digests, path) == blocks
        digests.close()


def test_a_young_file_is_read_each_time(tmp_path: Path) -> None:
    """A file that changed less than two seconds ago may change again under the same time, so
    nothing is remembered.
    """
    path = written(tmp_path / "a.txt", b"hello")
    changed = os.stat(path).st_ctime
    digests = FileDigests(clock=lambda: changed + 1.9)
    assert (reads(digests, path), reads(digests, path)) == (1, 1)
    digests = FileDigests(clock=lambda: changed + 2.1)
    assert (reads(digests, path), reads(digests, path)) == (1, 0)


@pytest.mark.parametrize("mtime_s", [0, 60], ids=["a copy", "a clock ahead"])
def test_a_file_is_as_young_as_the_later_of_its_times(tmp_path: Path, mtime_s: int) -> None:
    """A copy that kept the time of its original was written just now; and what has a time to come
    has not settled before that.
    """
    path = written(tmp_path / "a.txt", b"hello")
    changed = os.stat(path).st_ctime
    os.utime(path, (0, mtime_s and changed + mtime_s))
    later = max(changed + mtime_s, os.stat(path).st_ctime)
    digests = FileDigests(clock=lambda: later + 1.9)
    assert (reads(digests, path), reads(digests, path)) == (1, 1)
    digests = FileDigests(clock=lambda: later + 2.1)
    assert (reads(digests, path), reads(digests, path)) == (1, 0)


def test_a_change_that_keeps_size_and_mtime_is_seen(tmp_path: Path) -> None:
    """Setting the time back does not hide a change: the time of the last change of status betrays
    it.
    """
    path = written(tmp_path / "a.txt", b"hello")
    before = os.stat(path)
    digests = FileDigests(clock=lambda: LATER)
    digests.digest_file(path)
    path.write_bytes(b"jello")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.digest_file(path) == digest_bytes(b"jello")


def test_a_file_that_is_being_written_is_no_value(tmp_path: Path) -> None:
    """A file that changes while it is read has no digest."""
    path = written(tmp_path / "a.txt", b"hello")

    def grow() -> None:
        with open(path, "ab") as out:
            out.write(b"!")

    with pytest.raises(FileChanged, match="is being written to"):
        FileDigests().digest_file(path, check=grow)


def test_a_file_as_a_value_has_the_name_that_the_user_knows(tmp_path: Path) -> None:
    """The name is for messages; without one it is the file's own."""
    path = written(tmp_path / "圖.PNG", b"hello")
    assert FileDigests().file_value(path, "in/圖.PNG") == File(
        path, digest_bytes(b"hello"), 5, "in/圖.PNG"
    )
    assert FileDigests().file_value(path).suffix == ".png"


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    """A folder, a pipe and nothing at all are told apart."""
    with pytest.raises(IsADirectoryError):
        FileDigests().file_value(tmp_path)
    with pytest.raises(FileNotFoundError):
        FileDigests().file_value(tmp_path / "none")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            FileDigests().file_value(tmp_path / "pipe")


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    """Where a folder lies and what is hidden in it do not matter; a name or a byte does."""
    for root in ("one", "two"):
        written(tmp_path / root / "b.txt", b"b")
        written(tmp_path / root / "a" / "c.txt", b"c")
    written(tmp_path / "two" / ".DS_Store", b"x")
    written(tmp_path / "two" / ".git" / "config", b"x")
    (tmp_path / "two" / "empty").mkdir()
    digests = FileDigests()
    one, two = digests.folder_value(tmp_path / "one"), digests.folder_value(tmp_path / "two")
    assert [f.name for f in one] == ["a/c.txt", "b.txt"]
    assert one.digest == two.digest == "daa5967a381ec841a857693a17beb45c663d5c00"
    os.rename(tmp_path / "two" / "b.txt", tmp_path / "two" / "d.txt")
    assert digests.folder_value(tmp_path / "two").digest != one.digest


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_only_inside_the_folder(tmp_path: Path) -> None:
    """A link out of a folder, a loop and a dangling link are left out."""
    written(tmp_path / "secret", b"s")
    written(tmp_path / "in" / "real.txt", b"r")
    (tmp_path / "in" / "inside.txt").symlink_to("real.txt")
    (tmp_path / "in" / "outside.txt").symlink_to("../secret")
    (tmp_path / "in" / "nothing.txt").symlink_to("none")
    (tmp_path / "in" / "loop").symlink_to(".")
    assert [f.name for f in FileDigests().folder_value(tmp_path / "in")] == [
        "inside.txt",
        "real.txt",
    ]


def test_a_folder_of_too_many_files_is_taken_for_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming a home folder by mistake ends early."""
    monkeypatch.setattr(file_digests, "MAX_FILES", 2)
    for i in range(3):
        written(tmp_path / f"{i}", b"")
    with pytest.raises(TooManyFiles, match="more than 2 files"):
        FileDigests().folder_value(tmp_path)


def test_words_about_a_model_are_no_part_of_it(tmp_path: Path) -> None:
    """A better model card is not another model; a config is. A single file is its content."""
    written(tmp_path / "m" / "model.safetensors", b"weights")
    written(tmp_path / "m" / "config.json", b"{}")
    digests = FileDigests()
    before = digests.model_digest(tmp_path / "m")
    written(tmp_path / "m" / "README.md", b"# words")
    assert digests.model_digest(tmp_path / "m") == before
    written(tmp_path / "m" / "config.json", b"{ }")
    assert digests.model_digest(tmp_path / "m") != before
    assert digests.model_digest(tmp_path / "m" / "model.safetensors") == digest_bytes(b"weights")


@pytest.mark.parametrize(
    "damage", [b"not a database at all, but long enough to be read as one", b""]
)
def test_a_damaged_database_is_replaced(tmp_path: Path, damage: bytes) -> None:
    """If the database of digests is damaged, files are digested again."""
    path = written(tmp_path / "a.txt", b"hello")
    written(tmp_path / "files.sqlite", damage)
    for expected in (1, 0):
        digests = FileDigests(tmp_path, clock=lambda: LATER)
        assert reads(digests, path) == expected
        digests.close()


def test_a_database_that_cannot_be_written_is_skipped(tmp_path: Path) -> None:
    """Where no database can be written, files are digested again each time."""
    path = written(tmp_path / "a.txt", b"hello")
    (tmp_path / "files.sqlite").mkdir()
    digests = FileDigests(tmp_path, clock=lambda: LATER)
    assert digests.digest_file(path) == digest_bytes(b"hello")
    digests.close()


def test_threads_share_digests(tmp_path: Path) -> None:
    """Several threads may ask at once."""
    paths = [written(tmp_path / f"{i}", str(i).encode()) for i in range(300)]
    digests = FileDigests(tmp_path, clock=lambda: LATER)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([digests.digest_file(p) for p in paths]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    digests.close()
    assert found == [[digest_bytes(str(i).encode()) for i in range(300)]] * 4
