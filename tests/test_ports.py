"""What a port takes: read off annotations, checked strictly, joined by type."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagen_flow import (
    Audio,
    Bool,
    Device,
    File,
    Folder,
    Image,
    Json,
    List,
    Mask,
    Model,
    Number,
    Range,
    Scratch,
    Seed,
    Tensor,
    Text,
    Value,
    loaders,
)
from imagen_flow._types.ports import BadValue, Injected, PortType, fits, parse_type, read_annotation
from imagen_flow.loaders import Leased


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Own:
    """A plugin's own type of value."""


class Loader(loaders.Loader[Any]):
    def load(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> object: ...


def read(annotation: Any) -> PortType:
    found = read_annotation(annotation)
    assert isinstance(found, PortType)
    return found


INT, FLOAT, TEXT, BOOL, NUMBER, JSON, ANY = (
    PortType(k) for k in ("int", "float", "text", "bool", "number", "json", "any")
)


@pytest.mark.parametrize(
    ("annotation", "spelt"),
    [
        (int, "int"),
        (float, "float"),
        (bool, "bool"),
        (str, "text"),
        (Text, "text"),
        (Bool, "bool"),
        (Number, "number"),
        (int | float, "number"),
        (dict, "json"),
        (dict[str, int], "json"),
        (Any, "json"),
        (Json, "json"),
        (Value, "any"),
        (Image, "image"),
        (Mask, "mask"),
        (Tensor, "tensor"),
        (Audio, "audio"),
        (File, "file"),
        (Folder, "folder"),
        (Model, "model"),
        (Annotated[str, Leased(Loader)], "model"),
        (Model[Loader], "model"),
        (List[Model[Loader]], "list[model]"),
        (Seed, "seed"),
        (List[Image], "list[image]"),
        (list[list[int]], "list[list[int]]"),
        (tuple[int, ...], "list[int]"),
        (Annotated[int, Range(1, 100)], "int from 1 to 100"),
        (Annotated[float, Range(min=0.5)], "float from 0.5"),
        (Annotated[Number, Range(max=3)], "number up to 3"),
        (List[Annotated[int, Range(1, 2)]], "list[int from 1 to 2]"),
        (Annotated[List[int], Range(1, 2)], "list[int from 1 to 2]"),
        (Literal["a", "b"], "a | b"),
        (Literal[1, 2], "1 | 2"),
        (Colour, "red | blue"),
        (Image | None, "image or nothing"),
        (Value | None, "any or nothing"),
        (Image | Mask, "image or mask"),
        (int | str | None, "int or text or nothing"),
        (Annotated[int, Range(0, 1)] | float, "int from 0 to 1 or float"),
        (Own, f"{__name__}.Own"),
    ],
)
def test_an_annotation_is_a_port_type(annotation: Any, spelt: str) -> None:
    """Types of imagen_flow, plain Python, literals, enums, optionals, unions, lists and a plugin's
    own classes are port types.
    """
    assert str(read(annotation)) == spelt


def test_some_parameters_are_no_ports() -> None:
    """Scratch and Device are filled in by the run."""
    assert (read_annotation(Scratch), read_annotation(Device)) == (
        Injected("scratch"),
        Injected("device"),
    )


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (np.ndarray, "no type of a port; use str, int"),
        (bytes, "no type of a port"),
        (object, "no type of a port"),
        (list, "a list says what it holds: List[Image]"),
        (tuple[int, str], "a list says what it holds: List[Image]"),
        (List[Scratch], "a list holds values"),
        (Device | None, "a union holds values"),
        (Model[Loader] | Image, "a union holds values"),
        (Annotated[Any, Leased(Own)], "Leased(Own) needs a loader: a subclass of"),
        (Annotated[str, Range(1, 2)], "Range narrows numbers, not text"),
        (Literal[b"x"], "a Literal holds text, numbers or booleans"),
        (enum.Enum("Odd", {"A": (1, 2)}), "the values of Odd are text, numbers or booleans"),
    ],
)
def test_any_other_annotation_is_refused(annotation: Any, words: str) -> None:
    """The message says what may be written."""
    with pytest.raises(TypeError) as refused:
        read_annotation(annotation)
    assert words in str(refused.value)


REFUSED = object()


