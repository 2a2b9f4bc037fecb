from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from imagen_flow._types.artifact import Artifact
from imagen_flow._types.codec import Codec, Codecs
from imagen_flow._types.models import Model
from imagen_flow._types.value_digests import digest_value
from imagen_flow._types.values import Absent, Audio, File, Folder, Image, Mask, Tensor

CODECS = Codecs()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4)
    ),
    max_leaves=12,
)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
PIXELS = (
    arrays.arrays("uint8", SHAPES)
    | arrays.arrays("uint16", SHAPES)
    | arrays.arrays("float32", SHAPES, elements=st.floats(-2, 2, width=32, allow_subnormal=True))
)
DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    ">f4",
    ">u2",
]


def back(value: object) -> object:
    kind, _, data = CODECS.encode(value)
    return CODECS.decode(kind, data)


@settings(max_examples=60, deadline=None)
@given(JSON.filter(lambda data: not isinstance(data, list)))
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    """Numbers keep their type and every bit, texts keep lone surrogates."""
    again = back(value)
    assert repr(again) == repr(value) or again == value
    assert type(again) is type(value)
    assert digest_value(again) == digest_value(value)


@settings(max_examples=40, deadline=None)
@given(PIXELS)
def test_every_picture_comes_back_pixel_by_pixel(pixels: np.ndarray) -> None:
    """All depths and channel counts are kept without loss; 8 bits as PNG, more as safetensors."""
    kind, suffix, data = CODECS.encode(Image(pixels))
    again = CODECS.decode(kind, data)
    assert (kind, suffix) == ("image", ".png" if pixels.dtype == "uint8" else ".safetensors")
    assert again.pixels.dtype == pixels.dtype
    assert again.pixels.tobytes() == pixels.tobytes()
    assert again.pixels.shape == pixels.shape


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_mask_comes_back_as_a_mask(dtype: str) -> None:
    """A mask and a grey picture are encoded alike and told apart by kind."""
    again = back(Mask(np.arange(6, dtype=dtype).reshape(2, 3)))
    assert isinstance(again, Mask)
    assert again.pixels[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    st.dictionaries(
        st.text(st.characters(codec=None), max_size=5), st.text(max_size=5), max_size=3
    ),
)
def test_every_array_comes_back_bit_by_bit(data: np.ndarray, tags: dict[str, str]) -> None:
    """Shape, dtype, NaN payloads and tags survive, in any memory order."""
    value = Tensor(data, tags)
    again = back(value)
    assert isinstance(again, Tensor)
    assert (again.data.dtype.name, again.data.shape, dict(again.tags)) == (
        data.dtype.name,
        data.shape,
        tags,
    )
    assert again.data.tobytes() == np.asarray(data, dtype=data.dtype.newbyteorder("=")).tobytes()
    assert digest_value(again) == digest_value(value)


def test_equal_values_have_equal_bytes() -> None:
    """Encoding is canonical: several tags change nothing, since the library that writes them keeps
    one metadata key in order.
    """
    tags = {f"tag{i}": str(i) for i in range(20)}
    one = CODECS.encode(Tensor(np.zeros(2), tags))
    other = CODECS.encode(Tensor(np.zeros(2), dict(reversed(tags.items()))))
    assert one == other


def test_bfloat16_is_kept_exactly() -> None:
    """A dtype that numpy lacks comes back as a torch tensor with the same bits."""
    torch = pytest.importorskip("torch")
    for data in (
        torch.randn(3, 5).bfloat16(),
        torch.randn(3, 5).bfloat16().T,
        torch.tensor(1.5).bfloat16(),
    ):
        again = back(Tensor(data, {"space": "latent"}))
        assert again.dtype == "bfloat16"
        assert torch.equal(again.data, data)
        assert digest_value(again) == digest_value(Tensor(data, {"space": "latent"}))


def test_a_torch_tensor_of_a_plain_dtype_comes_back_as_numpy() -> None:
    """What numpy can hold is handed back without torch."""
    torch = pytest.importorskip("torch")
    again = back(Tensor(torch.arange(6, dtype=torch.float32).reshape(2, 3).T))
    assert isinstance(again.data, np.ndarray)
    assert again.data.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_sound_comes_back_with_its_rate() -> None:
    """Samples are kept exactly."""
    samples = np.array([[0.0, 0.1, -1.0], [1.0, -0.5, 0.3]], dtype="float32")
    again = back(Audio(samples, 48000))
    assert (again.rate, again.samples.tobytes()) == (48000, samples.tobytes())


