from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.values import Absent, Audio, File, FileChanged, Folder, Image, Mask, Tensor


def test_a_picture_is_height_width_channels() -> None:
    """A flat array gains its channel axis; the sizes are named."""
    picture = Image(np.zeros((2, 3), dtype="uint8"))
    assert (picture.height, picture.width, picture.channels, picture.has_alpha) == (2, 3, 1, False)


def test_a_picture_does_not_change() -> None:
    """Neither the field nor the pixels of a picture can be assigned."""
    picture = Image(np.zeros((2, 3, 3), dtype="uint8"))
    with pytest.raises(AttributeError):
        picture.pixels = np.ones((2, 3, 3), dtype="uint8")  # type: ignore[misc]  # that it fails is the test
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 3, 5), "uint8"), r"1 or 2 or 3 or 4 channels, not \(2, 3, 5\)"),
        (np.zeros(3, "uint8"), r"not \(3,\)"),
        (np.zeros((0, 3, 3), "uint8"), "at least one pixel, not 3 x 0"),
        (np.zeros((2, 3, 3), "int32"), "uint8, uint16, float32, not int32"),
        (np.full((2, 3, 3), np.nan, "float32"), "NaN or infinite"),
        (np.full((2, 3, 3), np.inf, "float64"), "NaN or infinite"),
    ],
)
def test_pixels_in_no_stated_form_are_refused(pixels: np.ndarray, message: str) -> None:
    """A plugin never has to ask which of several conventions it was handed."""
    with pytest.raises(ValueError, match=message):
        Image(pixels)


def test_near_forms_are_brought_to_a_stated_one() -> None:
    """Double and half precision become single; truth values become full range."""
    assert Image(np.zeros((1, 1, 3))).pixels.dtype == "float32"
    assert Mask(np.array([[True, False]])).pixels.ravel().tolist() == [255, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pillow_and_back_is_the_same_picture(channels: int) -> None:
    """8-bit pictures of every channel count pass through Pillow unchanged."""
    pixels = np.arange(6 * channels, dtype="uint8").reshape(2, 3, channels)
    assert Image.from_pil(Image(pixels).to_pil()).pixels.tolist() == pixels.tolist()


@pytest.mark.parametrize(("mode", "channels"), [("1", 3), ("P", 3), ("CMYK", 3), ("PA", 4)])
def test_other_pillow_modes_become_rgb(mode: str, channels: int) -> None:
    """A palette with alpha keeps it."""
    assert Image.from_pil(PIL.Image.new(mode, (3, 2))).channels == channels


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_a_pillow_picture_of_16_bits_keeps_them(mode: str) -> None:
    """In each of the modes that Pillow has for them."""
    levels = [0, 1, 255, 256, 300, 65535]
    picture = PIL.Image.new(mode, (6, 1))
    for x, level in enumerate(levels):
        picture.putpixel((x, 0), level)
    found = Image.from_pil(picture)
    assert (found.pixels.dtype, found.pixels[0, :, 0].tolist()) == ("uint16", levels)


def test_a_transparent_grey_of_16_bits_becomes_alpha() -> None:
    """As Pillow tells of a PNG."""
    picture = PIL.Image.fromarray(np.array([[256, 257]], "uint16"))
    picture.info["transparency"] = 257
    assert Image.from_pil(picture).pixels.tolist() == [[[256, 65535], [257, 0]]]


def test_a_pillow_picture_of_floats_stays_as_it_stands() -> None:
    """1 is white, and what lies outside is kept."""
    floats = np.array([[-0.5, 0.0, 0.25, 1.0, 3.0]], "float32")
    found = Image.from_pil(PIL.Image.fromarray(floats))
    assert (found.pixels.dtype, found.pixels[0, :, 0].tolist()) == ("float32", floats[0].tolist())


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_beyond_16_bits_have_no_white(value: int) -> None:
    """The message says which values there are and what to do."""
    with pytest.raises(
        ValueError, match=f"of mode I has values from .*{value}.*bring them to 0 to 65535"
    ):
        Image.from_pil(PIL.Image.new("I", (1, 1), value))


@pytest.mark.parametrize(
    ("mode", "colour", "info", "wanted"),
    [
        ("La", (50, 100), {}, [127, 100]),
        ("RGBa", (50, 0, 0, 100), {}, [127, 0, 0, 100]),
        ("RGB", (9, 8, 7), {"transparency": (9, 8, 7)}, [9, 8, 7, 0]),
        ("L", 9, {"transparency": 9}, [9, 0]),
        ("L", 9, {"transparency": 8}, [9, 255]),
        ("1", 1, {"transparency": 1}, [255, 0]),
        ("HSV", (0, 255, 255), {}, [255, 0, 0]),
        ("CMYK", (0, 255, 255, 0), {}, [255, 0, 0]),
    ],
)
def test_alpha_and_colour_survive_in_every_pillow_mode(
    mode: str, colour: object, info: dict[str, object], wanted: list[int]
) -> None:
    """Premultiplied alpha is divided out; a colour named as transparent becomes alpha."""
    picture = PIL.Image.new(mode, (1, 1), colour)
    picture.info.update(info)
    assert Image.from_pil(picture).pixels.tolist() == [[wanted]]


def test_depths_are_converted_by_rounding() -> None:
    """Full range is full range in every depth, and 8 bits survive the way through float and back."""
    levels = np.arange(256, dtype="uint8").reshape(16, 16)
    assert Image(levels).as_float().as_uint8().pixels[:, :, 0].tolist() == levels.tolist()
    assert (
        Image(levels.astype("uint16") * 257).as_uint8().pixels[:, :, 0].tolist() == levels.tolist()
    )
    assert Image(np.array([[-1.0, 0.5, 2.0]])).as_uint8().pixels.ravel().tolist() == [0, 128, 255]
    assert Image(np.array([[65535]], dtype="uint16")).as_float().pixels.ravel().tolist() == [1.0]


@pytest.mark.parametrize(
    ("dtype", "full", "near"), [("uint8", 255, 1), ("uint16", 65535, 1), ("float32", 1.0, 1e-6)]
)
def test_alpha_is_laid_over_black(dtype: str, full: float, near: float) -> None:
    """`rgb` gives three channels whatever there was, in the same depth."""
    half = Image(np.array([[[full, 0, full, full / 2]]]).astype(dtype)).rgb().pixels
    assert half.dtype == dtype
    assert half.ravel().tolist() == pytest.approx([full / 2, 0, full / 2], abs=near)
    grey = Image(np.array([[[full, 0]]]).astype(dtype)).rgb().pixels
    assert grey.ravel().tolist() == [0, 0, 0]
    assert Image(np.array([[full]]).astype(dtype)).rgb().pixels.ravel().tolist() == [full] * 3


def test_a_mask_weighs_from_0_to_1() -> None:
    """A mask has one channel, and as weights no channel axis."""
    assert Mask(np.array([[0, 255]], dtype="uint8")).as_float().tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match="a mask is .* with 1 channels"):
        Mask(np.zeros((2, 2, 3), "uint8"))


