"""Netpbm's formats and PFM come as their headers say, or are refused in words."""

from __future__ import annotations

import io
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from imagen_flow import File
from imagen_flow._types.digest import digest_bytes
from imagen_flow_io.pictures import load_image


def load(folder: Path, content: bytes, **options: Any) -> np.ndarray:
    path = folder / "a.ppm"
    path.write_bytes(content)
    with pytest.raises(StopIteration) as end:  # no note before the picture
        next(load_image(File(path, digest_bytes(content), len(content), "a.ppm"), **options))
    return end.value.value.pixels


HEIGHT, WIDTH = 5, 11


def samples_of(channels: int, most: int) -> np.ndarray:
    found = np.random.default_rng(1).integers(
        0, most, (HEIGHT, WIDTH, channels), "uint16", endpoint=True
    )
    found[0, 0], found[0, 1] = 0, most
    return found


def meant(samples: np.ndarray, most: int) -> np.ndarray:
    full, dtype = (255, "uint8") if most < 256 else (65535, "uint16")
    return ((samples.astype("int64") * 2 * full + most) // (2 * most)).astype(dtype)


@pytest.mark.parametrize("most", [1, 7, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("text", [False, True])
def test_every_greatest_value_is_white(
    tmp_path: Path, most: int, channels: int, text: bool
) -> None:
    """PGM and PPM, in text and binary; above 255 the picture has 16 bits."""
    samples = samples_of(channels, most)
    head = f"P{(2 if text else 5) + (channels == 3)}\n# a comment\n{WIDTH} # another\n{HEIGHT}\n{most}\n".encode()
    body = (
        b"\n".join(b" ".join(b"%d" % v for v in row.reshape(-1)) for row in samples)
        if text
        else samples.astype("u1" if most < 256 else ">u2").tobytes()
    )
    found = load(tmp_path, head + body)
    wanted = meant(samples, most)
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["P1", "P1 close", "P4"])
def test_in_a_bitmap_1_is_black(tmp_path: Path, kind: str) -> None:
    """Digits may stand without space between them; a row of bits is filled up to bytes."""
    samples = samples_of(1, 1)[:, :, 0]
    close = b"" if kind == "P1 close" else b" "
    body = (
        np.packbits(samples.astype("uint8"), axis=1).tobytes()
        if kind == "P4"
        else b"# here\n" + b"\n".join(close.join(b"%d" % v for v in row) for row in samples)
    )
    assert np.array_equal(
        load(tmp_path, f"{kind[:2]} {WIDTH} {HEIGHT}\n".encode() + body)[:, :, 0],
        255 - samples * 255,
    )


@pytest.mark.parametrize(
    ("tuples", "channels"),
    [
        ("GRAYSCALE", 1),
        ("RGB", 3),
        ("GRAYSCALE_ALPHA", 2),
        ("RGB_ALPHA", 4),
        ("BLACKANDWHITE", 1),
        ("BLACKANDWHITE_ALPHA", 2),
        ("", 3),
    ],
)
@pytest.mark.parametrize("most", [1, 255, 65535])
def test_a_pam_has_alpha(tmp_path: Path, tuples: str, channels: int, most: int) -> None:
    """In a PAM 1 is white."""
    samples = samples_of(channels, most)
    named = f"TUPLTYPE {tuples}\n" if tuples else ""
    head = f"P7\n# by hand\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {channels}\nMAXVAL {most}\n{named}ENDHDR\n".encode()
    assert np.array_equal(
        load(tmp_path, head + samples.astype("u1" if most < 256 else ">u2").tobytes()),
        meant(samples, most),
    )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pfm_comes_as_it_stands(tmp_path: Path, channels: int, order: str) -> None:
    """Its rows come from the bottom; numbers outside of 0 to 1 are kept."""
    pixels = np.random.default_rng(1).normal(0, 3, (HEIGHT, WIDTH, channels)).astype("float32")
    head = f"{'PF' if channels == 3 else 'Pf'}\n{WIDTH} {HEIGHT}\n{'-1.0' if order == '<' else '1.0'}\n".encode()
    found = load(tmp_path, head + pixels[::-1].astype(f"{order}f4").tobytes())
    assert found.dtype == "float32"
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_what_pillow_writes_is_read(tmp_path: Path, mode: str) -> None:
    """PBM, PGM and PPM."""
    grey = samples_of(1, 65535)[:, :, 0]
    picture = (
        PIL.Image.fromarray(grey)
        if mode == "I;16"
        else PIL.Image.fromarray((grey >> 8).astype("uint8")).convert(mode)
    )
    stream = io.BytesIO()
    picture.save(stream, "PPM")
    wanted = np.array(picture) * 255 if mode == "1" else np.array(picture)
    assert np.array_equal(load(tmp_path, stream.getvalue()).squeeze(), wanted)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"P6\n", "is a damaged Netpbm picture (its header has no width); copy or export it again"),
        (
            b"P6 3 x 255\n",
            "is a damaged Netpbm picture (its header has no height); copy or export it again",
        ),
        (
            b"P6 3 3 0\n",
            "is a damaged Netpbm picture (its maximum value is 0, and must be 1 to 65535); copy or export it again",
        ),
        (
            b"P6 3 3 70000\n",
            "is a damaged Netpbm picture (its maximum value is 70000, and must be 1 to 65535); copy or export it again",
        ),
        (
            b"P6 3 3 255\n" + b"a" * 26,
            "is a damaged Netpbm picture (its pixels need 27 bytes, but it has 26); copy or export it again",
        ),
        (
            b"P5 1 1 9\n\x0a",
            "is a damaged Netpbm picture (it has a value of 10, above its declared maximum of 9); copy or export it again",
        ),
        (
            b"P2 9 1 9\n1",
            "is a damaged Netpbm picture (it has 9 samples, but only 2 bytes for them); copy or export it again",
        ),
        (
            b"P2 2 1 9\n1   \n",
            "is a damaged Netpbm picture (it should have 2 samples, but has 1); copy or export it again",
        ),
        (
            b"P2 2 1 9\n1 -2",
            "is a damaged Netpbm picture ('-2' is not a sample); copy or export it again",
        ),
        (
            b"P1 2 1\n1 2",
            "is a damaged Netpbm picture ('2' is not a sample); copy or export it again",
        ),
        (
            b"P7\nWIDTH 1\n",
            "is a damaged Netpbm picture (its header has no end); copy or export it again",
        ),
        (
            b"P7\nWIDTH 1\nENDHDR\n",
            "is a damaged Netpbm picture (its header has no HEIGHT); copy or export it again",
        ),
        (
            b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 1\nENDHDR\n12345",
            "is a PAM with 5 channels of the type ''; save it as grey or RGB, with or without alpha",
        ),
        (
            b"Pf 1 1 0\n1234",
            "is a damaged Netpbm picture (its header has no scale); copy or export it again",
        ),
        (
            b"P5 0 1 9\n",
            "is a damaged Netpbm picture (it has 0 x 1 pixels); copy or export it again",
        ),
    ],
)
def test_what_a_header_gets_wrong_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError) as refused:
        load(tmp_path, content)
    assert str(refused.value) == f"'a.ppm' {words}"


