from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_flow._types import image_files as pictures
from imagen_flow._types.values import Image


def noise(channels: int = 3, dtype: str = "uint8", size: tuple[int, int] = (5, 7)) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype == "float32":
        return random.random((*size, channels), dtype="float32")
    return random.integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def opened(data: bytes) -> PIL.Image.Image:
    picture = PIL.Image.open(BytesIO(data))
    picture.load()
    return picture


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """Put a chunk right behind the header."""
    made = chunk(kind, body)
    if crc is not None:
        made = made[:-4] + struct.pack(">I", crc)
    return png[:33] + made + png[33:]


# -- encoding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_8_bits_come_back_as_they_were(channels: int, ending: str) -> None:
    """PNG and TIFF hold 8-bit pictures of every number of channels exactly."""
    pixels = noise(channels)
    found = np.array(opened(pictures.encode(pixels, ending)))
    assert np.array_equal(found.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bit_grey_comes_back_as_it_was(ending: str) -> None:
    """16 bits of grey stay 16 bits."""
    pixels = noise(1, "uint16")
    assert np.array_equal(np.array(opened(pictures.encode(pixels, ending))), pixels[:, :, 0])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_in_a_png_is_16_bits(channels: int) -> None:
    """A PNG holds 16 bits of colour and alpha, which Pillow reads (in 8) but does not write."""
    pixels = noise(channels, "uint16", (40, 3))
    data = pictures.encode(pixels, ".png")
    parts = chunks(data)
    width, height, depth = struct.unpack(">IIB", parts[0][1][:9])
    rows = np.frombuffer(
        zlib.decompress(b"".join(b for k, b in parts if k == b"IDAT")), "uint8"
    ).reshape(height, -1)
    whole = np.add.accumulate(
        rows[:, 1:], axis=0, dtype="uint8"
    )  # filter 2: each row is the difference to the one above
    assert (width, height, depth, set(rows[:, 0])) == (3, 40, 16, {2})
    assert np.array_equal(whole.copy().view(">u2").reshape(pixels.shape), pixels)
    seen = opened(data)
    assert seen.size == (3, 40)
    if channels > 2:
        assert np.abs(np.array(seen, dtype=int) - Image(pixels).as_uint8().pixels).max() <= 1


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_tiff_holds_deep_pictures_exactly(channels: int, dtype: str) -> None:
    """A TIFF holds 16 bits and floats with all their channels; its tags say so."""
    pixels = noise(channels, dtype)
    data = pictures.encode(pixels, ".tif")
    (count,) = struct.unpack("<H", data[8:10])
    tags = {}
    for i in range(count):
        tag, kind, number, value = struct.unpack("<HHII", data[10 + 12 * i : 22 + 12 * i])
        size = {3: 2, 4: 4}[kind]
        raw = (
            struct.pack("<I", value) if size * number <= 4 else data[value : value + size * number]
        )
        tags[tag] = struct.unpack(f"<{number}{'H' if kind == 3 else 'I'}", raw[: size * number])
    assert (tags[256], tags[257], tags[277]) == ((7,), (5,), (channels,))
    assert tags[258] == (pixels.dtype.itemsize * 8,) * channels
    assert tags[339] == ((3 if dtype == "float32" else 1),) * channels
    assert tags.get(338) == ((2,) if channels in (2, 4) else None)
    strip = zlib.decompress(data[tags[273][0] : tags[273][0] + tags[279][0]])
    assert np.array_equal(np.frombuffer(strip, dtype).reshape(pixels.shape), pixels)


def test_a_float_picture_is_rounded_to_8_bits_in_a_png() -> None:
    """Floats are clipped to 0…1 and rounded where the file holds 8 bits."""
    pixels = np.array([[[-1.0], [0.5], [2.0]]], "float32")
    assert np.array(opened(pictures.encode(pixels, ".png"))).tolist() == [[0, 128, 255]]


def test_alpha_is_laid_over_white_in_a_jpeg() -> None:
    """JPEG has no alpha: what is transparent becomes white."""
    pixels = np.zeros((16, 16, 4), "uint8")
    pixels[:, 8:, 3] = 255
    found = np.array(opened(pictures.encode(pixels, ".jpg")), dtype=int)
    assert found[:, 2].min() >= 250
    assert found[:, 13].max() <= 5


@pytest.mark.parametrize("channels", [3, 4])
def test_a_webp_is_lossless(channels: int) -> None:
    """WebP holds 8-bit colour exactly, what is under full transparency too."""
    pixels = noise(channels)
    assert np.array_equal(np.array(opened(pictures.encode(pixels, ".webp"))), pixels)


@pytest.mark.parametrize(("ending", "near"), [(".webp", 0), (".jpg", 2)])
@pytest.mark.parametrize(("dtype", "full"), [("uint16", 65535), ("float32", 1.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pictures_are_rounded_to_8_bits_where_the_format_has_no_more(
    ending: str, near: int, dtype: str, full: float, channels: int
) -> None:
    """All of the range, dark to white: nothing is clipped."""
    levels = (
        np.repeat(np.linspace(0, full, 16), 256)
        .reshape(16, 16, 16)
        .transpose(0, 2, 1)
        .reshape(256, 16)
    )
    pixels = np.repeat(levels[:, :, None], channels, axis=2).astype(dtype)
    found = np.array(opened(pictures.encode(pixels, ending)).convert("RGB"), dtype=int)
    assert np.abs(found[:, :, :1] - np.rint(levels[:, :, None] * (255 / full))).max() <= near


@pytest.mark.parametrize(("ending", "side"), [(".webp", 16_384), (".jpg", 65_501)])
def test_a_format_that_is_too_small_says_so(ending: str, side: int) -> None:
    """A picture that a format cannot hold is refused with the format's limit."""
    with pytest.raises(ValueError, match="at most"):
        pictures.encode(np.zeros((1, side, 3), "uint8"), ending)


# -- provenance in a PNG ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_provenance_is_one_uncompressed_chunk_before_the_pixels(dtype: str) -> None:
    """A PNG carries provenance as exactly one uncompressed iTXt chunk before IDAT, which other
    programs can read.
    """
    data = pictures.embed(pictures.encode(noise(3, dtype), ".png"), '{"a":"大 🎨"}')
    kinds = [kind for kind, _ in chunks(data)]
    assert kinds.count(b"iTXt") == 1
    assert kinds.index(b"iTXt") < kinds.index(b"IDAT")
    assert dict(chunks(data))[b"iTXt"] == b"imagen_flow\0\0\0\0\0" + '{"a":"大 🎨"}'.encode()
    assert opened(data).text["imagen_flow"] == '{"a":"大 🎨"}'
    assert pictures.read_embedded(BytesIO(data)) == '{"a":"大 🎨"}'


def test_embedding_again_replaces_the_text_and_nothing_else() -> None:
    """What an earlier run embedded is replaced; the rest of the file stays byte for byte."""
    plain = with_chunk(pictures.encode(noise(), ".png"), b"tEXt", b"Author\0me")
    first = pictures.embed(plain, "first")
    assert pictures.embed(first, "second") == pictures.embed(plain, "second")
    assert [c for c in chunks(first) if c[0] != b"iTXt"] == chunks(plain)


def test_a_signed_picture_is_left_alone() -> None:
    """Nothing is written into a PNG with Content Credentials."""
    signed = with_chunk(pictures.encode(noise(), ".png"), b"caBX", b"jumbf")
    assert pictures.is_signed(signed)
    with pytest.raises(ValueError, match="Content Credentials"):
        pictures.embed(signed, "text")


def test_text_up_to_the_limit_goes_in_and_comes_out() -> None:
    """A megabyte of provenance fits, a byte more does not; Pillow can read it too."""
    png = pictures.encode(noise(), ".png")
    room = pictures.TEXT_LIMIT - len(b"imagen_flow\0\0\0\0\0")
    data = pictures.embed(png, "x" * room)
    assert pictures.read_embedded(BytesIO(data)) == "x" * room
    assert opened(data).text["imagen_flow"] == "x" * room
    with pytest.raises(ValueError, match="too long"):
        pictures.embed(png, "x" * (room + 1))


OURS = b"imagen_flow\0\0\0\0\0"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda png: png[:20], "ends too early"),
        (lambda png: b"GIF89a" + png, "no PNG"),
        (lambda png: with_chunk(png, b"iTXt", OURS + b"{}", crc=1), "check sum"),
        (
            lambda png: with_chunk(
                png, b"iTXt", b"imagen_flow\0\1\0\0\0" + zlib.compress(b"{}")[:-4]
            ),
            "ends too early",
        ),
        (lambda png: with_chunk(png, b"zTXt", b"imagen_flow\0\0no zlib"), "cannot be decompressed"),
        (
            lambda png: with_chunk(png, b"zTXt", b"imagen_flow\0\1" + zlib.compress(b"{}")),
            "does not know",
        ),
        (
            lambda png: with_chunk(
                png, b"zTXt", b"imagen_flow\0\0" + zlib.compress(b"x" * 1_000_001)
            ),
            "longer than",
        ),
        (lambda png: with_chunk(png, b"iTXt", b"imagen_flow\0\2\0\0\0{}"), "another form"),
        (lambda png: with_chunk(png, b"iTXt", OURS + b"\xff\xfe"), "UTF-8"),
        (lambda png: with_chunk(png, b"iTXt", OURS + b"x" * 1_000_001), "longer than"),
        (
            lambda png: with_chunk(with_chunk(png, b"iTXt", OURS + b"{}"), b"iTXt", OURS + b"[]"),
            "twice",
        ),
        (
            lambda png: with_chunk(
                with_chunk(png, b"zTXt", b"imagen_flow\0\0" + zlib.compress(b"{}")),
                b"iTXt",
                OURS + b"[]",
            ),
            "twice",
        ),
        (
            lambda png: png[:33] + struct.pack(">I", 900_000) + b"iTXt" + OURS + b"{}",
            "ends in the middle",
        ),
        (lambda png: png[:33] + struct.pack(">I", 0xFFFFFFFF) + b"iTXt" + OURS, "no sense"),
        (lambda png: png[:33] + b"\0\0\0\0\0\0\0\0" + png[33:], "no sense"),
        (lambda png: png[:33] + chunk(b"tEXt", b"") * 10_001 + png[33:], "more than 10000 chunks"),
    ],
)
def test_damaged_and_forged_files_are_refused_in_words(damage: object, words: str) -> None:
    """Whatever is odd about an untrusted PNG is a ValueError that says what."""
    with pytest.raises(ValueError, match=words):
        pictures.read_embedded(BytesIO(damage(pictures.encode(noise(), ".png"))))  # type: ignore[operator]


FORMS = {
    "iTXt": (b"iTXt", OURS + '{"a":"é"}'.encode()),
    "iTXt with a language": (b"iTXt", b"imagen_flow\0\0\0en\0provenance\0" + '{"a":"é"}'.encode()),
    "iTXt compressed": (b"iTXt", b"imagen_flow\0\1\0\0\0" + zlib.compress('{"a":"é"}'.encode())),
    "zTXt": (b"zTXt", b"imagen_flow\0\0" + zlib.compress('{"a":"é"}'.encode("latin-1"))),
    "zTXt in UTF-8": (b"zTXt", b"imagen_flow\0\0" + zlib.compress('{"a":"é"}'.encode())),
    "tEXt": (b"tEXt", b"imagen_flow\0" + '{"a":"é"}'.encode("latin-1")),
    "tEXt in UTF-8": (b"tEXt", b"imagen_flow\0" + '{"a":"é"}'.encode()),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_text_that_another_program_moved_or_rewrote_is_found(form: str, behind: bool) -> None:
    """Before the pixels or behind them, compressed or not, as any kind of text chunk; it breaks no
    seal, and embedding again replaces it.
    """
    plain = pictures.encode(noise(), ".png")
    kind, content = FORMS[form]
    moved = (
        plain[:-12] + chunk(kind, content) + plain[-12:]
        if behind
        else with_chunk(plain, kind, content)
    )
    assert pictures.read_embedded(BytesIO(moved)) == '{"a":"é"}'
    assert pictures.seal_of(BytesIO(moved), png=True) == pictures.seal_of(BytesIO(plain), png=True)
    assert pictures.embed(moved, "again") == pictures.embed(plain, "again")
    twice = with_chunk(moved, b"iTXt", OURS + '{"a":"é"}'.encode())
    assert pictures.read_embedded(BytesIO(twice)) == '{"a":"é"}'


def test_text_is_read_from_a_file_whose_pixels_are_cut_off() -> None:
    """What is missing of the pixels is no fault of the text before them."""
    plain = pictures.encode(noise(), ".png")
    assert pictures.read_embedded(BytesIO(pictures.embed(plain, "text")[:-40])) == "text"
    assert pictures.read_embedded(BytesIO(plain[:-40])) is None


def test_a_huge_foreign_text_is_passed_over_unread() -> None:
    """Another program's text is skipped by its length: a file that claims 2 GB of it costs nothing."""

    class Counting(BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, 1 << 40 if size is None or size < 0 else size)
            return super().read(size)

    png = pictures.encode(noise(), ".png")
    stream = Counting(
        png[:33] + struct.pack(">I", 0x7FFFFFFF) + b"iTXt" + b"Comment\0" + b"x" * 100
    )
    with pytest.raises(ValueError, match="too early"):
        pictures.read_embedded(stream)
    assert stream.most <= 100


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_make_the_reader_fail_otherwise(noise_: bytes, at: int) -> None:
    """Any damage to a PNG gives its text, nothing, or a ValueError."""
    data = bytearray(
        pictures.embed(pictures.encode(np.zeros((2, 2, 3), "uint8"), ".png"), '{"some":"text"}')
    )
    data[at : at + len(noise_)] = noise_
    for read in (pictures.read_embedded, lambda s: pictures.seal_of(s, png=True)):
        try:
            read(BytesIO(bytes(data)))
        except ValueError:
            pass


def test_the_seal_covers_all_but_our_own_text(tmp_path: Path) -> None:
    """The seal of a PNG stays when provenance changes and breaks when anything else does."""
    png = pictures.encode(noise(), ".png")
    seal = pictures.seal_of(BytesIO(png), png=True)
    embedded = pictures.embed(png, "text")
    assert pictures.seal_of(BytesIO(embedded), png=True) == seal
    assert pictures.seal_of(BytesIO(embedded), png=False) != seal
    for changed in (
        with_chunk(embedded, b"tEXt", b"Author\0me"),
        embedded + b"more",
        pictures.encode(noise() ^ 1, ".png"),
    ):
        assert pictures.seal_of(BytesIO(changed), png=True) != seal
