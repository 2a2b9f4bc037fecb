"""``imagen-flow store``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import store_option

if TYPE_CHECKING:
    from .._store import Store

__all__ = ["store"]

_SIZES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Size(click.ParamType[int]):
    """A size such as ``10GB``."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", str(value).strip())
        if found is None or found[2].upper() not in _SIZES:
            self.fail(f"'{value}' is not a size; write it like 500MB, 10GB or 2GiB", param, ctx)
        return int(float(found[1]) * _SIZES[found[2].upper()])


class _Age(click.ParamType[float]):
    """A time span such as ``30d``, in seconds."""

    name = "age"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhdw])", str(value).strip())
        if found is None:
            self.fail(
                f"'{value}' is not a length of time; write it like 12h, 30d or 8w", param, ctx
            )
        return float(found[1]) * _AGES[found[2]]


@click.group()
def store() -> None:
    """Look after the store.

    The store keeps what steps gave, so that nothing is computed twice. All of it can be made again.
    """


@contextmanager
def _opened(place: Path | None) -> Iterator[Store]:
    """Open the store, with the codecs of all plugins, so that every kind of value can be read."""
    from .._plan.request import USERS_STORE, Options
    from .._settings import config
    from .session import find_plugins, open_store

    if place is not None and not place.exists():
        raise click.UsageError(
            f"there is no store at '{place}'"
        )  # a store is made by what fills it, not by a slip in its name
    options, settings = Options(store=place or USERS_STORE), config.load(Path.cwd())
    with open_store(options, settings, find_plugins(options, settings)) as opened:
        assert opened is not None
        yield opened


@store.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(store: Path | None, as_json: bool) -> None:
    """Show where the store is, what it holds and how large it is."""
    import time

    from .text import bytes_, echo, echo_json, plural, table

    with _opened(store) as opened:
        said = opened.info()
    if as_json:
        echo_json(said, indent=1)
        return
    rows = [
        ("store", said["folder"]),
        ("holds", f"{plural(said['steps'], 'step')}, {plural(said['values'], 'value')}"),
        ("on disk", bytes_(said["disk_bytes"])),
    ]
    if said["oldest_use"]:
        oldest, newest = (_ago(time.time() - said[which]) for which in ("oldest_use", "newest_use"))
        rows.append(
            (
                "last used",
                f"{newest} ago" if oldest == newest else f"between {oldest} and {newest} ago",
            )
        )
    if said["pinned"]:
        rows.append(("in use", f"{said['pinned']:,} by runs going on now"))
    echo(table(rows, indent=""))


def _ago(age_s: float) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if age_s >= unit:
            count = int(age_s // unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a minute"


@store.command()
@store_option
@click.option(
    "--max-size",
    type=_Size(),
    help="Remove what was longest unused until the store is this small, as 10GB.",
)
@click.option("--older-than", type=_Age(), help="Remove what was not used for this long, as 30d.")
def gc(store: Path | None, max_size: int | None, older_than: float | None) -> None:
    """Clean up: by size, by age, or by both."""
    from .text import bytes_, echo, plural

    if max_size is None and older_than is None:
        raise click.UsageError("say --max-size, --older-than, or both")
    with _opened(store) as opened:
        done = opened.gc(max_size=max_size, older_than_s=older_than)
    echo(
        f"removed {plural(done.steps_removed, 'step')} and {plural(done.values_removed, 'value')}:"
        f" {bytes_(done.bytes_freed)} freed, {bytes_(done.bytes_left)} left"
    )
    if done.steps_pinned:
        echo(f"{plural(done.steps_pinned, 'step')} kept because runs are using them")


@store.command()
@store_option
def verify(store: Path | None) -> int:
    """Read everything back, and drop what is damaged so that it is computed again."""
    from .text import echo, plural

    with _opened(store) as opened:
        found = opened.verify()
    for damage in found.damaged:
        echo(damage)
    echo(
        f"{plural(found.checked, 'value')} read, {len(found.damaged) or 'none'} damaged"
        + (" and forgotten" if found.damaged else "")
    )
    return 1 if found.damaged else 0


@store.command()
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(store: Path | None, yes: bool) -> None:
    """Remove everything that the store keeps."""
    from .text import bytes_, confirm, echo, plural

    with _opened(store) as opened:
        said = opened.info()
        if not yes:
            confirm(
                f"remove {plural(said['steps'], 'step')} ({bytes_(said['disk_bytes'])}) from"
                f" {said['folder']}?"
            )
        opened.clear()
    echo(f"cleared {said['folder']}")
