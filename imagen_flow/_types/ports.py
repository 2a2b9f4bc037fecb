"""Port types: what a port takes, whether an edge fits it, and whether a literal does.

A port type is read off a Python annotation (`read_annotation`) or off the spelling of a graph's
input (`parse_type`). Literals
are checked by pydantic in strict mode: ``4.0`` and ``true`` are no whole numbers, and a whole
    number is a number. The words of the
refusal are ours, because pydantic's speak of Python and the reader wrote YAML.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from .._system.dataclass import dataclass
from .models import Leased, Loader, Model
from .values import (
    Audio,
    File,
    Folder,
    Image,
    Mask,
    Range,
    Tensor,
    _DeviceMarker,
    _FallbackLevelsMarker,
    _JsonMarker,
    _NamedMarker,
    _ScratchMarker,
    _SeedMarker,
    _ValueMarker,
)

__all__ = [
    "BadValue",
    "Port",
    "PortType",
    "Record",
    "fits",
    "is_exact_float",
    "parse_type",
    "read_annotation",
]

_PLAIN: dict[Any, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    Image: "image",
    Mask: "mask",
    Tensor: "tensor",
    Audio: "audio",
    File: "file",
    Folder: "folder",
    Model: "model",
}

#: Kinds that a literal in a graph file can be written for, with the words that say so.
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "number": "a number",
    "text": "text",
    "json": "JSON data",
    "any": "a value",
    "file": "a path of a file",
    "folder": "a path of a folder",
    "model": "a model",
}

#: Types an input of a graph may have.
INPUT_TYPES = ("int", "float", "bool", "text", "seed", "file", "folder")


@dataclass(frozen=True)
class PortType:
    """What may pass a port: a kind, and what narrows it.

    `kind` is one of bool, int, float, number, text, json, image, mask, tensor, audio, file, folder,
    model, any, list, record, union, or the name of a plugin's own kind. `element` is of a list,
    `members` of a union, `choices` of an enum, `loader` of a leased model, `record` of a record.
    """

    kind: str
    element: PortType | None = None
    members: tuple[PortType, ...] = ()
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    seed: bool = False
    optional: bool = False
    loader: Loader[Any] | None = None
    record: Record | None = None
    #: Of a file: whether its name is part of the value. It is dropped, kept if it is, or needed.
    names: Literal["dropped", "kept", "needed"] = "dropped"
    #: The enum class that choices are turned into, or a plugin's own value class.
    python: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        """Spell the type as help and problems do, e.g. ``int from 1 to 16384``."""
        return f"{self.name} or nothing" if self.optional else self.name

    @property
    def name(self) -> str:
        """The type's spelling without its ``or nothing``."""
        if self.kind == "list":
            return f"list[{self.element}]"
        if self.kind == "union":
            return " or ".join(m.name for m in self.members)
        if self.record is not None:
            return f"{{{', '.join(self.record.fields)}}}"
        if self.choices:
            return " | ".join(str(c) for c in self.choices)
        if self.names == "needed":
            return "named file"
        return "seed" if self.seed else self.kind + self._bounds

    @property
    def _bounds(self) -> str:
        low, high = (self.range.min, self.range.max) if self.range else (None, None)
        if low is None:
            return "" if high is None else f" up to {_bound(high)}"
        return f" from {_bound(low)}" + ("" if high is None else f" to {_bound(high)}")

    @property
    def is_scalar(self) -> bool:
        """Whether a literal of a graph file can be a value of this type as it stands."""
        return self.kind in ("bool", "int", "float", "number", "text")

    @property
    def words(self) -> str:
        """Say in words what is wanted: ``a whole number from 1 to 16384``."""
        if self.kind == "list":
            assert self.element is not None
            return f"a list of {self.element.name}"
        if self.kind == "union":
            return " or ".join(m.words for m in self.members)
        if self.record is not None:
            return self.name
        if self.choices:
            return "one of " + ", ".join(
                f"'{c}'" if isinstance(c, str) else str(c) for c in self.choices
            )
        if self.names == "needed":
            return "a file with its name"
        return _WORDS.get(self.kind, f"the output of a node that gives {self.kind}") + self._bounds

    def _is_plainly_right(self, value: Any) -> bool:
        """Whether a scalar is right at first sight, so that registering defaults and small values
        on edges need no pydantic.
        """
        if (
            type(value) not in _SCALARS.get(self.kind, ())
            or self.choices
            or (type(value) is float and not math.isfinite(value))
        ):
            return False
        if self.range is None:
            return True
        low, high = self.range.min, self.range.max
        return (low is None or value >= low) and (high is None or value <= high)

    @cached_property
    def _adapter(self) -> Any:
        """The pydantic validator of this type's literals, in strict mode."""
        from pydantic import Field, TypeAdapter

        bounds: dict[str, Any] = {}
        if self.range:
            bounds = {
                k: v for k, v in (("ge", self.range.min), ("le", self.range.max)) if v is not None
            }
        whole = Annotated[int, Field(strict=True, **bounds)]
        real = Annotated[float, Field(strict=True, allow_inf_nan=False, **bounds)]
        table: dict[str, Any] = {
            "bool": Annotated[bool, Field(strict=True)],
            "int": whole,
            "float": real,
            "number": whole | real,
            "text": Annotated[str, Field(strict=True)],
        }
        return TypeAdapter(table[self.kind])

    def check(self, value: Any) -> Any:
        """Return `value` as it crosses an edge of this type, or raise BadValue with the words of
        the refusal.

        Takes literals and live values alike: ints become floats where the port is a float, members
        of an enum become their values. Lists and mappings come back as copies, so that a node that
        changes what it was handed changes no other's.
        """
        if value is None:
            if self.optional or self.kind in ("json", "any"):
                return None
            raise BadValue(f"takes {self.words}, not nothing")
        kind = self.kind
        if self._is_plainly_right(value):
            return value
        if kind == "float" and type(value) is int:
            if not is_exact_float(value):
                raise BadValue(
                    f"takes {self.words}, not {describe(value)}, which a float would round"
                )
            if self._is_plainly_right(float(value)):
                return float(value)
        if kind == "any":
            return _copied(value)
        if kind == "union":
            for member in self.members:
                try:
                    return member.check(value)
                except BadValue:
                    continue
            words = [str(choice) for member in self.members for choice in member.choices]
            raise BadValue(
                f"takes {self.words}, not {describe(value)}",
                given=str(value),
                known=_near(value, words),
            )
        if kind == "list":
            if not isinstance(value, list | tuple):
                raise BadValue(
                    f"takes {self.words}, not {describe(value)}", instead=_instead(kind, value)
                )
            assert self.element is not None
            taken = []
            for index, item in enumerate(value):
                try:
                    taken.append(self.element.check(item))
                except BadValue as error:
                    raise BadValue(
                        f"takes {self.words}; its element {index} {error}",
                        given=error.given,
                        known=error.known,
                        instead=error.instead,
                    ) from None
            return taken
        if self.record is not None:  # its fields are checked one by one
            raise BadValue(f"takes {self.words}, not {describe(value)}")
        if self.choices:
            chosen = value.value if isinstance(value, enum.Enum) else value
            for choice in self.choices:
                if (
                    type(choice) is type(chosen) or (type(choice), type(chosen)) == (float, int)
                ) and choice == chosen:
                    return choice
            raise BadValue(
                f"takes {self.words}, not {describe(value)}",
                given=str(value),
                known=tuple(map(str, self.choices)),
            )
        if self.is_scalar:
            from pydantic import ValidationError

            try:
                return self._adapter.validate_python(value)
            except (ValidationError, OverflowError):
                raise BadValue(
                    f"takes {self.words}, not {describe(value)}", instead=_instead(kind, value)
                ) from None
        if kind == "json":
            from .digest import canonical

            try:
                canonical(value)
            except (TypeError, ValueError) as error:
                raise BadValue(
                    f"takes JSON data, not {describe(value)} ({error})",
                    instead=_instead(kind, value),
                ) from None
            return _copied(value)
        wanted = self.python or _CLASSES.get(kind)
        if wanted is not None and not isinstance(value, wanted):
            raise BadValue(
                f"takes {self.words}, not {describe(value)}", instead=_instead(kind, value)
            )
        if kind == "file" and self.names != "kept":
            return self._with_or_without_name(value)
        return value

    def _with_or_without_name(self, file: File) -> File:
        if self.names == "dropped":
            return replace(file, significant_name="") if file.significant_name else file
        if not file.significant_name:
            raise BadValue("takes a file with its name, and the name of this one is not known")
        return file

    def name_files(self, value: Any) -> Any:
        """Make the names of the files that a node gives part of the value, where this is the type
        of its output and says so.

        Raises:
            BadValue: a name leads out of its folder.
        """
        if isinstance(value, File):
            of_file = next((m for m in self.members if m.kind == "file"), self)
            if of_file.names != "needed":
                return value
            try:
                return replace(value, significant_name=value.name or value.path.name)
            except ValueError as error:
                raise BadValue(f"takes {self.words}: {error}") from None
        if self.element is not None and type(value) in (list, tuple):
            return [self.element.name_files(item) for item in value]
        return value

    @property
    def lends(self) -> Loader[Any] | None:
        """The loader of a model of this type, or of those in a list of them."""
        return self.element.loader if self.element is not None else self.loader

    @cached_property
    def innermost_record(self) -> Record | None:
        """The record that a value of this type is, or that the lists in it hold."""
        return self.element.innermost_record if self.element is not None else self.record

    @cached_property
    def drops_names(self) -> bool:
        """Whether a file that comes here is known by its content and ending alone."""
        if self.kind == "union":
            return all(m.drops_names for m in self.members if m.kind == "file")
        return self.kind == "file" and self.names == "dropped"

    @cached_property
    def has_enum(self) -> bool:
        """Whether a node is handed members of an enum where values of plain types cross the edge."""
        return bool(self.choices and self.python) or any(
            m.has_enum for m in (*self.members, *((self.element,) if self.element else ()))
        )

    def hand(self, value: Any) -> Any:
        """Turn a checked value into what the node's function is handed: choices become members of
        their enum.
        """
        if not self.has_enum or value is None:
            return value
        if self.kind == "list" and self.element is not None:
            return [self.element.hand(item) for item in value]
        for member in self.members:
            try:
                return member.hand(member.check(value))
            except BadValue:
                continue
        return self.python(value)


