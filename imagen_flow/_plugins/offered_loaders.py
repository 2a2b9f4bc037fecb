"""Let plugins load their own checkpoints for the ports of other plugins' node types.

A port whose loader has a `role` is open: for a checkpoint of a class that some plugin offers a
loader for, by the hook `imagen_flow_loaders`, that loader is used instead of the port's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .._system.dataclass import dataclass
from .._types import loader_answers as answers
from .._types.models import Loader, Loading, Model
from .._types.ports import Port, PortType
from ..errors import ModelError

__all__ = ["OfferedLoader", "OpenLoader", "with_open_loaders"]


@dataclass(frozen=True)
class OfferedLoader:
    """A loader that a plugin offers, and the digest of that plugin's source."""

    loader: Loader[Any]
    source_digest: str


#: The parts of an `OpenLoader` that are loaded as a whole; no part of a model has such a name.
_OFFERED, _OWN = "(offered)", "(own)"

#: Finds the loader that plugins offer for a role and a class of checkpoints.
Find = Callable[[str, str], OfferedLoader | None]


class OpenLoader(Loader[Any]):
    """Loads a model with the loader that a plugin offers for it, if there is one, or with the
    port's own.
    """

    def __init__(self, own: Loader[Any], find: Find) -> None:
        self.own, self.find = own, find
        self.settings, self.takes_file, self.role = own.settings, own.takes_file, own.role

    def offered_for(self, model: Model) -> OfferedLoader | None:
        """Return the loader that a plugin offers for a model."""
        try:
            kind = self.own.kind_of(model)
        except ModelError:  # the port's own loader says what is wrong with it
            return None
        return self.find(self.role, kind) if kind else None

    def loader_for(self, model: Model) -> Loader[Any]:
        """Return the loader that loads a model."""
        offered = self.offered_for(model)
        return self.own if offered is None else offered.loader

    def parts(self, model: Model) -> Mapping[str, Loader[Any]]:
        # What loads it is a part, so that it is leased under its own name.
        offered = self.offered_for(model)
        if offered is not None:
            return {_OFFERED: offered.loader}
        parts = answers.parts_of(self.own, model)
        return {_OWN: self.own} if parts is None else parts

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Any:
        for alone in (_OFFERED, _OWN):
            if alone in parts:
                return parts[alone]
        return self.own.assemble(model, parts)

    def for_call(self, model: Model, lent: Any, settings: Loading) -> Any:
        if self.offered_for(model) is not None or answers.parts_of(self.own, model) is None:
            return lent
        return self.own.for_call(model, lent, settings)

    def check(self, model: Model) -> None:
        answers.check(self.loader_for(model), model)

    def significant_name(self, model: Model) -> str:
        try:
            return answers.significant_name_of(self.loader_for(model), model)
        except ModelError:  # two plugins offer one: `check` says so
            return ""

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return answers.with_replaced_parts(self.loader_for(model), model, others)


def with_open_loaders(inputs: Mapping[str, Port], find: Find) -> dict[str, Port]:
    """Return a node type's ports; those whose loader has a role take what plugins offer too."""
    opened = {name: _opened(port.type, find) for name, port in inputs.items()}
    return {
        name: port if opened[name] is port.type else replace(port, type=opened[name])
        for name, port in inputs.items()
    }


def _opened(type_: PortType, find: Find) -> PortType:
    if type_.element is not None:
        element = _opened(type_.element, find)
        return type_ if element is type_.element else replace(type_, element=element)
    if type_.record is not None:
        fields = with_open_loaders(type_.record.fields, find)
        return replace(type_, record=replace(type_.record, fields=fields))
    if type_.loader is not None and type_.loader.role:
        return replace(type_, loader=OpenLoader(type_.loader, find))
    return type_
