"""Installed distributions are found as `importlib.metadata` finds them, and never from memory."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from imagen_flow._plugins.distributions import Distribution, offered, version_of


def install(folder: Path, name: str, version: str, lines: str) -> Path:
    """Put a distribution's metadata into a folder."""
    at = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    at.mkdir(parents=True)
    (at / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: numpy\n\nVersion: 9\n"
    )
    (at / "entry_points.txt").write_text(lines)
    return at


def test_equal_to_importlib_metadata() -> None:
    """Whatever is installed here has the same entry points, versions and files."""
    everything = metadata.entry_points()
    assert everything.groups
    for group in everything.groups:
        assert sorted((e.name, e.value, e.dist.name) for e in offered(group)) == sorted(
            (e.name, e.value, e.dist.name if e.dist else "") for e in everything.select(group=group)
        )
    for found in metadata.distributions():
        assert version_of(found.name) == metadata.version(found.name)
        own = Distribution(str(found._path))  # type: ignore[attr-defined]
        assert own.files == (found.files and [str(file) for file in found.files])
        assert own.requires == found.requires


def test_what_is_installed_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that is installed, changed or removed within the same moment is noticed."""
    monkeypatch.syspath_prepend(tmp_path)

    def now() -> list[tuple[str, str, str, str]]:
        return [(e.name, e.value, e.dist.name, e.dist.version) for e in offered("new.group")]

    assert (now(), version_of("New_Plugin")) == ([], None)
    lines = "[other]\na = b\n[new.group]\n# a comment\none = mod:x [extra]\n\n[last]\nc = d\n"
    at = install(tmp_path, "New-Plugin", "1.0", lines)
    assert (now(), version_of("new.plugin")) == (
        [("one", "mod:x [extra]", "New-Plugin", "1.0")],
        "1.0",
    )
    (at / "entry_points.txt").write_text("[new.group]\none=y\ntwo = z\n")
    assert [found[:2] for found in now()] == [("one", "y"), ("two", "z")]
    (at / "entry_points.txt").unlink()
    assert now() == []


def test_the_first_of_two_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution hides one of the same name further down, even if it offers less."""
    install(tmp_path / "far", "same", "1", "[new.group]\nold = a\n")
    monkeypatch.syspath_prepend(tmp_path / "far")
    assert [e.name for e in offered("new.group")] == ["old"]
    install(tmp_path / "near", "same", "2", "[other]\na = b\n")
    monkeypatch.syspath_prepend(tmp_path / "near")
    assert ([e.name for e in offered("new.group")], version_of("same")) == ([], "2")


def test_archives_and_finders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive on the path, and a finder of somebody else's, are asked through the library."""
    install(tmp_path, "packed", "3.0", "[new.group]\nin = archive\n")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted(tmp_path.glob("*.dist-info/*")):
            archive.write(file, file.relative_to(tmp_path))
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path / "packed.zip")
        assert ([e.name for e in offered("new.group")], version_of("packed")) == (["in"], "3.0")

    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(*_: object) -> list[metadata.Distribution]:
            return [metadata.PathDistribution(next(tmp_path.glob("*.dist-info")))]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert ([e.name for e in offered("new.group")], version_of("packed")) == (["in"], "3.0")


def test_unreadable_metadata_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata that is not text offers nothing, nor does that of old which is a single file."""
    at = install(tmp_path, "odd", "1", "")
    (at / "entry_points.txt").write_bytes(b"[new.group]\n\xff = a\n")
    (tmp_path / "file-1.egg-info").write_text("Name: file\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(offered("new.group")) == []
    assert version_of("file") == metadata.version("file") == "1"
