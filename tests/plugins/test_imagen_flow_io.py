"""Files of every usual kind come into a graph in one stated form, or are refused with words that
help.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms, ImageOps

import imagen_flow_io
from imagen_flow import File, Folder
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.value_digests import digest_value
from imagen_flow_io.documents import load_json, load_text
from imagen_flow_io.folders import list_files
from imagen_flow_io.folders import name as file_name
from imagen_flow_io.pictures import load_image as image_load
from imagen_flow_io.pictures import load_mask
from imagen_flow_io.tables import load_table


def load_image(file: Any, **params: Any) -> Any:
    """Run the node, which has no note, and give the picture."""
    with pytest.raises(StopIteration) as end:
        next(image_load(file, **params))
    return end.value.value


def a_file(folder: Path, name: str, content: bytes) -> File:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return File(path, digest_bytes(content), len(content), name)


def saved(folder: Path, name: str, picture: PIL.Image.Image, **options: Any) -> File:
    stream = io.BytesIO()
    picture.save(
        stream,
        format={"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM"}.get(
            name.split(".")[1], name.split(".")[1].upper()
        ),
        **options,
    )
    return a_file(folder, name, stream.getvalue())


def colourful(
    height: int = 5, width: int = 7, channels: int = 3, dtype: str = "uint8"
) -> np.ndarray:
    most = np.iinfo(dtype).max
    return np.random.default_rng(1).integers(
        0, most, (height, width, channels), dtype=dtype, endpoint=True
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png16(pixels: np.ndarray, *extra: bytes, filtered: bool = False) -> bytes:
    """Write a 16-bit PNG, which Pillow does only for grey."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view("uint8")
    if filtered:  # filter 1: each byte less the one a pixel before
        step = channels * 2
        rows = np.concatenate([rows[:, :step], rows[:, step:] - rows[:, :-step]], axis=1)
    body = b"".join((b"\1" if filtered else b"\0") + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.ppm"])
def test_a_lossless_8_bit_picture_comes_as_it_is(tmp_path: Path, name: str) -> None:
    """What was saved without loss is loaded bit for bit."""
    pixels = colourful()
    assert np.array_equal(
        load_image(saved(tmp_path, name, PIL.Image.fromarray(pixels))).pixels, pixels
    )


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {}), ("a.webp", {}), ("a.gif", {}), ("a.avif", {})]
)
def test_a_lossy_picture_comes_as_pillow_decodes_it(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """Pillow does the decoding."""
    file = saved(tmp_path, name, PIL.Image.fromarray(colourful(16, 16)), **options)
    assert np.array_equal(
        load_image(file).pixels,
        np.array(PIL.Image.open(io.BytesIO(file.read_bytes())).convert("RGB")),
    )


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("1", 1), ("P", 3)]
)
def test_channels_follow_the_mode(tmp_path: Path, mode: str, channels: int) -> None:
    """Grey stays grey, 1-bit too; a palette becomes RGB; alpha is kept."""
    picture = PIL.Image.fromarray(colourful(channels=4 if "A" in mode else 3)).convert(mode)
    loaded = load_image(saved(tmp_path, "a.png", picture))
    assert (loaded.channels, loaded.pixels.dtype) == (channels, "uint8")
    assert np.array_equal(
        loaded.pixels,
        np.array(picture.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])).reshape(
            5, 7, channels
        ),
    )


def test_a_transparent_palette_colour_becomes_alpha(tmp_path: Path) -> None:
    """A palette with transparency gives RGBA."""
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1])
    assert load_image(saved(tmp_path, "a.png", picture, transparency=1)).pixels.tolist() == [
        [[255, 0, 0, 255], [0, 255, 0, 0]]
    ]


