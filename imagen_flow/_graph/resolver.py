"""Resolve a spec into a Graph: every name against the registry, every edge typed, every literal
checked.

All problems of a file and of the graphs it includes are gathered and raised together as one
GraphError.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._plugins.declared import declared_node_types
from .._plugins.registry import Registry
from .._settings.devices import nearest_device
from .._system.collection import paused_collection
from .._text import spec as spec_
from .._text.spec import UNREADABLE, GraphSpec, NodeSpec, Pair
from .._types.node import NodeType
from .._types.ports import BadValue, PortType, describe
from ..errors import MAX_PROBLEMS, GraphError, Mark, Problem
from .binder import Binder
from .call_settings import takes_itself
from .expansion import expanded_too_far
from .graph import Graph
from .inputs import read_input
from .nodes import DTYPE, LOADING, is_device, read_node
from .order import asked_alone, order, unneeded
from .outputs import check_paths, read_output
from .suggestions import plain
from .sweeps import read_sweep

__all__ = ["resolve"]

#: How many node types are looked into that end in the same word.
MOST_KIN = 8

#: How deep graphs may be nested in graphs.
DEPTH = 32

#: How the name of a graph's file ends, where another graph uses it.
GRAPH_SUFFIXES = (".yaml", ".yml", ".json")

_SETTINGS = {"device": PortType("text"), "dtype": DTYPE, **LOADING}


@paused_collection()
def resolve(
    spec: GraphSpec, registry: Registry, *, read: Callable[[Path, str], GraphSpec] | None = None
) -> Graph:
    """Resolve a spec against a registry.

    Params:
        read: gives the spec of an included file from its path and the name it is shown by; default:
            from disk. Replaying a picture reads from the picture.

    Raises:
        GraphError: the problems of the text and of its meaning, those of included graphs too, in
            file order.
    """
    problems: list[Problem] = []
    graph = _Resolver(
        spec,
        registry,
        problems,
        {},
        {},
        (),
        read or (lambda path, name: spec_.read(path, name=name)),
    ).resolve()
    if any(p.severity == "error" for p in problems):
        raise GraphError(problems)
    assert graph is not None
    if too_many := expanded_too_far(graph):
        raise GraphError([*problems, too_many])
    return replace(graph, warnings=tuple(sorted(problems, key=lambda p: p.position)))


class _Resolver:
    """Resolves one file. Included files get resolvers of their own that share problems and what is
    already resolved.
    """

    def __init__(
        self,
        spec: GraphSpec,
        registry: Registry,
        problems: list[Problem],
        done: dict[Path, Graph | None],
        narrowed: dict[tuple[int, frozenset[str]], tuple[Graph, Graph]],
        inside: tuple[Path, ...],
        read: Callable[[Path, str], GraphSpec],
    ) -> None:
        self.spec = spec
        self.registry = registry
        self.problems = problems
        self.done = done
        self.narrowed = narrowed
        self.inside = inside
        self.read = read
        self.binder = Binder(spec, problems)
        self.found: dict[str, NodeType] = {}
        #: The node types that files beside the graph declare, once that is asked.
        self.declared: dict[str, Path] | None = None
        self.say = self.binder.say

    def resolve(self) -> Graph | None:
        spec, binder = self.spec, self.binder
        before = len(self.problems)
        self.problems += spec.problems
        binder.inputs.update(
            (name, found)
            for name, written in spec.inputs.items()
            if (found := read_input(binder, written))
        )
        binder.types.update((name, self.node_type(written)) for name, written in spec.nodes.items())
        nodes = {name: read_node(binder, written) for name, written in spec.nodes.items()}
        outputs = {
            name: o
            for name, written in spec.outputs.items()
            if (o := read_output(binder, nodes, written))
        }
        # What is missing from a text is said when the text itself can be read.
        readable = not any(p.severity == "error" for p in spec.problems)
        if not spec.outputs and readable:
            mark = Mark(spec.source, 1, 1, max(1, len(spec.source.line(1))))
            self.say(
                "no-outputs",
                "the graph has no outputs",
                mark,
                "only outputs are computed and written",
                "add 'outputs:' with a name and a \"${node}\"",
            )
        check_paths(binder, outputs)
        settings = self.settings(spec.settings)
        sweep = read_sweep(binder, spec.sweep)
        ordered = order(binder, nodes)
        doubtful = any(p.code == "unknown-reference" for p in self.problems[before:])
        for name, written in spec.inputs.items():
            if name not in binder.used_inputs and readable and not doubtful:
                self.say(
                    "unused-input",
                    f"nothing refers to the input '{name}'",
                    written.name.mark,
                    severity="warning",
                    fix='remove it, or refer to it as "${' + name + '}"',
                )
        if any(p.severity == "error" for p in self.problems[before:]):
            return None
        resolved = asked_alone(
            {name: node for name in ordered if (node := nodes[name])}, outputs, self.narrowed
        )
        for key in settings.keys() & LOADING.keys():
            if not self.inside and not any(
                _uses_setting(node.type, key) for node in resolved.values()
            ):
                self.say(
                    "bad-setting",
                    f"nothing in the graph uses '{key}'",
                    spec.settings[key].key.mark,
                    severity="warning",
                    fix="remove it; `imagen-flow nodes TYPE` lists what a node type uses",
                )
        name = spec.path.stem if spec.path else Path(spec.source.name).stem.strip("<>") or "graph"
        return Graph(
            name,
            spec,
            binder.inputs,
            resolved,
            outputs,
            settings,
            unneeded=unneeded(resolved, outputs),
            registry=self.registry,
            sweep=sweep,
        )

    def node_type(self, written: NodeSpec) -> NodeType | Graph | None:
        name = written.type.value
        if name is UNREADABLE:
            return None
        if not isinstance(name, str):
            self.say(
                "bad-literal",
                f"a node's type is text, not {describe(plain(written.type))}",
                written.type.mark,
            )
            return None
        if name in self.found:
            return self.found[name]
        if name.startswith(("./", "../", "/", "~", ".\\", "..\\")):
            return self.included(name, written.type.mark)
        try:
            found = self.registry.find(name)
        except GraphError as conflict:
            self.problems += [replace(p, mark=written.type.mark) for p in conflict.problems]
            return None
        if found is None:
            plugin = self.registry.offered_by(name)
            if plugin is not None and plugin.fault:
                self.say(
                    "broken-plugin",
                    f"'{name}' comes from {plugin.name}, which cannot be used",
                    written.type.mark,
                    why=plugin.fault,
                    fix=f"repair or reinstall {plugin.name.partition(':')[0]}",
                )
            else:
                faults = "; ".join(self.registry.faults)
                self.say(
                    "unknown-node-type",
                    f"no plugin provides the node type '{name}'",
                    written.type.mark,
                    why=f"plugins that could not be loaded: {faults}" if faults else "",
                    fix=self.nearest_type(name, written),
                )
        else:
            self.found[name] = found
        return found

    def nearest_type(self, name: str, written: NodeSpec) -> str:
        """Say how to mend an unknown node type: the file beside the graph that declares it, one that
        ends in this word and fits the node best, the nearest name, those of its plugin; or that its
        plugin has to be named.
        """
        if len(self.problems) >= MAX_PROBLEMS:
            return ""
        if self.spec.path is not None:
            if self.declared is None:
                self.declared = declared_node_types(self.binder.folder)
            if (file := self.declared.get(name)) is not None:
                return f"load the file beside the graph that defines it: --plugin {_shown(file)}"
        names = sorted(self.registry.iter_names())
        if kin := [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]][
            :MOST_KIN
        ]:
            given = written.arguments.keys()
            fits = {
                known: (
                    len(given & type_.inputs.keys())
                    if (type_ := self.known_type(known)) is not None
                    else 0
                )
                for known in kin
            }
            best = [f"'{known}'" for known in kin if fits[known] == max(fits.values())]
            return f"did you mean {' or '.join(best)}?"
        near = self.binder.nearest(name, names)
        if near.startswith("did"):
            return near
        family = name.partition(".")[0]
        if mates := [known for known in names if known.partition(".")[0] == family]:
            return f"node types of {family} are: {', '.join(mates)}"
        return (
            "load the Python file that defines it with --plugin FILE, or install its plugin;"
            " `imagen-flow nodes` lists all node types"
        )

    def known_type(self, name: str) -> NodeType | None:
        try:
            return self.registry.find(name)
        except GraphError:
            return None

    def included(self, name: str, mark: Mark) -> Graph | None:
        """Resolve a graph file that is used as a node."""
        if not self.inside and self.spec.path:
            self.inside = (self.spec.path.resolve(),)
        try:
            path = (self.binder.folder / Path(name).expanduser()).resolve()
        except (RuntimeError, ValueError, OSError) as error:
            self.say("unreadable", f"there cannot be a graph file '{name}'", mark, why=str(error))
            return None
        if (
            path.suffix.lower() not in GRAPH_SUFFIXES
        ):  # nor is any other file opened, whose text a problem would show
            self.say(
                "unreadable",
                f"'{name}' is not a graph file",
                mark,
                why=f"the name of a graph file ends in {', '.join(GRAPH_SUFFIXES)}",
            )
            return None
        if len(self.inside) > DEPTH:
            self.say(
                "too-deep",
                f"graph files include each other more than {DEPTH} deep",
                mark,
                fix="use fewer files",
            )
            return None
        if path in self.inside:
            chain = [p.name for p in self.inside[self.inside.index(path) :]] + [path.name]
            self.say(
                "file-cycle",
                f"graph files include each other: {' -> '.join(chain)}",
                mark,
                fix="break the cycle; 'repeat' runs a graph several times",
            )
            return None
        if path not in self.done and len(self.problems) >= MAX_PROBLEMS and not path.is_file():
            self.say("unreadable", "the file cannot be read", mark, "no such file or directory")
            self.done[path] = None
        if path not in self.done:
            shown = (
                Path(self.spec.source.name).parent / name
                if not Path(name).is_absolute()
                else Path(name)
            )
            inner = self.read(path, shown.as_posix())
            unread = [
                p
                for p in inner.problems
                if p.code in ("unreadable", "too-large", "not-utf8") and p.severity == "error"
            ]
            if unread:
                self.problems += [replace(p, mark=mark) for p in unread]
                self.done[path] = None
            else:
                self.done[path] = _Resolver(
                    inner,
                    self.registry,
                    self.problems,
                    self.done,
                    self.narrowed,
                    (*self.inside, path),
                    self.read,
                ).resolve()
        return self.done[path]

    def settings(self, written: dict[str, Pair]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, pair in written.items():
            port = _SETTINGS.get(key)
            if port is None:
                self.say(
                    "bad-setting",
                    f"there is no setting '{key}'",
                    pair.key.mark,
                    fix=self.binder.nearest(key, _SETTINGS, what="settings of a graph are"),
                )
                continue
            if takes_itself(self.binder, pair, f"'{key}'", found):
                continue
            try:
                found[key] = port.check(plain(pair.value))
            except BadValue as error:
                self.say(
                    "bad-setting",
                    f"'{key}' {error}",
                    pair.value.mark,
                    fix=self.binder.nearest(error.given, error.known) if error.known else "",
                )
        if "device" in found and not is_device(found["device"]):
            self.say(
                "bad-setting",
                f"there is no device '{found['device']}'",
                written["device"].value.mark,
                fix=nearest_device(found["device"]),
            )
        return found


def _uses_setting(type_: NodeType | Graph, setting: str) -> bool:
    """Whether a setting means anything to a node, or to one in a graph that is used as a node."""
    if isinstance(type_, NodeType):
        return type_.uses_setting(setting)
    return any(
        node.type.uses_setting(setting)
        for graph in type_.all()
        for node in graph.nodes.values()
        if isinstance(node.type, NodeType)
    )


def _shown(file: Path) -> str:
    """Write a path as it may be given on the command line: relative, if it is below the working
    directory.
    """
    with suppress(ValueError, OSError):
        file = file.resolve().relative_to(Path.cwd())
    return shlex.quote(str(file))
