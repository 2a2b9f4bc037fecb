"""Read the nodes of a graph: their arguments, and the reserved words that they use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from typing import Any

from .._settings.devices import (
    BATCHES,
    COMPILATIONS,
    DTYPES,
    LAYERWISE_CASTINGS,
    MAX_BATCH,
    MEMORY_LEVELS,
    OFFLOADS,
    QUANTIZATIONS,
    nearest_device,
)
from .._text.spec import NodeSpec, Pair, Reference, Word
from .._types.node import NodeType
from .._types.ports import Port, PortType, describe, fits
from .._types.values import Range
from .binder import Binder
from .bindings import Binding, FileAt, FromNode, Given, ModelAt, readings
from .call_settings import ATTENTION, STEP_CACHE, takes_itself
from .graph import ROUNDS, Graph, Node, Repeat
from .suggestions import only_suggestion, plain, reference_text, suggest

__all__ = ["DTYPE", "LOADING", "ON_ERROR", "is_device", "read_node"]

#: Bindings that read nothing.
_LITERALS = frozenset({Given, FileAt, ModelAt})
_RETRIES = PortType("int", range=Range(0, 100))
_BACKOFF = PortType("float", range=Range(0, 86400))
ON_ERROR = PortType("text", choices=("fail", "absent", "drop"))
_TIMES = PortType("int", range=Range(1, 10_000))

#: Reserved words that say how a single step is computed.
_OF_STEPS = frozenset({"retry", "timeout", "cache", "device", "settings"})

DTYPE = PortType("text", choices=("auto", *DTYPES))

#: Settings of a graph or a node that say how models are loaded, and which memory fallback levels
#: a step may use.
LOADING = {
    "quantization": PortType("text", choices=QUANTIZATIONS),
    "offload": PortType("text", choices=OFFLOADS),
    "attention": ATTENTION,
    "compile": PortType(
        "union", members=(PortType("bool"), PortType("text", choices=COMPILATIONS))
    ),
    "layerwise_casting": PortType("text", choices=LAYERWISE_CASTINGS),
    "step_cache": STEP_CACHE,
    "ladder": PortType("text", choices=tuple(MEMORY_LEVELS)),
    "batch": PortType(
        "union",
        members=(PortType("text", choices=BATCHES), PortType("int", range=Range(1, MAX_BATCH))),
    ),
}


def read_node(binder: Binder, written: NodeSpec) -> Node | None:
    """Read one node; None if its type is not known (the problem is recorded)."""
    type_ = binder.types[written.name.value]
    ports = {} if type_ is None else type_.inputs if isinstance(type_, NodeType) else type_.ports
    label = str(written.type.value)
    bindings: dict[str, Binding] = {}
    good = type_ is not None
    each = _each(binder, written, type_, ports)
    for name, pair in written.arguments.items():
        port = ports.get(name)
        if type_ is None:
            binder.scan(pair.value)
        elif port is None:
            _refuse_port(binder, label, type_, name, pair)
        elif name in each:
            binder.say(
                "duplicate-key",
                f"port '{name}' is given both in 'each' and outside it",
                pair.key.mark,
                fix="keep one of them",
            )
        else:
            bound = binder.bind(pair.value, port.type, f"port '{name}' of {label}")
            if bound is not None:
                bindings[name] = bound
    _require_ports(binder, written, label, ports)
    bindings.update(each)
    words = _reserved(binder, written, type_)
    if not good:
        return None
    assert type_ is not None
    reads = [read for b in bindings.values() if type(b) not in _LITERALS for read in readings(b)]
    flag = words.get("when")
    decide = [] if flag is None else [*readings(flag)]
    after = dict.fromkeys([read.node for read in (*reads, *decide) if type(read) is FromNode])
    return Node(
        written.name.value,
        type_,
        bindings,
        written.name.mark,
        tuple(after),
        tuple(reads),
        {name: binder.depth_of(written, name) for name in each},
        is_single=flag is None and not each and isinstance(type_, NodeType),
        **words,
    )


def _require_ports(
    binder: Binder, written: NodeSpec, label: str, ports: Mapping[str, Port]
) -> None:
    """Say which ports a node needs and is not given."""
    given: Set[str] = written.arguments.keys()
    if (through := written.reserved.get("each")) and isinstance(through.value.value, dict):
        given = given | through.value.value.keys()
    missing = [port for name, port in ports.items() if port.required and name not in given]
    if not missing:
        return
    # A required port that is only misspelt is one fault, reported once.
    meant = {
        w for name in given - ports.keys() for w in difflib.get_close_matches(name, ports, n=1)
    }
    for port in missing:
        if port.name not in meant:
            binder.say(
                "missing-port",
                f"{label} needs '{port.name}' ({port.type})",
                written.name.mark,
                fix=suggest(port),
            )


def _refuse_port(
    binder: Binder, label: str, type_: NodeType | Graph, name: str, pair: Pair
) -> None:
    """Say that a node has no such port, and what to write in its place."""
    ports = type_.inputs if isinstance(type_, NodeType) else type_.ports
    now = type_.renamed.get(name) if isinstance(type_, NodeType) else None
    why = f"its ports are: {', '.join(ports)}" if ports else "it has no input ports"
    binder.say(
        "unknown-port",
        f"{label} has no input port '{name}'",
        pair.key.mark,
        why="this port was replaced" if now else why,
        fix=f"write {now}" if now else only_suggestion(binder.nearest(name, ports)),
    )
    binder.scan(pair.value)


def _each(
    binder: Binder, written: NodeSpec, type_: NodeType | Graph | None, ports: dict[str, Port]
) -> dict[str, Binding]:
    label = str(written.type.value)
    pair = written.reserved.get("each")
    if pair is None:
        return {}
    if not isinstance(pair.value.value, dict) or not pair.value.value:
        binder.say(
            "bad-shape",
            f"'each' takes a mapping of ports to lists, not {describe(plain(pair.value))}",
            pair.value.mark,
            fix='write each: {port: "${list}"}',
        )
        return {}
    bound = {}
    for name, item in pair.value.value.items():
        port = ports.get(name)
        if type_ is None:
            binder.scan(item.value)
        elif port is None:
            _refuse_port(binder, label, type_, name, item)
        else:
            depth = binder.depth_of(written, name)
            binding = binder.per_element(
                item.value, port.type, f"'each' of port '{name}' of {label}", depth
            )
            if binding is not None:
                bound[name] = binding
    return bound


def _reserved(binder: Binder, written: NodeSpec, type_: NodeType | Graph | None) -> dict[str, Any]:
    """Check the reserved words of a node and return them as fields of Node."""
    words = written.reserved
    if not words:
        return {}
    if isinstance(type_, Graph):
        for word in sorted(_OF_STEPS & words.keys()):
            binder.say(
                "bad-setting",
                f"'{word}' has no effect on a node whose type is a graph",
                words[word].key.mark,
                severity="warning",
                fix="write it on the nodes of that graph",
            )
    found: dict[str, Any] = {}
    flag = PortType("bool")
    if type_ is not None and "each" in words:
        for _ in range(binder.depth(written.name.value)):
            flags = PortType("list", element=flag)
            flag = PortType("union", members=(PortType("bool"), flags))
    if (pair := words.get("when")) and (bound := binder.bind(pair.value, flag, "'when'")):
        found["when"] = bound
    if pair := words.get("cache"):
        binder.take(pair, PortType("bool"), "'cache'", found, "cache")
    if pair := words.get("timeout"):
        binder.take(
            pair, PortType("float", range=Range(0.001, None)), "'timeout'", found, "timeout_s"
        )
    if pair := words.get("device"):
        binder.take(pair, PortType("text"), "'device'", found, "device")
        if "device" in found and not is_device(found["device"]):
            binder.say(
                "bad-setting",
                f"there is no device '{found['device']}'",
                pair.value.mark,
                fix=nearest_device(found["device"]),
            )
    if pair := words.get("retry"):
        _retry(binder, pair, found)
    if pair := words.get("settings"):
        _settings(binder, pair, type_, found)
    if pair := words.get("repeat"):
        found["repeat"] = _repeat(binder, pair, type_)
    if pair := words.get("on_error"):
        _on_error(binder, pair, found, has_lists="each" in words or _gives_lists(found))
    return found


def _gives_lists(found: Mapping[str, Any]) -> bool:
    """Whether a node gives a list of its repetitions."""
    repeat = found.get("repeat")
    return repeat is not None and repeat.gives_lists


def _on_error(binder: Binder, pair: Pair, found: dict[str, Any], *, has_lists: bool) -> None:
    """Read what becomes of an element that fails."""
    binder.take(pair, ON_ERROR, "'on_error'", found, "on_error")
    if found.get("on_error") == "drop" and not has_lists:
        binder.say(
            "bad-shape",
            "'on_error: drop' needs a list to take elements out of",
            pair.value.mark,
            why="the node has neither 'each' nor a 'repeat' that keeps all repetitions",
            fix="write on_error: absent",
        )


def _retry(binder: Binder, pair: Pair, found: dict[str, Any]) -> None:
    """Read how often a failed node is tried again, and after how long."""
    if not isinstance(pair.value.value, dict):
        binder.take(pair, _RETRIES, "'retry'", found, "retries")
        return
    for key, item in pair.value.value.items():
        if key == "times":
            binder.take(item, _RETRIES, "'retry.times'", found, "retries")
        elif key == "backoff_s":
            binder.take(item, _BACKOFF, "'retry.backoff_s'", found, "backoff_s")
        else:
            binder.say(
                "unknown-key",
                f"'retry' has no key '{key}'",
                item.key.mark,
                fix=binder.nearest(key, ("times", "backoff_s")),
            )


def _settings(
    binder: Binder, pair: Pair, type_: NodeType | Graph | None, found: dict[str, Any]
) -> None:
    """Read a node's own settings; one that its type does not use is a problem."""
    if not isinstance(pair.value.value, dict):
        binder.say(
            "bad-shape",
            f"'settings' takes a mapping, not {describe(plain(pair.value))}",
            pair.value.mark,
            fix="write settings: {dtype: float32}",
        )
        return
    for key, item in pair.value.value.items():
        if key == "dtype":
            binder.take(item, DTYPE, "'settings.dtype'", found, "dtype")
        elif key not in LOADING:
            binder.say(
                "bad-setting",
                f"a node has no setting '{key}'",
                item.key.mark,
                fix=binder.nearest(key, ("dtype", *LOADING)),
            )
        elif isinstance(type_, NodeType) and not type_.uses_setting(key):
            used = [name for name in LOADING if type_.uses_setting(name)]
            why = (
                f"of these settings it supports {', '.join(used)}"
                if used
                else "it supports none of these settings"
            )
            binder.say(
                "bad-setting",
                f"'{key}' has no effect on {type_.name}",
                item.key.mark,
                why=why,
                fix=(
                    "remove it here; in the settings of the graph it applies to the nodes"
                    " that support it"
                ),
            )
        else:
            settings = found.setdefault("settings", {})
            if not takes_itself(binder, item, f"'settings.{key}'", settings):
                binder.take(item, LOADING[key], f"'settings.{key}'", settings, key)


