"""What several commands begin with: settings, plugins, a graph, a store, and a plan of them. And the options that choose these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config import Settings
    from ..graph import Graph
    from ..plan import Plan
    from ..plugins import Registry
    from ..store import Store

__all__ = [
    "Chosen",
    "device_option",
    "dtype_option",
    "find_plugins",
    "graph_argument",
    "locked_option",
    "no_store_option",
    "open_graph",
    "open_store",
    "out_option",
    "planned",
    "planning_options",
    "pickle_option",
    "plugin_option",
    "remote_code_option",
    "set_option",
    "store_option",
]


def _pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"wants name=value, not '{text}'")
        pairs[name.strip()] = value
    return pairs


_PATH = click.Path(path_type=Path)

graph_argument = click.argument("graph", type=_PATH)
store_option = click.option("--store", type=_PATH, metavar="DIR", help="The store to use. [default: IMAGEN_FLOW_STORE, imagen-flow.toml, your cache folder]")
plugin_option = click.option("--plugin", "plugins", type=_PATH, multiple=True, metavar="FILE", help="A Python file of nodes to load; may be repeated.")

set_option = click.option("--set", "values", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="A value for an input of the graph, a list as a,b or as JSON; may be repeated.")
force_option = click.option("--force", multiple=True, metavar="NODE", help="Run this node even if the store holds it; may be repeated.")
device_option = click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")
dtype_option = click.option("--dtype", metavar="DTYPE", help="auto, float32, float16 or bfloat16.")
locked_option = click.option("--locked", is_flag=True, help="Take of the hub only what imagen-flow.lock names.")
pickle_option = click.option("--allow-pickle", "pickles", multiple=True, metavar="FILE", help="Load this pickle, by path or as hf:org/name@main/FILE, after a look into it; may be repeated.")
remote_code_option = click.option("--trust-remote-code", "remote_code", multiple=True, metavar="MODEL", help="Let code that comes with this model run; may be repeated.")
tiny_option = click.option("--tiny", is_flag=True, help="Take small models with random weights in place of all but the embedded ones: to try a graph offline, in seconds.")
no_store_option = click.option("--no-store", is_flag=True, help="Look nothing up and keep nothing.")
out_option = click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="The folder for outputs. [default: imagen-flow.toml, else ./out]")


class Misused(click.ClickException):
    """What the command line names cannot be used: it is at fault, not the graph."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", err=True)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the planning options chose."""

    values: dict[str, str]
    force: tuple[str, ...]
    device: str | None
    dtype: str | None
    store: Path | None
    no_store: bool
    plugins: tuple[Path, ...]
    locked: bool
    pickles: tuple[str, ...]
    remote_code: tuple[str, ...]
    tiny: bool


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that a plan depends on, as one argument `chosen`."""
    @wraps(command)
    def gathered(**given: Any) -> Any:
        fields = {name: given.pop(name) for name in Chosen.__slots__}
        return command(chosen=Chosen(**fields), **given)

    for option in (tiny_option, remote_code_option, pickle_option, locked_option, plugin_option, no_store_option, store_option, dtype_option, device_option, force_option, set_option):
        gathered = option(gathered)
    return gathered


def find_plugins(settings: Settings, files: tuple[Path, ...], *, broken_too: bool = False) -> Registry:
    """Find installed plugins, the files named by option (which are to be of use, or `broken_too`), and those that the settings name and the user trusts."""
    from .. import config, plugins
    from ..errors import GraphError, Problem

    missing = [Problem("missing-file", f"there is no file '{path}'", fix="--plugin takes a Python file of nodes") for path in files if not path.is_file()]
    if missing:
        raise GraphError(missing)
    refused = config.untrusted(settings)
    if refused:
        from .text import show_problems

        show_problems(refused.values())
        click.echo(err=True)
    trusted = [path for path in settings.plugins if path not in refused]
    found = plugins.discover(dict.fromkeys([*files, *trusted]), memo=config.plugins_memo())
    faults = {path: plugin.fault for path in files if (plugin := found.plugins.get(str(path))) is not None and plugin.fault}
    if faults and not broken_too:
        raise GraphError([Problem("broken-plugin", f"the plugin '{path}' cannot be used", why=fault) for path, fault in faults.items()])
    return found


def open_graph(path: Path, registry: Registry) -> Graph:
    """Read and resolve a graph file named on the command line."""
    from .. import config
    from ..errors import GraphError, Problem, nearest
    from ..graph import resolve
    from ..spec import read

    if not path.is_file():
        if path.is_dir():
            what = "is a folder, not a graph file"
        elif path.is_symlink():
            what = f"is a link that leads nowhere (to '{path.readlink()}')"
        else:
            what = "is no file that can be read as a graph" if path.exists() else "does not exist"
        beside = [(path.parent / p.name).as_posix() for p in path.parent.glob("*") if p.suffix in (".yaml", ".yml", ".json") and p.is_file()] if path.parent.is_dir() else []
        raise GraphError([Problem("unreadable", f"'{path}' {what}", fix=nearest(path.as_posix(), beside, what="graphs there are"))])
    read_again = partial(read, memo=config.words_memo())
    return resolve(read_again(path, name=str(path)), registry, read=lambda path, name: read_again(path, name=name))


@contextmanager
def open_store(asked: Path | None, settings: Settings, registry: Registry, *, no_store: bool = False) -> Iterator[Store | None]:
    """Open the store that is asked for, or the usual one; at the end close it, and print what it warned of."""
    from .. import config
    from ..errors import StoreError
    from ..store import Store

    if no_store:
        yield None
        return
    try:
        store = Store.open(config.store_place(asked, settings), registry.codecs)
    except StoreError as unfit:
        if asked is None:
            raise
        raise Misused(str(unfit)) from unfit
    try:
        yield store
    finally:
        store.close()
        for words in store.take_warnings():
            click.echo(f"warning: {words}", err=True)


@contextmanager
def planned(path: Path, chosen: Chosen) -> Iterator[tuple[Plan, Store | None, Settings]]:
    """Plan a graph with what the command line chose; the store is closed at the end."""
    from .. import config
    from ..filememo import FileMemo
    from ..models import Terms
    from ..plan import make_plan

    settings = config.load(path.parent)
    registry = find_plugins(settings, chosen.plugins)
    graph = open_graph(path, registry)
    with open_store(chosen.store, settings, registry, no_store=chosen.no_store) as store, closing(FileMemo(config.files_memo())) as files:
        yield (
            make_plan(
                graph,
                texts=chosen.values,
                registry=registry,
                store=store,
                files=files if store is None else None,
                **settings.place(graph.settings, device=chosen.device, dtype=chosen.dtype),
                force=chosen.force,
                base=Path.cwd(),
                terms=Terms(locked=chosen.locked, pickles=chosen.pickles, remote_code=chosen.remote_code, tiny=partial(registry.tiny, folder=config.tiny_place()) if chosen.tiny else None),
            ),
            store,
            settings,
        )
