"""Make a record of a class: a group of fields that a node takes at one port.

::

    @record
    class LoRAUse:
        \"\"\"A LoRA and how much of it is applied.\"\"\"

        model: Model[LoRA]
        weight: Annotated[float, Range(-10, 10)] = 1.0

In a graph it is a mapping: ``{model: ./a.safetensors, weight: 0.8}``. Each field takes a literal or
a reference. A value that is not a mapping stands for the first field.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import typing
from typing import Any, TypeVar

from .ports import BadValue, Injected, Port, PortType, Record, read_annotation

__all__ = ["record"]

T = TypeVar("T")


@typing.dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Declare a record. The class becomes a frozen dataclass, its fields are annotated as the ports
    of a node are, and a default makes a field optional.

    A trailing underscore of a field's name is dropped in graphs, so that a field can be called
    ``from`` or ``in``.

    Raises:
        TypeError: a field cannot be one; the message names it and says what may be written.
    """
    name = getattr(cls, "__name__", str(cls))
    if not isinstance(cls, type) or set(cls.__mro__) & {tuple, dict, enum.Enum}:
        raise TypeError(f"{name}: a record is a plain class with annotated fields")
    doc = inspect.cleandoc(cls.__doc__ or "")
    try:
        made: Any = dataclasses.dataclass(frozen=True)(cls)
    except ValueError as error:  # a list or mapping as default
        raise TypeError(f"{name}: {error}; the default of a list may be ()") from error
    except TypeError as error:  # the order of fields
        raise TypeError(f"{name}: {error}") from error
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as unknown:
        raise TypeError(
            f"{name}: {unknown}; the type of a field is imported for real, not under TYPE_CHECKING"
        ) from unknown
    fields: dict[str, Port] = {}
    attributes: dict[str, str] = {}
    for field in dataclasses.fields(made):
        written = field.name.removesuffix("_")
        if not written:
            raise TypeError(f"{name}: field '{field.name}' has no name in graphs")
        if written in fields:
            raise TypeError(f"{name}: two fields are called '{written}' in graphs")
        if not field.init:
            raise TypeError(f"{name}: field '{field.name}' is not set by its constructor")
        try:
            fields[written] = _field(written, hints[field.name], field)
        except (TypeError, BadValue) as error:
            raise TypeError(f"{name}: field '{field.name}': {error}") from error
        attributes[written] = field.name
    if not fields:
        raise TypeError(f"{name}: a record has at least one field")
    made.__record__ = Record(made, fields, attributes, doc)
    return cls


def _field(name: str, annotation: Any, field: dataclasses.Field[Any]) -> Port:
    read = read_annotation(annotation)
    if isinstance(read, Injected):
        raise TypeError(f"a record holds values; a node asks for the {read.what} by a parameter")
    if read.innermost_record is not None:
        raise TypeError("a record holds no records: let it have their fields")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return port_of(name, read, default, dataclasses.MISSING)


def port_of(name: str, read: PortType, default: Any, missing: Any) -> Port:
    """Make a port of a type and its default; without one it is required unless it is optional."""
    if default is missing:
        return Port(name, read, required=not read.optional)
    if default is not None or not read.optional:
        if read.innermost_record is not None and (read.element is None or default):
            raise TypeError(
                "the defaults of a record are those of its fields: write = (), or | None = None"
            )
        # A model's default is its reference, as text; live values are no defaults.
        is_reference = read.kind == "model" and isinstance(default, str)
        default = default if is_reference else read.check(default)
    return Port(name, read, default=default)
