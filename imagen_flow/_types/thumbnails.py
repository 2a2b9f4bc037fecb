"""Read pictures of untrusted files at a reduced size.

Only regular files of the usual formats are opened, and a picture that would take too much memory is
not decoded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .._system.dataclass import dataclass
from .._system.regular_files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Thumbnail", "make_thumbnails", "read_reduced"]

T = TypeVar("T")

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")

#: Larger pictures are not decoded.
_MAX_PIXELS = 100_000_000

#: What decoding a picture may raise: Pillow's readers raise all of these for damaged files.
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, MemoryError, TypeError, IndexError)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture as WebP, and the size of the whole; without data, why there is none."""

    data: bytes = b""
    width: int = 0
    height: int = 0
    fault: str = ""


def make_thumbnails(paths: Iterable[Path], *, side: int, max_bytes: int) -> list[Thumbnail]:
    """Make a small picture of each file.

    Params:
        side: the longer side, in pixels.
        max_bytes: no thumbnail is larger; quality and then size are reduced to achieve this.
    """
    return _in_threads(lambda path: _thumbnail(path, side, max_bytes), paths)


def read_reduced(paths: Iterable[Path], *, fit: tuple[int, int]) -> list[Any | str]:
    """Decode pictures, no larger than a box, to arrays of RGBA (uint8); in place of one that cannot
    be decoded, why.
    """
    import numpy as np

    def read(path: Path) -> Any | str:
        try:
            return np.asarray(_read(path, fit)[0].convert("RGBA"))
        except ValueError as error:
            return str(error)

    return _in_threads(read, paths)


def _in_threads(do: Callable[[Path], T], paths: Iterable[Path]) -> list[T]:
    with _no_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(do, paths))


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep Pillow from warning of damaged metadata, and of sizes, which are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, fit: tuple[int, int]) -> tuple[Image, tuple[int, int]]:
    """Decode a picture to 8 bits of RGB or RGBA, no larger than a box; return it and its full size.

    Raises:
        ValueError: it cannot be decoded; the message continues a sentence about the file.
    """
    import PIL.Image
    from PIL import ImageOps

    try:
        with (
            open_regular(path) as stream,
            PIL.Image.open(stream, formats=_FORMATS) as opened,
        ):
            size = opened.size
            if size[0] * size[1] > _MAX_PIXELS:
                raise PIL.Image.DecompressionBombError
            opened.draft("RGB", (fit[0] * 2, fit[1] * 2))
            picture = _to_8_bits(ImageOps.exif_transpose(opened))
    except PIL.Image.DecompressionBombError as error:
        raise ValueError("it is too large to be shown") from error
    except _DECODING_ERRORS as error:
        raise ValueError("it cannot be read as a picture") from error
    # The draft of a JPEG is smaller than the picture, and turned sizes are swapped.
    is_turned = (picture.width > picture.height) != (size[0] > size[1])
    picture.thumbnail(fit, PIL.Image.Resampling.LANCZOS, reducing_gap=3)
    return picture, size[::-1] if is_turned else size


def _to_8_bits(picture: Image) -> Image:
    import numpy as np
    import PIL.Image

    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype="float64")
        scale = 255.0 if picture.mode == "F" else 255 / 65535
        grey = np.clip(np.nan_to_num(values * scale), 0, 255).round().astype("uint8")
        return PIL.Image.fromarray(grey).convert("RGB")
    has_alpha = picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info
    return picture.convert("RGBA" if has_alpha else "RGB")


def _thumbnail(path: Path, side: int, max_bytes: int) -> Thumbnail:
    try:
        picture, size = _read(path, (side, side))
    except ValueError as error:
        return Thumbnail(fault=str(error))
    while True:
        for quality in (80, 60, 40, 20):
            out = BytesIO()
            picture.save(out, "WEBP", quality=quality, method=2)
            if out.tell() <= max_bytes:
                return Thumbnail(out.getvalue(), *size)
        if max(picture.size) < 16:
            return Thumbnail(fault="its thumbnail would be too large")
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))
