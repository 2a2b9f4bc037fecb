"""``imagen-flow report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import PathType, UsageFault

if TYPE_CHECKING:
    from .._sweep.report.folder import Report
    from .._sweep.report.pictures import Picture

__all__ = ["print_report", "report"]

#: So many pictures, lines and letters are named; the others are counted.
_SHOWN = 10

#: So many characters of a name are shown.
_MAX_NAME = 200


@click.command()
@click.argument("folder", type=PathType(exists=True))
@click.option(
    "--title",
    default="",
    metavar="TEXT",
    help="The title of the page. [default: the folder's name]",
)
@click.option(
    "--font",
    type=PathType(exists=True, dir_okay=False),
    metavar="FILE",
    help="A .ttf or .otf file for the contact sheet, if its own font lacks letters.",
)
def report(folder: Path, title: str, font: Path | None) -> None:
    """Show what a sweep made: a page to explore in a browser, and a contact sheet.

    Both are made from index.jsonl in the output folder of a sweep, and from the files that it
    names. Run it again after files were moved or removed.
    """
    from .._sweep.report.folder import write_report
    from .._sweep.report.rows import INDEX
    from .._sweep.report.sheet import TEXT_SIZE
    from .._system.regular_files import read_regular
    from .._types.lettering import Lettering

    lettering = None
    if font is not None:
        try:
            lettering = Lettering(read_regular(font, max_bytes=256 << 20), size=TEXT_SIZE)
        except OSError as error:
            raise UsageFault(
                f"'{font}' is not a readable font: give a .ttf or .otf file"
            ) from error
    if folder.name == INDEX and folder.is_file():
        folder = folder.parent
    print_report(write_report(folder, title=title, lettering=lettering))


def print_report(written: Report) -> None:
    """Print what was written, and what is missing in it."""
    from .run import relative_path
    from .text import echo, one_line, plural

    index = written.index
    _list_pictures("missing", written.missing, len(index.rows))
    if written.moved:
        echo(f"{plural(len(written.moved), 'picture')} found elsewhere in the folder", err=True)
    if index.bad_count:
        first = "; ".join(f"line {number}: {why}" for number, why in index.bad_lines)
        rest = index.bad_count - len(index.bad_lines)
        echo(
            f"{plural(index.bad_count, 'line')} of the index skipped: {first}"
            + (f"; and {rest:,} more" if rest else ""),
            err=True,
        )
    if index.total > len(index.rows):
        echo(f"only the first {len(index.rows):,} of {index.total:,} items are shown", err=True)
    if index.is_cut:
        echo("the index is too long, and its end was not read", err=True)
    if letters := written.unknown_letters:
        shown = " ".join(letters[:_SHOWN])
        echo(
            f"the font of the contact sheet lacks {plural(len(letters), 'character')}, drawn as"
            f" boxes: {shown}{' …' if len(letters) > _SHOWN else ''}; --font takes another font",
            err=True,
        )
    for path in written.paths:
        echo(one_line(relative_path(str(path))))


def _list_pictures(what: str, pictures: tuple[tuple[str, Picture], ...], items: int) -> None:
    from .text import echo, one_line, plural

    if not pictures:
        return
    echo(f"{plural(len(pictures), 'picture')} of {plural(items, 'item')} {what}:", err=True)
    for _, picture in pictures[:_SHOWN]:
        name = picture.listed
        if len(name) > _MAX_NAME:
            name = f"{name[:_MAX_NAME]}…"
        echo(f"  {one_line(name)}: {picture.missing}", err=True)
    if len(pictures) > _SHOWN:
        echo(f"  and {len(pictures) - _SHOWN:,} more", err=True)