def test_absent_is_one() -> None:
    """The absent value stays the one there is."""
    assert back(Absent.value) is Absent.value


def test_places_below_the_root_are_written_relative_to_it(tmp_path: Path) -> None:
    """A store can be moved: what lies in it is found again in its new place, what lies outside
    where it was.
    """
    digest = "ab" * 20
    inner = File(tmp_path / "objects" / "ab" / "cd.png", digest, 5, "圖.png")
    outer = File(Path("/elsewhere/a b.png"), digest, 5, "a b.png")
    folder = Folder(
        tmp_path / "trees" / "x",
        digest,
        (File(tmp_path / "trees" / "x" / "sub" / "y", digest, 3, "sub/y"),),
    )
    model = Model(tmp_path / "trees" / "m", digest, "./m")
    for value in (inner, folder, model):
        kind, _, data = CODECS.encode(value, tmp_path)
        assert str(tmp_path).encode() not in data
        assert CODECS.decode(kind, data, tmp_path) == value
        moved = CODECS.decode(kind, data, tmp_path / "new")
        assert moved.path == tmp_path / "new" / value.path.relative_to(tmp_path)
    kind, _, data = CODECS.encode(outer, tmp_path)
    assert CODECS.decode(kind, data, tmp_path / "new") == outer


@pytest.mark.parametrize(
    "place", ["../out", "/etc/passwd", "a/../../b", "", ".", "c:\\x", "a\\..\\b", "a\0b"]
)
def test_a_place_that_would_leave_the_store_is_refused(place: str, tmp_path: Path) -> None:
    """Bytes in a store are not trusted to name other files."""
    data = json.dumps({"digest": "ab" * 20, "size": 1, "name": "x", "in": place}).encode()
    with pytest.raises(ValueError):
        CODECS.decode("file", data, tmp_path)


def png(width: int, height: int, raw: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


GOOD_TENSOR = CODECS.encode(Tensor(np.arange(6.0), {"a": "b"}))[2]
GOOD_PNG = CODECS.encode(Image(np.arange(27, dtype="uint8").reshape(3, 3, 3)))[2]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("int", b""),
        ("int", b"1.5"),
        ("int", b"true"),
        ("bool", b"1"),
        ("float", b"1"),
        ("float", b"NaN"),
        ("float", b"1" + b"0" * 5000),
        ("text", b"1"),
        ("text", b"\xff"),
        ("json", b"[" * 100_000),
        ("json", b"{"),
        ("image", b""),
        ("image", b"GIF89a"),
        ("image", GOOD_PNG[:-30]),
        ("image", GOOD_PNG[:40]),
        ("image", GOOD_TENSOR),
        ("mask", GOOD_PNG),
        ("tensor", GOOD_TENSOR[:-1]),
        ("tensor", GOOD_TENSOR + b"x"),
        ("tensor", b"\xff" * 100),
        ("tensor", GOOD_PNG),
        ("audio", GOOD_TENSOR),
        ("file", b"{}"),
        ("file", b'{"path":"/x","digest":"zz","size":1,"name":"x"}'),
        ("file", b'{"path":"/x","digest":"' + b"a" * 40 + b'","size":-1,"name":"x"}'),
        ("folder", b'{"path":"/x","digest":"' + b"a" * 40 + b'","files":[{"name":"../y"}]}'),
        ("folder", b'{"path":"/x","digest":"' + b"a" * 40 + b'","files":3}'),
        ("model", b"[]"),
        ("list", b"[]"),
        ("no.such", b""),
    ],
)
def test_odd_bytes_are_refused(kind: str, data: bytes) -> None:
    """Whatever is wrong with bytes, ValueError says so, and no more memory is taken than they can
    justify.
    """
    with pytest.raises(ValueError):
        CODECS.decode(kind, data)


def test_a_png_that_promises_more_than_its_bytes_can_hold_is_refused_unread() -> None:
    """A header alone does not make anyone take gigabytes."""
    with pytest.raises(ValueError, match="bytes cannot hold 60000 x 60000 pixels"):
        CODECS.decode("image", png(60_000, 60_000, b""))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([("tensor", GOOD_TENSOR), ("image", GOOD_PNG)]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)
