"""Every kind of TIFF comes as its samples mean, or is refused in words: a table of all kinds,
written here, with tifffile as the other reader.
"""

from __future__ import annotations

import dataclasses
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
import tifffile

from imagen_flow import File
from imagen_flow._types import image_files as pictures
from imagen_flow._types.digest import digest_bytes
from imagen_flow_io.pictures import load_image


def load(folder: Path, content: bytes, **options: Any) -> np.ndarray:
    path = folder / "a.tif"
    path.write_bytes(content)
    with pytest.raises(StopIteration) as end:  # no note before the picture
        next(load_image(File(path, digest_bytes(content), len(content), "a.tif"), **options))
    return end.value.value.pixels


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    photometric: int = 2
    bits: int = 16
    form: int = 1
    extra: tuple[int, ...] = ()
    planar: int = 1
    order: str = "<"
    compression: int = 1
    predictor: int = 1
    fill: int = 1
    tile: int = 0  # 0: strips
    rows: int = 5  # of a strip
    big: bool = False
    orientation: int = 1

    @property
    def channels(self) -> int:
        return {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 8: 3, 9: 3}[self.photometric] + len(self.extra)

    @property
    def most(self) -> int:
        return (1 << self.bits) - 1


HEIGHT, WIDTH = 13, 21


def samples_of(kind: Kind, seed: int = 3) -> np.ndarray:
    """Draw what the file is to hold."""
    draw = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, kind.channels)
    if kind.form == 3:
        return draw.normal(0.5, 0.4, shape).astype(f"float{kind.bits}")
    dtype = (
        f"int{kind.bits}"
        if kind.form == 2
        else "uint8"
        if kind.bits <= 8
        else "uint16"
        if kind.bits <= 16
        else "uint32"
        if kind.bits <= 32
        else "uint64"
    )
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if kind.form == 2 else (0, kind.most)
    found = draw.integers(low, high, shape, dtype, endpoint=True)
    found[:4] = found[:1, :1]  # something to compress
    return found


def packed(rows: np.ndarray, kind: Kind) -> bytes:
    """Write rows of samples, (height, width, channels), as bytes: predictor, byte order, bits."""
    size = kind.bits // 8
    if kind.predictor == 2 and kind.bits in (8, 16, 32, 64):
        whole = rows.view(f"uint{kind.bits}")
        rows = np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], axis=1)
    if kind.predictor == 3 and kind.form == 3:
        height, width, channels = rows.shape
        planes = (
            np.ascontiguousarray(rows.astype(f">f{size}"))
            .view("uint8")
            .reshape(height, width * channels, size)
            .transpose(0, 2, 1)
            .reshape(height, -1)
        )
        pixels = planes.reshape(height, -1, channels)
        return np.concatenate([pixels[:, :1], pixels[:, 1:] - pixels[:, :-1]], axis=1).tobytes()
    if kind.bits == 24:
        four = rows.astype(f"{kind.order}u4").view("uint8").reshape(*rows.shape, 4)
        return (four[..., :3] if kind.order == "<" else four[..., 1:]).tobytes()
    if kind.bits % 8:
        flat = rows.reshape(len(rows), -1).astype("uint32")
        bits = flat[:, :, None] >> np.arange(kind.bits - 1, -1, -1, dtype="uint32") & 1
        return np.packbits(bits.reshape(len(rows), -1).astype("uint8"), axis=1).tobytes()
    return rows.astype(rows.dtype.newbyteorder(kind.order)).tobytes()


PACKERS = {
    1: lambda data: data,
    5: imagecodecs.lzw_encode,
    8: zlib.compress,
    32946: zlib.compress,
    32773: lambda data: imagecodecs.packbits_encode(data),
    34925: imagecodecs.lzma_encode,
    50000: imagecodecs.zstd_encode,
}


