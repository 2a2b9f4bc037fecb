"""Read picture and mask files of any format into the one form that nodes exchange.

PNG, TIFF and the portable formats have their own readers in this plugin, for what Pillow omits or
gets wrong there; Pillow decodes the rest. The number of pixels is checked before any of them is
decoded.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

from imagen_flow import File, Image, Mask, Progress, Range, Steps, node

from .decoded import Damaged, Decoded, Unsupported, unpremultiply

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

FORMATS = ("JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""The formats that Pillow decodes, by its names. A closed list: which decoders read untrusted files
is chosen here, not by what is installed.
"""

MANIFEST = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x008\x9bq"
"""What begins the Content Credentials in a file of whatever format: the description box of a JUMBF
superbox (ISO/IEC 19566-5), with the type of a C2PA manifest store.
"""

MAX_PIXELS = 178_956_970
"""Pillow's own limit, and the upper limit of max_pixels."""


@node("image.load", version=3, uses=("pillow",))
def load_image(
    file: File, *, max_pixels: Annotated[int, Range(1, MAX_PIXELS)] = 100_000_000
) -> Steps[Image]:
    """Load a picture from a file: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM.

    Params:
        max_pixels: refuse a larger picture, before decoding it.

    Outputs:
        the first frame or page, upright (EXIF orientation applied), in sRGB. Channels: grey stays
            grey (1-bit too); colour, CMYK, L*a*b* and palettes become RGB; alpha is kept, not
            premultiplied, and a transparent colour becomes alpha. Depth: PNG, TIFF and PPM of 9 to
            16 bits give 16 bits; floating point gives float32 unchanged, and TIFF of 32 bits
            float32 from 0 to 1; everything else gives 8 bits. An embedded ICC profile is applied
            (relative colorimetric), and the code points of PNG and AVIF (cICP, nclx); 16 bits with
            a table-based profile, CMYK above all, become 8 bits. PNG's gAMA and cHRM are not
            applied, nor are the colorimetric fields of a TIFF without a profile. Content
            Credentials are not part of a picture: a note says that a file carries some.

    Raises:
        ValueError: the file is not such a picture, is of a kind that cannot be read correctly, is
            damaged, has too many pixels, or has NaN pixels; the message says which and what to do.

    Source:
        Pillow's `Image.open` and `ImageCms.profileToProfile`; the specifications named in the other
            modules of this plugin.
    """
    name, content = file.name or file.path.name, file.read_bytes()
    picture = Image(_decoded(content, name, max_pixels))
    if MANIFEST in content:
        yield Progress(
            1,
            1,
            "the file carries Content Credentials, which what is made of it does not: to keep them"
            " as its history, give the file to credentials.sign as 'parent'",
        )
    return picture


@node("mask.load", version=2, uses=("pillow",))
def load_mask(
    file: File,
    *,
    channel: Literal["auto", "luminance", "alpha"] = "auto",
    max_pixels: Annotated[int, Range(1, MAX_PIXELS)] = 100_000_000,
) -> Mask:
    """Load a mask from a picture file: white is inside, black is outside.

    Params:
        channel: which channel becomes the mask. ``auto`` uses alpha if some of it is transparent,
            else the luminance.
        max_pixels: refuse a larger picture, before decoding it.

    Outputs:
        a mask of the picture's size and depth.

    Raises:
        ValueError: as `image.load`; or ``alpha`` is requested and there is none.

    Source:
        luminance by ITU-R BT.601, as Pillow's mode ``L``.
    """
    import numpy as np

    name = file.name or file.path.name
    pixels = _decoded(file.read_bytes(), name, max_pixels)
    full = 1.0 if pixels.dtype == "float32" else np.iinfo(pixels.dtype).max
    has_alpha = pixels.shape[2] in (2, 4)
    if channel == "alpha" and not has_alpha:
        raise ValueError(
            f"port 'channel' is alpha, but '{name}' has none; set channel: luminance, or"
            " use a picture with alpha"
        )
    if channel == "alpha" or (
        channel == "auto" and has_alpha and bool((pixels[:, :, -1] < full).any())
    ):
        return Mask(pixels[:, :, -1])
    if pixels.shape[2] < 3:
        return Mask(pixels[:, :, 0])
    weighted = pixels[:, :, :3].astype("float64") @ np.array([0.299, 0.587, 0.114])
    return Mask(
        weighted.astype("float32")
        if pixels.dtype == "float32"
        else np.floor(weighted + 0.5).astype(pixels.dtype)
    )


