"""What the graph commands share: their options, and the steps from these options to a plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .streams import separate_results
from .text import echo, show_problems

if TYPE_CHECKING:
    from .._graph import Graph
    from .._outputs.writer import OutFolder
    from .._plan.request import Options, Request
    from .._plugins.registry import Registry
    from .._settings.config import Settings
    from .._store import Store
    from ..errors import Problem

__all__ = [
    "UsageFault",
    "PathType",
    "find_plugins",
    "graph_argument",
    "missing_plugin",
    "open_graph",
    "open_store",
    "out_folder",
    "output_options",
    "with_options",
    "pickle_option",
    "open_request",
    "planning_options",
    "plugin_option",
    "set_option",
    "store_option",
    "traceback_option",
]


def _parse_pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"expected name=value, got '{text}'")
        pairs[name.strip()] = value
    return pairs


class PathType(click.Path):
    """A path. An empty one is refused: it would mean the working directory."""

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
    help="The store folder. [default: IMAGEN_FLOW_STORE, imagen-flow.toml, your cache folder]",
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    type=_PATH,
    multiple=True,
    metavar="FILE",
    help="A Python file of node types to load; may be repeated.",
)
pickle_option = click.option(
    "--allow-pickle",
    multiple=True,
    metavar="FILE",
    help=(
        "Allow loading this pickle file, after a scan; a path or hf:org/name@main/FILE;"
        " may be repeated."
    ),
)
set_option = click.option(
    "--set",
    "values",
    multiple=True,
    callback=_parse_pairs,
    metavar="NAME=VALUE",
    help="Set an input of the graph; write a list as a,b or as JSON; may be repeated.",
)
_OUTPUT_OPTIONS = (
    click.option(
        "--out",
        type=PathType(file_okay=False),
        metavar="DIR",
        help="The output folder. [default: imagen-flow.toml, then ./out]",
    ),
    click.option(
        "--replace",
        "may_replace",
        is_flag=True,
        help=(
            "Where the graph says 'exists: replace', also overwrite files, folders and models"
            " that no run wrote."
        ),
    ),
)

traceback_option = click.option(
    "--traceback", is_flag=True, help="Show the traceback of a failed node."
)

#: The options of every command that plans. Each fills the field of `Options` with its name, except
#: for --no-store, which clears `store`.
_OPTIONS = (
    click.option(
        "--force",
        multiple=True,
        metavar="NODE",
        help="Run this node even if its result is in the store; may be repeated.",
    ),
    click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps."),
    click.option("--dtype", metavar="DTYPE", help="auto, float32, float16 or bfloat16."),
    click.option(
        "--batch",
        metavar="SIZE",
        help=(
            "Compute up to this many steps of a kind at once (auto, or a number), where that"
            " changes pixels by at most one level of 8 bits; exact: only where it changes none."
        ),
    ),
    store_option,
    click.option("--no-store", is_flag=True, help="Don't read from or write to the store."),
    plugin_option,
    click.option(
        "--locked", is_flag=True, help="Use only hub models that are pinned in imagen-flow.lock."
    ),
    pickle_option,
    click.option(
        "--trust-remote-code",
        multiple=True,
        metavar="MODEL",
        help="Allow running the code that comes with this model; may be repeated.",
    ),
    click.option(
        "--tiny",
        is_flag=True,
        help=(
            "Replace all but the embedded models with small random ones, to try a graph"
            " offline in seconds."
        ),
    ),
)


def out_folder(requested: Path | None, settings: Settings, *, may_replace: bool) -> OutFolder:
    """Return the output folder, and whether outputs may overwrite files that no run wrote."""
    from dataclasses import replace

    from .._settings import config

    folder = config.outputs_folder(requested, settings)
    return replace(folder, replace=True) if may_replace else folder


class UsageFault(click.ClickException):
    """Something named on the command line cannot be used; no usage text is printed."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        (file or sys.stderr).write(f"error: {self.message}\n")


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that decide how a graph is planned, as one argument `options`."""

    @wraps(command)
    def wrapper(**arguments: Any) -> Any:
        from .._plan.request import USERS_STORE, Options

        chosen = {name: arguments.pop(name) for name in Options.__slots__}
        chosen["store"] = None if arguments.pop("no_store") else chosen["store"] or USERS_STORE
        with separate_results():
            return command(options=Options(**chosen), **arguments)

    return with_options(_OPTIONS, wrapper)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where outputs go, as `out` and `may_replace`."""
    return with_options(_OUTPUT_OPTIONS, command)