def written(
    samples: np.ndarray,
    kind: Kind,
    *,
    more: tuple[tuple[int, int, list[int]], ...] = (),
    without: tuple[int, ...] = (),
) -> bytes:
    """Write a TIFF or BigTIFF of any kind."""
    height, width, channels = samples.shape
    tile_width, tile_height = (kind.tile, kind.tile) if kind.tile else (width, kind.rows)
    if kind.tile:
        samples = np.pad(samples, ((0, -height % tile_height), (0, -width % tile_width), (0, 0)))
    planes = [samples[:, :, c : c + 1] for c in range(channels)] if kind.planar == 2 else [samples]
    pieces = []
    for plane in planes:
        for y in range(0, len(plane), tile_height):
            for x in range(0, plane.shape[1], tile_width):
                data = PACKERS[kind.compression](
                    packed(
                        np.ascontiguousarray(plane[y : y + tile_height, x : x + tile_width]), kind
                    )
                )
                pieces.append(
                    data.translate(bytes(int(f"{v:08b}"[::-1], 2) for v in range(256)))
                    if kind.fill == 2
                    else data
                )
    wide = 16 if kind.big else 4
    fields: list[tuple[int, int, list[int]]] = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [kind.bits] * channels),
        (259, 3, [kind.compression]),
        (262, 3, [kind.photometric]),
        (277, 3, [channels]),
        (284, 3, [kind.planar]),
        (339, 3, [kind.form] * channels),
        *([(266, 3, [kind.fill])] if kind.fill != 1 else []),
        *([(274, 3, [kind.orientation])] if kind.orientation != 1 else []),
        *([(317, 3, [kind.predictor])] if kind.predictor != 1 else []),
        *([(338, 3, list(kind.extra))] if kind.extra else []),
        *([(322, 3, [kind.tile]), (323, 3, [kind.tile])] if kind.tile else [(278, 3, [kind.rows])]),
        (324 if kind.tile else 273, wide, []),
        (325 if kind.tile else 279, wide, [len(piece) for piece in pieces]),
        *more,
    ]
    if kind.photometric == 3 and not any(tag == 320 for tag, _, _ in more):
        fields.append((320, 3, [int(v) for v in palette(kind.bits).T.reshape(-1)]))
    fields = sorted(field for field in fields if field[0] not in without)
    places, at = [], 16
    for piece in pieces:
        places.append(at)
        at += len(piece) + len(piece) % 2
    fields = [(tag, form, places if tag in (273, 324) else values) for tag, form, values in fields]
    room, step = (8, 20) if kind.big else (4, 12)
    behind = at + (8 if kind.big else 2) + step * len(fields) + room
    entries, values_behind = b"", b""
    for tag, form, values in fields:
        raw = struct.pack(
            f"{kind.order}{len(values)}{ {1: 'B', 3: 'H', 4: 'I', 7: 'B', 8: 'h', 16: 'Q'}[form] }",
            *values,
        )
        if len(raw) > room:
            raw, values_behind = (
                struct.pack(kind.order + ("Q" if kind.big else "I"), behind + len(values_behind)),
                values_behind + raw + b"\0" * (len(raw) % 2),
            )
        entries += struct.pack(
            kind.order + ("HHQ" if kind.big else "HHI"), tag, form, len(values)
        ) + raw.ljust(room, b"\0")
    mark = b"II" if kind.order == "<" else b"MM"
    head = (
        struct.pack(kind.order + "HHHQ", 43, 8, 0, at)
        if kind.big
        else struct.pack(kind.order + "HI", 42, at).ljust(14, b"\0")
    )
    body = b"".join(piece + b"\0" * (len(piece) % 2) for piece in pieces)
    count = struct.pack(kind.order + ("Q" if kind.big else "H"), len(fields))
    return mark + head + body + count + entries + b"\0" * room + values_behind


def palette(bits: int) -> np.ndarray:
    """Give colours of 16 bits, none of which are bytes made wide."""
    return np.random.default_rng(7).integers(0, 65535, (1 << bits, 3), "uint16", endpoint=True)


def meant(samples: np.ndarray, kind: Kind) -> np.ndarray:
    """Say what a file of these samples shows, by the words of TIFF 6.0 and of the node's help."""
    colours = kind.channels - len(kind.extra)
    alpha = next((colours + i for i, what in enumerate(kind.extra) if what in (1, 2)), None)
    exact = samples.astype("float64") / (1 if kind.form == 3 else kind.most)
    if kind.form == 1 and kind.photometric == 0:
        exact[:, :, 0] = 1 - exact[:, :, 0]
    full, dtype = (
        (1, "float32")
        if kind.form == 3 or kind.bits > 16
        else (255, "uint8")
        if kind.bits <= 8
        else (65535, "uint16")
    )
    if kind.photometric == 3:
        full, dtype = 65535, "uint16"
        exact = np.concatenate(
            [palette(kind.bits)[samples[:, :, 0]] / 65535, exact[:, :, 1:]], axis=2
        )
        alpha, colours = (None, 3) if alpha is None else (alpha + 2, 3)
    seen, opacity = (
        exact[:, :, :colours],
        exact[:, :, alpha : alpha + 1] if alpha is not None else None,
    )
    if full != 1:
        seen = np.floor(seen * full + 0.5)
        opacity = None if opacity is None else np.floor(opacity * full + 0.5)
    if (
        opacity is not None
        and 1 in kind.extra
        and kind.extra[alpha - colours if kind.photometric != 3 else 0] == 1
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            divided = seen * full / opacity
        seen = np.where(
            opacity != 0,
            divided
            if kind.form == 3
            else np.minimum(divided, 1)
            if full == 1
            else np.minimum(np.floor(divided + 0.5), full),
            seen,
        )
    if kind.photometric == 5:
        seen = (full - seen[:, :, :3]) * (full - seen[:, :, 3:]) / full
        seen = seen if full == 1 else np.floor(seen + 0.5)
    found = seen if opacity is None else np.concatenate([seen, opacity], axis=2)
    for _ in range({1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[kind.orientation]):
        found = np.rot90(found)
    if kind.orientation in (2, 4):
        found = found[:, ::-1]
    elif kind.orientation in (5, 7):
        found = found[::-1]
    return found.astype(dtype)


def everything() -> list[Kind]:
    """Give the whole table, except for what contradicts itself."""
    depths = [
        *((bits, 1) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 32)),
        (8, 2),
        (16, 2),
        (32, 2),
        (16, 3),
        (32, 3),
        (64, 3),
    ]
    packing = (
        (1, 1),
        (5, 1),
        (5, 2),
        (8, 1),
        (8, 2),
        (8, 3),
        (32773, 1),
        (32946, 2),
        (34925, 1),
        (50000, 2),
    )
    extras: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 2))
    turned = itertools.cycle(range(1, 9))
    big = itertools.cycle((False, False, True))
    kinds = []
    for (bits, form), photometric, extra, planar, order, (
        compression,
        predictor,
    ), tile in itertools.product(depths, (0, 1, 2, 3, 5), extras, (1, 2), "<>", packing, (0, 16)):
        at_odds = (
            (predictor == 2 and bits % 8)
            or (predictor == 3 and form != 3)
            or (photometric == 3 and (bits > 8 or form != 1))
        )
        if not at_odds:
            kinds.append(
                Kind(
                    photometric,
                    bits,
                    form,
                    extra,
                    planar,
                    order,
                    compression,
                    predictor,
                    tile=tile,
                    big=next(big),
                    orientation=next(turned),
                )
            )
    random.Random(1).shuffle(kinds)
    return kinds


