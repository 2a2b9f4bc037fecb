"""Say what becomes of steps in a run, and why: which run, which wait for what runs, and which need
not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .._types.artifact import Artifact
from .._types.node import NodeType
from .demand import demand_of
from .state import State
from .step import Step, element_part, in_records
from .values import Values

__all__ = ["explained", "plain_value", "why"]

#: How much of a value is shown.
LONGEST = 40


def why(state: State, step: Step) -> str:
    """Say why a step runs, by comparing it with what was kept when this node last ran."""
    if step.reason:
        return step.reason
    before = state.history.get(step.name + element_part(step.item))
    store = state.values.store
    if before is None or store is None:
        return "it has not run before"
    if before == step.key:
        return "the store no longer holds it"
    if (record := state.recorded(before)) is None:
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
    assert isinstance(step.node.type, NodeType)
    sources = state.keys.loader_sources(step.node.type, step.slots or {})
    if then.get("loaders", {}) != sources:
        changed.append("the plugin that loads its model changed")
    inputs = record.provenance.get("inputs", {})
    fields = record.provenance.get("fields", {})
    other: list[str] = []
    for port, slot in sorted((step.slots or {}).items()):
        if inputs.get(port) != slot.digest:
            messages = _fields_changed(state, slot, port, fields)
            changed += [one for one in messages if ":" in one]
            other += [one for one in messages if ":" not in one]
    if other:
        changed.append(" and ".join(f"'{name}'" for name in other) + " changed")
    return ", ".join(changed) or "what it depends on changed"


def _fields_changed(state: State, slot: Artifact, port: str, then: Mapping[str, Any]) -> list[str]:
    """Name the fields of a port's records that are others than they were, with their values if these
    are known; else the port.
    """
    now = dict(in_records(slot, port))
    if now.keys() != {n for n in then if n.startswith((f"{port}.", f"{port}["))}:
        return [port]
    messages = []
    for name, field in now.items():
        if then[name]["digest"] != field.digest:
            value = plain_value(state.values, field)
            messages.append(
                f"{name}: {_shown(then[name]['value'])} → {_shown(value)}"
                if "value" in then[name] and value is not None
                else name
            )
    return messages or [port]


def plain_value(values: Values, slot: Artifact) -> Any:
    """Give a number, text or flag that the plan knows; None for anything else."""
    if slot.kind not in ("int", "float", "bool", "text"):
        return None
    return values.constants.by_digest.get(slot.digest)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}…"


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
