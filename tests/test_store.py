from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagen_flow._store import Damaged, Store, opening
from imagen_flow._store.opening import network_file_system
from imagen_flow._types.artifact import Artifact
from imagen_flow._types.codec import Codec, Codecs
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.models import Model
from imagen_flow._types.values import Absent, Audio, File, FileChanged, Folder, Image, Mask, Tensor
from imagen_flow.errors import StoreError

CODECS = Codecs()
NOISE = np.random.default_rng(7).integers(
    0, 256, (200, 200, 3), dtype="uint8"
)  # 120 kB whatever the encoding

#: One value of each kind, and some that are too large for the index.
VALUES: dict[str, Any] = {
    "bool": True,
    "int": 2**70,
    "float": 0.1,
    "text": "red 圓 \ud83d",
    "json": {"a": [1, None]},
    "absent": Absent.value,
    "list": [1, ["a", []]],
    "image": Image(NOISE[:9]),
    "image large": Image(NOISE),
    "image deep": Image(NOISE.astype("uint16") * 257),
    "mask": Mask(NOISE[:, :, :1]),
    "tensor": Tensor(np.arange(6.0), {"a": "b"}),
    "tensor large": Tensor(np.arange(60_000.0)),
    "audio": Audio(np.zeros((2, 9)), 8000),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(folder: Path, **options: Any) -> Store:
    return Store.open(folder, CODECS, **options)


def keep(store: Store, key: str, value: Any, **more: Any) -> Artifact:
    value = store.adopt(value)
    artifact = store.codecs.artifact(value)
    store.keep(key, {"value": (artifact, value)}, more)
    return artifact


def object_of(folder: Path) -> Path:
    """The one large object of a store."""
    (path,) = [p for p in (folder / "objects").rglob("*") if p.is_file()]
    return path


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_comes_back_after_a_restart(folder: Path, name: str) -> None:
    """A kept value has the same digest when another process reads it."""
    with opened(folder) as store:
        artifact = keep(store, "k", VALUES[name], node="n")
    with opened(folder) as store:
        record = store.lookup("k")
        assert record is not None
        assert record.outputs == {"value": artifact}
        assert record.provenance == {"node": "n"}
        assert store.has_value(artifact)
        assert CODECS.digest(store.load(artifact)) == artifact.digest
        assert store.take_warnings() == []


def test_a_record_is_served_before_it_is_written(folder: Path) -> None:
    """What was just kept is found at once, as the very object that was given."""
    with opened(folder) as store:
        value = Image(NOISE)
        artifact = keep(store, "k", value, a=1)
        record = store.lookup("k")
        assert record is not None
        assert (record.outputs, record.provenance) == ({"value": artifact}, {"a": 1})
        assert store.load(artifact) is value
        store.flush()
        assert store.load(artifact) is not value


def test_small_values_lie_in_the_index_and_large_ones_beside_it(folder: Path) -> None:
    """Up to 64 KiB of encoding there is no file."""
    with opened(folder) as store:
        keep(store, "small", Image(NOISE[:9]))
        keep(store, "large", Image(NOISE))
    assert object_of(folder).suffix == ".png"


def test_equal_values_are_stored_once(folder: Path) -> None:
    """Two steps that gave the same picture share one object."""
    with opened(folder) as store:
        for i in range(5):
            keep(store, f"k{i}", Image(NOISE.copy()))
    assert object_of(folder)


def test_a_key_that_is_not_there_gives_none(folder: Path) -> None:
    """A look-up does not raise, and forcing a step again replaces its record."""
    with opened(folder) as store:
        assert store.lookup("k") is None
        keep(store, "k", 1)
        store.flush()
        second = keep(store, "k", 2)
    with opened(folder) as store:
        record = store.lookup("k")
        assert record is not None
        assert record.outputs == {"value": second}


def test_named_outputs_and_lists_are_recorded_with_their_elements(folder: Path) -> None:
    """A record says what a list holds without reading it."""
    with opened(folder) as store:
        one, many = CODECS.artifact(1), CODECS.artifact([Image(NOISE), [2, 3]])
        store.keep("k", {"first": (one, 1), "rest": (many, [Image(NOISE), [2, 3]])}, {})
    with opened(folder) as store:
        record = store.lookup("k")
        assert record is not None
        assert record.outputs == {"first": one, "rest": many}
        assert list(record.outputs) == ["first", "rest"]
        picture, numbers = store.load(many)
        assert (picture.pixels.tolist(), numbers) == (NOISE.tolist(), [2, 3])


# ---- damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("name", ["image large", "tensor large"])
def test_a_damaged_object_is_forgotten_with_the_steps_that_gave_it(
    folder: Path, damage: Any, name: str
) -> None:
    """Nothing wrong is served: the step is no longer known, and once it has run again all is well."""
    value = VALUES[name]
    with opened(folder) as store:
        artifact = keep(store, "k", value)
        keep(store, "listed", [1, value])
        keep(store, "other", 1)
    damage(object_of(folder))
    with opened(folder) as store:
        with pytest.raises(
            Damaged, match=f"{artifact.kind} {artifact.digest[:8]} is (damaged|missing)"
        ):
            store.load(artifact)
        assert (store.lookup("k"), store.lookup("listed"), store.has_value(artifact)) == (
            None,
            None,
            False,
        )
        assert store.lookup("other") is not None
        keep(store, "k", value)
    with opened(folder) as store:
        assert CODECS.digest(store.load(artifact)) == artifact.digest


def test_a_value_in_the_index_is_digested_too(folder: Path) -> None:
    """A row that somebody changed is damage, not a value."""
    with opened(folder) as store:
        artifact = keep(store, "k", "true")
    db = sqlite3.connect(folder / "index.sqlite")
    db.execute("UPDATE value SET body=?", (b'"false"',))
    db.commit()
    db.close()
    with opened(folder) as store:
        with pytest.raises(Damaged):
            store.load(artifact)
        assert store.lookup("k") is None


def test_a_row_cannot_name_a_file_outside(folder: Path, tmp_path: Path) -> None:
    """A place that leads out of the store is damage, and what lies there is left alone."""
    (tmp_path / "precious").write_bytes(b"x")
    with opened(folder) as store:
        artifact = keep(store, "k", Image(NOISE))
    db = sqlite3.connect(folder / "index.sqlite")
    db.execute("UPDATE value SET place='../precious', size=1")
    db.commit()
    db.close()
    with opened(folder) as store, pytest.raises(Damaged):
        store.load(artifact)
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_verify_reads_everything_and_forgets_what_is_damaged(folder: Path) -> None:
    """After a verification, only what is whole is left."""
    with opened(folder) as store:
        keep(store, "good", 1)
        keep(store, "bad", Image(NOISE))
    flip(object_of(folder))
    seen: list[tuple[int, int]] = []
    with opened(folder) as store:
        found = store.verify(lambda done, total: seen.append((done, total)))
        assert (found.checked, len(found.damaged)) == (2, 1)
        assert (store.lookup("good") is None, store.lookup("bad") is None) == (False, True)
        assert store.verify().damaged == ()
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "damage", [b"this is no database, though it is long enough to look like one" * 20, None]
)
def test_a_damaged_index_is_put_aside(folder: Path, damage: bytes | None) -> None:
    """The store begins anew, keeps the damaged index for who wants it, and says so."""
    with opened(folder) as store:
        keep(store, "k", 1)
    content = (folder / "index.sqlite").read_bytes()
    (folder / "index.sqlite").write_bytes(damage or content[:100] + b"\xff" * (len(content) - 100))
    with opened(folder) as store:
        (warning,) = store.take_warnings()
        assert "index was damaged" in warning
        assert store.lookup("k") is None
        keep(store, "k", 2)
    with opened(folder) as store:
        assert store.lookup("k") is not None
    assert (folder / "index.damaged-1.sqlite").exists()


