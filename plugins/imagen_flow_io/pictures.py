"""Read pictures and masks, whatever their file holds, into the one form that crosses edges.

Pillow decodes. Three things it leaves to its caller are done here: its 8-bit view of 16-bit colour is completed, ICC profiles are
applied, and the number of pixels is checked before any of them is decoded.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

from imagen_flow import File, Image, Mask, Range, node

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from PIL.ImageCms import ImageCmsProfile

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")
"""What is read, in Pillow's names. A closed list: what decodes a stranger's file is chosen, not whatever is installed."""

MOST_PIXELS = 178_956_970
"""Where Pillow itself refuses; no port can ask for more."""


@node("image.load", version=1, uses=("pillow",))
def load_image(file: File, *, max_pixels: Annotated[int, Range(1, MOST_PIXELS)] = 100_000_000) -> Image:
    """Load a picture from a file: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM.

    Params:
        max_pixels: refuse a picture with more, before decoding it.

    Outputs:
        the first frame or page, upright (EXIF orientation applied), in sRGB. Channels: grey stays grey (1-bit too), colour and CMYK become RGB, a palette becomes RGB,
        alpha is kept and a transparent colour becomes alpha, straight. Depth: 16-bit PNG, TIFF and PPM give 16 bits, float TIFF (grey only) gives float32 as it stands, all else gives 8 bits.
        An embedded ICC profile is applied (relative colorimetric); for 16-bit pictures whose profile is not sRGB that gives 8 bits. PNG's gamma chunks are not applied.

    Raises:
        ValueError: not such a picture, damaged, too many pixels, or NaN pixels; the message says which and how to mend it.

    Source:
        Pillow's `Image.open` and `ImageCms.profileToProfile`.
    """
    name = file.name or file.path.name
    return Image(_decoded(file.read_bytes(), name, max_pixels))


@node("mask.load", version=1, uses=("pillow",))
def load_mask(file: File, *, channel: Literal["auto", "luminance", "alpha"] = "auto", max_pixels: Annotated[int, Range(1, MOST_PIXELS)] = 100_000_000) -> Mask:
    """Load a mask from a picture file: white is inside, black is outside.

    Params:
        channel: what becomes the mask. ``auto`` takes alpha where some of it is transparent, else the luminance.
        max_pixels: refuse a picture with more, before decoding it.

    Outputs:
        a mask of the picture's size and depth.

    Raises:
        ValueError: as `image.load`; or ``alpha`` is asked for and there is none.

    Source:
        luminance by ITU-R BT.601, as Pillow's mode ``L``.
    """
    import numpy as np

    name = file.name or file.path.name
    pixels = _decoded(file.read_bytes(), name, max_pixels)
    full = 1.0 if pixels.dtype == "float32" else np.iinfo(pixels.dtype).max
    has_alpha = pixels.shape[2] in (2, 4)
    if channel == "alpha" and not has_alpha:
        raise ValueError(f"port 'channel' asks for alpha, and '{name}' has none; write channel: luminance, or give a picture with alpha")
    if channel == "alpha" or (channel == "auto" and has_alpha and bool((pixels[:, :, -1] < full).any())):
        return Mask(pixels[:, :, -1])
    if pixels.shape[2] < 3:
        return Mask(pixels[:, :, 0])
    weighed = pixels[:, :, :3].astype("float64") @ np.array([0.299, 0.587, 0.114])
    return Mask(weighed.astype("float32") if pixels.dtype == "float32" else np.floor(weighed + 0.5).astype(pixels.dtype))


def _decoded(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    if not content:
        raise ValueError(f"'{name}' is empty; was it copied whole?")
    picture = _opened(content, name, max_pixels)
    try:
        picture.load()
        deep = _deep_pixels(picture, content)
        orientation = picture.getexif().get(0x0112, 1)
    except MemoryError:
        raise
    except Exception as bad:  # A damaged file makes Pillow's decoders raise almost anything.
        raise ValueError(f"'{name}' is a damaged {picture.format} picture ({_said(bad)}); copy or export it again") from bad
    return _upright(_srgb(picture, deep, name), orientation)


def _opened(content: bytes, name: str, max_pixels: int) -> PIL.Image.Image:
    """Read the header alone, and refuse what has too many pixels."""
    import PIL
    import PIL.Image

    try:
        with warnings.catch_warnings():
            # Pillow warns at a number of its own; ours is checked below.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            picture = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.UnidentifiedImageError as unknown:
        raise ValueError(
            f"'{name}' is not a picture that can be read ({_kind(content)}); give PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM, or copy the file again if it is damaged"
        ) from unknown
    except PIL.Image.DecompressionBombError as bomb:
        count = re.search(r"\d+", str(bomb))
        raise ValueError(_too_many(name, int(count[0]) if count else MOST_PIXELS + 1, max_pixels)) from bomb
    except MemoryError:
        raise
    except Exception as bad:  # As above.
        raise ValueError(f"'{name}' is a damaged picture ({_said(bad)}); copy or export it again") from bad
    if picture.width * picture.height > max_pixels:
        raise ValueError(_too_many(name, picture.width * picture.height, max_pixels, f" ({picture.width:,} x {picture.height:,})"))
    return picture


def _too_many(name: str, count: int, max_pixels: int, size: str = "") -> str:
    fix = "raise max_pixels or make the picture smaller" if count <= MOST_PIXELS else "make the picture smaller, or cut it into parts"
    return f"'{name}' has {count:,} pixels{size}, more than max_pixels allows ({max_pixels:,}); {fix}"


def _said(bad: Exception) -> str:
    return (str(bad) or type(bad).__name__).strip().rstrip(".")


def _kind(content: bytes) -> str:
    """Say what a file looks like, where that helps."""
    known = {
        b"\x89PNG": "the beginning of a PNG",
        b"\xff\xd8\xff": "the beginning of a JPEG",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"8BPS": "a Photoshop document",
    }
    for start, words in known.items():
        if content.startswith(start):
            return f"it looks like {words}"
    if b"ftypheic" in content[:32] or b"ftypmif1" in content[:32]:
        return "it looks like HEIC"
    return "it looks like SVG or XML" if content.lstrip()[:5] in (b"<?xml", b"<svg ") else "its content is of no known format"


_OTHER_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBX;16B": "RGBX;16L",
    "RGBX;16L": "RGBX;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16N": "RGBA;16B",
    "RGBX;16N": "RGBX;16B",
}
"""Raw modes that keep one byte of 16-bit colour, and the one that keeps the other byte instead."""


def _deep_pixels(picture: PIL.Image.Image, content: bytes) -> np.ndarray | None:
    """Give 16-bit or float pixels, or None where the file has 8 bits.

    Pillow holds 16-bit colour in 8 bits by keeping the upper bytes. Decoding once more, with the byte order declared the other way round, keeps the lower ones: together they
    are the whole, and the decoder stays Pillow's.
    """
    import numpy as np

    if picture.mode == "F":
        return np.array(picture, dtype="float32")[:, :, None]
    if picture.mode.startswith("I"):
        whole = np.array(picture)
        if whole.min() < 0 or whole.max() > 65535:
            raise ValueError("its pixels are whole numbers beyond 16 bits")
        return _with_transparent_colour(whole.astype("uint16")[:, :, None], picture)

    import PIL.Image

    again = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    raw = {tile.args if isinstance(tile.args, str) or tile.args is None else tile.args[0] for tile in again.tile}
    mode = raw.pop() if len(raw) == 1 else None
    if mode == "LA;16B":
        # Four bytes a pixel, which the raw mode RGBA hands over as they are.
        again.tile = [tile._replace(args="RGBA") for tile in again.tile]
        four = np.array(again).astype("uint16")
        return np.stack([four[:, :, 0] << 8 | four[:, :, 1], four[:, :, 2] << 8 | four[:, :, 3]], axis=2)
    if mode not in _OTHER_BYTES:
        return None
    import sys

    other = _OTHER_BYTES[mode]
    if mode.endswith("N") and sys.byteorder == "big":
        other = mode[:-1] + "L"
    again.tile = [tile._replace(args=other if isinstance(tile.args, str) else (other, *(tile.args or ())[1:])) for tile in again.tile]
    pixels = np.array(picture).astype("uint16") << 8 | np.array(again)
    return _with_transparent_colour(pixels, picture)


def _with_transparent_colour(pixels: np.ndarray, picture: PIL.Image.Image) -> np.ndarray:
    """Add alpha where a 16-bit PNG names one colour as transparent."""
    import numpy as np

    clear = picture.info.get("transparency")
    if clear is None or isinstance(clear, bytes) or pixels.shape[2] not in (1, 3):
        return pixels
    hidden = (pixels == np.array(clear, dtype="uint16").reshape(-1)).all(axis=2, keepdims=True)
    return np.concatenate([pixels, np.where(hidden, np.uint16(0), np.uint16(65535))], axis=2)


def _srgb(picture: PIL.Image.Image, deep: np.ndarray | None, name: str) -> np.ndarray:
    """Bring decoded pixels to grey or RGB, with or without alpha, in sRGB."""
    import numpy as np

    profile = _foreign_profile(picture)
    if deep is not None and (profile is None or deep.dtype == "float32"):
        if deep.dtype == "float32" and not np.isfinite(deep).all():
            raise ValueError(f"'{name}' has NaN or infinite pixels; export it again without them")
        return deep
    if picture.mode.startswith("I"):
        assert deep is not None
        import PIL.Image

        eight = ((deep.astype("uint32") + 128) // 257).astype("uint8")
        picture = PIL.Image.fromarray(eight[:, :, 0] if eight.shape[2] == 1 else eight)
    if picture.mode == "P" or "transparency" in picture.info:
        clear = "transparency" in picture.info or (picture.palette is not None and picture.palette.mode == "RGBA")
        grey = picture.mode in ("1", "L")
        picture = picture.convert(("LA" if grey else "RGBA") if clear else "RGB")
    elif picture.mode == "PA":
        picture = picture.convert("RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if profile is not None:
        picture = _through_profile(picture, profile)
    if picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, "RGB"))
    pixels = np.array(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _foreign_profile(picture: PIL.Image.Image) -> ImageCmsProfile | None:
    """Give the embedded colour profile, unless there is none, it is sRGB, or it is of no use."""
    from PIL import ImageCms

    embedded = picture.info.get("icc_profile")
    if not embedded:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        space = profile.profile.xcolor_space.strip()
        is_srgb = "srgb" in ImageCms.getProfileDescription(profile).lower()
    except (ImageCms.PyCMSError, OSError, AttributeError):
        return None
    wanted = {"CMYK": "CMYK", "L": "GRAY", "LA": "GRAY", "I;16": "GRAY", "I;16B": "GRAY", "1": "GRAY", "LAB": "Lab"}.get(picture.mode, "RGB")
    return None if is_srgb or space != wanted else profile


def _through_profile(picture: PIL.Image.Image, profile: ImageCmsProfile) -> PIL.Image.Image:
    import PIL.Image
    from PIL import ImageCms

    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    bare = picture.convert(picture.mode.removesuffix("A")) if alpha is not None else picture
    if bare.mode not in ("L", "RGB", "CMYK", "LAB"):
        bare = bare.convert("RGB")
    try:
        seen = ImageCms.profileToProfile(
            bare, profile, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB", flags=ImageCms.Flags.BLACKPOINTCOMPENSATION
        )
    except ImageCms.PyCMSError:  # A profile that cannot be applied is as good as none.
        return picture
    assert seen is not None
    if bare.mode == "L":
        seen = seen.getchannel("G")
    if alpha is not None:
        seen = PIL.Image.merge(seen.mode + "A", [*seen.split(), alpha])
    return seen


def _upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Turn and mirror as EXIF's orientation (tag 0x0112, values 1 to 8) asks."""
    import numpy as np

    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
