"""Check, digest and store what a node returned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._plan import ABSENT, State, Step, in_records, leaves, plain_value
from .._store import Store
from .._types.artifact import Artifact
from .._types.node import NodeType
from .._types.ports import BadValue
from .._types.values import Absent
from ..errors import ImagenFlowError
from .call import CallResult
from .value_cache import ValueCache

__all__ = ["Results"]


class Results:
    """Turns the results of calls into records of the store and values in memory."""

    def __init__(self, state: State, store: Store, cache: ValueCache) -> None:
        self._state = state
        self._store = store
        self._cache = cache

    def keep(self, step: Step, call: CallResult) -> dict[str, Artifact]:
        """Check, digest and store the result of a node."""
        node_type = step.node.type
        assert isinstance(node_type, NodeType) and step.key is not None
        names = node_type.outputs
        results = call.result if node_type.named_outputs else (call.result,)
        if not isinstance(results, tuple) or len(results) != len(names):
            raise ImagenFlowError(
                f"it returned {type(results).__name__} instead of its outputs {', '.join(names)}"
            )
        outputs_with_values = {
            name: self._check_output(node_type, name, value)
            for name, value in zip(names, results, strict=True)
        }
        if step.node.cache:
            inputs = {name: slot.digest for name, slot in (step.slots or {}).items()}
            made_with = self._state.keys.computes_with(step.node)
            if sources := self._state.keys.loader_sources(node_type, step.slots or {}):
                made_with = {**made_with, "loaders": sources}
            provenance: dict[str, Any] = {
                "made_with": made_with,
                "inputs": inputs,
                "took_s": round(call.took_s, 6),
            }
            if node_type.records:
                provenance["fields"] = self._record_fields(step)
            if node_type.uses_torch:
                provenance |= {
                    "conditions": dict(call.conditions),
                    "rungs": list(call.memory_levels),
                }
            if call.notes:
                provenance["notes"] = list(call.notes)
            self._store.keep(step.key, outputs_with_values, provenance)
        outputs = {name: artifact for name, (artifact, _) in outputs_with_values.items()}
        lost = self._state.keying.lost
        if lost:
            lost.difference_update(
                leaf.digest for artifact in outputs.values() for leaf in leaves(artifact)
            )
        if "scratch" in node_type.injected.values():
            if step.node.cache:
                self._store.flush()
            self._store.drop_scratch(step.key)
        return outputs

    def _record_fields(self, step: Step) -> dict[str, Any]:
        """Describe the fields of the records that a step received, so that the next plan can name
        those that changed.
        """
        found: dict[str, Any] = {}
        for port, slot in (step.slots or {}).items():
            for name, field in in_records(slot, port):
                found[name] = {"digest": field.digest}
                if (value := plain_value(self._state.values, field)) is not None:
                    found[name]["value"] = value
        return found

    def _check_output(self, type_: NodeType, name: str, value: Any) -> tuple[Artifact, Any]:
        """Check and digest one output, and hold it in memory."""
        if value is Absent or value is Absent.value:
            return ABSENT, Absent.value
        wanted = type_.outputs[name].type
        try:
            value = wanted.check(wanted.name_files(value))
        except BadValue as error:
            raise ImagenFlowError(
                f"its output '{name}' {error}".replace(
                    "takes the output of a node that gives", "takes"
                ).replace("takes", "must be")
                + (f"\n  = fix: return {error.instead}" if error.instead else "")
            ) from None
        value = self._store.adopt(value)
        artifact = self._state.values.codecs.artifact(value)
        if artifact.items is None:
            self._cache.add(artifact.digest, value)
        else:
            for leaf, item in zip(leaves(artifact), _flat(artifact, value), strict=True):
                self._cache.add(leaf.digest, item)
        return artifact, value


def _flat(artifact: Artifact, value: Any) -> Iterator[Any]:
    if artifact.items is None:
        yield value
    else:
        for item, element in zip(artifact.items, value, strict=True):
            yield from _flat(item, element)
