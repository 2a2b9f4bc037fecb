"""List the files of a folder, and take names apart."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

from imagen_flow import File, Folder, List, NamedFile, Range, Text, node


@node("folder.list", version=1)
def list_files(
    folder: Folder,
    *,
    pattern: Text = "*",
    recursive: bool = True,
    limit: Annotated[int, Range(1, 1_000_000)] = 10_000,
    empty: bool = False,
) -> List[NamedFile]:
    """List the files of a folder, so that `each` can process them one by one.

    Params:
        pattern: which files, by name: ``*`` any characters, ``?`` one character, ``[abc]`` one of
            these. Separate several patterns with commas: ``*.png, *.jpg``. A pattern with a ``/``
            applies to the whole relative name, where ``*`` matches within one folder and ``**``
            across folders. Case is ignored.
        recursive: also list subfolders.
        limit: refuse a longer list.
        empty: allow that no file matches.

    Outputs:
        files sorted by their relative names, folder by folder, without hidden files. Each keeps its
            name relative to the folder, for `file.name` and for the paths of outputs.

    Raises:
        ValueError: no file matches, or more than `limit` do.
    """
    patterns = [part.strip() for part in pattern.split(",") if part.strip()]
    if not patterns:
        raise ValueError(
            "port 'pattern' is empty; write '*' for all files, or for example '*.png, *.jpg'"
        )
    for part in patterns:
        if part.startswith(("/", "~")) or ".." in part.split("/"):
            raise ValueError(
                f"port 'pattern': '{part}' leads out of the folder; patterns are relative to it,"
                " for"
                " example '*.png' or 'photos/*.png'"
            )
    split_patterns = [part.lower().split("/") for part in patterns]
    files = [
        file
        for file in folder
        if _is_selected(_relative(folder, file).lower().split("/"), split_patterns, recursive)
    ]
    if len(files) > limit:
        raise ValueError(
            f"{len(files):,} files match '{pattern}', more than limit allows ({limit:,}); narrow"
            " the"
            " pattern or raise limit"
        )
    if not files and not empty:
        raise ValueError(
            f"none of the {len(folder.files):,} files of '{folder.path.name}' matches"
            f" '{pattern}'{_endings(folder)}; fix the pattern, or set empty: true if that is"
            " expected"
        )
    return sorted(files, key=lambda file: _relative(folder, file).split("/"))


class FileName(NamedTuple):
    """The parts of a file's name."""

    name: Text
    stem: Text
    suffix: Text
    folder: Text
    path: Text


@node("file.name", version=1)
def name(file: NamedFile) -> FileName:
    """Return the name of a file and its parts, for example to list captions by picture.

    Inputs:
        file: from `folder.list`, or an input of the graph. Renaming the file changes the result.

    Outputs:
        name: ``fox.png``.
        stem: ``fox``.
        suffix: the extension with its dot, in lower case: ``.png``; empty if there is none.
        folder: the folders between the listed folder and the file, with ``/``: ``animals/wild``;
            empty for a file directly in that folder, or one that was not listed from a folder.
        path: ``animals/wild/fox.png``: the folder and the name.

    Raises:
        ValueError: the name is not valid Unicode.
    """
    try:
        file.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name {file.name!a} is not valid Unicode, so it cannot be a text; rename the file"
        ) from error
    return FileName(file.name.rpartition("/")[2], file.stem, file.suffix, file.folder, file.name)


def _relative(folder: Folder, file: File) -> str:
    return file.path.relative_to(folder.path).as_posix()


def _endings(folder: Folder) -> str:
    endings = sorted({file.path.suffix.lower() for file in folder if file.path.suffix})
    return (
        f" (there are {', '.join(endings[:8])}{', …' if len(endings) > 8 else ''})"
        if endings
        else ""
    )


def _is_selected(parts: list[str], patterns: list[list[str]], recursive: bool) -> bool:
    if not recursive and len(parts) > 1:
        return False
    return any(_matches(parts if len(pattern) > 1 else parts[-1:], pattern) for pattern in patterns)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Match folder by folder: a part of a pattern never matches a ``/``, and ``**`` matches any
    number of folders.
    """
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