def test_a_transparent_grey_becomes_alpha(tmp_path: Path) -> None:
    """A grey picture whose PNG names one grey as transparent gives grey with alpha."""
    picture = PIL.Image.fromarray(np.array([[10, 20]], dtype="uint8"))
    assert load_image(saved(tmp_path, "a.png", picture, transparency=20)).pixels.tolist() == [
        [[10, 255], [20, 0]]
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_16_bit_png_keeps_every_bit(tmp_path: Path, channels: int, filtered: bool) -> None:
    """Pillow alone would give 8 bits of 16-bit colour."""
    pixels = colourful(channels=channels, dtype="uint16")
    loaded = load_image(a_file(tmp_path, "a.png", png16(pixels, filtered=filtered)))
    assert loaded.pixels.dtype == "uint16"
    assert np.array_equal(loaded.pixels, pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_a_16_bit_png_is_told_by_all_its_bits(
    tmp_path: Path, channels: int
) -> None:
    """Two colours that differ in the lowest bit alone are kept apart."""
    pixels = np.array([[[256] * channels, [257] * channels]], dtype="uint16")
    loaded = load_image(
        a_file(tmp_path, "a.png", png16(pixels, chunk(b"tRNS", struct.pack(">H", 257) * channels)))
    )
    assert loaded.pixels.tolist() == [[[256] * channels + [65535], [257] * channels + [0]]]


def tiff(pixels: np.ndarray, order: str, compression: int = 1, extra: int | None = None) -> bytes:
    """Write a 16-bit colour TIFF of one strip; compression 8 is Deflate."""
    height, width, channels = pixels.shape
    body = pixels.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if compression == 8 else body
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, None),
        (259, 3, 1, compression),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
    ]
    entries += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(body))]
    entries += [(338, 3, 1, extra)] if extra is not None else []
    at = 8 + len(body) + len(body) % 2
    tail = at + 2 + 12 * len(entries) + 4
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        field = (
            struct.pack(f"{order}I", tail)
            if value is None
            else struct.pack(
                f"{order}HH" if kind == 3 else f"{order}I", *([value, 0] if kind == 3 else [value])
            )
        )
        directory += struct.pack(f"{order}HHI", tag, kind, count) + field
    directory += struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", at)
        + body
        + b"\0" * (len(body) % 2)
        + directory
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_16_bit_colour_tiff_keeps_every_bit(
    tmp_path: Path, order: str, compression: int, channels: int
) -> None:
    """Either byte order, compressed or not, with alpha or without."""
    pixels = colourful(channels=channels, dtype="uint16")
    file = a_file(tmp_path, "a.tif", tiff(pixels, order, compression, 2 if channels == 4 else None))
    assert np.array_equal(load_image(file).pixels, pixels)


def test_a_float_tiff_comes_as_it_stands(tmp_path: Path) -> None:
    """Values outside 0 to 1 are kept."""
    pixels = np.array([[-0.5, 0.25], [1.0, 7.5]], dtype="float32")
    loaded = load_image(saved(tmp_path, "a.tif", PIL.Image.fromarray(pixels)))
    assert loaded.pixels.dtype == "float32"
    assert np.array_equal(loaded.pixels[:, :, 0], pixels)


def test_nan_pixels_are_refused(tmp_path: Path) -> None:
    """A float picture with NaN is named and refused."""
    file = saved(tmp_path, "a.tif", PIL.Image.fromarray(np.array([[0, np.nan]], dtype="float32")))
    with pytest.raises(ValueError) as refused:
        load_image(file)
    assert str(refused.value) == "'a.tif' has NaN or infinite pixels; export it again without them"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_orientation_is_honoured(tmp_path: Path, orientation: int, name: str) -> None:
    """Each of EXIF's eight orientations gives the upright picture that Pillow's exif_transpose
    gives.
    """
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = saved(tmp_path, name, PIL.Image.fromarray(colourful(16, 24)), exif=exif)
    with PIL.Image.open(file.path) as picture:
        upright = ImageOps.exif_transpose(picture)
    assert np.array_equal(load_image(file).pixels, np.array(upright.convert("RGB")))
    assert load_image(file).pixels.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))


def test_orientation_of_a_16_bit_picture_is_honoured(tmp_path: Path) -> None:
    """What is decoded twice is turned once."""
    pixels = colourful(channels=3, dtype="uint16")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = a_file(tmp_path, "a.png", png16(pixels, chunk(b"eXIf", exif.tobytes()[6:])))
    assert np.array_equal(load_image(file).pixels, np.rot90(pixels, -1))


