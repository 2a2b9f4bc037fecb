"""Read the first picture of a TIFF or BigTIFF: any depth, byte order, layout and predictor.

Pillow only knows certain combinations, and guesses for others. So the directory is read and the
samples are assembled here; Pillow's libtiff decompresses what Python does not (LZW, PackBits,
Zstandard), and decodes what is a picture of its own, JPEG and fax, if the directory allows it.

No number in the directory is trusted: everything that is read must be inside the file, and the
memory of a picture is checked before it is allocated.

Source: TIFF 6.0 (Adobe, 1992) by its sections; Adobe's TIFF Technical Notes 1 to 3 (floating-point
predictor in Note 3); BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .decoded import (
    CheckSize,
    Damaged,
    Decoded,
    Unsupported,
    orientation_of,
    rescale,
    unpremultiply,
)
from .profiles import srgb_from_lab

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
"""The integer types of a field (section 2), in numpy's words."""

_COMPRESSIONS = {
    2: "CCITT fax",
    3: "CCITT fax",
    4: "CCITT fax",
    6: "old-style JPEG",
    7: "JPEG",
    9: "JBIG",
    10: "JBIG",
    32771: "CCITT fax",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG",
    34933: "PNG",
    34934: "JPEG XR",
    48124: "JETRAW",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_BY_LIBTIFF = {5: "LZW", 32773: "PackBits", 50000: "Zstandard"}
_DEFLATE = (8, 32946)
_LZMA = 34925
_LZMA_MEMORY = 256 << 20
"""The most memory for LZMA; the data declare how much they need. The strongest common setting needs
65 MB.
"""
_PICTURES = (2, 3, 4, 6, 7, 32771)
"""Compressions of pictures rather than bytes: Pillow decodes the whole file."""

_RATIOS = {1: 1, 5: 1400, 32773: 64, _LZMA: 1 << 16, 50000: 1 << 16}
"""The largest compression ratio (1,032 with Deflate): a file that claims more is refused before
memory is allocated.
"""

_SIGNED = (
    "a TIFF of signed integers, for which there is no agreed white; save it as unsigned"
    " integers or as floating point"
)
_MAX_SAMPLES = 32
_BYTES_A_PIXEL = 16
"""The memory of a picture, in bytes per allowed pixel: RGBA as float32."""

_BATCH = 16 << 20
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


@dataclass(frozen=True, slots=True)
class _Directory:
    """The fields of the first directory: by tag, (type, count, offset of the values)."""

    content: bytes
    order: str
    big: bool
    fields: dict[int, tuple[int, int, int]]

    def numbers(self, tag: int) -> np.ndarray:
        """Give a field's integers; empty if there is no such field."""
        import numpy as np

        if tag not in self.fields:
            return np.empty(0, "int64")
        kind, count, at = self.fields[tag]
        if kind not in _NUMBERS:
            raise Damaged(f"its field {tag} is not an integer")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if count * dtype.itemsize > len(self.content) - at:
            raise Damaged(f"its field {tag} is outside the file")
        return np.frombuffer(self.content, dtype, count, at)

    def number(self, tag: int, default: int | None = None) -> int:
        found = self.numbers(tag)
        if not len(found):
            if default is None:
                raise Damaged(f"it lacks the field {tag}")
            return default
        return int(found[0])

    def ratios(self, tag: int) -> list[float]:
        """Give a field's fractions; empty if there is no such field."""
        kind, count, at = self.fields.get(tag, (5, 0, 0))
        if kind != 5 or count > 64 or at + 8 * count > len(self.content):
            raise Damaged(f"its field {tag} contains no fractions")
        numbers = struct.unpack_from(f"{self.order}{2 * count}I", self.content, at)
        return [
            above / below if below else 0.0
            for above, below in zip(numbers[::2], numbers[1::2], strict=True)
        ]

    def raw(self, tag: int) -> bytes:
        """Give a field of bytes; empty if there is none or it is outside the file."""
        kind, count, at = self.fields.get(tag, (1, 0, 0))
        return (
            self.content[at : at + count]
            if kind in (1, 2, 6, 7) and at + count <= len(self.content)
            else b""
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    """How samples are stored in the file."""

    width: int
    height: int
    bits: int
    form: int  # 1 unsigned, 2 signed, 3 floating point
    samples: int
    planes: bool
    predictor: int
    compression: int
    reversed: bool
    order: str
    tile: tuple[int, int]  # width and height of what is compressed by itself: a tile, or a strip
    tiled: bool

    @property
    def pieces_across(self) -> int:
        return -(-self.width // self.tile[0])

    @property
    def pieces_down(self) -> int:
        return -(-self.height // self.tile[1])

    @property
    def row_bytes(self) -> int:
        return (self.tile[0] * (1 if self.planes else self.samples) * self.bits + 7) // 8


def is_tiff(content: bytes) -> bool:
    """Tell whether a file starts like a TIFF or BigTIFF."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(content: bytes, check_size: CheckSize, max_pixels: int) -> Decoded | None:
    """Decode the first picture. Returns None for kinds that Pillow decodes correctly.

    Raises:
        Damaged, Unsupported: see there.
        ValueError: too many pixels.
    """
    import numpy as np

    directory = _read_directory(content)
    width, height = directory.number(256), directory.number(257)
    if width < 1 or height < 1:
        raise Damaged(f"it has {width} x {height} pixels")
    check_size(width, height)
    _refuse_raw(directory)

    samples = directory.number(277, 1)
    if not 1 <= samples <= _MAX_SAMPLES:
        raise Unsupported(
            f"a TIFF of {samples} channels; up to {_MAX_SAMPLES} can be read; save it as grey"
            " or RGB"
        )
    bits = _common_value(directory.numbers(258), 1, samples, "bits")
    compression, photometric = directory.number(259, 1), directory.number(262, -1)
    if photometric < 0:
        raise Unsupported(
            "a TIFF that does not say what its numbers mean (PhotometricInterpretation is missing);"
            " save it again in an image editor"
        )
    if compression in _PICTURES or photometric == 6:
        _check_for_pillow(directory, compression, photometric, bits, samples)
        _check_pieces(directory, compression)
        return None
    if compression not in (1, *_DEFLATE, _LZMA, *_BY_LIBTIFF):
        named = _COMPRESSIONS.get(compression)
        raise Unsupported(
            f"a TIFF compressed by {named or f'method {compression}'}, which cannot be read; save"
            " it with LZW or Deflate compression"
        )
    form = _sample_format(directory, samples, bits)
    colours, alpha, premultiplied = _channels(directory, photometric, samples)
    if photometric in (0, 3) and form == 3:
        raise Unsupported(
            "a TIFF of floating-point numbers"
            f" {'in which 0 is white' if photometric == 0 else 'as indices of a palette'}, which"
            " have no agreed meaning; save it as grey or RGB"
        )
    if (photometric == 3 and bits > 16) or (
        photometric in (8, 9) and (bits not in (8, 16) or form != 1)
    ):
        raise Unsupported(
            f"a TIFF {'with a palette' if photometric == 3 else 'in L*a*b*'} of {bits} bits; save"
            " it as RGB"
        )
    layout = _layout(directory, width, height, bits, form, samples, compression)
    if width * height * samples * ((bits + 7) // 8) > max_pixels * _BYTES_A_PIXEL:
        raise Unsupported(
            f"a TIFF of {width:,} x {height:,} pixels with {samples} channels of {bits} bits, more"
            f" than max_pixels allows ({max_pixels:,}); raise max_pixels or make the picture"
            " smaller"
        )

    wanted = [*range(colours), *([] if alpha is None else [alpha])]
    found = _read_samples(content, directory, layout, wanted, max_pixels)
    max_value = (1 << bits) - 1
    if form == 2:
        signed = found.view("int32")
        if signed.min() < 0 or signed.max() > 65535:
            raise Unsupported(_SIGNED)
        found, form, max_value = signed.astype("uint16"), 1, 65535
    pixels = found[:, :, :colours]
    if photometric == 0:
        pixels = pixels.dtype.type(max_value) - pixels
    opacity = found[:, :, colours:] if alpha is not None else None
    if form == 1:
        if photometric == 3:
            pixels = _palette(directory, bits, pixels)
        elif photometric in (8, 9):
            pixels = srgb_from_lab(pixels, offset=photometric == 9)
        else:
            pixels = rescale(pixels, max_value)
        opacity = None if opacity is None else rescale(opacity, max_value, pixels.dtype.name)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = pixels.astype("float32", copy=False)
            opacity = None if opacity is None else opacity.astype("float32", copy=False)
    if premultiplied and opacity is not None:
        pixels = unpremultiply(pixels, opacity)
        if form == 1 and pixels.dtype == "float32":
            pixels = np.minimum(pixels, np.float32(1))
    profile = b"" if photometric in (8, 9) else directory.raw(34675)
    turned = directory.number(274, 1) if directory.fields.get(274, (0,))[0] in _NUMBERS else 1
    return Decoded(
        pixels,
        opacity,
        profile,
        None,
        turned if turned in range(1, 9) else orientation_of(b"", directory.raw(700)),
    )


def _read_directory(content: bytes) -> _Directory:
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    try:
        if big:
            size, zero, at = struct.unpack_from(order + "HHQ", content, 4)
            if (size, zero) != (8, 0):
                raise Damaged("its header is not that of a BigTIFF")
            (count,) = struct.unpack_from(order + "Q", content, at)
            at += 8
        else:
            (at,) = struct.unpack_from(order + "I", content, 4)
            (count,) = struct.unpack_from(order + "H", content, at)
            at += 2
        if count > 65_535:
            raise Damaged(f"its directory has {count} fields")
        fields: dict[int, tuple[int, int, int]] = {}
        step, entry, room = (20, "HHQ", 8) if big else (12, "HHI", 4)
        for start in range(at, at + count * step, step):
            tag, kind, number = struct.unpack_from(order + entry, content, start)
            value = start + step - room
            size = number * {
                1: 1,
                2: 1,
                3: 2,
                4: 4,
                5: 8,
                6: 1,
                7: 1,
                8: 2,
                9: 4,
                10: 8,
                11: 4,
                12: 8,
                13: 4,
                16: 8,
                17: 8,
                18: 8,
            }.get(kind, 1)
            if size > room:
                (value,) = struct.unpack_from(order + ("Q" if big else "I"), content, value)
            if start + step > len(content):
                raise Damaged("its directory ends too early")
            fields.setdefault(tag, (kind, number, value))
    except (
        struct.error,
        OverflowError,
    ):  # an offset beyond the file, or beyond what an index can be
        raise Damaged("its directory is outside the file") from None
    return _Directory(content, order, big, fields)


def _refuse_raw(directory: _Directory) -> None:
    photometric = directory.number(262, -1)
    canon = directory.content[8:10] == b"CR"
    if (
        canon
        or 50706 in directory.fields
        or photometric in (32803, 34892, 51177, 52527)
        or (directory.number(254, 0) & 1 and 330 in directory.fields)
    ):
        raise Unsupported(
            "a camera's raw picture, of which only a thumbnail is a plain TIFF; develop it and save"
            " the result as TIFF or PNG"
        )
    if photometric not in (0, 1, 2, 3, 5, 6, 8, 9):
        named = {4: "a transparency mask", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}.get(
            photometric, f"of photometric interpretation {photometric}"
        )
        raise Unsupported(f"a TIFF that is {named}, which cannot be read; save it as grey or RGB")


def _common_value(values: np.ndarray, default: int, samples: int, what: str) -> int:
    """Give the value that all samples share; other programs may write it once for all of them."""
    if not len(values):
        return default
    if len(values) < samples and len(values) != 1:
        raise Damaged(f"it has {samples} channels, but declares the {what} of {len(values)}")
    kinds = sorted({int(value) for value in values[:samples]})
    if len(kinds) > 1:
        raise Unsupported(
            f"a TIFF whose channels differ in {what} ({', '.join(map(str, kinds))}); save it with"
            " equal ones"
        )
    return kinds[0]


def _sample_format(directory: _Directory, samples: int, bits: int) -> int:
    form = _common_value(directory.numbers(339), 1, samples, "sample format")
    if form == 2 and bits == 32 and directory.number(262) in (1, 2):
        # how programs that know no unsigned integers (Pillow's mode I) write 16 bits; the values
        # tell
        return 2
    if form == 2:
        raise Unsupported(_SIGNED)
    if form not in (1, 3, 4):
        raise Unsupported(
            "a TIFF of complex numbers; save it as unsigned integers or as floating point"
        )
    if form == 3 and bits not in (16, 32, 64):
        raise Unsupported(f"a TIFF of floating-point numbers of {bits} bits; save it with 32 bits")
    if form != 3 and not (
        1 <= bits <= 16 or bits == 32
    ):  # the order of the bytes of 24 is not agreed
        raise Unsupported(
            f"a TIFF of {bits} bits per channel; save it with 8 or 16 bits, or as floating point"
            " with 32"
        )
    return 3 if form == 3 else 1


def _channels(
    directory: _Directory, photometric: int, samples: int
) -> tuple[int, int | None, bool]:
    """Give how many channels are colours, which one is alpha, and whether it is premultiplied."""
    colours = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 8: 3, 9: 3}[photometric]
    if samples < colours:
        if photometric in (8, 9) and samples == 1:
            raise Unsupported("a TIFF with only L*; save it as grey")
        raise Damaged(f"it has {samples} channels, but its colours need {colours}")
    if photometric == 5 and (directory.number(332, 1) != 1 or directory.number(334, 4) != 4):
        raise Unsupported(
            "a TIFF of inks other than cyan, magenta, yellow and black; save it as CMYK or RGB"
        )
    if photometric == 5 and len(ranged := directory.numbers(336)):
        bits = _common_value(directory.numbers(258), 1, samples, "bits")
        if {int(low) for low in ranged[0::2]} != {0} or {int(high) for high in ranged[1::2]} != {
            (1 << bits) - 1
        }:
            raise Unsupported(
                "a TIFF of inks in a range of their own (DotRange); save it as CMYK of the full"
                " range, or as RGB"
            )
    kinds = [int(kind) for kind in directory.numbers(338)[: samples - colours]]
    if not kinds and photometric == 2 and samples == 4:
        return colours, 3, False  # older programs do not say that the fourth is alpha
    others = samples - colours
    if len(kinds) < others or (colours == 1 and others > 1 and not {1, 2, 999} & set(kinds)):
        raise Unsupported(
            f"a TIFF of {samples} channels that does not say which of them are the picture; save it"
            " as grey or RGB"
        )
    # 999 is what one program (Corel Draw 10) writes for 2.
    for index, kind in enumerate(kinds):
        if kind in (1, 2, 999):
            return colours, colours + index, kind == 1
    return colours, None, False


def _check_for_pillow(
    directory: _Directory, compression: int, photometric: int, bits: int, samples: int
) -> None:
    """Refuse what Pillow's libtiff would not decode correctly."""
    named = _COMPRESSIONS.get(compression, "YCbCr")
    if compression not in (*_PICTURES, 1, *_DEFLATE, _LZMA, *_BY_LIBTIFF):
        raise Unsupported(
            "a TIFF compressed by"
            f" {named if compression in _COMPRESSIONS else f'method {compression}'}, which cannot"
            " be read; save it with LZW or Deflate compression"
        )
    if directory.number(284, 1) != 1 and samples > 1 and (compression != 7 or photometric == 6):
        raise Unsupported(
            f"a TIFF in {named} with separate planes; save it with LZW or Deflate compression"
        )
    if compression in (2, 3, 4, 32771):
        if (bits, samples) != (1, 1) or photometric not in (0, 1):
            raise Unsupported(
                f"a TIFF in {named} that is not black and white; save it with LZW or Deflate"
                " compression"
            )
        return
    if photometric == 6 and (
        directory.number(266, 1) != 1
        or (compression in (1, 6, 7) and not _is_plain_ycbcr(directory, compression))
    ):
        raise Unsupported(
            "a TIFF in YCbCr of a range, coefficients or arrangement of its own; save it as RGB"
        )
    right = (
        {0: (1,), 1: (1, 2), 2: (3, 4), 5: (4,), 6: (3,)}.get(photometric, ())
        if compression != 6
        else (1, 3)
    )
    if (
        bits != 8
        or samples not in right
        or _common_value(directory.numbers(339), 1, samples, "sample format") not in (1, 4)
    ):
        raise Unsupported(
            f"a TIFF in {named} of {samples} channels and {bits} bits, which cannot be read; save"
            " it with LZW or Deflate compression"
        )


def _check_pieces(directory: _Directory, compression: int) -> None:
    """Refuse a file with missing pieces: Pillow leaves their pixels black."""
    width, height = directory.number(256), directory.number(257)
    tiled = 324 in directory.fields
    offsets, sizes = (
        directory.numbers(324 if tiled else 273),
        directory.numbers(325 if tiled else 279),
    )
    if compression == 6 and not len(offsets):
        return  # one JPEG stream, which is elsewhere
    pieces_across, rows = (
        (-(-width // max(1, directory.number(322))), directory.number(323))
        if tiled
        else (1, min(directory.number(278, height), height))
    )
    pieces_down = -(-height // max(1, rows))
    count = (
        pieces_across
        * pieces_down
        * (directory.number(277, 1) if directory.number(284, 1) == 2 else 1)
    )
    if min(len(offsets), len(sizes)) < count:
        raise Damaged(
            f"its pixels are in {count:,} pieces, but it locates only"
            f" {min(len(offsets), len(sizes)):,}"
        )
    for index in range(count):
        offset, size = int(offsets[index]), int(sizes[index])
        if offset + size > len(directory.content):
            raise Damaged(
                f"it ends too early: a piece of its pixels ends at byte {offset + size:,}, but the"
                f" file ends at {len(directory.content):,}"
            )
        if compression == 1 and not tiled and size < 3 * width * min(rows, height - index * rows):
            raise Damaged(
                f"a piece of its pixels holds {size:,} bytes of"
                f" {3 * width * min(rows, height - index * rows):,}"
            )


def _is_plain_ycbcr(directory: _Directory, compression: int) -> bool:
    """Tell whether YCbCr is that of JPEG, which Pillow assumes unless libtiff converts it; and, if
    uncompressed, whether the colours have the size of the picture.
    """
    coefficients, levels = (
        directory.ratios(529) or [0.299, 0.587, 0.114],
        directory.ratios(532) or [0, 255, 128, 255, 128, 255],
    )
    plain = all(
        abs(a - b) < 0.001 for a, b in zip(coefficients, (0.299, 0.587, 0.114), strict=False)
    )
    plain = plain and all(
        abs(a - b) <= 1 for a, b in zip(levels, (0, 255, 128, 255, 128, 255), strict=False)
    )
    if compression != 1:
        return plain
    sampling = [int(value) for value in directory.numbers(530)]
    whole = int(directory.numbers(279).sum()) >= 3 * directory.number(256) * directory.number(257)
    return plain and (sampling == [1, 1] or (not sampling and whole))


def _layout(
    directory: _Directory,
    width: int,
    height: int,
    bits: int,
    form: int,
    samples: int,
    compression: int,
) -> _Layout:
    planar, predictor, fill = (
        directory.number(284, 1),
        directory.number(317, 1),
        directory.number(266, 1),
    )
    if planar not in (1, 2) or fill not in (1, 2):
        raise Damaged(
            f"its planar configuration is {planar} and its fill order {fill}; both can be 1 or 2"
        )
    if compression not in (5, *_DEFLATE, _LZMA, 50000):
        predictor = 1  # section 14: a predictor belongs to a compression that knows it
    if (
        (predictor == 2 and bits not in (8, 16, 32, 64))
        or (predictor == 3 and form != 3)
        or predictor not in (1, 2, 3)
    ):
        raise Unsupported(
            f"a TIFF of {bits} bits a channel with predictor {predictor}, which do not go together;"
            " save it without a predictor"
        )
    tiled = 322 in directory.fields or 323 in directory.fields
    tile = (
        (directory.number(322), directory.number(323))
        if tiled
        else (width, min(directory.number(278, height), height))
    )
    if min(tile) < 1:
        raise Damaged(f"it consists of pieces of {tile[0]} x {tile[1]} pixels")
    return _Layout(
        width,
        height,
        bits,
        form,
        samples,
        planar == 2 and samples > 1,
        predictor,
        compression,
        fill == 2,
        directory.order,
        tile,
        tiled,
    )


def _read_samples(
    content: bytes, directory: _Directory, layout: _Layout, wanted: list[int], max_pixels: int
) -> np.ndarray:
    """Give the samples of the wanted channels, (height, width, channels), in this machine's byte
    order.
    """
    import numpy as np

    tile_width, tile_height = layout.tile
    pieces = layout.pieces_across * layout.pieces_down
    planes = wanted if layout.planes else [0]
    tiled = layout.tiled
    offsets = directory.numbers(324 if tiled and 324 in directory.fields else 273)
    sizes = directory.numbers(325 if tiled and 325 in directory.fields else 279)
    count = pieces * (layout.samples if layout.planes else 1)
    if len(offsets) < count or (len(sizes) < count and layout.compression != 1):
        raise Damaged(
            f"its pixels are in {count:,} pieces, but it locates only"
            f" {min(len(offsets), len(sizes)):,}"
        )
    piece_bytes = layout.row_bytes * tile_height
    if piece_bytes > max(max_pixels, 1 << 20) * _BYTES_A_PIXEL:
        raise Unsupported(
            f"a TIFF in pieces of {tile_width:,} x {tile_height:,} pixels, more than max_pixels"
            f" allows ({max_pixels:,}); raise max_pixels"
        )
    whole = (piece_bytes * pieces if tiled else layout.row_bytes * layout.height) * len(planes)
    if whole > _RATIOS.get(layout.compression, 1032) * len(content):
        raise Damaged(
            f"it ends too early: {layout.width:,} x {layout.height:,} pixels cannot be in"
            f" {len(content):,} bytes"
        )

    if layout.form == 3:
        dtype = f"float{layout.bits}"
    else:
        dtype = "uint8" if layout.bits <= 8 else "uint16" if layout.bits <= 16 else "uint32"
    out = np.empty((layout.height, layout.width, len(wanted)), dtype)
    for at, plane in enumerate(planes):
        numbers = range(plane * pieces, (plane + 1) * pieces) if layout.planes else range(pieces)
        done = 0
        for rows in _decompress(content, layout, offsets, sizes, numbers):
            taken = _to_numbers(rows, layout)
            if not layout.planes:
                taken = taken[:, :, wanted] if len(wanted) < layout.samples else taken
            target = out[:, :, at : at + 1] if layout.planes else out
            if not tiled:
                target[done : done + len(taken)] = taken
                done += len(taken)
                continue
            for start in range(0, len(taken), tile_height):
                y, x = (
                    done // layout.pieces_across * tile_height,
                    done % layout.pieces_across * tile_width,
                )
                part = target[y : y + tile_height, x : x + tile_width]
                part[...] = taken[start : start + part.shape[0], : part.shape[1]]
                done += 1
    return out


def _decompress(
    content: bytes, layout: _Layout, offsets: np.ndarray, sizes: np.ndarray, numbers: range
) -> Iterator[np.ndarray]:
    """Yield decompressed rows, (rows, bytes of a row), of some pieces at a time."""
    import numpy as np

    row_bytes, (_, tile_height) = layout.row_bytes, layout.tile
    last = layout.height - (layout.pieces_down - 1) * tile_height
    batch: list[tuple[bytes, int]] = []
    pending = 0
    for index, number in enumerate(numbers):
        rows = tile_height if layout.tiled or index < len(numbers) - 1 else last
        offset = int(offsets[number])
        size = rows * row_bytes if layout.compression == 1 else int(sizes[number])
        if size < 1 or offset < 8:
            raise Unsupported(
                "a TIFF some of whose pieces are left out (sparse, or never finished); save it"
                " whole"
            )
        if offset + size > len(content):
            raise Damaged(
                f"it ends too early: a piece of its pixels ends at byte {offset + size:,}, but the"
                f" file ends at {len(content):,}"
            )
        # No compression expands data this much. Without the bound, many pieces could each claim the
        # whole file.
        piece = content[offset : offset + min(size, 2 * rows * row_bytes + 1024)]
        batch.append((piece.translate(_REVERSED) if layout.reversed else piece, rows))
        pending += rows * row_bytes
        if pending >= _BATCH or index == len(numbers) - 1:
            if layout.compression in _BY_LIBTIFF:
                yield _unpack_by_libtiff(batch, layout)
            else:
                unpack = {1: lambda piece, size: piece, _LZMA: _unpack_lzma}.get(
                    layout.compression, _inflate
                )
                data = [unpack(piece, rows * row_bytes) for piece, rows in batch]
                yield np.frombuffer(data[0] if len(data) == 1 else b"".join(data), "uint8").reshape(
                    -1, row_bytes
                )
            batch, pending = [], 0


def _inflate(piece: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(piece, size)
        # On to the check sum at the end; what a program packed besides is passed over.
        while not unpacker.eof and unpacker.unconsumed_tail:
            if not unpacker.decompress(unpacker.unconsumed_tail, 1 << 16):
                break
    except zlib.error as error:
        raise Damaged(f"its compressed pixels are damaged: {error}") from error
    if len(data) < size:
        raise Damaged(f"a piece of its pixels holds {len(data):,} bytes of {size:,}")
    return data


def _unpack_lzma(piece: bytes, size: int) -> bytes:
    import lzma

    try:
        data = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(piece, size)
    except (lzma.LZMAError, MemoryError) as error:
        raise Damaged(f"its compressed pixels are damaged: {error}") from error
    if len(data) < size:
        raise Damaged(f"a piece of its pixels holds {len(data):,} bytes of {size:,}")
    return data


def _unpack_by_libtiff(batch: list[tuple[bytes, int]], layout: _Layout) -> np.ndarray:
    """Decompress pieces with libtiff: as the strips of a grey picture of bytes."""
    import numpy as np
    from PIL.TiffImagePlugin import TiffImageFile

    height = sum(rows for _, rows in batch)
    strip_offsets, at = [], 8
    for piece, _ in batch:
        strip_offsets.append(at)
        at += len(piece)
    more = at + at % 2
    fields: list[tuple[int, int, list[int]]] = [
        (256, 4, [layout.row_bytes]),
        (257, 4, [height]),
        (258, 3, [8]),
        (259, 3, [layout.compression]),
        (262, 3, [1]),
        (273, 4, strip_offsets),
        (277, 3, [1]),
        (278, 4, [batch[0][1]]),
        (279, 4, [len(piece) for piece, _ in batch]),
    ]
    entries, values = b"", b""
    behind = more + 2 + 12 * len(fields) + 4
    for tag, kind, numbers in fields:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            packed, values = struct.pack("<I", behind + len(values)), values + packed
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    made = [
        struct.pack("<2sHI", b"II", 42, more),
        *(piece for piece, _ in batch),
        b"\0" * (at % 2),
        struct.pack("<H", len(fields)),
        entries,
        b"\0" * 4,
        values,
    ]
    try:
        with TiffImageFile(io.BytesIO(b"".join(made))) as picture:
            return np.array(picture)
    except OSError as error:
        able = ", or this Pillow was built without it" if layout.compression == 50000 else ""
        raise Damaged(
            f"its pixels, compressed by {_BY_LIBTIFF[layout.compression]}, are damaged"
            f" ({error}){able}"
        ) from error


def _to_numbers(rows: np.ndarray, layout: _Layout) -> np.ndarray:
    """Convert rows of bytes to numbers, (rows, width of a piece, samples)."""
    import numpy as np

    bits, width, samples = layout.bits, layout.tile[0], 1 if layout.planes else layout.samples
    if bits % 8:
        return _split_bits(rows, bits, width * samples).reshape(len(rows), width, samples)
    size = bits // 8
    if layout.predictor == 3:
        # Note 3: the bytes of a row are sorted by weight, the greatest first, then differenced at
        # the distance of a pixel.
        whole = np.cumsum(rows.reshape(len(rows), -1, samples), axis=1, dtype="uint8").reshape(
            len(rows), size, width * samples
        )
        found = (
            np.ascontiguousarray(whole.transpose(0, 2, 1))
            .view(f">f{size}")
            .reshape(len(rows), width, samples)
        )
        return found.astype(f"float{bits}")
    found = rows.view(f"{layout.order}u{size}").reshape(len(rows), width, samples)
    found = found.astype(f"uint{bits}", copy=False)
    if layout.predictor == 2:
        found = np.cumsum(found, axis=1, dtype=f"uint{bits}")
    return found.view(f"float{bits}") if layout.form == 3 else found


def _split_bits(rows: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Split rows into numbers of a few bits each, the first one in the highest bits, whatever the
    byte order.
    """
    import numpy as np

    out = np.empty((len(rows), count), "uint8" if bits <= 8 else "uint16")
    step = max(1, (1 << 20) // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        flat = np.unpackbits(rows[start : start + step], axis=1, count=count * bits).reshape(
            -1, count, bits
        )
        found = out[start : start + step]
        found[...] = 0
        for bit in range(bits):
            found[...] = found << 1 | flat[:, :, bit]
    return out


def _palette(directory: _Directory, bits: int, indices: np.ndarray) -> np.ndarray:
    import numpy as np

    colours: Any = directory.numbers(320)
    if len(colours) != 3 << bits:
        raise Damaged(f"its palette has {len(colours)} numbers, but needs {3 << bits}")
    table = colours.reshape(3, -1).T.astype("uint16")
    # Its numbers have 16 bits. Where they are bytes made wide in one of the two usual ways, or were
    # never made wide, the picture has 8.
    if table.max() < 256:
        return table.astype("uint8")[indices[:, :, 0]]
    if not (table & 255).any() or (table >> 8 == table & 255).all():
        return (table >> 8).astype("uint8")[indices[:, :, 0]]
    return np.asarray(table[indices[:, :, 0]])