def difference(folder: Path, kind: Kind) -> str:
    """Say how a file of this kind is read wrongly; nothing if it is read rightly or refused in
    words.
    """
    samples = samples_of(kind)
    content = written(samples, kind)
    with tifffile.TiffFile(io.BytesIO(content)) as other:
        seen = other.pages[0].asarray()
    seen = np.moveaxis(seen, 0, -1) if kind.planar == 2 and kind.channels > 1 else seen
    if not np.array_equal(seen.reshape(samples.shape), samples):
        return "tifffile reads other samples"
    try:
        found = load(folder, content)
    except ValueError as refused:
        signed, white_floats = kind.form == 2, kind.form == 3 and kind.photometric == 0
        return (
            ""
            if (signed and "signed" in str(refused))
            or (white_floats and "floating-point" in str(refused))
            else f"refused: {refused}"
        )
    wanted = meant(samples, kind)
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return f"{found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}"
    right = (
        np.allclose(found, wanted, rtol=1e-5, atol=1e-6)
        if found.dtype == "float32"
        else np.array_equal(found, wanted)
    )
    return "" if right else "other pixels"


def test_every_kind_shows_what_its_samples_mean(tmp_path: Path) -> None:
    """A part of the table: depth, sample format, photometric interpretation, extra samples, planes,
    byte order, compression, predictor, tiles, BigTIFF, orientation.
    """
    assert {
        str(kind): wrong for kind in everything()[:260] if (wrong := difference(tmp_path, kind))
    } == {}


@pytest.mark.slow
def test_every_kind_of_the_whole_table_shows_what_its_samples_mean(tmp_path: Path) -> None:
    """All of the table."""
    assert {
        str(kind): wrong for kind in everything()[260:] if (wrong := difference(tmp_path, kind))
    } == {}


@pytest.mark.parametrize(
    "kind",
    [
        Kind(fill=2, bits=1, photometric=1),
        Kind(fill=2, bits=8),
        Kind(fill=2, bits=12, compression=8),
        Kind(fill=2, bits=16, compression=5, predictor=2),
    ],
)
def test_bits_may_come_the_other_way_round(tmp_path: Path, kind: Kind) -> None:
    """Fill order 2 turns each byte of the file before anything else."""
    samples = samples_of(kind)
    assert np.array_equal(load(tmp_path, written(samples, kind)), meant(samples, kind))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("ending", "dtype"),
    [
        (".tif", "uint8"),
        (".tif", "uint16"),
        (".tif", "float32"),
        (".png", "uint8"),
        (".png", "uint16"),
    ],
)
def test_what_the_product_writes_it_reads(
    tmp_path: Path, channels: int, ending: str, dtype: str
) -> None:
    """A picture that was saved without loss comes back bit for bit, with any channels and of any
    depth.
    """
    pixels = np.random.default_rng(1).random((5, 7, channels)) * (
        1 if dtype == "float32" else np.iinfo(dtype).max
    )
    pixels = pixels.astype(dtype)
    found = load(tmp_path, pictures.encode(pixels, ending))
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