def _repeat(binder: Binder, pair: Pair, type_: NodeType | Graph | None) -> Repeat | None:
    if isinstance(type_, NodeType):
        binder.say(
            "bad-shape",
            "'repeat' is for nodes whose type is a graph",
            pair.key.mark,
            why=f"{type_.name} is a plugin's node type",
            fix="put the node into a graph file of its own",
        )
        return None
    form = "write repeat: {times: 4, keep: {best: score}} or {times: 4, until: accepted}"
    if not isinstance(pair.value.value, dict):
        found: dict[str, Any] = {}
        binder.take(pair, _TIMES, "'repeat'", found, "times")
        return Repeat(found["times"], None) if found else None
    found = {"best": None}
    for key, item in pair.value.value.items():
        written = item.value.value
        if key == "times":
            binder.take(item, _TIMES, "'repeat.times'", found, "times")
        elif key == "until":
            found["until"] = _output(binder, item.value, type_, PortType("bool"), "'until'")
        elif key == "keep" and written == "last":
            found["last"] = True
        elif key == "keep" and isinstance(written, dict) and set(written) == {"best"}:
            best = written["best"].value
            found["best"] = _output(binder, best, type_, PortType("number"), "'keep: best'")
        elif key == "keep":
            binder.say(
                "bad-literal",
                f"'keep' takes last, or best with an output, not {describe(plain(item.value))}",
                item.value.mark,
                fix="write keep: last or keep: {best: score}; without 'keep' all are kept, as lists",
            )
        else:
            binder.say("unknown-key", f"'repeat' has no key '{key}'", item.key.mark, fix=form)
    if "times" not in pair.value.value:
        why = "it is how often the graph is run at most" if "until" in pair.value.value else ""
        binder.say("missing-key", "'repeat' needs 'times'", pair.key.mark, why=why, fix=form)
    if "until" in found and type_ is not None and ROUNDS in type_.outputs:
        binder.say(
            "name-clash",
            f"the graph has an output '{ROUNDS}', and 'until' gives one of this name",
            pair.value.value["until"].key.mark,
            why=f"'{ROUNDS}' is how often the graph was run",
            fix="rename the output of the graph",
        )
    return Repeat(**found) if "times" in found else None


