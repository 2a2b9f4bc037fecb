"""Say why steps run, and which need not."""

from __future__ import annotations

from collections.abc import Iterable

from ..graph import FromNode
from .planner import Planner
from .step import Frame, Step, is_settled

__all__ = ["explain", "why"]


def why(planner: Planner, step: Step) -> str:
    """Say why a step runs, by comparing it with what was kept when this node last ran."""
    if step.reason:
        return step.reason
    before = planner.history.get(f"{step.name}{step.item}")
    if before is None or planner.values.store is None:
        return "it has not run before"
    if before == step.key:
        return "the store no longer holds it"
    record = planner.values.store.lookup(before)
    if record is None:
        return "what it depends on changed"
    then = record.provenance.get("made_with", {})
    now = planner.keys.computes_with(step.node)
    changed = []
    if then.get("type") != now["type"]:
        changed.append(f"its type was {then.get('type')}")
    if then.get("version") != now["version"]:
        changed.append(f"{now['type']} is now version {now['version']}")
    elif then.get("source") != now["source"]:
        changed.append("its plugin's source changed")
    for library, version in now["uses"].items():
        if (old := then.get("uses", {}).get(library)) != version:
            changed.append(f"{library} went from {old} to {version}")
    if then.get("determinism") != now["determinism"]:
        changed.append("the device or dtype changed")
    inputs = record.provenance.get("inputs", {})
    ports = sorted(p for p, slot in (step.slots or {}).items() if inputs.get(p) != slot.digest)
    if ports:
        changed.append(" and ".join(f"'{p}'" for p in ports) + " changed")
    return ", ".join(changed) or "what it depends on changed"


def explain(planner: Planner, frame: Frame, steps: Iterable[Step]) -> None:
    """Say why steps run, and mark those that need not: not in the store, but nothing that runs asks for them."""
    demanded: set[int] = set()
    _demand(frame, {o.source.node for o in frame.graph.outputs.values() if isinstance(o.source, FromNode)}, demanded)
    for step in steps:
        if step.status == "runs" and id(step) not in demanded:
            step.status, step.reason = "idle", "nothing that runs needs it"
        elif step.status == "runs":
            step.reason = why(planner, step)


def _demand(frame: Frame, wanted: set[str], demanded: set[int]) -> None:
    """Collect the steps that a run would visit, going back from the wanted nodes through all that is not cached."""
    for name in reversed(frame.graph.nodes):
        if name not in wanted:
            continue
        node, state = frame.graph.nodes[name], frame.states[name]
        demanded.update(id(s) for s in state.steps)
        for child in state.frames:
            _demand(child, {o.source.node for o in child.graph.outputs.values() if isinstance(o.source, FromNode)}, demanded)
        if not is_settled(state):
            wanted.update(node.after)
