"""Every kind of PNG comes as its chunks mean, or is refused in words: a table of all kinds, written
here, with libpng (in imagecodecs) as the other reader.
"""

from __future__ import annotations

import io
import itertools
import random
import struct
import tracemalloc
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from imagen_flow import File
from imagen_flow._types.digest import digest_bytes
from imagen_flow_io.pictures import load_image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
HEIGHT, WIDTH = 11, 13


def load(folder: Path, content: bytes, name: str = "a.png", **options: Any) -> np.ndarray:
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(StopIteration) as end:  # no note before the picture
        next(load_image(File(path, digest_bytes(content), len(content), name), **options))
    return end.value.value.pixels


def chunk(kind: bytes, body: bytes, *, wrong: bool = False) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)
    )


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    colour: int
    depth: int
    clear: bool = False
    interlaced: bool = False
    filter: int = 0

    @property
    def most(self) -> int:
        return (1 << self.depth) - 1


def rows_of(samples: np.ndarray, kind: Kind) -> bytes:
    """Pack and filter the rows of one pass."""
    if kind.depth == 16:
        rows = samples.astype(">u2").reshape(len(samples), -1).view("uint8")
    elif kind.depth == 8:
        rows = samples.astype("uint8").reshape(len(samples), -1)
    else:
        bits = (
            samples.reshape(len(samples), -1)[:, :, None] >> np.arange(kind.depth - 1, -1, -1) & 1
        )
        rows = np.packbits(bits.reshape(len(samples), -1).astype("uint8"), axis=1)
    step = max(1, CHANNELS[kind.colour] * kind.depth // 8)
    wide = rows.astype("int64")
    left = np.pad(wide, ((0, 0), (step, 0)))[:, : wide.shape[1]]
    above = np.pad(wide, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(left, ((1, 0), (0, 0)))[:-1]
    guess = left + above - corner
    distances = np.stack([np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)])
    nearest = np.choose(distances.argmin(axis=0), [left, above, corner])
    filtered = wide - [np.zeros_like(wide), left, above, (left + above) // 2, nearest][kind.filter]
    return b"".join(
        bytes([kind.filter]) + row.tobytes() for row in (filtered & 255).astype("uint8")
    )


def written(
    samples: np.ndarray, kind: Kind, *before: bytes, after: bytes = b"", pieces: int = 1
) -> bytes:
    passes = (
        [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
        if kind.interlaced
        else [(0, 0, 1, 1)]
    )
    raw = b"".join(
        rows_of(part, kind) for x, y, dx, dy in passes if (part := samples[y::dy, x::dx]).size
    )
    body = zlib.compress(raw)
    parts = [
        body[i : i + -(-len(body) // pieces)] for i in range(0, len(body), -(-len(body) // pieces))
    ]
    head = struct.pack(
        ">IIBBBBB",
        samples.shape[1],
        samples.shape[0],
        kind.depth,
        kind.colour,
        0,
        0,
        kind.interlaced,
    )
    return (
        SIGNATURE
        + chunk(b"IHDR", head)
        + b"".join(before)
        + b"".join(chunk(b"IDAT", part) for part in parts)
        + after
        + chunk(b"IEND", b"")
    )


PALETTE = np.random.default_rng(5).integers(0, 255, (256, 3), "uint8", endpoint=True)


def everything() -> list[Kind]:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    return [
        Kind(colour, depth, clear, interlaced, filtering)
        for colour in depths
        for depth, clear, interlaced, filtering in itertools.product(
            depths[colour], (False, True), (False, True), range(5)
        )
        if not (clear and colour in (4, 6))
    ]


def samples_of(kind: Kind, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, kind.most, (HEIGHT, WIDTH, CHANNELS[kind.colour]), "uint16", endpoint=True
    )


def extra_of(kind: Kind, samples: np.ndarray) -> list[bytes]:
    made = [chunk(b"PLTE", PALETTE[: 1 << kind.depth].tobytes())] if kind.colour == 3 else []
    if kind.clear:
        made.append(
            chunk(
                b"tRNS",
                bytes(range(0, 200, 50))[: 1 << kind.depth]
                if kind.colour == 3
                else samples[5, 5].astype(">u2").tobytes(),
            )
        )
    return made


def meant(samples: np.ndarray, kind: Kind) -> np.ndarray:
    """Say what a file of these samples shows, by the words of the specification."""
    if kind.colour == 3:
        found = PALETTE[samples[:, :, 0]]
        if not kind.clear:
            return found
        alpha = np.full(256, 255, "uint8")
        given = bytes(range(0, 200, 50))[: 1 << kind.depth]
        alpha[: len(given)] = list(given)
        return np.concatenate([found, alpha[samples]], axis=2)
    full, dtype = (65535, "uint16") if kind.depth == 16 else (255, "uint8")
    found = (samples.astype("int64") * full // kind.most).astype(dtype)
    if kind.clear:
        hidden = (samples == samples[5, 5]).all(axis=2, keepdims=True)
        found = np.concatenate([found, np.where(hidden, 0, full).astype(dtype)], axis=2)
    return found


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
def test_every_kind_shows_what_its_samples_mean(tmp_path: Path, colour: int) -> None:
    """Every depth, filter, interlacing and transparent colour; libpng sees the same."""
    wrong = {}
    for kind in everything():
        if kind.colour != colour:
            continue
        samples = samples_of(kind)
        content = written(samples, kind, *extra_of(kind, samples), pieces=3)
        wanted = meant(samples, kind)
        found = load(tmp_path, content)
        other = imagecodecs.png_decode(content).reshape(HEIGHT, WIDTH, -1)
        if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
            wrong[str(kind)] = "other pixels"
        elif other.shape[2] == found.shape[2] and not np.array_equal(found, other):
            wrong[str(kind)] = "libpng sees others"
    assert wrong == {}


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 9), (9, 1), (2, 3), (3, 5), (8, 8), (4, 4)]
)
def test_small_interlaced_pictures_are_read(tmp_path: Path, width: int, height: int) -> None:
    """Some of the seven passes are empty."""
    for colour, depth in ((0, 1), (0, 16), (2, 16), (4, 16), (6, 16), (2, 8)):
        kind = Kind(colour, depth, interlaced=True, filter=4)
        samples = samples_of(kind)[:height, :width]
        assert np.array_equal(load(tmp_path, written(samples, kind)), meant(samples, kind))


# -- check sums and metadata -----------------------------------------------------------------------

RGB = Kind(2, 8)
SAMPLES = samples_of(RGB)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(ValueError) as refused:
        load(folder, content)
    return str(refused.value)


def packed_rows(kind: Kind = RGB) -> bytes:
    return zlib.compress(rows_of(samples_of(kind), kind))


def with_pixels(*parts: bytes) -> bytes:
    """A picture whose IDAT chunks are given as they are to stand in the file."""
    return (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
        + b"".join(parts)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            lambda: with_pixels(chunk(b"IDAT", packed_rows(), wrong=True)),
            "the checksum of its chunk IDAT is wrong",
        ),
        (
            lambda: with_pixels(chunk(b"IDAT", packed_rows()[:-1] + b"\0")),
            "its compressed pixels are damaged: -3 while decompressing data: incorrect data check",
        ),
        (
            lambda: with_pixels(chunk(b"IDAT", packed_rows()[:-40])),
            "its pixels need 440 bytes, but it has 4",
        ),
        (
            lambda: with_pixels(chunk(b"IDAT", packed_rows())[:-30]),
            "it ends within its chunk IDAT",
        ),
        (
            lambda: with_pixels(chunk(b"IDAT", packed_rows()))[:-60],
            "it ends within its chunk IDAT",
        ),
        (lambda: with_pixels(), "it has no pixels"),
        (
            lambda: with_pixels(
                chunk(b"IDAT", zlib.compress(bytes([9] + [0] * WIDTH * 3) * HEIGHT))
            ),
            "unrecognized data stream contents",
        ),
        (
            lambda: with_pixels(
                chunk(b"tRNS", b"\0" * 6, wrong=True), chunk(b"IDAT", packed_rows())
            ),
            "the checksum of its chunk tRNS is wrong",
        ),
        (
            lambda: with_pixels(
                chunk(b"iCCP", b"x\0\0", wrong=True), chunk(b"IDAT", packed_rows())
            ),
            "the checksum of its chunk iCCP is wrong",
        ),
        (
            lambda: with_pixels(chunk(b"IDAT", zlib.compress(b"\0" * 40_000_000))),
            "it has more pixels than its header says",
        ),
        (
            lambda: (
                SIGNATURE
                + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 4, 2, 0, 0, 0))
                + chunk(b"IDAT", packed_rows())
                + chunk(b"IEND", b"")
            ),
            "its header is invalid",
        ),
        (
            lambda: (
                SIGNATURE
                + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", packed_rows())
                + chunk(b"IEND", b"")
            ),
            "its header is invalid",
        ),
        (
            lambda: written(samples_of(Kind(3, 8)), Kind(3, 8)),
            "its palette is missing or invalid",
        ),
        (
            lambda: written(samples_of(Kind(3, 8)), Kind(3, 8), chunk(b"PLTE", b"\0" * 767)),
            "its palette is missing or invalid",
        ),
        (lambda: SIGNATURE + b"\0" * 30, "a chunk is invalid"),
    ],
)
def test_damage_that_shows_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    """Check sums of all that decides how the picture looks, and of the compressed pixels as a
    whole; the message says which is wrong.
    """
    said = refusal(tmp_path, content())
    assert said.startswith(f"'a.png' is a damaged PNG picture ({words}")
    assert said.endswith("); copy or export it again")


