"""Canny's edges: thin, closed lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from imagen_flow import Image, Range, node

if TYPE_CHECKING:
    import numpy as np

#: tan(22.5°) in fixed point, as OpenCV has it.
_SHIFT = 15
_TANGENT = round(0.4142135623730950488 * (1 << _SHIFT))


@node("image.canny", version=1, uses=("numpy",))
def canny(
    image: Image,
    *,
    low: Annotated[int, Range(0, 4000)] = 100,
    high: Annotated[int, Range(0, 4000)] = 200,
) -> Image:
    """Draw the edges of a picture: lines one pixel wide, white on black, for ControlNets.

    Inputs:
        image: converted to 8 bits, with alpha composited over black; blur it first with `image.blur`
            for fewer edges.
    Params:
        low, high: gradients of 8-bit pixels (a straight edge from black to white has 1020). A line
            begins where its gradient is above `high`, and goes on as far as it is above `low`.
    Outputs: 8-bit grey of the picture's size, 0 and 255.
    Raises:
        ValueError: `low` is above `high`.
    Source:
        Canny, "A Computational Approach to Edge Detection" (1986), as ``cv2.Canny(image, low,
        high)`` computes it, bit for bit: Sobel's operator, the channel with the strongest gradient,
        the sum of its absolute parts as its size.
    """
    import numpy as np

    if low > high:
        raise ValueError(f"port 'low' is {low} and port 'high' is {high}; low is the smaller one")
    pixels = image.rgb().as_uint8().pixels.astype("int32")
    across, down = _gradient(pixels)
    size = np.abs(across) + np.abs(down)
    crest = _crest(across, down, size) & (size > low)
    return Image(_connected(crest & (size > high), crest).astype("uint8") * np.uint8(255))


def _gradient(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give Sobel's operator across and down, of the channel where it is strongest."""
    import numpy as np

    around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = around[:-2] + 2 * around[1:-1] + around[2:]
    columns = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    strongest = np.argmax(np.abs(across) + np.abs(down), axis=2)[:, :, None]
    return (
        np.take_along_axis(across, strongest, 2)[:, :, 0],
        np.take_along_axis(down, strongest, 2)[:, :, 0],
    )


def _crest(across: np.ndarray, down: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Tell where a gradient is the largest of the three along its direction."""
    import numpy as np

    around = np.pad(size, 1)
    height, width = size.shape

    def beside(rows: int, columns: int) -> np.ndarray:
        return around[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    x = np.abs(across).astype("int64")
    y = np.abs(down).astype("int64") << _SHIFT
    flat = y < x * _TANGENT
    steep = ~flat & (y > x * _TANGENT + (x << (_SHIFT + 1)))
    rising = (across ^ down) < 0
    return np.select(
        [flat, steep, rising],
        [
            (size > beside(0, -1)) & (size >= beside(0, 1)),
            (size > beside(-1, 0)) & (size >= beside(1, 0)),
            (size > beside(-1, 1)) & (size > beside(1, -1)),
        ],
        (size > beside(-1, -1)) & (size > beside(1, 1)),
    )


def _connected(strong: np.ndarray, crest: np.ndarray) -> np.ndarray:
    """Follow lines from strong pixels over their neighbours on the crest, step by step."""
    import numpy as np

    waiting = np.pad(crest & ~strong, 1).ravel()
    found = np.pad(strong, 1)
    wide = found.shape[1]
    steps = np.array([-wide - 1, -wide, -wide + 1, -1, 1, wide - 1, wide, wide + 1])
    front = np.flatnonzero(found)
    while front.size:
        near = (front[:, None] + steps).ravel()
        front = np.unique(near[waiting[near]])
        waiting[front] = False
        found.ravel()[front] = True
    return found[1:-1, 1:-1]
