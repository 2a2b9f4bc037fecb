"""Encode pictures as files, and keep provenance inside them.

What a file holds, by its ending:

* ``.png``: 8 bits as 8 bits, 16 bits as 16 bits, float clipped to 0…1 and rounded to 8 bits;
* ``.tif``, ``.tiff``: 8 bits, 16 bits and float32 as they are (Deflate);
* ``.webp``: 8 bits, lossless unless options say otherwise; grey becomes RGB;
* ``.jpg``, ``.jpeg``: 8 bits, quality 95 without chroma subsampling unless options say otherwise;
  alpha is laid over white, since the format has none.

In a PNG, provenance is written as exactly one uncompressed iTXt chunk before the pixels. It is
uncompressed because Pillow refuses compressed text above 1 MB, and so that it can be searched in
the file as it lies. It is read back from wherever another program has put it, behind the pixels
too, and from each kind of text chunk. Reading walks the chunks of an untrusted file: no pixel is
decoded and memory stays bounded.

Source: PNG (ISO/IEC 15948, W3C Third Edition), section 11.3.3 for tEXt, zTXt and iTXt; TIFF 6.0,
    section 8 and its Supplement 2 for Deflate.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

from .digest import SIZE

if TYPE_CHECKING:
    from .values import Image, Mask

__all__ = [
    "ENDINGS",
    "KEYWORD",
    "TEXT_LIMIT",
    "embed",
    "encode",
    "encode_image",
    "encode_png",
    "is_signed",
    "read_embedded",
    "seal_of",
]

#: The endings a picture may be written with.
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

#: The keyword of our iTXt chunk.
KEYWORD = b"imagen_flow"

#: The most text that is put into a PNG; what is longer goes into a sidecar.
TEXT_LIMIT = 1_000_000

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Keyword, end of keyword, not compressed, method 0, no language, no translated keyword.
_HEAD = KEYWORD + b"\0\0\0\0\0"
#: The chunks that hold text; we write iTXt, other programs rewrite it as any of them.
_TEXTS = (b"iTXt", b"zTXt", b"tEXt")
#: How often the same text may stand in a file.
_COPIES = 4
#: A chunk of Content Credentials (C2PA): the file is signed, and any change breaks the signature.
_CREDENTIALS = b"caBX"
#: No PNG that is not made to hurt has more chunks than this before its pixels.
_CHUNK_LIMIT = 10_000
_BLOCK = 1 << 20

#: What the formats themselves can hold, in pixels a side.
_SIDE_LIMIT = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}


_NO_OPTIONS: Mapping[str, Any] = {}


def encode(pixels: Any, ending: str, options: Mapping[str, Any] = _NO_OPTIONS) -> bytes:
    """Encode an Image's or Mask's pixels as a file of this ending, as the module says.

    Params:
        options: of the format: ``quality`` (of a WebP file it asks for a lossy one), ``lossless``,
            ``method``, ``subsampling``, ``progressive``, ``compress_level``.

    Raises:
        ValueError: the format cannot hold a picture of this size, or there is no such format.
    """
    height, width = pixels.shape[:2]
    limit = _SIDE_LIMIT.get(ending)
    if limit and max(width, height) > limit:
        raise ValueError(
            f"a {ending} file holds at most {limit} pixels a side, and the picture is {width} x"
            f" {height}; use .png or .tif"
        )
    if ending == ".png":
        return _png(pixels, **options)
    if ending in (".tif", ".tiff"):
        return _tiff(pixels, **options)
    if ending == ".webp":
        lossless = "quality" not in options
        return _by_pillow(pixels, "WEBP", **{"lossless": lossless, "exact": True, **options})
    if ending in (".jpg", ".jpeg"):
        settings = {"quality": 95, "subsampling": "4:4:4", **options}
        return _by_pillow(_over_white(pixels), "JPEG", **settings)
    raise ValueError(f"a picture cannot be a {ending} file; it can be {', '.join(ENDINGS)}")


def encode_image(image: Image | Mask, ending: str = ".png", **options: Any) -> bytes:
    """Encode a picture as outputs write it, but without provenance.

    Params:
        ending: decides the format: ``.png``, ``.jpg``, ``.webp`` or ``.tif``.
        options: those of the format, as an output has them: ``quality=90``.

    Raises:
        ValueError: the format cannot hold a picture of this size, or there is no such format.
    """
    return encode(image.pixels, ending, options)


def encode_png(pixels: Any, *, software: str) -> bytes:
    """Encode 8-bit pixels as a PNG that says right at its beginning what made it."""
    from PIL.PngImagePlugin import PngInfo

    made_by = PngInfo()
    made_by.add_text("Software", software)
    return _by_pillow(pixels, "PNG", pnginfo=made_by)


def _by_pillow(pixels: Any, format: str, **options: Any) -> bytes:
    from .values import Image

    out = BytesIO()
    Image(pixels).to_pil().save(out, format, **options)
    return out.getvalue()


def _over_white(pixels: Any) -> Any:
    from .values import Image

    if pixels.shape[2] not in (2, 4):
        return pixels
    unit = Image(pixels).as_float().pixels
    alpha = unit[:, :, -1:]
    return Image(unit[:, :, :-1] * alpha + (1 - alpha)).as_uint8().pixels


def _png(pixels: Any, compress_level: int = 6) -> bytes:
    if pixels.dtype != "uint16":
        return _by_pillow(pixels, "PNG", compress_level=compress_level)
    # Pillow writes 16 bits of grey alone. The format is plain enough: rows, each difference to the
    # row above (filter 2), compressed.
    import numpy as np

    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view("uint8")
    filtered = np.empty((height, rows.shape[1] + 1), "uint8")
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), compress_level)
    # In pieces, since a chunk's length has 31 bits.
    pieces = [_chunk(b"IDAT", body[i : i + (1 << 30)]) for i in range(0, len(body), 1 << 30)]
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), *pieces, _chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )


def _tiff(pixels: Any, compress_level: int = 6) -> bytes:
    """Write a little-endian TIFF of one Deflate strip: Pillow's writes neither 16 bits nor floats
    in colour.
    """
    height, width, channels = pixels.shape
    colours = 3 if channels >= 3 else 1
    bits = pixels.dtype.itemsize * 8
    strip = zlib.compress(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), compress_level)
    if len(strip) > 0xF0000000:
        raise ValueError("a TIFF file ends at 4 GB; use .png")
    short, long = 3, 4
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (256, long, (width,)),
        (257, long, (height,)),
        (258, short, (bits,) * channels),
        (259, short, (8,)),  # Deflate
        (262, short, (2 if colours == 3 else 1,)),  # RGB, or grey with 0 as black
        (273, long, (0,)),  # where the strip begins: filled in below
        (277, short, (channels,)),
        (278, long, (height,)),
        (279, long, (len(strip),)),
        (284, short, (1,)),  # channels side by side
        *([(338, short, (2,))] if channels > colours else []),  # straight alpha
        (339, short, (3 if pixels.dtype == "float32" else 1,) * channels),
    ]
    # Values that do not fit into their entry's four bytes lie behind the directory, and the strip
    # behind those.
    more_at = 8 + 2 + 12 * len(tags) + 4
    strip_at = more_at + sum(2 * len(v) for _, kind, v in tags if kind == short and len(v) > 2)
    directory, more = b"", b""
    for tag, kind, values in tags:
        values = (strip_at,) if tag == 273 else values
        packed = struct.pack(f"<{len(values)}{'H' if kind == short else 'I'}", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", more_at + len(more)), more + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + b"\0\0\0\0" + more + strip


def embed(png: bytes, text: str) -> bytes:
    """Put provenance into a PNG, in place of what an earlier run put there.

    Raises:
        ValueError: the bytes are no PNG, the text is too long for it, or the picture carries
            Content Credentials, which any change would break.
    """
    content = _HEAD + text.encode()
    if len(content) > TEXT_LIMIT:
        raise ValueError(f"provenance of {len(content)} bytes is too long for a PNG")
    if is_signed(png):
        raise ValueError(
            "the picture carries Content Credentials (C2PA), which a change would break; provenance"
            " goes beside it"
        )
    out = [_SIGNATURE]
    done = False
    for kind, start, end in _walk(BytesIO(png)):
        if kind in _TEXTS and png.startswith(KEYWORD + b"\0", start + 8, end):
            continue
        if kind == b"IDAT" and not done:
            out.append(_chunk(b"iTXt", content))
            done = True
        out.append(png[start:end])
    if not done:
        raise ValueError("a PNG without pixels")
    return b"".join(out)


def is_signed(png: bytes) -> bool:
    """Whether a PNG carries Content Credentials (C2PA)."""
    return any(kind == _CREDENTIALS for kind, _, _ in _walk(BytesIO(png)))


def read_embedded(stream: IO[bytes]) -> str | None:
    """Read our text from an untrusted PNG; None if it has none.

    Raises:
        ValueError: the file is no PNG, or damaged before its pixels, or what carries our keyword is
            no text of ours.
    """
    found: list[str] = []
    pixels = False
    chunks = _walk(stream)
    while True:
        try:
            kind, start, end = next(chunks, (b"", 0, 0))
        except ValueError:
            if not pixels:
                raise
            break  # the rest of the pixels is missing, which is for whoever decodes them to say
        pixels = pixels or kind == b"IDAT"
        if not kind or (pixels and found):
            # as we write it, it stands before the pixels: what lies behind them need not be gone
            # through
            break
        if kind not in _TEXTS:
            continue
        stream.seek(start + 8)
        # Only as much as tells whose it is: another program's text may be of any length.
        if not _is_ours(stream, end - start):
            continue
        text = _read_text(stream, kind, start, end)
        if any(text != other for other in found) or len(found) == _COPIES:
            raise ValueError("provenance stands in it twice")
        found.append(text)
    return found[0] if found else None


def _is_ours(stream: IO[bytes], size: int) -> bool:
    """Whether the text that the stream stands at, in a chunk of this size, has our keyword."""
    return stream.read(min(len(KEYWORD) + 1, size - 12)).startswith(KEYWORD + b"\0")


def _read_text(stream: IO[bytes], kind: bytes, start: int, end: int) -> str:
    """Read the text of a chunk that has our keyword, in whichever form another program has left it."""
    if end - start - 12 > TEXT_LIMIT:
        raise ValueError(f"its provenance is longer than {TEXT_LIMIT} bytes")
    stream.seek(start + 4)
    body = stream.read(end - start - 4)
    if len(body) < end - start - 4:
        raise ValueError("it ends in the middle of its provenance")
    if zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "big"):
        raise ValueError("its provenance is damaged (the check sum is wrong)")
    content = body[4 + len(KEYWORD) + 1 : -4]
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        # Whether it is compressed, the method, the language, the keyword in that language.
        compressed, parts = content[:1] == b"\1", content[2:].split(b"\0", 2)
        if content[:1] not in (b"\0", b"\1") or len(parts) < 3:
            raise ValueError("its provenance is in another form than ours")
        content = content[1:2] + parts[2] if compressed else parts[2]
    if compressed:
        if content[:1] != b"\0":
            raise ValueError("its provenance is compressed in a way that the format does not know")
        content = _inflate(content[1:])
    try:
        return content.decode()
    except UnicodeDecodeError:
        if kind != b"iTXt":  # by the format such text is Latin-1
            return content.decode("latin-1")
        raise ValueError("its provenance is not UTF-8") from None


def _inflate(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, TEXT_LIMIT + 1)
    except zlib.error:
        raise ValueError(
            "its provenance is damaged: it is compressed, and cannot be decompressed"
        ) from None
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"its provenance is longer than {TEXT_LIMIT} bytes")
    if not inflate.eof:
        raise ValueError("its provenance is damaged: it is compressed, and ends too early")
    return text


def seal_of(stream: IO[bytes], *, png: bool) -> str:
    """Digest a file's bytes, in a PNG all but our own chunk: who has changed anything else breaks
    this seal.

    Raises:
        ValueError: a PNG is wanted and this is none, or it ends too early.
    """
    state = blake2b(digest_size=SIZE)
    if not png:
        stream.seek(0)
        while block := stream.read(_BLOCK):
            state.update(block)
        return state.hexdigest()
    last = 8
    for kind, start, end in _walk(stream):
        last = end
        stream.seek(start + 8)
        if kind in _TEXTS and _is_ours(stream, end - start):
            continue
        stream.seek(start)
        _update(state, stream, end - start)
    stream.seek(last)
    while block := stream.read(_BLOCK):
        state.update(block)
    return state.hexdigest()


def _update(state: Any, stream: IO[bytes], left: int) -> None:
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            raise ValueError("it ends in the middle of a chunk")
        state.update(block)
        left -= len(block)


def _walk(stream: IO[bytes]) -> Any:
    """Yield (kind, start, end) of each chunk, up to IEND. Reads eight bytes a chunk; who reads on
    between may seek as they like.
    """
    stream.seek(0)
    if stream.read(8) != _SIGNATURE:
        raise ValueError("it is no PNG")
    at, before_pixels = 8, 0
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            raise ValueError("it ends too early")
        length, kind = struct.unpack(">I4s", head)
        if length > 0x7FFFFFFF or not kind.isalpha():
            raise ValueError("it is damaged: a chunk has no sense")
        if kind != b"IDAT":
            before_pixels += 1
            if before_pixels > _CHUNK_LIMIT:
                raise ValueError(f"it has more than {_CHUNK_LIMIT} chunks that are no pixels")
        yield kind, at, at + 12 + length
        if kind == b"IEND":
            return
        at += 12 + length
