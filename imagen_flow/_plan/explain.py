"""Say what becomes of steps in a run, and why: which run, which wait for what runs, and which need
not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .demand import demand_of
from .state import State
from .step import Step

__all__ = ["explained", "why"]


def why(state: State, step: Step) -> str:
    """Say why a step runs, by comparing it with what was kept when this node last ran."""
    if step.reason:
        return step.reason
    before = state.history.get(f"{step.name}{step.item}")
    store = state.values.store
    if before is None or store is None:
        return "it has not run before"
    if before == step.key:
        return "the store no longer holds it"
    record = store.lookup(before)
    if record is None:
        return "what it depends on changed"
    then: dict[str, Any] = record.provenance.get("made_with", {})
    now = state.keys.computes_with(step.node)
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


def explained(state: State) -> Iterator[Step]:
    """List the steps of a plan, each with what a run will make of it."""
    demand = demand_of(state)
    for frame, step in state.steps():
        if step.status not in ("runs", "waits"):
            yield step
            continue
        at = (id(frame), step.node.name)
        if at in demand.certain:
            yield step if step.status == "waits" else step._replace(reason=why(state, step))
        elif (because := demand.possible.get(at)) is None:
            yield step._replace(status="idle", reason="nothing that runs needs it")
        else:
            yield (
                step
                if step.status == "waits"
                else step._replace(status="waits", reason=f"if it is still needed after {because}")
            )
