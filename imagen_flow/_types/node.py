"""Make a node type of a typed function: the signature is the only declaration.

::

    @node("image.resize", version=1, uses=("pillow",))
    def resize(image: Image, *, width: Annotated[int, Range(1, 16384)]) -> Image:
        \"\"\"Resize a picture. ...\"\"\"

Parameters are input ports, defaults are defaults, the return annotation is the output (the fields
of a NamedTuple are named outputs, the first of
them primary), the docstring is the help. The decorated function can still be called as a function.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .models import Loader
from .ports import BadValue, Injected, Port, PortType, read_annotation

__all__ = ["RESERVED", "Fed", "NodeFunction", "NodeType", "node"]

# : Words of a node in a graph file that can name no port. A closed list; a word more needs a new
# format version.
RESERVED = frozenset(
    {"type", "each", "when", "repeat", "retry", "device", "cache", "timeout", "settings"}
)

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z")

# : Libraries whose use means that the result depends on device, dtype and attention: their nodes
# carry the determinism class.
_TORCH = frozenset({"torch", "diffusers", "transformers"})


@dataclass(frozen=True, eq=False)
class NodeType:
    """What a plugin offers under a name, all of it read off one function."""

    name: str
    version: int
    uses: tuple[str, ...]
    function: Callable[..., Any]
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    doc: str
    injected: dict[str, str]
    is_generator: bool
    named_outputs: bool
    file: str
    line: int
    many: Callable[..., Any] | None = None
    foresee: Callable[..., None] | None = None
    # : Where it was registered, e.g. ``imagen-flow:image``; filled in by the registry, as is the
    # digest of the plugin's source.
    plugin: str = ""
    source_digest: str = ""

    @property
    def primary(self) -> str:
        """The output that ``${name}`` without a port means."""
        return next(iter(self.outputs))

    @functools.cached_property
    def uses_torch(self) -> bool:
        """Whether results depend on the device, so that keys must say which."""
        return (
            bool(_TORCH & set(self.uses))
            or "device" in self.injected.values()
            or bool(self.loaders)
        )

    @functools.cached_property
    def loaders(self) -> dict[str, Loader[Any]]:
        """The loaders of the ports that take a model, or several, by port."""
        found = {
            name: port.type.loader or (port.type.element.loader if port.type.element else None)
            for name, port in self.inputs.items()
        }
        return {name: loader for name, loader in found.items() if loader is not None}

    @property
    def steps_down(self) -> bool:
        """Whether the node itself does with less when memory runs out."""
        return "rungs" in self.injected.values()

    def heeds(self, setting: str) -> bool:
        """Whether a setting of how models are loaded, or of the memory ladder, changes anything for
        this node.
        """
        if setting == "ladder":
            return bool(self.loaders) or self.steps_down
        return any(setting in loader.settings for loader in self.loaders.values())


@dataclass(frozen=True, slots=True)
class Fed:
    """What is known, when planning, of a node whose output a port reads: its type, its models by
    port (of a list, those that are known), and what feeds it.
    """

    type_name: str
    models: Mapping[str, Any]
    fed: Mapping[str, Fed]


class NodeFunction:
    """A function that is a node type. Call it as the function it is; `type` is what the registry
    takes.
    """

    def __init__(self, function: Callable[..., Any], node_type: NodeType) -> None:
        functools.update_wrapper(self, function)
        self.type = node_type

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.type.function(*args, **kwargs)

    def foresee(self, function: Callable[..., None]) -> Callable[..., None]:
        """Register the function that refuses, when planning, models that do not work together or do
        not do what is asked, by raising ModelError.

        It gets the node's models by port (without their weights: a `Model` each, or several), and
        by port for what comes from other nodes a `Fed`; one that takes a third argument
        gets by port the plain values that are known: numbers, texts, flags and JSON, written in the
            graph or given to the plan.
        """
        object.__setattr__(self.type, "foresee", function)
        return function

    def many(
        self, function: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Register the function that does several items at once, bit-equal to one by one."""
        object.__setattr__(self.type, "many", function)
        return function