# ---- folders that cannot be a store


def test_a_file_is_no_store(tmp_path: Path) -> None:
    """What, why and how to mend are said."""
    (tmp_path / "f").write_text("x")
    with pytest.raises(StoreError) as refused:
        opened(tmp_path / "f")
    assert str(refused.value) == (
        f"the store '{tmp_path / 'f'}' cannot be used\n  = why: it is a file, not a folder\n  = fix: name another folder with --store or IMAGEN_FLOW_STORE"
    )
    with pytest.raises(StoreError, match="cannot be used"):
        opened(tmp_path / "f" / "below")


def test_a_folder_with_other_things_in_it_is_no_store(tmp_path: Path) -> None:
    """A home folder named by mistake is not filled, let alone cleared."""
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(
        StoreError, match=r"is not a store and not empty \(it contains 'thesis.txt'\)"
    ):
        opened(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_of_a_newer_format_is_left_alone(folder: Path) -> None:
    """An old version does not touch what a newer one wrote."""
    opened(folder).close()
    db = sqlite3.connect(folder / "index.sqlite")
    db.executescript("PRAGMA user_version=99; CREATE TABLE newer (x)")
    db.close()
    before = (folder / "index.sqlite").read_bytes()
    with pytest.raises(StoreError, match=r"created by a newer imagen_flow \(format 99\)"):
        opened(folder)
    assert (folder / "index.sqlite").read_bytes() == before


def test_a_network_file_system_is_recognised() -> None:
    """The mount that lies nearest above the folder says what it is."""
    mounts = (
        "21 1 0:20 / / rw - ext4 /dev/sda1 rw\n"
        "22 21 0:21 / /mnt/team\\040share rw,relatime shared:1 - nfs4 server:/x rw\n"
        "23 22 0:22 / /mnt/team\\040share/local rw - xfs /dev/sdb rw\n"
        "24 21 0:23 / /mnt/ssh rw - fuse.sshfs host: rw\n"
    )
    assert network_file_system(Path("/mnt/team share/store"), mounts) == "nfs4"
    assert network_file_system(Path("/mnt/team share/local/store"), mounts) == ""
    assert network_file_system(Path("/mnt/team sharer"), mounts) == ""
    assert network_file_system(Path("/mnt/ssh"), mounts) == "fuse.sshfs"
    assert network_file_system(Path("/home/me"), mounts) == ""


# ---- what cannot be written


def test_a_value_that_cannot_be_written_stays_in_memory(folder: Path) -> None:
    """Where objects cannot be put (a file stands in the way), the run goes on, and is told once."""
    with opened(folder) as store:
        (folder / "objects").rmdir()
        (folder / "objects").write_text("in the way")
        value = Image(NOISE)
        artifact = keep(store, "k", value)
        keep(store, "k2", Image(NOISE[::-1]))
        keep(store, "small", 1)
        store.flush()
        assert store.load(artifact) is value
        assert store.lookup("k") is not None
        (warning,) = store.take_warnings()
        assert "cannot write results" in warning
        assert store.take_warnings() == []
        assert store.lease("k")
        store.release("k")
        assert store.lease("k")
        (folder / "objects").unlink()
    with opened(folder) as store:
        assert (store.lookup("k"), store.lookup("small") is None) == (None, False)


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from imagen_flow._types.codec import Codecs
from imagen_flow._store import Store
from imagen_flow._types.values import Tensor
codecs = Codecs()
with Store.open(Path(sys.argv[1]), codecs) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    kept = []
    for i in range(300):
        value = Tensor(np.full(20_000 if i % 2 else 1_000, i, dtype="float64"))
        artifact = codecs.artifact(value)
        store.keep(f"k{i}", {"value": (artifact, value)}, {})
        kept.append(artifact)
    store.flush()
    assert all(store.lookup(f"k{i}") for i in range(300))
    assert [store.load(a).data[0] for a in kept] == list(range(300))
    print(len(store.take_warnings()) > 0)
"""


def test_a_full_disk_costs_the_run_nothing(folder: Path) -> None:
    """With a limit on file sizes in place of a full disk: every value is still served, and what did
    reach the disk is whole.
    """
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
    with opened(folder) as store:
        assert store.verify().damaged == ()


def test_memory_for_what_cannot_be_written_is_bounded(folder: Path) -> None:
    """With the disk full for long, the oldest values are let go: they would have to be made again."""
    with opened(folder, queue_bytes=300_000) as store:
        (folder / "objects").rmdir()
        (folder / "objects").write_text("in the way")
        for i in range(10):
            keep(store, f"k{i}", Image(np.roll(NOISE, i + 1, axis=0)))
        store.flush()
        assert [i for i in range(10) if store.lookup(f"k{i}")] == [8, 9]


def test_what_has_no_encoding_fails_alone(folder: Path) -> None:
    """A codec that breaks costs only the value that it was to encode."""

    @dataclass(frozen=True)
    class Odd:
        broken: bool

    def encode(value: Odd) -> bytes:
        if value.broken and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("out of ink")
        return repr(value.broken).encode()

    codecs = Codecs([Codec("test.Odd", Odd, encode, lambda b: Odd(b == b"True"))])
    with Store.open(folder, codecs) as store:
        keep(store, "broken", Odd(True))
        keep(store, "whole", Odd(False))
        store.flush()
        assert "out of ink" in store.take_warnings()[0]
    with Store.open(folder, codecs) as store:
        assert (store.lookup("broken"), store.lookup("whole") is None) == (None, False)


def test_a_record_that_is_replaced_while_it_is_written_is_the_later_one(folder: Path) -> None:
    """What is on its way to the disk is served until it is there itself, not until an earlier
    record of the same key is.
    """

    @dataclass(frozen=True)
    class Slow:
        number: int

    reached, gates = ({number: threading.Event() for number in (1, 2)} for _ in range(2))

    def encode(value: Slow) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            reached[value.number].set()
            assert gates[value.number].wait(10)
        return str(value.number).encode()

    codecs = Codecs([Codec("test.Slow", Slow, encode, lambda b: Slow(int(b)))])
    with Store.open(folder, codecs) as store, Store.open(folder, codecs) as other:
        assert store.lease("k")
        keep(store, "k", Slow(1))
        store.release("k")
        assert reached[1].wait(10)
        later = keep(store, "k", Slow(2))
        gates[1].set()
        assert other.lease("k", wait_s=10)  # the earlier one is on the disk
        record = store.lookup("k")
        assert record is not None
        assert record.outputs == {"value": later}
        gates[2].set()


def test_a_full_queue_waits(folder: Path) -> None:
    """More than the queue may hold is never in memory at once, and everything arrives."""
    with opened(folder, queue_bytes=200_000) as store:
        for i in range(12):
            keep(store, f"k{i}", Image(np.roll(NOISE, i, axis=0)))
            assert store._writer.queued_bytes <= 200_000
    with opened(folder) as store:
        assert all(store.lookup(f"k{i}") for i in range(12))


def test_what_alone_is_more_than_the_queue_holds_is_kept_too(folder: Path) -> None:
    """It does not wait for room that there will never be."""
    with opened(folder, queue_bytes=1000) as store:
        keeping = threading.Thread(target=keep, args=(store, "k", Image(NOISE)), daemon=True)
        keeping.start()
        keeping.join(20)
        assert not keeping.is_alive()
    with opened(folder) as store:
        assert store.lookup("k")


def test_a_closed_store_takes_nothing(folder: Path) -> None:
    """Closing twice is fine, keeping afterwards is not."""
    store = opened(folder)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.keep("k", {}, {})


# ---- kills and company

LOOP = """
import sys
from pathlib import Path
import numpy as np
from imagen_flow._types.codec import Codecs
from imagen_flow._store import Store
from imagen_flow._types.values import Image
codecs = Codecs()
store = Store.open(Path(sys.argv[1]), codecs)
i = 0
while True:
    value = Image(np.random.default_rng(i).integers(0, 256, (160, 160, 3), dtype="uint8")) if i % 3 == 0 else i
    artifact = codecs.artifact(value)
    store.keep(f"k{i}", {"value": (artifact, value)}, {"i": i})
    i += 1
    if i % 50 == 0:
        store.flush()
        print(i, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_a_kill_loses_at_most_the_queue_and_harms_nothing(folder: Path) -> None:
    """After kill -9 in the middle of writing, everything flushed is there, and everything recorded
    loads right.
    """
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            flushed = [int(process.stdout.readline()) for _ in range(3)][-1]
            process.send_signal(signal.SIGKILL)
        with opened(folder) as store:
            assert store.take_warnings() == []
            assert all(store.lookup(f"k{i}") for i in range(flushed))
            assert store.verify().damaged == ()
            for i in range(0, flushed, 7):
                record = store.lookup(f"k{i}")
                assert record is not None
                assert record.provenance == {"i": i}


SHARE = """
import sys
from pathlib import Path
from imagen_flow._types.codec import Codecs
from imagen_flow._store import Store
codecs = Codecs()
made = 0
with Store.open(Path(sys.argv[1]), codecs) as store:
    for i in range(150):
        key = f"k{i}"
        assert store.lease(key, wait_s=30)
        record = store.lookup(key)
        if record is None:
            made += 1
            store.keep(key, {"value": (codecs.artifact("x" * i), "x" * i)}, {})
        else:
            assert store.load(record.outputs["value"]) == "x" * i
        store.release(key)
print(made)
"""


def test_two_processes_make_each_key_once(folder: Path) -> None:
    """Who wants a key in the making waits until it is recorded, and then finds it."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    made = [int(process.communicate(timeout=120)[0]) for process in both]
    assert sum(made) == 150


HOLD = """
import sys
from pathlib import Path
from imagen_flow._types.codec import Codecs
from imagen_flow._store import Store
store = Store.open(Path(sys.argv[1]), Codecs())
assert store.lease("k")
store.pin("run", ["kept"])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_claim_and_a_pin_end_with_their_process(folder: Path) -> None:
    """A killed process leaves nothing that anyone would have to wait out."""
    with opened(folder) as store:
        keep(store, "kept", 1)
        keep(store, "loose", 2)
        command = [sys.executable, "-c", HOLD, str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            assert not store.lease("k")
            assert not store.lease("k", wait_s=0.02)
            cleaned = store.gc(max_size=0)
            assert (cleaned.steps_removed, cleaned.steps_pinned) == (1, 1)
            with pytest.raises(StoreError, match="in use by a run"):
                store.clear()
            process.kill()
            process.wait()
        assert store.lease("k")
        assert store.gc(max_size=0).steps_removed == 1
        assert list((folder / "pins").iterdir()) == []


def test_what_a_run_makes_and_finds_is_pinned_with_it(folder: Path) -> None:
    """A clean-up beside a run leaves what the run has made so far and what it has found; once it,
    and every other run of the same store, is over, they go like the rest.
    """
    with opened(folder) as store, opened(folder) as other:
        for key in ("before", "found"):
            keep(store, key, key)
        store.flush()
        store.pin("run", [])
        store.pin("another", [])
        assert store.lookup("found")
        keep(store, "made", Image(NOISE))
        store.flush()
        cleaned = other.gc(max_size=0)
        assert (cleaned.steps_removed, cleaned.steps_pinned) == (1, 2)
        assert [bool(other.lookup(key)) for key in ("before", "found", "made")] == [
            False,
            True,
            True,
        ]
        store.unpin("run")
        assert other.gc(max_size=0).steps_removed == 0
        store.unpin("another")
        assert other.gc(max_size=0).steps_removed == 2


def test_waiting_for_a_key_can_be_cancelled(folder: Path) -> None:
    """Two stores in one process keep each other out; a wait ends when it is told to."""
    cancel = threading.Event()
    with opened(folder) as one, opened(folder) as other:
        assert one.lease("k")
        assert not one.lease("k")
        threading.Timer(0.02, cancel.set).start()
        assert not other.lease("k", wait_s=60, cancel=cancel)

        class Freeing(threading.Event):
            """Is set in the moment in which the key becomes free."""

            def wait(self, timeout: float | None = None) -> bool:
                one.release("k")
                return True

        assert not other.lease("k", wait_s=60, cancel=Freeing())
        assert other.lease("k")


# ---- clean-up


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def test_what_was_not_used_for_longest_goes_first(folder: Path) -> None:
    """Clean-up keeps to a size, and a look-up counts as use."""
    clock = Clock()
    with opened(folder, clock=clock) as store:
        for i in range(4):
            keep(store, f"k{i}", Image(np.roll(NOISE, i, axis=0)))
            store.flush()
            clock.now += 1000
        assert store.lookup("k0")
        clock.now += 1000
        cleaned = store.gc(max_size=300_000)
        assert [i for i in range(4) if store.lookup(f"k{i}")] == [0, 3]
        assert (cleaned.steps_removed, cleaned.values_removed, cleaned.bytes_left <= 300_000) == (
            2,
            2,
            True,
        )
        assert len(list((folder / "objects").rglob("*.png"))) == 2
        clock.now += 1000
        assert store.lookup("k3")
        clock.now += 3000
        assert store.gc(older_than_s=3500).steps_removed == 1
        assert store.info()["steps"] == 1


def test_a_use_is_written_down_every_ten_minutes_at_most(folder: Path) -> None:
    """Clean-up is no finer than that, and a look-up need not write."""
    clock = Clock()
    with opened(folder, clock=clock) as store:
        keep(store, "k", 1)

        def used_after(s: float) -> float:
            clock.now += s
            assert store.lookup("k")
            return float(store.info()["newest_use"]) - 1e9

        assert used_after(0) == 0
        assert used_after(590) == 0
        assert used_after(20) == 610
        assert used_after(-5000) == -4390  # a clock that was set back counts from there


def test_clean_up_by_age_forgets_old_graphs_too(folder: Path) -> None:
    """The keys of a graph's last run go with its age, those of others stay."""
    clock = Clock()
    with opened(folder, clock=clock) as store:
        store.record_history("old.yaml", {"a": "k"})
        clock.now += 5000
        store.record_history("new.yaml", {"a": "k"})
        store.gc(max_size=0)
        assert [bool(store.history(name)) for name in ("old.yaml", "new.yaml")] == [True, True]
        store.gc(older_than_s=1000)
        assert [bool(store.history(name)) for name in ("old.yaml", "new.yaml")] == [False, True]


def test_a_last_use_that_cannot_be_is_long_ago(folder: Path) -> None:
    """Else what is said to be used far in the future would never be cleaned up."""
    with opened(folder) as store:
        for key in ("future", "now"):
            keep(store, key, key)
        store.flush()
        with closing(sqlite3.connect(folder / "index.sqlite")) as index:
            index.execute("UPDATE step SET used=? WHERE key='future'", (2**60,))
            index.commit()
        assert store.gc(older_than_s=3600).steps_removed == 1
        assert store.lookup("now")


def test_a_value_goes_with_the_last_step_that_gave_it(folder: Path) -> None:
    """What another step gave as well stays."""
    clock = Clock()
    with opened(folder, clock=clock) as store:
        keep(store, "old", Image(NOISE))
        store.flush()
        clock.now += 5000
        artifact = keep(store, "new", [Image(NOISE)])
        cleaned = store.gc(older_than_s=1000)
        assert (cleaned.steps_removed, cleaned.values_removed) == (1, 0)
        assert store.load(artifact)[0].pixels.tolist() == NOISE.tolist()


def test_a_store_of_just_the_size_is_left_alone(folder: Path) -> None:
    """What is counted is what stays: a clean-up says how large the store is, and one to that size
    removes nothing.
    """
    with opened(folder, clock=Clock()) as store:
        for i in range(3):
            keep(store, f"k{i}", [Image(NOISE), Image(np.roll(NOISE, i, axis=0))])
        size = store.gc(max_size=10**9).bytes_left
        assert store.gc(max_size=size).steps_removed == 0
        cleaned = store.gc(max_size=size - 1)
        assert cleaned.steps_removed == 1
        assert cleaned.bytes_left == size - cleaned.bytes_freed == store.gc().bytes_left


def test_a_value_that_is_pinned_by_its_digest_stays(folder: Path) -> None:
    """It stays with the step that gave it, and alone where that step gives another by now."""
    with opened(folder) as store:
        pinned = keep(store, "pinned", Image(NOISE))
        replaced = keep(store, "replaced", Image(NOISE[:90]))
        keep(store, "replaced", 1)
        keep(store, "other", 2)
        store.flush()
        with opened(folder) as run:
            run.pin("run", [pinned.digest, replaced.digest])
            cleaned = store.gc(max_size=0)
            assert (cleaned.steps_removed, cleaned.steps_pinned) == (2, 1)
            assert store.load(replaced).pixels.shape == (90, 200, 3)
        cleaned = store.gc(max_size=0)
        assert (cleaned.steps_removed, cleaned.values_removed) == (1, 2)


def test_what_may_be_about_to_be_recorded_is_not_cleaned_up(folder: Path) -> None:
    """An object or a folder that no record names stays for an hour; a step's scratch folder for a
    week, and as long as the step is being made.
    """
    clock = Clock()
    clock.now = time.time()
    with opened(folder, clock=clock) as store, opened(folder) as other:
        (folder / "objects/ab").mkdir(parents=True)
        unnamed = folder / "objects/ab/cdef.png"
        unnamed.write_bytes(b"x")
        tree = folder / "trees" / ("0" * 40)
        tree.mkdir()
        scratch = other.scratch("step")
        assert other.lease("step")

        def left(after_s: float) -> list[bool]:
            clock.now = time.time() + after_s
            store.gc()
            return [path.exists() for path in (unnamed, tree, scratch)]

        assert left(3500) == [True, True, True]
        assert left(3700) == [False, False, True]
        assert left(8 * 86_400) == [False, False, True]
        other.release("step")
        assert left(6 * 86_400) == [False, False, True]
        assert left(8 * 86_400) == [False, False, False]


def test_clear_empties_the_store_and_nothing_else(folder: Path) -> None:
    """A cleared store works on."""
    with opened(folder) as store:
        keep(store, "k", Image(NOISE))
        store.scratch("k")
        store.flush()
        (folder / "note.txt").write_text("mine")
        store.clear()
        assert store.lookup("k") is None
        assert list((folder / "objects").iterdir()) == []
        assert (folder / "note.txt").exists()
        keep(store, "k", Image(NOISE))
    with opened(folder) as store:
        assert store.verify().checked == 1


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EINVAL", "EOPNOTSUPP", "EACCES", "EPERM"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that answers every lock with this error."""
    fcntl = pytest.importorskip("fcntl")
    number, real = getattr(errno, request.param), fcntl.fcntl

    def refuse(fd: int, command: int, *given: Any) -> Any:
        if command in (
            fcntl.F_SETLK,
            fcntl.F_SETLKW,
            getattr(fcntl, "F_OFD_SETLK", -1),
            getattr(fcntl, "F_OFD_SETLKW", -1),
        ):
            raise OSError(number, os.strerror(number))
        return real(fd, command, *given)

    def refuse_all(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse_all)
    monkeypatch.setattr(fcntl, "flock", refuse_all)
    return str(request.param)


def test_without_locks_a_store_serves_one_process_at_a_time(
    folder: Path, no_locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works and says so; a second user is refused in words, and a process that was killed is no
    hindrance.
    """
    with opened(folder) as store:
        assert store.take_warnings() == [
            f"the file system of the store {folder} has no locks: only one process at a time can use it"
        ]
        artifact = keep(store, "k", Image(NOISE))
        assert store.lease("other")
        assert not store.lease("other")
        store.pin("run", ["k"])
        assert store.info()["pinned"] == 1
        monkeypatch.setattr(opening, "PATIENCE_S", 0)
        with pytest.raises(
            StoreError,
            match=rf"one process at a time can use it, and process {os.getpid()} of .* is using it\n  = fix: wait for it to end",
        ):
            opened(folder)
    with opened(folder) as store:
        assert store.load(artifact).pixels.tolist() == NOISE.tolist()
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from imagen_flow._store.locks import _OwnerFile; from pathlib import Path; import os; _OwnerFile(Path({str(folder / 'locks.owner')!r}), 0); os._exit(9)",
        ],
        check=False,
    )
    assert (killed.returncode, (folder / "locks.owner").exists()) == (9, True)
    opened(folder).close()
    assert not (folder / "locks.owner").exists()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"process": "x", "pid": "x"}',
        '{"process": [], "pid": 1}',
        "\xff",
        "[" * 900,
    ],
)
def test_a_file_of_no_sense_does_not_say_who_has_a_store(
    folder: Path, no_locks: str, words: str
) -> None:
    """Whatever it holds, the store can be used."""
    opened(folder).close()
    (folder / "locks.owner").write_bytes(words.encode("latin-1"))
    opened(folder).close()


def test_another_hosts_process_is_taken_to_live(
    folder: Path, no_locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it does cannot be seen from here; the file to remove is named."""
    opened(folder).close()
    (folder / "locks.owner").write_text(
        '{"process": "00000000_00000000_7_0", "host": "far", "pid": 7}'
    )
    monkeypatch.setattr(opening, "PATIENCE_S", 0)
    with pytest.raises(
        StoreError,
        match=r"process 7 of 'far' is using it\n  = fix: wait for it to end \(if it has ended, remove '.*locks.owner'\)",
    ):
        opened(folder)


def test_locks_that_run_out_cost_work_at_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no more locks to give, keys are made without, and nobody is taken for
    dead.
    """
    import fcntl

    with opened(folder) as store:
        store.pin("run", ["k"])

        def refuse(*given: Any) -> None:
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(fcntl, "fcntl", refuse)
        assert store.lease("a")
        store.release("a")
        assert store.info()["pinned"] == 1


def test_a_store_is_not_cleared_under_a_run_that_found_nothing_in_it(folder: Path) -> None:
    """Its scratch folders and what it has made so far stay."""
    with opened(folder) as store, opened(folder) as other:
        store.pin("run", [])
        scratch = store.scratch("k")
        with pytest.raises(StoreError, match="in use by a run"):
            other.clear()
        assert scratch.exists()
        store.unpin("run")
        other.clear()


def test_a_temporary_store_leaves_nothing() -> None:
    """A run that keeps nothing still has a place for files that nodes make."""
    store = Store.temporary(CODECS)
    keep(store, "k", Image(NOISE))
    store.close()
    assert not store.folder.exists()


# ---- files, folders and models


def test_a_file_made_in_scratch_becomes_the_stores(folder: Path) -> None:
    """Its content outlives the scratch folder and the process, and keeps its name and ending."""
    with opened(folder) as store:
        made = store.scratch("k") / "Sheet.PDF"
        made.write_bytes(b"content")
        artifact = keep(store, "k", File(made, "", 0, "Sheet.PDF"))
        store.drop_scratch("k")
        assert store.load(artifact).read_bytes() == b"content"
    assert list((folder / "scratch").iterdir()) == []
    moved = folder.rename(folder.with_name("moved"))
    with opened(moved) as store:
        file = store.load(artifact)
        assert (file.read_bytes(), file.name, file.path.suffix, file.size) == (
            b"content",
            "Sheet.PDF",
            ".pdf",
            7,
        )
        assert file.path.is_relative_to(moved)
        file.path.chmod(0o644)
        file.path.write_bytes(b"cOntent")
        with pytest.raises(Damaged):
            store.load(artifact)
        assert store.lookup("k") is None


def test_a_users_file_is_kept_by_reference(folder: Path, tmp_path: Path) -> None:
    """It is not copied; once it has another content, what names it is damaged."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"x" * 100_000)
    with opened(folder) as store:
        artifact = keep(store, "k", [store.files.file_value(path)])
        store.flush()
        assert list((folder / "objects").iterdir()) == []
        assert store.load(artifact)[0].path == path
        path.write_bytes(b"y")
        with pytest.raises(Damaged, match="has changed"):
            store.load(artifact)
        with pytest.raises(FileChanged):
            store.adopt(File(path, digest_bytes(b"z"), 1, "photo.jpg"))


@pytest.mark.parametrize("single", [False, True])
def test_a_trained_model_is_kept_file_by_file(folder: Path, single: bool) -> None:
    """A model comes back as a folder (or a file) of its own, even when the laid out one is gone;
    its digest is its content's.
    """
    with opened(folder) as store:
        made = store.scratch("k") / "model"
        (made / "unet").mkdir(parents=True)
        (made / "unet" / "weights.safetensors").write_bytes(b"w" * 1000)
        (made / "config.json").write_bytes(b"{}")
        expected = store.files.model_digest(
            made / "unet" / "weights.safetensors" if single else made
        )
        artifact = keep(
            store, "k", Model(made / "unet" / "weights.safetensors" if single else made)
        )
        store.drop_scratch("k")
    for damage in ("none", "tree", "file"):
        with opened(folder) as store:
            if damage == "tree":
                for path in list((folder / "trees").rglob("*.safetensors")):
                    path.unlink()
            if damage == "file":
                weights = next(
                    p for p in (folder / "trees").rglob("*") if p.name == "weights.safetensors"
                )
                weights.unlink()
                weights.write_bytes(b"v" * 1000)
            model = store.load(artifact)
            assert model.digest == expected == store.files.model_digest(model.path)
            assert (
                model.path if single else model.path / "unet" / "weights.safetensors"
            ).read_bytes() == b"w" * 1000
    with opened(folder) as store:
        for path in list(folder.rglob("*.safetensors")):
            path.unlink()
        with pytest.raises(Damaged):
            store.load(artifact)
        assert store.lookup("k") is None


def test_a_folder_made_in_scratch_keeps_its_shape(folder: Path) -> None:
    """Sub-folders and names stay, and clean-up takes all of it when its step goes."""
    with opened(folder) as store:
        made = store.scratch("k") / "out"
        (made / "sub").mkdir(parents=True)
        (made / "sub" / "a.txt").write_bytes(b"a")
        (made / "b.txt").write_bytes(b"b")
        artifact = keep(store, "k", Folder(made, "", ()))
        store.flush()
        back = store.load(artifact)
        assert [(f.name, f.read_bytes()) for f in back] == [("b.txt", b"b"), ("sub/a.txt", b"a")]
        assert (back.path / "sub" / "a.txt").read_bytes() == b"a"
        store.gc(max_size=0)
        assert [p for p in (folder / "objects").rglob("*") if p.is_file()] == []
        assert list((folder / "trees").iterdir()) == []


def test_what_folders_share_counts_once(folder: Path) -> None:
    """On the disk it is there once, under several names; so it is when the size says what goes, and
    it stays as long as one of them does.
    """
    clock = Clock()
    with opened(folder, clock=clock) as store:
        for name in ("first", "second"):
            made = store.scratch(name)
            (made / "large.bin").write_bytes(b"L" * 1_000_000)
            (made / "name.txt").write_text(name)
            keep(store, name, Folder(made, "", ()))
            store.drop_scratch(name)
            clock.now += 1000
        assert 1_000_000 < store.info()["disk_bytes"] < 1_500_000
        held = store.gc(max_size=1_500_000)
        assert held.steps_removed == 0 and 1_000_000 < held.bytes_left < 1_500_000
        assert store.gc(max_size=held.bytes_left - 1).bytes_freed < 10_000
        assert store.gc(max_size=500_000).bytes_freed > 1_000_000


def test_scratch_outlives_a_failed_try(folder: Path) -> None:
    """Checkpoints are still there for the next try, until the step is stored."""
    with opened(folder) as store:
        (store.scratch("k") / "step-100").write_text("x")
    with opened(folder) as store:
        assert (store.scratch("k") / "step-100").read_text() == "x"
        keep(store, "k", 1)
        store.drop_scratch("k")
        store.flush()
        assert not (folder / "scratch" / "k").exists()
        with pytest.raises(ValueError, match="is not a key"):
            store.scratch("../k")


def test_scratch_outlives_what_cannot_be_kept(folder: Path) -> None:
    """The next try, in another process, finds no record and goes on from there."""

    @dataclass(frozen=True)
    class Odd: ...

    def encode(value: Odd) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("out of ink")
        return b""

    with Store.open(folder, Codecs([Codec("test.Odd", Odd, encode, lambda b: Odd())])) as store:
        (store.scratch("k") / "step-100").write_text("x")
        keep(store, "k", Odd())
        store.drop_scratch("k")
        store.flush()
        assert "out of ink" in store.take_warnings()[0]
        assert (store.scratch("k") / "step-100").exists()


def test_the_keys_of_a_graphs_last_run_are_remembered(folder: Path) -> None:
    """So that a plan can say what changed since."""
    with opened(folder) as store:
        assert store.history("g.yaml") == {}
        store.record_history("g.yaml", {"base": "k1", "large": "k2"})
        store.record_history("g.yaml", {"base": "k3"})
    with opened(folder) as store:
        assert store.history("g.yaml") == {"base": "k3"}


def test_many_threads_may_use_a_store(folder: Path) -> None:
    """Keeping, looking up and loading at once does no harm."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(60):
                artifact = keep(store, f"{number}-{i}", [i, Tensor(np.full(10_000, i % 7))])
                record = store.lookup(f"{number}-{i}")
                assert record is not None
                assert record.outputs == {"value": artifact}
                assert store.load(artifact)[1].data[0] == i % 7
        except BaseException as odd:
            failures.append(odd)

    with opened(folder) as store:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.verify().damaged == ()
        assert store.info()["steps"] == 240


def test_content_is_found_by_its_digest(folder: Path) -> None:
    """A file or folder that a node made is given by its content alone; another size, damage or an
    unknown digest give nothing.
    """
    with opened(folder) as store:
        scratch = store.scratch("a" * 40)
        (scratch / "tree" / "in").mkdir(parents=True)
        (scratch / "one.txt").write_bytes(b"content")
        (scratch / "tree" / "in" / "two.txt").write_bytes(b"more")
        file, tree = (
            store.adopt(File(scratch / "one.txt", "", 0)),
            store.adopt(Folder(scratch / "tree", "", ())),
        )
        found = store.find_file(file.digest, 7)
        assert found is not None and found.read_bytes() == b"content"
        assert (
            store.find_file(file.digest, 8),
            store.find_file("0" * 40, 7),
            store.find_folder("0" * 40),
        ) == (None, None, None)
        assert store.find_folder(tree.digest) == tree
        found.chmod(0o644)
        found.write_bytes(b"CONTENT")
        assert store.find_file(file.digest, 7) is None


@pytest.mark.parametrize("name", ["index.sqlite-journal", "files.sqlite-journal"])
def test_a_store_that_another_process_is_creating_is_a_store(tmp_path: Path, name: str) -> None:
    """SQLite's own journals are part of a store: they exist while its databases are created."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).touch()
    with opened(tmp_path / "s") as store:
        assert store.folder == tmp_path / "s"