def test_one_changed_bit_of_the_pixels_is_noticed(tmp_path: Path) -> None:
    """Wherever it lies."""
    content = written(SAMPLES, RGB)
    begin = content.index(b"IDAT")
    for at in range(begin + 4, len(content) - 12, 7):
        changed = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        assert "IDAT is wrong" in refusal(tmp_path, changed)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"eXIf", b"b'Exif\\x00"),
        chunk(b"eXIf", b""),
        chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        chunk(b"eXIf", b"Exif\0\0II*\0\x08\0\0\0", wrong=True),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\nzz")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + b"not compressed"),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 900_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}" * 900_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 40_000_000)),
        chunk(b"iTXt", b"no end"),
        chunk(b"tEXt", b"a" * 3_000_000),
        chunk(b"tEXt", b"a\0b", wrong=True),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        chunk(b"iCCP", b"x\0\0" + b"not compressed"),
        chunk(b"iCCP", b"x" * 200),
        chunk(
            b"iCCP",
            b"x\0\0"
            + zlib.compress(
                ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
                .tobytes()
                .replace(b"RGB XYZ ", b"\xffGB XYZ ")
            ),
        ),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b""),
        chunk(b"tIME", b"\xff"),
        chunk(b"tRNS", b"\0"),
        chunk(b"PLTE", b"\0"),
        chunk(b"cICP", b"\1"),
        chunk(b"cICP", b"\xff\xff\0\1"),
        chunk(b"acTL", b""),
        chunk(b"caBX", b"\0" * 5),
        chunk(b"fdAT", b"\0\0\0\1junk"),
        chunk(b"pRVt", b"secret"),
    ],
)
def test_metadata_of_no_use_is_passed_over(tmp_path: Path, extra: bytes) -> None:
    """Before the pixels or behind them: they are what counts."""
    assert np.array_equal(load(tmp_path, written(SAMPLES, RGB, extra)), SAMPLES)
    if extra[4:8] not in (b"PLTE", b"tRNS", b"cICP"):
        assert np.array_equal(load(tmp_path, written(SAMPLES, RGB, after=extra)), SAMPLES)