PALETTE = np.array([[0, 0, 0], [255, 0, 0], [18, 200, 255], [255, 255, 255]])


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (PALETTE, PALETTE),
        (PALETTE * 256, PALETTE),
        (PALETTE * 257, PALETTE),
        (PALETTE * 200, PALETTE * 200),
    ],
)
def test_a_palette_holds_colours_of_8_or_of_16_bits(
    tmp_path: Path, stored: np.ndarray, shown: np.ndarray
) -> None:
    """Other programs write bytes, bytes made wide in either way, or all 16 bits."""
    kind = Kind(3, bits=2)
    samples = samples_of(kind)
    content = written(samples, kind, more=((320, 3, [int(v) for v in stored.T.reshape(-1)]),))
    assert np.array_equal(load(tmp_path, content), shown[samples[:, :, 0]])


def test_tags_that_other_programs_leave_out_have_their_defaults(tmp_path: Path) -> None:
    """Without planes, sample format, rows of a strip or sizes of strips a plain picture is read; a
    fourth channel of RGB is alpha.
    """
    for kind in (
        Kind(bits=16, rows=HEIGHT),
        Kind(2, 16, extra=(2,), rows=HEIGHT),
        Kind(1, bits=1, rows=HEIGHT),
    ):
        samples = samples_of(kind)
        without = (284, 339, 278, 279, 338, *((258, 277) if kind.bits == 1 else ()))
        assert np.array_equal(
            load(tmp_path, written(samples, kind, without=without)), meant(samples, kind)
        )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [8, 9])
def test_lab_becomes_srgb(tmp_path: Path, photometric: int, bits: int) -> None:
    """Greys and a red that is known from tables."""
    kind = Kind(photometric, bits=bits)
    unit = 1 if bits == 8 else 256
    lightness = kind.most if bits == 8 or photometric == 8 else 0xFF00
    lab = np.array([[100, 0, 0], [0, 0, 0], [53.59, 0, 0], [54.29, 80.81, 69.89]])
    stored = (
        np.stack(
            [
                lab[:, 0] / 100 * lightness,
                *((lab[:, 1:] + (128 if photometric == 9 else 0)) * unit).T,
            ],
            axis=1,
        )
        .round()
        .astype("int64")
        & kind.most
    )
    found = load(tmp_path, written(stored.astype(f"uint{bits}").reshape(1, 4, 3), kind))
    wanted = np.array([[255, 255, 255], [0, 0, 0], [128, 128, 128], [255, 0, 0]])
    assert np.abs(found[0] / (kind.most / 255) - wanted).max() < (3.1 if bits == 8 else 1)


def grid(channels: int) -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack(
        [(128 + 100 * np.sin(x / 19 + i) + 27 * np.cos(y / (15 + i))) for i in range(channels)], -1
    ).astype("uint8")


@pytest.mark.parametrize(
    ("photometric", "channels"),
    [("minisblack", 1), ("miniswhite", 1), ("rgb", 3), ("ycbcr", 3), ("separated", 4)],
)
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 16}, {"planarconfig": "separate"}]
)
def test_jpeg_inside_a_tiff_is_decoded(
    tmp_path: Path, photometric: str, channels: int, options: dict[str, Any]
) -> None:
    """Grey, RGB, YCbCr and CMYK, as tifffile writes them and reads them back."""
    stream = io.BytesIO()
    apart = "planarconfig" in options and channels > 1
    stored = np.moveaxis(grid(channels), 2, 0) if apart else grid(channels).squeeze()
    tifffile.imwrite(
        stream,
        stored,
        photometric=photometric,
        compression="jpeg",
        **(options if apart or "planarconfig" not in options else {}),
    )
    if apart and photometric == "ycbcr":
        with pytest.raises(
            ValueError,
            match="is a TIFF in JPEG with separate planes; save it with LZW or Deflate compression",
        ):
            load(tmp_path, stream.getvalue())
        return
    seen = tifffile.imread(io.BytesIO(stream.getvalue()))
    seen = (np.moveaxis(seen, 0, 2) if apart else seen).reshape(48, 64, channels).astype("int64")
    if photometric == "miniswhite":
        seen = 255 - seen
    if channels == 4:
        seen = (255 - seen[:, :, :3]) * (255 - seen[:, :, 3:]) // 255
    assert np.abs(load(tmp_path, stream.getvalue()) - seen).max() <= 2


