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
            self.fail(f"'{value}' is not a time span; write it like 12h, 30d or 8w", param, ctx)
        return float(found[1]) * _AGES[found[2]]


@click.group()
def store() -> None:
    """Inspect, verify and clean up the store.

    The store keeps the results of steps, so that nothing is computed twice. Everything in it can be
    recomputed.
    """


@contextmanager
def _open_store(folder: Path | None) -> Iterator[Store]:
    """Open the store with the codecs of all plugins, so that every kind of value can be read."""
    from .._plan.request import USERS_STORE, Options
    from .._settings import config
    from .session import find_plugins, open_store

    if folder is not None and not folder.exists():
        # Only a run creates a store: a mistyped name should not.
        raise click.UsageError(f"there is no store at '{folder}'")
    options, settings = Options(store=folder or USERS_STORE), config.load(Path.cwd())
    with open_store(options, settings, find_plugins(options, settings)) as opened:
        assert opened is not None
        yield opened


@store.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(store: Path | None, as_json: bool) -> None:
    """Show the store's folder, content and size."""
    import time

    from .text import echo, echo_json, format_bytes, plural, table

    with _open_store(store) as opened:
        facts = opened.info()
    if as_json:
        echo_json(facts, indent=1)
        return
    rows = [
        ("store", facts["folder"]),
        ("holds", f"{plural(facts['steps'], 'step')}, {plural(facts['values'], 'value')}"),
        ("on disk", format_bytes(facts["disk_bytes"])),
    ]
    if facts["oldest_use"]:
        oldest, newest = (
            _format_age(time.time() - facts[which]) for which in ("oldest_use", "newest_use")
        )
        rows.append(
            (
                "last used",
                f"{newest} ago" if oldest == newest else f"between {oldest} and {newest} ago",
            )
        )
    if facts["pinned"]:
        rows.append(("in use", f"{facts['pinned']:,} by current runs"))
    echo(table(rows, indent=""))


def _format_age(age_s: float) -> str:
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
    help=(
        "Remove the least recently used entries until the store is at most this large, such as"
        " 10GB."
    ),
)
@click.option(
    "--older-than",
    type=_Age(),
    help="Remove entries that were not used for this long, such as 30d.",
)
def gc(store: Path | None, max_size: int | None, older_than: float | None) -> None:
    """Remove old entries, by total size, by age, or by both."""
    from .text import echo, format_bytes, plural

    if max_size is None and older_than is None:
        raise click.UsageError("pass --max-size, --older-than, or both")
    with _open_store(store) as opened:
        removed = opened.gc(max_size=max_size, older_than_s=older_than)
    echo(
        f"removed {plural(removed.steps_removed, 'step')} and"
        f" {plural(removed.values_removed, 'value')}:"
        f" {format_bytes(removed.bytes_freed)} freed, {format_bytes(removed.bytes_left)} left"
    )
    if removed.steps_pinned:
        echo(f"{plural(removed.steps_pinned, 'step')} kept because runs are using them")


@store.command()
@store_option
def verify(store: Path | None) -> int:
    """Check every value, and remove damaged ones.

    What is removed is computed again when it is needed.
    """
    from .text import echo, plural

    with _open_store(store) as opened:
        report = opened.verify()
    for damage in report.damaged:
        echo(damage)
    echo(
        f"{plural(report.checked, 'value')} read, {len(report.damaged) or 'none'} damaged"
        + (" and removed" if report.damaged else "")
    )
    return 1 if report.damaged else 0


@store.command()
@store_option
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
def clear(store: Path | None, yes: bool) -> None:
    """Remove everything from the store."""
    from .text import confirm, echo, format_bytes, plural

    with _open_store(store) as opened:
        facts = opened.info()
        if not yes:
            confirm(
                f"remove {plural(facts['steps'], 'step')}"
                f" ({format_bytes(facts['disk_bytes'])}) from"
                f" {facts['folder']}?"
            )
        opened.clear()
    echo(f"cleared {facts['folder']}")
