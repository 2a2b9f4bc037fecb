"""Complete what a binding gives to what a port takes: the model that a text names, the fields that
a record leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _models as models
from .._graph import (
    Binding,
    ElementOf,
    FromInput,
    Listed,
    Node,
    PerElement,
    RecordOf,
    element_of,
    parts_of,
)
from .._types.artifact import Artifact
from .._types.models import Loader
from .._types.node import NodeType
from .._types.ports import PortType
from .step import ABSENT, Frame, Unknown, list_of, record_of
from .values import Values

__all__ = ["complete_records", "known_models", "name_model"]


def name_model(
    values: Values,
    frame: Frame,
    binding: Binding | None,
    slot: Artifact,
    node: Node,
    loader: Loader[Any] | None,
) -> Artifact:
    """Resolve the models that texts name at a port of models."""
    if slot.items is not None:
        bindings = binding.items if isinstance(binding, Listed) else [binding] * len(slot.items)
        return list_of(
            [
                name_model(values, frame, one, item, node, loader)
                for one, item in zip(bindings, slot.items, strict=True)
            ]
        )
    return (
        values.constants.add(
            models.with_significant_name(
                loader,
                values.models.resolve(values.value(slot), _home(values, frame, binding), node.mark),
            )
        )
        if slot.kind == "text"
        else slot
    )


def complete_records(
    values: Values,
    frame: Frame,
    binding: Binding | None,
    slot: Artifact,
    port: PortType,
    node: Node,
) -> Artifact:
    """Complete the records that a port of records receives: a value that is none is a first
    field, and a field that is left out or absent has its default. A field that has none stays
    absent.
    """
    if slot.kind in ("absent", "failed") or (port.optional and _is_nothing(values, slot)):
        return slot
    if port.element is not None:
        items = slot.items
        if items is None:  # it is refused when the node is called
            return slot
        bindings = binding.items if isinstance(binding, Listed) else [binding] * len(items)
        return list_of(
            [
                complete_records(values, frame, one, item, port.element, node)
                for one, item in zip(bindings, items, strict=True)
                if item.kind != "absent"
            ]
        )
    record = port.record
    if record is None:
        return slot
    if slot.kind == "record":
        given = dict(zip(slot.fields, slot.items or (), strict=True))
        bound = dict(binding.fields) if isinstance(binding, RecordOf) else {}
    else:
        given = {record.first.name: slot}
        bound = {record.first.name: binding} if binding is not None else {}
    fields: list[tuple[str, Artifact]] = []
    for name, field in record.fields.items():
        one = given.get(name, ABSENT)
        if one.kind == "absent" and not field.required:
            one = values.port_default(field)
        elif one.kind != "failed":
            if field.type.lends is not None:
                one = name_model(values, frame, bound.get(name), one, node, field.type.lends)
            one = values.converted(one, field.type)
        fields.append((name, one))
    return record_of(fields)


def known_models(
    values: Values, frame: Frame, node: Node, type_: NodeType, port: str
) -> Artifact | None:
    """Give what is known of a port that takes models, or records with models: as much of the
    records as is written, whatever else of them is not known yet.
    """
    binding, wanted = node.bindings.get(port), type_.inputs[port]
    if binding is None:
        return None if wanted.required else values.port_default(wanted)
    written: Sequence[Binding] = (binding,)
    if port in node.each and isinstance(binding, Listed | PerElement):
        written = parts_of(binding)
    is_list = written == (binding,) and port in node.each
    found: list[Artifact] = []
    for one in written:
        if port in type_.records:
            one = _with_models_alone(one, wanted.type)
        slot = values.bind(frame, one)
        if isinstance(slot, Unknown):
            continue
        for item in (slot.items or ()) if is_list else (slot,):
            if item.kind in ("absent", "failed"):
                continue
            if port in type_.records:
                found.append(complete_records(values, frame, one, item, wanted.type, node))
            else:
                found.append(name_model(values, frame, one, item, node, type_.loaders[port]))
    return found[0] if len(found) == 1 else list_of(found) if found else None


def _is_nothing(values: Values, slot: Artifact) -> bool:
    return slot.kind == "json" and values.constants.by_digest.get(slot.digest, ABSENT) is None


def _home(values: Values, frame: Frame, binding: Binding | None) -> Path:
    """The folder that a path in a text starts from: that of the graph in which it is written,
    or `base` if it was given from outside.
    """
    while isinstance(binding, ElementOf):
        binding = binding.of
    while isinstance(binding, FromInput) and binding.name not in frame.by_default:
        if frame.parent is None:
            return values.base
        name, element = binding.name, frame.element
        frame, node = frame.parent
        binding = node.bindings.get(name)
        if name in node.each and binding is not None:
            binding = element_of(binding, element and element[: node.each[name]])
    return frame.graph.folder


def _with_models_alone(binding: Binding, port: PortType) -> Binding:
    """Leave out of written records the fields that take no model."""
    if isinstance(binding, Listed):
        element = port.element or port
        return Listed(tuple([_with_models_alone(item, element) for item in binding.items]))
    if not isinstance(binding, RecordOf) or port.record is None:
        return binding
    fields = port.record.fields
    return RecordOf(tuple([(n, b) for n, b in binding.fields if fields[n].type.lends is not None]))
