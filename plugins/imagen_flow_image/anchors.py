"""Position a rectangle inside another one."""

from __future__ import annotations

from typing import Literal

Anchor = Literal[
    "centre",
    "top_left",
    "top",
    "top_right",
    "left",
    "right",
    "bottom_left",
    "bottom",
    "bottom_right",
]


def anchored(anchor: str, outer: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """Give x and y of a rectangle inside another one (sizes as width, height); an odd remainder
    goes to the right and bottom.
    """
    spare = (outer[0] - inner[0], outer[1] - inner[1])
    x = 0 if "left" in anchor else spare[0] if "right" in anchor else spare[0] // 2
    y = 0 if "top" in anchor else spare[1] if "bottom" in anchor else spare[1] // 2
    return x, y