def test_cmyk_without_profile_becomes_rgb_plainly(tmp_path: Path) -> None:
    """The plain conversion is Pillow's."""
    picture = PIL.Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    loaded = load_image(saved(tmp_path, "a.tif", picture))
    assert np.array_equal(loaded.pixels, np.array(picture.convert("RGB")))


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    """sRGB is the stated form already, so every bit stays."""
    pixels = colourful()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(
        load_image(
            saved(tmp_path, "a.png", PIL.Image.fromarray(pixels), icc_profile=profile)
        ).pixels,
        pixels,
    )


def test_an_srgb_profile_keeps_16_bits(tmp_path: Path) -> None:
    """Where there is nothing to convert, depth stays."""
    pixels = colourful(dtype="uint16")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = load_image(
        a_file(tmp_path, "a.png", png16(pixels, chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))))
    )
    assert np.array_equal(loaded.pixels, pixels)


def gamma_profile(gamma: float) -> bytes:
    """Write a matrix profile with the primaries of sRGB (adapted to D50) and a plain gamma: what
    lcms must undo is known exactly.
    """

    def s15(number: float) -> bytes:
        return struct.pack(">i", round(number * 65536))

    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(s15, numbers))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"plain gamma\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.4360747, 0.2225045, 0.0139322),
        b"gXYZ": xyz(0.3850649, 0.7168786, 0.0971045),
        b"bXYZ": xyz(0.1430804, 0.0606169, 0.7141733),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s12s4s",
        at + len(body),
        b"lcms",
        0x02100000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0),
        b"acsp",
    )
    head += b"\0" * (68 - len(head)) + b"".join(map(s15, (0.9642, 1, 0.8249)))
    return head + b"\0" * (128 - len(head)) + table + body


def srgb_of(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_an_embedded_profile_is_applied(tmp_path: Path) -> None:
    """A picture in gamma 1.8 comes out in sRGB's own curve."""
    pixels = np.repeat(np.arange(0, 256, 15, dtype="uint8")[None, :, None], 3, axis=2)
    loaded = load_image(
        saved(tmp_path, "a.png", PIL.Image.fromarray(pixels), icc_profile=gamma_profile(1.8))
    )
    wanted = srgb_of((pixels / 255) ** 1.8) * 255
    assert np.abs(loaded.pixels - wanted).max() <= 1.5
    assert np.abs(pixels - wanted).max() > 5


def test_a_profile_leaves_alpha_alone(tmp_path: Path) -> None:
    """Alpha is no colour."""
    pixels = colourful(channels=4)
    loaded = load_image(
        saved(tmp_path, "a.png", PIL.Image.fromarray(pixels), icc_profile=gamma_profile(1.8))
    )
    assert np.array_equal(loaded.pixels[:, :, 3], pixels[:, :, 3])
    assert not np.array_equal(loaded.pixels, pixels)


def test_a_16_bit_picture_keeps_its_depth_through_a_profile(tmp_path: Path) -> None:
    """Curves and a matrix are applied to all 16 bits."""
    pixels = np.repeat(np.arange(0, 65536, 4369, dtype="uint16")[None, :, None], 3, axis=2)
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(gamma_profile(1.8)))
    loaded = load_image(a_file(tmp_path, "a.png", png16(pixels, profile)))
    assert loaded.pixels.dtype == "uint16"
    assert (
        np.abs(loaded.pixels - srgb_of((pixels / 65535) ** (round(1.8 * 256) / 256)) * 65535).max()
        <= 8
    )


def test_a_broken_profile_is_passed_over(tmp_path: Path) -> None:
    """A profile that cannot be read is as good as none."""
    pixels = colourful()
    assert np.array_equal(
        load_image(
            saved(tmp_path, "a.png", PIL.Image.fromarray(pixels), icc_profile=b"no profile")
        ).pixels,
        pixels,
    )


