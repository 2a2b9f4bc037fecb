"""``imagen-flow inputs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import find_plugins, graph_argument, open_graph, plugin_option

if TYPE_CHECKING:
    from .._graph import Input

__all__ = ["inputs"]


@click.command()
@graph_argument
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inputs(graph: Path, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Show the inputs of a graph: their types, defaults and help.

    They are set by --set NAME=VALUE, and varied by --sweep NAME=VALUES.
    """
    from .._plan.request import Options
    from .._settings import config
    from .text import echo, echo_json, table

    registry = find_plugins(Options(plugins=plugins), config.load(Path.cwd()))
    found = open_graph(graph, registry).inputs.values()
    if as_json:
        echo_json([_as_data(one) for one in found], indent=1)
    elif found:
        echo(table((one.name, _default(one), str(one.type), one.help) for one in found))
    else:
        echo("it has no inputs")
    return 0


def _as_data(one: Input) -> dict[str, Any]:
    return {
        "name": one.name,
        "type": str(one.type),
        "required": one.default is None,
        **({} if one.default is None else {"default": _plain(one)}),
        "help": one.help,
    }


def _default(one: Input) -> str:
    import json

    if one.default is None:
        return "required"
    value = _plain(one)
    return f"default {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _plain(one: Input) -> Any:
    """Return a default as it may be written again."""
    from .._graph import Binding, FileAt, Given, Listed

    def plain(binding: Binding | None) -> Any:
        if isinstance(binding, Listed):
            return [plain(item) for item in binding.items]
        if isinstance(binding, FileAt):
            return str(binding.path)
        return binding.value if isinstance(binding, Given) else None

    return plain(one.default)