def ycbcr_of(
    pixels: np.ndarray,
    across: int,
    down: int,
    compression: int,
    coefficients: tuple[float, float, float],
    levels: tuple[int, ...],
) -> bytes:
    """Write YCbCr as section 21 says: units of some Y, one Cb, one Cr."""
    red, _, blue = coefficients
    y = pixels @ np.array(coefficients)
    unit = np.stack(
        [
            y / 255,
            (pixels[:, :, 2] - y) / (2 - 2 * blue) / 127,
            (pixels[:, :, 0] - y) / (2 - 2 * red) / 127,
        ],
        axis=-1,
    )
    stored = unit * [levels[1] - levels[0], levels[3] - levels[2], levels[5] - levels[4]] + [
        levels[0],
        levels[2],
        levels[4],
    ]
    height, width = y.shape
    blocks = stored.reshape(height // down, down, width // across, across, 3).transpose(
        0, 2, 1, 3, 4
    )
    units = np.concatenate(
        [
            blocks[..., 0].reshape(height // down, width // across, -1),
            blocks[..., 1:].mean(axis=(2, 3)),
        ],
        axis=-1,
    )
    data = PACKERS[compression](units.round().clip(0, 255).astype("uint8").tobytes())
    numbers = [
        (256, width),
        (257, height),
        (259, compression),
        (262, 6),
        (273, 8),
        (277, 3),
        (278, height),
        (279, len(data)),
        (530, across | down << 16),
    ]
    at = 8 + len(data) + len(data) % 2
    behind = at + 2 + 12 * (len(numbers) + 3) + 4
    entries = [
        (tag, struct.pack("<HHII", tag, 3 if tag == 530 else 4, 2 if tag == 530 else 1, value))
        for tag, value in numbers
    ]
    entries += [
        (258, struct.pack("<HHII", 258, 3, 3, behind)),
        (529, struct.pack("<HHII", 529, 5, 3, behind + 8)),
        (532, struct.pack("<HHII", 532, 5, 6, behind + 32)),
    ]
    more = (
        struct.pack("<4H", 8, 8, 8, 0)
        + b"".join(struct.pack("<II", round(c * 10_000), 10_000) for c in coefficients)
        + b"".join(struct.pack("<II", v, 1) for v in levels)
    )
    directory = (
        struct.pack("<H", len(entries))
        + b"".join(entry for _, entry in sorted(entries))
        + b"\0" * 4
    )
    return struct.pack("<2sHI", b"II", 42, at) + data + b"\0" * (len(data) % 2) + directory + more


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2), (4, 4)])
@pytest.mark.parametrize("coefficients", [(0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)])
@pytest.mark.parametrize("levels", [(0, 255, 128, 255, 128, 255), (16, 235, 128, 240, 128, 240)])
def test_ycbcr_is_converted_as_its_fields_say(
    tmp_path: Path, compression: int, sampling: tuple[int, int], coefficients: Any, levels: Any
) -> None:
    """Or refused: what lies uncompressed Pillow takes for JPEG's."""
    y, x = np.mgrid[0:6, 0:8] // 2 * 2 / 8
    pixels = np.repeat(
        np.repeat(np.stack([40 + 150 * x, 200 - 120 * y, 60 + 50 * (x + y)], axis=-1), 4, axis=0),
        4,
        axis=1,
    )
    content = ycbcr_of(pixels, *sampling, compression, coefficients, levels)
    plain = sampling == (1, 1) and coefficients[0] == 0.299 and levels[0] == 0
    if compression == 1 and not plain:
        with pytest.raises(
            ValueError,
            match="is a TIFF in YCbCr of a range, coefficients or arrangement of its own; save it as RGB",
        ):
            load(tmp_path, content)
    else:
        assert np.abs(load(tmp_path, content) - pixels).max() <= 5


@pytest.mark.parametrize("kind", ["ycbcr", "jpeg", "group4"])
def test_pieces_that_are_missing_are_not_left_black(tmp_path: Path, kind: str) -> None:
    """A file that promises more rows than it has strips for; Pillow leaves them black."""
    stream = io.BytesIO()
    if kind == "group4":
        PIL.Image.fromarray(grid(1)[:, :, 0] > 128).save(stream, "TIFF", compression=kind)
        content = bytearray(stream.getvalue())
    elif kind == "jpeg":
        tifffile.imwrite(stream, grid(3), photometric="rgb", compression="jpeg", rowsperstrip=16)
        content = bytearray(stream.getvalue())
    else:
        content = bytearray(
            ycbcr_of(grid(3), 1, 1, 1, (0.299, 0.587, 0.114), (0, 255, 128, 255, 128, 255))
        )
    assert load(tmp_path, bytes(content)).shape[:2] == (48, 64)
    (at,) = struct.unpack_from("<I", content, 4)
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == 257:
            struct.pack_into("<H", content, entry + 8, 500)
    with pytest.raises(
        ValueError,
        match=r"is a damaged TIFF picture \(its pixels are in \d+ pieces, but it locates only \d\)",
    ):
        load(tmp_path, bytes(content))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_inside_a_tiff_is_decoded(tmp_path: Path, compression: str) -> None:
    """Ink is black."""
    page = grid(1)[:, :, 0] > 128
    stream = io.BytesIO()
    PIL.Image.fromarray(page).save(stream, "TIFF", compression=compression)
    assert np.array_equal(load(tmp_path, stream.getvalue())[:, :, 0], page * 255)


