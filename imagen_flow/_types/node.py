"""Make a node type of a typed function: the signature is the only declaration.

::

    @node("image.resize", version=1, uses=("pillow",))
    def resize(image: Image, *, width: Annotated[int, Range(1, 16384)]) -> Image:
        \"\"\"Resize a picture. ...\"\"\"

Parameters are input ports, defaults are defaults, the return annotation is the output (the fields
of a NamedTuple are named outputs, the first of them primary), the docstring is the help. The
decorated function can still be called as a function.

Node types that have ports in common declare them once, as a TypedDict (PEP 692)::

    class Sampling(TypedDict, total=False):
        \"\"\"Params:
            guidance_scale: how far to go beyond the unguided picture; 1 is off.
        \"\"\"

        guidance_scale: Annotated[float, Range(0, 100)]

    @node("diffusion.text_to_image", version=1)
    def text_to_image(prompt: str, *, seed: Seed, **sampling: Unpack[Sampling]) -> Image: ...

Each field is a port. One that may be left out (``total=False``, ``NotRequired``) is missing from
the mapping then. Several groups are combined by inheritance, and their help is added to that of the
node. (For the help of groups that are inherited, take the TypedDict of typing_extensions before
Python 3.12: that of `typing` forgets what it was made of.)
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from .._system.dataclass import dataclass
from .models import Loader
from .ports import BadValue, Injected, Port, PortType, Record, read_annotation
from .records import port_of

__all__ = ["RESERVED", "Upstream", "NodeFunction", "NodeType", "node", "port_help"]

#: Words of a node in a graph file that can name no port. A closed list; a word more needs a new
# format version.
RESERVED = frozenset(
    {
        "type",
        "each",
        "when",
        "repeat",
        "retry",
        "on_error",
        "device",
        "cache",
        "timeout",
        "settings",
    }
)

_IS_RESERVED = (
    f"a reserved word of graph files can name no port; these are {', '.join(sorted(RESERVED))}"
)

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z")

#: Libraries whose use means that the result depends on device, dtype and attention: their nodes
# carry the determinism class.
_TORCH = frozenset({"torch", "diffusers", "transformers"})


@dataclass(frozen=True, eq=False, slots=True)
class Many:
    """How a node type computes several items at once.

    Params:
        function: takes the ports of the node, those in `varies` as lists with a value for each item;
            gives the results in their order, or NotImplemented.
        varies: the ports that may differ between the items of a group.
        exact: each result is, to the bit, that of the item alone.
    """

    function: Callable[..., Any]
    varies: frozenset[str]
    exact: bool
    is_generator: bool


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
    #: Ports that are not passed to the function when they are given nothing.
    left_out: frozenset[str] = frozenset()
    #: How what were ports once is written now, by the names of these.
    renamed: Mapping[str, str] = field(default_factory=dict)
    many: Many | None = None
    #: Ports of lists that are paired: what one of them lacks is left out of all.
    paired: tuple[str, ...] = ()
    #: The service outside this machine that it sends its inputs to.
    calls: str = ""
    #: Environment variables whose values decide what it gives.
    environment: tuple[str, ...] = ()
    plan_check: Callable[..., None] | None = None
    #: Where it was registered, e.g. ``imagen-flow:image``; filled in by the registry, as is the
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
        """The loaders of the ports that take a model, or several, by port. A field of a record is
        named with its port: ``loras.model``.
        """
        found: dict[str, Loader[Any] | None] = {}
        for name, port in self.inputs.items():
            record = port.type.innermost_record
            fields = record.fields.values() if record is not None else ()
            found[name] = port.type.lends
            found |= {f"{name}.{f.name}": f.type.lends for f in fields}
        return {name: loader for name, loader in found.items() if loader is not None}

    @functools.cached_property
    def records(self) -> dict[str, Record]:
        """The records of the ports that take one, or lists of them, by port."""
        found = {name: port.type.innermost_record for name, port in self.inputs.items()}
        return {name: record for name, record in found.items() if record is not None}

    @property
    def steps_down(self) -> bool:
        """Whether the node itself does with less when memory runs out."""
        return "memory_levels" in self.injected.values()

    def uses_setting(self, setting: str) -> bool:
        """Whether a setting of how models are loaded, or of the memory fallback, changes anything for
        this node.
        """
        if setting == "batch":
            return self.many is not None and not self.many.exact
        if setting == "ladder":
            return bool(self.loaders) or self.steps_down
        return any(setting in loader.settings for loader in self.loaders.values())


@dataclass(frozen=True, slots=True)
class Upstream:
    """What is known, when planning, of a node whose output a port reads: its type, its models by
    port (of a list, those that are known), and what feeds it. A field of a record is a port like
    ``controls.image``.
    """

    type_name: str
    models: Mapping[str, Any]
    upstream: Mapping[str, Upstream]


class NodeFunction:
    """A function that is a node type. Call it as the function it is; `type` is what the registry
    takes.
    """

    def __init__(self, function: Callable[..., Any], node_type: NodeType) -> None:
        functools.update_wrapper(self, function)
        self.type = node_type

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.type.function(*args, **kwargs)

    def plan_check(self, function: Callable[..., None]) -> Callable[..., None]:
        """Register the function that refuses, when planning, models that do not work together or do
        not do what is asked, by raising ModelError.

        It gets the node's models by port (without their weights: a `Model` each, or several), and
        by port for what comes from other nodes a `Upstream`; one that takes a third argument gets by
        port the plain values that are known: numbers, texts, flags and JSON, written in the graph
        or given to the plan. Models in records are named ``controls.model``; in the third argument
        a record is a mapping of those of its fields that are known, models among them.
        """
        object.__setattr__(self.type, "plan_check", function)
        return function

    def many(
        self, *, varies: Sequence[str], exact: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the function that computes several items at once.

        It takes the parameters of the node. Those named in `varies` are lists, with a value for each
        item; all others are equal for the whole group, as are the sizes of pictures and the shapes
        of tensors. It returns the results in the order of the items, or NotImplemented if it cannot
        compute these together. If it raises, the items are computed one by one.

        Params:
            varies: the ports that may differ within a group; none of models, and no records.
            exact: each result is that of the item alone, to the bit. Only such groups are formed
                unless the user allows more by the setting ``batch``.

        A generator may yield Progress; its notes hold for all items, or for the one that its
        ``item`` names. Whether a group gives what its items give alone is tested with the first
        group on each machine and for each model: if not, none is formed.
        """
        type_ = self.type
        if isinstance(varies, str) or not varies:
            raise TypeError(f"{type_.name}: varies is a list of ports, like ('prompt', 'seed')")
        for name in varies:
            if name not in type_.inputs:
                raise TypeError(f"{type_.name}: it has no port '{name}' that could vary")
            if name in type_.records or name in type_.loaders:
                raise TypeError(
                    f"{type_.name}: '{name}' takes a model or records, and cannot vary in a group"
                )
        if "scratch" in type_.injected.values():
            raise TypeError(
                f"{type_.name}: a node with a scratch folder computes one item at a time"
            )

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            generates = inspect.isgeneratorfunction(function)
            many = Many(function, frozenset(varies), exact, generates)
            object.__setattr__(type_, "many", many)
            return function

        return register


