"""Read portable pictures: PBM, PGM and PPM in text or binary, PAM, and PFM.

Source: the manual pages pbm(5), pgm(5), ppm(5) and pam(5) of Netpbm; Paul Debevec's description of
PFM.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .decoded import CheckSize, Damaged, Decoded, Unsupported, rescale

if TYPE_CHECKING:
    import numpy as np

_TOKEN = re.compile(rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])*([^ \t\r\n\v\f#]{1,20})")
_TUPLES = {
    b"BLACKANDWHITE": 1,
    b"GRAYSCALE": 1,
    b"RGB": 3,
    b"BLACKANDWHITE_ALPHA": 2,
    b"GRAYSCALE_ALPHA": 2,
    b"RGB_ALPHA": 4,
}
_BLOCK = 1 << 20


def is_netpbm(content: bytes) -> bool:
    """Tell whether a file starts like one of these."""
    return re.match(rb"P([1-6][ \t\r\n\v\f#]|7\n|[Ff][ \t\r\n])", content) is not None


def read_netpbm(content: bytes, check_size: CheckSize) -> Decoded:
    """Decode the first picture of a file. A maxval of up to 255 gives 8 bits, a larger one 16.

    Raises:
        Damaged, Unsupported: see there.
        ValueError: too many pixels.
    """
    import numpy as np

    kind = content[1:2]
    if kind == b"7":
        return _pam(content, check_size)
    width, at = _number(content, 2, "width")
    height, at = _number(content, at, "height")
    _check(width, height, check_size)
    if kind in b"Ff":
        return _pfm(content, at, width, height, 3 if kind == b"F" else 1)
    channels = 3 if kind in b"36" else 1
    max_value, at = (1, at) if kind in b"14" else _number(content, at, "maximum value")
    if not 1 <= max_value <= 65535:
        raise Damaged(f"its maximum value is {max_value}, and must be 1 to 65535")
    if kind in b"123":
        samples = _read_text_samples(content, at, width * height * channels, bits=kind == b"1")
    elif kind == b"4":
        row = (width + 7) // 8
        packed = _read_binary_samples(content, at + 1, row * height, "uint8").reshape(height, row)
        samples = np.unpackbits(packed, axis=1, count=width).reshape(-1)
    else:
        samples = _read_binary_samples(
            content, at + 1, width * height * channels, "uint8" if max_value < 256 else ">u2"
        )
    if int(samples.max()) > max_value:
        raise Damaged(
            f"it has a value of {int(samples.max())}, above its declared maximum of {max_value}"
        )
    if kind in b"14":
        samples = 1 - samples  # 1 is black
    return Decoded(rescale(samples, max_value).reshape(height, width, channels))


def _number(content: bytes, at: int, what: str) -> tuple[int, int]:
    found = _TOKEN.match(content, at)
    if not found or not found[1].isdigit():
        raise Damaged(f"its header has no {what}")
    return int(found[1]), found.end()


def _check(width: int, height: int, check_size: CheckSize) -> None:
    if width < 1 or height < 1:
        raise Damaged(f"it has {width} x {height} pixels")
    check_size(width, height)


def _read_binary_samples(content: bytes, at: int, count: int, dtype: str) -> np.ndarray:
    import numpy as np

    size = count * np.dtype(dtype).itemsize
    if len(content) - at < size:
        raise Damaged(f"its pixels need {size:,} bytes, but it has {max(0, len(content) - at):,}")
    return np.frombuffer(content, dtype, count, at).astype(np.dtype(dtype).newbyteorder("="))


def _read_text_samples(content: bytes, at: int, count: int, *, bits: bool) -> np.ndarray:
    """Read `count` samples written as text, block by block: a list of all of them would take a
    hundred times the file's size.
    """
    import numpy as np

    # No sample is shorter than one byte, so nothing that cannot be there is allocated.
    if len(content) - at < count:
        raise Damaged(f"it has {count:,} samples, but only {len(content) - at:,} bytes for them")
    samples, done, rest = np.empty(count, "uint16"), 0, b""
    text = re.sub(rb"#[^\r\n]*", b" ", content[at:]) if b"#" in content[at:] else content[at:]
    for start in range(0, len(text), _BLOCK):
        block = rest + text[start : start + _BLOCK]
        if bits:  # digits need no space between them
            values = np.frombuffer(block.translate(None, b" \t\r\n\v\f"), "uint8")[
                : count - done
            ] - np.uint8(48)
            if values.size and values.max() > 1:
                raise Damaged(f"'{chr(int(values.max()) + 48 & 255)}' is not a sample")
        else:
            words = block.split()
            unfinished = bool(words) and not block[-1:].isspace() and start + _BLOCK < len(text)
            rest = words.pop() if unfinished else b""
            words = words[: count - done]
            if invalid := next(
                (
                    word
                    for word in words
                    if not word.isdigit() or len(word) > 10 or int(word) > 65535
                ),
                None,
            ):
                raise Damaged(f"'{invalid[:20].decode('ascii', 'replace')}' is not a sample")
            values = np.array([int(word) for word in words], "uint16")
        samples[done : done + len(values)] = values
        done += len(values)
        if done == count:
            return samples
        if len(rest) > 20:
            raise Damaged("a sample has more than 20 digits")
    raise Damaged(f"it should have {count:,} samples, but has {done:,}")


def _pam(content: bytes, check_size: CheckSize) -> Decoded:
    fields: dict[bytes, bytes] = {}
    at = 3
    while True:
        end = content.find(b"\n", at, at + 4096)
        if end < 0 or len(fields) > 16:
            raise Damaged("its header has no end")
        line, at = content[at:end].strip(), end + 1
        if line == b"ENDHDR":
            break
        if line and not line.startswith(b"#"):
            key, _, value = line.partition(b" ")
            fields[key] = (fields.get(key, b"") + b" " + value.strip()).strip()
    numbers = {}
    for key in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"):
        if not fields.get(key, b"").isdigit() or len(fields[key]) > 20:
            raise Damaged(f"its header has no {key.decode()}")
        numbers[key] = int(fields[key])
    width, height, depth, max_value = numbers.values()
    _check(width, height, check_size)
    kind = fields.get(
        b"TUPLTYPE",
        {1: b"GRAYSCALE", 2: b"GRAYSCALE_ALPHA", 3: b"RGB", 4: b"RGB_ALPHA"}.get(depth, b""),
    )
    if kind not in _TUPLES:
        raise Unsupported(
            f"a PAM with {depth} channels of the type '{kind[:40].decode('ascii', 'replace')}';"
            " save"
            " it as grey or RGB, with or without alpha"
        )
    if depth != _TUPLES[kind] or not 1 <= max_value <= 65535:
        raise Damaged(
            f"its header declares {depth} channels, {kind.decode()} and a maximum of {max_value}"
        )
    samples = _read_binary_samples(
        content, at, width * height * depth, "uint8" if max_value < 256 else ">u2"
    )
    if int(samples.max()) > max_value:
        raise Damaged(
            f"it has a value of {int(samples.max())}, above its declared maximum of {max_value}"
        )
    pixels = rescale(samples, max_value).reshape(height, width, depth)
    return Decoded(pixels) if depth in (1, 3) else Decoded(pixels[:, :, :-1], pixels[:, :, -1:])


def _pfm(content: bytes, at: int, width: int, height: int, channels: int) -> Decoded:
    found = _TOKEN.match(content, at)
    try:
        scale = float(found[1]) if found else 0.0
    except ValueError:
        scale = 0.0
    if not found or not scale or scale != scale:
        raise Damaged("its header has no scale")
    pixels = _read_binary_samples(
        content, found.end() + 1, width * height * channels, "<f4" if scale < 0 else ">f4"
    )
    return Decoded(pixels.reshape(height, width, channels)[::-1])  # the last row comes first