def test_channels_that_nobody_names_are_not_guessed(tmp_path: Path) -> None:
    """A second channel of grey may be anything where no field says what."""
    for kind in (Kind(1, extra=(2,)), Kind(5, extra=(2,)), Kind(2, extra=(2, 0))):
        with pytest.raises(ValueError, match="does not say which of them are the picture"):
            load(tmp_path, written(samples_of(kind), kind, without=(338,)))


def test_the_first_of_several_pages_is_taken(tmp_path: Path) -> None:
    """As the help says."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as several:
        for page in range(3):
            several.write(np.full((4, 5), 100 * page + 7, "uint16"), photometric="minisblack")
    assert load(tmp_path, stream.getvalue()).tolist() == [[[7]] * 5] * 4


def test_signed_integers_of_32_bits_may_hold_16(tmp_path: Path) -> None:
    """So writes who has no unsigned ones, as Pillow in mode I; where values say that they are no 16
    bits, nothing is guessed.
    """
    kind = Kind(1, 32, 2)
    for compression in (1, 5, 8):
        kind = dataclasses.replace(kind, compression=compression)
        samples = samples_of(Kind(1, 16)).astype("int32")
        found = load(tmp_path, written(samples, kind))
        assert found.dtype == "uint16"
        assert np.array_equal(found, samples)
        for strange in (-1, 65536):
            samples[3, 3] = strange
            with pytest.raises(
                ValueError, match="signed integers, for which there is no agreed white"
            ):
                load(tmp_path, written(samples, kind))


@pytest.mark.parametrize(("mode", "near"), [("RGBA", 3), ("LA", 3), ("RGBX", 3)])
def test_jpeg_inside_a_tiff_may_have_alpha(tmp_path: Path, mode: str, near: int) -> None:
    """As Pillow writes it."""
    picture = PIL.Image.fromarray(grid(4)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "TIFF", compression="jpeg", quality=95)
    wanted = np.array(picture)[:, :, : {"RGBX": 3}.get(mode)].astype(int)
    assert np.abs(load(tmp_path, stream.getvalue()) - wanted).max() <= near


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "F", "I;16", "I;16B"]
)
def test_what_pillow_writes_is_read(tmp_path: Path, mode: str) -> None:
    """In every mode and compression that Pillow has for it, also as BigTIFF."""
    if mode.startswith("I"):
        picture = PIL.Image.fromarray(
            (grid(1)[:, :, 0] * 251).astype(">u2" if mode == "I;16B" else "<u2")
        )
    elif mode == "F":
        picture = PIL.Image.fromarray(grid(1)[:, :, 0].astype("float32") / 200)
    else:
        picture = PIL.Image.fromarray(grid(3)).convert(mode)
    wanted = np.array(
        picture
        if mode in ("L", "LA", "RGB", "RGBA", "F", "I;16", "I;16B")
        else picture.convert("L" if mode == "1" else "RGB")
    )
    for compression, big in itertools.product(
        (None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"),
        (False, True),
    ):
        if (mode, compression, big) == ("I;16B", None, True):
            # Pillow misplaces the numbers of a big-endian BigTIFF, and cannot read it back
            continue
        stream = io.BytesIO()
        picture.save(stream, "TIFF", compression=compression, big_tiff=big)
        found = load(tmp_path, stream.getvalue()).squeeze()
        assert np.abs(found.astype("float64") - wanted).max() <= (mode == "YCbCr"), (
            compression,
            big,
        )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("order", "<>")
def test_what_tifffile_writes_is_read(tmp_path: Path, dtype: str, order: str) -> None:
    """Stacks, tiles, planes, predictors and its own metadata."""
    draw = np.random.default_rng(2)
    for photometric, channels in (("minisblack", 1), ("rgb", 3), ("rgb", 4)):
        for options in (
            {},
            {"tile": (16, 32)},
            {"rowsperstrip": 7},
            {"compression": "zlib", "predictor": True},
            {"compression": "lzw"},
            {"planarconfig": "separate"},
            {"bigtiff": True},
        ):
            pixels = (
                draw.random((33, 41, channels)) * (1 if dtype == "float32" else np.iinfo(dtype).max)
            ).astype(dtype)
            stored = (
                pixels[:, :, 0]
                if channels == 1
                else np.moveaxis(pixels, 2, 0)
                if "planarconfig" in options
                else pixels
            )
            stream = io.BytesIO()
            tifffile.imwrite(
                stream,
                stored,
                photometric=photometric,
                byteorder=order,
                extrasamples=["unassalpha"] if channels == 4 else None,
                **options,
            )
            assert np.array_equal(load(tmp_path, stream.getvalue()), pixels), (photometric, options)


LINEAR = imagecodecs.cms_profile(
    "rgb",
    gamma=1.0,
    whitepoint=[0.3127, 0.3290, 1.0],
    primaries=[0.64, 0.33, 1, 0.3, 0.6, 1, 0.15, 0.06, 1],
)


TABLES = imagecodecs.cms_profile(
    "rgb",
    transferfunction=np.arange(256, dtype="uint16") ** 2,
    whitepoint=[0.3127, 0.3290, 1.0],
    primaries=[0.64, 0.33, 1, 0.3, 0.6, 1, 0.15, 0.06, 1],
)


def encoded(light: np.ndarray) -> np.ndarray:
    """Apply sRGB's curve."""
    return np.sign(light) * np.where(
        abs(light) <= 0.0031308, 12.92 * abs(light), 1.055 * abs(light) ** (1 / 2.4) - 0.055
    )


