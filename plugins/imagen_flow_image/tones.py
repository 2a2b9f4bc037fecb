"""Change depth and channels, brightness and colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from imagen_flow import Image, Range, Text, node

from .colours import match_channels, read_colour
from .pixels import from_unit, luminance, max_value, premultiply, to_depth, to_unit, with_channels

if TYPE_CHECKING:
    import numpy as np


@node("image.convert", version=1, uses=("numpy", "pillow"))
def convert(
    image: Image,
    *,
    channels: Literal["keep", "grey", "grey_alpha", "rgb", "rgba"] = "keep",
    depth: Literal["keep", 8, 16, "float"] = "keep",
    background: Text = "black",
) -> Image:
    """Convert a picture to other channels or another depth.

    Params:
        channels: colour becomes grey by its luminance; a picture that loses alpha is composited
            over `background`; added alpha is opaque.
        depth: 8 or 16 bits, or float32 from 0 to 1; floats outside that range are clipped when they
            become 8 or 16 bits.
        background: the colour behind transparent pixels.

    Raises:
        ValueError: `background` is not a colour or not opaque.

    Source:
        luminance by ITU-R BT.601, in 8 bits Pillow's mode ``L``.
    """
    import numpy as np

    pixels = image.pixels
    if channels in ("grey", "rgb") and image.has_alpha:
        behind = read_colour(background, "background")
        if behind[3] < 255:
            raise ValueError(
                f"port 'background': '{background}' is not opaque; write an opaque colour, or keep"
                " alpha with channels:"
                f" {channels.replace('grey', 'grey_alpha').replace('rgb', 'rgba')}"
            )
        wide, drawn = match_channels(pixels, behind)
        flat = to_unit(wide)
        laid = premultiply(flat)[:, :, :-1] + (1 - flat[:, :, -1:]) * to_unit(drawn)[:-1]
        pixels = from_unit(laid, pixels.dtype)
    if channels in ("grey", "grey_alpha"):
        grey = luminance(pixels)[:, :, None]
        pixels = (
            grey if pixels.shape[2] in (1, 3) else np.concatenate([grey, pixels[:, :, -1:]], axis=2)
        )
    if channels != "keep":
        pixels = with_channels(
            pixels, colour=channels in ("rgb", "rgba"), alpha=channels in ("grey_alpha", "rgba")
        )
    if depth != "keep":
        pixels = to_depth(pixels, {8: "uint8", 16: "uint16", "float": "float32"}[depth])
    return Image(pixels)


@node("image.adjust", version=1, uses=("numpy",))
def adjust(
    image: Image,
    *,
    brightness: Annotated[float, Range(0, 100)] = 1.0,
    contrast: Annotated[float, Range(0, 100)] = 1.0,
    saturation: Annotated[float, Range(0, 100)] = 1.0,
    hue: Annotated[float, Range(-360, 360)] = 0.0,
    gamma: Annotated[float, Range(0.01, 100)] = 1.0,
) -> Image:
    """Adjust brightness, contrast, saturation, hue and gamma, in this order; alpha stays.

    Params:
        brightness: factor; 0 is black, 1 is unchanged.
        contrast: factor on the distance from the picture's mean luminance; 0 is uniform grey, 1 is
            unchanged.
        saturation: factor on the distance from the pixel's luminance; 0 is grey, 1 is unchanged.
        hue: degrees on the colour wheel: 120 turns red into green. Colours are clipped to 0 to 1
            for it.
        gamma: above 1 brightens the midtones, below 1 darkens them; 1 is unchanged.

    Source:
        the first three as in Pillow's `ImageEnhance`.
    """
    import numpy as np

    if (brightness, contrast, saturation, hue % 360, gamma) == (1, 1, 1, 0, 1):
        return image
    whole = to_unit(image.pixels)
    count = image.channels - image.has_alpha
    colours = whole[:, :, :count]
    if brightness != 1:
        colours = colours * np.float32(brightness)
    if contrast != 1:
        middle = np.float32(luminance(_clip_between_steps(colours, image)).mean(dtype="float64"))
        colours = middle + (_clip_between_steps(colours, image) - middle) * np.float32(contrast)
    if saturation != 1 and count == 3:
        colours = _clip_between_steps(colours, image)
        grey = luminance(colours)[:, :, None]
        colours = grey + (colours - grey) * np.float32(saturation)
    if hue % 360 and count == 3:
        colours = _rotate_hue(np.clip(colours, 0, 1), hue / 60)
    if gamma != 1:
        colours = np.maximum(colours, 0) ** np.float32(1 / gamma)
    return Image(
        from_unit(np.concatenate([colours, whole[:, :, count:]], axis=2), image.pixels.dtype)
    )


@node("image.normalise", version=1, uses=("numpy",))
def normalise(
    image: Image,
    *,
    method: Literal["stretch", "equalise"] = "stretch",
    cutoff: Annotated[float, Range(0, 49)] = 0.0,
    channels: Literal["together", "each"] = "together",
) -> Image:
    """Stretch or equalise tones to the whole range.

    Params:
        method: ``stretch`` maps the darkest tone to black and the lightest to white; ``equalise``
            makes all tones about equally frequent.
        cutoff: for ``stretch``, the percentage of pixels to ignore at either end.
        channels: ``together`` uses the luminance and keeps hues; ``each`` treats red, green and
            blue separately, which also removes a colour cast.

    Outputs:
        a picture with a single tone is unchanged. ``equalise`` clips floats to 0 to 1.

    Source:
        as Pillow's `ImageOps.autocontrast` (where `preserve_tone` is ``together``) and
            `ImageOps.equalize`.
    """

    whole = to_unit(image.pixels)
    count = image.channels - image.has_alpha
    done = whole.copy()
    if channels == "together":
        grey = luminance(whole)
        done[:, :, :count] = _stretch_tones(
            whole[:, :, :count], grey, method, cutoff, max_value(image.pixels.dtype)
        )
    else:
        for c in range(count):
            done[:, :, c] = _stretch_tones(
                whole[:, :, c], whole[:, :, c], method, cutoff, max_value(image.pixels.dtype)
            )
    return Image(from_unit(done, image.pixels.dtype))


def _stretch_tones(
    pixels: np.ndarray, seen: np.ndarray, method: str, cutoff: float, most: int
) -> np.ndarray:
    """Map tones so that `seen` covers the whole range."""
    import numpy as np

    if method == "stretch":
        low, high = np.percentile(seen, [cutoff, 100 - cutoff])
        return (
            pixels
            if high <= low
            else ((pixels - np.float32(low)) / np.float32(high - low)).astype("float32")
        )
    bins = 256 if most == 255 else 65536
    counts = np.bincount(
        (np.clip(seen, 0, 1) * (bins - 1) + 0.5).astype("int64").reshape(-1), minlength=bins
    )
    below = np.cumsum(counts)
    first = below[np.flatnonzero(counts)[0]]
    if first == seen.size:
        return pixels
    table: np.ndarray = ((below - first) / (seen.size - first)).clip(0, 1).astype("float32")
    spread: np.ndarray = table[(np.clip(pixels, 0, 1) * (bins - 1) + 0.5).astype("int64")]
    return spread


def _clip_between_steps(colours: np.ndarray, image: Image) -> np.ndarray:
    """Clip between steps as ints do, so that the depth does not change the look; float pictures
    keep values outside the range.
    """
    import numpy as np

    return colours if image.pixels.dtype == "float32" else np.clip(colours, 0, 1)


def _rotate_hue(colours: np.ndarray, sextants: float) -> np.ndarray:
    """Rotate hues by sixths of the colour wheel, keeping value and chroma as in HSV (Smith, "Color
    Gamut Transform Pairs", 1978).
    """
    import numpy as np

    value = colours.max(axis=2)
    chroma = value - colours.min(axis=2)
    safe = np.where(chroma > 0, chroma, 1)
    red, green, blue = (colours[:, :, c] for c in range(3))
    hue = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    ) + np.float32(sextants)
    # Each channel falls from its own peak: k = 5, 3, 1 for red, green, blue.
    turned = []
    for k in (5, 3, 1):
        away = (k + hue) % 6
        turned.append(value - chroma * np.clip(np.minimum(away, 4 - away), 0, 1))
    return np.stack(turned, axis=2).astype("float32")