@pytest.mark.parametrize(
    ("type_", "value", "taken"),
    [
        (INT, 3, 3),
        (INT, 3.0, REFUSED),
        (INT, True, REFUSED),
        (INT, "3", REFUSED),
        (INT, 10**30, 10**30),
        (INT, None, REFUSED),
        (FLOAT, 3, 3.0),
        (FLOAT, 3.5, 3.5),
        (FLOAT, True, REFUSED),
        (FLOAT, math.nan, REFUSED),
        (FLOAT, math.inf, REFUSED),
        (FLOAT, 10**400, REFUSED),
        (NUMBER, 3, 3),
        (NUMBER, 3.0, 3.0),
        (NUMBER, -math.inf, REFUSED),
        (NUMBER, False, REFUSED),
        (BOOL, True, True),
        (BOOL, 1, REFUSED),
        (BOOL, "true", REFUSED),
        (TEXT, "", ""),
        (TEXT, 1, REFUSED),
        (JSON, None, None),
        (JSON, {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        (JSON, {1: 2}, REFUSED),
        (JSON, math.nan, REFUSED),
        (ANY, None, None),
        (ANY, "x", "x"),
        (read(Seed), 2**63 - 1, 2**63 - 1),
        (read(Seed), 2**63, REFUSED),
        (read(Seed), -1, REFUSED),
        (read(Annotated[int, Range(1, 9)]), 9, 9),
        (read(Annotated[int, Range(1, 9)]), 0, REFUSED),
        (read(Annotated[float, Range(0, 1)]), 1, 1.0),
        (read(Annotated[float, Range(0, 1)]), 1.01, REFUSED),
        (read(Annotated[float, Range(0, 1)]), 2, REFUSED),
        (FLOAT, 2**53, float(2**53)),
        (FLOAT, 2**53 + 1, REFUSED),
        (FLOAT, -(2**53) - 1, REFUSED),
        (FLOAT, 2**60, float(2**60)),
        (FLOAT, 2**60 + 1, REFUSED),
        (read(Annotated[float, Range(0, None)]), 2**53 + 1, REFUSED),
        (read(List[float]), [2**53 + 1], REFUSED),
        (read(float | str), 2**53 + 1, REFUSED),
        (NUMBER, 2**53 + 1, 2**53 + 1),
        (FLOAT, 10**400, REFUSED),
        (read(List[Annotated[int, Range(1, 9)]]), [1, 9], [1, 9]),
        (read(List[Annotated[int, Range(1, 9)]]), [1, 10], REFUSED),
        (read(List[float]), [1, 2.5], [1.0, 2.5]),
        (read(List[float]), 1.0, REFUSED),
        (read(Literal["a", "b"]), "a", "a"),
        (read(Literal["a", "b"]), "c", REFUSED),
        (read(Literal[1, 2]), 1, 1),
        (read(Literal[1, 2]), True, REFUSED),
        (PortType("float", choices=(0.5, 1.0)), 1, 1.0),
        (read(Colour), "red", "red"),
        (read(Colour), Colour.RED, "red"),
        (read(Colour), "green", REFUSED),
        (read(int | None), None, None),
        (read(int | str), "x", "x"),
        (read(int | str), 1.5, REFUSED),
        (read(Image), "x", REFUSED),
    ],
)
def test_values_are_checked_strictly(type_: PortType, value: Any, taken: Any) -> None:
    """An int is a float, but neither 4.0 nor true is an int; NaN and infinity are no numbers."""
    if taken is REFUSED:
        with pytest.raises(BadValue):
            type_.check(value)
    else:
        found = type_.check(value)
        assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("type_", "value", "words"),
    [
        (INT, 4.5, "takes a whole number, not the number 4.5"),
        (read(Annotated[int, Range(1, 16384)]), 0, "takes a whole number from 1 to 16384, not 0"),
        (read(Literal["a", "b"]), "c", "takes one of 'a', 'b', not the text 'c'"),
        (read(List[int]), 3, "takes a list of int, not 3"),
        (
            read(int | bool),
            "x" * 99,
            f"takes a whole number or true or false, not the text '{'x' * 57}…'",
        ),
        (read(Image), {}, "takes the output of a node that gives image, not a mapping"),
        (
            FLOAT,
            10**400,
            "takes a number, not a very large whole number, which a float would round",
        ),
        (
            FLOAT,
            2**53 + 1,
            "takes a number, not 9007199254740993, which a float would round",
        ),
    ],
)
def test_a_refusal_speaks_of_the_graph_file(type_: PortType, value: Any, words: str) -> None:
    """It says what is taken and what was given."""
    with pytest.raises(BadValue) as refused:
        type_.check(value)
    assert str(refused.value) == words


def test_a_node_is_handed_members_of_its_enum() -> None:
    """What crosses edges is the plain value, so that it has a digest; the function gets the member,
    in lists and unions too.
    """
    assert read(Colour).hand("red") is Colour.RED
    assert read(Colour | None).hand(None) is None
    assert read(List[Colour]).hand(["red", "blue"]) == [Colour.RED, Colour.BLUE]
    assert read(int | Colour).hand("blue") is Colour.BLUE
    assert read(int | Colour).hand(3) == 3
    assert not read(Literal["red"]).has_enum


def test_json_is_handed_over_as_a_copy() -> None:
    """Whoever changes it changes no other's."""
    for type_ in (JSON, ANY):
        value = {"a": [1, {"b": 2}]}
        taken = type_.check(value)
        taken["a"][1]["b"] = 3
        assert value == {"a": [1, {"b": 2}]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda e: st.lists(e) | st.dictionaries(st.text(), e),
        max_leaves=8,
    )
)
def test_what_is_taken_is_taken_again(value: Any) -> None:
    """Checking is idempotent: what a port gave out, it takes in unchanged."""
    for type_ in (INT, FLOAT, NUMBER, BOOL, TEXT, JSON, read(List[float]), read(int | str | None)):
        try:
            taken = type_.check(value)
        except BadValue:
            continue
        again = type_.check(taken)
        assert (again, type(again)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("source", "target", "fit"),
    [
        (INT, INT, True),
        (INT, FLOAT, True),
        (FLOAT, INT, False),
        (INT, NUMBER, True),
        (NUMBER, FLOAT, True),
        (NUMBER, INT, False),
        (BOOL, INT, False),
        (INT, BOOL, False),
        (INT, TEXT, False),
        (read(Image), read(Mask), False),
        (read(Image), read(Image | None), True),
        (read(Image), read(Image | Mask), True),
        (read(Image | Mask), read(Image), False),
        (read(Image | Mask), read(Mask | Image | None), True),
        (read(List[int]), read(List[float]), True),
        (read(List[float]), read(List[int]), False),
        (read(List[int]), INT, False),
        (INT, read(List[int]), False),
        (ANY, read(Image), True),
        (read(List[Image]), ANY, True),
        (ANY, read(List[Image]), True),
        (read(List[Value]), read(List[Image]), True),
        (INT, JSON, True),
        (read(List[str]), JSON, True),
        (read(List[Image]), JSON, False),
        (JSON, TEXT, False),
        (read(Literal["a"]), TEXT, True),
        (TEXT, read(Literal["a"]), True),
        (INT, read(Literal["a"]), False),
        (read(Literal[1]), INT, True),
        (read(Seed), INT, True),
        (INT, read(Seed), True),
        (read(Own), read(Own), True),
        (read(Own), read(Image), False),
    ],
)
def test_edges_join_types_that_fit(source: PortType, target: PortType, fit: bool) -> None:
    """A whole number fits a number and not the other way; ranges, choices and values of any kind
    are checked when they flow.
    """
    assert fits(source, target) is fit


