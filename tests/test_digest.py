from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_flow._types.digest import canonical, digest_bytes, digest_file
from imagen_flow._types.models import Model
from imagen_flow._types.value_digests import digest_list, digest_value
from imagen_flow._types.values import Absent, Audio, File, Folder, Image, Mask, Tensor

CONTENT = digest_bytes(b"hello")

#: The key format stands on these: when one of them changes, every store in the world is cold.
GOLDEN = {
    "bool": (True, "b96e72cec610ffa3d22dca6bf5b18d2da84f6a07"),
    "bool off": (False, "d445d8f8b63783745b36de27eb54ca2571602959"),
    "int": (1, "974da98629f64863725a6aa133013f3c886cd638"),
    "int large": (2**63, "5beffe3514d7fcef10f7dc15a0b42174318113e4"),
    "float": (0.1, "1d407fc8a8e31fbbff6050970dc52f61c2bd601b"),
    "float whole": (1.0, "a715d3e55d130e5c1e2a5f5a3b31556c8d33c259"),
    "float minus zero": (-0.0, "de659ceeff274daea12b190eae288dd331ff1818"),
    "text": ("1", "0329337a1b4807c18d0bbbadf0c5799fee9d4def"),
    "text empty": ("", "9485289c3b2efeb2988a8610ab9ada0b2686e200"),
    "text wide": ("red 圓 🎨", "8ee5ed5d678347baa6ab384e244cec18755a6474"),
    "text surrogate": ("\ud83d", "5d741b5335f6c61d42b77943c617469e913b9546"),
    "json": ({"b": [1, 2.5, None], "a": "x"}, "4b89401b4e05003cc9b2b099cbc06830eb6dc4a6"),
    "json null": (None, "b0b32c4f09b11188f222626540022b21eeefcd02"),
    "list": ([1, "a"], "5a7b6210114c7ef86fc70f68d33d9417cf717ff3"),
    "list empty": ([], "d5652e4bb01c3b73a66ca50595341b8be1a23815"),
    "list in list": ([[1], []], "e0333b183d573c1ecbe41070a1d30f36a4ebf7c2"),
    "absent": (Absent.value, "15ec09528f336a5332f3a372989a67aa802ead44"),
    "image": (
        Image(np.arange(12, dtype="uint8").reshape(2, 2, 3)),
        "ec011818bb7cafc60dc65337b6101f35fb36f1fa",
    ),
    "image 16": (
        Image(np.arange(4, dtype="uint16").reshape(2, 2, 1)),
        "862887e26d68f10fc146c6fccf8a17e89d0d8c48",
    ),
    "image float": (
        Image(np.linspace(0, 1, 4, dtype="float32").reshape(2, 2, 1)),
        "260ad3893f4baaebf7c09ce8042b488e430f49e1",
    ),
    "mask": (
        Mask(np.arange(4, dtype="uint8").reshape(2, 2)),
        "662f7930f19f30d965d94753ff3c6e4a7b8039c4",
    ),
    "tensor": (
        Tensor(np.arange(6, dtype="float32").reshape(2, 3), {"space": "latent", "a": "b"}),
        "0cf33aad770e8cf803f2573e8224e9b49e08e09d",
    ),
    "tensor of no axis": (
        Tensor(np.array(1.5, dtype="float32")),
        "c159f73881a65ec3293ca25ba9fc31e1cd969219",
    ),
    "tensor empty": (
        Tensor(np.zeros((0, 3), dtype="int64")),
        "4d70f17c2066f2dc6a6a298c301c42492b000230",
    ),
    "audio": (
        Audio(np.array([[0.0, 0.5, -0.5]], dtype="float32"), 44100),
        "6ff40c7f8bf2d5da30e8428ac2638d61268074ea",
    ),
    "file": (
        File(Path("/anywhere.txt"), CONTENT, 5, "greeting.txt"),
        "4e898cffb758cb34f6b04058122d6ed24f7ebae7",
    ),
    "folder": (Folder(Path("/anywhere"), CONTENT, ()), "b5531c7037f06c9f2947132a6a77202c308e8939"),
    "model": (Model(Path("/anywhere"), CONTENT), "15ea73041920eed5e96c9dc2108611b89beac46b"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_each_kind_has_the_digest_that_the_key_format_promises(name: str) -> None:
    """A value's digest is the same on every machine and in every version."""
    value, expected = GOLDEN[name]
    assert digest_value(value) == expected


def test_no_two_of_the_golden_values_share_a_digest() -> None:
    """Values that differ, be it in kind or shape only, have digests that differ."""
    assert len({digest_value(value) for value, _ in GOLDEN.values()}) == len(GOLDEN)


def test_a_name_that_changes_results_is_in_the_digest_of_a_model() -> None:
    """What `Loader.significant_name` makes of it; the reference is not."""
    model = Model(Path("/anywhere"), CONTENT, "./cat.safetensors", significant_name="cat")
    assert digest_value(model) == "a3d9ada3db02d14401134b9ddc58d7c6a978706b"
    assert digest_value(replace(model, significant_name="dog")) != digest_value(model)
    assert digest_value(replace(model, reference="./x")) == digest_value(model)


def test_a_bfloat16_tensor_has_the_digest_that_the_key_format_promises() -> None:
    """A dtype that numpy lacks is digested by its raw bits."""
    torch = pytest.importorskip("torch")
    data = torch.tensor([[1.0, -2.5]], dtype=torch.bfloat16)
    assert digest_value(Tensor(data)) == "b14af8957a26aefdb9fa3a6cb6d3e3ae919775c4"


def test_a_tensor_has_one_digest_whoever_holds_it() -> None:
    """torch and numpy data of the same content, strides aside, are one value."""
    torch = pytest.importorskip("torch")
    data = np.arange(6, dtype="float32").reshape(2, 3)
    assert digest_value(Tensor(torch.from_numpy(data.T.copy()).T)) == digest_value(Tensor(data))
    assert digest_value(Tensor(data.astype(">f4"))) == digest_value(Tensor(data))
    assert digest_value(Tensor(torch.tensor(1.5))) == digest_value(
        Tensor(np.array(1.5, dtype="float32"))
    )


def test_the_order_of_tags_and_of_keys_does_not_matter() -> None:
    """Mappings are digested by their sorted keys."""
    data = np.zeros(1, dtype="float32")
    assert digest_value(Tensor(data, {"a": "1", "b": "2"})) == digest_value(
        Tensor(data, {"b": "2", "a": "1"})
    )
    assert digest_value({"a": 1, "b": 2}) == digest_value({"b": 2, "a": 1})


def test_a_shape_without_axes_is_not_a_shape_of_one() -> None:
    """A single number and a row of one number are two values."""
    assert digest_value(Tensor(np.array(1.5))) != digest_value(Tensor(np.array([1.5])))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ({"a": float("nan")}, ValueError),
        ({1: "a"}, TypeError),
        ({"a": object()}, TypeError),
        (object(), TypeError),
        ({1, 2}, TypeError),
        (b"bytes", TypeError),
        (Tensor(np.array([object()])), TypeError),
        (Tensor(np.array(["text"])), TypeError),
        ([1, object()], TypeError),
    ],
)
def test_what_cannot_be_digested_is_refused(value: object, error: type[Exception]) -> None:
    """Nothing is ever digested to a constant, its repr or its address."""
    with pytest.raises(error):
        digest_value(value)