@pytest.mark.parametrize(
    ("bits", "form", "near"),
    [
        (8, 1, 1 / 255),
        (16, 1, 4 / 65535),
        (32, 1, 1e-3),
        (16, 3, 1e-3),
        (32, 3, 1e-3),
        (64, 3, 1e-3),
    ],
)
def test_a_linear_profile_is_applied_at_every_depth(
    tmp_path: Path, bits: int, form: int, near: float
) -> None:
    """Renderers write linear light; in floating point what lies outside of 0 to 1 is kept."""
    kind = Kind(2, bits, form)
    samples = np.repeat(samples_of(Kind(1, bits, form)), 3, axis=2)
    found = load(tmp_path, written(samples, kind, more=((34675, 7, list(LINEAR)),)))
    light = samples.astype("float64") / (1 if form == 3 else kind.most)
    assert found.dtype == (
        "uint8" if bits == 8 else "uint16" if (bits, form) == (16, 1) else "float32"
    )
    full = 1 if found.dtype == "float32" else np.iinfo(found.dtype).max
    assert np.abs(found / full - encoded(light)).max() <= near


@pytest.mark.parametrize(("bits", "form"), [(8, 1), (16, 1), (32, 3)])
def test_a_profile_of_srgb_changes_nothing_at_any_depth(
    tmp_path: Path, bits: int, form: int
) -> None:
    """Every bit stays."""
    kind = Kind(2, bits, form)
    samples = samples_of(kind)
    assert np.array_equal(
        load(
            tmp_path,
            written(samples, kind, more=((34675, 7, list(imagecodecs.cms_profile("srgb"))),)),
        ),
        samples,
    )


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (
            Kind(1, 16, 2),
            (),
            "'a.tif' is a TIFF of signed integers, for which there is no agreed white; save it as unsigned integers or as floating point",
        ),
        (
            Kind(1, 64, 1),
            (),
            "'a.tif' is a TIFF of 64 bits per channel; save it with 8 or 16 bits, or as floating point with 32",
        ),
        (
            Kind(0, 32, 3),
            (),
            "'a.tif' is a TIFF of floating-point numbers in which 0 is white, which have no agreed meaning; save it as grey or RGB",
        ),
        (
            Kind(5),
            ((332, 3, [2]),),
            "'a.tif' is a TIFF of inks other than cyan, magenta, yellow and black; save it as CMYK or RGB",
        ),
        (
            Kind(5, 8),
            ((336, 3, [10, 255]),),
            "'a.tif' is a TIFF of inks in a range of their own (DotRange); save it as CMYK of the full range, or as RGB",
        ),
        (
            Kind(1),
            ((50706, 1, [1, 4, 0, 0]),),
            "'a.tif' is a camera's raw picture, of which only a thumbnail is a plain TIFF; develop it and save the result as TIFF or PNG",
        ),
        (
            Kind(1),
            ((254, 4, [1]), (330, 4, [9])),
            "'a.tif' is a camera's raw picture, of which only a thumbnail is a plain TIFF; develop it and save the result as TIFF or PNG",
        ),
        (
            Kind(1, extra=(0, 0)),
            (),
            "'a.tif' is a TIFF of 3 channels that does not say which of them are the picture; save it as grey or RGB",
        ),
        (
            Kind(2, 32, 3),
            ((34675, 7, list(TABLES)),),
            "'a.tif' is a picture in floating point with values beyond 1, where its colour profile ends; convert it to sRGB or to a linear profile first",
        ),
        (
            Kind(1, 12),
            ((317, 3, [2]),),
            "'a.tif' is a TIFF of 12 bits a channel with predictor 2, which do not go together; save it without a predictor",
        ),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(
    tmp_path: Path, kind: Kind, more: Any, words: str
) -> None:
    """The message says what it is and how to save it otherwise; it is not called damaged."""
    if kind.bits == 12:
        kind = dataclasses.replace(kind, compression=8)
    with pytest.raises(ValueError) as refused:
        load(tmp_path, written(samples_of(kind), kind, more=more))
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            259,
            34887,
            "a TIFF compressed by LERC, which cannot be read; save it with LZW or Deflate compression",
        ),
        (
            259,
            7,
            "a TIFF in JPEG of 3 channels and 16 bits, which cannot be read; save it with LZW or Deflate compression",
        ),
        (262, 32803, "a camera's raw picture"),
        (262, 32845, "a TIFF that is LogLuv, which cannot be read; save it as grey or RGB"),
        (277, 900, "a TIFF of 900 channels; up to 32 can be read"),
        (
            284,
            3,
            "a damaged TIFF picture (its planar configuration is 3 and its fill order 1; both can be 1 or 2)",
        ),
        (256, 0, "a damaged TIFF picture (it has 0 x 13 pixels)"),
        (278, 0, "a damaged TIFF picture (it consists of pieces of 21 x 0 pixels)"),
        (278, 1, "a damaged TIFF picture (its pixels are in 13 pieces, but it locates only 3)"),
        (
            257,
            65535,
            "a damaged TIFF picture (its pixels are in 13,107 pieces, but it locates only 3)",
        ),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    tmp_path: Path, field: int, value: int, words: str
) -> None:
    """Damaged is said where the file contradicts itself, and only there."""
    content = bytearray(written(samples_of(Kind()), Kind()))
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    entry = next(
        at + 2 + 12 * i
        for i in range(count)
        if struct.unpack_from("<H", content, at + 2 + 12 * i)[0] == field
    )
    struct.pack_into("<H", content, entry + 8, value)
    with pytest.raises(ValueError) as refused:
        load(tmp_path, bytes(content))
    assert str(refused.value).startswith(f"'a.tif' is {words}")


