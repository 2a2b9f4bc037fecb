"""A typed function is a node type: its signature is the only declaration."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import pytest

from imagen_flow import (
    Device,
    File,
    Image,
    List,
    Model,
    Progress,
    Range,
    Scratch,
    Seed,
    Steps,
    loaders,
    node,
)
from imagen_flow._types.node import RESERVED

if TYPE_CHECKING:
    from somewhere import Elsewhere  # type: ignore[import-not-found]


class Loader(loaders.Loader[Any]):
    def load(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> object: ...


class Parts(NamedTuple):
    left: Image
    right: Image
    ratio: float


class Mode(enum.Enum):
    SOFT = "soft"
    HARD = "hard"


def test_a_signature_is_ports_defaults_and_help() -> None:
    """Parameters are input ports, defaults are defaults, the docstring is the help; the function
    can still be called.
    """

    @node("image.cut", version=3, uses=("pillow", "numpy"))
    def cut(
        image: Image,
        *,
        at: Annotated[int, Range(1, 9)],
        mode: Literal["a", "b"] = "a",
        ratio: float = 1,
        note: str | None = None,
    ) -> Image:
        """Cut a picture.

        At a column.
        """
        return image

    type_ = cut.type
    assert (type_.name, type_.version, type_.uses, type_.doc) == (
        "image.cut",
        3,
        ("numpy", "pillow"),
        "Cut a picture.\n\nAt a column.",
    )
    assert {p.name: (str(p.type), p.required, p.default) for p in type_.inputs.values()} == {
        "image": ("image", True, None),
        "at": ("int from 1 to 9", True, None),
        "mode": ("a | b", False, "a"),
        "ratio": ("float", False, 1.0),
        "note": ("text or nothing", False, None),
    }
    assert type(type_.inputs["ratio"].default) is float
    assert {p.name: str(p.type) for p in type_.outputs.values()} == {"value": "image"}
    assert (
        type_.file,
        type_.line > 0,
        type_.is_generator,
        type_.named_outputs,
        type_.uses_torch,
    ) == (__file__, True, False, False, False)
    assert cut("x", at=1) == "x"
    assert (cut.__name__, cut.__doc__) == ("cut", cut.type.function.__doc__)


def test_the_fields_of_a_named_tuple_are_named_outputs() -> None:
    """The first of them is primary."""

    @node("image.split", version=1)
    def split(image: Image) -> Parts: ...

    assert {p.name: str(p.type) for p in split.type.outputs.values()} == {
        "left": "image",
        "right": "image",
        "ratio": "float",
    }
    assert (split.type.primary, split.type.named_outputs) == ("left", True)


def test_a_long_node_yields_progress() -> None:
    """Its outputs are what its Steps hold, named ones too."""

    @node("image.slow", version=1)
    def slow(image: Image) -> Steps[Parts]:
        yield Progress(0, 1)
        raise NotImplementedError

    assert (slow.type.is_generator, list(slow.type.outputs)) == (True, ["left", "right", "ratio"])


def test_scratch_and_device_are_no_ports() -> None:
    """They are filled in by the run."""

    @node("train.it", version=1)
    def train(folder: Scratch, device: Device, seed: Seed, files: List[File]) -> Model: ...

    assert train.type.injected == {"folder": "scratch", "device": "device"}
    assert list(train.type.inputs) == ["seed", "files"]


@pytest.mark.parametrize(
    ("uses", "torch"),
    [
        ((), False),
        (("pillow",), False),
        (("torch",), True),
        (("diffusers",), True),
        (("transformers",), True),
    ],
)
def test_nodes_that_use_torch_are_told_by_what_they_declare(
    uses: tuple[str, ...], torch: bool
) -> None:
    """Only their keys say on which device they ran; a leased model or a device means torch as well."""

    @node("x.y", version=1, uses=uses)
    def plain(n: int) -> int: ...

    @node("x.z", version=1, uses=uses)
    def leases(model: Model[Loader]) -> int: ...

    @node("x.w", version=1, uses=uses)
    def on(device: Device) -> int: ...

    assert (plain.type.uses_torch, leases.type.uses_torch, on.type.uses_torch) == (
        torch,
        True,
        True,
    )


def test_a_default_may_be_a_member_of_an_enum() -> None:
    """It is kept as the plain value that a graph file would give."""

    @node("x.mode", version=1)
    def mode(mode: Mode = Mode.HARD) -> str: ...

    assert mode.type.inputs["mode"].default == "hard"


def test_the_default_of_a_model_is_its_reference() -> None:
    """As text, since nothing is loaded when plugins are."""

    @node("x.model", version=1)
    def uses(model: Model[Loader] = "embedded/imagen") -> str: ...  # type: ignore[assignment]

    assert (uses.type.inputs["model"].default, uses.type.inputs["model"].required) == (
        "embedded/imagen",
        False,
    )


def test_many_items_at_once_are_a_second_function() -> None:
    """It is registered beside the first and known to the node type."""

    @node("x.one", version=1)
    def one(n: int) -> int: ...

    @one.many(varies=("n",))
    def several(n: Any) -> Any: ...

    assert one.type.many is not None
    assert (one.type.many.function, one.type.many.varies) == (several, {"n"})


def ok(n: int) -> int: ...
def variadic(*n: int) -> int: ...
def keywords(**n: int) -> int: ...
def positional(n: int, /) -> int: ...
def untyped(n) -> int: ...  # type: ignore[no-untyped-def]
def silent(n: int): ...  # type: ignore[no-untyped-def]
def nothing(n: int) -> None: ...
def reserved(when: bool) -> int: ...
def elsewhere(n: Elsewhere) -> int: ...
def odd_default(n: Annotated[int, Range(1, 9)] = 10) -> int: ...
def none_default(n: int = None) -> int: ...  # type: ignore[assignment]  # noqa: RUF013 - that is the mistake  # noqa: RUF013
def raw(n: bytes) -> int: ...
def gives_scratch(n: int) -> Scratch: ...
def returns_steps(n: int) -> Steps[int]: ...
def yields(n: int) -> int:  # type: ignore[misc]
    yield n


class Empty(NamedTuple):
    pass


def empty(n: int) -> Empty: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (variadic, "x.y: parameter 'n' has no fixed name, so it can be no port"),
        (keywords, "x.y: parameter 'n' has no fixed name, so it can be no port"),
        (positional, "x.y: parameter 'n' has no fixed name, so it can be no port"),
        (untyped, "x.y: parameter 'n' has no type"),
        (silent, "x.y: has no return type; annotate the outputs"),
        (
            nothing,
            "x.y: returns nothing; a node returns its outputs, and only a graph's outputs write files",
        ),
        (
            reserved,
            "x.y: parameter 'when': a reserved word of graph files can name no port; these are cache, device, each, on_error, repeat, retry, settings, timeout, type, when",
        ),
        (
            elsewhere,
            "x.y: name 'Elsewhere' is not defined; a type of a port is imported for real, not under TYPE_CHECKING",
        ),
        (odd_default, "x.y: parameter 'n': takes a whole number from 1 to 9, not 10"),
        (none_default, "x.y: parameter 'n': takes a whole number, not nothing"),
        (
            raw,
            "x.y: parameter 'n': <class 'bytes'> is no type of a port; use str, int, float, bool, Literal, an enum, or from imagen_flow: "
            "Image, Mask, Tensor, Audio, File, Folder, Model, Json, Seed, List[…]",
        ),
        (gives_scratch, "x.y: return type: scratch is no value"),
        (
            returns_steps,
            "x.y: a node that yields Progress returns Steps[…], and only such a node does",
        ),
        (yields, "x.y: a node that yields Progress returns Steps[…], and only such a node does"),
        (empty, "x.y: returns a NamedTuple without fields"),
    ],
)
def test_a_signature_that_cannot_be_ports_is_refused(
    function: Callable[..., Any], words: str
) -> None:
    """The message names the node type and the parameter, and says why."""
    with pytest.raises(TypeError) as refused:
        node("x.y", version=1)(function)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    "name",
    [
        "resize",
        "Image.resize",
        "image.",
        "image..resize",
        "image.re size",
        "1.x",
        "image/resize",
        "image.resize\n",
        "",
    ],
)
def test_a_node_type_is_named_by_dotted_words(name: str) -> None:
    """At least two of them, in lower case."""
    with pytest.raises(TypeError, match="is no name of a node type"):
        node(name, version=1)(ok)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0])
def test_a_version_counts_from_one(version: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(TypeError, match="version is a whole number from 1"):
        node("x.y", version=version)(ok)


def test_what_a_node_uses_is_a_list() -> None:
    """A single text would be taken letter by letter."""
    with pytest.raises(TypeError) as refused:
        node("x.y", version=1, uses="pillow")
    assert str(refused.value) == "x.y: uses is a list of distributions, like ('pillow',)"


def test_reserved_words_are_a_closed_list() -> None:
    """A word more would take a port's name from a plugin: that needs a new format version."""
    assert sorted(RESERVED) == [
        "cache",
        "device",
        "each",
        "on_error",
        "repeat",
        "retry",
        "settings",
        "timeout",
        "type",
        "when",
    ]
