"""Key one step: gather what its ports receive, see that its models can be used, and ask the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from inspect import signature
from typing import Any

from .._graph import Binding, FromNode, Listed, ModelAt, Node, Place, RecordOf, element_of
from .._models import UnresolvedModel
from .._types.artifact import Artifact
from .._types.digest import SIZE
from .._types.models import Model
from .._types.node import NodeType, Upstream
from ..errors import ModelError, Problem
from .keys import Keys
from .port_values import complete_records, known_models, name_model
from .step import (
    FAILED,
    Frame,
    Slot,
    Step,
    Unknown,
    after_error,
    at_port,
    holds,
    in_records,
    item_of,
    leaves,
    list_of,
    without_value,
)
from .values import Values

__all__ = ["FORCED", "Keying"]

FORCED = "it is forced"

#: Kinds of values that a node type may look at in its plan-time check.
_PLAIN = frozenset({"int", "float", "bool", "text", "json"})

_UNKNOWN: Any = object()


class Keying:
    """Makes steps of nodes."""

    def __init__(self, values: Values, keys: Keys, *, force: Iterable[str] = ()) -> None:
        self.values = values
        self.keys = keys
        self.force = frozenset(force)
        #: Values that the store did not have although it said so: records that name them are not
        # believed.
        self.lost: set[str] = set()
        #: Keys of forced steps that run: others that have them are the same step, so they are
        # forced too.
        self.forced: set[str] = set()

    def copy(self, values: Values) -> Keying:
        made = Keying(values, self.keys.copy(values), force=self.force)
        made.lost = set(self.lost)
        made.forced = set(self.forced)
        return made

    def step(
        self,
        frame: Frame,
        node: Node,
        element: Place | None = None,
        elements: Mapping[str, Slot] | None = None,
    ) -> Step:
        """Key one node for one element of its `each` (`elements` says what its ports receive of
        it), and ask the store.
        """
        type_ = node.type
        assert isinstance(type_, NodeType)
        name = frame.full(node.name)
        item = frame.item if element is None else item_of(frame, element)
        slots: dict[str, Artifact] = {}
        #: The models in records of which something else is not known yet.
        early: dict[str, Artifact] = {}
        lines = [self.keys.prefix(node)]
        waits: list[str] = []
        absent = failed = ""
        bindings = node.bindings
        paired = self._paired(frame, node, type_, elements or {}) if type_.paired else {}
        for port_name, port, default in self.keys.ports(type_):
            slot: Slot | None
            binding = bindings.get(port_name)
            if elements and port_name in elements:
                slot = elements[port_name]
                binding = binding and element_of(
                    binding, element and element[: node.each.get(port_name, 0)]
                )
            else:
                slot = default if binding is None else self.values.bind(frame, binding)
            slot = paired.get(port_name, slot)
            if isinstance(slot, Unknown):
                waits += slot.after
                if port_name in type_.records:
                    known = known_models(self.values, frame, node, type_, port_name)
                    if known is not None:
                        early[port_name] = known
                continue
            if slot is None or slot.kind == "absent":
                if default is None:
                    absent = absent or port_name
                    continue
                slot = default
            elif port_name in type_.records:
                slot = complete_records(self.values, frame, binding, slot, port.type, node)
                fields = list(in_records(slot, port_name))
                lacking = next((name for name, field in fields if field.kind == "absent"), "")
                if lacking:
                    absent = absent or lacking
                    continue
                if slot.kind == "failed" or holds(slot, "failed"):
                    failed = failed or next(
                        (
                            name
                            for name, field in fields
                            if field.kind == "failed" or holds(field, "failed")
                        ),
                        port_name,
                    )
                    continue
            elif slot.kind == "failed" or (slot.items is not None and holds(slot, "failed")):
                failed = failed or port_name
                continue
            elif slot.kind != port.type.kind or slot.items is not None or slot.kind == "file":
                if "model" in (port.type.kind, port.type.element and port.type.element.kind):
                    slot = name_model(
                        self.values, frame, binding, slot, node, type_.loaders.get(port_name)
                    )
                slot = self.values.converted(slot, port.type)
            slots[port_name] = slot
            lines.append(f"{port_name}={slot.digest}")
        if absent:
            return Step(
                name,
                item,
                node,
                element,
                "absent",
                f"its '{absent}' is absent",
                outputs=None if waits else dict.fromkeys(type_.outputs, without_value("absent")),
            )
        unresolved = self._unusable(node, type_, {**early, **slots}) if type_.loaders else ""
        if failed:
            return Step(
                name,
                item,
                node,
                element,
                "skipped",
                f"the source of its '{failed}' failed",
                outputs=None
                if waits
                else dict.fromkeys(type_.outputs, after_error(FAILED, node.on_error)),
            )
        if type_.plan_check is not None and (
            why := self._check_models(frame, node, type_.plan_check, slots)
        ):
            return Step(name, item, node, element, "unresolved", why, slots=slots)
        if waits:
            after = tuple(dict.fromkeys(waits))
            return Step(
                name,
                item,
                node,
                element,
                "waits",
                f"unless {' and '.join(after)} {'comes' if len(after) == 1 else 'come'} out the"
                " same",
            )
        if unresolved:
            return Step(name, item, node, element, "unresolved", unresolved, slots=slots)
        if type_.loaders:
            sources = self.keys.loader_sources(type_, slots)
            lines += [f"loader of {port}={source}" for port, source in sources.items()]
        key = blake2b("\n".join(lines).encode(), digest_size=SIZE).hexdigest()
        if not node.cache:
            return Step(name, item, node, element, "runs", "it says cache: false", key, slots)
        if self.force and (key in self.forced or self._is_forced(name)):
            return Step(name, item, node, element, "runs", FORCED, key, slots)
        outputs = self.look_up(key, type_)
        return Step(
            name,
            item,
            node,
            element,
            "runs" if outputs is None else "cached",
            "",
            key,
            slots,
            outputs,
        )

    def _paired(
        self, frame: Frame, node: Node, type_: NodeType, elements: Mapping[str, Slot]
    ) -> dict[str, Artifact]:
        """Leave out of the lists of a node that pairs them what is absent in one of them, in lists of
        different length too: these are the node's to refuse.
        """
        found: dict[str, Artifact] = {}
        for port in type_.paired:
            if port in node.bindings:
                bound = elements.get(port) or self.values.bind(frame, node.bindings[port])
                if isinstance(bound, Artifact) and bound.items is not None:
                    found[port] = bound
        out = {
            i
            for slot in found.values()
            for i, item in enumerate(slot.items or ())
            if item.kind == "absent"
        }
        if not out:
            return {}
        return {
            port: list_of([item for i, item in enumerate(slot.items or ()) if i not in out])
            for port, slot in found.items()
        }

    def look_up(self, key: str, type_: NodeType) -> dict[str, Artifact] | None:
        """Ask the store for the outputs of a step."""
        record = self.values.store.lookup(key) if self.values.store is not None else None
        if record is None or record.outputs.keys() != type_.outputs.keys():
            return None
        if self.lost and any(
            leaf.digest in self.lost
            for artifact in record.outputs.values()
            for leaf in leaves(artifact)
        ):
            return None
        return dict(record.outputs)

    def _is_forced(self, name: str) -> bool:
        """Whether a step's node, or a graph around it, is among those to force; each by its own
        name or by all of them.
        """
        parts = [part.partition("[")[0] for part in name.split("/")]
        return (
            any(
                part in self.force or "/".join(parts[: i + 1]) in self.force
                for i, part in enumerate(parts)
            )
            or name in self.force
        )

    # -- models ------------------------------------------------------------------------------------

    def _unusable(self, node: Node, type_: NodeType, slots: Mapping[str, Artifact]) -> str:
        """Say why a step cannot run with its models; nothing if it can."""
        given = {
            port: found
            for port in type_.loaders
            if port in slots and (found := self.values.model_of(slots[port])) is not None
        }
        for port, loader in type_.loaders.items():
            for leaf in at_port(slots, port):
                model = self.values.model_of(leaf)
                if model is not None and (
                    why := self.values.models.unusable(
                        model, leaf.digest, loader, port, given, node, self.keys.policy
                    )
                ):
                    return why
        return ""

    def _check_models(
        self,
        frame: Frame,
        node: Node,
        check: Callable[..., None],
        slots: Mapping[str, Artifact],
    ) -> str:
        """Let a node type refuse models that do not work together, or do not do what is asked; give
        why its step cannot run, or nothing.
        """
        known = self._upstream(frame, node)
        given: list[Mapping[str, object]] = []
        if len(signature(check).parameters) > 2:
            found = {port: self._plain(slot) for port, slot in slots.items()}
            given.append({port: value for port, value in found.items() if value is not _UNKNOWN})
        try:
            check(known.models, known.upstream, *given)
        except UnresolvedModel:  # a problem of the node that names it
            return "its model is not on this machine"
        except ModelError as refused:
            problem = Problem("bad-model", str(refused), node.mark)
            if problem not in self.values.problems:
                self.values.problems.append(problem)
            return str(refused)
        return ""

    def _plain(self, slot: Artifact) -> Any:
        """Give a plain value if it is known; of a record those of its fields that are, and its
        models.
        """
        constants = self.values.constants.by_digest
        if slot.kind == "record":
            fields = zip(slot.fields, slot.items or (), strict=True)
            found = {
                name: constants.get(field.digest, _UNKNOWN)
                for name, field in fields
                if field.kind in (*_PLAIN, "model")
            }
            return {name: value for name, value in found.items() if value is not _UNKNOWN}
        if slot.items and all(item.kind == "record" for item in slot.items):
            return [self._plain(item) for item in slot.items]
        return constants.get(slot.digest, _UNKNOWN) if slot.kind in _PLAIN else _UNKNOWN

    def _upstream(self, frame: Frame, node: Node, depth: int = 8) -> Upstream:
        """Gather which models a node names, and the nodes that feed it."""
        models: dict[str, Model | tuple[Model, ...]] = {}
        upstream: dict[str, Upstream] = {}

        def model(binding: Binding) -> Model | None:
            slot = self.values.bind(frame, binding) if isinstance(binding, ModelAt) else None
            found = (
                self.values.constants.by_digest.get(slot.digest)
                if isinstance(slot, Artifact)
                else None
            )
            return (
                found
                if isinstance(found, Model)
                and found.digest != "unresolved"
                and not found.incomplete
                else None
            )

        for port, binding in _ports(node):
            if (one := model(binding)) is not None:
                models[port] = one
            elif isinstance(binding, Listed) and (
                several := tuple(filter(None, map(model, binding.items)))
            ):
                models[port] = several
            elif isinstance(binding, FromNode) and depth:
                upstream[port] = self._upstream(frame, frame.graph.nodes[binding.node], depth - 1)
        return Upstream(node.type.name, models, upstream)


def _ports(node: Node) -> Iterator[tuple[str, Binding]]:
    """Give what a node's ports are bound to, and the fields of records as ports of their own; of a
    list of records each field as a list.
    """
    for port, binding in node.bindings.items():
        yield port, binding
        if isinstance(binding, RecordOf):
            yield from ((f"{port}.{name}", item) for name, item in binding.fields)
        elif isinstance(binding, Listed):
            fields: dict[str, list[Binding]] = {}
            for record in binding.items:
                for name, item in record.fields if isinstance(record, RecordOf) else ():
                    fields.setdefault(name, []).append(item)
            yield from ((f"{port}.{name}", Listed(tuple(items))) for name, items in fields.items())