def test_a_chunk_that_no_reader_may_pass_over_is_named(tmp_path: Path) -> None:
    """Its name begins with a capital; Apple's own form of PNG has one."""
    assert refusal(tmp_path, written(SAMPLES, RGB, chunk(b"XYZa", b""))) == (
        "'a.png' is a PNG with an unknown critical chunk XYZa; save it as a plain PNG"
    )
    assert "Apple's own format (CgBI)" in refusal(
        tmp_path, SIGNATURE + chunk(b"CgBI", b"\0\0\0\0") + written(SAMPLES, RGB)[8:]
    )


def test_pixels_that_are_whole_are_taken_though_the_end_is_missing(tmp_path: Path) -> None:
    """Only what lies behind the pixels was cut off."""
    content = written(SAMPLES, RGB, after=chunk(b"tEXt", b"a\0" + b"b" * 100))
    for cut in (1, 12, 13, 60):
        assert np.array_equal(load(tmp_path, content[:-cut]), SAMPLES)
    bare = written(SAMPLES, RGB)
    for cut in range(
        1, 17
    ):  # the end, and the check sum of the last pixels, which have another in themselves
        assert np.array_equal(load(tmp_path, bare[:-cut]), SAMPLES)
    assert "it ends within its chunk IDAT" in refusal(tmp_path, bare[:-17])
    for behind in (b"\0" * 40, b"junk" * 9, chunk(b"IEND", b"", wrong=True)):
        assert np.array_equal(load(tmp_path, content[:-12] + behind), SAMPLES)