def header_only(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (
            50_000,
            50_000,
            "'a.png' has 2,500,000,000 pixels, more than max_pixels allows (100,000,000); make the picture smaller, or cut it into parts",
        ),
        (
            11_000,
            10_000,
            "'a.png' has 110,000,000 pixels (11,000 x 10,000), more than max_pixels allows (100,000,000); raise max_pixels or make the picture smaller",
        ),
    ],
)
def test_too_many_pixels_are_refused_from_the_header(
    tmp_path: Path, width: int, height: int, words: str
) -> None:
    """The picture is not decoded: its pixels are not even there."""
    with pytest.raises(ValueError) as refused:
        load_image(a_file(tmp_path, "a.png", header_only(width, height)))
    assert str(refused.value) == words


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.gif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, name: str) -> None:
    """At whatever place a file ends early, the answer is a ValueError that names the file."""
    whole = saved(tmp_path, name, PIL.Image.fromarray(colourful(64, 64))).read_bytes()
    for size in range(0, len(whole) - 2, max(1, len(whole) // 23)):
        try:
            load_image(a_file(tmp_path, name, whole[:size]))
        except ValueError as refused:
            assert str(refused).startswith(f"'{name}' is ")
        else:
            assert size > len(whole) * 0.8


def test_a_damaged_picture_says_what_to_do(tmp_path: Path) -> None:
    """The message says what is wrong and how to mend it."""
    whole = saved(tmp_path, "a.jpg", PIL.Image.fromarray(colourful(64, 64))).read_bytes()
    with pytest.raises(ValueError) as refused:
        load_image(a_file(tmp_path, "a.jpg", whole[: len(whole) // 2]))
    assert str(refused.value).startswith(
        "'a.jpg' is a damaged JPEG picture (image file is truncated"
    )
    assert str(refused.value).endswith("); copy or export it again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "'a.png' is empty; was it copied completely?"),
        (
            b"hello",
            "'a.png' is not a readable picture (its content is of no known format); use PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM, or copy the file again if it is damaged",
        ),
        (
            b"%PDF-1.7",
            "'a.png' is not a readable picture (it looks like a PDF); use PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM, or copy the file again if it is damaged",
        ),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The message says what the file looks like."""
    with pytest.raises(ValueError) as refused:
        load_image(a_file(tmp_path, "a.png", content))
    assert str(refused.value) == words


def test_a_mask_is_alpha_where_there_is_some(tmp_path: Path) -> None:
    """Alpha that hides something is taken; else the luminance."""
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 10]]], dtype="uint8")
    assert load_mask(saved(tmp_path, "a.png", PIL.Image.fromarray(pixels))).pixels.tolist() == [
        [[255], [10]]
    ]
    opaque = np.array([[[255, 0, 0, 255], [255, 255, 255, 255]]], dtype="uint8")
    assert load_mask(saved(tmp_path, "a.png", PIL.Image.fromarray(opaque))).pixels.tolist() == [
        [[76], [255]]
    ]
    assert load_mask(
        saved(tmp_path, "a.png", PIL.Image.fromarray(pixels)), channel="luminance"
    ).pixels.tolist() == [[[76], [76]]]


def test_a_mask_of_an_alpha_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message offers the other channel."""
    with pytest.raises(ValueError) as refused:
        load_mask(saved(tmp_path, "a.png", PIL.Image.fromarray(colourful())), channel="alpha")
    assert (
        str(refused.value)
        == "port 'channel' is alpha, but 'a.png' has none; set channel: luminance, or use a picture with alpha"
    )


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int, int, int],
    indices: list[int],
    clear: int | None = None,
) -> bytes:
    """Write a GIF of four colours, whose frame is a part of its screen."""
    bits = ""  # from the last code to the first
    for count, index in enumerate(
        indices
    ):  # codes of three bits; 4 clears the table before they grow
        bits = f"{index:03b}" + ("100" if count % 2 == 0 else "") + bits
    bits = "101" + bits
    packed = int(bits, 2).to_bytes(-(-len(bits) // 8), "little")
    control = b"!\xf9\x04" + bytes([clear is not None, 0, 0, clear or 0, 0])
    head = (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x81, 2, 0)
        + bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    )
    return (
        head
        + control
        + b","
        + struct.pack("<HHHHB", *frame, 0)
        + bytes([2, len(packed)])
        + packed
        + b"\0;"
    )


def test_what_the_first_frame_of_a_gif_leaves_open_is_transparent(tmp_path: Path) -> None:
    """As every browser shows it; Pillow paints it with the first colour."""
    red, green, blue, clear = [255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 0, 0, 0]
    assert load_image(
        a_file(tmp_path, "a.gif", gif((2, 2), (0, 0, 2, 2), [0, 1, 2, 2]))
    ).pixels.tolist() == [[red[:3], green[:3]], [blue[:3]] * 2]
    assert load_image(
        a_file(tmp_path, "b.gif", gif((3, 2), (1, 1, 1, 1), [1]))
    ).pixels.tolist() == [[clear] * 3, [clear, green, clear]]
    shown = load_image(a_file(tmp_path, "c.gif", gif((2, 2), (0, 1, 2, 1), [1, 3], clear=3))).pixels
    assert shown[:, :, 3].tolist() == [[0, 0], [255, 0]]


def bmp(bits: int, data: bytes, *masks: int, profile: bytes = b"") -> bytes:
    """Write a bitmap of 2 x 1 pixels with the fifth header."""
    head = struct.pack(
        "<IiiHHIIiiII", 124, 2, 1, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0
    ) + struct.pack("<4I", *masks, *[0] * (4 - len(masks)))
    head += b"DEBM" if profile else b" niW"
    head = head.ljust(112, b"\0") + struct.pack("<II", 124 + len(data), len(profile)) + b"\0" * 4
    return (
        b"BM"
        + struct.pack("<IHHI", 138 + len(data) + len(profile), 0, 0, 138)
        + head
        + data
        + profile
    )


@pytest.mark.parametrize(
    ("bits", "data", "masks", "shown"),
    [
        (24, bytes([1, 2, 3, 4, 5, 6, 0, 0]), (), [[3, 2, 1], [6, 5, 4]]),
        (32, bytes([1, 2, 3, 77, 4, 5, 6, 0]), (), [[3, 2, 1], [6, 5, 4]]),
        (
            32,
            bytes([1, 2, 3, 77, 4, 5, 6, 0]),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            [[3, 2, 1, 77], [6, 5, 4, 0]],
        ),
        (
            32,
            bytes([1, 2, 3, 77, 4, 5, 6, 0]),
            (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            [[1, 2, 3, 77], [4, 5, 6, 0]],
        ),
        (
            16,
            struct.pack("<HH", 0xF81F, 0x07E0),
            (0xF800, 0x07E0, 0x1F),
            [[255, 0, 255], [0, 255, 0]],
        ),
    ],
)
def test_the_fields_of_a_bitmap_are_read(
    tmp_path: Path, bits: int, data: bytes, masks: tuple[int, ...], shown: list[list[int]]
) -> None:
    """Alpha counts where a mask says that there is some."""
    assert load_image(a_file(tmp_path, "a.bmp", bmp(bits, data, *masks))).pixels.tolist() == [shown]


def test_the_profile_of_a_bitmap_is_applied(tmp_path: Path) -> None:
    """The fifth header holds one, which Pillow does not give."""
    file = a_file(tmp_path, "a.bmp", bmp(24, bytes([55] * 6 + [0, 0]), profile=gamma_profile(1.0)))
    assert np.abs(load_image(file).pixels.astype(int) - 128).max() <= 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.bmp",
            bmp(32, b"\0" * 8, 0x3FF00000, 0xFFC00, 0x3FF),
            "is of a kind that cannot be read (Unsupported BMP bitfields layout); save it as PNG",
        ),
        (
            "a.jpg",
            imagecodecs.jpeg8_encode(np.zeros((8, 8, 3), "uint16"), bitspersample=12),
            "is a JPEG of 12 bits per channel, and only 8 can be read; save it as PNG or TIFF",
        ),
    ],
)
def test_a_sound_picture_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """The message says what it is and how to save it otherwise."""
    with pytest.raises(ValueError) as refused:
        load_image(a_file(tmp_path, name, content))
    assert str(refused.value) == f"'{name}' {words}"


def test_inks_of_a_jpeg_are_those_that_its_program_means(tmp_path: Path) -> None:
    """Programs write CMYK turned round in a JPEG."""
    inks = np.zeros((16, 16, 4), "uint8")
    inks[:, :, 1] = 200
    file = saved(
        tmp_path, "a.jpg", PIL.Image.frombytes("CMYK", (16, 16), inks.tobytes()), quality=95
    )
    assert np.abs(load_image(file).pixels[8, 8].astype(int) - [255, 55, 255]).max() <= 3


@pytest.mark.parametrize(("code", "shown"), [((1, 13), 55), ((1, 8), 128)])
def test_the_code_points_of_an_avif_are_applied(
    tmp_path: Path, code: tuple[int, int], shown: int
) -> None:
    """They stand in its box of colour information."""
    content = imagecodecs.avif_encode(
        np.full((16, 16, 3), 55, "uint8"), level=100, primaries=code[0], transfer=code[1], matrix=6
    )
    assert (
        np.abs(load_image(a_file(tmp_path, "a.avif", content)).pixels.astype(int) - shown).max()
        <= 1
    )


def test_an_avif_of_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    """As a PNG is."""
    content = imagecodecs.avif_encode(
        np.full((16, 16, 3), 55, "uint8"), primaries=9, transfer=16, matrix=9
    )
    with pytest.raises(
        ValueError, match="'a.avif' is a picture of high dynamic range .PQ.*tone-map it"
    ):
        load_image(a_file(tmp_path, "a.avif", content))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_exif_that_makes_no_sense_is_passed_over(tmp_path: Path, name: str) -> None:
    """No pixel depends on it."""
    picture = PIL.Image.fromarray(colourful(16, 16))
    plain = saved(tmp_path, name, picture)
    for exif in (
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01junk",
        b"Exif\0\0",
        b"junk",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
    ):
        assert np.array_equal(
            load_image(saved(tmp_path, "b" + name[1:], picture, exif=exif)).pixels,
            load_image(plain).pixels,
        )


def test_text_comes_without_its_byte_order_mark(tmp_path: Path) -> None:
    """Any script, any line ends."""
    assert (
        load_text(a_file(tmp_path, "ä 图.txt", b"\xef\xbb\xbf" + "猫 🐈\r\nend\r".encode()))
        == "猫 🐈\nend\n"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"abc\xff",
            "'a.txt' is not UTF-8 text (byte 4 is invalid); save it as UTF-8, or is it another kind of file?",
        ),
        (
            b"a" * 11,
            "'a.txt' has 11 bytes, more than max_bytes allows (10); raise max_bytes or use a smaller file",
        ),
    ],
)
def test_odd_text_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The message says why and how to mend it."""
    with pytest.raises(ValueError) as refused:
        load_text(a_file(tmp_path, "a.txt", content), max_bytes=10)
    assert str(refused.value) == words


def test_json_comes_as_data(tmp_path: Path) -> None:
    """A byte order mark is dropped."""
    data = {"a": [1, 2.5, None, True], "ä": {"猫": "🐈"}}
    assert (
        load_json(
            a_file(
                tmp_path, "a.json", b"\xef\xbb\xbf" + json.dumps(data, ensure_ascii=False).encode()
            )
        )
        == data
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": }', "'a.json' is not JSON: expecting value at line 1, column 7; fix the file"),
        (b'{"a": NaN}', "'a.json' cannot be used: NaN is not a JSON number; fix the file"),
        (
            b'{"a": 1, "a": 2}',
            "'a.json' cannot be used: the key 'a' appears twice in one mapping; fix the file",
        ),
        (b"[" * 200_000, "'a.json' is nested too deeply; flatten the data"),
    ],
)
def test_odd_json_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The message says where and how to mend it."""
    with pytest.raises(ValueError) as refused:
        load_json(a_file(tmp_path, "a.json", content))
    assert str(refused.value) == words


def a_folder(folder: Path, *names: str) -> Folder:
    files = tuple(a_file(folder, name, name.encode()) for name in sorted(names))
    return Folder(folder, digest_bytes(" ".join(names).encode()), files)


PHOTOS = ("b.PNG", "a.png", "notes.txt", "sub/c.jpg", "sub/deep/d.png", "sub.png", "[x].png")


@pytest.mark.parametrize(
    ("pattern", "recursive", "names"),
    [
        (
            "*",
            True,
            ["[x].png", "a.png", "b.PNG", "notes.txt", "sub/c.jpg", "sub/deep/d.png", "sub.png"],
        ),
        ("*.png", True, ["[x].png", "a.png", "b.PNG", "sub/deep/d.png", "sub.png"]),
        ("*.png", False, ["[x].png", "a.png", "b.PNG", "sub.png"]),
        (
            "*.png, *.jpg",
            True,
            ["[x].png", "a.png", "b.PNG", "sub/c.jpg", "sub/deep/d.png", "sub.png"],
        ),
        ("[ab].png", True, ["a.png", "b.PNG"]),
        ("[!ab].png", True, ["sub/deep/d.png"]),
        ("?.jpg", True, ["sub/c.jpg"]),
        ("sub/*", True, ["sub/c.jpg"]),
        ("sub/**", True, ["sub/c.jpg", "sub/deep/d.png"]),
        ("**/*.png", True, ["[x].png", "a.png", "b.PNG", "sub/deep/d.png", "sub.png"]),
        ("**/deep/*", True, ["sub/deep/d.png"]),
        ("[[]x].png", True, ["[x].png"]),
    ],
)
def test_a_folder_is_listed_by_patterns(
    tmp_path: Path, pattern: str, recursive: bool, names: list[str]
) -> None:
    """Files come sorted by their relative names, folder by folder."""
    listed = list_files(a_folder(tmp_path, *PHOTOS), pattern=pattern, recursive=recursive)
    assert sorted(file.path.relative_to(tmp_path).as_posix() for file in listed) == sorted(names)
    assert [file.path.relative_to(tmp_path).parts for file in listed] == sorted(
        file.path.relative_to(tmp_path).parts for file in listed
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"pattern": "../*"},
            "port 'pattern': '../*' leads out of the folder; patterns are relative to it, for example '*.png' or 'photos/*.png'",
        ),
        (
            {"pattern": "/etc/*"},
            "port 'pattern': '/etc/*' leads out of the folder; patterns are relative to it, for example '*.png' or 'photos/*.png'",
        ),
        (
            {"pattern": " , "},
            "port 'pattern' is empty; write '*' for all files, or for example '*.png, *.jpg'",
        ),
        (
            {"limit": 2},
            "7 files match '*', more than limit allows (2); narrow the pattern or raise limit",
        ),
        (
            {"pattern": "*.gif"},
            "none of the 7 files of 'photos' matches '*.gif' (there are .jpg, .png, .txt); fix the pattern, or set empty: true if that is expected",
        ),
    ],
)
def test_a_listing_that_cannot_be_right_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """The message says what is there."""
    with pytest.raises(ValueError) as refused:
        list_files(a_folder(tmp_path / "photos", *PHOTOS), **options)
    assert str(refused.value) == words


