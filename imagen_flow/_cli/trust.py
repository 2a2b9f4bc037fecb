"""``imagen-flow trust``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import PathType

__all__ = ["trust"]


@click.command()
@click.argument("file", type=PathType(exists=True))
def trust(file: Path) -> None:
    """Let imagen-flow.toml load the local plugins that it names.

    And let it use the places outside its folder that it names. FILE is an imagen-flow.toml or its
    folder. Each plugin that it names is trusted in its present form: once it changes, or code
    beside it that it could import, it is not loaded until you say so again.
    So is each place outside that 'out' and 'store' lead to: once they lead elsewhere, they are not
    used.
    """
    from .._settings import config
    from .text import echo, one_line

    if file.is_dir():
        file = file / config.NAME
    settings = config.read(file)
    if settings.ignored is not None:
        raise click.UsageError(f"{settings.ignored.message}: {settings.ignored.why}")
    if not settings.plugins and not settings.outside:
        echo(f"{file} names no plugins, and no place outside its folder: there is nothing to trust")
        return
    missing = [path for path in settings.plugins if not path.is_file()]
    if missing:
        raise click.UsageError(f"{file} names {missing[0]}, which does not exist")
    try:
        forms = {path: config.form(path) for path in settings.plugins}
    except (OSError, config.Unfit) as unfit:
        raise click.UsageError(str(unfit)) from unfit
    config.trust(forms, settings)
    for path in settings.plugins:
        echo(f"trusted in its present form: {one_line(str(path))}")
    for key, place in sorted(settings.outside.items()):
        echo(
            f"trusted: {'outputs go' if key == 'out' else 'the store lies'} in"
            f" {one_line(str(place))}"
        )
