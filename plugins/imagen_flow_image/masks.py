"""Make, edit and apply masks. White is inside, black is outside, grey is in between."""

from __future__ import annotations

from typing import Annotated, Literal

from imagen_flow import Image, Mask, Range, Text, node

from .colours import read_colour
from .filters import blur_channels
from .geometry import Resample, Side, resize
from .pixels import (
    check_same_size,
    deepest_dtype,
    from_unit,
    luminance,
    max_value,
    premultiply,
    to_depth,
    to_unit,
    with_channels,
)


@node("mask.from_colour", version=1, uses=("numpy", "pillow"))
def from_colour(
    image: Image,
    colour: Text,
    *,
    tolerance: Annotated[float, Range(0, 1)] = 0.1,
    softness: Annotated[float, Range(0, 1)] = 0.0,
) -> Mask:
    """Make a mask of where a picture has a colour, for example to key out a green screen.

    Params:
        tolerance: how far a pixel may be from the colour: its largest difference in red, green or
            blue, as a fraction of full range.
        softness: how much further the mask fades out; 0 gives a hard edge.

    Outputs:
        an 8-bit mask; transparent pixels count with the colour that they have.
    """
    import numpy as np

    wanted = np.array(read_colour(colour)[:3], dtype="float32") / np.float32(255)
    away = np.abs(
        with_channels(to_unit(image.pixels), colour=True, alpha=False)[:, :, :3] - wanted
    ).max(axis=2)
    # Half a level of slack, so that a tolerance written as n / 255 includes n.
    beyond = away - np.float32(tolerance) - np.float32(0.5 / 65535)
    return Mask(
        from_unit(
            1 - beyond / np.float32(softness) if softness else (beyond <= 0).astype("float32"),
            "uint8",
        )
    )


@node("mask.from_luminance", version=1, uses=("numpy",))
def from_luminance(image: Image) -> Mask:
    """Use a picture as a mask: the lighter a pixel, the more it is inside. Transparent pixels count
    as black.

    Outputs:
        a mask of the picture's depth.
    """
    if not image.has_alpha:
        return Mask(luminance(image.pixels))
    return Mask(from_unit(luminance(premultiply(to_unit(image.pixels))), image.pixels.dtype))


@node("mask.threshold", version=1, uses=("numpy",))
def threshold(mask: Mask | Image, *, level: Annotated[float, Range(0, 1)] = 0.5) -> Mask:
    """Make a hard mask: inside where a mask, or a picture's luminance, is at least `level`.

    Outputs:
        an 8-bit mask with only black and white.
    """
    soft = mask if isinstance(mask, Mask) else from_luminance(mask)
    return Mask(soft.as_float() >= level)


@node("mask.from_alpha", version=1, uses=("numpy",))
def from_alpha(image: Image) -> Mask:
    """Extract the alpha of a picture as a mask; a picture without alpha is all inside.

    Outputs:
        a mask of the picture's depth.
    """
    import numpy as np

    if image.has_alpha:
        return Mask(image.pixels[:, :, -1])
    return Mask(
        np.full(
            (image.height, image.width), max_value(image.pixels.dtype), dtype=image.pixels.dtype
        )
    )


@node("mask.to_image", version=1)
def to_image(mask: Mask) -> Image:
    """Convert a mask to a grey picture."""
    return Image(mask.pixels)


@node("mask.invert", version=1, uses=("numpy",))
def invert(mask: Mask) -> Mask:
    """Swap inside and outside."""
    return Mask(max_value(mask.pixels.dtype) - mask.pixels)


@node("mask.combine", version=1, uses=("numpy",))
def combine(
    a: Mask, b: Mask, *, mode: Literal["union", "intersection", "difference", "exclusive"] = "union"
) -> Mask:
    """Combine two masks of the same size.

    Params:
        mode: inside where either is, where both are, where `a` is but not `b`, or where exactly one
            is.

    Outputs:
        a mask of the deeper depth.

    Raises:
        ValueError: the sizes differ.

    Source:
        Zadeh's operators on fuzzy sets: maximum, minimum, and 1 - x.
    """
    import numpy as np

    check_same_size(a=a, b=b)
    dtype = deepest_dtype(a, b)
    one, other = to_depth(a.pixels, dtype), to_depth(b.pixels, dtype)
    most = one.dtype.type(max_value(dtype))
    match mode:
        case "union":
            return Mask(np.maximum(one, other))
        case "intersection":
            return Mask(np.minimum(one, other))
        case "difference":
            return Mask(np.minimum(one, most - other))
        case _:
            return Mask(np.maximum(np.minimum(one, most - other), np.minimum(other, most - one)))


@node("mask.blur", version=1, uses=("numpy",))
def blur_mask(mask: Mask, *, radius: Annotated[float, Range(0, 1000)] = 4.0) -> Mask:
    """Soften the edge of a mask.

    Params:
        radius: standard deviation of the Gaussian, in pixels.

    Source:
        three extended box blurs, as `image.blur`.
    """
    return (
        Mask(from_unit(blur_channels(to_unit(mask.pixels), radius, "gaussian"), mask.pixels.dtype))
        if radius
        else mask
    )


@node("mask.grow", version=1, uses=("numpy",))
def grow(mask: Mask, pixels: Annotated[int, Range(-1024, 1024)]) -> Mask:
    """Grow a mask in all directions, or shrink it.

    Params:
        pixels: how far; negative shrinks. Corners stay square. Beyond the picture's edge the mask
            continues as at the edge.

    Source:
        dilation and erosion by a square, as Pillow's `MaxFilter` and `MinFilter`.
    """
    import numpy as np

    choose = np.maximum if pixels >= 0 else np.minimum
    reach = abs(pixels)
    grown = mask.pixels
    for axis in (0, 1):
        count = grown.shape[axis]
        amounts = [(0, 0)] * 3
        amounts[axis] = (reach, reach)
        wide = np.moveaxis(np.pad(grown, amounts, mode="edge"), axis, 0)
        # The extreme of a window is that of two halves: double the window until it is large enough.
        window = 1
        while window < 2 * reach + 1:
            step = min(window, 2 * reach + 1 - window)
            wide = choose(wide[:-step], wide[step:])
            window += step
        grown = np.moveaxis(wide[:count], 0, axis)
    return Mask(grown)


@node("mask.resize", version=1, uses=("numpy", "pillow"))
def resize_mask(
    mask: Mask,
    *,
    width: Side | None = None,
    height: Side | None = None,
    fit: Literal["stretch", "contain", "cover"] = "stretch",
    resample: Resample = "bilinear",
) -> Mask:
    """Resize a mask, with the same options as `image.resize`."""
    return Mask(
        resize(Image(mask.pixels), width=width, height=height, fit=fit, resample=resample).pixels
    )


@node("mask.apply", version=1, uses=("numpy",))
def apply(image: Image, mask: Mask, *, mode: Literal["multiply", "replace"] = "multiply") -> Image:
    """Cut out a picture with a mask: what is outside becomes transparent.

    Params:
        mode: ``multiply`` keeps what was already transparent; ``replace`` discards the previous
            alpha.

    Outputs:
        the picture with alpha, in its own depth.

    Raises:
        ValueError: the sizes differ.
    """
    check_same_size(image=image, mask=mask)
    pixels = with_channels(image.pixels, colour=False, alpha=True).copy()
    if mode == "replace":
        pixels[:, :, -1:] = to_depth(mask.pixels, pixels.dtype)
    else:
        pixels[:, :, -1:] = from_unit(
            to_unit(pixels[:, :, -1:]) * to_unit(mask.pixels), pixels.dtype
        )
    return Image(pixels)
