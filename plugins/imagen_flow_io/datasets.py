"""Read folders of captioned pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from imagen_flow import File, Folder, List, NamedFile, Text, node

from .documents import text_of
from .folders import list_files
from .tables import load_table

TABLES = ("metadata.jsonl", "metadata.csv")
"""What lists captions by picture, as Hugging Face's imagefolder reads it."""
MAX_CAPTION_BYTES = 1_000_000


class Captioned(NamedTuple):
    """Pictures, and the caption of each."""

    pictures: List[NamedFile]
    captions: List[Text]


@node("dataset.load", version=1)
def load_dataset(
    folder: Folder,
    *,
    pattern: Text = "*.png, *.jpg, *.jpeg, *.webp, *.bmp, *.tif, *.tiff",
    column: Text = "text",
    missing: Literal["refuse", "skip", "empty"] = "refuse",
) -> Captioned:
    """List the pictures of a folder with their captions, to train on.

    Inputs:
        folder: captions are in a ``metadata.jsonl`` or ``metadata.csv`` directly in it, in rows
            with a ``file_name``; without such a file, in texts beside the pictures: ``fox.txt``
            beside ``fox.png``.

    Params:
        pattern: which files are pictures, as in `folder.list`.
        column: of the captions in the rows of metadata.
        missing: what becomes of a picture without a caption: ``refuse`` all, ``skip`` it, or give
            it an ``empty`` one.

    Outputs:
        pictures: files sorted by their names, for `image.load`.
        captions: one for each, on one line.

    Raises:
        ValueError: there is no picture, or one without a caption; a row names a file that is not
            there, or one that another row names; a text is not UTF-8.
    """
    pictures = list_files(folder, pattern=pattern, limit=1_000_000, empty=True)
    if not pictures:
        raise ValueError(
            f"there is no picture in '{folder.path.name}': none of its {len(folder.files):,} files"
            f" matches '{pattern}'"
        )
    names = [picture.name for picture in pictures]
    files = {file.path.relative_to(folder.path).as_posix(): file for file in folder}
    tables = [name for name in TABLES if name in files]
    if len(tables) > 1:
        raise ValueError(f"the folder has a {tables[0]} and a {tables[1]}; keep one of them")
    found = _of_rows(files[tables[0]], files, column) if tables else _beside(files, names)
    lacking = [name for name in names if not found.get(name)]
    if lacking and missing == "refuse":
        where = (
            f"add it to {tables[0]}"
            if tables
            else f"write it into {lacking[0].rpartition('.')[0]}.txt"
        )
        raise ValueError(
            f"{len(lacking)} of {len(names)} pictures have no caption, '{lacking[0]}' first;"
            f" {where}, or set missing: skip or missing: empty"
        )
    chosen = [
        (picture, found.get(name, ""))
        for picture, name in zip(pictures, names, strict=True)
        if missing == "empty" or found.get(name)
    ]
    if not chosen:
        raise ValueError(f"none of the {len(names)} pictures has a caption")
    return Captioned([picture for picture, _ in chosen], [caption for _, caption in chosen])


def _of_rows(table: File, files: Mapping[str, File], column: str) -> dict[str, str]:
    """Read captions by picture from a table."""
    found: dict[str, str] = {}
    for number, row in enumerate(load_table(table), 1):
        name, caption = (
            (row.get("file_name"), row.get(column)) if isinstance(row, dict) else (None, None)
        )
        where = f"row {number} of '{table.path.name}'"
        if not isinstance(name, str):
            raise ValueError(f"{where} has no 'file_name'")
        if not isinstance(caption, str | None) or column not in row:
            columns = ", ".join(sorted(row)[:8])
            raise ValueError(
                f"{where} has no text in the column '{column}' (its columns are {columns}); name"
                " the captions' in 'column'"
            )
        if name not in files:
            raise ValueError(f"{where} names '{name}', which is not in the folder")
        if name in found:
            raise ValueError(f"{where} names '{name}', as a row before it does")
        found[name] = _on_one_line(caption or "")
    return found


def _beside(files: Mapping[str, File], names: list[str]) -> dict[str, str]:
    """Read captions by picture from the texts beside them."""
    return {
        name: _on_one_line(text_of(files[text], MAX_CAPTION_BYTES))
        for name in names
        if (text := f"{name.rpartition('.')[0]}.txt") in files
    }


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
