"""Folders that are derived at some cost are made once, and never used half made or damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagen_flow._models.derived import derived_folder, keeping
from imagen_flow._store import Store, derive_folder
from imagen_flow._types.codec import Codecs
from imagen_flow._types.models import Model
from imagen_flow._types.values import FileChanged

KEY = "4b" * 20


def opened(folder: Path) -> Store:
    return Store.open(folder, Codecs())


def derive(store: Store, text: str = "made") -> tuple[str, bool]:
    """Return what the folder holds, and whether it was made now."""
    made = []

    def make(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        made.append(folder)
        (folder / "weights.txt").write_text(text)

    folder = derive_folder(store, KEY, make, provenance={})
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == ["weights.txt"]
    return (folder / "weights.txt").read_text(), bool(made)


def test_a_folder_is_made_once_and_found_by_later_processes(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        assert derive(store) == ("made", True)
        assert derive(store, "again") == ("made", False)
    with opened(tmp_path / "store") as store:
        assert derive(store, "again") == ("made", False)
        assert store.verify().damaged == ()
        assert list((store.folder / "scratch").iterdir()) == []


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    """One that lost a file of which there is another copy is mended instead."""
    with opened(tmp_path / "store") as store:
        derive(store)
        store.flush()
        for file in (store.folder / "trees").rglob("*.txt"):
            file.unlink()
        assert derive(store, "again") == ("made", False)
        for file in (store.folder / "trees").rglob("*.txt"):
            file.chmod(0o644)
            file.write_text("evil")
        assert derive(store, "again") == ("again", True)


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    """The second waits for the first, and finds what it made."""
    code = (
        "import sys; from pathlib import Path; from tests.test_store_derived import *\n"
        "with opened(Path(sys.argv[1])) as store:\n"
        "    print('begins', flush=True)\n"
        "    print(derive(store, 'other'), flush=True)\n"
    )
    began, go_on = threading.Event(), threading.Event()

    def make(folder: Path) -> None:
        (folder / "weights.txt").write_text("made")
        began.set()
        assert go_on.wait(60)

    with opened(tmp_path / "store") as store:
        first = threading.Thread(
            target=derive_folder, args=(store, KEY, make), kwargs={"provenance": {}}
        )
        first.start()
        assert began.wait(60)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(store.folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        ) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "begins\n"
            go_on.set()
            assert second.stdout.read() == "('made', False)\n"
        first.join()


@pytest.mark.skipif(os.name == "nt", reason="no such signal there")
def test_a_kill_half_way_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.test_store_derived import *\n"
        "def make(folder):\n"
        "    (folder / 'weights.txt').write_text('half')\n"
        "    (folder / 'more.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "derive_folder(opened(Path(sys.argv[1])), KEY, make, provenance={})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], cwd=Path(__file__).parents[1]
    )
    assert ended.returncode == -9
    with opened(tmp_path / "store") as store:
        assert derive(store) == ("made", True)
        store.flush()
        assert list((store.folder / "scratch").iterdir()) == []


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights.txt").write_text("half")
        raise ValueError("no")

    with opened(tmp_path / "store") as store:
        with pytest.raises(ValueError, match="no"):
            derive_folder(store, KEY, fail, provenance={})
        assert list((store.folder / "scratch").iterdir()) == []
        assert derive(store) == ("made", True)


def test_who_waits_can_be_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with opened(tmp_path / "store") as store, opened(tmp_path / "store") as other:
        assert other.lease(KEY)
        assert derive_folder(store, KEY, print, provenance={}, cancel=cancel) is None


def test_the_entry_is_that_of_the_part_and_of_what_is_said(tmp_path: Path) -> None:
    """A part with its own digest counts alone; outside of a run nothing is kept."""
    described = []

    def keeper(of: object, make: object) -> None:
        described.append(of)

    model = Model(tmp_path, "d1", parts=(("unet", "d2"),))
    assert derived_folder(model, print, of={}) is None
    with keeping(keeper):
        for of, part, libraries in (
            ({"a": 1}, "unet", ()),
            ({"a": 1}, "other", ()),
            ({"a": 2}, "unet", ("numpy",)),
        ):
            derived_folder(model, print, of=of, part=part, libraries=libraries)
    assert [(one["model"], one["of"], sorted(one["versions"])) for one in described] == [
        ("d2", {"a": 1}, ["imagen-flow"]),
        ("d1", {"a": 1}, ["imagen-flow"]),
        ("d2", {"a": 2}, ["imagen-flow", "numpy"]),
    ]


def test_a_model_that_changes_meanwhile_is_not_kept(tmp_path: Path) -> None:
    """What was derived from other files than were digested is not kept under their digest."""
    from imagen_flow._system.file_signs import sign_of

    file = tmp_path / "weights.txt"
    file.write_text("old")
    model = Model(tmp_path, "d1", signs=((str(file), sign_of(str(file))),))
    with opened(tmp_path / "store") as store:

        def keeper(of: object, make: object) -> Path | None:
            return derive_folder(store, KEY, make, provenance={})

        with keeping(keeper), pytest.raises(FileChanged):
            derived_folder(model, lambda folder: file.write_text("newer"), of={})
        assert store.lookup(KEY) is None