def test_an_animation_gives_its_still(tmp_path: Path) -> None:
    """The picture that a program shows which knows no animation."""
    frames = [PIL.Image.fromarray(samples_of(RGB, seed).astype("uint8")) for seed in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], default_image=True)
    assert np.array_equal(load(tmp_path, stream.getvalue()), samples_of(RGB, 0))


@pytest.mark.parametrize("where", ["eXIf", "zTXt", "tEXt", "xmp", "packed xmp"])
def test_orientation_is_found_wherever_programs_write_it(tmp_path: Path, where: str) -> None:
    """EXIF's own chunk, ImageMagick's profile in text, XMP."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    plain = exif.tobytes()
    text = (
        b"\nexif\n%8d\n" % len(plain)
        + b"\n".join(plain.hex()[i : i + 72].encode() for i in range(0, len(plain) * 2, 72))
        + b"\n"
    )
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    extra = {
        "eXIf": chunk(b"eXIf", plain[6:]),
        "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + text),
        "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "packed xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    }[where]
    assert np.array_equal(load(tmp_path, written(SAMPLES, RGB, extra)), np.rot90(SAMPLES, -1))


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_the_picture_or_a_message(tmp_path: Path, seed: int) -> None:
    """Whatever bytes are changed or cut off: never other pixels, unless a check sum was made to
    fit.
    """
    draw = random.Random(seed)
    exif = PIL.Image.Exif()
    exif[0x0112] = 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)),
        chunk(b"eXIf", exif.tobytes()[6:]),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text")),
    ]
    for kind in draw.sample(everything(), 40):
        samples = samples_of(kind)
        whole, wanted = (
            written(samples, kind, *more, *extra_of(kind, samples)),
            meant(samples, kind),
        )
        for _ in range(6):
            content = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            content = content[: draw.choice([len(content), draw.randrange(len(content))])]
            try:
                found = load(tmp_path, bytes(content), max_pixels=10_000)
            except ValueError as refused:
                assert str(refused).startswith("'a.png' ")
            else:
                assert (
                    np.array_equal(found, wanted)
                    or b"PLTE" not in content
                    or b"tRNS" not in content
                    or b"iCCP" not in content
                )


def test_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A header alone, a profile that unpacks to gigabytes, pixels without end: none of them costs
    memory.
    """
    bomb = zlib.compress(b"\0" * 200_000_000)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_999, 9_999, 16, 6, 0, 0, 0))
    for content in (
        SIGNATURE + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""),
        with_pixels(chunk(b"IDAT", bomb)),
        with_pixels(
            chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 60_000_000)),
            chunk(b"IDAT", packed_rows()[:-9]),
        ),
    ):
        tracemalloc.start()
        with pytest.raises(ValueError):
            load(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
        tracemalloc.stop()


# -- colour ----------------------------------------------------------------------------------------

GAMUTS = {
    "sRGB": (
        (0.4360747, 0.2225045, 0.0139322),
        (0.3850649, 0.7168786, 0.0971045),
        (0.1430804, 0.0606169, 0.7141733),
    ),
    "P3": (
        (0.515102, 0.241182, -0.001050),
        (0.291965, 0.692236, 0.041882),
        (0.157153, 0.066582, 0.784378),
    ),
    "ProPhoto": (
        (0.797675, 0.288040, 0.0),
        (0.135192, 0.711874, 0.0),
        (0.031353, 0.000086, 0.825210),
    ),
}


def s15(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


CURVES = {
    "linear": b"curv\0\0\0\0" + struct.pack(">I", 0),
    "gamma": b"curv\0\0\0\0" + struct.pack(">IH", 1, 0x0233),
    "table": b"curv\0\0\0\0"
    + struct.pack(">I33H", 33, *[round(65535 * (i / 32) ** 1.5) for i in range(33)]),
    "para0": b"para\0\0\0\0\0\0\0\0" + s15(1.8),
    "para1": b"para\0\0\0\0\0\1\0\0" + s15(2.0, 0.9, 0.1),
    "para2": b"para\0\0\0\0\0\2\0\0" + s15(2.0, 0.9, 0.05, 0.01),
    "para3": b"para\0\0\0\0\0\3\0\0" + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "para4": b"para\0\0\0\0\0\4\0\0" + s15(2.2, 0.95, 0.05, 0.1, 0.06, 0.0, 0.0),
}


def icc(gamut: str, curve: str, *, name: str = "some colours", grey: bool = False) -> bytes:
    """Write a profile of curves and a matrix."""
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642, 1, 0.8249),
    }
    if grey:
        tags[b"kTRC"] = CURVES[curve]
    else:
        for letter, colour in zip(b"rgb", GAMUTS[gamut], strict=True):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + s15(*colour)
            tags[bytes([letter]) + b"TRC"] = CURVES[curve]
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s",
        at + len(body),
        b"lcms",
        0x04300000 if curve.startswith("para") else 0x02400000,
        b"mntr",
        b"GRAY" if grey else b"RGB ",
        b"XYZ ",
    )
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + s15(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def icc_of_tables(gamma: float) -> bytes:
    """Write a profile of sRGB's gamut whose curves and corners stand in tables (A2B0)."""
    curve = [round(65535 * (i / 255) ** gamma) for i in range(256)]
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ np.array(GAMUTS["sRGB"])
    body = (
        b"mft2\0\0\0\0"
        + bytes([3, 3, 2, 0])
        + s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + struct.pack(">HH", 256, 2)
    )
    body += (
        struct.pack(">768H", *curve * 3)
        + np.round(corners * 32768).astype(">u2").tobytes()
        + struct.pack(">6H", *[0, 65535] * 3)
    )
    text = b"tables\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642, 1, 0.8249),
        b"A2B0": body,
    }
    table, contents, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(contents), len(content))
        contents += content + b"\0" * (-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s", at + len(contents), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    ) + struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp")
    return (head.ljust(68, b"\0") + s15(0.9642, 1, 0.8249)).ljust(128, b"\0") + table + contents


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