def test_an_empty_listing_is_right_if_said_so(tmp_path: Path) -> None:
    """`empty: true` gives an empty list."""
    assert list_files(a_folder(tmp_path), empty=True) == []


def test_a_pattern_of_many_stars_is_quick(tmp_path: Path) -> None:
    """A hostile pattern does not hang the run."""
    assert list_files(a_folder(tmp_path, "a" * 200), pattern="*a" * 60 + "b", empty=True) == []


def test_a_name_is_taken_apart(tmp_path: Path) -> None:
    """By the last dot; folders are those between the listed folder and the file."""
    file = a_file(tmp_path, "a", b"x")
    assert file_name(
        replace(file, name="in/deep/fox.tar.GZ", significant_name="in/deep/fox.tar.GZ")
    ) == (
        "fox.tar.GZ",
        "fox.tar",
        ".gz",
        "in/deep",
        "in/deep/fox.tar.GZ",
    )
    assert file_name(replace(file, significant_name="a")) == ("a", "a", "", "", "a")


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    """It could not be written into a text."""
    file = a_file(tmp_path, "a", b"x")
    with pytest.raises(ValueError, match=r"the name 'a\\udcff.png' is not valid Unicode"):
        file_name(replace(file, name="a\udcff.png", significant_name="a\udcff.png"))