def test_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A header alone takes no memory, and text takes little more than its samples."""
    for content in (
        b"P6 9999 9999 65535\n",
        b"P3 9999 9999 65535\n1 2 3",
        b"P4 9999 9999\n",
        b"PF 9999 9999 -1\n",
        b"P2 3 3 9\n" + b"1" * 3_000_000,
    ):
        tracemalloc.start()
        with pytest.raises(ValueError):
            load(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
    many = b"P2 1000 400 9\n" + b"1 " * 400_000
    tracemalloc.start()
    assert load(tmp_path, many).shape == (400, 1000, 1)
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


def test_a_damaged_file_is_a_picture_or_a_message(tmp_path: Path) -> None:
    """Whatever bytes are changed or cut off."""
    draw = random.Random(1)
    whole = [b"P%d 4 3 300\n" % kind + bytes(range(72)) for kind in (5, 6)] + [
        b"P3 # x\n2 1 9\n1 2 3\n4 5 6",
        b"P1 3 1 101",
        b"Pf 1 1 -1\n1234",
        b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 1\nENDHDR\n1",
    ]
    for _ in range(300):
        content = bytearray(draw.choice(whole))
        content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            load(
                tmp_path,
                bytes(content[: draw.choice([len(content), draw.randrange(2, len(content))])]),
                max_pixels=1000,
            )
        except ValueError as refused:
            assert str(refused).startswith("'a.ppm' ")
