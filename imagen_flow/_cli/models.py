"""``imagen-flow models``: the only commands that use the network."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import UsageFault, pickle_option, plugin_option
from .text import echo

if TYPE_CHECKING:
    from .._graph import Binding, Graph, Node
    from .._models import Hub, Lock, LockedModel, Reference
    from .._plugins.registry import Registry
    from .._types.models import BaseCheckpoint
    from .._types.node import NodeType
    from ..errors import Problem

__all__ = ["models"]

_GRAPHS = (".yaml", ".yml", ".json")


@click.group()
def models() -> None:
    """Download, pin, list and remove the models that graphs use.

    A single-file checkpoint needs configurations and tokenizers from the repository of its base
    model; these are downloaded with it, wherever the file is.

    `hf:org/name@revision` is pinned in imagen-flow.lock, beside the graph or in a folder above it:
    the commit, the licence, and every file with its size and sha256. Plans and runs follow the
    lock, offline. Files go to the cache of the hub's own libraries (HF_HUB_CACHE). HF_TOKEN or `hf
    auth login` give access to private models, HF_ENDPOINT selects another hub.
    """


_named_argument = click.argument("named", nargs=-1, metavar="[GRAPH|MODEL]...")
_variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="Use this variant of the weights, such as fp16, where one exists.",
)
_update_option = click.option(
    "--update",
    is_flag=True,
    help="Look up locked models again: a branch may have moved.",
)


@models.command()
@_named_argument
@_variant_option
@_update_option
@pickle_option
@plugin_option
def resolve(
    named: tuple[str, ...],
    variant: str | None,
    update: bool,
    allow_pickle: tuple[str, ...],
    plugins: tuple[Path, ...],
) -> int:
    """Update the lock to current commits.

    Looks up the current commits of models, and writes them to the lock without downloading weights.
    Without names, the models in the lock are listed (with --update: looked up again).
    """
    from .._models import Hub

    lock_update = _LockUpdate(_select(named, plugins), Hub())
    locked = []
    for reference in lock_update.references:
        with lock_update.collect_problems():
            locked.append(lock_update.resolve(reference, variant, allow_pickle, update=update))
            lock_update.selection.add_base_model(locked[-1], lock_update.hub)
    lock_update.write()
    _print_locked(locked)
    return lock_update.finish()


@models.command()
@_named_argument
@_variant_option
@_update_option
@pickle_option
@plugin_option
def pull(
    named: tuple[str, ...],
    variant: str | None,
    update: bool,
    allow_pickle: tuple[str, ...],
    plugins: tuple[Path, ...],
) -> int:
    """Download, verify and lock models.

    Files are verified by their digests. Without names, all models in the lock are downloaded. An
    interrupted pull is resumed.
    """
    from .._models import Hub
    from .text import format_bytes, paint

    selection = _select(named, plugins, with_unfinished=not named)
    lock_update = _LockUpdate(selection, Hub())
    unfinished = _UnfinishedPulls(selection.lock.path)
    if named:
        unfinished.add(
            [
                reference
                for reference in lock_update.references
                if update or variant is not None or selection.lock.get(reference) is None
            ],
            selection.files,
            variant,
            allow_pickle,
        )
    pulled: list[str] = []
    try:
        with _show_progress() as progress:
            for reference in lock_update.references:
                with (
                    lock_update.collect_problems(),
                    unfinished.resuming(reference) as (asked_variant, asked_pickles),
                ):
                    model = lock_update.resolve(
                        reference,
                        variant or asked_variant,
                        (*allow_pickle, *asked_pickles),
                        update=update,
                    )
                    # before the download: files of a killed pull are then known to be incomplete
                    lock_update.write()
                    unfinished.remove(reference)
                    path = lock_update.hub.pull(model, report=progress(model))
                    lock_update.selection.add_base_model(model, lock_update.hub)
                    pulled.append(f" {reference}: {format_bytes(model.size)} in {path}")
    finally:
        for line in pulled:
            echo(paint("pulled", "green"), line)
    return lock_update.finish()


@models.command(name="list")
@_named_argument
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(named: tuple[str, ...], plugins: tuple[Path, ...], as_json: bool) -> int:
    """List locked and downloaded models.

    These are the models in the lock or in a graph, and the other models in the hub's cache.
    """
    from .._models import Hub, cached
    from .text import echo_json, format_bytes, table

    selection, hub = _select(named, plugins, required=False), Hub()
    rows: list[dict[str, Any]] = []
    for reference in selection.references:
        model = selection.lock.get(reference)
        missing = hub.missing(model) if model else []
        if model is not None and not missing:
            selection.add_base_model(model, hub)
        state = (
            "not locked"
            if model is None
            else f"{len(missing)} of {len(model.files)} files missing"
            if missing
            else "here"
        )
        rows.append(
            {
                "reference": str(reference),
                "commit": model.commit if model else None,
                "bytes": model.size if model else None,
                "license": model.license if model else None,
                "state": state,
            }
        )
    locked = {(model.reference.name, model.commit) for model in selection.lock.models.values()}
    unlocked = [] if named else [entry for entry in cached() if entry[:2] not in locked]
    if as_json:
        echo_json(
            {
                "lock": str(selection.lock.path) if selection.lock.models else None,
                "models": rows,
                "other": selection.others,
                "cached": [
                    dict(zip(("repository", "commit", "revisions", "bytes"), entry, strict=True))
                    for entry in unlocked
                ],
            },
            indent=1,
        )
        return 0
    if rows:
        echo(
            table(
                [
                    (
                        r["reference"],
                        (r["commit"] or "")[:7],
                        format_bytes(r["bytes"]) if r["bytes"] is not None else "",
                        r["license"] or "",
                        r["state"],
                    )
                    for r in rows
                ],
                indent="",
                max_width=100,
            )
        )
    if selection.others:
        echo("\n".join(selection.others))
    if unlocked:
        echo("in the hub's cache, but not in a lock here:")
        echo(
            table(
                [
                    (
                        f"hf:{name}@{refs.partition(', ')[0] or commit[:12]}",
                        commit[:7],
                        format_bytes(size),
                    )
                    for name, commit, refs, size in unlocked
                ],
                max_width=100,
            )
        )
    if not rows and not unlocked and not selection.others:
        echo("no models are locked here, and the hub's cache is empty")
    return 0


@models.command()
@click.argument("named", nargs=-1, required=True, metavar="MODEL...")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option("--keep-files", is_flag=True, help="Remove it from the lock only.")
def rm(named: tuple[str, ...], yes: bool, keep_files: bool) -> int:
    """Remove models from the lock and the cache.

    Files in the cache that another model needs are kept.
    """
    from .._models import Hub, cached, commit_of
    from .text import confirm, format_bytes

    selection, hub = _select(named, (), with_base_models=False), Hub()
    if selection.others:
        raise click.UsageError(f"'{selection.others[0]}' is not a hub model: remove it yourself")
    sizes = {(name, commit): size for name, commit, _, size in cached()}
    lock_update = _LockUpdate(selection, hub)
    names = {(reference.name, reference.revision or "main") for reference in selection.references}
    selection.references += [
        model.reference
        for model in selection.lock.models.values()
        if model.reference.parts is not None
        and (model.reference.name, model.reference.revision or "main") in names
    ]
    for reference in selection.references:
        model = selection.lock.get(reference)
        with lock_update.collect_problems():
            commit = model.commit if model else commit_of(reference)
            size = sizes.get((reference.name, commit), 0)
            if model is None and (reference.name, commit) not in sizes:
                lock_update.report_missing(reference)
                continue
            if not yes:
                freed_text = f" ({format_bytes(size)})" if size and not keep_files else ""
                confirm(f"remove {reference}{freed_text}?")
            others = [
                other
                for other in lock_update.lock.without([reference]).models.values()
                if (other.reference.name, other.commit) == (reference.name, commit)
            ]
            needed = {file.name for other in others for file in other.files}
            freed = (
                0
                if keep_files
                else hub.remove(reference.name, commit, model.files if model else (), keep=needed)
            )
            lock_update.remove(reference)
            echo(f"removed {reference}: {format_bytes(freed)} freed")
    lock_update.write()
    return lock_update.finish()


class _Selection:
    """The models that a command line names: references to the hub, each once, with the lock that
    applies to them, and models of other kinds.

    Params:
        files: the references that name a single-file checkpoint.
        base_of: returns the base model of a single-file checkpoint, from its header.
    """

    def __init__(
        self,
        references: Iterable[Reference],
        lock: Lock,
        others: Iterable[str],
        files: Collection[str],
        base_of: Callable[[Mapping[str, Any]], BaseCheckpoint | None],
    ) -> None:
        self.references = list({str(reference): reference for reference in references}.values())
        self.lock = lock
        self.others = list(dict.fromkeys(others))
        self.files = files
        self.base_of = base_of

    def add_base_model(self, model: LockedModel, hub: Hub) -> None:
        """Add the base model of a single-file checkpoint to the references, if it is known."""
        from .._models import base_reference

        if (
            str(model.reference) in self.files
            and (base := self.base_of(hub.header(model))) is not None
        ):
            reference = base_reference(base)
            if str(reference) not in map(str, self.references):
                self.references.append(reference)


class _UnfinishedPulls:
    """The models that a pull has started to download but not locked yet, kept in the user's cache
    folder so that the next pull resumes them. Without that file, nothing is resumed.
    """

    def __init__(self, lock: Path) -> None:
        from .._settings import config

        name = str(lock.absolute()).encode("utf-8", "surrogateescape")
        self._path = config.downloads_folder() / f"{hashlib.sha256(name).hexdigest()[:32]}.json"
        self._models = self._read()

    def references(self) -> dict[str, tuple[Reference, bool]]:
        """Return the models by reference, each with whether it is a single-file checkpoint."""
        return {
            text: (reference, is_single_file)
            for text, (reference, is_single_file, _, _) in self._models.items()
        }

    def add(
        self,
        references: Iterable[Reference],
        single_files: Collection[str],
        variant: str | None,
        pickles: tuple[str, ...],
    ) -> None:
        new = {
            str(reference): (reference, str(reference) in single_files, variant, pickles)
            for reference in references
        }
        if new:
            self._models |= new
            self._write()

    def remove(self, reference: Reference) -> None:
        """Forget a model: it is in the lock, or not available."""
        if self._models.pop(str(reference), None) is not None:
            self._write()

    @contextmanager
    def resuming(self, reference: Reference) -> Iterator[tuple[str | None, tuple[str, ...]]]:
        """Yield the variant and the allowed pickles that were asked for. A model that cannot be
        used is forgotten.
        """
        _, _, variant, pickles = self._models.get(str(reference), (None, False, None, ()))
        try:
            yield variant, pickles
        except Exception:
            self.remove(reference)
            raise

    def _read(self) -> dict[str, tuple[Reference, bool, str | None, tuple[str, ...]]]:
        from .._models import parse_reference

        found = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            for entry in json.loads(self._path.read_bytes()):
                reference = parse_reference(entry["reference"])
                if entry["parts"] is not None:
                    reference = replace(reference, parts=tuple(map(str, entry["parts"])))
                variant = entry["variant"]
                if reference.kind == "hf" and (variant is None or isinstance(variant, str)):
                    found[str(reference)] = (
                        reference,
                        entry["whole"] is True,
                        variant,
                        tuple(map(str, entry["pickles"])),
                    )
        return found

    def _write(self) -> None:
        entries = [
            {
                "reference": str(replace(reference, parts=None)),
                "parts": reference.parts,
                "whole": is_single_file,
                "variant": variant,
                "pickles": pickles,
            }
            for reference, is_single_file, variant, pickles in self._models.values()
        ]
        with suppress(OSError):
            if not entries:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(entries))
            os.replace(temporary, self._path)


class _LockUpdate:
    """Resolves models one after the other: collects what goes wrong, and updates the lock."""

    def __init__(self, selection: _Selection, hub: Hub) -> None:
        self.references = selection.references
        self.selection = selection
        self.lock = selection.lock
        self.hub = hub
        self.problems: list[Problem] = []
        self._edits: list[Callable[[Lock], Lock]] = []
        for other in selection.others:
            echo(f"{other} is not a hub model: there is nothing to download", err=True)

    @contextmanager
    def collect_problems(self) -> Iterator[None]:
        from .._models import UnresolvedModel, UnusableModel

        try:
            yield
        except (UnresolvedModel, UnusableModel) as fault:
            self.problems.append(fault.problem())

    def resolve(
        self, reference: Reference, variant: str | None, pickles: tuple[str, ...], *, update: bool
    ) -> LockedModel:
        """Resolve a reference from the lock, or from the hub if it is not locked or if something
        else is asked for.
        """
        model = self.lock.get(reference)
        if model is None or update or variant is not None:
            model = self.hub.resolve(reference, variant=variant, pickles=pickles)
            self.edit_lock(lambda lock: lock.with_models([model]))
        return model

    def edit_lock(self, edit: Callable[[Lock], Lock]) -> None:
        self.lock = edit(self.lock)
        self._edits.append(edit)

    def remove(self, reference: Reference) -> None:
        self.edit_lock(lambda lock: lock.without([reference]))

    def report_missing(self, reference: Reference) -> None:
        from ..errors import Problem, nearest

        self.problems.append(
            Problem(
                "unresolved-model",
                f"'{reference}' is neither in the lock nor in the hub's cache",
                fix=nearest(str(reference), self.lock.models, what="locked models are"),
            )
        )

    def write(self) -> None:
        """Apply the edits to the current lock file: another command may have written to it
        meanwhile.
        """
        from .._models import read_lock

        if not self._edits:
            return
        path = self.lock.path
        with ExitStack() as stack:
            try:
                with suppress(OSError):  # without a writable cache there is no such guard
                    stack.enter_context(
                        self.hub.alone(
                            "imagen-flow", hashlib.sha256(str(path.resolve()).encode()).hexdigest()
                        )
                    )
                self.lock = reduce(lambda lock, edit: edit(lock), self._edits, read_lock(path))
                self._edits.clear()
                if self.lock.write():
                    echo(f"wrote {path}", err=True)
            except OSError as error:
                raise UsageFault(
                    f"the lock {path} cannot be written: {error.strerror}\n"
                    "  = fix: make the folder writable"
                ) from error

    def finish(self) -> int:
        from .text import show_problems

        if self.problems:
            show_problems(self.problems)
        return 1 if self.problems else 0


def _select(
    names: tuple[str, ...],
    plugins: tuple[Path, ...],
    *,
    required: bool = True,
    with_base_models: bool = True,
    with_unfinished: bool = False,
) -> _Selection:
    """Read the names on the command line. The lock is that of the first graph, else of the working
    directory.

    Params:
        required: refuse an empty command line if there is no lock.
        with_base_models: add the base models of single-file checkpoints.
        with_unfinished: without names, add the models of an interrupted pull.
    """
    from .._models import BadReference, base_reference, find_lock, parse_reference, read_lock
    from .._plan.request import Options
    from .._settings import config
    from ..errors import GraphError
    from .session import find_plugins, open_graph

    graphs = [Path(word) for word in names if word.endswith(_GRAPHS) and not word.startswith("hf:")]
    candidates: dict[str, Path | None] = {
        word: Path() for word in names if Path(word) not in graphs
    }
    lock = read_lock(find_lock(graphs[0].parent if graphs else Path.cwd()))
    registry = find_plugins(
        Options(plugins=plugins), config.load(graphs[0].parent if graphs else Path.cwd())
    )
    for path in graphs:
        candidates |= models_of(open_graph(path, registry))
    references, other_models, files, problems = [], [], set(), []
    for text, folder in candidates.items():
        try:
            reference = parse_reference(text)
        except BadReference as error:
            problems.append(error.problem())
            continue
        is_single_file = (
            with_base_models
            and folder is not None
            and text.lower().endswith((".safetensors", ".gguf"))
        )
        if reference.kind == "hf":
            references.append(reference)
            if is_single_file:
                files.add(str(reference))
        elif (
            is_single_file
            and folder is not None
            and (base := _base_of(folder / Path(text).expanduser(), registry)) is not None
        ):
            references.append(base_reference(base))
        else:
            other_models.append(text)
    if problems:
        raise GraphError(problems)
    unfinished = _UnfinishedPulls(lock.path).references() if with_unfinished else {}
    if not names and required and not lock.models and not unfinished:
        raise click.UsageError(
            "name a graph or a model: there is no imagen-flow.lock in this folder"
        )
    if not names:
        references = [
            *(model.reference for _, model in sorted(lock.models.items())),
            *(reference for reference, _ in unfinished.values()),
        ]
        files |= {text for text, (_, is_single_file) in unfinished.items() if is_single_file}
    return _Selection(references, lock, other_models, files, registry.base_of)


def _base_of(path: Path, registry: Registry) -> BaseCheckpoint | None:
    """Return the base model of a single-file checkpoint on this machine; None if it is not known,
    or if the file is not a complete checkpoint (which planning reports).
    """
    from .._models import tensors_in

    with suppress(
        OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError
    ):
        return registry.base_of(tensors_in(path))
    return None


def models_of(
    graph: Graph, given: dict[str, dict[str, Path]] | None = None
) -> dict[str, Path | None]:
    """List the models that a graph names: in its nodes, in the defaults of inputs that lead to
    them, and in the graphs that it includes. Returns for each the folder that its relative path
    starts from, or None if the file is used without companions.

    Params:
        given: references that the including graph passes to inputs, with their folders.
    """
    from .._graph import Graph as GraphType

    passed = given or {}
    found: dict[str, Path | None] = {}
    for node in graph.nodes.values():
        if isinstance(node.type, GraphType):
            found |= models_of(
                node.type,
                {
                    name: _references_in(binding, graph, passed)
                    for name, binding in node.bindings.items()
                },
            )
            continue
        for port, loader in node.type.loaders.items():
            references = _references_at(node, node.type, port, graph, passed)
            found |= {
                text: found.get(text) if loader.takes_file else folder
                for text, folder in references.items()
            }
    return found


def _references_at(
    node: Node, type_: NodeType, port: str, graph: Graph, passed: dict[str, dict[str, Path]]
) -> dict[str, Path]:
    """List the models that a port, or a field of its records (``loras.model``), is given as
    text.
    """
    from .._graph import fields_of

    name, _, field = port.partition(".")
    declared, binding = type_.inputs[name], node.bindings.get(name)
    if field:
        declared = type_.records[name].fields[field]
        is_first = type_.records[name].first is declared
        bindings = [] if binding is None else list(fields_of(binding, field, is_first=is_first))
    else:
        bindings = [binding]
    found: dict[str, Path] = {}
    for bound in bindings:
        if bound is not None:
            found |= _references_in(bound, graph, passed)
        elif isinstance(declared.default, str):
            found[declared.default] = Path()
    return found


def _references_in(
    binding: Binding | None, graph: Graph, passed: dict[str, dict[str, Path]]
) -> dict[str, Path]:
    from .._graph import ElementOf, FromInput, Given, Listed, ModelAt, PerElement, parts_of

    if isinstance(binding, ModelAt):
        return {binding.reference: binding.folder}
    if isinstance(binding, FromInput):
        return (
            passed[binding.name]
            if binding.name in passed
            else _references_in(graph.inputs[binding.name].default, graph, {})
        )
    if isinstance(binding, Listed | ElementOf | PerElement):
        return {
            text: folder
            for item in parts_of(binding)
            for text, folder in _references_in(item, graph, passed).items()
        }
    if isinstance(binding, Given):
        return {
            text: graph.folder
            for text in (binding.value if isinstance(binding.value, list) else [binding.value])
            if isinstance(text, str)
        }
    return {}


def _print_locked(found: list[LockedModel]) -> None:
    from .text import format_bytes, plural, table

    if found:
        echo(
            table(
                [
                    (
                        str(m.reference),
                        m.commit[:7],
                        f"{format_bytes(m.size)} in {plural(len(m.files), 'file')}",
                        m.license or "no licence given",
                    )
                    for m in found
                ],
                indent="",
                max_width=100,
            )
        )


@contextmanager
def _show_progress() -> Iterator[Callable[[LockedModel], Callable[[str, int, int], None]]]:
    """Show how far fetching has come: a bar for each model, or a line for each file where there is
    no terminal.
    """
    if not sys.stderr.isatty():
        yield _print_files
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:

        def bar(model: LockedModel) -> Callable[[str, int, int], None]:
            task = shown.add_task(str(model.reference), total=model.size)
            here: dict[str, int] = {}

            def report(name: str, done: int, _total: int) -> None:
                here[name] = done
                shown.update(task, completed=sum(here.values()))

            return report

        yield bar


def _print_files(model: LockedModel) -> Callable[[str, int, int], None]:
    from .text import format_bytes

    reported: set[str] = set()

    def report(name: str, done: int, total: int) -> None:
        if done >= total and name not in reported:
            reported.add(name)
            echo(
                (
                    f"{model.reference}: {name} ({format_bytes(total)}) {len(reported)} of"
                    f" {len(model.files)}"
                ),
                err=True,
            )

    return report
