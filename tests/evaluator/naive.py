"""A second evaluator of the graph language: naive recursion over the written graph, from the
reference of the format alone and with no code of the engine.

It says what a graph's outputs are, which calls a run must make, and which it may make. The rules,
in short:

- `when` comes first. Where it is false or absent the node is absent, where it failed the node
  failed, and nothing else of the node is computed. With a list of flags, so it is for each element.
- Then the lists of `each`: an absent one makes the node absent, else a failed one makes it fail,
  and so do lists of unequal length. The order of keys decides nothing.
- A plain node: an absent required input makes it absent, whatever else; else a failed value
  anywhere in its inputs makes it fail. An absent optional input takes its default.
  Inside what flows into a port, an absent element of a list is left out and an absent value of a
  mapping is null, at any depth. Text takes the fate of the first value in it that is absent or
  failed.
- A record has its fields; a value that is none is its first, and a list of values a list of records.
  An absent field has its default, and without one makes the node absent.
- An included graph: an absent required input makes all its outputs absent, a value out of bounds
  makes them all fail; so required inputs, and those with bounds or choices, are computed first.
  Others are computed where something inside needs them.
  A failed value flows inside, to what reads it. Only the outputs that are asked for are computed.
- `keep` computes the score of every repetition, then the other outputs of the best (the first of
  equals) alone. Without a score the outputs are failed if a score failed, else absent.
- Steps of equal type and inputs are one: called once a run, failing or forced too, and not again
  once kept. What says `cache: false` is called for itself.
- `each` goes so many lists deep that what is left fits the port (one, if anything does); of several ports, the deepest says
  how deep the node runs, and the others are shared by what is deeper. An element that still has
  lists in it is like a node with an `each` of its own: it is absent, or fails, as that would be. So do
  lists of flags, which may be less deep.
- `on_error` decides about each element that fails, for whatever reason (without `each`, about the
  node): `absent` makes absent what failed of its outputs, at any depth; `drop` takes it out of the
  list. A dropped element keeps its place for what goes through its list by `each`, where all that is
  paired with it is dropped too; everywhere else it is not there. A node that fails as a whole, with
  its lists, fails.
- A node type may pair lists: where one has an absent element, it is left out of all, if they are of
  equal length.
- `until` names an output: the repetition in which it is true is the last; where it is absent or
  failed, it is not true. Of the last repetition that is allowed it is not asked. `keep: last` gives the
  outputs of the last one, and `rounds` is how many there were.
- Outputs show absent and failed as None, at any depth.

The two differ only where the reference leaves the engine free: an input need not be computed once a
step is known to have no value, and a list of an `each` may be computed though nothing reads its
elements.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

__all__ = ["ABSENT", "DROPPED", "FAILED", "NODE_TYPES", "Call", "Evaluation", "Scope"]


class _Mark:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ABSENT, FAILED, DROPPED = _Mark("ABSENT"), _Mark("FAILED"), _Mark("DROPPED")
_REQUIRED = object()
_REFERENCE = re.compile(r"\$\{(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True)
class NodeType:
    """A toy as the evaluator knows it: ports with their types, and what it computes; FAILED stands
    for an exception.
    """

    inputs: dict[str, tuple[str, Any]]  # port: (type, default)
    outputs: dict[str, str]
    compute: Callable[..., Any]


def _type(
    inputs: dict[str, Any], output: str | dict[str, str], compute: Callable[..., Any]
) -> NodeType:
    ports = {
        name: (given if isinstance(given, tuple) else (given, _REQUIRED))
        for name, given in inputs.items()
    }
    return NodeType(ports, {"value": output} if isinstance(output, str) else output, compute)


NODE_TYPES = {
    "t.int": _type({"value": "int"}, "int", lambda value: value),
    "t.add": _type({"a": "int", "b": ("int", 1)}, "int", lambda a, b: (a + b) % 1000),
    "t.default": _type(
        {"a": ("int", None), "b": ("int", 5)}, "int", lambda a, b: (100 if a is None else a) + b
    ),
    "t.even": _type({"n": "int"}, "bool", lambda n: n % 2 == 0),
    "t.maybe": _type({"n": "int"}, "int", lambda n: ABSENT if n % 3 == 0 else n),
    "t.fail": _type({"n": "int"}, "int", lambda n: FAILED if n % 4 == 3 else n + 1),
    "t.flaky": _type({"n": "int", "fails": ("int", 1)}, "int", lambda n, fails: n),
    "t.steps": _type({"n": "int"}, "int", lambda n: n),
    "t.pair": _type(
        {"n": "int"}, {"low": "int", "label": "text"}, lambda n: {"low": n // 2, "label": f"p{n}"}
    ),
    "t.split": _type(
        {"n": "int"},
        {"even": "int", "odd": "int"},
        lambda n: {"even": ABSENT if n % 2 else n, "odd": n if n % 2 else ABSENT},
    ),
    "t.score": _type(
        {"seed": "seed"},
        {"text": "text", "score": "int"},
        lambda seed: {"text": str(seed)[-6:], "score": seed % 7},
    ),
    "t.show": _type({"x": "float"}, "text", lambda x: repr(x)),
    "t.join": _type({"a": "text", "b": ("text", "z")}, "text", lambda a, b: (a + "|" + b)[-40:]),
    "t.range": _type({"n": "int"}, "list[int]", lambda n: list(range(n % 4))),
    "t.ints": _type({"values": "list[int]"}, "list[int]", lambda values: values),
    "t.sum": _type(
        {"values": "list[int]", "start": ("int", 0)},
        "int",
        lambda values, start: (sum(values) + start) % 1000,
    ),
    "t.weigh": _type(
        {"values": "list[int]", "by": ("list[int]", None)},
        "int",
        lambda values, by: (
            FAILED
            if by is not None and len(by) != len(values)
            else sum(n * (i if by is None else by[i]) for i, n in enumerate(values)) % 1000
        ),
    ),
    "t.optional_sum": _type(
        {"values": ("list[int]", None)},
        "int",
        lambda values: -1 if values is None else sum(values) % 1000,
    ),
    "t.chunk": _type(
        {"values": "list[int]"},
        "list[list[int]]",
        lambda values: [values[i : i + 2] for i in range(0, len(values), 2)],
    ),
    "t.nest": _type({"values": "list[list[int]]"}, "text", lambda values: json.dumps(values)[-40:]),
    "t.uses": _type(
        {"uses": ("list[use]", []), "one": ("use", None)},
        "int",
        lambda uses, one: sum(n * weight for n, weight, _ in (*uses, *filter(None, (one,)))) % 1000,
    ),
    "t.json": _type(
        {"value": "json"}, "text", lambda value: json.dumps(value, sort_keys=True)[-40:]
    ),
    "flow.first": _type(
        {"a": ("any", None), "b": ("any", None), "c": ("any", None)},
        "any",
        lambda a, b, c: next((v for v in (a, b, c) if v is not None), ABSENT),
    ),
}


@dataclass(frozen=True)
class Call:
    """A step of a plugin's node that is called: `line` is what its log says, `name` how its events
    call it.
    """

    name: str
    line: str
    fails: bool
    kept: bool
    forced: bool
    #: It may fail without failing the run.
    tolerated: bool


@dataclass
class Evaluation:
    """What came of a graph: its outputs, and the calls that a run must or may make if the store
    holds nothing.
    """

    outputs: dict[str, Any]
    must: list[Call] = field(default_factory=list)
    may: list[Call] = field(default_factory=list)
    #: Whether a node whose steps could not be worked out (bounds, lists of unequal length) is
    # certainly, or perhaps, asked for.
    must_refuse: bool = False
    may_refuse: bool = False


def derived(seed: int, repetition: int) -> int:
    return (
        int.from_bytes(blake2b(f"{seed}\0{repetition}".encode(), digest_size=8).digest(), "big")
        >> 1
    )


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else value.values():
            yield from leaves(item)
    else:
        yield value


def is_failed(value: Any) -> bool:
    """A failed value anywhere inside makes what reads the whole fail."""
    return any(leaf is FAILED for leaf in leaves(value))


def after_error(value: Any, policy: str) -> Any:
    """What `on_error` puts in the place of what failed, at any depth."""
    if policy == "fail":
        return value
    if isinstance(value, list):
        return [after_error(item, policy) for item in value]
    return {"absent": ABSENT, "drop": DROPPED}[policy] if value is FAILED else value


#: An element whose lists differ in length.
UNFIT = _Mark("UNFIT")

#: The ports that a node type pairs.
PAIRED = {"t.weigh": ("values", "by")}


def in_pairs(received: dict[str, Any], ports: tuple[str, ...]) -> dict[str, Any]:
    """What ports that are paired receive: without the places at which one has nothing."""
    lists = {port: received[port] for port in ports if isinstance(received.get(port), list)}
    out = {
        i for values in lists.values() for i, v in enumerate(values) if v is ABSENT or v is DROPPED
    }
    return {
        port: [v for i, v in enumerate(values) if i not in out] for port, values in lists.items()
    }


def without_absent(value: Any) -> Any:
    """An absent element of a list is left out, an absent value in a mapping is null; at any depth."""
    if isinstance(value, list):
        return [without_absent(item) for item in value if item not in (ABSENT, DROPPED)]
    if isinstance(value, dict):
        return {
            key: None if item is ABSENT else without_absent(item) for key, item in value.items()
        }
    return value


def goes_through(written: Any) -> bool:
    """Whether a field of a record in `each` is given a list; here that is a reference."""
    return isinstance(written, str) and _REFERENCE.fullmatch(written) is not None


def sizing(written: Any) -> list[Any]:
    """The lists that say for how many elements a port of `each` runs."""
    if isinstance(written, dict):
        return [value for value in written.values() if goes_through(value)]
    return [written]


def formatted(value: Any) -> str:
    return ("false", "true")[value] if isinstance(value, bool) else str(value)


def references(written: Any) -> Iterator[tuple[str, str | None]]:
    """Every reference in what is written."""
    if isinstance(written, list | dict):
        for item in written if isinstance(written, list) else written.values():
            yield from references(item)
    elif isinstance(written, str):
        for found in _REFERENCE.finditer(written):
            yield found[1], found[2]


#: The fields of records and their defaults, by type.
RECORDS: dict[str, dict[str, Any]] = {"use": {"n": _REQUIRED, "weight": 2, "label": None}}


def as_records(type_: str, value: Any) -> Any:
    """What a port of records receives; ABSENT fields that have no default stay so."""
    if isinstance(value, _Mark) or value is None:
        return value
    if type_.startswith("list["):
        return [as_records(type_[5:-1], item) for item in value if item not in (ABSENT, DROPPED)]
    fields = RECORDS[type_]
    given = value if isinstance(value, dict) else {next(iter(fields)): value}
    return {
        name: given[name]
        if given.get(name, ABSENT) is not ABSENT
        else ABSENT
        if default is _REQUIRED
        else default
        for name, default in fields.items()
    }


def as_tuples(value: Any) -> Any:
    """Records as the log and the toys have them."""
    if isinstance(value, list):
        return [as_tuples(item) for item in value]
    return tuple(value.values()) if isinstance(value, dict) else value


class Scope:
    """A graph with values for its inputs: the one that is run, or one used as a node."""

    def __init__(
        self,
        graph: dict[str, Any],
        files: dict[str, dict[str, Any]],
        given: dict[str, Any] | None = None,
        *,
        force: Iterable[str] = (),
        prefix: str = "",
        around: tuple[Scope, str, tuple[int, ...]] | None = None,
    ) -> None:
        self.graph = graph
        self.files = files
        self.inputs = {
            name: wanted.get("default", ABSENT) if isinstance(wanted, dict) else wanted
            for name, wanted in graph.get("inputs", {}).items()
        } | (given or {})
        self.force = frozenset(force)
        self.prefix = prefix
        self.around = around
        self.known_depths: dict[str, dict[str, int]] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self.children: dict[tuple[str, tuple[int, ...], int], Scope] = {}

    # -- values ------------------------------------------------------------------------------------

    def outputs(self) -> dict[str, Any]:
        return {name: self.bound(source) for name, source in self.graph["outputs"].items()}

    def bound(self, written: Any) -> Any:
        """The value of what is written: a literal, a reference, text with values inside it, or a
        list or mapping of these.
        """
        if isinstance(written, list):
            return [self.bound(item) for item in written]
        if isinstance(written, dict):
            return {key: self.bound(item) for key, item in written.items()}
        if not isinstance(written, str):
            return written
        if whole := _REFERENCE.fullmatch(written):
            return self.referred(whole[1], whole[2])
        for reference in references(written):  # the first that has no value decides
            if isinstance(value := self.referred(*reference), _Mark):
                return value
        return _REFERENCE.sub(lambda found: formatted(self.referred(found[1], found[2])), written)

    def referred(self, name: str, port: str | None) -> Any:
        if name in self.inputs:
            return self.inputs[name]
        outputs = self.node(name)
        return outputs[port] if port else next(iter(outputs.values()))

    def output_names(self, name: str) -> list[str]:
        type_ = self.graph["nodes"][name]["type"]
        outputs = NODE_TYPES[type_].outputs if type_ in NODE_TYPES else self.files[type_]["outputs"]
        return [*outputs, *(["rounds"] if self.until(name) else [])]

    def until(self, name: str) -> str | None:
        repeat = self.graph["nodes"][name].get("repeat")
        return repeat.get("until") if isinstance(repeat, dict) else None

    def node(self, name: str) -> dict[str, Any]:
        if name not in self.values:
            whole, elements = self.shape(name)
            if whole is not None and "each" in self.graph["nodes"][name]:
                self.values[name] = dict.fromkeys(self.output_names(name), whole)
            else:
                self.values[name] = self.nested(name, True if elements is None else elements, ())
        return self.values[name]

    def nested(self, name: str, shape: Any, place: tuple[int, ...]) -> dict[str, Any]:
        """The outputs of the elements of a shape, nested like it."""
        ports = self.output_names(name)
        if isinstance(shape, list):
            results = [self.nested(name, inner, (*place, i)) for i, inner in enumerate(shape)]
            return {port: [result[port] for result in results] for port in ports}
        if isinstance(shape, _Mark):
            result = dict.fromkeys(ports, FAILED if shape is UNFIT else shape)
        else:
            result = self.element(name, place)
        if "each" not in self.graph["nodes"][name]:  # as a whole it is in no list
            result = {
                p: ABSENT if v is FAILED and self.policy(name) != "fail" else v
                for p, v in result.items()
            }
        return {port: after_error(result[port], self.policy(name)) for port in ports}

    # -- types -------------------------------------------------------------------------------------

    def depths(self, name: str) -> dict[str, int]:
        """How many lists deep each port of an `each` goes."""
        if name not in self.known_depths:
            node = self.graph["nodes"][name]
            self.known_depths[name] = {
                port: 1
                if isinstance(written, dict) or self.wanted(node["type"], port) in ("any", "json")
                else max(1, self.lists_in(written) - self.wanted(node["type"], port).count("list["))
                for port, written in node.get("each", {}).items()
            }
        return self.known_depths[name]

    def wanted(self, type_: str, port: str) -> str:
        if type_ in NODE_TYPES:
            return NODE_TYPES[type_].inputs[port][0]
        return str(self.files[type_]["inputs"][port]["type"])

    def lists_in(self, written: Any) -> int:
        """How many lists are around the values of what is written."""
        if isinstance(written, list):
            return 1 + max(map(self.lists_in, written), default=0)
        found = _REFERENCE.fullmatch(written) if isinstance(written, str) else None
        return self.lists_of(found[1], found[2]) if found else 0

    def lists_of(self, name: str, port: str | None) -> int:
        if name in self.inputs:
            return str(self.graph["inputs"][name]["type"]).count("list[")
        node = self.graph["nodes"][name]
        around = max(self.depths(name).values(), default=0)
        if node["type"] in NODE_TYPES:
            outputs = NODE_TYPES[node["type"]].outputs
            return around + outputs[port or next(iter(outputs))].count("list[")
        inner = Scope(self.files[node["type"]], self.files)
        source = inner.graph["outputs"].get(port or next(iter(inner.graph["outputs"])))
        if source is None:  # how many repetitions there were
            return around
        if "repeat" in node and self.keeps_all(name):
            around += 1
        return around + inner.lists_in(source)

    def policy(self, name: str) -> str:
        return str(self.graph["nodes"][name].get("on_error", "fail"))

    def tolerates(self, name: str | None) -> bool:
        """Whether the run goes on if something in this node fails, or in this graph."""
        if name is not None and self.policy(name) != "fail":
            return True
        return self.around is not None and self.around[0].tolerates(self.around[1])

    def shape(self, name: str) -> tuple[_Mark | None, Any]:
        """Whether all outputs of a node are absent or failed; else its elements, nested as its lists
        are (each is True, or the mark that its outputs are), or what it is itself without `each`.
        """
        node = self.graph["nodes"][name]
        flags = self.bound(node.get("when", True))
        if not isinstance(flags, list) and flags is not True:
            mark = FAILED if flags is FAILED else ABSENT
            return mark, mark
        if "each" not in node:
            return None, None
        depths = self.depths(name)
        lists = [
            (self.bound(size), depths[port])
            for port, written in node["each"].items()
            for size in sizing(written)
        ]
        shape = self.level(lists, flags)
        if isinstance(shape, _Mark):
            return FAILED if shape is UNFIT else shape, None
        return None, shape

    def level(self, lists: list[tuple[Any, int]], flags: Any) -> Any:
        """What is in lists that are gone through side by side, each so many lists deep."""
        for mark in (ABSENT, FAILED):
            if any(values is mark for values, _ in lists):
                return mark
        rows = [values for values, _ in lists] + ([flags] if isinstance(flags, list) else [])
        if len({len(row) for row in rows}) > 1:
            return UNFIT
        found: list[Any] = []
        for i in range(len(rows[0])):
            flag = flags[i] if isinstance(flags, list) else True
            deeper = [(values[i], depth - 1) for values, depth in lists if depth > 1]
            if any(row[i] is DROPPED for row in rows):
                found.append(DROPPED)
            elif not isinstance(flag, list) and flag is not True:
                found.append(FAILED if flag is FAILED else ABSENT)
            else:
                found.append(self.level(deeper, flag) if deeper else True)
        return found

    def arguments(self, name: str, i: tuple[int, ...]) -> dict[str, Any]:
        """The values of the ports that are written."""
        node = self.graph["nodes"][name]
        given = {port: self.bound(written) for port, written in self.written(name).items()}
        return given | {
            port: self.for_element(written, i[: self.depths(name)[port]])
            for port, written in node.get("each", {}).items()
        }

    def for_element(self, written: Any, place: tuple[int, ...]) -> Any:
        """What a port of `each` receives for an element: of a record, the elements of the lists in
        its fields.
        """
        if not isinstance(written, dict):
            value = self.bound(written)
            for i in place:
                value = value[i]
            return value
        return {
            name: self.bound(value)[place[0]] if goes_through(value) else value
            for name, value in written.items()
        }

    def written(self, name: str) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.graph["nodes"][name].items()
            if key not in ("type", "each", "when", "repeat", "retry", "cache", "on_error")
        }

    def element(self, name: str, i: tuple[int, ...]) -> dict[str, Any]:
        """The outputs of one element of a node (of the node, without `each`)."""
        mark, _, prepared = self.prepared(name, i)
        ports = self.output_names(name)
        if mark is not None:
            return dict.fromkeys(ports, mark)
        node = self.graph["nodes"][name]
        if node["type"] in NODE_TYPES:
            result = NODE_TYPES[node["type"]].compute(**prepared)
            return result if isinstance(result, dict) else dict.fromkeys(ports, result)
        scopes = self.repetitions(name, i)
        if "repeat" not in node:
            return scopes[0].outputs()
        ports = list(self.files[node["type"]]["outputs"])
        rounds = {"rounds": len(scopes)} if self.until(name) else {}
        kept = self.kept(name, i)
        if isinstance(kept, _Mark):
            return dict.fromkeys(ports, kept) | rounds
        if self.keeps_all(name):
            return {port: [scope.outputs()[port] for scope in kept] for port in ports} | rounds
        return kept[0].outputs() | rounds

    def keeps_all(self, name: str) -> bool:
        repeat = self.graph["nodes"][name].get("repeat")
        return not isinstance(repeat, dict) or "keep" not in repeat

    def kept(self, name: str, i: tuple[int, ...]) -> list[Scope] | _Mark:
        """The repetitions that are kept; or the mark of all outputs if none has a score."""
        scopes = self.repetitions(name, i)
        if self.keeps_all(name):
            return scopes
        if self.graph["nodes"][name]["repeat"]["keep"] == "last":
            return scopes[-1:]
        best = self.best(name, i)
        return best if isinstance(best, _Mark) else [scopes[best]]

    def prepared(self, name: str, i: int) -> tuple[_Mark | None, list[str], dict[str, Any]]:
        """What an element's ports or inputs receive; or the mark that its outputs are, and the
        ports that are the reason.
        """
        given = self.arguments(name, i)
        node = self.graph["nodes"][name]
        if node["type"] in NODE_TYPES:
            wanted = NODE_TYPES[node["type"]].inputs
            received = {port: given.get(port, ABSENT) for port in wanted}
            received |= in_pairs(received, PAIRED.get(node["type"], ()))
            records = {
                port for port, (type_, _) in wanted.items() if type_.endswith(("use", "use]"))
            }
            received |= {port: as_records(wanted[port][0], received[port]) for port in records}
            absent = [
                port
                for port, value in received.items()
                if (value is ABSENT and wanted[port][1] is _REQUIRED)
                or (port in records and value is not ABSENT and ABSENT in leaves(value))
            ]
            if absent:
                return ABSENT, absent, {}
            failed = [port for port, value in received.items() if is_failed(value)]
            if failed:
                return FAILED, failed, {}
            received = {
                port: wanted[port][1] if value is ABSENT else without_absent(value)
                for port, value in received.items()
            }
            received |= {port: as_tuples(received[port]) for port in records}
            return (
                None,
                [],
                {
                    port: float(value) if wanted[port][0] == "float" else value
                    for port, value in received.items()
                },
            )
        declared = {
            key: wanted if isinstance(wanted, dict) else {"default": wanted}
            for key, wanted in self.files[node["type"]].get("inputs", {}).items()
        }
        received = {key: given.get(key, ABSENT) for key in declared}
        absent = [
            key
            for key, value in received.items()
            if value is ABSENT and "default" not in declared[key]
        ]
        if absent:
            return ABSENT, absent, {}
        received = {
            key: declared[key]["default"] if value is ABSENT else without_absent(value)
            for key, value in received.items()
        }
        outside = [
            key
            for key, value in received.items()
            if not is_failed(value) and not self.allowed(value, declared[key])
        ]
        return (FAILED, outside, {}) if outside else (None, [], received)

    @staticmethod
    def allowed(value: Any, wanted: dict[str, Any]) -> bool:
        if "choices" in wanted and value not in wanted["choices"]:
            return False
        return not ("min" in wanted or "max" in wanted) or wanted.get(
            "min", -math.inf
        ) <= value <= wanted.get("max", math.inf)

    def repetitions(self, name: str, i: tuple[int, ...]) -> list[Scope]:
        node = self.graph["nodes"][name]
        times = (
            node.get("repeat", 1)
            if not isinstance(node.get("repeat"), dict)
            else node["repeat"]["times"]
        )
        scopes: list[Scope] = []
        for r in range(times):
            scopes.append(self.child(name, i, r))
            until = self.until(name)
            if until and r + 1 < times and scopes[-1].outputs()[until] is True:
                break
        return scopes

    def child(self, name: str, i: tuple[int, ...], r: int) -> Scope:
        if (name, i, r) not in self.children:
            node = self.graph["nodes"][name]
            inner = self.files[node["type"]]
            given = self.prepared(name, i)[2]
            if "repeat" in node:
                seeds = [
                    key
                    for key, wanted in inner.get("inputs", {}).items()
                    if isinstance(wanted, dict) and wanted.get("type") == "seed"
                ]
                given = given | {
                    key: derived(given[key], r) for key in seeds if isinstance(given[key], int)
                }
            element = "".join(f"[{n}]" for n in i)
            prefix = f"{self.prefix}{name}{element}{f'[{r}]' if 'repeat' in node else ''}/"
            self.children[name, i, r] = Scope(
                inner, self.files, given, force=self.force, prefix=prefix, around=(self, name, i)
            )
        return self.children[name, i, r]

    def best(self, name: str, i: tuple[int, ...]) -> int | _Mark:
        """The repetition with the best score; the mark of all outputs if none has one."""
        repeat = self.graph["nodes"][name]["repeat"]
        scores = [scope.outputs()[repeat["keep"]["best"]] for scope in self.repetitions(name, i)]
        known = [(score, -r) for r, score in enumerate(scores) if not isinstance(score, _Mark)]
        return -max(known)[1] if known else FAILED if FAILED in scores else ABSENT

    # -- calls -------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        evaluation = Evaluation(self.outputs())
        for least in (True, False):
            demand = _Demand(least=least)
            for source in self.graph["outputs"].values():
                demand.references(self, source)
            if least:
                evaluation.must, evaluation.must_refuse = demand.calls, demand.refused
            else:
                evaluation.may, evaluation.may_refuse = demand.calls, demand.refused
        return evaluation


class _Demand:
    """What is computed for some outputs: at `least`, or at most."""

    def __init__(self, *, least: bool) -> None:
        self.least = least
        self.calls: list[Call] = []
        self.refused = False
        self.seen: set[tuple[int, str, str]] = set()

    def references(self, scope: Scope, written: Any) -> None:
        for name, port in references(written):
            self.reference(scope, name, port)

    def reference(self, scope: Scope, name: str, port: str | None) -> None:
        if name not in scope.graph["nodes"]:
            self.input(scope, name)
            return
        type_ = scope.graph["nodes"][name]["type"]
        port = "" if type_ in NODE_TYPES else port or next(iter(scope.files[type_]["outputs"]))
        if (id(scope), name, port) not in self.seen:
            self.seen.add((id(scope), name, port))
            self.node(scope, name, port)

    def input(self, scope: Scope, name: str) -> None:
        if scope.around is not None:
            outer, node, i = scope.around
            self.port(outer, node, name, i)

    def port(self, scope: Scope, name: str, port: str, place: tuple[int, ...]) -> None:
        """What is written for a port: of an element, if it is written as a list."""
        node = scope.graph["nodes"][name]
        if port in node.get("each", {}):
            written = node["each"][port]
            for i in place[: scope.depths(name)[port]]:
                written = written[i] if isinstance(written, list) else written
            self.references(scope, written)
        else:
            self.references(scope, scope.written(name).get(port))

    def node(self, scope: Scope, name: str, port: str) -> None:
        node = scope.graph["nodes"][name]
        self.references(scope, node.get("when"))
        flags = scope.bound(node.get("when", True))
        if flags is not True and not isinstance(flags, list):
            return
        whole, elements = scope.shape(name)
        each = node.get("each", {})
        if whole is not None:
            reasons = [
                p
                for p, written in each.items()
                if any(scope.bound(size) is whole for size in sizing(written))
            ]
            for p, written in each.items():
                if not self.least or not reasons or reasons == [p]:
                    self.references(
                        scope, written if not self.least or not isinstance(written, list) else None
                    )
            self.refused |= whole is FAILED and not reasons and not scope.tolerates(None)
            return
        if not self.least:  # how long a list is may be known before what is in it
            self.references(scope, list(each.values()))
        self.elements(scope, name, port, True if elements is None else elements, ())

    def elements(
        self, scope: Scope, name: str, port: str, shape: Any, place: tuple[int, ...]
    ) -> None:
        if isinstance(shape, list):
            for i, inner in enumerate(shape):
                self.elements(scope, name, port, inner, (*place, i))
        elif shape is True:
            self.element(scope, name, port, place)
        else:
            self.refused |= shape is UNFIT and not scope.tolerates(name)

    def element(self, scope: Scope, name: str, port: str, i: tuple[int, ...]) -> None:
        node = scope.graph["nodes"][name]
        mark, reasons, prepared = scope.prepared(name, i)
        ports = [*scope.written(name), *node.get("each", {})]
        plain = node["type"] in NODE_TYPES
        if mark is not None:
            for p in ports:
                if not self.least or reasons == [p]:
                    self.port(scope, name, p, i)
            self.refused |= mark is FAILED and not plain and not scope.tolerates(name)
            return
        if plain:
            for p in ports:
                self.port(scope, name, p, i)
            line = f"{node['type']}|" + ",".join(
                f"{p}={_logged(node['type'], p, prepared[p])}" for p in sorted(prepared)
            )
            forced = bool(scope.force & {name, *re.sub(r"\[\d+\]", "", scope.prefix).split("/")})
            item = "".join(f"[{n}]" for n in i)
            fails = any(value is FAILED for value in scope.element(name, i).values())
            self.calls.append(
                Call(
                    f"{scope.prefix}{name}{item}",
                    line,
                    fails,
                    node.get("cache", True),
                    forced,
                    scope.tolerates(name),
                )
            )
            return
        inner = scope.files[node["type"]].get("inputs", {})
        for p in ports:
            wanted = inner[p]
            if self.least and isinstance(scope.written(name).get(p), list):
                continue  # a list that is written is there, whatever its elements are
            first = isinstance(wanted, dict) and (
                "default" not in wanted or wanted.keys() & {"min", "max", "choices"}
            )
            if first or not self.least:
                self.port(scope, name, p, i)
        scopes = scope.repetitions(name, i)
        until = scope.until(name)
        if until:
            for r, child in enumerate(scopes):
                if r + 1 < node["repeat"]["times"]:
                    self.references(child, child.graph["outputs"][until])
        if port == "rounds" and until:
            return
        if not scope.keeps_all(name) and node["repeat"]["keep"] != "last":
            for child in scopes:
                self.references(child, child.graph["outputs"][node["repeat"]["keep"]["best"]])
        kept = scope.kept(name, i)
        for child in [] if isinstance(kept, _Mark) else kept:
            self.references(child, child.graph["outputs"][port])


def _logged(type_: str, port: str, value: Any) -> str:
    return repr(
        json.dumps(value, sort_keys=True) if (type_, port) == ("t.json", "value") else value
    )


def bounds(evaluation: Evaluation, stored: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each line is called at least and at most, given the lines whose results the store
    holds. Equal steps are one; what is not kept is called for itself.
    """
    least, most = Counter[str](), Counter[str]()
    stored = set(stored)
    for calls, counter in ((evaluation.must, least), (evaluation.may, most)):
        for line in {call.line for call in calls}:
            equal = [call for call in calls if call.line == line]
            kept = [call for call in equal if call.kept]
            alone = len(equal) - len(kept)
            if counter is least:
                alone = min(alone, 1)
            counter[line] = (
                bool(kept and (line not in stored or any(call.forced for call in kept))) + alone
            )
    for line in [line for line in most if line.startswith("flow.")]:  # writes no log
        del most[line]
        least.pop(line, None)
    for line in most:
        if line.startswith("t.flaky|"):
            most[line] *= 2
    return least, most