def light(srgb: np.ndarray) -> np.ndarray:
    """Undo sRGB's curve: in light, an error counts the same in the shadows."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def by_lcms(samples: np.ndarray, profile: bytes, space: str) -> np.ndarray:
    """Convert as littleCMS does in floating point. In 16 bits it interpolates, and is some
    thousands of levels off in places.
    """
    values = np.ascontiguousarray(samples.squeeze()) / 65535
    found = imagecodecs.cms_transform(
        values,
        profile,
        imagecodecs.cms_profile("srgb"),
        intent=1,
        colorspace=space,
        outcolorspace="rgb",
        outdtype="float64",
    )
    return np.clip(found, 0, 1)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("gamut", GAMUTS)
def test_a_profile_is_applied_to_all_16_bits(tmp_path: Path, gamut: str, curve: str) -> None:
    """Every kind of curve, colours inside and outside of sRGB, as littleCMS computes them; alpha is
    no colour.
    """
    kind = Kind(6, 16)
    samples = samples_of(kind)
    samples[0, :, :3] = np.linspace(0, 900, WIDTH)[
        :, None
    ]  # the shadows, where linear light has its steps
    profile = icc(gamut, curve)
    found = load(tmp_path, written(samples, kind, iccp(profile)))
    assert found.dtype == "uint16"
    assert np.array_equal(found[:, :, 3], samples[:, :, 3])
    if (gamut, curve) == ("sRGB", "para3"):
        assert np.array_equal(found, samples)
    apart = np.abs(
        light(found[:, :, :3] / 65535) - light(by_lcms(samples[:, :, :3], profile, "rgb"))
    )
    assert (
        apart.max() < 6e-4
    )  # the white of a profile is rounded; what is white there is white here to the last bit
    assert apart[0, :, 1].max() < 1e-5


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("colour", [0, 4])
def test_a_grey_profile_is_applied_to_all_16_bits(tmp_path: Path, colour: int, curve: str) -> None:
    """With alpha and without."""
    kind = Kind(colour, 16)
    samples = samples_of(kind)
    profile = icc("", curve, grey=True)
    found = load(tmp_path, written(samples, kind, iccp(profile)))
    assert (
        np.abs(found[:, :, 0] - by_lcms(samples[:, :, :1], profile, "gray")[:, :, 1] * 65535).max()
        < 8
    )
    assert np.array_equal(found[:, :, 1:], samples[:, :, 1:])


@pytest.mark.parametrize("depth", [8, 16])
def test_what_a_profile_does_counts_and_not_its_name(tmp_path: Path, depth: int) -> None:
    """A linear profile named after sRGB is applied; a profile of another name that is sRGB changes
    nothing.
    """
    kind = Kind(2, depth)
    samples = np.full((1, 1, 3), 55 * kind.most // 255, "uint16")
    linear = load(
        tmp_path,
        written(samples, kind, iccp(icc("sRGB", "linear", name="Linear sRGB IEC61966-2.1"))),
    )
    assert abs(int(linear[0, 0, 0]) * 255 // kind.most - 128) <= 1
    samples = samples_of(kind)
    assert np.array_equal(
        load(tmp_path, written(samples, kind, iccp(icc("sRGB", "para3", name="camera")))), samples
    )


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_picture_goes_through_the_rgb_profile_of_its_document(
    tmp_path: Path, depth: int
) -> None:
    """Programs keep it though the picture is grey."""
    kind = Kind(0, depth)
    samples = np.full((1, 1, 1), 55 * kind.most // 255, "uint16")
    found = load(tmp_path, written(samples, kind, iccp(icc("sRGB", "linear"))))
    assert found.shape == (1, 1, 1)
    assert abs(int(found[0, 0, 0]) * 255 // kind.most - 128) <= 1


def test_a_transparent_colour_is_told_before_the_profile(tmp_path: Path) -> None:
    """It names samples of the file; depth and transparency stay."""
    kind = Kind(2, 16, clear=True)
    samples = samples_of(kind)
    found = load(
        tmp_path, written(samples, kind, iccp(icc("P3", "gamma")), *extra_of(kind, samples))
    )
    assert (found.shape[2], found.dtype) == (4, "uint16")
    assert np.array_equal(found[:, :, 3], meant(samples, kind)[:, :, 3])


def test_a_profile_above_a_megabyte_is_applied(tmp_path: Path) -> None:
    """Profiles of printers and scanners are of that size."""
    profile = icc("sRGB", "linear")
    large = struct.pack(">I", len(profile) + 3_000_000) + profile[4:] + b"\0" * 3_000_000
    found = load(tmp_path, written(np.full((1, 1, 3), 55, "uint16"), RGB, iccp(large)))
    assert abs(int(found[0, 0, 0]) - 128) <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_profile_says_nothing_of_an_rgb_picture(tmp_path: Path, depth: int) -> None:
    """It is of another kind of picture."""
    kind = Kind(2, depth)
    samples = samples_of(kind)
    assert np.array_equal(
        load(tmp_path, written(samples, kind, iccp(icc("", "linear", grey=True)))), samples
    )


@pytest.mark.parametrize(
    "curve",
    [
        b"para\0\0\0\0\0\0\0\0" + s15(-1),
        b"para\0\0\0\0\0\4\0\0" + s15(-30000, 0, 0, 30000, 0, 30000, 30000),
        b"para\0\0\0\0\0\1\0\0" + s15(1, 0, 1),
        b"para\0\0\0\0\0\x09\0\0",
        b"curv\0\0\0\0" + struct.pack(">I", 0xFFFFFFFF),
        b"curv\0\0\0\0" + struct.pack(">IH", 1, 0),
        b"curv",
        b"",
    ],
)
def test_a_curve_that_makes_no_sense_ends_in_a_picture_or_a_message(
    tmp_path: Path, curve: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that cannot be applied is as good as none; numbers without end are no warning."""
    monkeypatch.setitem(CURVES, "strange", curve)
    for kind in (Kind(2, 16), Kind(0, 16), Kind(2, 8)):
        samples = samples_of(kind)
        content = written(samples, kind, iccp(icc("P3", "strange", grey=kind.colour == 0)))
        try:
            assert load(tmp_path, content).shape == samples.shape
        except ValueError as refused:
            assert str(refused).startswith(
                "'a.png' is a picture of 16 bits with a table-based colour profile"
            )


