"""Compare what a replayed run gave with what a picture records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._provenance.document import InputSeen, Provenance
from .._system.dataclass import dataclass

__all__ = ["Comparison", "Drift", "compare"]


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between then and now: `ingredient` is its kind, `what` describes it."""

    ingredient: str
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return (
            f"{self.what}: was {self.then}, is {self.now}" if self.then != self.now else self.what
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the same value came out and, if not, the differences in the order of the steps: the
    first one is the likely cause.
    """

    identical: bool
    drifts: tuple[Drift, ...]

    def __str__(self) -> str:
        if self.identical:
            return "identical"
        return "\n".join(
            [
                "not identical",
                *(
                    f"  {'first difference: ' if i == 0 else 'then: '}{d}"
                    for i, d in enumerate(self.drifts)
                ),
            ]
        )


def compare(then: Provenance, now: Provenance) -> Comparison:
    """Compare two documents of the same output: whether the value is the same and, if not, which
    ingredients differ, the first one first.

    The order is that of the steps; within a step, inputs come before models, models before plugins,
    plugins before libraries, and libraries before device and dtype. A step that gives another
    result from the same ingredients is a difference of its own, with what differs about the
    machine.
    """
    identical = then.output.digest == now.output.digest
    return Comparison(identical, () if identical else tuple(_drifts(then, now)))


def _drifts(then: Provenance, now: Provenance) -> Iterator[Drift]:
    if then.provenance == "full" == now.provenance:
        yield from _input_drifts(then, now)
    fingerprints = {m.reference: m.fingerprint for m in now.models}
    for model in then.models:
        if fingerprints.get(model.reference, model.fingerprint) != model.fingerprint:
            yield Drift(
                "model",
                f"the model '{model.reference}'",
                model.fingerprint[:8],
                fingerprints[model.reference][:8],
            )
    then_steps = {(s.node, s.item): s for s in then.steps}
    then_outputs = {d for s in then.steps for d in s.outputs.values()}
    reported: set[tuple[str, ...]] = set()
    drifted = False
    for step in now.steps:
        old = then_steps.get((step.node, step.item))
        if old is None:
            drifted = True
            yield Drift("graph", f"{step.node}{step.item} was not part of it", "absent", "a step")
            continue
        then_maker, now_maker = then.made_with[old.made_with], now.made_with[step.made_with]
        for drift in _step_drifts(then_maker, now_maker, step.node):
            drifted = True
            if (drift.ingredient, drift.what) not in reported:
                reported.add((drift.ingredient, drift.what))
                yield drift
        if old.key == step.key and old.outputs != step.outputs:
            yield from _machine_drifts(then, now, old, step)
            return  # all that follows differs because of it
        ports = sorted(
            p
            for p in step.inputs
            if old.inputs.get(p) != step.inputs[p] and old.inputs.get(p) not in then_outputs
        )
        if ports and not drifted and then.provenance == "keys":
            yield Drift(
                "input",
                f"the input {' and '.join(ports)} of {step.node}{step.item}",
                "another value",
                "this one",
            )
    if now.output.index != then.output.index or now.output.name != then.output.name:
        yield Drift("output", "it is another output", f"{then.output.name}", f"{now.output.name}")
    yield from _name_drifts(then, now)


def _input_drifts(then: Provenance, now: Provenance) -> Iterator[Drift]:
    for name in sorted(then.inputs.keys() | now.inputs.keys()):
        a, b = then.inputs.get(name), now.inputs.get(name)
        if a is None or b is None:
            yield Drift(
                "input",
                f"the input '{name}'",
                "absent" if a is None else _describe_input(a),
                "absent" if b is None else _describe_input(b),
            )
        elif (a.value, [f.digest for f in a.files or ()], a.model) != (
            b.value,
            [f.digest for f in b.files or ()],
            b.model,
        ):
            kind = "seed" if name in then.seeds else "input"
            yield Drift(kind, f"the {kind} '{name}'", _describe_input(a), _describe_input(b))
    for name in sorted(then.files.keys() & now.files.keys()):
        if then.files[name].digest != now.files[name].digest:
            yield Drift(
                "file",
                f"the file '{name}'",
                then.files[name].digest[:8],
                now.files[name].digest[:8],
            )
    if then.graph and now.graph and then.graph.files != now.graph.files:
        yield Drift("graph", "the text of the graph differs", "", "")


def _name_drifts(then: Provenance, now: Provenance) -> Iterator[Drift]:
    """Yield files of equal content under other names, which count only where a node asks for them."""
    for name in sorted(then.inputs.keys() & now.inputs.keys()):
        a, b = then.inputs[name], now.inputs[name]
        if [f.digest for f in a.files or ()] == [f.digest for f in b.files or ()] and (
            [f.significant_name or f.name for f in a.files or ()]
            != [f.significant_name or f.name for f in b.files or ()]
        ):
            what = f"the name of the file for '{name}'"
            yield Drift("input", what, _describe_input(a), _describe_input(b))


def _step_drifts(then: Any, now: Any, node: str) -> Iterator[Drift]:
    if then.type != now.type:
        yield Drift("plugin", f"the type of node '{node}'", then.type, now.type)
    elif then.version != now.version:
        yield Drift(
            "plugin",
            f"the version of the node type {now.type}",
            str(then.version),
            str(now.version),
        )
    elif then.source != now.source:
        yield Drift(
            "plugin",
            f"the source of the plugin with {now.type}",
            then.source[:8],
            now.source[:8],
        )
    for library in sorted(then.uses.keys() | now.uses.keys()):
        if then.uses.get(library) != now.uses.get(library):
            yield Drift(
                "library",
                f"the library {library}",
                then.uses.get(library, "absent"),
                now.uses.get(library, "absent"),
            )
    for setting in sorted((then.determinism or {}).keys() | (now.determinism or {}).keys()):
        a, b = (then.determinism or {}).get(setting), (now.determinism or {}).get(setting)
        if a != b:
            yield Drift("device", f"the {setting}", str(a), str(b))


def _machine_drifts(then: Provenance, now: Provenance, old: Any, new: Any) -> Iterator[Drift]:
    """Yield what differs about the machine where a step gave another result."""
    a = then.conditions[old.conditions] if old.conditions is not None and then.conditions else {}
    b = now.conditions[new.conditions] if new.conditions is not None and now.conditions else {}
    conditions = [w for w in sorted(a.keys() & b.keys()) if a[w] != b[w]]
    for condition in conditions:
        yield Drift(
            "machine", f"{condition} where {new.node} ran", str(a[condition]), str(b[condition])
        )
    if old.rungs != new.rungs:
        yield Drift(
            "machine",
            f"the memory fallbacks used by {new.node}",
            ", ".join(old.rungs) or "nothing",
            ", ".join(new.rungs) or "nothing",
        )
    yield Drift(
        "result", f"{new.node}{new.item} gives another result from the same ingredients", "", ""
    )


def _describe_input(recorded: InputSeen) -> str:
    if recorded.files is not None:
        return ", ".join(f"{f.name} ({f.digest[:8]})" for f in recorded.files)
    text = recorded.model if recorded.model is not None else repr(recorded.value)
    return text if len(text) <= 60 else text[:57] + "…"
