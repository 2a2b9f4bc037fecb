"""Resolve a spec into a Graph: every name against the registry, every edge typed, every literal checked. If it exists, it fits.

All problems of a file and of the graphs it includes are gathered and raised together as one GraphError. Nodes come out in topological order, and
among equals in the order in which they were written; networkx orders and finds cycles. Edges are the bindings of the ports: a `DiGraph` would merge two
edges between the same nodes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import spec as spec_
from .errors import GraphError, Mark, Problem, nearest
from .models import BadReference, parse_reference
from .node import NodeType
from .outputs import check_template
from .plugins import Registry
from .ports import INPUT_TYPES, BadValue, Port, PortType, describe, fits, parse_type
from .spec import UNREADABLE, GraphSpec, InputSpec, NodeSpec, OutputSpec, Pair, Reference, Template, Word
from .values import ExistsPolicy, Range

__all__ = [
    "Binding",
    "FileAt",
    "FromInput",
    "FromNode",
    "Given",
    "Graph",
    "Input",
    "Joined",
    "Listed",
    "Mapped",
    "ModelAt",
    "Node",
    "Output",
    "Repeat",
    "resolve",
]

#: The default of a seed input that is drawn anew for every plan.
RANDOM = "random"

#: How deep graphs may be nested in graphs.
DEPTH = 32


@dataclass(frozen=True, slots=True)
class Given:
    """A literal, checked against its port."""

    value: Any


@dataclass(frozen=True, slots=True)
class FromInput:
    """The value of one of the graph's inputs."""

    name: str


@dataclass(frozen=True, slots=True)
class FromNode:
    """The value of a node's output."""

    node: str
    port: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Text with values inside it."""

    parts: tuple[str | FromInput | FromNode, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list whose elements are bound one by one."""

    items: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Mapped:
    """JSON data with references inside it."""

    items: tuple[tuple[str, Binding], ...]


@dataclass(frozen=True, slots=True)
class FileAt:
    """A file or folder named by a path, relative to `folder`; it enters keys by content."""

    path: str
    kind: str
    folder: Path
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ModelAt:
    """A model named by a reference; a relative path in it is relative to `folder`."""

    reference: str
    folder: Path
    mark: Mark | None = None


Binding = Given | FromInput | FromNode | Joined | Listed | Mapped | FileAt | ModelAt


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph. `default` is None when a value must be given."""

    name: str
    type: PortType
    default: Binding | None
    help: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Repeat:
    """How often a graph is run as a node, and which of its outputs says which run to keep (None keeps all, as lists)."""

    times: int
    best: str | None


@dataclass(frozen=True, eq=False)
class Node:
    """A resolved node: its type, what each port is bound to, and the reserved words that it uses."""

    name: str
    type: NodeType | Graph
    bindings: dict[str, Binding]
    mark: Mark
    #: The nodes whose outputs it reads, each once, in the order in which it reads them.
    after: tuple[str, ...] = ()
    each: tuple[str, ...] = ()
    when: Binding | None = None
    repeat: Repeat | None = None
    retries: int = 0
    backoff_s: float = 0.0
    timeout_s: float | None = None
    device: str | None = None
    dtype: str | None = None
    cache: bool = True

    @property
    def inputs(self) -> dict[str, Port]:
        """The node's input ports; the inputs of a graph are its ports."""
        return self.type.inputs if isinstance(self.type, NodeType) else self.type.ports


def sources(binding: Binding | str) -> Iterator[str]:
    """Name the nodes that a binding reads."""
    return (read.node for read in readings(binding) if isinstance(read, FromNode))


def readings(binding: Binding | str) -> Iterator[FromNode | FromInput]:
    """Give what a binding reads: outputs of nodes and inputs of the graph."""
    if isinstance(binding, FromNode | FromInput):
        yield binding
    elif isinstance(binding, Joined):
        for part in binding.parts:
            yield from readings(part)
    elif isinstance(binding, Listed):
        for item in binding.items:
            yield from readings(item)
    elif isinstance(binding, Mapped):
        for _, item in binding.items:
            yield from readings(item)


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a graph: which value it is and, if it has a path, how it is written."""

    name: str
    source: FromNode | FromInput
    type: PortType
    path: str | None
    exists: ExistsPolicy
    provenance: str
    mark: Mark


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph in which everything fits. `nodes` are in topological order."""

    name: str
    spec: GraphSpec
    inputs: dict[str, Input]
    nodes: dict[str, Node]
    outputs: dict[str, Output]
    settings: dict[str, Any]
    warnings: tuple[Problem, ...] = ()
    #: Nodes that no output needs, directly or by way of another node. They are never run.
    unneeded: frozenset[str] = frozenset()
    registry: Registry | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in this graph start from."""
        return self.spec.path.parent if self.spec.path else Path()

    @property
    def ports(self) -> dict[str, Port]:
        """The graph's inputs as ports, for its use as a node."""
        return {i.name: Port(i.name, i.type, required=i.default is None and not i.type.optional, help=i.help) for i in self.inputs.values()}

    @property
    def primary(self) -> str:
        """The output that a reference without a port means."""
        return next(iter(self.outputs))