def with_options(
    options: Sequence[Callable[..., Any]], command: Callable[..., Any]
) -> Callable[..., Any]:
    """Give a command these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def missing_plugin(path: Path) -> Problem:
    """Return the problem of a --plugin that is not a file."""
    from ..errors import Problem

    message = f"'{path}' is a folder, not a file" if path.is_dir() else f"there is no file '{path}'"
    return Problem("missing-file", message, fix="--plugin takes a Python file of nodes")


def find_plugins(options: Options, settings: Settings, *, allow_broken: bool = False) -> Registry:
    """Discover the installed plugins, the files named by --plugin, and those that the settings name
    and the user trusts.

    Params:
        allow_broken: accept files named by --plugin that cannot be loaded.
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
    registry = plugins.discover(files, cache=config.plugins_cache_file())
    broken = {
        path: plugin.fault
        for path in options.plugins
        if (plugin := registry.plugins.get(str(path))) is not None and plugin.fault
    }
    if broken and not allow_broken:
        raise GraphError(
            [
                Problem("broken-plugin", f"the plugin '{path}' cannot be used", why=fault)
                for path, fault in broken.items()
            ]
        )
    return registry


def _graph_files(folder: Path) -> list[str]:
    """List the files in a folder that may be graphs; empty if it is not a folder."""
    return (
        [
            (folder / p.name).as_posix()
            for p in folder.glob("*")
            if p.suffix in (".yaml", ".yml", ".json") and p.name[0] != "." and p.is_file()
        ]
        if folder.is_dir()
        else []
    )


def open_graph(path: Path, registry: Registry) -> Graph:
    """Read and resolve a graph file named on the command line."""
    from .._graph import resolve
    from .._text.spec import read
    from ..errors import GraphError, Problem, nearest

    if not path.is_file():
        if path.is_dir():
            fault = "is a folder, not a graph file"
        elif path.is_symlink() and not path.exists():
            fault = f"is a broken link (to '{path.readlink()}')"
        else:
            fault = "is not a regular file" if path.exists() else "does not exist"
        files_inside, files_beside = _graph_files(path), _graph_files(path.parent)
        raise GraphError(
            [
                Problem(
                    "unreadable",
                    f"'{path}' {fault}",
                    fix=nearest(
                        path.as_posix(),
                        files_inside or files_beside,
                        what="graphs in it" if files_inside else "graphs beside it",
                    ),
                )
            ]
        )
    return resolve(read(path, name=str(path)), registry)


@contextmanager
def open_store(options: Options, settings: Settings, registry: Registry) -> Iterator[Store | None]:
    """Open the requested or the default store; on exit, close it and print its warnings."""
    from .._plan import request
    from ..errors import StoreError

    try:
        store = request.open_store(options, settings, registry.codecs)
    except StoreError as error:
        if not isinstance(options.store, Path):
            raise
        raise UsageFault(str(error)) from error
    if store is None:
        yield None
        return
    try:
        yield store
    finally:
        store.close()
        for warning in store.take_warnings():
            echo(f"warning: {warning}", err=True)


@contextmanager
def open_request(path: Path, options: Options, values: Mapping[str, str]) -> Iterator[Request]:
    """Yield the request for a graph that the command line makes. The store is closed on exit."""
    from .._plan.request import Request
    from .._settings import config

    settings = config.load(path.parent)
    registry = find_plugins(options, settings)
    graph = open_graph(path, registry)
    with open_store(options, settings, registry) as store:
        yield Request(graph, options, texts=values, settings=settings, store=store)
