"""Read the boxes that other nodes found."""

from __future__ import annotations

from typing import Any

from imagen_flow import Image


def sides_of(box: Any, number: int, image: Image) -> list[float]:
    """Give ``[left, top, right, bottom]`` of a detection, or of a box alone, in pixels.

    Params:
        number: its place in the port, for the message.
    Raises:
        ValueError: it is no box, or lies beside the picture.
    """
    sides = box.get("box") if isinstance(box, dict) else box
    if (
        not isinstance(sides, list)
        or len(sides) != 4
        or not all(isinstance(side, int | float) for side in sides)
        or not (sides[0] < sides[2] and sides[1] < sides[3])
    ):
        raise ValueError(
            f"number {number} of port 'boxes' is no box: {str(box)[:100]}; a box is [left, top,"
            " right, bottom] in pixels, alone or as 'box' of a detection"
        )
    left, top, right, bottom = sides
    if right <= 0 or bottom <= 0 or left >= image.width or top >= image.height:
        raise ValueError(
            f"number {number} of port 'boxes' lies beside the picture of {image.width} x"
            f" {image.height}: {sides}"
        )
    return [float(side) for side in sides]
