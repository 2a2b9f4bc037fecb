"""What several commands begin with: settings, plugins, a graph, a store, and a plan of them. And
the options that choose these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .streams import results_apart
from .text import echo, show_problems

if TYPE_CHECKING:
    from .._graph import Graph
    from .._outputs.writer import OutFolder
    from .._plan import Plan
    from .._plan.request import Options
    from .._plugins.registry import Registry
    from .._settings.config import Settings
    from .._store import Store
    from ..errors import Problem

__all__ = [
    "Misused",
    "PathType",
    "find_plugins",
    "graph_argument",
    "missing_plugin",
    "open_graph",
    "open_store",
    "out_folder",
    "out_option",
    "pickle_option",
    "planned",
    "planning_options",
    "plugin_option",
    "replace_option",
    "set_option",
    "store_option",
    "traceback_option",
]


def _pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"wants name=value, not '{text}'")
        pairs[name.strip()] = value
    return pairs


class PathType(click.Path):
    """A path; an empty one, which would mean the working directory, is refused."""

    def __init__(
        self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True
    ) -> None:
        super().__init__(exists, file_okay, dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty; name one, such as .", param, ctx)
        return super().convert(value, param, ctx)


_PATH = PathType()


graph_argument = click.argument("graph", type=_PATH)
store_option = click.option(
    "--store",
    type=_PATH,
    metavar="DIR",
    help="The store to use. [default: IMAGEN_FLOW_STORE, imagen-flow.toml, your cache folder]",
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    type=_PATH,
    multiple=True,
    metavar="FILE",
    help="A Python file of nodes to load; may be repeated.",
)
pickle_option = click.option(
    "--allow-pickle",
    multiple=True,
    metavar="FILE",
    help=(
        "Load this pickle, by path or as hf:org/name@main/FILE, after scanning it; may be repeated."
    ),
)
set_option = click.option(
    "--set",
    "values",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="A value for an input of the graph, a list as a,b or as JSON; may be repeated.",
)
out_option = click.option(
    "--out",
    type=PathType(file_okay=False),
    metavar="DIR",
    help="The folder for outputs. [default: imagen-flow.toml, else ./out]",
)
replace_option = click.option(
    "--replace",
    "may_replace",
    is_flag=True,
    help=(
        "Where the graph says 'exists: replace', let files, folders and models also replace what no"
        " run wrote."
    ),
)

traceback_option = click.option(
    "--traceback", is_flag=True, help="Show the calls that led to a node's failure."
)

# : The options of every command that plans: each fills the field of `Options` that it is named
# after, but for --no-store, which empties `store`.
_OPTIONS = (
    click.option(
        "--force",
        multiple=True,
        metavar="NODE",
        help="Run this node even if the store holds it; may be repeated.",
    ),
    click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps."),
    click.option("--dtype", metavar="DTYPE", help="auto, float32, float16 or bfloat16."),
    store_option,
    click.option("--no-store", is_flag=True, help="Don't read from or write to the store."),
    plugin_option,
    click.option(
        "--locked", is_flag=True, help="Use only the models of the hub that imagen-flow.lock pins."
    ),
    pickle_option,
    click.option(
        "--trust-remote-code",
        multiple=True,
        metavar="MODEL",
        help="Run the code that comes with this model; may be repeated.",
    ),
    click.option(
        "--tiny",
        is_flag=True,
        help=(
            "Use small models with random weights in place of all but the embedded ones, to try a"
            " graph offline in seconds."
        ),
    ),
)


def out_folder(asked: Path | None, settings: Settings, *, may_replace: bool) -> OutFolder:
    """Say where outputs go, and whether they may replace whatever lies there if the graph says so."""
    from dataclasses import replace

    from .._settings import config

    place = config.out_place(asked, settings)
    return replace(place, replace=True) if may_replace else place


class Misused(click.ClickException):
    """What the command line names cannot be used: it is at fault, not the graph."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        (file or sys.stderr).write(f"error: {self.message}\n")


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that decide how a graph is planned, as one argument `options`."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        from .._plan.request import USERS_STORE, Options

        chosen = {name: given.pop(name) for name in Options.__slots__}
        chosen["store"] = None if given.pop("no_store") else chosen["store"] or USERS_STORE
        with results_apart():
            return command(options=Options(**chosen), **given)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