def _copied(value: Any) -> Any:
    """Copy JSON data; any other value is frozen already. Keys are sorted, as they come from the
    store: their order is in no digest, so nothing may go by it.
    """
    if type(value) is dict:
        return {key: _copied(value[key]) for key in sorted(value, key=str)}
    return [_copied(item) for item in value] if type(value) in (list, tuple) else value


_CLASSES: dict[str, Any] = {kind: cls for cls, kind in _PLAIN.items()}
#: What can be one of several choices: a graph file can spell it.
_CHOICES = (str, int, float, bool)
_SCALARS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
    "number": (int, float),
    "text": (str,),
}


def is_exact_float(number: int) -> bool:
    """Whether a float equals a whole number; beyond 2**53 not all do."""
    try:
        return float(number) == number
    except OverflowError:
        return False


class BadValue(ValueError):
    """A value does not fit its port. `given` and `known` are there when the nearest of several
    choices can be offered, `instead` when it can be said in Python how a value `x` is made to fit.
    """

    def __init__(
        self, message: str, *, given: str = "", known: tuple[str, ...] = (), instead: str = ""
    ) -> None:
        super().__init__(message)
        self.given = given
        self.known = known
        self.instead = instead


def _near(value: Any, words: list[str]) -> tuple[str, ...]:
    """Give the word that may be meant by a text; there are other values than these words."""
    if not isinstance(value, str) or not words:
        return ()
    from difflib import get_close_matches

    return tuple(get_close_matches(value.lower(), words, n=1))


