"""Names that are never taken in: files that network drives, operating systems and sync programs
keep in a shared folder for themselves.

Patterns are those of ``.gitignore``, as pathspec reads them, with two differences: they ignore case
and Unicode form, and in a list a ``#`` starts a name and not a comment. A line's own patterns come
after these, so ``!@tmp/`` takes one back and ``!*`` all of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pathspec import GitIgnoreSpec

__all__ = ["SYSTEM", "Ignored", "pattern_error"]

#: Folders end with a slash. Hidden names are always ignored and not listed here.
SYSTEM = (
    # Synology, QNAP, Asustor, TerraMaster, Buffalo, Netgear, Thecus: thumbnails, metadata, recycle
    # bins, snapshots
    "@eaDir/",
    "#recycle/",
    "#snapshot/",
    "#quarantine/",
    "@tmp/",
    "@Syno*/",
    "@ActiveBackup/",
    "@cloudsync/",
    "@img_bkp_cache/",
    "@SynoResource",
    "*@SynoEAStream",
    "*@SynoResource",
    "@sharebin/",
    "@sharesnap/",
    "@S2S/",
    "@database/",
    "@download/",
    "@appstore/",
    "@docker/",
    "@Recycle/",
    "@Recently-Snapshot/",
    "@Transcode/",
    "@__thumb/",
    "@TMRecycle/",
    "@.recycle/",
    "trashbox/",
    "Network Recycle Bin*/",
    "_NAS_Recycle_*/",
    "~snapshot/",
    "@GMT-*/",
    # Windows
    "$RECYCLE.BIN/",
    "RECYCLER/",
    "System Volume Information/",
    "$Extend/",
    "FOUND.[0-9][0-9][0-9]/",
    "DfsrPrivate/",
    "Config.Msi/",
    "MSOCache/",
    "WindowsImageBackup/",
    "$Win*/",
    "$SysReset/",
    "$GetCurrent/",
    "OneDriveTemp/",
    "WPSettings.dat",
    "IndexerVolumeGuid",
    "Thumbs.db",
    "Thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    # macOS, and archives made on it
    "__MACOSX/",
    "Network Trash Folder/",
    "Temporary Items/",
    "TheVolumeSettingsFolder/",
    "TheFindByContentFolder/",
    "*.sb-????????-??????",
    "(A Document Being Saved By *)",
    "Icon[\r]",
    # macOS: libraries that are a folder but one document, and backups
    "*.photoslibrary/",
    "*.photolibrary/",
    "*.migratedphotolibrary/",
    "*.aplibrary/",
    "*.sparsebundle/",
    "*.backupbundle/",
    "Backups.backupdb/",
    "*.app/",
    # Linux and other Unix systems, Android
    "lost+found/",
    "LOST.DIR/",
    "aquota.user",
    "aquota.group",
    "quota.user",
    "quota.group",
    # Nextcloud, Syncthing, Resilio and other sync programs
    "files_trashbin/",
    "files_versions/",
    "~syncthing~*",
    "*.!sync",
    "*.rslsync*",
    # Adobe, Capture One: previews and caches beside pictures
    "*.lrdata/",
    "*.lrlibrary/",
    "*.cocatalog/",
    "Adobe Bridge Cache*",
    "**/CaptureOne/Cache/",
    "**/CaptureOne/Settings*/",
    # unfinished downloads
    "*.opdownload",
    "*.!qb",
    "*.!ut",
    "*.aria2",
    "*.fdmdownload",
    "*.dtapart",
)


class Ignored:
    """The names that a line ignores: the built-in ones, then its own patterns."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._folders: dict[str, bool] = {}
        self._spec = GitIgnoreSpec.from_lines(
            [_fold(line) for pattern in (*SYSTEM, *patterns) for line in _lines(pattern)]
        )

    def matches_folder(self, path: str) -> bool:
        """Return whether a folder is ignored, with everything in it. `path` is relative to the
        watched folder and uses ``/``.
        """
        if path not in self._folders:
            if len(self._folders) > 10_000:
                self._folders.clear()
            self._folders[path] = self._spec.match_file(_fold(path) + "/")
        return self._folders[path]

    def matches_file(self, path: str) -> bool:
        """Return whether a file is ignored, by its own name or by a folder above it."""
        parts = path.split("/")
        # Folder by folder: as in git, files in an ignored folder cannot be taken back.
        return any(
            self.matches_folder("/".join(parts[:count])) for count in range(1, len(parts))
        ) or self._spec.match_file(_fold(path))


def pattern_error(pattern: str) -> str:
    """Return what is wrong with a pattern, or an empty string."""
    for line in _lines(pattern):
        if "\n" not in pattern and not line.strip():
            return "it is empty"
        if not line.strip() or line.startswith("#"):
            continue
        try:
            patterns = GitIgnoreSpec.from_lines([line]).patterns
        except ValueError:
            return "it is not a valid .gitignore pattern"
        if not patterns or all(compiled.include is None for compiled in patterns):
            return "it matches nothing"
    return ""


def _lines(pattern: str) -> list[str]:
    """Split a text of several patterns into lines; in a single pattern, ``#`` does not start a
    comment.
    """
    if "\n" in pattern:
        return pattern.splitlines()
    return [f"\\{pattern}" if pattern.startswith("#") else pattern]


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()
