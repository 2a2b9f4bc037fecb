"""Names that are never work: what network drives, operating systems and programs that synchronise
keep in a shared folder for themselves.

Patterns are those of ``.gitignore``, as pathspec reads them, with two differences: they hold in any
case and in either spelling of an accent, and in a list a ``#`` begins a name and not a comment. A
line's own
patterns come after these, so ``!@tmp/`` takes one back and ``!*`` all of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pathspec import GitIgnoreSpec

__all__ = ["SYSTEM", "Ignored", "fault_of"]

#: Folders end with a slash. Hidden names are ignored without being listed.
SYSTEM = (
    # Synology, QNAP, Asustor, TerraMaster, Buffalo, Netgear, Thecus: thumbnails, metadata, waste,
    # snapshots
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
    # macOS, and archives that it made
    "__MACOSX/",
    "Network Trash Folder/",
    "Temporary Items/",
    "TheVolumeSettingsFolder/",
    "TheFindByContentFolder/",
    "*.sb-????????-??????",
    "(A Document Being Saved By *)",
    "Icon[\r]",
    # macOS, libraries that are one document to their program, and backups
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
    # Nextcloud, Syncthing, Resilio and others that synchronise
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
    # downloads on their way
    "*.opdownload",
    "*.!qb",
    "*.!ut",
    "*.aria2",
    "*.fdmdownload",
    "*.dtapart",
)


class Ignored:
    """The names that a line ignores: the system's, and its own patterns after them."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._folders: dict[str, bool] = {}
        self._spec = GitIgnoreSpec.from_lines(
            [_fold(line) for pattern in (*SYSTEM, *patterns) for line in _lines(pattern)]
        )

    def folder(self, path: str) -> bool:
        """Whether a folder is ignored, and with it all that lies in it. `path` is below the watched
        folder, with ``/``.
        """
        if path not in self._folders:
            if len(self._folders) > 10_000:
                self._folders.clear()
            self._folders[path] = self._spec.match_file(_fold(path) + "/")
        return self._folders[path]

    def file(self, path: str) -> bool:
        """Whether a file is ignored, by its own name or that of a folder on the way to it."""
        parts = path.split("/")
        # Folder by folder: what lies in an ignored one cannot be taken back, as git has it.
        return any(
            self.folder("/".join(parts[:count])) for count in range(1, len(parts))
        ) or self._spec.match_file(_fold(path))


def fault_of(pattern: str) -> str:
    """Say what is wrong with a pattern, if anything."""
    for line in _lines(pattern):
        if "\n" not in pattern and not line.strip():
            return "it is empty"
        if not line.strip() or line.startswith("#"):
            continue
        try:
            made = GitIgnoreSpec.from_lines([line]).patterns
        except ValueError:
            return "it is not a pattern of .gitignore"
        if not made or all(one.include is None for one in made):
            return "it matches nothing"
    return ""


def _lines(pattern: str) -> list[str]:
    """Give the lines of a text of patterns; a single one is never a comment."""
    if "\n" in pattern:
        return pattern.splitlines()
    return [f"\\{pattern}" if pattern.startswith("#") else pattern]


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()