def node(
    name: str,
    *,
    version: int,
    uses: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    paired: Sequence[str] = (),
    calls: str = "",
    environment: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], NodeFunction]:
    """Declare a node type.

    Params:
        name: dotted, lower case: ``image.resize``. The part before the dot groups types in help.
        version: raise it when the same inputs give another result; it is part of every key.
        uses: distributions whose version the result depends on (``("pillow",)``); part of every
            key.
        renamed: what to write in the place of ports that the node type no longer has, by their
            names: ``{"lora_weights": "loras: [{model: …, weight: …}]"}``. A graph that uses one is
            told.
        paired: ports of lists whose k-th elements belong together: ``("images", "labels")``. An
            element that is absent in one of them is left out of all, so that no pair shifts.
        calls: the service outside this machine that the node sends its inputs to, ``"openai"``. A
            plan names it with the steps that will call it, before anything is sent.
        environment: environment variables whose values decide what the node gives, such as the
            address of a service; digests of them are part of every key.

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
    if not isinstance(renamed, Mapping | None):
        raise TypeError(f"{name}: renamed maps the names of former ports to what is written now")

    def decorate(function: Callable[..., Any]) -> NodeFunction:
        read = _read(name, version, tuple(sorted(uses)), function)
        if clash := sorted((renamed or {}).keys() & read.inputs.keys()):
            raise TypeError(f"{name}: '{clash[0]}' is listed as renamed, but is a port")
        for port in paired:
            if port not in read.inputs:
                raise TypeError(f"{name}: it has no port '{port}' that could be paired")
        return NodeFunction(
            function,
            replace(
                read,
                renamed=dict(renamed or {}),
                paired=tuple(paired),
                calls=calls,
                environment=tuple(sorted(environment)),
            ),
        )

    return decorate


def _read(name: str, version: int, uses: tuple[str, ...], function: Callable[..., Any]) -> NodeType:
    hints = _hints(name, function)
    inputs: dict[str, Port] = {}
    injected: dict[str, str] = {}
    left_out: set[str] = set()
    doc = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.POSITIONAL_ONLY,
        ) or (parameter.kind is parameter.VAR_KEYWORD and not _is_group(hints, parameter.name)):
            raise TypeError(
                f"{name}: parameter '{parameter.name}' has no fixed name, so it can be no port"
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            group = typing.get_args(hints[parameter.name])[0]
            ports, injected_here, optional = _grouped(name, group)
            if clash := sorted((inputs.keys() | injected.keys()) & (ports | injected_here).keys()):
                raise TypeError(
                    f"{name}: '{clash[0]}' is a parameter and is in {group.__name__} too"
                )
            inputs |= ports
            injected |= injected_here
            left_out |= optional
            doc = with_help_of(doc, group)
            continue
        if parameter.name not in hints:
            raise TypeError(f"{name}: parameter '{parameter.name}' has no type")
        try:
            read = read_annotation(hints[parameter.name])
            if isinstance(read, Injected):
                injected[parameter.name] = read.what
            elif parameter.name in RESERVED:
                raise TypeError(_IS_RESERVED)
            else:
                inputs[parameter.name] = port_of(
                    parameter.name, read, parameter.default, parameter.empty
                )
        except (TypeError, BadValue) as error:
            raise TypeError(f"{name}: parameter '{parameter.name}': {error}") from error
    if "return" not in hints:
        raise TypeError(f"{name}: has no return type; annotate the outputs")
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
        doc=doc,
        left_out=frozenset(left_out),
        injected=injected,
        is_generator=is_generator,
        named_outputs=named,
        file=code.co_filename,
        line=code.co_firstlineno,
    )


def _hints(what: str, annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except NameError as unknown:
        raise TypeError(
            f"{what}: {unknown}; a type of a port is imported for real, not under TYPE_CHECKING"
        ) from unknown


def _is_group(hints: Mapping[str, Any], parameter: str) -> bool:
    """Whether ``**parameter`` is annotated with the ports that it takes."""
    hint = hints.get(parameter)
    return typing.get_origin(hint) is typing.Unpack and _is_typed_dict(typing.get_args(hint)[0])


def _is_typed_dict(group: Any) -> bool:
    """Whether it is a TypedDict, also that of typing_extensions, which `typing` does not know."""
    return isinstance(group, type) and hasattr(group, "__optional_keys__")


def _grouped(name: str, group: Any) -> tuple[dict[str, Port], dict[str, str], set[str]]:
    """Read the ports of a TypedDict, what the runner fills, and which are left out when they are
    given nothing.
    """
    ports: dict[str, Port] = {}
    injected: dict[str, str] = {}
    left_out: set[str] = set()
    for written, annotation in _hints(f"{name}: {group.__name__}", group).items():
        while typing.get_origin(annotation) in (typing.Required, typing.NotRequired):
            annotation = typing.get_args(annotation)[0]
        try:
            read = read_annotation(annotation)
            if isinstance(read, Injected):
                injected[written] = read.what
                continue
            if written in RESERVED:
                raise TypeError(_IS_RESERVED)
        except TypeError as error:
            raise TypeError(f"{name}: '{written}' of {group.__name__}: {error}") from error
        is_optional = written in group.__optional_keys__
        if is_optional and not read.optional:
            left_out.add(written)
            read = replace(read, optional=read.kind not in ("json", "any"))
        ports[written] = Port(written, read, required=not (is_optional or read.optional))
    return ports, injected, left_out


#: A line of help that begins that of one or several ports.
_PORT_HELP = re.compile(r"(\w+(?:, \w+)*(?: and \w+)?):(?: (.*))?\Z")

#: The heads of a docstring, in their order.
_HEADS = ("Inputs:", "Params:", "Outputs:", "Raises:", "Source:")


def with_help_of(doc: str, group: Any) -> str:
    """Add the help of a group's ports, and of the groups that it is made of, to that of a node."""
    summary, sections = _sections(doc)
    pending = [group]
    while pending:
        one = pending.pop(0)
        pending += [base for base in getattr(one, "__orig_bases__", ()) if _is_typed_dict(base)]
        for head, lines in _sections(inspect.cleandoc(one.__doc__ or ""))[1].items():
            if lines[0].startswith(" "):
                shared = textwrap.dedent("\n".join(lines)).splitlines()
                lines = [f"    {line}".rstrip() for line in shared]
            sections.setdefault(head, []).extend(lines)
    body: list[str] = []
    for head in (head for head in _HEADS if head in sections):
        first, *rest = sections[head]
        body += [head, first, *rest] if first.startswith(" ") else [f"{head} {first}", *rest]
    return "\n".join([*summary, *body]).strip()