def _decoded(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    import numpy as np

    from .profiles import convert

    if not content:
        raise ValueError(f"'{name}' is empty; was it copied completely?")
    try:
        with np.errstate(all="ignore"):  # invalid results are checked below
            found = _read(content, name, max_pixels)
            pixels = convert(found.colours, found.profile, found.cicp)
            if found.alpha is not None:
                pixels = np.concatenate(
                    [
                        pixels,
                        found.alpha
                        if found.alpha.dtype == pixels.dtype
                        else _to_8_bits(found.alpha),
                    ],
                    axis=2,
                )
    except Unsupported as unsupported:
        raise ValueError(f"'{name}' is {unsupported}") from unsupported
    except Damaged as damaged:
        raise ValueError(
            f"'{name}' is a damaged {_format(content)} picture ({damaged}); copy or export it again"
        ) from damaged
    if pixels.dtype == "float32" and not np.isfinite(pixels).all():
        raise ValueError(f"'{name}' has NaN or infinite pixels; export it again without them")
    return _apply_orientation(pixels, found.orientation)


def _read(content: bytes, name: str, max_pixels: int) -> Decoded:
    from . import netpbm, png, tiff

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise ValueError(
                _too_many(
                    name,
                    width * height,
                    max_pixels,
                    f" ({width:,} x {height:,})" if width * height <= MAX_PIXELS else "",
                )
            )

    if content.startswith(png.SIGNATURE):
        return png.read_png(content, check_size)
    if netpbm.is_netpbm(content):
        return netpbm.read_netpbm(content, check_size)
    if (
        tiff.is_tiff(content)
        and (found := tiff.read_tiff(content, check_size, max_pixels)) is not None
    ):
        return found
    with warnings.catch_warnings():
        # Pillow warns about metadata that no pixel depends on, and about its own pixel limit; ours
        # is checked.
        warnings.simplefilter("ignore")
        return _read_by_pillow(content, name, max_pixels)


def _to_8_bits(samples: np.ndarray) -> np.ndarray:
    return ((samples.astype("uint32") + 128) // 257).astype("uint8")


def _opened(content: bytes, name: str, max_pixels: int) -> PIL.Image.Image:
    """Read the header alone, and refuse what has too many pixels."""
    import PIL
    import PIL.Image

    try:
        picture = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        if (bits := _bits_of_jpeg(content)) not in (0, 8):
            raise Unsupported(
                f"a JPEG of {bits} bits per channel, and only 8 can be read; save it as PNG or TIFF"
            ) from error
        raise ValueError(
            f"'{name}' is not a readable picture ({_kind(content)}); use PNG, JPEG, WebP,"
            " TIFF, BMP, GIF, AVIF or PPM, or copy the file again if it is damaged"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise ValueError(
            _too_many(name, int(count[0]) if count else MAX_PIXELS + 1, max_pixels)
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # A damaged file can make Pillow's readers raise almost anything.
        if "unsupported" in str(error).lower():
            raise Unsupported(
                f"of a kind that cannot be read ({_reason(error)}); save it as PNG"
            ) from error
        raise ValueError(
            f"'{name}' is a damaged picture ({_reason(error)}); copy or export it again"
        ) from error
    if picture.width * picture.height > max_pixels:
        raise ValueError(
            _too_many(
                name,
                picture.width * picture.height,
                max_pixels,
                f" ({picture.width:,} x {picture.height:,})",
            )
        )
    return picture


def _too_many(name: str, count: int, max_pixels: int, size: str = "") -> str:
    fix = (
        "raise max_pixels or make the picture smaller"
        if count <= MAX_PIXELS
        else "make the picture smaller, or cut it into parts"
    )
    return (
        f"'{name}' has {count:,} pixels{size}, more than max_pixels allows ({max_pixels:,}); {fix}"
    )


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")


def _kind(content: bytes) -> str:
    """Say what a file looks like, where that helps."""
    known = {
        b"\x89PNG": "the beginning of a PNG",
        b"\xff\xd8\xff": "the beginning of a JPEG",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"8BPS": "a Photoshop document",
        b"\xff\x0a": "JPEG XL",
        b"\0\0\0\x0cJXL ": "JPEG XL",
        b"\0\0\0\x0cjP  ": "JPEG 2000",
        b"v/1\x01": "OpenEXR",
        b"#?RADIANCE": "Radiance HDR",
    }
    for start, words in known.items():
        if content.startswith(start):
            return f"it looks like {words}"
    if b"ftypheic" in content[:32] or b"ftypmif1" in content[:32]:
        return "it looks like HEIC"
    return (
        "it looks like SVG or XML"
        if content.lstrip()[:5] in (b"<?xml", b"<svg ")
        else "its content is of no known format"
    )


def _bits_of_jpeg(content: bytes) -> int:
    """Give the bits of a channel that a JPEG's frame header tells; 0 where there is none."""
    at = 2
    while content[:2] == b"\xff\xd8" and content[at : at + 1] == b"\xff":
        kind = content[at + 1 : at + 2]
        if b"\xc0" <= kind <= b"\xcf" and kind not in b"\xc4\xc8\xcc":
            return content[at + 4] if len(content) > at + 4 else 0
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0


def _format(content: bytes) -> str:
    return (
        "PNG"
        if content.startswith(b"\x89PNG")
        else "TIFF"
        if content[:2] in (b"II", b"MM")
        else "Netpbm"
    )


def _read_by_pillow(content: bytes, name: str, max_pixels: int) -> Decoded:
    import numpy as np

    picture = _opened(content, name, max_pixels)
    tiles = getattr(picture, "tile", [])
    extents = tiles[0].extents if picture.format == "GIF" and tiles else None
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # As above.
        raise ValueError(
            f"'{name}' is a damaged {picture.format} picture ({_reason(error)}); copy or export it"
            " again"
        ) from error
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # As above, and no pixel depends on the rest of EXIF.
        orientation = 1
    profile, cicp = picture.info.get("icc_profile") or b"", None
    if picture.format == "BMP":
        profile = _profile_of_bmp(content)
    elif picture.format == "AVIF" and not profile:
        cicp = _code_points_of_avif(content)
    mode, premultiplied = picture.mode, picture.mode in ("La", "RGBa")
    has_transparency = "transparency" in picture.info or (
        mode == "P" and picture.palette is not None and picture.palette.mode == "RGBA"
    )
    if premultiplied:
        pixels = np.array(picture)
    else:
        grey = mode in ("1", "L", "LA")
        wanted = (
            "CMYK"
            if mode == "CMYK"
            else (
                ("LA" if grey else "RGBA")
                if has_transparency or mode in ("LA", "RGBA", "PA")
                else "L"
                if grey
                else "RGB"
            )
        )
        pixels = np.array(picture if mode == wanted else picture.convert(wanted))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if extents is not None and tuple(extents) != (0, 0, *picture.size):
        # The first frame covers a part of the picture. The rest is transparent, as in every
        # browser; Pillow fills it with the first colour.
        outside = np.ones((*pixels.shape[:2], 1), "bool")
        outside[extents[1] : extents[3], extents[0] : extents[2]] = False
        alpha = pixels[:, :, -1:] if pixels.shape[2] in (2, 4) else np.uint8(255)
        pixels = np.concatenate(
            [
                pixels if pixels.shape[2] in (1, 3) else pixels[:, :, :-1],
                np.where(outside, np.uint8(0), alpha),
            ],
            axis=2,
        )
    if mode == "CMYK" or pixels.shape[2] in (1, 3):
        return Decoded(pixels, None, profile, cicp, orientation)
    colours, alpha = pixels[:, :, :-1], pixels[:, :, -1:]
    return Decoded(
        unpremultiply(colours, alpha) if premultiplied else colours,
        alpha,
        profile,
        cicp,
        orientation,
    )


def _profile_of_bmp(content: bytes) -> bytes:
    """Give the ICC profile that version 5 of the header may contain; Pillow does not."""
    size, kind = int.from_bytes(content[14:18], "little"), content[70:74]
    at, length = (
        int.from_bytes(content[126:130], "little"),
        int.from_bytes(content[130:134], "little"),
    )
    return content[14 + at : 14 + at + length] if size == 124 and kind == b"DEBM" else b""


def _code_points_of_avif(content: bytes) -> tuple[int, int] | None:
    """Give primaries and transfer from the colour information box, which is in the metadata before
    the pixels.
    """
    at = content.find(b"colrnclx", 0, 1 << 16)
    return (
        (
            int.from_bytes(content[at + 8 : at + 10], "big"),
            int.from_bytes(content[at + 10 : at + 12], "big"),
        )
        if at >= 0
        else None
    )


def _apply_orientation(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Rotate and mirror according to EXIF's orientation (tag 0x0112, values 1 to 8)."""
    import numpy as np

    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
