"""What is asked for, as one value, and the one function that plans it.

Every way in (a command, a watch, a hot folder, a replayed picture, a Python function) collects
`Options`, makes a `Request` of them and a graph, and calls `prepare`. None of them passes options
on one by one, so an option that is added here holds at all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, Final

from .._graph import Graph
from .._models import ModelPolicy, find_lock, read_lock
from .._settings import config
from .._settings.config import Settings
from .._store import Store
from .._store.file_digests import FileDigests
from .._system.dataclass import dataclass
from .._types.codec import Codecs
from ..errors import GraphError, Problem
from . import Item, Plan, make_plan

__all__ = [
    "USERS_STORE",
    "Options",
    "Request",
    "given_path",
    "listed",
    "open_store",
    "plugin_files",
    "prepare",
]

#: The store in the user's cache folder, or wherever the environment or settings say.
USERS_STORE: Final = "user"


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen at every way in. A field has the same name, and the same meaning, in the
    Python functions and on the command line.

    Params:
        device, dtype: where to compute and in what; None leaves it to the graph, then to
            ``imagen-flow.toml``, then to the machine.
        batch: how many steps of a kind may be computed at once: ``exact``, ``auto`` or a number;
            None leaves it to the graph.
        force: nodes that run even if the store holds what they give.
        store: an open Store, its folder, `USERS_STORE`, or None to look nothing up and keep
            nothing.
        plugins: local files of nodes, beside those that ``imagen-flow.toml`` names and the user
            trusts.
        locked: take of the hub only what ``imagen-flow.lock`` names.
        tiny: take small models with random weights in place of all but the embedded ones.
        allow_pickle: pickles that may be loaded, after a look into them, each by path or as
            ``hf:org/name@main/FILE``.
        trust_remote_code: references of models whose own code may run.
    """

    device: str | None = None
    dtype: str | None = None
    force: tuple[str, ...] = ()
    store: Store | Path | str | None = USERS_STORE
    plugins: tuple[Path, ...] = ()
    locked: bool = False
    tiny: bool = False
    allow_pickle: tuple[str, ...] = ()
    trust_remote_code: tuple[str, ...] = ()
    batch: str | int | None = None

    @classmethod
    def of(
        cls,
        *,
        device: str | None = None,
        dtype: str | None = None,
        force: Iterable[str] | str = (),
        store: Store | Path | str | None = USERS_STORE,
        plugins: Iterable[str | Path] | str | Path = (),
        locked: bool = False,
        tiny: bool = False,
        allow_pickle: Iterable[str | Path] | str | Path = (),
        trust_remote_code: Iterable[str] | str = (),
        batch: str | int | None = None,
    ) -> Options:
        """Collect what the Python functions take, where one may stand for a list of one."""
        return cls(
            device,
            dtype,
            tuple(listed(force)),
            given_path("store", store) if store == "" else store,
            tuple(given_path("plugins", path) for path in listed(plugins)),
            locked,
            tiny,
            tuple(listed(allow_pickle)),
            tuple(listed(trust_remote_code)),
            batch,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A graph to be planned, with all that decides how.

    Params:
        graph: resolved, and so with the plugins that `plugin_files` names.
        values, texts: values of its inputs, live or as text (as ``--set`` gives them).
        settings: the ``imagen-flow.toml`` that holds.
        store: the store that `open_store` gave, or None.
        files: remembers digests of files where there is no store; default: a memo in the user's
            cache folder.
        base: the folder that paths in values are relative to; default: the working directory.
        folder: the folder whose ``imagen-flow.lock`` holds, or one above it; default: that of the
            graph.
    """

    graph: Graph
    options: Options = field(default_factory=Options)
    values: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    store: Store | None = None
    files: FileDigests | None = None
    base: Path | None = None
    folder: Path | None = None


def prepare(request: Request, *, items: Iterable[Item] | None = None) -> Plan:
    """Plan what is asked for. Nothing runs.

    Params:
        items: plan the graph for each of these, in one plan: what they share is worked out once,
            and steps with equal keys are one. Their values go before those of the request.

    Raises:
        GraphError: problems of the values, of the options or of the lock. What is wrong with the
            values of an item is in `Plan.items`.
        ValueError: the labels of the items do not tell them apart.
    """
    graph, options = request.graph, request.options
    registry = graph.registry
    assert registry is not None, "a resolved graph knows its registry"
    policy = ModelPolicy(
        lock=read_lock(find_lock(request.folder or graph.folder)),
        locked=options.locked,
        pickles=options.allow_pickle,
        remote_code=options.trust_remote_code,
        tiny=partial(registry.tiny, folder=config.tiny_folder()) if options.tiny else None,
    )
    with ExitStack() as stack:
        files = request.files
        if request.store is not None:
            stack.enter_context(request.store.in_use())
        elif files is None:
            files = FileDigests(config.file_digests_folder())
            stack.callback(files.suspend)
        return make_plan(
            graph,
            request.values,
            texts=request.texts,
            items=items,
            store=request.store,
            files=files,
            **request.settings.device_settings(
                graph.settings, device=options.device, dtype=options.dtype
            ),
            batch=options.batch,
            force=options.force,
            base=request.base,
            model_policy=policy,
        )


def plugin_files(options: Options, settings: Settings) -> tuple[list[Path], list[Problem]]:
    """Name the local files of nodes to load, and say, as warnings, which of the settings' are not
    because they are not trusted.
    """
    refused = config.untrusted(settings)
    return list(
        dict.fromkeys(
            [*options.plugins, *(path for path in settings.plugins if path not in refused)]
        )
    ), list(refused.values())


def open_store(
    options: Options, settings: Settings, codecs: Codecs, *, on_demand: bool = False
) -> Store | None:
    """Open the store that is meant, for the caller to close; or, `on_demand`, to be open only while
    it is in use. One that was given open is given back, and is for its owner to close.

    Raises:
        StoreError: it cannot be used; says why, and how to mend it.
    """
    asked = options.store
    if asked is None or isinstance(asked, Store):
        return asked
    named = None if asked == USERS_STORE else Path(asked)
    folder, seals = config.store_folder(named, settings), config.seals(named, settings)
    return (
        Store.on_demand(folder, codecs, seals=seals)
        if on_demand
        else Store.open(folder, codecs, seals=seals)
    )


def given_path(name: str, path: str | Path) -> Path:
    """Return a path that a Python function was given as its argument `name`.

    Raises:
        GraphError: the path is empty, which would mean the working directory.
    """
    if path == "":
        raise GraphError(
            [Problem("bad-path", f"the path for '{name}' is empty", fix="name one, such as '.'")]
        )
    return Path(path)


def listed(given: Iterable[str | Path] | str | Path) -> list[str]:
    """List what may be given as one or as several: a text would be taken letter by letter."""
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
