"""Read a PNG: the chunks here, the pixels with Pillow.

Pillow does not verify the checksum of the pixels, fails on metadata that has nothing to do with
them, and reduces 16-bit colour to 8 bits. So it is given only the chunks that make up the pixels,
after they were checked; twice for a depth of 16.

Source: Portable Network Graphics (W3C, Third Edition), sections 5 (chunks), 11 (their contents) and
13 (decoders).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from .decoded import CheckSize, Damaged, Decoded, Unsupported, orientation_of

if TYPE_CHECKING:
    import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MAX_CHUNKS = 100_000
"""Besides those that hold pixels."""
_MAX_PROFILE = 64 << 20
_MAX_TEXT = 16 << 20
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"iCCP", b"cICP")
"""Chunks that determine how the picture looks: damage in one of them is not ignored."""

_OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""Pillow's raw modes that keep the upper bytes of 16-bit colour, and those that keep the lower ones
instead.
"""


def read_png(content: bytes, check_size: CheckSize) -> Decoded:
    """Decode the picture, or the still image of an animated one.

    Raises:
        Damaged, Unsupported: see there.
        ValueError: too many pixels.
    """
    import numpy as np

    chunks, pixels, cut = _chunks(content)
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise Damaged("it has no header")
    width, height, depth, kind, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", chunks[b"IHDR"]
    )
    if (
        width < 1
        or height < 1
        or depth not in _DEPTHS.get(kind, ())
        or compression
        or filtering
        or interlace > 1
    ):
        raise Damaged("its header is invalid")
    check_size(width, height)
    if not pixels:
        raise Damaged("it has no pixels")
    _check_stream(pixels, _raw_size(width, height, depth * _CHANNELS[kind], interlace), cut=cut)

    palette, clear = chunks.get(b"PLTE", b""), chunks.get(b"tRNS")
    # Two pieces of a palette picture belong to it; in others PLTE is a suggestion, and tRNS is
    # applied below.
    bare = [_chunk(b"IHDR", chunks[b"IHDR"])]
    if kind == 3:
        if not palette or len(palette) % 3 or len(palette) > 768:
            raise Damaged("its palette is missing or invalid")
        bare.append(_chunk(b"PLTE", palette))
    whole = b"".join(
        (SIGNATURE, *bare, *(_chunk(b"IDAT", part) for part in pixels), _chunk(b"IEND", b""))
    )
    try:
        found = _read_samples(whole, depth, kind)
    except (OSError, SyntaxError, ValueError) as error:  # a row's filter that does not exist
        raise Damaged(str(error).rstrip(".")) from error

    alpha: np.ndarray | None = None
    if kind == 3:
        table = np.zeros(
            (256, 4), "uint8"
        )  # an index beyond the palette is black, as libpng has it
        table[:, 3] = 255
        table[: len(palette) // 3, :3] = np.frombuffer(palette, "uint8").reshape(-1, 3)
        if clear is not None:
            table[: len(clear[:256]), 3] = np.frombuffer(clear[:256], "uint8")
            alpha = table[:, 3:][found[:, :, 0]]
        found = table[:, :3][found[:, :, 0]]
    elif kind in (4, 6):
        found, alpha = found[:, :, :-1], found[:, :, -1:]
    elif clear is not None and len(clear) == 2 * _CHANNELS[kind]:
        full = np.iinfo(found.dtype).max
        # Of the 16 bits of each number as many count as a sample has.
        named = [
            (number & (1 << depth) - 1) * full // ((1 << depth) - 1)
            for number in struct.unpack(f">{len(clear) // 2}H", clear)
        ]
        alpha = np.where(
            (found == np.array(named, found.dtype)).all(axis=2, keepdims=True),
            found.dtype.type(0),
            found.dtype.type(full),
        )

    code = chunks.get(b"cICP", b"")
    cicp = (code[0], code[1]) if len(code) == 4 and code[2:] == b"\0\1" else None
    exif, xmp = _metadata(chunks)
    return Decoded(
        found, alpha, _profile(chunks.get(b"iCCP", b"")), cicp, orientation_of(exif, xmp)
    )


def _chunks(content: bytes) -> tuple[dict[bytes, bytes], list[memoryview], bool]:
    """Give the first chunk of each kind (texts by kind and keyword), the contents of those that
    hold pixels, and whether the file ends within one of these.
    """
    found: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    view = memoryview(content)
    at, others = len(SIGNATURE), 0
    while True:
        if len(content) - at < 12:
            if pixels:
                break  # whether all of them are there is seen when they are unpacked
            raise Damaged("it ends before its pixels")
        length, kind = struct.unpack_from(">I4s", content, at)
        if length > 0x7FFFFFFF or not kind.isalpha():
            if pixels:
                break  # likewise
            raise Damaged("a chunk is invalid")
        if kind == b"IEND":
            break
        if len(content) - at - 12 < length:
            if pixels and kind not in _PIXELS:
                break
            if kind == b"IDAT":
                # the check sum at the end of what is compressed tells whether pixels are missing,
                # or only what is behind them
                return found, [*pixels, view[at + 8 :]], True
            raise Damaged(f"it ends within its chunk {kind.decode()}")
        sound = zlib.crc32(view[at + 4 : at + 8 + length]) == int.from_bytes(
            view[at + 8 + length : at + 12 + length], "big"
        )
        if not sound and (kind in _PIXELS or kind[:1].isupper()):
            raise Damaged(f"the checksum of its chunk {kind.decode()} is wrong")
        if kind == b"IDAT":
            pixels.append(view[at + 8 : at + 8 + length])
        else:
            others += 1
            if others > _MAX_CHUNKS:
                raise Damaged(f"it has more than {_MAX_CHUNKS:,} chunks without pixels")
            if kind == b"CgBI":
                raise Unsupported(
                    "a PNG in Apple's own format (CgBI), which other programs cannot read; save it"
                    " as"
                    " a plain PNG"
                )
            if kind[:1].isupper() and kind not in _PIXELS:
                raise Unsupported(
                    f"a PNG with an unknown critical chunk {kind.decode()}; save it as a plain PNG"
                )
            body = content[at + 8 : at + 8 + length] if kind in (*_PIXELS, b"eXIf") else b""
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword = bytes(view[at + 8 : at + 8 + min(length, 80)]).split(b"\0")[0]
                if keyword in (
                    b"XML:com.adobe.xmp",
                    b"Raw profile type exif",
                    b"Raw profile type APP1",
                ):
                    body = content[at + 8 : at + 8 + length]
                    kind += b" " + keyword
            if sound:
                found.setdefault(kind, body)
        at += 12 + length
    return found, pixels, False


def _raw_size(width: int, height: int, bits: int, interlace: int) -> int:
    """Count the bytes of the pixels before compression: each row and its filter byte."""
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    size = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def _check_stream(pixels: list[memoryview], size: int, *, cut: bool) -> None:
    """Decompress all pixels up to the checksum at their end, keeping nothing."""
    unpacker = zlib.decompressobj()
    done = 0
    try:
        for part in pixels:
            for start in range(
                0, len(part), 1 << 16
            ):  # by pieces: what is left over of a long input is copied each time
                data: bytes | memoryview = part[start : start + (1 << 16)]
                while len(data) and not unpacker.eof:
                    done += len(unpacker.decompress(data, 1 << 20))
                    if done > size + (1 << 24):
                        raise Damaged("it has more pixels than its header says")
                    data = unpacker.unconsumed_tail
        done += len(unpacker.flush(1 << 20))
    except zlib.error as error:
        raise Damaged(
            f"its compressed pixels are damaged: {str(error).removeprefix('Error ')}"
        ) from error
    if cut and not unpacker.eof:
        raise Damaged("it ends within its chunk IDAT")
    if done < size:
        raise Damaged(f"its pixels need {size:,} bytes, but it has {done:,}")


def _read_samples(whole: bytes, depth: int, kind: int) -> np.ndarray:
    """Give all samples, (height, width, channels): palette indexes unchanged, others over the whole
    range of 8 or 16 bits.
    """
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(io.BytesIO(whole)) as picture:
        if depth < 16 or kind == 0:
            found = np.array(picture)
            if found.dtype == "bool":
                found = found.astype("uint8") * np.uint8(255)
            found = found.astype("uint16" if depth == 16 else "uint8", copy=False)
            return found[:, :, None] if found.ndim == 2 else found
        if kind == 4:
            # Four bytes a pixel, which the raw mode RGBA hands over as they are.
            picture.tile = [tile._replace(args="RGBA") for tile in picture.tile]
            picture._mode = "RGBA"
            four = np.array(picture)
            return four.view(">u2").astype("uint16")
        upper = np.array(picture).astype("uint16")
    upper <<= 8
    # Decoding once more, with the byte order declared the other way round, keeps the lower bytes:
    # together they are the whole, and the decoder stays Pillow's.
    with PngImageFile(io.BytesIO(whole)) as picture:
        picture.tile = [tile._replace(args=_OTHER_BYTES[str(tile.args)]) for tile in picture.tile]
        upper |= np.array(picture)
    return upper


def _profile(body: bytes) -> bytes:
    """Decompress an ICC profile; empty if that fails."""
    name, _, packed = body.partition(b"\0")
    return _inflate(packed[1:], _MAX_PROFILE) if len(name) <= 79 and packed[:1] == b"\0" else b""


def _metadata(chunks: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Give EXIF and XMP, as far as they can be read."""
    exif = chunks.get(b"eXIf", b"")
    if not exif:
        for keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
            text = chunks.get(b"tEXt " + keyword, b"").partition(b"\0")[2]
            packed = chunks.get(b"zTXt " + keyword, b"").partition(b"\0")[2]
            text = text or _inflate(packed[1:], _MAX_TEXT)
            # A name, a length, then the bytes in hexadecimal.
            try:
                exif = exif or bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
            except ValueError:
                continue
    body = chunks.get(b"iTXt XML:com.adobe.xmp", b"").partition(b"\0")[2]
    xmp = body[2:].split(b"\0", 2)[-1]
    if body[:1] == b"\1":
        xmp = _inflate(xmp, _MAX_TEXT)
    return exif.removeprefix(b"Exif\0\0"), xmp


def _inflate(packed: bytes, max_value: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, max_value)
    except zlib.error:
        return b""
    return data if unpacker.eof else b""


def _chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    return b"".join(
        (
            struct.pack(">I", len(body)),
            kind,
            body,
            struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))),
        )
    )