@pytest.mark.parametrize("depth", [8, 16])
def test_a_profile_of_tables_gives_8_bits(tmp_path: Path, depth: int) -> None:
    """As the help says."""
    kind = Kind(2, depth)
    samples = samples_of(kind)
    found = load(tmp_path, written(samples, kind, iccp(icc_of_tables(1.8))))
    linear = (samples / kind.most) ** 1.8
    wanted = 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    assert found.dtype == "uint8"
    assert np.abs(found - wanted).max() <= 3


def test_16_bits_of_linear_light_in_a_profile_of_tables_are_refused(tmp_path: Path) -> None:
    """They would come in coarse steps."""
    kind = Kind(2, 16)
    assert refusal(tmp_path, written(samples_of(kind), kind, iccp(icc_of_tables(1.0)))) == (
        "'a.png' is a picture of 16 bits with a table-based colour profile for linear light, which 8 bits cannot hold; convert it to sRGB or to another profile first"
    )
    assert load(tmp_path, written(np.full((1, 1, 3), 55, "uint16"), RGB, iccp(icc_of_tables(1.0))))[
        0, 0, 0
    ] in (127, 128, 129)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("gamma", [45455, 100000, 55556])
def test_gamma_chunks_are_not_applied(tmp_path: Path, depth: int, gamma: int) -> None:
    """As the help says: too many programs wrote them wrongly. A profile beside them is."""
    kind = Kind(2, depth)
    samples = samples_of(kind)
    chunks = [
        chunk(b"gAMA", struct.pack(">I", gamma)),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        chunk(b"sRGB", b"\0"),
    ]
    assert np.array_equal(load(tmp_path, written(samples, kind, *chunks)), samples)
    profile = iccp(icc("P3", "gamma"))
    assert np.array_equal(
        load(tmp_path, written(samples, kind, *chunks[:2], profile)),
        load(tmp_path, written(samples, kind, profile)),
    )


