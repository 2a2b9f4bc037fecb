"""Composite and blend pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from imagen_flow import Image, Mask, Range, node

from .anchors import Anchor, anchored
from .pixels import check_same_size, deepest_dtype, from_unit, to_depth, to_unit, with_channels

if TYPE_CHECKING:
    import numpy as np

Mode = Literal[
    "normal",
    "multiply",
    "screen",
    "overlay",
    "hard_light",
    "soft_light",
    "darken",
    "lighten",
    "add",
    "subtract",
    "difference",
]
Part = Annotated[float, Range(0, 1)]
Offset = Annotated[int, Range(-16384, 16384)]


@node("image.composite", version=1, uses=("numpy",))
def composite(
    background: Image,
    foreground: Image,
    *,
    mask: Mask | None = None,
    x: Offset | None = None,
    y: Offset | None = None,
    anchor: Anchor = "top_left",
    opacity: Part = 1.0,
    mode: Mode = "normal",
) -> Image:
    """Composite a picture over a background, or paste a part of it through a mask.

    Inputs:
        mask: of the foreground's size; the foreground is visible where the mask is white.

    Params:
        x, y: the top left corner of the foreground, which may be negative; a missing one follows
            from `anchor`. What extends beyond the background is cut off.
        anchor: the position of the foreground where `x` or `y` is missing.
        opacity: of the foreground; 0 hides it.
        mode: how colours are mixed where both are visible; see `image.blend`.

    Outputs:
        of the background's size; in the deeper of the two depths; in colour if either is, with
            alpha if the background has it.

    Raises:
        ValueError: the mask does not have the foreground's size.

    Source:
        W3C, "Compositing and Blending Level 1", simple alpha compositing (source over).
    """
    if mask is not None:
        check_same_size(foreground=foreground, mask=mask)
    left, top = anchored(
        anchor, (background.width, background.height), (foreground.width, foreground.height)
    )
    left, top = (left if x is None else x), (top if y is None else y)
    whole = to_depth(background.pixels, deepest_dtype(background, foreground))
    whole = with_channels(whole, colour=foreground.channels >= 3, alpha=False).copy()
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = (
        min(left + foreground.width, background.width),
        min(top + foreground.height, background.height),
    )
    if x0 < x1 and y0 < y1:
        inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        weight = opacity if mask is None else mask.as_float()[inside][:, :, None] * opacity
        under = whole[y0:y1, x0:x1]
        whole[y0:y1, x0:x1] = from_unit(
            composite_over(to_unit(under), to_unit(foreground.pixels[inside]), weight, mode),
            whole.dtype,
        )
    return Image(whole)


@node("image.blend", version=1, uses=("numpy",))
def blend(a: Image, b: Image, *, amount: Part = 0.5, mode: Mode = "normal") -> Image:
    """Blend two pictures of the same size.

    Params:
        amount: the weight of the blended result; 0 gives `a`, and 1 in mode ``normal`` gives `b`.
        mode: ``normal`` cross-fades. ``multiply`` and ``darken`` darken; ``screen``, ``add`` and
            ``lighten`` lighten; ``overlay``, ``hard_light`` and ``soft_light`` raise contrast;
            ``subtract`` subtracts `b` from `a`; ``difference`` shows how they differ.

    Outputs:
        in the deeper of the two depths; in colour if either is, with alpha if either has it.

    Raises:
        ValueError: the sizes differ.

    Source:
        W3C, "Compositing and Blending Level 1"; ``add`` and ``subtract`` are clipped sums.
    """
    check_same_size(a=a, b=b)
    dtype = deepest_dtype(a, b)
    alpha = a.has_alpha or b.has_alpha
    under = with_channels(to_unit(a.pixels), colour=b.channels >= 3, alpha=alpha)
    return Image(from_unit(composite_over(under, to_unit(b.pixels), amount, mode), dtype))


def composite_over(
    under: np.ndarray, over: np.ndarray, weight: float | np.ndarray, mode: str
) -> np.ndarray:
    """Composite unit pixels over others: ``co = as (1 - ab) Cs + as ab B(Cb, Cs) + (1 - as) ab
    Cb``, ``ao = as + ab (1 - as)``; the result has the channels of `under`.
    """
    import numpy as np

    has_alpha = under.shape[2] in (2, 4)
    source = with_channels(over, colour=under.shape[2] >= 3, alpha=True)
    backdrop = under[:, :, :-1] if has_alpha else under
    colours = source[:, :, :-1]
    above = (source[:, :, -1:] * np.asarray(weight, dtype="float32")).astype("float32")
    mixed = colours if mode == "normal" else _blended(backdrop, colours, mode)
    if not has_alpha:
        laid: np.ndarray = backdrop + above * (mixed - backdrop)
        return laid
    below = under[:, :, -1:]
    alpha = above + below * (1 - above)
    laid = above * (1 - below) * colours + above * below * mixed + (1 - above) * below * backdrop
    return np.concatenate(
        [np.where(alpha > 1e-6, laid / np.where(alpha > 1e-6, alpha, 1), 0), alpha], axis=2
    )


def _blended(backdrop: np.ndarray, source: np.ndarray, mode: str) -> np.ndarray:
    """Compute B(Cb, Cs) of a blend mode."""
    import numpy as np

    mixed: np.ndarray
    match mode:
        case "multiply":
            mixed = backdrop * source
        case "screen":
            mixed = backdrop + source - backdrop * source
        case "overlay":
            mixed = _blended(source, backdrop, "hard_light")
        case "hard_light":
            mixed = np.where(
                source <= 0.5, backdrop * 2 * source, _blended(backdrop, 2 * source - 1, "screen")
            )
        case "soft_light":
            base = np.clip(backdrop, 0, 1)
            curve = np.where(base <= 0.25, ((16 * base - 12) * base + 4) * base, np.sqrt(base))
            mixed = np.where(
                source <= 0.5,
                base - (1 - 2 * source) * base * (1 - base),
                base + (2 * source - 1) * (curve - base),
            )
        case "darken":
            mixed = np.minimum(backdrop, source)
        case "lighten":
            mixed = np.maximum(backdrop, source)
        case "add":
            mixed = np.minimum(backdrop + source, 1)
        case "subtract":
            mixed = np.maximum(backdrop - source, 0)
        case _:
            mixed = np.abs(backdrop - source)
    return mixed
