"""Try a plugin in this process: run each of its node types while they are watched. ``python -m
imagen_flow._kit.trial`` is started by `check`, in a folder of its own.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .._plan.request import Options, Request, prepare
from .._plugins.registry import Plugin, Registry, discover
from .._run import execute
from .._store import Store
from .._types.node import NodeFunction, NodeType
from ..errors import GraphError, ImagenFlowError, NodeError, nearest
from ..events import OutputWritten, StepFailed, StepNote, StepStarted
from .arguments import NoValue, arguments_for
from .findings import Finding
from .single import NAME, single_graph
from .watching import Watch, watch_process

__all__ = ["main"]

#: Libraries that planning must not import: each takes a second or more.
HEAVY = ("torch", "diffusers", "transformers", "tensorflow", "jax", "onnxruntime", "cv2", "scipy")


def main(folder: Path, name: str, files: Iterable[str]) -> dict[str, Any]:
    """Try a plugin; return its findings, its node types, and the digests of what they gave.

    Params:
        folder: where everything is written that this needs.
        name: the plugin's, as the registry has it.
        files: local plugin files to load.
    """
    registry = discover([Path(file) for file in files], cache=None)
    plugin = registry.plugins[name]
    registry.load(plugin)
    findings: list[Finding] = []
    if plugin.fault:
        return _told([Finding("", "loads", plugin.fault)], [], {})
    if heavy := [library for library in HEAVY if library in sys.modules]:
        findings.append(
            Finding(
                "",
                "light",
                f"importing it imports {' and '.join(heavy)}",
                "import heavy libraries inside the function that uses them",
            )
        )
    registry.load_all()
    examples, faults = _examples(registry, plugin)
    findings += faults
    types = [registry.node_types[n] for n in plugin.node_names]
    watch_process()
    digests: dict[str, dict[str, str]] = {}
    for type_ in types:
        found, given = _try(type_, registry, examples.get(type_.name, {}), folder)
        findings += found
        digests[type_.name] = given
    return _told(findings, [type_.name for type_ in types], digests)


def _told(
    findings: Iterable[Finding], names: list[str], digests: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    return {
        "findings": [[f.node, f.rule, f.message, f.fix] for f in findings],
        "nodes": names,
        "digests": digests,
    }


def _examples(registry: Registry, plugin: Plugin) -> tuple[Mapping[str, Any], list[Finding]]:
    """Ask a plugin for arguments of its node types; say what is wrong with what it gives."""

    def fault(message: str, fix: str = "") -> tuple[Mapping[str, Any], list[Finding]]:
        return {}, [Finding("", "example", message, fix)]

    try:
        given = registry.examples_of(plugin)
    except Exception as error:
        return fault(f"its hook imagen_flow_examples failed: {type(error).__name__}: {error}")
    for name, arguments in given.items():
        if name not in plugin.node_names:
            return fault(
                f"its hook imagen_flow_examples names '{name}', which it does not offer",
                nearest(name, plugin.node_names, what="its node types are"),
            )
        ports = registry.node_types[name].inputs
        if unknown := sorted(set(arguments) - set(ports)):
            return fault(
                f"its example of {name} has '{unknown[0]}', which is no port of it",
                nearest(unknown[0], ports, what="its ports are"),
            )
    return given, []


def _try(
    type_: NodeType, registry: Registry, example: Mapping[str, Any], folder: Path
) -> tuple[list[Finding], dict[str, str]]:
    """Run a node type, and again, and cancelled; return its findings and the digests it gave."""
    findings: dict[Finding, None] = {}
    find = partial(_find, findings, type_.name)
    first = type_.doc.strip().partition("\n\n")[0]
    if not first.endswith("."):
        find(
            "documented",
            "its docstring does not begin with a sentence",
            '"""Posterise a picture."""',
        )
    if type_.calls:  # nothing is sent, and nothing paid for, by a check
        return list(findings), {}
    try:
        arguments = arguments_for(type_, example, folder)
    except NoValue as error:
        find("example", str(error), f'name one in imagen_flow_examples: {{"{type_.name}": {{…}}}}')
        return list(findings), {}
    # Besides its own folder: temporary files, and what libraries keep for themselves.
    allowed = (folder, *(folder.parent / name for name in ("tmp", "cache", "config")))
    watch = Watch(type_, registry.codecs, allowed)
    registry.add(
        NodeFunction(type_.function, replace(type_, function=watch.function)),
        plugin=type_.plugin,
        source_digest=type_.source_digest,
    )
    run, stores = partial(_run, type_, arguments, registry), folder / "stores" / type_.name
    try:
        given = run(stores / "first", find=find)
    except ImagenFlowError as error:
        text = "its example" if example else "with made-up arguments it"
        find(
            "example",
            f"{text} fails: {_short(error)}",
            f'name one that works in imagen_flow_examples: {{"{type_.name}": {{…}}}}',
        )
        return list(findings), {}
    if run(stores / "second") != given:
        find(
            "deterministic",
            "called twice with the same inputs it gives different outputs",
            "take a Seed, and draw from a generator made of it",
        )
    elif run(stores / "first", kept=True) != given:
        find("stored", "what comes back from the store is not what it gave", "mend its Codec")
    if watch.yielded > 1:
        watch.stop = threading.Event()
        run(stores / "third", cancel=watch.stop)
        if not watch.closed:
            find("cancel", "it goes on when the run is cancelled", "yield Progress at each step")
    return [*findings, *watch.findings], given


def _short(error: ImagenFlowError) -> str:
    """Say in one line why a run failed."""
    if isinstance(error, NodeError):
        return error.message
    if isinstance(error, GraphError):
        return "; ".join(problem.message for problem in error.problems)
    return str(error)


def _find(findings: dict[Finding, None], name: str, rule: str, message: str, fix: str = "") -> None:
    findings[Finding(name, rule, message, fix)] = None


def _run(
    type_: NodeType,
    arguments: Mapping[str, Any],
    registry: Registry,
    at: Path,
    *,
    find: Any = None,
    kept: bool = False,
    cancel: threading.Event | None = None,
) -> dict[str, str]:
    """Run a graph of this node alone; return the digests of its outputs.

    Params:
        at: the folder of the store.
        find: takes what the run notes of the node.
        kept: the store has the outputs of this run; nothing is returned if it does not give them.
        cancel: cancels the run when it is set.
    Raises:
        ImagenFlowError: it fails.
    """
    graph = single_graph(type_, arguments, registry)
    found: dict[str, str] = {}
    with Store.open(at, codecs=registry.codecs) as store:
        options = Options.of(tiny=True, device="cpu")
        plan = prepare(Request(graph, options, store=store))
        if problems := [p for p in plan.problems if p.severity == "error"]:
            raise GraphError(problems)
        for event in execute(plan, cancel=cancel):
            if isinstance(event, StepFailed):
                raise event.error
            if isinstance(event, OutputWritten):
                found[event.output] = registry.codecs.digest(event.value)
            elif isinstance(event, StepNote) and find is not None:
                _read_note(type_, event.message, find)
            elif isinstance(event, StepStarted) and event.node == NAME and kept:
                return {}  # the engine has noticed it, and computes it again
    return found


def _read_note(type_: NodeType, message: str, find: Any) -> None:
    """What the engine itself notices, and mends, while it runs a node."""
    if message.startswith(f"{type_.name} changed torch's "):
        find("settings", message, "use the context manager of the setting")
    elif message.startswith(f"{type_.name} left "):
        find("model", message, "put it back in a finally block")


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    told = main(Path(asked["folder"]), asked["plugin"], asked["files"])
    Path(asked["folder"], "told.json").write_text(json.dumps(told), "utf-8")