def test_compressed_pixels_with_a_wrong_check_sum_are_refused(tmp_path: Path) -> None:
    """Deflate ends in one."""
    kind = Kind(1, 8, compression=8, rows=HEIGHT)
    samples = samples_of(kind)
    content = written(samples, kind)
    strip = zlib.compress(samples.tobytes())
    assert content.count(strip) == 1
    with pytest.raises(ValueError, match="incorrect data check"):
        load(tmp_path, content.replace(strip, strip[:-1] + bytes([strip[-1] ^ 1])))


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "7ff0000000000001"])
def test_floats_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    """Nor those that single precision does not hold; without a warning."""
    samples = samples_of(Kind(1, 64, 3))
    samples[3, 3] = (
        struct.unpack(">d", bytes.fromhex(value))[0] if len(value) == 16 else float(value)
    )
    with pytest.raises(
        ValueError, match="'a.tif' has NaN or infinite pixels; export it again without them"
    ):
        load(tmp_path, written(samples, Kind(1, 64, 3)))


def test_floats_that_come_to_no_number_are_refused(tmp_path: Path) -> None:
    """What inks, alpha or a profile make of them counts too."""
    for kind, more in (
        (Kind(5, 32, 3), ()),
        (Kind(2, 32, 3, extra=(1,)), ()),
        (Kind(2, 32, 3), ((34675, 7, list(LINEAR)),)),
    ):
        samples = samples_of(kind)
        samples[3, 3] = [3e38] * 3 + [1e-9] * (kind.channels - 3) if kind.photometric == 2 else 3e38
        try:
            assert np.isfinite(load(tmp_path, written(samples, kind, more=more))).all()
        except ValueError as refused:
            assert (
                str(refused) == "'a.tif' has NaN or infinite pixels; export it again without them"
            )


def test_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A few hundred bytes that promise gigabytes cost nothing, whatever their compression."""
    small = np.zeros((1, 1, 1), "uint8")
    for kind, fields in (
        (Kind(1, 8, compression=8), {256: 9_000, 257: 9_000}),
        (Kind(1, 8), {256: 9_000, 257: 9_000}),
        (Kind(1, 8, compression=50000), {256: 60_000, 257: 60_000}),
        (Kind(1, 8, compression=5, tile=16), {322: 65_520, 323: 65_520}),
        (Kind(1, 64, 3, compression=50000), {256: 9_999, 257: 9_999, 277: 30}),
    ):
        content = bytearray(written(small, kind))
        (at,) = struct.unpack_from("<I", content, 4)
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
            tag = struct.unpack_from("<H", content, entry)[0]
            if tag in fields:
                struct.pack_into("<H", content, entry + 8, fields[tag])
            if tag == 278 and 257 in fields:
                struct.pack_into("<H", content, entry + 8, fields[257])
        tracemalloc.start()
        with pytest.raises(ValueError):
            load(tmp_path, bytes(content))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_a_picture_or_a_message(tmp_path: Path, seed: int) -> None:
    """Whatever bytes are changed or cut off, the answer is pixels or a ValueError that names the
    file.
    """
    draw = random.Random(seed)
    whole = [written(samples_of(kind), kind) for kind in everything()[:40]]
    for _ in range(100):
        content = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 4)):
            content[
                draw.choice(
                    [draw.randrange(len(content)), -1 - draw.randrange(min(len(content), 300))]
                )
            ] = draw.randrange(256)
        content = content[: draw.choice([len(content), draw.randrange(len(content))])]
        try:
            load(tmp_path, bytes(content), max_pixels=100_000)
        except ValueError as refused:
            assert str(refused).startswith("'a.tif' ")
