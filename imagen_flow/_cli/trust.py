"""``imagen-flow trust``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import PathType

__all__ = ["trust"]


@click.command()
@click.argument("file", type=PathType(exists=True))
def trust(file: Path) -> None:
    """Trust the plugins and folders that an imagen-flow.toml names.

    FILE is an imagen-flow.toml or its folder. Its local plugins may then be loaded, and its 'out'
    and 'store' may be outside its folder. Plugins are trusted with their current content: once one
    changes, or code beside it that it could import, it is not loaded until you trust it again. The
    same applies to 'out' and 'store': once they lead elsewhere, they are not used.
    """
    from .._settings import config
    from .text import echo, one_line

    if file.is_dir():
        file = file / config.NAME
    settings = config.read(file)
    if settings.ignored is not None:
        raise click.UsageError(f"{settings.ignored.message}: {settings.ignored.why}")
    if not settings.plugins and not settings.outside:
        echo(f"there is nothing to trust: {file} names no plugins and no folder outside its own")
        return
    missing = [path for path in settings.plugins if not path.is_file()]
    if missing:
        raise click.UsageError(f"{file} names {missing[0]}, which does not exist")
    try:
        digests = {path: config.code_digest(path) for path in settings.plugins}
    except (OSError, config.UntrustableCode) as error:
        raise click.UsageError(str(error)) from error
    config.trust(digests, settings)
    for path in settings.plugins:
        echo(f"trusted with its current content: {one_line(str(path))}")
    for key, folder in sorted(settings.outside.items()):
        echo(
            f"trusted: {'outputs are written to' if key == 'out' else 'the store is'}"
            f" {one_line(str(folder))}"
        )
