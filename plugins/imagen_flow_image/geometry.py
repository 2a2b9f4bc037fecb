"""Resize, crop, rotate, flip and pad pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from imagen_flow import Image, Range, Text, node

from .anchors import Anchor, anchored
from .colours import match_channels, read_colour
from .pixels import check_size, from_unit, premultiply, through_pillow, to_unit, unpremultiply

Side = Annotated[int, Range(1, 16384)]
Resample = Literal["lanczos", "bicubic", "bilinear", "box", "nearest"]


@node("image.resize", version=1, uses=("numpy", "pillow"))
def resize(
    image: Image,
    *,
    width: Side | None = None,
    height: Side | None = None,
    fit: Literal["stretch", "contain", "cover"] = "stretch",
    resample: Resample = "lanczos",
) -> Image:
    """Resize a picture to a width, a height or both.

    Params:
        width, height: in pixels; if one is missing, it follows from the other, keeping the aspect
            ratio.
        fit: what happens if both are given and the aspect ratio differs. ``stretch`` distorts;
            ``contain`` gives the largest picture that fits inside (smaller along one side; fill it
            up with `image.pad`); ``cover`` fills the size and crops what sticks out, equally on
            both sides.
        resample: the resampling filter; ``nearest`` does not mix pixels, for pixel art and label
            maps.

    Raises:
        ValueError: neither width nor height is given, or the result would be too large.

    Source:
        Pillow's `Image.resize`, `ImageOps.contain` and `ImageOps.fit`.
    """
    if width is None and height is None:
        raise ValueError("neither port 'width' nor port 'height' is given; give one or both")
    box = (0.0, 0.0, float(image.width), float(image.height))
    if width is None or height is None or fit == "contain":
        ratio = min(
            wanted / had
            for wanted, had in ((width, image.width), (height, image.height))
            if wanted is not None
        )
        inside = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        size = (min(width or inside[0], inside[0]), min(height or inside[1], inside[1]))
    else:
        size = (width, height)
        if fit == "cover":
            box = _cover_box(image, width / height)
    return _resampled(image, size, resample, box)


@node("image.scale", version=1, uses=("numpy", "pillow"))
def scale(
    image: Image, factor: Annotated[float, Range(0.001, 1000)], *, resample: Resample = "lanczos"
) -> Image:
    """Resize a picture by a factor: 2 doubles its width and its height.

    Raises:
        ValueError: the result would be too large.

    Source:
        Pillow's `Image.resize`.
    """
    return _resampled(
        image, (max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample
    )


@node("image.crop", version=1, uses=("numpy",))
def crop(
    image: Image,
    *,
    width: Side,
    height: Side,
    x: Annotated[int, Range(0)] | None = None,
    y: Annotated[int, Range(0)] | None = None,
    anchor: Anchor = "centre",
) -> Image:
    """Crop a rectangle out of a picture.

    Params:
        width, height: the size of the rectangle.
        x, y: its top left corner, from the top left of the picture; a missing one follows from
            `anchor`.
        anchor: the position of the rectangle where `x` or `y` is missing.

    Raises:
        ValueError: the rectangle extends beyond the picture.
    """
    if width > image.width or height > image.height:
        raise ValueError(
            f"ports 'width' and 'height' are {width} x {height}, but the picture is"
            f" {image.width} x {image.height}; use smaller ones, or enlarge it first with"
            " image.resize or image.pad"
        )
    left, top = anchored(anchor, (image.width, image.height), (width, height))
    left, top = (left if x is None else x), (top if y is None else y)
    for port, start, extent, whole in (
        ("x", left, width, image.width),
        ("y", top, height, image.height),
    ):
        if start + extent > whole:
            raise ValueError(
                f"port '{port}' is {start}, so the rectangle ends at {start + extent}, but the"
                f" picture ends at {whole}; {port} may be at most {whole - extent}"
            )
    return Image(image.pixels[top : top + height, left : left + width])


@node("image.rotate", version=1, uses=("numpy", "pillow"))
def rotate(
    image: Image,
    degrees: Annotated[float, Range(-3600, 3600)],
    *,
    expand: bool = True,
    colour: Text = "transparent",
    resample: Literal["bicubic", "bilinear", "nearest"] = "bicubic",
) -> Image:
    """Rotate a picture about its centre, clockwise.

    Params:
        degrees: multiples of 90 are exact; others resample.
        expand: enlarge the picture so that it holds all of the rotated one; otherwise the size
            stays and corners are cut off.
        colour: the colour of the new corners; ``transparent`` adds alpha (except for quarter turns
            without new corners).

    Source:
        Pillow's `Image.rotate`.
    """
    import numpy as np
    import PIL.Image

    turns = degrees / 90
    pixels = image.pixels
    if turns == int(turns) and (expand or image.width == image.height or int(turns) % 2 == 0):
        return Image(np.rot90(pixels, -int(turns)))
    wide, fill = match_channels(pixels, read_colour(colour))
    method = PIL.Image.Resampling[resample.upper()]
    weighed = premultiply(to_unit(wide))
    filling = premultiply(to_unit(fill).reshape(1, 1, -1)).reshape(-1)
    if expand:
        check_size(*_rotated_size(image, degrees))
    planes = [
        np.array(
            PIL.Image.fromarray(np.ascontiguousarray(weighed[:, :, c])).rotate(
                -degrees, resample=method, expand=expand, fillcolor=float(filling[c])
            )
        )
        for c in range(weighed.shape[2])
    ]
    return Image(from_unit(unpremultiply(np.stack(planes, axis=2)), wide.dtype))


@node("image.flip", version=1, uses=("numpy",))
def flip(
    image: Image, *, direction: Literal["horizontal", "vertical", "both"] = "horizontal"
) -> Image:
    """Mirror a picture.

    Params:
        direction: ``horizontal`` swaps left and right, ``vertical`` swaps top and bottom.
    """
    pixels = image.pixels
    if direction in ("horizontal", "both"):
        pixels = pixels[:, ::-1]
    if direction in ("vertical", "both"):
        pixels = pixels[::-1]
    return Image(pixels)


@node("image.pad", version=1, uses=("numpy", "pillow"))
def pad(
    image: Image,
    *,
    width: Side | None = None,
    height: Side | None = None,
    border: Annotated[int, Range(0, 8192)] = 0,
    anchor: Anchor = "centre",
    fill: Literal["colour", "edge", "reflect"] = "colour",
    colour: Text = "black",
) -> Image:
    """Pad a picture: with a border, or to a size.

    Params:
        width, height: the size of the result; a missing one stays.
        border: pixels to add on every side; instead of a size.
        anchor: the position of the picture within the size.
        fill: the content of the new area: a colour, the edge pixels repeated, or the picture
            mirrored.
        colour: the colour of the new area; ``transparent`` adds alpha.

    Raises:
        ValueError: the size is smaller than the picture, or both a size and a border are given.
    """
    import numpy as np

    if border and (width is not None or height is not None):
        raise ValueError(
            "port 'border' and a size are both given; give either 'border' or 'width' and 'height'"
        )
    size = (width or image.width + 2 * border, height or image.height + 2 * border)
    for port, wanted, had in (("width", size[0], image.width), ("height", size[1], image.height)):
        if wanted < had:
            raise ValueError(
                f"port '{port}' is {wanted}, less than the {had} of the picture; padding never"
                " crops:"
                " use image.crop or image.resize first"
            )
    check_size(*size)
    left, top = (border, border) if border else anchored(anchor, size, (image.width, image.height))
    amounts = ((top, size[1] - image.height - top), (left, size[0] - image.width - left), (0, 0))
    if fill != "colour":
        return Image(np.pad(image.pixels, amounts, mode="edge" if fill == "edge" else "reflect"))
    wide, drawn = match_channels(image.pixels, read_colour(colour))
    canvas = np.empty((size[1], size[0], wide.shape[2]), dtype=wide.dtype)
    canvas[:] = drawn
    canvas[top : top + image.height, left : left + image.width] = wide
    return Image(canvas)


def _resampled(
    image: Image,
    size: tuple[int, int],
    resample: str,
    box: tuple[float, float, float, float] | None = None,
) -> Image:
    import PIL.Image

    check_size(*size)
    if size == (image.width, image.height) and box in (
        None,
        (0.0, 0.0, float(image.width), float(image.height)),
    ):
        return image
    if resample == "nearest":
        return _nearest(image, size, box or (0.0, 0.0, float(image.width), float(image.height)))
    method = PIL.Image.Resampling[resample.upper()]
    return through_pillow(image, lambda picture: picture.resize(size, method, box=box))


def _nearest(image: Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image:
    """Select whole pixels in any depth; Pillow says which, by resizing a row and a column of
    indexes.
    """
    import numpy as np
    import PIL.Image

    def chosen(count: int, wanted: int, low: float, high: float) -> np.ndarray:
        numbered = PIL.Image.fromarray(np.arange(count, dtype="int32")[None])
        return np.array(
            numbered.resize((wanted, 1), PIL.Image.Resampling.NEAREST, box=(low, 0, high, 1))
        ).reshape(-1)

    columns = chosen(image.width, size[0], box[0], box[2])
    rows = chosen(image.height, size[1], box[1], box[3])
    return Image(image.pixels[rows][:, columns])


def _cover_box(image: Image, ratio: float) -> tuple[float, float, float, float]:
    """Give the largest centred rectangle of a picture with an aspect ratio."""
    if image.width / image.height >= ratio:
        inside = image.height * ratio
        return ((image.width - inside) / 2, 0.0, (image.width + inside) / 2, float(image.height))
    inside = image.width / ratio
    return (0.0, (image.height - inside) / 2, float(image.width), (image.height + inside) / 2)


def _rotated_size(image: Image, degrees: float) -> tuple[int, int]:
    import math

    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    return (
        math.ceil(image.width * cosine + image.height * sine),
        math.ceil(image.width * sine + image.height * cosine),
    )