def test_a_complex_array_is_digested_by_its_bytes() -> None:
    """dtypes that memoryview cannot cast are no exception."""
    assert digest_value(Tensor(np.array([1 + 2j], dtype="complex64"))) != digest_value(
        Tensor(np.array([1 - 2j], dtype="complex64"))
    )


def test_a_file_is_digested_like_its_bytes(tmp_path: Path) -> None:
    """Reading in blocks changes nothing, and a check is called between them."""
    content = b"x" * (3 << 20)
    path = tmp_path / "large"
    path.write_bytes(content)
    calls: list[int] = []
    assert digest_file(path, check=lambda: calls.append(1)) == digest_bytes(content)
    assert len(calls) == 3


def test_a_file_that_grows_is_read_to_an_end(tmp_path: Path) -> None:
    """Whoever appends to a file while it is digested gives it another digest, but does not keep us
    reading.
    """
    path = tmp_path / "growing"
    path.write_bytes(b"hello")
    calls: list[int] = []

    def grow() -> None:
        calls.append(1)
        assert len(calls) < 10
        with open(path, "ab") as out:
            out.write(b"!")

    assert digest_file(path, check=grow) == digest_bytes(b"hello!")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON, JSON)
def test_equal_digests_mean_equal_canonical_text(one: object, other: object) -> None:
    """Two pieces of JSON data have one digest only if they are written alike."""
    assert (digest_value(one) == digest_value(other)) == (
        canonical(one) == canonical(other) and type(one) is type(other)
    )


@pytest.mark.parametrize("data", [{1: 2}, {"a": {1: 2}}, [{"a": [{None: 2}]}]])
def test_keys_that_are_not_text_have_no_digest_at_any_depth(data: object) -> None:
    """Written as JSON the key 1 would be the text "1", and two values would have one digest."""
    with pytest.raises(TypeError, match="a key of JSON data is text"):
        digest_value(data if isinstance(data, dict) else {"data": data})


def test_a_list_is_digested_by_its_elements() -> None:
    """A list's digest needs no values, only the digests of its elements."""
    assert digest_list([digest_value(1), digest_value("a")]) == digest_value([1, "a"])
