"""``imagen-flow schema``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import find_plugins, plugin_option

__all__ = ["schema"]


@click.command()
@plugin_option
def schema(plugins: tuple[Path, ...]) -> int:
    """Print a JSON Schema of the graph language, for editors.

    It has every node type that is installed, with help, ports, defaults and bounds, so that an
    editor completes them and marks what is wrong. Make it again after a plugin was installed.
    """
    from .._graph.schema import schema
    from .._plan.request import Options
    from .._settings import config
    from .text import echo, echo_json

    registry = find_plugins(Options(plugins=plugins), config.load(Path.cwd()), allow_broken=True)
    registry.load_all()
    for fault in registry.faults:
        echo(f"left out: {fault}", err=True)
    echo_json(schema(registry.node_types.values()))
    return 0
