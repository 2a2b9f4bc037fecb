"""Write the report and the contact sheet of a sweep's folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..._outputs.disk import ImmediateChanges
from ..._system.dataclass import dataclass
from ..._system.regular_files import is_regular, open_regular
from ..._types.lettering import Lettering
from ...errors import OutputError
from .page import GENERATOR, draw_page
from .pictures import Picture, find_pictures
from .rows import INDEX, Index, read_index
from .sheet import SOFTWARE, Sheets

__all__ = ["REPORT", "SHEET", "Report", "write_report"]

REPORT = "report.html"
SHEET = "contact_sheet.png"

#: A mark of ours stands within this many bytes from the beginning.
_HEAD = 4096


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what is not in it.

    `missing` and `moved` have an item's label and the picture each; `unknown_letters` are the
    characters that the font of the contact sheet does not have.
    """

    paths: tuple[Path, ...]
    index: Index
    missing: tuple[tuple[str, Picture], ...]
    moved: tuple[tuple[str, Picture], ...]
    unknown_letters: str


def write_report(
    folder: Path,
    *,
    title: str = "",
    page: bool = True,
    sheet: bool = True,
    lettering: Lettering | None = None,
) -> Report:
    """Write ``report.html`` and ``contact_sheet.png`` beside an index. Files that were not made
    this way are not replaced.

    Params:
        lettering: the font of the contact sheet.

    Raises:
        OutputError: there is no index or nothing in it, or a file cannot be written.
    """
    try:
        index = read_index(folder / INDEX)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"there is no report of '{folder}'\n"
            f"  = why: its {INDEX} cannot be read: {_reason(error)}\n"
            "  = fix: name the output folder of a sweep"
        ) from error
    if not index.rows:
        why = f"its {INDEX} lists no items"
        if index.bad_lines:
            number, fault = index.bad_lines[0]
            why = f"no line of its {INDEX} is an item; line {number}: {fault}"
        raise OutputError(f"there is no report of '{folder}'\n  = why: {why}")
    root = folder.resolve()
    pictures = find_pictures(index.rows, root)
    written: list[Path] = []
    unknown: set[str] = set()
    try:
        if page:
            _check(root / REPORT, folder, GENERATOR)
            data = draw_page(index, pictures, title=title or root.name)
            ImmediateChanges().put(root / REPORT, data)
            written.append(folder / REPORT)
        if sheet:
            sheets = Sheets(index, pictures, lettering=lettering)
            names = [_page_name(number) for number in range(1, len(sheets) + 1)]
            for name in names:
                _check(root / name, folder, SOFTWARE.encode())
            for name, data in zip(names, sheets, strict=True):
                ImmediateChanges().put(root / name, data)
                written.append(folder / name)
            unknown = sheets.missing
            _remove_old_pages(root, len(names))
    except OSError as error:
        raise OutputError(
            f"the report of '{folder}' cannot be written\n"
            f"  = why: {_reason(error)}\n"
            "  = fix: free disk space, or change the permissions of the folder"
        ) from error
    shown = [(row.item, picture) for row in index.rows for picture in pictures[row.item]]
    return Report(
        tuple(written),
        index,
        tuple((item, picture) for item, picture in shown if picture.missing),
        tuple((item, picture) for item, picture in shown if picture.moved),
        "".join(sorted(unknown)),
    )


def _reason(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else "") or str(error)).lower()


def _page_name(number: int) -> str:
    stem, ending = os.path.splitext(SHEET)
    return SHEET if number == 1 else f"{stem}-{number}{ending}"


def _check(path: Path, folder: Path, mark: bytes) -> None:
    """Refuse to replace what is not ours."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) or not _has_mark(path, mark):
        raise OutputError(
            f"{path.name} is not written to '{folder}': another file exists\n"
            "  = why: it was not made by imagen-flow report, so it may be someone's work\n"
            "  = fix: move it away"
        )


def _has_mark(path: Path, mark: bytes) -> bool:
    with open_regular(path) as stream:
        return mark in stream.read(_HEAD)


def _remove_old_pages(root: Path, count: int) -> None:
    """Remove the pages of an earlier contact sheet that had more of them."""
    stem, ending = os.path.splitext(SHEET)
    for path in root.glob(f"{stem}-*{ending}"):
        number = re.fullmatch(rf"{re.escape(stem)}-([1-9]\d{{0,5}}){re.escape(ending)}", path.name)
        if number and int(number[1]) > max(1, count) and is_regular(path) and not path.is_symlink():
            _remove_ours(path)


def _remove_ours(path: Path) -> None:
    if _has_mark(path, SOFTWARE.encode()):
        path.unlink()