def missing_plugin(path: Path) -> Problem:
    """Say that --plugin names what is not a file."""
    from ..errors import Problem

    what = f"'{path}' is a folder, not a file" if path.is_dir() else f"there is no file '{path}'"
    return Problem("missing-file", what, fix="--plugin takes a Python file of nodes")


def find_plugins(options: Options, settings: Settings, *, broken_too: bool = False) -> Registry:
    """Find installed plugins, the files named by option (which are to be of use, or `broken_too`),
    and those that the settings name and the user trusts.
    """
    from .._plan.request import plugin_files
    from .._plugins import registry as plugins
    from .._settings import config
    from ..errors import GraphError, Problem

    missing = [missing_plugin(path) for path in options.plugins if not path.is_file()]
    if missing:
        raise GraphError(missing)
    files, refused = plugin_files(options, settings)
    if refused:
        show_problems(refused)
        echo(err=True)
    found = plugins.discover(files, memo=config.plugins_memo())
    faults = {
        path: plugin.fault
        for path in options.plugins
        if (plugin := found.plugins.get(str(path))) is not None and plugin.fault
    }
    if faults and not broken_too:
        raise GraphError(
            [
                Problem("broken-plugin", f"the plugin '{path}' cannot be used", why=fault)
                for path, fault in faults.items()
            ]
        )
    return found


def _graphs_in(folder: Path) -> list[str]:
    """List the files of a folder that may be graphs; nothing if it is not a folder."""
    return (
        [
            (folder / p.name).as_posix()
            for p in folder.glob("*")
            if p.suffix in (".yaml", ".yml", ".json") and p.is_file()
        ]
        if folder.is_dir()
        else []
    )


def open_graph(path: Path, registry: Registry) -> Graph:
    """Read and resolve a graph file named on the command line."""
    from .._graph import resolve
    from .._settings import config
    from .._text.spec import read
    from ..errors import GraphError, Problem, nearest

    if not path.is_file():
        if path.is_dir():
            what = "is a folder, not a graph file"
        elif path.is_symlink() and not path.exists():
            what = f"is a link that leads nowhere (to '{path.readlink()}')"
        else:
            what = (
                "is not a file that can be read as a graph" if path.exists() else "does not exist"
            )
        inside, beside = _graphs_in(path), _graphs_in(path.parent)
        raise GraphError(
            [
                Problem(
                    "unreadable",
                    f"'{path}' {what}",
                    fix=nearest(
                        path.as_posix(),
                        inside or beside,
                        what="graphs in it are" if inside else "graphs beside it are",
                    ),
                )
            ]
        )
    read_again = partial(read, memo=config.words_memo())
    return resolve(
        read_again(path, name=str(path)),
        registry,
        read=lambda path, name: read_again(path, name=name),
    )


@contextmanager
def open_store(options: Options, settings: Settings, registry: Registry) -> Iterator[Store | None]:
    """Open the store that is asked for, or the usual one; at the end close it, and print what it
    warned of.
    """
    from .._plan import request
    from ..errors import StoreError

    try:
        store = request.open_store(options, settings, registry.codecs)
    except StoreError as unfit:
        if not isinstance(options.store, Path):
            raise
        raise Misused(str(unfit)) from unfit
    if store is None:
        yield None
        return
    try:
        yield store
    finally:
        store.close()
        for words in store.take_warnings():
            echo(f"warning: {words}", err=True)


@contextmanager
def planned(
    path: Path, options: Options, values: Mapping[str, str]
) -> Iterator[tuple[Plan, Settings]]:
    """Plan a graph as the command line asks; the store is closed at the end."""
    from .._plan.request import Request, prepare
    from .._settings import config

    settings = config.load(path.parent)
    registry = find_plugins(options, settings)
    graph = open_graph(path, registry)
    with open_store(options, settings, registry) as store:
        yield (
            prepare(Request(graph, options, texts=values, settings=settings, store=store)),
            settings,
        )