def resolve(spec: GraphSpec, registry: Registry, *, read: Callable[[Path, str], GraphSpec] | None = None) -> Graph:
    """Resolve a spec against a registry.

    Params:
        read: gives the spec of an included file from its path and the name it is shown by; default: from disk. Replaying a picture reads from the picture.

    Raises:
        GraphError: the problems of the text and of its meaning, those of included graphs too, in file order.
    """
    problems: list[Problem] = []
    graph = _Resolver(registry, problems, {}, (), read or (lambda path, name: spec_.read(path, name=name))).resolve(spec)
    if any(p.severity == "error" for p in problems):
        raise GraphError(problems)
    assert graph is not None
    return replace(graph, warnings=tuple(sorted(problems, key=lambda p: p.place)))


class _Resolver:
    """Resolves one file. Included files get resolvers of their own that share problems and what is already resolved."""

    def __init__(
        self,
        registry: Registry,
        problems: list[Problem],
        done: dict[Path, Graph | None],
        inside: tuple[Path, ...],
        read: Callable[[Path, str], GraphSpec],
    ) -> None:
        self.registry = registry
        self.problems = problems
        self.done = done
        self.inside = inside
        self.read = read
        self.used_inputs: set[str] = set()

    def say(self, code: str, message: str, mark: Mark | None, why: str = "", fix: str = "", severity: str = "error") -> None:
        self.problems.append(Problem(code, message, mark, why, fix, severity))

    def resolve(self, spec: GraphSpec) -> Graph | None:
        self.spec = spec
        self.folder = spec.path.parent if spec.path else Path()
        before = len(self.problems)
        self.problems += spec.problems
        self.inputs = {name: i for name, written in spec.inputs.items() if (i := self.input(written))}
        self.types: dict[str, NodeType | Graph | None] = {name: self.node_type(written) for name, written in spec.nodes.items()}
        # A type that is not known says nothing about its outputs: references to it are not judged.
        nodes = {name: self.node(written) for name, written in spec.nodes.items()}
        outputs = {name: o for name, written in spec.outputs.items() if (o := self.output(written))}
        # What is missing from a text is said when the text itself can be read.
        readable = not any(p.severity == "error" for p in spec.problems)
        if not spec.outputs and readable:
            mark = Mark(spec.source, 1, 1, max(1, len(spec.source.line(1))))
            self.say("no-outputs", "the graph has no outputs", mark, "only outputs are computed and written", "add 'outputs:' with a name and a \"${node}\"")
        self.paths(outputs)
        settings = self.settings(spec.settings)
        ordered = self.order(nodes)
        doubtful = any(p.code == "unknown-reference" for p in self.problems[before:])
        for name, written in spec.inputs.items():
            if name not in self.used_inputs and readable and not doubtful:
                self.say("unused-input", f"nothing refers to the input '{name}'", written.name.mark, severity="warning", fix="remove it, or refer to it as \"${" + name + '}"')
        if any(p.severity == "error" for p in self.problems[before:]):
            return None
        resolved = _asked_alone({name: node for name in ordered if (node := nodes[name])}, outputs)
        name = spec.path.stem if spec.path else Path(spec.source.name).stem.strip("<>") or "graph"
        return Graph(name, spec, self.inputs, resolved, outputs, settings, unneeded=_unneeded(resolved, outputs), registry=self.registry)

    # -- inputs ------------------------------------------------------------------------------------------------------------------

    def input(self, written: InputSpec) -> Input | None:
        default = written.options.get("default")
        word = default.value if default else None
        if word is not None and word.value is UNREADABLE:
            return None
        if written.type is not None:
            spelling = written.type.value
            if spelling is UNREADABLE:
                return None
            port = parse_type(spelling) if isinstance(spelling, str) else None
            if port is None:
                self.say("bad-literal", f"input '{written.name.value}' is of no type that inputs have: {describe(_plain(written.type))}", written.type.mark,
                         fix=nearest(str(spelling), [*INPUT_TYPES, "list[int]", "list[text]", "list[file]"], what="types are"))
                return None
        else:
            port = _type_of(word)
            if port is None and word is not None and isinstance(word.value, tuple) and any(w.value is UNREADABLE for w in word.value):
                return None
            if port is None or word is None:
                mark = word.mark if word else written.mark
                self.say("bad-literal", f"the type of input '{written.name.value}' cannot be told", mark, fix="write {type: …, default: …}")
                return None
        port = self.narrowed(written, port)
        help_ = written.options.get("help")
        bound: Binding | None = None
        if word is not None:
            if port.seed and word.value == RANDOM:
                bound = Given(RANDOM)
            else:
                bound = self.bind(word, port, f"the default of input '{written.name.value}'")
                if bound is None:
                    return None
        return Input(written.name.value, port, bound, str(help_.value.value) if help_ else "", written.name.mark)

    def narrowed(self, written: InputSpec, port: PortType) -> PortType:
        """Narrow an input's type by its min, max and choices."""
        inner = port.element if port.kind == "list" and port.element else port
        bounds = {}
        for key in ("min", "max"):
            pair = written.options.get(key)
            if pair is None:
                continue
            value = pair.value.value
            if inner.kind not in ("int", "float", "number"):
                self.say("bad-literal", f"'{key}' is for numbers, and input '{written.name.value}' is {port}", pair.key.mark)
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                self.say("bad-literal", f"'{key}' takes a number, not {describe(_plain(pair.value))}", pair.value.mark)
            else:
                bounds[key] = value
        if bounds:
            inner = replace(inner, range=Range(bounds.get("min", inner.range.min if inner.range else None), bounds.get("max", inner.range.max if inner.range else None)))
        choices = written.options.get("choices")
        if choices is not None:
            values = _plain(choices.value)
            if not isinstance(values, list) or not values:
                self.say("bad-literal", f"'choices' takes a list, not {describe(values)}", choices.value.mark)
            elif not inner.is_scalar:
                self.say("bad-literal", f"'choices' is for plain values, and input '{written.name.value}' is {port}", choices.key.mark)
            else:
                kept = []
                for word in choices.value.value:
                    try:
                        kept.append(inner.check(_plain(word)))
                    except BadValue as odd:
                        self.say("bad-literal", f"a choice of input '{written.name.value}' {odd}", word.mark)
                inner = replace(inner, choices=tuple(kept), range=None)
        return replace(port, element=inner) if port.kind == "list" else inner

    # -- nodes -------------------------------------------------------------------------------------------------------------------

    def node_type(self, written: NodeSpec) -> NodeType | Graph | None:
        name = written.type.value
        if name is UNREADABLE:
            return None
        if not isinstance(name, str):
            self.say("bad-literal", f"a node's type is text, not {describe(_plain(written.type))}", written.type.mark)
            return None
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
                self.say("broken-plugin", f"'{name}' comes from {plugin.name}, which cannot be used", written.type.mark, why=plugin.fault, fix=f"mend or reinstall {plugin.name.partition(':')[0]}")
            else:
                faults = "; ".join(self.registry.faults)
                self.say("unknown-node-type", f"no plugin offers the node type '{name}'", written.type.mark,
                         why=f"plugins that could not be loaded: {faults}" if faults else "", fix=nearest(name, self.registry.names(), what="node types are"))
        return found

    def included(self, name: str, mark: Mark) -> Graph | None:
        """Resolve a graph file that is used as a node."""
        if not self.inside and self.spec.path:
            self.inside = (self.spec.path.resolve(),)
        try:
            path = (self.folder / Path(name).expanduser()).resolve()
        except (RuntimeError, ValueError, OSError) as odd:
            self.say("unreadable", f"there can be no graph file '{name}'", mark, why=str(odd))
            return None
        if len(self.inside) > DEPTH:
            self.say("too-deep", f"graph files include each other more than {DEPTH} deep", mark, fix="use fewer files")
            return None
        if path in self.inside:
            chain = [p.name for p in self.inside[self.inside.index(path) :]] + [path.name]
            self.say("file-cycle", f"graph files include each other: {' -> '.join(chain)}", mark, fix="break the cycle; 'repeat' runs a graph several times")
            return None
        if path not in self.done:
            shown = Path(self.spec.source.name).parent / name if not Path(name).is_absolute() else Path(name)
            inner = self.read(path, shown.as_posix())
            unread = [p for p in inner.problems if p.code in ("unreadable", "too-large", "not-utf8") and p.severity == "error"]
            if unread:
                self.problems += [replace(p, mark=mark) for p in unread]
                self.done[path] = None
            else:
                self.done[path] = _Resolver(self.registry, self.problems, self.done, (*self.inside, path), self.read).resolve(inner)
        return self.done[path]

    def node(self, written: NodeSpec) -> Node | None:
        type_ = self.types[written.name.value]
        ports = {} if type_ is None else type_.inputs if isinstance(type_, NodeType) else type_.ports
        label = str(written.type.value)
        bindings: dict[str, Binding] = {}
        good = type_ is not None
        each = self.each(written, ports, label, known=type_ is not None)
        for name, pair in written.arguments.items():
            port = ports.get(name)
            if type_ is None:
                self.scan(pair.value)
            elif port is None:
                self.say("unknown-port", f"{label} has no input port '{name}'", pair.key.mark, why=f"its ports are: {', '.join(ports)}" if ports else "it has no input ports", fix=_only_near(name, ports))
                self.scan(pair.value)
            elif name in each:
                self.say("duplicate-key", f"port '{name}' is given both in 'each' and beside it", pair.key.mark, fix="keep one of them")
            else:
                bound = self.bind(pair.value, port.type, f"port '{name}' of {label}")
                if bound is not None:
                    bindings[name] = bound
        given = {*written.arguments, *each}
        # A required port that is only misspelt is one fault, said once.
        meant = {w for name in given - ports.keys() for w in difflib.get_close_matches(name, ports, n=1)}
        for port in [p for p in ports.values() if p.required and p.name not in given | meant]:
            self.say("missing-port", f"{label} needs '{port.name}' ({port.type})", written.name.mark, fix=_offer(port))
        bindings.update(each)
        words = self.reserved(written, type_)
        if not good:
            return None
        assert type_ is not None
        after = tuple(dict.fromkeys(n for b in (*bindings.values(), words.get("when")) if b is not None and type(b) not in _ROOTS for n in sources(b)))
        return Node(written.name.value, type_, bindings, written.name.mark, after, tuple(each), **words)

    def each(self, written: NodeSpec, ports: dict[str, Port], label: str, *, known: bool) -> dict[str, Binding]:
        pair = written.reserved.get("each")
        if pair is None:
            return {}
        if not isinstance(pair.value.value, dict) or not pair.value.value:
            self.say("bad-shape", f"'each' takes a mapping of ports to lists, not {describe(_plain(pair.value))}", pair.value.mark, fix='write each: {port: "${list}"}')
            return {}
        bound = {}
        for name, item in pair.value.value.items():
            port = ports.get(name)
            if not known:
                self.scan(item.value)
            elif port is None:
                self.say("unknown-port", f"{label} has no input port '{name}'", item.key.mark, why=f"its ports are: {', '.join(ports)}", fix=_only_near(name, ports))
            else:
                binding = self.bind(item.value, PortType("list", element=port.type), f"'each' of port '{name}' of {label}")
                if binding is not None:
                    bound[name] = binding
        return bound

    def reserved(self, written: NodeSpec, type_: NodeType | Graph | None) -> dict[str, Any]:
        """Check the reserved words of a node and return them as fields of Node."""
        words = written.reserved
        if not words:
            return {}
        found: dict[str, Any] = {}
        flag = _FLAGS if "each" in words else PortType("bool")
        if (pair := words.get("when")) and (bound := self.bind(pair.value, flag, "'when'")):
            found["when"] = bound
        if pair := words.get("cache"):
            self.take(pair, PortType("bool"), "'cache'", found, "cache")
        if pair := words.get("timeout"):
            self.take(pair, PortType("float", range=Range(0.001, None)), "'timeout'", found, "timeout_s")
        if pair := words.get("device"):
            self.take(pair, PortType("text"), "'device'", found, "device")
            if "device" in found and not _is_device(found["device"]):
                self.say("bad-setting", f"there is no device '{found['device']}'", pair.value.mark, fix="one of: auto, cpu, cuda, cuda:N, mps")
        if pair := words.get("retry"):
            if isinstance(pair.value.value, dict):
                for key, item in pair.value.value.items():
                    if key == "times":
                        self.take(item, PortType("int", range=Range(0, 100)), "'retry.times'", found, "retries")
                    elif key == "backoff_s":
                        self.take(item, PortType("float", range=Range(0, 86400)), "'retry.backoff_s'", found, "backoff_s")
                    else:
                        self.say("unknown-key", f"'retry' has no key '{key}'", item.key.mark, fix=nearest(key, ("times", "backoff_s")))
            else:
                self.take(pair, PortType("int", range=Range(0, 100)), "'retry'", found, "retries")
        if pair := words.get("settings"):
            if not isinstance(pair.value.value, dict):
                self.say("bad-shape", f"'settings' takes a mapping, not {describe(_plain(pair.value))}", pair.value.mark, fix="write settings: {dtype: float32}")
            for key, item in pair.value.value.items() if isinstance(pair.value.value, dict) else ():
                if key == "dtype":
                    self.take(item, _DTYPE, "'settings.dtype'", found, "dtype")
                else:
                    self.say("bad-setting", f"a node has no setting '{key}'", item.key.mark, fix=nearest(key, ("dtype",)))
        if pair := words.get("repeat"):
            found["repeat"] = self.repeat(pair, type_)
        return found

    def repeat(self, pair: Pair, type_: NodeType | Graph | None) -> Repeat | None:
        if isinstance(type_, NodeType):
            self.say("bad-shape", "'repeat' is for nodes whose type is a graph", pair.key.mark, why=f"{type_.name} is a plugin's node type", fix="put the node into a graph file of its own")
            return None
        found: dict[str, Any] = {}
        best: str | None = None
        if isinstance(pair.value.value, dict):
            for key, item in pair.value.value.items():
                if key == "times":
                    self.take(item, _TIMES, "'repeat.times'", found, "times")
                elif key == "keep" and isinstance(item.value.value, dict) and set(item.value.value) == {"best"}:
                    word = item.value.value["best"].value
                    best = str(word.value)
                    port = type_.outputs.get(best) if type_ else None
                    if type_ and port is None:
                        self.say("unknown-output", f"the graph has no output '{best}'", word.mark, fix=nearest(best, type_.outputs, what="its outputs are"))
                    elif port and not fits(port.type, PortType("number")):
                        self.say("type-mismatch", f"'keep: best' takes a number, and output '{best}' is {port.type}", word.mark)
                else:
                    self.say("unknown-key", f"'repeat' has no key '{key}' of this form", item.key.mark, fix="write repeat: {times: 4, keep: {best: score}}")
            if "times" not in pair.value.value:
                self.say("missing-key", "'repeat' needs 'times'", pair.key.mark, fix="write repeat: {times: 4, keep: {best: score}}")
        else:
            self.take(pair, _TIMES, "'repeat'", found, "times")
        return Repeat(found["times"], best) if "times" in found else None

    def take(self, pair: Pair, port: PortType, what: str, found: dict[str, Any], name: str) -> None:
        try:
            found[name] = port.check(_plain(pair.value))
        except BadValue as odd:
            self.say("bad-literal", f"{what} {odd}", pair.value.mark, fix=nearest(odd.given, odd.known) if odd.known else "")

    # -- bindings ----------------------------------------------------------------------------------------------------------------

    def bind(self, word: Word, port: PortType, what: str) -> Binding | None:
        """Bind a word to a port of this type; None if it does not fit (a problem has been said)."""
        value = word.value
        if value is UNREADABLE:
            return None  # the reader of the text has said why
        if type(value) is Reference:
            return self.edge(value, port, what)
        if type(value) is Template:
            return self.template(word, value, port, what)
        if type(value) is tuple:
            return self.list_(word, value, port, what)
        if type(value) is dict:
            if port.kind in ("json", "any") or any(m.kind == "json" for m in port.members):
                items = [(k, self.bind(p.value, _ANY, what)) for k, p in value.items()]
                if any(b is None for _, b in items):
                    return None
                if all(type(b) is Given for _, b in items):
                    return Given({k: b.value for k, b in items})  # type: ignore[union-attr]
                return Mapped(tuple((k, b) for k, b in items if b is not None))
            self.scan(word)
        return self.literal(word, value, port, what)

    def literal(self, word: Word, value: Any, port: PortType, what: str) -> Binding | None:
        if isinstance(value, str):
            kinds = (port.kind, *(m.kind for m in port.members))
            if "text" not in kinds and "json" not in kinds:
                for kind in kinds:
                    if kind in ("file", "folder"):
                        return self.path(word, value, kind)
                    if kind == "model":
                        return self.model(word, value)
        try:
            return Given(port.check(_plain(word) if isinstance(value, dict) else value))
        except BadValue as odd:
            fix = nearest(odd.given, odd.known) if odd.known else _mend_literal(value, port)
            self.say("bad-literal", f"{what} {odd}", word.mark, fix=fix)
            return None

    def path(self, word: Word, text: str, kind: str) -> Binding | None:
        if not text.strip() or "\0" in text:
            self.say("bad-literal", f"a path of a {kind} is not {describe(text)}", word.mark)
            return None
        return FileAt(text, kind, self.folder, word.mark)

    def model(self, word: Word, text: str) -> Binding | None:
        try:
            parse_reference(text)
        except BadReference as odd:
            self.say("bad-model", str(odd), word.mark, fix=odd.fix)
            return None
        return ModelAt(text, self.folder, word.mark)

    def list_(self, word: Word, words: tuple[Word, ...], port: PortType, what: str) -> Binding | None:
        target = port
        if port.kind == "union":
            target = next((m for m in port.members if m.kind in ("list", "json")), port)
        element = _ANY if target.kind in ("json", "any") else target.element if target.kind == "list" else None
        if element is None:
            self.scan(word)
            return self.literal(word, [_plain(w) for w in words], port, what)
        items = [self.bind(w, element, f"element {i} of {what}") for i, w in enumerate(words)]
        if any(i is None for i in items):
            return None
        if all(type(i) is Given for i in items):
            return Given([i.value for i in items])  # type: ignore[union-attr]
        return Listed(tuple(i for i in items if i is not None))

    def template(self, word: Word, template: Template, port: PortType, what: str) -> Binding | None:
        if not fits(_TEXT, port) or port.choices:
            kind = port.name
            self.scan(word)
            self.say("type-mismatch", f"{what} takes {port.words}, not text with values inside it", word.mark,
                     why="a path is never made of values: it would let a value choose what is read" if kind in ("file", "folder") else "")
            return None
        parts: list[str | FromInput | FromNode] = []
        for part in template.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            found = self.look_up(part)
            if found is None:
                return None
            binding, type_ = found
            if type_ is not None and type_.kind not in ("text", "int", "float", "number", "bool", "any"):
                self.say("bad-template", f"${{{_spelt(part)}}} is {type_}, which cannot stand inside text", part.mark,
                         why="inside text go text, numbers and truth values", fix="let it be the whole value, or turn it into text by a node")
                return None
            parts.append(binding)
        return Joined(tuple(parts))

    def edge(self, reference: Reference, port: PortType, what: str) -> Binding | None:
        found = self.look_up(reference)
        if found is None:
            return None
        binding, source = found
        if source is None or fits(source, port):
            return binding
        if isinstance(binding, FromInput) and fits(source, _named(port)):
            return binding  # an input may name a model, as text; a node may not
        spelt = _spelt(reference)
        if source.kind == "list" and source.element is not None and port.kind != "list" and fits(source.element, port):
            name = what.split("'")[1] if "'" in what else "port"
            self.say("list-into-single", f"${{{spelt}}} is {source}, and {what} takes one {port.name}", reference.mark, fix=f'run the node for each element: each: {{{name}: "${{{spelt}}}"}}')
            return None
        self.say("type-mismatch", f"${{{spelt}}} is {source}, and {what} takes {port}", reference.mark, why=self.both_sides(reference), fix=_mend_edge(source, port, spelt))
        return None

    def both_sides(self, reference: Reference) -> str:
        type_ = self.types.get(reference.name)
        if type_ is None:
            return ""
        outputs = ", ".join(f"{p.name} ({p.type})" for p in type_.outputs.values())
        return f"outputs of '{reference.name}': {outputs}"

    def look_up(self, reference: Reference) -> tuple[FromInput | FromNode, PortType | None] | None:
        """Find what a reference names: its binding and type. The type is None where the node's own type is not known."""
        name = reference.name
        if name in self.spec.nodes and name not in self.spec.inputs:
            type_ = self.types[name]
            if type_ is None:
                return FromNode(name, reference.port or ""), None
            port = reference.port or type_.primary
            output = type_.outputs.get(port)
            if output is None:
                self.say("unknown-output", f"node '{name}' has no output '{port}'", reference.mark, fix=nearest(port, type_.outputs, what="its outputs are"))
                return None
            spec = self.spec.nodes[name].reserved
            repeated = "repeat" in spec and not (isinstance(spec["repeat"].value.value, dict) and "keep" in spec["repeat"].value.value)
            given = PortType("list", element=output.type) if repeated else output.type
            return FromNode(name, port), PortType("list", element=given) if "each" in spec else given
        if name in self.spec.inputs:
            self.used_inputs.add(name)
            if reference.port is not None:
                self.say("unknown-output", f"'{name}' is an input, which has no outputs", reference.mark, fix=f'write "${{{name}}}"')
                return None
            found = self.inputs.get(name)
            return FromInput(name), found.type if found else None
        known = [*self.spec.inputs, *self.spec.nodes]
        self.say("unknown-reference", f"there is no node or input '{name}'", reference.mark, fix=nearest(name, known, what="there are"))
        return None

    def scan(self, word: Word) -> None:
        """Look up the references in something that is not bound, so that their problems are shown too."""
        value = word.value
        if isinstance(value, Reference):
            self.look_up(value)
        elif isinstance(value, Template):
            for part in value.parts:
                if isinstance(part, Reference):
                    self.look_up(part)
        elif isinstance(value, tuple):
            for item in value:
                self.scan(item)
        elif isinstance(value, dict):
            for pair in value.values():
                self.scan(pair.value)

    # -- outputs, settings, order ------------------------------------------------------------------------------------------------

    def output(self, written: OutputSpec) -> Output | None:
        value = written.source.value
        if value is UNREADABLE:
            return None
        if not isinstance(value, Reference):
            self.say("bad-reference", f"output '{written.name.value}' is a reference, not {describe(_plain(written.source))}", written.source.mark, fix='write "${node}"')
            return None
        found = self.look_up(value)
        if found is None:
            return None
        binding, type_ = found
        options = {key: pair.value.value for key, pair in written.options.items()}
        path = options.get("path")
        if path is not None and type_ is not None:
            scalars = [n for n, i in self.inputs.items() if i.type.is_scalar]
            mark = written.options["path"].value.mark
            if not isinstance(path, str):
                self.say("bad-path", f"a path is text, not {describe(_plain(written.options['path'].value))}", mark)
                return None
            self.used_inputs |= {n for n in scalars if f"{{{n}}}" in path}
            fault = check_template(path, fields=scalars, type=type_)
            if fault:
                self.say("bad-path", fault.message, mark, fault.why, fault.fix)
        if type_ is None:
            return None
        return Output(written.name.value, binding, type_, path, options.get("exists", "error"), options.get("provenance", "full"), written.mark)

    def paths(self, outputs: dict[str, Output]) -> None:
        """Two outputs with one path template would write over each other."""
        seen: dict[str, str] = {}
        for output in outputs.values():
            if output.path is None:
                continue
            plain = output.path.replace("{output}", output.name).casefold()
            if plain in seen:
                mark = self.spec.outputs[output.name].options["path"].value.mark
                self.say("duplicate-path", f"outputs '{seen[plain]}' and '{output.name}' are written to one path", mark, fix="put {output} into the path")
            seen.setdefault(plain, output.name)

    def settings(self, written: dict[str, Pair]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, pair in written.items():
            port = _SETTINGS.get(key)
            if port is None:
                self.say("bad-setting", f"there is no setting '{key}'", pair.key.mark, fix=nearest(key, _SETTINGS, what="settings of a graph are"))
                continue
            try:
                found[key] = port.check(_plain(pair.value))
            except BadValue as odd:
                self.say("bad-setting", f"'{key}' {odd}", pair.value.mark)
        if "device" in found and not _is_device(found["device"]):
            self.say("bad-setting", f"there is no device '{found['device']}'", written["device"].value.mark, fix="one of: auto, cpu, cuda, cuda:N, mps")
        return found

    def order(self, nodes: dict[str, Node | None]) -> list[str]:
        """Sort nodes topologically, as written among equals; a cycle is a problem, printed closed and in order."""
        names = list(nodes)
        place = {name: i for i, name in enumerate(names)}
        if all(place[n] < i for i, name in enumerate(names) for n in self.reads(name, nodes[name])):
            return names  # written from the top down: sorting would change nothing
        import networkx

        drawn: networkx.DiGraph[int] = networkx.DiGraph()
        drawn.add_nodes_from(range(len(names)))
        drawn.add_edges_from((place[n], i) for i, name in enumerate(names) for n in self.reads(name, nodes[name]))
        try:
            return [names[i] for i in networkx.lexicographical_topological_sort(drawn)]
        except networkx.NetworkXUnfeasible:
            pass
        knots = [c for c in networkx.strongly_connected_components(drawn) if len(c) > 1 or drawn.has_edge(min(c), min(c))]
        for knot in sorted(knots, key=min):
            edges = networkx.find_cycle(drawn.subgraph(knot), min(knot))
            circle = [names[a] for a, _ in edges]
            first = circle.index(min(circle, key=place.__getitem__))
            circle = circle[first:] + circle[: first + 1]
            mark = self.spec.nodes[circle[0]].name.mark
            self.say("cycle", f"nodes wait for each other: {' -> '.join(circle)}", mark, why="a node runs when all its inputs are there", fix="break the circle at one of them")
        return names

    def reads(self, name: str, node: Node | None) -> Iterable[str]:
        """Name the nodes that a node reads: by its bindings, or as written where it did not resolve."""
        return node.after if node is not None else self.written_reads(name)

    def written_reads(self, name: str) -> Iterator[str]:
        written = self.spec.nodes[name]
        pending = [p.value for p in (*written.arguments.values(), *written.reserved.values())]
        while pending:
            value = pending.pop().value
            if isinstance(value, Reference):
                found = [value.name]
            elif isinstance(value, Template):
                found = [p.name for p in value.parts if isinstance(p, Reference)]
            else:
                found = []
            yield from (n for n in found if n in self.spec.nodes and n not in self.spec.inputs)
            if isinstance(value, tuple):
                pending += value
            elif isinstance(value, dict):
                pending += [p.value for p in value.values()]


def _unneeded(nodes: dict[str, Node], outputs: dict[str, Output]) -> frozenset[str]:
    needed: set[str] = {o.source.node for o in outputs.values() if isinstance(o.source, FromNode)}
    for name in reversed(nodes):
        if name in needed:
            needed.update(nodes[name].after)
    return frozenset(nodes.keys() - needed)


def _asked_alone(nodes: dict[str, Node], outputs: dict[str, Output]) -> dict[str, Node]:
    """Leave out of graphs used as nodes the outputs that nothing asks for, so that what only they need does not run."""
    for node in nodes.values():
        if type(node.type) is Graph:
            break
    else:
        return nodes
    asked: dict[str, set[str]] = {name: set() for name in nodes}
    for output in outputs.values():
        if isinstance(output.source, FromNode):
            asked[output.source.node].add(output.source.port)
    narrow = dict(nodes)
    for name, node in reversed(nodes.items()):
        if not asked[name]:
            continue
        for source in (s for b in (*node.bindings.values(), node.when) if b is not None for s in readings(b)):
            if isinstance(source, FromNode):
                asked[source.node].add(source.port)
        if isinstance(node.type, Graph):
            narrow[name] = replace(node, type=_narrow(node.type, asked[name] | ({node.repeat.best} if node.repeat and node.repeat.best else set())))
    return narrow


def _narrow(graph: Graph, ports: set[str]) -> Graph:
    if ports >= graph.outputs.keys():
        return graph
    outputs = {name: output for name, output in graph.outputs.items() if name in ports}
    nodes = _asked_alone(graph.nodes, outputs)
    return replace(graph, nodes=nodes, outputs=outputs, unneeded=_unneeded(nodes, outputs))


#: Bindings that read no node.
_ROOTS = frozenset({Given, FromInput, FileAt, ModelAt})
_ANY = PortType("json")
_FLAGS = PortType("union", members=(PortType("bool"), PortType("list", element=PortType("bool"))))
_TEXT = PortType("text")
_TIMES = PortType("int", range=Range(1, 10_000))
_DTYPE = PortType("text", choices=("auto", "float32", "float16", "bfloat16"))
_SETTINGS = {"device": PortType("text"), "dtype": _DTYPE}


def _is_device(name: str) -> bool:
    kind, _, index = name.partition(":")
    return name in ("auto", "cpu", "mps", "cuda") or (kind == "cuda" and index.isdigit())


def _plain(word: Word) -> Any:
    """Return what a word says as plain data; references stand as they were written."""
    value = word.value
    if isinstance(value, tuple):
        return [_plain(w) for w in value]
    if isinstance(value, dict):
        return {k: _plain(p.value) for k, p in value.items()}
    if isinstance(value, Reference):
        return f"${{{_spelt(value)}}}"
    if isinstance(value, Template):
        return "".join(p if isinstance(p, str) else f"${{{_spelt(p)}}}" for p in value.parts)
    return value


def _spelt(reference: Reference) -> str:
    return f"{reference.name}.{reference.port}" if reference.port else reference.name


def _type_of(word: Word | None) -> PortType | None:
    """Tell the type of a bare value: it is its own."""
    value = word.value if word else None
    if isinstance(value, bool):
        return PortType("bool")
    if isinstance(value, int):
        return PortType("int")
    if isinstance(value, float):
        return PortType("float")
    if isinstance(value, str):
        return PortType("text")
    if isinstance(value, tuple) and value:
        kinds = {t.kind if (t := _type_of(w)) else "" for w in value}
        kind = "float" if kinds == {"int", "float"} else kinds.pop() if len(kinds) == 1 else ""
        if kind in ("bool", "int", "float", "text"):
            return PortType("list", element=PortType(kind))
    return None


def _named(port: PortType) -> PortType:
    """Put texts in the place of models."""
    if port.kind == "list" and port.element is not None:
        return PortType("list", element=_named(port.element))
    return _TEXT if port.kind == "model" else port


def _only_near(name: str, ports: dict[str, Port]) -> str:
    """Offer the nearest port, but not the whole list: the line above it already shows that."""
    said = nearest(name, ports)
    return said if said.startswith("did you mean") else ""


def _offer(port: Port) -> str:
    kind = port.type.kind
    sample = {"int": "1", "float": "1.0", "number": "1", "bool": "true", "text": "some text", "file": "./file", "folder": "./folder", "model": "embedded/NAME"}.get(kind, '"${node}"')
    return f"add {port.name}: {port.type.choices[0] if port.type.choices else sample}"


def _mend_literal(value: Any, port: PortType) -> str:
    if isinstance(value, float) and port.kind == "int" and value.is_integer():
        return f"write {int(value)}"
    if isinstance(value, str) and port.kind in ("int", "float", "number", "bool"):
        try:
            float(value)
        except ValueError:
            return ""
        return "remove the quotes"
    if not isinstance(value, str | list | dict) and port.kind == "text" and not port.choices:
        return f'quote it: "{str(value).lower() if isinstance(value, bool) else value}"'
    if port.kind == "list" and not isinstance(value, list | dict):
        return "put it into brackets: […]"
    if isinstance(value, str) and not port.is_scalar and port.kind != "json":
        return f'refer to a node that gives {port.name}: "${{node}}"'
    return ""


def _mend_edge(source: PortType, port: PortType, spelt: str) -> str:
    if port.kind == "list" and port.element is not None and fits(source, port.element):
        return f'make it a list of one: ["${{{spelt}}}"]'
    if port.kind in ("file", "folder") and source.kind == "text":
        return f"give the input the type {port.kind}: a node never takes a path as text"
    if port.kind == "int" and source.kind in ("float", "number"):
        return "round it by math.round"
    return ""