@pytest.mark.parametrize(
    ("spelling", "spelt"),
    [
        ("int", "int"),
        (" seed ", "seed"),
        ("list[file]", "list[file]"),
        ("list[seed]", "list[seed]"),
        ("image", None),
        ("list[list[int]]", None),
        ("list[]", None),
        ("Int", None),
    ],
)
def test_types_of_inputs_are_spelt(spelling: str, spelt: str | None) -> None:
    """Seven words, and lists of them."""
    found = parse_type(spelling)
    assert (None if found is None else str(found)) == spelt


@pytest.mark.parametrize(
    ("wanted", "value", "said", "instead"),
    [
        (Image, np.zeros((2, 2, 3)), "takes image, not numpy.ndarray", "Image(x)"),
        (Image, PIL.Image.new("RGB", (2, 2)), "takes image, not PIL.Image", "Image.from_pil(x)"),
        (Image, torch.zeros(2, 2), "takes image, not torch.Tensor", "Image(x.cpu().numpy())"),
        (Tensor, torch.zeros(2), "takes tensor, not torch.Tensor", "Tensor(x)"),
        (Audio, np.zeros(2), "takes audio, not numpy.ndarray", "Audio(x, rate)"),
        (int, np.int64(3), "takes a whole number, not numpy.int64", "int(x)"),
        (bool, np.bool_(True), "takes true or false, not numpy.bool", "bool(x)"),
        (List[float], np.zeros(2), "takes a list of float, not numpy.ndarray", "x.tolist()"),
        (
            List[Image],
            [np.zeros((2, 2, 3))],
            "takes a list of image; its element 0 takes image, not numpy.ndarray",
            "Image(x)",
        ),
        (
            Json,
            {"of": [np.zeros(2)]},
            "takes JSON data, not a mapping (Object of type ndarray is not JSON serializable)",
            "x.tolist()",
        ),
        (Image, 3, "takes image, not 3", ""),
    ],
)
def test_what_other_libraries_give_is_named_with_how_it_fits(
    wanted: Any, value: Any, said: str, instead: str
) -> None:
    """An array, a tensor or a picture of Pillow is no value as it is; the refusal names its library,
    and how one is made of it.
    """
    with pytest.raises(BadValue) as refused:
        read(wanted).check(value)
    refusal = str(refused.value).replace("the output of a node that gives ", "")
    assert (refusal, refused.value.instead) == (said, instead)
