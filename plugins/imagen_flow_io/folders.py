"""List what a folder holds."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from imagen_flow import File, Folder, List, Range, Text, node


@node("folder.list", version=1)
def list_files(
    folder: Folder,
    *,
    pattern: Text = "*",
    recursive: bool = True,
    limit: Annotated[int, Range(1, 1_000_000)] = 10_000,
    empty: bool = False,
) -> List[File]:
    """List the files of a folder, so that `each` can take them one by one.

    Params:
        pattern: which files, by name: ``*`` any letters, ``?`` one letter, ``[abc]`` one of these.
            Several patterns stand after one another with commas:
            ``*.png, *.jpg``. With a ``/`` the pattern is about the whole relative name, where ``*``
            stays within one folder and ``**`` goes through many.
            Capitals and small letters are the same.
        recursive: also look into the folders below.
        limit: refuse a longer list.
        empty: whether it is right that no file fits.

    Outputs:
        files sorted by their relative names, folder by folder; hidden files are never among them.

    Raises:
        ValueError: no file fits, or more than `limit` do.
    """
    patterns = [part.strip() for part in pattern.split(",") if part.strip()]
    if not patterns:
        raise ValueError(
            "port 'pattern' is empty; write '*' for all files, or for example '*.png, *.jpg'"
        )
    for one in patterns:
        if one.startswith(("/", "~")) or ".." in one.split("/"):
            raise ValueError(
                f"port 'pattern': '{one}' leads out of the folder; patterns are relative to it, for"
                " example '*.png' or 'photos/*.png'"
            )
    wanted = [one.lower().split("/") for one in patterns]
    found = [
        file
        for file in folder
        if _is_wanted(_relative(folder, file).lower().split("/"), wanted, recursive)
    ]
    if len(found) > limit:
        raise ValueError(
            f"{len(found):,} files fit '{pattern}', more than limit allows ({limit:,}); narrow the"
            " pattern or raise limit"
        )
    if not found and not empty:
        raise ValueError(
            f"none of the {len(folder.files):,} files of '{folder.path.name}' fits"
            f" '{pattern}'{_endings(folder)}; mend the pattern, or say empty: true if no file is"
            " right"
        )
    return sorted(found, key=lambda file: _relative(folder, file).split("/"))


def _relative(folder: Folder, file: File) -> str:
    return file.path.relative_to(folder.path).as_posix()


def _endings(folder: Folder) -> str:
    endings = sorted({file.path.suffix.lower() for file in folder if file.path.suffix})
    return (
        f" (there are {', '.join(endings[:8])}{', …' if len(endings) > 8 else ''})"
        if endings
        else ""
    )


def _is_wanted(parts: list[str], patterns: list[list[str]], recursive: bool) -> bool:
    if not recursive and len(parts) > 1:
        return False
    return any(_fits(parts if len(pattern) > 1 else parts[-1:], pattern) for pattern in patterns)


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Match folder by folder: a pattern's word never crosses a ``/``, and ``**`` stands for any
    number of folders.
    """
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