def test_a_flipped_byte_is_never_more_than_a_value_error(
    good: tuple[str, bytes], at: int, flip: int
) -> None:
    """A damaged object either decodes to something (whose digest then differs) or raises
    ValueError.
    """
    kind, data = good
    bent = bytearray(data)
    bent[at % len(data)] ^= flip
    try:
        CODECS.decode(kind, bytes(bent))
    except ValueError:
        pass


def test_a_large_picture_of_our_own_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit on pixels guards against strangers' files; a picture that the project itself
    made comes back whatever the limit.
    """
    import PIL.Image

    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    pixels = np.zeros((64, 64, 3), dtype="uint8")
    assert back(Image(pixels)).pixels.tobytes() == pixels.tobytes()


def test_plain_values_need_neither_torch_nor_pillow() -> None:
    """A stored float32 tensor comes back without importing torch."""
    script = (
        "import sys, numpy as np\n"
        "from imagen_flow._types.codec import Codecs\n"
        "from imagen_flow._types.values import Tensor, Image\n"
        "c = Codecs(); c.digest(3); c.encode('x')\n"
        "assert 'PIL' not in sys.modules\n"
        "c.decode('tensor', c.encode(Tensor(np.zeros(3, 'float32')))[2])\n"
        "c.decode('image', c.encode(Image(np.zeros((2, 2, 3), 'uint8')))[2])\n"
        "print('torch' in sys.modules)\n"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


@dataclass(frozen=True)
class Pose:
    x: int
    y: int


POSE = Codec(
    "test.Pose",
    Pose,
    encode=lambda p: f"{p.x},{p.y}".encode(),
    decode=lambda b: Pose(*map(int, b.decode().split(","))),
    suffix=".pose",
)


def test_a_plugins_own_type_crosses_edges_by_its_codec() -> None:
    """Its digest is over its kind and its bytes; lists of it are lists."""
    codecs = Codecs([POSE])
    assert codecs.kind(Pose(1, 2)) == "test.Pose"
    assert codecs.encode(Pose(1, 2)) == ("test.Pose", ".pose", b"1,2")
    assert codecs.decode("test.Pose", b"1,2") == Pose(1, 2)
    assert codecs.digest(Pose(1, 2)) != codecs.digest(Pose(2, 1))
    listed = codecs.artifact([Pose(1, 2), 3])
    assert listed.items == (
        Artifact(codecs.digest(Pose(1, 2)), "test.Pose"),
        Artifact(digest_value(3), "int"),
    )
    with pytest.raises(TypeError, match="Pose is no value that can cross an edge"):
        Codecs().digest(Pose(1, 2))
    with pytest.raises(ValueError, match="no test.Pose"):
        codecs.decode("test.Pose", b"\xff")


def test_codecs_that_clash_are_refused_with_both_names() -> None:
    """Two codecs for one kind or one type cannot both be in force."""
    with pytest.raises(ValueError, match=r"'test.Other' for .*Pose and 'test.Pose' for .*Pose"):
        Codecs([POSE, Codec("test.Other", Pose, POSE.encode, POSE.decode)])
    with pytest.raises(ValueError, match="clash"):
        Codecs([POSE, Codec("test.Pose", complex, POSE.encode, POSE.decode)])


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("image", ".x"),
        ("", ".x"),
        ("a b", ".x"),
        ("a\n", ".x"),
        ("test.Pose", "x"),
        ("test.Pose", "./x"),
    ],
)
def test_a_codec_names_a_kind_of_its_own_and_a_harmless_ending(kind: str, suffix: str) -> None:
    """A kind is one word that is not taken; an ending is letters."""
    with pytest.raises(ValueError):
        Codec(kind, Pose, POSE.encode, POSE.decode, suffix)


def test_a_list_is_named_with_its_elements() -> None:
    """An artifact of a list says what it holds, so that it can be planned unread."""
    artifact = CODECS.artifact([1, ["a"]])
    inner = Artifact(digest_value(["a"]), "list", (Artifact(digest_value("a"), "text"),))
    assert artifact == Artifact(
        digest_value([1, ["a"]]), "list", (Artifact(digest_value(1), "int"), inner)
    )


def test_lists_that_nest_without_end_are_refused() -> None:
    """Lists nest 32 deep and no deeper, so a list that holds itself has no digest."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nest deeper than 32"):
        CODECS.artifact(endless)
    nested: list[object] = []
    for _ in range(31):
        nested = [nested]
    assert CODECS.artifact(nested).kind == "list"
    with pytest.raises(ValueError, match="nest deeper than 32"):
        CODECS.artifact([nested])
