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
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import UsageFault, pickle_option, plugin_option
from .text import echo

if TYPE_CHECKING:
    from .._graph import Binding, Graph
    from .._models import Hub, Lock, LockedModel, Reference
    from .._plugins.registry import Registry
    from .._types.values import Base
    from ..errors import Problem

__all__ = ["models"]

_GRAPHS = (".yaml", ".yml", ".json")


@click.group()
def models() -> None:
    """Download, pin, list and remove the models that graphs use.

    A checkpoint that is one file is completed by configurations and tokenizers of the repository
    that it is of: they are fetched for it, wherever the file lies.

    What `hf:org/name@revision` means is written to imagen-flow.lock, beside the graph or in a
    folder above: the commit, the licence, and every file with its size and sha256. Plans and
    runs hold to it, offline. Files go to the cache of the hub's own libraries (HF_HUB_CACHE);
    HF_TOKEN or `hf auth login` let you in, HF_ENDPOINT names another hub.
    """


_named_argument = click.argument("named", nargs=-1, metavar="[GRAPH|MODEL]...")
_variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="Use this variant of the weights, such as fp16, where there is one.",
)
_update_option = click.option(
    "--update",
    is_flag=True,
    help="Ask the hub again what is locked already: a branch may have moved.",
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
    """Ask the hub which commits models are at now, and write them to the lock. No weights are
    fetched.

    Without names, what the lock names is looked at (with --update: asked for again).
    """
    from .._models import Hub

    work = _Work(_named(named, plugins), Hub())
    found = []
    for reference in work.references:
        with work.gathered():
            found.append(work.lock_in(reference, variant, allow_pickle, update=update))
            work.named.complete(found[-1], work.hub)
    work.write()
    _print_locked(found)
    return work.end()


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
    """Fetch models, check them against their digests, and lock what is not locked yet.

    Without names, all that the lock names is fetched. A pull that was stopped goes on where it was.
    """
    from .._models import Hub
    from .text import format_bytes, paint

    found = _named(named, plugins, resumed=not named)
    work = _Work(found, Hub())
    begun = _Begun(found.lock.path)
    if named:
        begun.add(
            [
                reference
                for reference in work.references
                if update or variant is not None or found.lock.get(reference) is None
            ],
            found.files,
            variant,
            allow_pickle,
        )
    done: list[str] = []
    try:
        with _progress() as watch:
            for reference in work.references:
                with work.gathered(), begun.ending(reference) as (asked_variant, asked_pickles):
                    model = work.lock_in(
                        reference,
                        variant or asked_variant,
                        (*allow_pickle, *asked_pickles),
                        update=update,
                    )
                    # before it is fetched: what a kill leaves behind is known to be not whole
                    work.write()
                    begun.end(reference)
                    path = work.hub.pull(model, report=watch(model))
                    work.named.complete(model, work.hub)
                    done.append(f" {reference}: {format_bytes(model.size)} in {path}")
    finally:
        for line in done:
            echo(paint("pulled", "green"), line)
    return work.end()


@models.command(name="list")
@_named_argument
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(named: tuple[str, ...], plugins: tuple[Path, ...], as_json: bool) -> int:
    """List what the lock names, or a graph, and what the hub's cache holds besides."""
    from .._models import Hub, cached
    from .text import echo_json, format_bytes, table

    found, hub = _named(named, plugins, needed=False), Hub()
    rows: list[dict[str, Any]] = []
    for reference in found.references:
        model = found.lock.get(reference)
        missing = hub.missing(model) if model else []
        if model is not None and not missing:
            found.complete(model, hub)
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
    locked = {(model.reference.name, model.commit) for model in found.lock.models.values()}
    besides = [] if named else [entry for entry in cached() if entry[:2] not in locked]
    if as_json:
        echo_json(
            {
                "lock": str(found.lock.path) if found.lock.models else None,
                "models": rows,
                "other": found.others,
                "cached": [
                    dict(zip(("repository", "commit", "revisions", "bytes"), entry, strict=True))
                    for entry in besides
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
            )
        )
    if found.others:
        echo("\n".join(found.others))
    if besides:
        echo("in the hub's cache, and in no lock here:")
        echo(
            table(
                [
                    (
                        f"hf:{name}@{refs.partition(', ')[0] or commit[:12]}",
                        commit[:7],
                        format_bytes(size),
                    )
                    for name, commit, refs, size in besides
                ]
            )
        )
    if not rows and not besides and not found.others:
        echo("no models are locked here, and the hub's cache holds none")
    return 0


@models.command()
@click.argument("named", nargs=-1, required=True, metavar="MODEL...")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option("--keep-files", is_flag=True, help="Remove it from the lock only.")
def rm(named: tuple[str, ...], yes: bool, keep_files: bool) -> int:
    """Remove models of the hub: from the lock, and from the cache what nothing else there needs."""
    from .._models import Hub, cached, commit_of
    from .text import confirm, format_bytes

    found, hub = _named(named, (), completed=False), Hub()
    if found.others:
        raise click.UsageError(f"'{found.others[0]}' is not a model of the hub: remove it yourself")
    sizes = {(name, commit): size for name, commit, _, size in cached()}
    work = _Work(found, hub)
    names = {(reference.name, reference.revision or "main") for reference in found.references}
    found.references += [
        model.reference
        for model in found.lock.models.values()
        if model.reference.parts is not None
        and (model.reference.name, model.reference.revision or "main") in names
    ]
    for reference in found.references:
        model = found.lock.get(reference)
        with work.gathered():
            commit = model.commit if model else commit_of(reference)
            size = sizes.get((reference.name, commit), 0)
            if model is None and (reference.name, commit) not in sizes:
                work.unknown(reference)
                continue
            if not yes:
                confirm(
                    f"remove {reference}{f' ({format_bytes(size)})' if size and not keep_files else ''}?"
                )
            others = [
                other
                for other in work.lock.lacking([reference]).models.values()
                if (other.reference.name, other.commit) == (reference.name, commit)
            ]
            needed = {file.name for other in others for file in other.files}
            freed = (
                0
                if keep_files
                else hub.remove(reference.name, commit, model.files if model else (), keep=needed)
            )
            work.change(methodcaller("lacking", [reference]))
            echo(f"removed {reference}: {format_bytes(freed)} freed")
    work.write()
    return work.end()


class _Named:
    """What a command line names: references to the hub, each once, the lock that holds for them,
    and models of other kinds; and how to know what completes those of the hub that are one file.
    """

    def __init__(
        self,
        references: Iterable[Reference],
        lock: Lock,
        others: Iterable[str],
        files: Collection[str],
        base_of: Callable[[Mapping[str, Any]], Base | None],
    ) -> None:
        self.references = list({str(reference): reference for reference in references}.values())
        self.lock = lock
        self.others = list(dict.fromkeys(others))
        self.files = files
        self.base_of = base_of

    def complete(self, model: LockedModel, hub: Hub) -> None:
        """Put behind a checkpoint of the hub that is one file what completes it, as far as the file
        is known.
        """
        from .._models import base_reference

        if (
            str(model.reference) in self.files
            and (base := self.base_of(hub.header(model))) is not None
        ):
            reference = base_reference(base)
            if str(reference) not in map(str, self.references):
                self.references.append(reference)


class _Begun:
    """Models that a pull has begun with and that the lock does not name yet, so that the next pull
    takes them up: a note in the user's cache folder. Without one, nothing is taken up.
    """

    def __init__(self, lock: Path) -> None:
        from .._settings import config

        self._note = (
            config.pulls_memo()
            / f"{hashlib.sha256(str(lock.absolute()).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
        )
        self._models = self._read()

    def references(self) -> dict[str, tuple[Reference, bool]]:
        """Give what was begun, by its spelling, and of each whether it was named as one file that
        is completed.
        """
        return {
            spelling: (reference, whole)
            for spelling, (reference, whole, _, _) in self._models.items()
        }

    def add(
        self,
        references: Iterable[Reference],
        whole: Collection[str],
        variant: str | None,
        pickles: tuple[str, ...],
    ) -> None:
        new = {
            str(reference): (reference, str(reference) in whole, variant, pickles)
            for reference in references
        }
        if new:
            self._models |= new
            self._write()

    def end(self, reference: Reference) -> None:
        """Forget a model: the lock names it, or it cannot be had."""
        if self._models.pop(str(reference), None) is not None:
            self._write()

    @contextmanager
    def ending(self, reference: Reference) -> Iterator[tuple[str | None, tuple[str, ...]]]:
        """Give the variant that was asked for and the pickles that were allowed; a model that
        proves to be of no use is forgotten.
        """
        _, _, variant, pickles = self._models.get(str(reference), (None, False, None, ()))
        try:
            yield variant, pickles
        except Exception:
            self.end(reference)
            raise

    def _read(self) -> dict[str, tuple[Reference, bool, str | None, tuple[str, ...]]]:
        from .._models import parse_reference

        found = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            for said in json.loads(self._note.read_bytes()):
                reference = parse_reference(said["reference"])
                if said["parts"] is not None:
                    reference = replace(reference, parts=tuple(map(str, said["parts"])))
                variant = said["variant"]
                if reference.kind == "hf" and (variant is None or isinstance(variant, str)):
                    found[str(reference)] = (
                        reference,
                        said["whole"] is True,
                        variant,
                        tuple(map(str, said["pickles"])),
                    )
        return found

    def _write(self) -> None:
        said = [
            {
                "reference": str(replace(reference, parts=None)),
                "parts": reference.parts,
                "whole": whole,
                "variant": variant,
                "pickles": pickles,
            }
            for reference, whole, variant, pickles in self._models.values()
        ]
        with suppress(OSError):
            if not said:
                self._note.unlink(missing_ok=True)
                return
            self._note.parent.mkdir(parents=True, exist_ok=True)
            aside = self._note.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(said))
            os.replace(aside, self._note)


class _Work:
    """Works on models one after the other: gathers what goes wrong, and keeps the lock."""

    def __init__(self, named: _Named, hub: Hub) -> None:
        self.references = named.references
        self.named = named
        self.lock = named.lock
        self.hub = hub
        self.problems: list[Problem] = []
        self._changes: list[Callable[[Lock], Lock]] = []
        for other in named.others:
            echo(f"{other} is not a model of the hub: there is nothing to fetch", err=True)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        from .._models import UnresolvedModel, UnusableModel

        try:
            yield
        except (UnresolvedModel, UnusableModel) as fault:
            self.problems.append(fault.problem())

    def lock_in(
        self, reference: Reference, variant: str | None, pickles: tuple[str, ...], *, update: bool
    ) -> LockedModel:
        """Give what a reference means: by the lock, or by the hub where it does not say or
        something else is asked for.
        """
        model = self.lock.get(reference)
        if model is None or update or variant is not None:
            model = self.hub.resolve(reference, variant=variant, pickles=pickles)
            self.change(methodcaller("having", [model]))
        return model

    def change(self, do: Callable[[Lock], Lock]) -> None:
        self.lock = do(self.lock)
        self._changes.append(do)

    def unknown(self, reference: Reference) -> None:
        from ..errors import Problem, nearest

        self.problems.append(
            Problem(
                "unresolved-model",
                f"'{reference}' is neither in the lock nor in the hub's cache",
                fix=nearest(str(reference), self.lock.models, what="locked are"),
            )
        )

    def write(self) -> None:
        """Write what has changed into the lock as it is by now: another command may have written to
        it meanwhile.
        """
        from .._models import read_lock

        if not self._changes:
            return
        path = self.lock.path
        with ExitStack() as stack:
            try:
                with suppress(OSError):  # a cache that cannot be written to guards nothing
                    stack.enter_context(
                        self.hub.alone(
                            "imagen-flow", hashlib.sha256(str(path.resolve()).encode()).hexdigest()
                        )
                    )
                self.lock = reduce(lambda lock, do: do(lock), self._changes, read_lock(path))
                self._changes.clear()
                if self.lock.write():
                    echo(f"wrote {path}", err=True)
            except OSError as odd:
                raise UsageFault(
                    f"the lock {path} cannot be written: {odd.strerror}\n  = fix: run it where you"
                    " may write, or make the folder writable"
                ) from odd

    def end(self) -> int:
        from .text import show_problems

        if self.problems:
            show_problems(self.problems)
        return 1 if self.problems else 0


def _named(
    words: tuple[str, ...],
    plugins: tuple[Path, ...],
    *,
    needed: bool = True,
    completed: bool = True,
    resumed: bool = False,
) -> _Named:
    """Read what the command line names, and (if `completed`) what completes checkpoints that are
    one file. The lock is that of the first graph, else of the working directory.

    Without words it is what the lock names, and (if `resumed`) what a pull that was stopped had
    begun with.
    """
    from .._models import BadReference, base_reference, find_lock, parse_reference, read_lock
    from .._plan.request import Options
    from .._settings import config
    from ..errors import GraphError
    from .session import find_plugins, open_graph

    graphs = [Path(word) for word in words if word.endswith(_GRAPHS) and not word.startswith("hf:")]
    texts: dict[str, Path | None] = {word: Path() for word in words if Path(word) not in graphs}
    lock = read_lock(find_lock(graphs[0].parent if graphs else Path.cwd()))
    registry = find_plugins(
        Options(plugins=plugins), config.load(graphs[0].parent if graphs else Path.cwd())
    )
    for path in graphs:
        texts |= models_of(open_graph(path, registry))
    references, others, files, problems = [], [], set(), []
    for text, home in texts.items():
        try:
            reference = parse_reference(text)
        except BadReference as odd:
            problems.append(odd.problem())
            continue
        is_whole = (
            completed and home is not None and text.lower().endswith((".safetensors", ".gguf"))
        )
        if reference.kind == "hf":
            references.append(reference)
            if is_whole:
                files.add(str(reference))
        elif (
            is_whole
            and home is not None
            and (base := _base_of(home / Path(text).expanduser(), registry)) is not None
        ):
            references.append(base_reference(base))
        else:
            others.append(text)
    if problems:
        raise GraphError(problems)
    begun = _Begun(lock.path).references() if resumed else {}
    if not words and needed and not lock.models and not begun:
        raise click.UsageError("name a graph or a model: there is no imagen-flow.lock here")
    if not words:
        references = [
            *(model.reference for _, model in sorted(lock.models.items())),
            *(reference for reference, _ in begun.values()),
        ]
        files |= {spelling for spelling, (_, whole) in begun.items() if whole}
    return _Named(references, lock, others, files, registry.base_of)


def _base_of(path: Path, registry: Registry) -> Base | None:
    """Say what completes a file of weights on this machine; None where nothing does, or it is no
    whole file, which is said when it is planned.
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
    """Give the models that a graph names, in its nodes, in the defaults of inputs that lead to
    them, and in the graphs that it includes: by text, the folder that a path in it starts from;
    None where a file is taken as it is.

    Params:
        given: texts that the graph around it gives to inputs, with their folders.
    """
    from .._graph import Graph as GraphType

    held = given or {}
    found: dict[str, Path | None] = {}
    for node in graph.nodes.values():
        if isinstance(node.type, GraphType):
            found |= models_of(
                node.type,
                {name: _texts(binding, graph, held) for name, binding in node.bindings.items()},
            )
            continue
        for port, loader in node.type.loaders.items():
            binding = node.bindings.get(port)
            default = node.type.inputs[port].default
            texts = (
                _texts(binding, graph, held)
                if binding is not None
                else {default: Path()}
                if isinstance(default, str)
                else {}
            )
            found |= {
                text: found.get(text) if getattr(loader, "takes_file", False) else folder
                for text, folder in texts.items()
            }
    return found


def _texts(
    binding: Binding | None, graph: Graph, held: dict[str, dict[str, Path]]
) -> dict[str, Path]:
    from .._graph import FromInput, Given, Listed, ModelAt

    if isinstance(binding, ModelAt):
        return {binding.reference: binding.folder}
    if isinstance(binding, FromInput):
        return (
            held[binding.name]
            if binding.name in held
            else _texts(graph.inputs[binding.name].default, graph, {})
        )
    if isinstance(binding, Listed):
        return {
            text: folder
            for item in binding.items
            for text, folder in _texts(item, graph, held).items()
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
                        m.license or "no licence named",
                    )
                    for m in found
                ],
                indent="",
            )
        )


@contextmanager
def _progress() -> Iterator[Callable[[LockedModel], Callable[[str, int, int], None]]]:
    """Show how far fetching has come: a bar for each model, or a line for each file where there is
    no terminal.
    """
    if not sys.stderr.isatty():
        yield _lines
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


def _lines(model: LockedModel) -> Callable[[str, int, int], None]:
    from .text import format_bytes

    told: set[str] = set()

    def report(name: str, done: int, total: int) -> None:
        if done >= total and name not in told:
            told.add(name)
            echo(
                f"{model.reference}: {name} ({format_bytes(total)}) {len(told)} of {len(model.files)}",
                err=True,
            )

    return report