@pytest.mark.parametrize(
    ("name", "content", "options", "rows"),
    [
        ("a.csv", "a,b\r\n1,x\r\n2,y\r\n", {}, [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]),
        ("a.csv", "\ufeffa\n1\n\n2", {}, [{"a": "1"}, {"a": "2"}]),
        ("a.csv", 'a,b\n"x, ""y""\nz",\n', {}, [{"a": 'x, "y"\nz', "b": ""}]),
        (
            "a.csv",
            "a,b,c,d,e\n1,-2.5e3,true,,007\n",
            {"cells": "values"},
            [{"a": 1, "b": -2500.0, "c": True, "d": None, "e": "007"}],
        ),
        ("a.tsv", "a\tb\n1\t2\n", {}, [{"a": "1", "b": "2"}]),
        ("a.csv", "a;b\n1;2\n", {"delimiter": ";"}, [{"a": "1", "b": "2"}]),
        ("a.csv", "a,b\n", {}, []),
        ("a.jsonl", '{"a": 1}\n\n{"b": "x\u2028y"}\r\n[1]', {}, [{"a": 1}, {"b": "x\u2028y"}, [1]]),
        ("a.ndjson", "", {}, []),
    ],
)
def test_a_table_is_read_row_by_row(
    name: str, content: str, options: dict[str, Any], rows: list[Any], tmp_path: Path
) -> None:
    """CSV by its header, JSON Lines as they are; empty lines are skipped."""
    assert load_table(a_file(tmp_path, name, content.encode()), **options) == rows


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("a.csv", "", {}, "it has no row that names the columns"),
        ("a.csv", "a,b\n1,2\n\n3\n", {}, "the row in line 4 has 1 cells instead of 2"),
        ("a.csv", 'a,b\n"x\ny",2,3\n', {}, "the row in line 2 has 3 cells instead of 2"),
        (
            "a.csv",
            'a,b\n1,2\n"x,2\n',
            {},
            "the row in line 3 cannot be read: it has a double quote that is not closed",
        ),
        (
            "a.csv",
            f"a,b\n1,2\n{'x' * 140_000},2\n",
            {},
            "the row in line 3 cannot be read: it has a cell of more than 131,072 characters, or a"
            " double quote that is not closed; write longer texts into a JSON Lines file",
        ),
        ("a.csv", "a,a\n", {}, "two columns are named 'a' in line 1"),
        ("a.csv", "\na,\n", {}, "column 2 has no name in line 2"),
        (
            "a.csv",
            ",".join(f"c{i}" for i in range(200_000)) + ",c0",
            {},
            "two columns are named 'c0' in line 1",
        ),
        (
            "a.jsonl",
            '{"a": 1}\n{"a" 1}\n',
            {},
            "line 2 is not JSON: expecting ':' delimiter at column 6",
        ),
        ("a.jsonl", '{"a": 1, "a": 2}', {}, "line 1: the key 'a' appears twice in one mapping"),
        ("a.jsonl", "9" * 5_000, {}, "line 1 has a number with too many digits"),
        ("a.jsonl", "\nNaN", {}, "line 2: NaN is not a JSON number"),
        ("a.jsonl", "[" * 200_000, {}, "line 1 is nested too deeply"),
        ("a.jsonl", "1\n2\n3\n", {"limit": 2}, "it has more than 2 rows; raise limit"),
        ("a.csv", "x" * 200, {"max_bytes": 100}, "more than max_bytes allows"),
    ],
)
def test_a_table_that_is_none_is_refused(
    name: str, content: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """With the line where it goes wrong."""
    with pytest.raises(ValueError) as refused:
        load_table(a_file(tmp_path, name, content.encode()), **options)
    assert words in str(refused.value)
    assert f"'{name}'" in str(refused.value)


def test_every_node_conforms(tmp_path: Path) -> None:
    """Each node has help, typed ports, and the same result twice."""
    picture = saved(tmp_path, "a.png", PIL.Image.fromarray(colourful()))
    calls: dict[str, tuple[Any, ...]] = {
        "image.load": (picture,),
        "mask.load": (picture,),
        "text.load": (a_file(tmp_path, "a.txt", b"x"),),
        "json.load": (a_file(tmp_path, "a.json", b"{}"),),
        "table.load": (a_file(tmp_path, "a.csv", b"a,b\n1,2\n"),),
        "folder.list": (a_folder(tmp_path / "photos", *PHOTOS),),
        "dataset.load": (a_folder(tmp_path / "set", "a.png", "a.txt"),),
        "file.name": (replace(picture, significant_name="a.png"),),
    }
    nodes = {node.type.name: node for node in imagen_flow_io.imagen_flow_nodes()}
    assert nodes.keys() == calls.keys()
    for name, node in nodes.items():
        assert (
            node.type.doc.split("\n")[0].endswith((".", ":"))
            or ". " in node.type.doc.split("\n")[0]
        ), name
        call = load_image if name == "image.load" else node
        assert digest_value(call(*calls[name])) == digest_value(call(*calls[name])), name
