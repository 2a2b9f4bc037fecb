"""Generate pictures: one colour, noise."""

from __future__ import annotations

from typing import Annotated, Literal

from imagen_flow import Image, Range, Seed, Text, node

from .colours import read_colour
from .pixels import check_size, from_unit

Side = Annotated[int, Range(1, 16384)]


@node("image.solid", version=1, uses=("numpy", "pillow"))
def solid(width: Side, height: Side, *, colour: Text = "black") -> Image:
    """Make a picture of one colour.

    Params:
        colour: a name, ``#ff8800``, ``rgb(255, 136, 0)``, ``hsl(32, 100%, 50%)`` or
            ``transparent``.

    Outputs:
        8-bit RGB, with alpha if the colour is not opaque.
    """
    import numpy as np

    check_size(width, height)
    drawn = read_colour(colour)
    return Image(
        np.tile(np.array(drawn[: 3 if drawn[3] == 255 else 4], dtype="uint8"), (height, width, 1))
    )


@node("image.noise", version=1, uses=("numpy",))
def noise(
    width: Side,
    height: Side,
    *,
    seed: Seed,
    kind: Literal["uniform", "gaussian"] = "gaussian",
    deviation: Annotated[float, Range(0, 10)] = 0.25,
    colour: bool = True,
    depth: Literal[8, 16, "float"] = 8,
) -> Image:
    """Make a picture of noise; the same seed gives the same noise.

    Params:
        kind: ``uniform`` has all tones equally often; ``gaussian`` is centred on middle grey.
        deviation: standard deviation of Gaussian noise, as a fraction of full range.
        colour: independent noise in red, green and blue; otherwise grey.
        depth: 8 or 16 bits, where Gaussian noise is clipped, or float32, where it is not.

    Source:
        numpy's `Generator(PCG64(seed))`, drawn in float32.
    """
    import numpy as np

    check_size(width, height)
    random = np.random.Generator(np.random.PCG64(seed))
    shape = (height, width, 3 if colour else 1)
    if kind == "uniform":
        drawn = random.random(shape, dtype="float32")
    else:
        drawn = np.float32(0.5) + np.float32(deviation) * random.standard_normal(
            shape, dtype="float32"
        )
    return Image(from_unit(drawn, {8: "uint8", 16: "uint16", "float": "float32"}[depth]))