def describe(value: Any) -> str:
    """Say what a value is, in the words of the graph file."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a very large whole number"
    if isinstance(value, float):
        return f"the number {value!r}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '…'}'"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a mapping"
    if (library := _library_of(value)) is not None:
        return f"{library}.{type(value).__name__}"
    return f"{_PLAIN.get(type(value), type(value).__name__)}"


def _library_of(value: Any) -> str | None:
    """Name the library of arrays and pictures that a value is of, if it is of one."""
    library = type(value).__module__.partition(".")[0]
    return library if library in ("numpy", "torch", "PIL") else None


def _instead(kind: str, value: Any) -> str:
    """Say how a value of another library is made one of a kind; empty if that is not known."""
    library = _library_of(value)
    if library is None:
        inside = value.values() if isinstance(value, dict) else value
        is_list = kind == "json" and isinstance(value, dict | list | tuple)
        return next(filter(None, (_instead(kind, item) for item in inside)), "") if is_list else ""
    array = {"torch": "x.cpu().numpy()", "PIL": "np.asarray(x)"}.get(library, "x")
    return {
        "image": "Image.from_pil(x)" if library == "PIL" else f"Image({array})",
        "mask": f"Mask({array})",
        "tensor": f"Tensor({array if library == 'PIL' else 'x'})",
        "audio": f"Audio({array}, rate)",
        "number": "float(x)",
        "text": "str(x)",
        "list": "x.tolist()",
        "json": "x.tolist()",
    }.get(kind, f"{kind}(x)" if kind in _SCALARS else "")


@dataclass(frozen=True)
class Port:
    """A named, typed end of an edge. An input port without default is required unless its type is
    optional.
    """

    name: str
    type: PortType
    required: bool = False
    default: Any = None
    help: str = ""


@dataclass(frozen=True, eq=False)
class Record:
    """A group of fields that makes one port: read off a frozen dataclass (see `records.record`).

    `fields` are by the names that graphs use, in the order of the class; `attributes` says how each
    is called in Python. A value that is not a mapping stands for the first field.
    """

    cls: type
    fields: dict[str, Port]
    attributes: dict[str, str]
    doc: str = ""

    @property
    def first(self) -> Port:
        """The field that a value which is not a mapping stands for."""
        return next(iter(self.fields.values()))

    @property
    def beside_first(self) -> list[str]:
        """The required fields without which a bare value is not enough."""
        return [f.name for f in self.fields.values() if f.required and f is not self.first]


def fits(source: PortType, target: PortType) -> bool:
    """Whether a value of type `source` may flow into a port of type `target`.

    A whole number fits a number, not the other way. Into a port of records flows what fits their
    first field. Ranges, choices and what an output of any kind gives are checked on the value, when
    it is known.
    """
    if source.kind == "any" or target.kind == "any":
        return True
    if source.kind == "union":
        return all(fits(replace(m, optional=False), target) for m in source.members)
    if target.kind == "union":
        return any(fits(source, member) for member in target.members)
    if target.record is not None:
        return fits(source, target.record.first.type)
    if target.kind == "list":
        if source.kind != "list" or target.element is None:
            return False
        return source.element is None or fits(source.element, target.element)
    if target.kind == "json":
        return source.kind in ("json", "bool", "int", "float", "number", "text") or (
            source.kind == "list" and (source.element is None or fits(source.element, target))
        )
    if target.choices and not source.choices:
        return any(_choice_kind(c) == source.kind for c in target.choices)
    if source.choices and not target.choices:
        return all(fits(PortType(_choice_kind(c)), target) for c in source.choices)
    if source.kind == target.kind:
        return source.names != "dropped" or target.names != "needed"
    return target.kind in {
        "int": ("float", "number"),
        "float": ("number",),
        "number": ("float",),
    }.get(source.kind, ())


def _bound(number: float) -> str:
    return (
        str(int(number))
        if isinstance(number, int) or (number == int(number) and abs(number) < 1e16)
        else f"{number:g}"
    )


def _choice_kind(choice: Any) -> str:
    return _PLAIN.get(type(choice), "text")


def parse_type(spelling: str) -> PortType | None:
    """Read the type of a graph's input, e.g. ``seed`` or ``list[file]``; None if there is no such
    type.
    """
    text = spelling.strip()
    if text.startswith("list[") and text.endswith("]"):
        element = parse_type(text[5:-1])
        return (
            None if element is None or element.kind == "list" else PortType("list", element=element)
        )
    if text == "seed":
        return PortType("int", range=Range(0, 2**63 - 1), seed=True)
    if text == "file":
        return PortType("file", names="kept")
    return PortType(text) if text in INPUT_TYPES else None


@dataclass(frozen=True, slots=True)
class Injected:
    """A parameter that the runner fills, not an edge: ``scratch``, ``device`` or
    ``memory_levels``."""

    what: str


def read_annotation(annotation: Any) -> PortType | Injected:
    """Read a port type off a parameter's annotation. Raises TypeError, saying what may be written,
    for anything else.
    """
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *marks = typing.get_args(annotation)
        for mark in marks:
            if isinstance(mark, _ScratchMarker):
                return Injected("scratch")
            if isinstance(mark, _DeviceMarker):
                return Injected("device")
            if isinstance(mark, _FallbackLevelsMarker):
                return Injected("memory_levels")
            if isinstance(mark, Leased):
                return PortType("model", loader=mark.loader())
            if isinstance(mark, _JsonMarker):
                return PortType("json")
            if isinstance(mark, _ValueMarker):
                return PortType("any")
        read = read_annotation(inner)
        if isinstance(read, Injected):
            return read
        for mark in marks:
            if isinstance(mark, Range):
                read = _narrowed(read, mark)
            elif isinstance(mark, _SeedMarker):
                read = replace(read, seed=True)
            elif isinstance(mark, _NamedMarker) and read.kind == "file":
                read = replace(read, names="needed")
        return read
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(annotation))
    if origin is Literal:
        if not all(type(choice) in _CHOICES for choice in typing.get_args(annotation)):
            raise TypeError(
                "a Literal holds text, numbers or booleans; for one that may be left out write"
                " Literal[…] | None"
            )
        return PortType("text", choices=typing.get_args(annotation))
    if origin in (list, tuple) or annotation in (list, tuple):
        arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
        if len(arguments) != 1:
            raise TypeError("a list says what it holds: List[Image]")
        element = read_annotation(arguments[0])
        if isinstance(element, Injected):
            raise TypeError("a list holds values, not what is lent to a node")
        return PortType("list", element=element)
    if annotation in _PLAIN:
        return PortType(_PLAIN[annotation])
    if annotation in (dict, Any) or origin is dict:
        return PortType("json")
    if isinstance(annotation, type):
        if isinstance(found := annotation.__dict__.get("__record__"), Record):
            return PortType("record", record=found)
        if hasattr(annotation, "__record__"):
            raise TypeError(f"{annotation.__name__} extends a record: decorate it with @record too")
        if issubclass(annotation, enum.Enum):
            choices = tuple(m.value for m in annotation)
            if not choices or not all(type(choice) in _CHOICES for choice in choices):
                raise TypeError(
                    f"the values of {annotation.__name__} are text, numbers or booleans, so"
                    " that a graph can name them"
                )
            return PortType("text", choices=choices, python=annotation)
        if not annotation.__module__.startswith(
            ("torch", "numpy", "PIL", "diffusers", "transformers", "builtins", "typing", "pathlib")
        ):
            return PortType(f"{annotation.__module__}.{annotation.__qualname__}", python=annotation)
    raise TypeError(
        f"{annotation!r} is no type of a port; use str, int, float, bool, Literal, an enum, or from"
        " imagen_flow: Image, Mask, Tensor, Audio, File, Folder, Model, Json, Seed, List[…]"
    )


def _narrowed(read: PortType, bounds: Range) -> PortType:
    if read.kind in ("int", "float", "number"):
        return replace(read, range=bounds)
    if read.kind == "list" and read.element is not None:
        return replace(read, element=_narrowed(read.element, bounds))
    raise TypeError(f"Range narrows numbers, not {read.kind}")


def _read_union(arguments: Iterable[Any]) -> PortType:
    optional = False
    members: list[PortType] = []
    for argument in arguments:
        if argument is type(None):
            optional = True
            continue
        member = read_annotation(argument)
        if isinstance(member, Injected):
            raise TypeError("a union holds values")
        members.append(member)
    if {m.kind for m in members} == {"int", "float"} and not any(m.range for m in members):
        return PortType("number", optional=optional)
    if len(members) == 1:
        return replace(members[0], optional=optional)
    if any(m.innermost_record for m in members):
        raise TypeError("a union holds no records; a field of a record may be a union")
    if any(m.loader for m in members):
        raise TypeError("a union holds values, not what is leased to a node")
    return PortType("union", members=tuple(members), optional=optional)