def node(
    name: str, *, version: int, uses: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], NodeFunction]:
    """Declare a node type.

    Params:
        name: dotted, lower case: ``image.resize``. The part before the dot groups types in help.
        version: raise it when the same inputs give another result; it is part of every key.
        uses: distributions whose version the result depends on (``("pillow",)``); part of every
            key.

    Raises:
        TypeError: the signature cannot be ports; the message names the parameter and says what may
            be written.
    """
    if not _NAME.match(name):
        raise TypeError(
            f"'{name}' is no name of a node type: two or more dotted words in lower case, like"
            " image.resize"
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TypeError(f"{name}: version is a whole number from 1")

    if isinstance(uses, str):
        raise TypeError(f"{name}: uses is a list of distributions, like ('{uses}',)")

    def decorate(function: Callable[..., Any]) -> NodeFunction:
        return NodeFunction(function, _read(name, version, tuple(sorted(uses)), function))

    return decorate


def _read(name: str, version: int, uses: tuple[str, ...], function: Callable[..., Any]) -> NodeType:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as unknown:
        raise TypeError(
            f"{name}: {unknown}; a type of a port is imported for real, not under TYPE_CHECKING"
        ) from unknown
    inputs: dict[str, Port] = {}
    injected: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise TypeError(
                f"{name}: parameter '{parameter.name}' has no fixed name, so it can be no port"
            )
        if parameter.name not in hints:
            raise TypeError(f"{name}: parameter '{parameter.name}' says no type")
        try:
            read = read_annotation(hints[parameter.name])
            if isinstance(read, Injected):
                injected[parameter.name] = read.what
            elif parameter.name in RESERVED:
                raise TypeError("a reserved word of graph files can name no port")
            else:
                inputs[parameter.name] = _port(parameter, read)
        except (TypeError, BadValue) as odd:
            raise TypeError(f"{name}: parameter '{parameter.name}': {odd}") from odd
    if "return" not in hints:
        raise TypeError(f"{name}: says no return type; a node returns its outputs")
    is_generator, named, outputs = _outputs(name, hints["return"])
    if is_generator != inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{name}: a node that yields Progress returns Steps[…], and only such a node does"
        )
    code = inspect.unwrap(function).__code__
    return NodeType(
        name=name,
        version=version,
        uses=uses,
        function=function,
        inputs=inputs,
        outputs=outputs,
        doc=inspect.getdoc(function) or "",
        injected=injected,
        is_generator=is_generator,
        named_outputs=named,
        file=code.co_filename,
        line=code.co_firstlineno,
    )


def _port(parameter: inspect.Parameter, read: PortType) -> Port:
    if parameter.default is parameter.empty:
        return Port(parameter.name, read, required=not read.optional)
    default = parameter.default
    if default is not None or not read.optional:
        # A model's default is its reference, as text; live values are no defaults.
        default = (
            default if read.kind == "model" and isinstance(default, str) else read.check(default)
        )
    return Port(parameter.name, read, default=default)


def _outputs(name: str, annotation: Any) -> tuple[bool, bool, dict[str, Port]]:
    is_generator = typing.get_origin(annotation) is collections.abc.Generator
    if is_generator:
        annotation = typing.get_args(annotation)[2]
    if (
        isinstance(annotation, type)
        and issubclass(annotation, tuple)
        and hasattr(annotation, "_fields")
    ):
        hints = typing.get_type_hints(annotation, include_extras=True)
        outputs = {
            field_: Port(field_, _output_type(name, hints[field_])) for field_ in annotation._fields
        }
        if not outputs:
            raise TypeError(f"{name}: returns a NamedTuple without fields")
        return is_generator, True, outputs
    return is_generator, False, {"value": Port("value", _output_type(name, annotation))}


def _output_type(name: str, annotation: Any) -> PortType:
    if annotation is type(None):
        raise TypeError(
            f"{name}: returns nothing; a node returns its outputs, and only a graph's outputs write"
            " files"
        )
    try:
        read = read_annotation(annotation)
    except TypeError as odd:
        raise TypeError(f"{name}: return type: {odd}") from odd
    if isinstance(read, Injected):
        raise TypeError(f"{name}: return type: {read.what} is no value")
    return read