def test_a_tensor_is_had_in_either_form() -> None:
    """numpy and torch data answer alike; bfloat16 comes to numpy as float32."""
    torch = pytest.importorskip("torch")
    ours = Tensor(np.arange(6, dtype="float32").reshape(2, 3), {"space": "latent"})
    theirs = Tensor(torch.arange(6, dtype=torch.bfloat16).reshape(2, 3))
    assert (ours.shape, ours.dtype, theirs.shape, theirs.dtype) == (
        (2, 3),
        "float32",
        (2, 3),
        "bfloat16",
    )
    assert (
        ours.torch(dtype=torch.float64).tolist() == theirs.numpy().tolist() == ours.numpy().tolist()
    )
    assert theirs.numpy().dtype == "float32"
    with pytest.raises(TypeError):
        ours.tags["space"] = "pixel"  # type: ignore[index]  # that it fails is the test


def test_the_torch_form_of_a_tensor_may_be_written_to() -> None:
    """A node that works in place on a copy does not change the value that others hold."""
    pytest.importorskip("torch")
    value = Tensor(np.zeros(2, dtype="float32"))
    value.torch()[0] = 1
    assert value.numpy().tolist() == [0, 0]


def test_sound_is_channels_by_samples() -> None:
    """A flat array is one channel."""
    assert Audio(np.zeros(5), 8000).samples.shape == (1, 5)
    with pytest.raises(ValueError, match=r"sound is \(channels, count\)"):
        Audio(np.zeros((1, 2, 3)), 8000)


def test_a_file_gives_the_bytes_that_were_digested_or_says_so(tmp_path: Path) -> None:
    """A file that changed or went since planning is noticed when it is read."""
    path = tmp_path / "a.TXT"
    path.write_bytes(b"\xef\xbb\xbfhello")
    file = File(path, digest_bytes(path.read_bytes()), 8, "notes/a.TXT")
    assert (file.read_text(), file.suffix) == ("hello", ".txt")
    path.write_bytes(b"other")
    with pytest.raises(FileChanged, match=r"notes/a.TXT has changed"):
        file.read_bytes()
    path.unlink()
    with pytest.raises(FileChanged, match=r"notes/a.TXT is gone"):
        file.read_bytes()


def test_a_folder_is_gone_through_file_by_file() -> None:
    """Iterating over a folder gives its files in order; the folder's digest has their names."""
    files = (File(Path("a"), "", 0, "a"), File(Path("b"), "", 0, "b"))
    assert list(Folder(Path(), "", files)) == [
        File(Path("a"), "", 0, "a", significant_name="a"),
        File(Path("b"), "", 0, "b", significant_name="b"),
    ]


def test_absent_is_false_and_says_its_name() -> None:
    """The absent value reads as such in messages."""
    assert (bool(Absent.value), repr(Absent.value)) == (False, "absent")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_picture_shows_itself_in_a_notebook(channels: int, dtype: str) -> None:
    """As a PNG of 8 bits with the same channels; a mask as a grey picture."""
    unit = np.linspace(0, 1, 6 * channels, dtype="float32").reshape(2, 3, channels)
    full = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    picture = Image((unit * full).round(0 if full > 1 else 6).astype(dtype))
    shown = np.asarray(PIL.Image.open(io.BytesIO(picture._repr_png_())))
    assert np.array_equal(shown.reshape(2, 3, channels), picture.as_uint8().pixels)
    mask = Mask(picture.pixels[:, :, :1])
    assert PIL.Image.open(io.BytesIO(mask._repr_png_())).mode == "L"
