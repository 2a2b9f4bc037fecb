"""``imagen-flow trust``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["trust"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def trust(file: Path) -> None:
    """Let imagen-flow.toml load the local plugins that it names.

    FILE is an imagen-flow.toml or its folder. Each plugin that it names is trusted in its present form: once it changes, it is not loaded until you say so again.
    """
    from .. import config

    if file.is_dir():
        file = file / config.NAME
    settings = config.read(file)
    if not settings.plugins:
        click.echo(f"{file} names no plugins: there is nothing to trust")
        return
    missing = [path for path in settings.plugins if not path.is_file()]
    if missing:
        raise click.UsageError(f"{file} names {missing[0]}, which does not exist")
    config.trust({path: config.form(path) for path in settings.plugins})
    for path in settings.plugins:
        click.echo(f"trusted in its present form: {path}")