@pytest.mark.parametrize(
    ("code", "value", "shown"),
    [
        ((1, 13), 100, 100),
        ((1, 8), 55, 128),
        ((1, 4), 128, 128),
        ((1, 1), 77, 77),
        ((12, 13), 128, 128),
    ],
)
def test_code_points_are_applied(
    tmp_path: Path, code: tuple[int, int], value: int, shown: int
) -> None:
    """They go before a profile; greys are greys in all primaries."""
    found = load(
        tmp_path,
        written(
            np.full((1, 1, 3), value, "uint16"),
            RGB,
            iccp(icc("sRGB", "gamma")),
            chunk(b"cICP", bytes([*code, 0, 1])),
        ),
    )
    assert np.abs(found.astype(int) - shown).max() <= 1


def test_the_red_of_display_p3_is_beyond_srgb(tmp_path: Path) -> None:
    """Half of its red is known by the formula."""
    samples = np.array([[[128, 0, 0]]], "uint16")
    found = load(tmp_path, written(samples, RGB, chunk(b"cICP", bytes([12, 13, 0, 1]))))
    assert found.tolist() == [[[141, 0, 0]]]


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(tmp_path: Path, transfer: int, name: str) -> None:
    """No clipping without a word."""
    said = refusal(tmp_path, written(SAMPLES, RGB, chunk(b"cICP", bytes([9, transfer, 0, 1]))))
    assert (
        said
        == f"'a.png' is a picture of high dynamic range ({name}), which sRGB cannot hold; tone-map it to sRGB first"
    )
