"""Say what must be known before an output of a node can be: in a run, what comes next; in a plan,
what certainly runs.

What is demanded is decided by output, in stages, each only once the one before is known: a node's
`when`; the lists of its `each`; what its ports read, unless nothing of it is left to run (of an
included graph:
the inputs that must be known first); what is in the graph, as far as the output needs it, with
`keep` the scores first and then the best repetition alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .._graph import (
    Binding,
    FromInput,
    FromNode,
    Graph,
    Listed,
    Node,
    PerElement,
    element_of,
    readings,
)
from ..errors import GraphError
from .elements import Elements, elements, is_off
from .state import State, is_first
from .step import Frame, NodeOutput, Unknown

__all__ = ["Demand", "demand_of", "demands", "outputs_of"]


def outputs_of(frame: Frame) -> list[NodeOutput]:
    """Give what a graph's outputs come from, each once."""
    sources = dict.fromkeys(
        o.source for o in frame.graph.outputs.values() if isinstance(o.source, FromNode)
    )
    return [(frame, frame.graph.nodes[s.node], s.port) for s in sources]


def demands(
    state: State, frame: Frame, node: Node, port: str, *, later: list[NodeOutput] | None = None
) -> list[NodeOutput]:
    """Say what must be known next before this output of a node can be; nothing if it can be worked
    out now.

    Params:
        later: takes what may be demanded after that.
    """
    if node.is_single:
        return _missing(state, frame, node.reads)
    now: list[NodeOutput] = []
    if node.when is not None:
        now = _missing(state, frame, readings(node.when))
    if not now:
        if is_off(state.values, frame, node):
            return []
        looked: list[Binding] = []
        try:
            found = elements(state.values, frame, node, looked)
        except (GraphError, ValueError):
            found = None  # settling it says what is wrong
        now = [one for binding in looked for one in _missing(state, frame, readings(binding))]
    if now:
        if later is not None:
            later += _missing(state, frame, node.reads)
            _inside(state, frame, node, port, later, later, may_enter=True)
        return now
    if not isinstance(found, Elements) or len(found.places) == len(found.off):
        return []
    for binding_name, binding in node.bindings.items():
        is_each = binding_name in node.each
        if isinstance(node.type, Graph) and not is_first(node.type.inputs[binding_name]):
            continue
        if is_each and isinstance(binding, Listed | PerElement):
            now += [
                output
                for place in found.running(node.each[binding_name])
                for output in _missing(state, frame, readings(element_of(binding, place)))
            ]
        else:
            now += _missing(state, frame, readings(binding))
    if not now:
        _inside(state, frame, node, port, now, later)
    elif later is not None:
        _inside(state, frame, node, port, later, later, may_enter=True)
    return now


def _inside(
    state: State,
    frame: Frame,
    node: Node,
    port: str,
    now: list[NodeOutput],
    later: list[NodeOutput] | None,
    *,
    may_enter: bool = False,
) -> None:
    """Say what is demanded in the graphs below a node: those that are entered, and with `may_enter`
    those that may be.
    """
    if not isinstance(node.type, Graph):
        return
    repeat, outputs = node.repeat, node.type.outputs
    #: What gives the output; how many repetitions there are is read of none of them.
    wanted = (outputs[port].source,) if port in outputs else ()
    scores = (outputs[repeat.best].source,) if repeat and repeat.best and wanted else ()
    for group in frame.below.get(node.name, {}).values():
        if not (group[0].entered or may_enter):
            continue
        is_open = False
        deciding: list[NodeOutput] = []
        if repeat is not None and repeat.until is not None and len(group) < repeat.times:
            deciding = _missing(state, group[-1], (outputs[repeat.until].source,))
            # Settling it begins the next, or says what is wrong.
            is_open = bool(deciding) or not _is_over(state, node, group)
        if not is_open:
            deciding = [one for child in group for one in _missing(state, child, scores)]
        now += deciding
        if not (is_open or deciding):
            for child in state.kept(node, group):
                now += _missing(state, child, wanted)
        elif later is not None:
            later += [one for child in group for one in _missing(state, child, (*scores, *wanted))]


def _is_over(state: State, node: Node, group: list[Frame]) -> bool:
    try:
        return state.is_over(node, group) is True
    except ValueError:
        return False


def _missing(state: State, frame: Frame, reads: Iterable[FromNode | FromInput]) -> list[NodeOutput]:
    """Name the outputs of nodes, beside a node or around its graph, that are read and not known."""
    found: list[NodeOutput] = []
    for read in reads:
        if isinstance(read, FromNode):
            known = frame.states.get(read.node)
            if known is None or read.port not in known.outputs:
                found.append((frame, frame.graph.nodes[read.node], read.port))
        elif read.name not in frame.inputs and _is_unknown(state, frame, read):
            assert frame.parent is not None
            outer, node = frame.parent
            binding = node.bindings[read.name]
            if read.name in node.each:
                place = frame.element and frame.element[: node.each[read.name]]
                binding = element_of(binding, place)
            found += _missing(state, outer, readings(binding))
    return found


def _is_unknown(state: State, frame: Frame, read: FromInput) -> bool:
    """Whether the value of an input is not known yet. One that cannot be made is: whoever reads it
    says what is wrong.
    """
    try:
        return isinstance(state.values.bind(frame, read), Unknown)
    except (GraphError, ValueError):
        return False


def _named(outputs: list[NodeOutput]) -> str:
    """Name nodes in few words."""
    names = list(dict.fromkeys(frame.full(node.name) for frame, node, _ in outputs))
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} others"


class Demand(NamedTuple):
    """What a run is going to ask for: nodes by frame; and what it may ask for, with the names of
    the nodes that decide about it.
    """

    certain: set[tuple[int, str]]
    possible: dict[tuple[int, str], str]


def demand_of(state: State) -> Demand:
    """Go back from the outputs through all that is not known."""
    found = Demand(set(), {})
    seen: set[tuple[int, str, str]] = set()
    certain = [output for top in state.tops for output in outputs_of(top)]
    possible: list[tuple[NodeOutput, str]] = []
    while certain or possible:
        (frame, node, port), because = (certain.pop(), "") if certain else possible.pop()
        at = (id(frame), node.name, port)
        known = frame.states.get(node.name)
        if at in seen or known is None or port in known.outputs:
            continue
        seen.add(at)
        later: list[NodeOutput] = []
        now = (
            _missing(state, frame, node.reads)
            if node.is_single
            else demands(state, frame, node, port, later=later)
        )
        if because:
            found.possible.setdefault(at[:2], because)
            possible += [(output, because) for output in now]
        else:
            found.certain.add(at[:2])
            certain += now
        if later:
            because = because or _named(now)
            possible += [(output, because) for output in later]
    return found