def _output(binder: Binder, word: Word, type_: Graph | None, wanted: PortType, what: str) -> str:
    """Read the name of an output of a graph that decides about its repetitions."""
    name = (
        word.value
        if isinstance(word.value, str)
        else reference_text(word.value)
        if isinstance(word.value, Reference)
        else ""
    )
    port = type_.outputs.get(name) if type_ is not None else None
    if type_ is not None and (port is None or not isinstance(word.value, str)):
        binder.say(
            "unknown-output",
            f"the graph has no output '{name}'"
            if isinstance(word.value, str)
            else f"{what} takes the name of an output of the graph, not {describe(plain(word))}",
            word.mark,
            fix=f"write '{name}'"
            if port is not None
            else binder.nearest(name, type_.outputs, what="its outputs are"),
        )
    elif type_ is not None and port is not None and not fits(port.type, wanted):
        binder.say(
            "type-mismatch",
            f"{what} takes {wanted.words}, and output '{name}' is {port.type}",
            word.mark,
            fix=binder.nearest(
                "",
                [other for other, has in type_.outputs.items() if fits(has.type, wanted)],
                what="outputs that fit are",
            ),
        )
    return name


def is_device(name: str) -> bool:
    kind, _, index = name.partition(":")
    return name in ("auto", "cpu", "mps", "cuda") or (kind == "cuda" and index.isdigit())