def port_help(type_: NodeType) -> dict[str, str]:
    """Return what the help of a node type says of its ports and outputs, by their names; several may
    share a line (``width, height: in pixels``).
    """
    told: dict[str, str] = {}
    sections = _sections(type_.doc)[1]
    for head in ("Inputs:", "Params:", "Outputs:"):
        names: list[str] = []
        margin = min(
            (len(line) - len(line.lstrip()) for line in sections.get(head, ()) if line.strip()),
            default=0,
        )
        for line in sections.get(head, ()):
            found = _PORT_HELP.match(line[margin:])
            if found is not None:
                names = re.findall(r"\w+", found[1])
                told |= dict.fromkeys(names, (found[2] or "").strip())
            elif line.startswith(" " * (margin + 1)):
                told |= {name: f"{told[name]} {line.strip()}".strip() for name in names}
            else:
                names = []
    return told


def _sections(doc: str) -> tuple[list[str], dict[str, list[str]]]:
    """Cut a docstring into what stands before its heads, and the lines under each head."""
    summary: list[str] = []
    sections: dict[str, list[str]] = {}
    into = summary
    for line in doc.splitlines():
        head = next((head for head in _HEADS if line.startswith(head)), None)
        if head is None:
            into.append(line)
        else:
            into = sections.setdefault(head, [])
            if rest := line.removeprefix(head).strip():
                into.append(rest)
    return summary, {head: lines for head, lines in sections.items() if lines}


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
    except TypeError as error:
        raise TypeError(f"{name}: return type: {error}") from error
    if isinstance(read, Injected):
        raise TypeError(f"{name}: return type: {read.what} is no value")
    if read.innermost_record is not None:
        raise TypeError(
            f"{name}: return type: a record goes into a port and comes out of none; return its"
            " fields as outputs, by a NamedTuple"
        )
    return read
