"""Random graphs in the whole language: each, when, lists of flags, absent, failed, optional,
included graphs, repeat and keep, retry, cache, interpolation, JSON, nested lists.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Case", "draw", "edited"]

#: Node types by how often they are drawn, with their ports (a `?` marks those that may be left
# out) and outputs.
_SIGNATURES: dict[str, tuple[int, dict[str, str], dict[str, str]]] = {
    "t.int": (2, {"value": "int"}, {"": "int"}),
    "t.add": (5, {"a": "int", "b": "int?"}, {"": "int"}),
    "t.default": (3, {"a": "int?", "b": "int?"}, {"": "int"}),
    "t.even": (3, {"n": "int"}, {"": "bool"}),
    "t.maybe": (3, {"n": "int"}, {"": "int"}),
    "t.fail": (2, {"n": "int"}, {"": "int"}),
    "t.flaky": (1, {"n": "int", "fails": "int?"}, {"": "int"}),
    "t.steps": (1, {"n": "int"}, {"": "int"}),
    "t.pair": (2, {"n": "int"}, {"low": "int", "label": "text"}),
    "t.split": (2, {"n": "int"}, {"even": "int", "odd": "int"}),
    "t.score": (2, {"seed": "seed"}, {"text": "text", "score": "int"}),
    "t.show": (1, {"x": "int"}, {"": "text"}),
    "t.join": (3, {"a": "text", "b": "text?"}, {"": "text"}),
    "t.range": (3, {"n": "int"}, {"": "list[int]"}),
    "t.ints": (2, {"values": "list[int]"}, {"": "list[int]"}),
    "t.sum": (3, {"values": "list[int]", "start": "int?"}, {"": "int"}),
    "t.weigh": (3, {"values": "list[int]", "by": "list[int]?"}, {"": "int"}),
    "t.optional_sum": (2, {"values": "list[int]?"}, {"": "int"}),
    "t.chunk": (2, {"values": "list[int]"}, {"": "list[list[int]]"}),
    "t.nest": (2, {"values": "list[list[int]]"}, {"": "text"}),
    "t.uses": (4, {"uses": "list[use]?", "one": "use?"}, {"": "int"}),
    "t.json": (2, {"value": "json"}, {"": "text"}),
    "flow.first": (3, {"a": "first", "b": "first", "c": "first?"}, {"": "first"}),
}


@dataclass
class Case:
    """A graph, the graphs that it includes by path, and the nodes that are forced."""

    graph: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    force: list[str] = field(default_factory=list)


@dataclass
class _Included:
    """A graph that others may use as a node."""

    path: str
    inputs: dict[str, Any]
    outputs: dict[str, str]


def draw(seed: int) -> Case:
    """Draw a case; the same seed gives the same."""
    dice = random.Random(seed)
    files: dict[str, dict[str, Any]] = {}
    known: list[_Included] = []
    for letter in "hk"[: dice.choice((0, 1, 1, 2))]:
        drawing = _Drawing(dice, letter, known, size=dice.randint(1, 4))
        path = f"./{letter}{seed}.yaml"
        files[path] = drawing.graph
        known = [*known, _Included(path, drawing.graph.get("inputs", {}), drawing.outputs)]
    graph = _Drawing(dice, "n", known, size=dice.randint(2, 8)).graph
    force = (
        [dice.choice([name for name in graph["nodes"] if name in _needed(graph)])]
        if dice.random() < 0.1
        else []
    )
    return Case(graph, files, force)


def edited(case: Case, seed: int) -> Case:
    """The same case with one number in it, or in a graph that it includes, another one; so that the
    graph stays one without problems, none with bounds.
    """
    dice = random.Random(seed + 1)
    found = copy.deepcopy(case)
    places: list[tuple[Any, Any]] = []
    for graph in (found.graph, *found.files.values()):
        for node in graph["nodes"].values():
            bounded = {
                name
                for name, wanted in found.files.get(node["type"], {}).get("inputs", {}).items()
                if wanted.keys() & {"min", "max", "choices"}
            }
            _numbers(
                {
                    key: value
                    for key, value in node.items()
                    if key not in (*bounded, "each", "repeat", "retry", "on_error")
                },
                node,
                places,
            )
            _numbers(node.get("each", {}), node.get("each", {}), places)
        places += [
            (wanted, "default")
            for wanted in graph["inputs"].values()
            if wanted["type"] == "int"
            and "default" in wanted
            and not wanted.keys() & {"min", "max", "choices"}
        ]
    if places:
        holder, key = dice.choice(places)
        holder[key] += dice.randint(1, 3)
    return found


def _numbers(seen: Any, written: Any, places: list[tuple[Any, Any]]) -> None:
    """Gather where numbers are written, at any depth."""
    for key, value in seen.items() if isinstance(seen, dict) else enumerate(seen):
        if isinstance(value, list | dict):
            _numbers(value, value, places)
        elif isinstance(value, int) and not isinstance(value, bool):
            places.append((written, key))


def _in_lists(type_: str, depth: int) -> str:
    return _in_lists(f"list[{type_}]", depth - 1) if depth else type_


def _needed(graph: dict[str, Any]) -> set[str]:
    return {source[2:-1].partition(".")[0] for source in graph["outputs"].values()}


class _Drawing:
    """One graph being drawn, node by node; each may refer to what stands above it."""

    def __init__(
        self, dice: random.Random, letter: str, known: list[_Included], *, size: int
    ) -> None:
        self.dice = dice
        self.known = known
        self.included = letter != "n"
        #: What may be referred to, by type: from nodes, and from inputs.
        self.nodes: dict[str, list[str]] = {}
        self.inputs: dict[str, list[str]] = {}
        self.graph: dict[str, Any] = {"imagen_flow": 1, "inputs": {}, "nodes": {}, "outputs": {}}
        for i in range(dice.randint(0, 3)):
            self.declare(f"{letter}_in{i}")
        types: dict[str, str] = {}
        for i in range(size):
            name = f"{letter}{i}"
            self.graph["nodes"][name], outputs = self.node()
            for port, type_ in outputs.items():
                reference = f"${{{name}.{port}}}" if port else f"${{{name}}}"
                self.nodes.setdefault(type_, []).append(reference)
                types[reference] = type_
        sources = [*dice.sample(list(types), min(len(types), dice.randint(1, 3))), list(types)[-1]]
        self.graph["outputs"] = {f"o{i}": source for i, source in enumerate(dict.fromkeys(sources))}
        self.outputs = {name: types[source] for name, source in self.graph["outputs"].items()}
        if self.included and dice.random() < 0.4:
            self.add_flag(letter)

    def add_flag(self, letter: str) -> None:
        """Add an output that is true in some repetitions."""
        nodes = self.graph["nodes"]
        nodes[f"{letter}s"] = {"type": "t.score", "seed": self.value("seed")}
        nodes[f"{letter}e"] = {"type": "t.even", "n": f"${{{letter}s.score}}"}
        if self.dice.random() < 0.3:
            nodes[f"{letter}e"]["when"] = self.value("bool")
        self.graph["outputs"]["flag"] = f"${{{letter}e}}"
        self.outputs["flag"] = "bool"

    def declare(self, name: str) -> None:
        dice = self.dice
        type_ = dice.choice(
            ("int", "int", "text", "bool", "seed", "list[int]")
            if self.included
            else ("int", "text", "bool")
        )
        wanted: dict[str, Any] = {"type": type_}
        if not self.included or dice.random() < 0.4:
            wanted["default"] = {
                "int": dice.randint(0, 9),
                "text": "d",
                "bool": dice.random() < 0.5,
                "seed": 5,
                "list[int]": [1, 2],
            }[type_]
        if self.included and type_ == "int" and dice.random() < 0.4:
            wanted |= {"min": 0, "max": 9} if dice.random() < 0.7 else {"choices": [1, 2, 3, 4, 5]}
            if "default" in wanted:
                wanted["default"] = 4
        self.graph["inputs"][name] = wanted
        self.inputs.setdefault(type_, []).append(f"${{{name}}}")

    # -- what stands in a place of a type ----------------------------------------------------------

    def references(self, type_: str, *, nodes_only: bool = False) -> list[str]:
        return [*self.nodes.get(type_, ()), *(() if nodes_only else self.inputs.get(type_, ()))]

    def literal(self, type_: str) -> Any:
        dice = self.dice
        if type_.startswith("list["):
            return [self.literal(type_[5:-1]) for _ in range(dice.randint(0, 3))]
        if type_ == "use":
            return {"n": self.literal("int")}
        return {
            "int": dice.randint(0, 12),
            "seed": dice.randint(0, 12),
            "bool": dice.random() < 0.6,
            "text": dice.choice(("a", "b", "cc")),
        }[type_]

    def value(self, type_: str, *, nodes_only: bool = False) -> Any:
        """A literal, a reference, or what is made of both."""
        dice = self.dice
        found = self.references(type_, nodes_only=nodes_only)
        if found and dice.random() < 0.7:
            return dice.choice(found)
        if type_ == "use":
            return self.use()
        if type_ == "list[use]" and self.references("list[int]") and dice.random() < 0.3:
            return dice.choice(self.references("list[int]", nodes_only=nodes_only) or [[]])
        if type_ == "json":
            return {
                "l": [1, self.value("int"), [self.value("int")]],
                "m": {"t": self.value("text")},
                "v": self.value("int"),
            }
        if type_.startswith("list[") and dice.random() < 0.6:
            return [
                self.value(type_[5:-1], nodes_only=nodes_only) for _ in range(dice.randint(1, 3))
            ]
        if type_ == "text" and dice.random() < 0.4:
            inside = [
                r
                for t in ("int", "text", "bool")
                for r in self.references(t, nodes_only=nodes_only)
            ]
            if inside:
                return f"{dice.choice(inside)}-{dice.choice(inside)}"
        return self.literal(type_)

    def use(self) -> Any:
        """A record, or what stands for its first field."""
        dice = self.dice
        if dice.random() < 0.3:
            return self.value("int")
        fields = {"n": self.value("int")}
        if dice.random() < 0.6:
            fields["weight"] = self.value("int")
        if dice.random() < 0.4:
            fields["label"] = self.value("text")
        return fields

    def lists_of(self, type_: str, *, any_value: bool) -> dict[int, list[str]]:
        """The lists, and lists of lists, of values of a type, by how deep they are; of those for a
        port that takes any value, only the first.
        """
        found = {}
        for depth in (1,) if any_value else (1, 2, 3):
            type_ = f"list[{type_}]"
            if references := self.references(type_, nodes_only=True):
                found[depth] = references
        return found

    def use_for_each(self) -> dict[str, Any] | None:
        """A record some fields of which go through lists of nodes; None if there are none."""
        dice = self.dice
        lists = self.references("list[int]", nodes_only=True)
        if not lists:
            return None
        fields: dict[str, Any] = {"n": dice.choice(lists)}
        if dice.random() < 0.5:
            fields["weight"] = dice.choice([*lists, dice.randint(0, 3)])
        if dice.random() < 0.3:
            fields["label"] = "a"
        return fields

    # -- nodes -------------------------------------------------------------------------------------

    def node(self) -> tuple[dict[str, Any], dict[str, str]]:
        if self.known and self.dice.random() < 0.25:
            return self.graph_node(self.dice.choice(self.known))
        names = list(_SIGNATURES)
        type_ = self.dice.choices(names, [_SIGNATURES[name][0] for name in names])[0]
        _, ports, outputs = _SIGNATURES[type_]
        kind = (
            self.dice.choice(("int", "int", "text"))
            if "first" in ports.values() or "first" in outputs.values()
            else ""
        )
        wanted = {
            port: (p.rstrip("?").replace("first", kind), p.endswith("?"))
            for port, p in ports.items()
        }
        node: dict[str, Any] = {"type": type_}
        chosen = [
            port
            for port, (_, optional) in wanted.items()
            if not optional or self.dice.random() < 0.6
        ]
        outputs = {port: o.replace("first", kind) for port, o in outputs.items()}
        many = self.arguments(node, {port: wanted[port][0] for port in chosen}, set())
        if type_ == "t.flaky":
            node["retry"] = 2
        if self.dice.random() < 0.06:
            node["cache"] = False
        self.on_error(node, has_lists=bool(many))
        return node, {port: _in_lists(o, many) for port, o in outputs.items()}

    def graph_node(self, inner: _Included) -> tuple[dict[str, Any], dict[str, str]]:
        node: dict[str, Any] = {"type": inner.path}
        chosen = {
            name: w["type"]
            for name, w in inner.inputs.items()
            if "default" not in w or self.dice.random() < 0.6
        }
        bounded = {name for name in chosen if inner.inputs[name].keys() & {"min", "max", "choices"}}
        many = self.arguments(node, chosen, bounded)
        outputs = dict(inner.outputs)
        if self.dice.random() < 0.35:
            scores = [name for name, type_ in outputs.items() if type_ == "int"]
            flags = [name for name, type_ in outputs.items() if type_ == "bool"]
            repeat: dict[str, Any] = {"times": self.dice.randint(1, 4)}
            if flags and self.dice.random() < 0.8:
                repeat["until"] = self.dice.choice(flags)
            if scores and self.dice.random() < 0.5:
                repeat["keep"] = {"best": self.dice.choice(scores)}
            elif "until" in repeat and self.dice.random() < 0.5:
                repeat["keep"] = "last"
            else:
                outputs = {name: f"list[{type_}]" for name, type_ in outputs.items()}
            if "until" in repeat:
                outputs["rounds"] = "int"
            node["repeat"] = repeat if len(repeat) > 1 else repeat["times"]
        repeats = node.get("repeat")
        has_lists = (
            bool(many) or isinstance(repeats, int) or (bool(repeats) and "keep" not in repeats)
        )
        self.on_error(node, has_lists=has_lists)
        return node, {name: _in_lists(type_, many) for name, type_ in outputs.items()}

    def on_error(self, node: dict[str, Any], *, has_lists: bool) -> None:
        """Perhaps say what becomes of elements that fail."""
        if self.dice.random() < 0.3:
            node["on_error"] = self.dice.choice(
                ("absent", "drop", "fail") if has_lists else ("absent",)
            )

    def arguments(self, node: dict[str, Any], ports: dict[str, str], bounded: set[str]) -> int:
        """Write a node's arguments, perhaps some of them in an `each`, and perhaps a `when`; tell
        how many lists deep it runs.
        """
        dice = self.dice
        each: dict[str, Any] = {}
        many = 0
        # Lists of unequal length, and values out of bounds, are problems of the file where they are
        # literals: here they come on edges.
        lists = {
            port: found
            for port, type_ in ports.items()
            if type_ != "json"
            and (found := self.lists_of(type_, any_value=node["type"] == "flow.first"))
        }
        if "one" in ports and dice.random() < 0.4 and (use := self.use_for_each()) is not None:
            each["one"] = use
            many = 1
        elif lists and dice.random() < 0.35:
            for port in dice.sample(list(lists), min(len(lists), dice.choice((1, 1, 2)))):
                depth = dice.choice(list(lists[port]))
                each[port] = dice.choice(lists[port][depth])
                many = max(many, depth)
        elif ports and dice.random() < 0.12:
            port = dice.choice(list(ports))
            if ports[port] not in ("json",) and port not in bounded:
                each[port] = [self.value(ports[port]) for _ in range(dice.randint(0, 3))]
                many = 1
                nested = self.references(f"list[{ports[port]}]", nodes_only=True)
                is_deep = ports[port] in ("int", "text") and node["type"] != "flow.first"
                if is_deep and nested and dice.random() < 0.5:
                    each[port] = [
                        dice.choice((dice.choice(nested), [self.literal(ports[port])]))
                        for _ in range(dice.randint(1, 3))
                    ]
                    many = 2
        for port, type_ in ports.items():
            if port in bounded and port not in each:
                found = self.references(type_, nodes_only=True)
                node[port] = (
                    dice.choice(found) if found and dice.random() < 0.8 else dice.choice((1, 4))
                )
            elif port not in each:
                node[port] = self.value(type_)
        if each:
            node["each"] = each
        if dice.random() < 0.25:
            flags = (
                self.references("list[bool]", nodes_only=True)
                if each and all(isinstance(v, str) for v in each.values())
                else []
            )
            written = [values for values in each.values() if isinstance(values, list)]
            if any(isinstance(values, dict) for values in each.values()):
                flags = []
            if flags and dice.random() < 0.7:
                node["when"] = dice.choice(flags)
            elif written and dice.random() < 0.7:
                node["when"] = [self.value("bool") for _ in written[0]]
            else:
                node["when"] = self.value("bool")
        return many
