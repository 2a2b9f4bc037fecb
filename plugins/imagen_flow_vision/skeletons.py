"""Draw people as OpenPose does, for ControlNets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

Place = tuple[float, float] | None

JOINTS = (
    *("nose", "left eye", "right eye", "left ear", "right ear"),
    *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
    *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
)
"""The joints of COCO, in their order."""

#: OpenPose's joints by COCO's numbers; its second, the neck, is between the shoulders.
_ORDER = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = (5, 6)

#: OpenPose's limbs by its own numbers; each has the colour of its place here.
_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)

#: Limbs are drawn in 0.6 of their colour, as ellipses 8 pixels wide in a picture of 512.
_DIMMED = 0.6
_RADIUS = 4 / 512


def draw_skeletons(people: Sequence[Sequence[Place]], width: int, height: int) -> PIL.Image.Image:
    """Draw people on black.

    Inputs:
        people: of each, the places of COCO's 17 joints in pixels; None where one is not seen.
    Source:
        ``util.draw_bodypose`` of OpenPose's port that ControlNet's training pictures were drawn
        with; lines grow with the picture's shorter side.
    """
    import PIL.Image
    from PIL import ImageDraw

    drawn = PIL.Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(drawn)
    radius = max(1.0, _RADIUS * min(width, height))
    bodies = [_open_pose(person) for person in people]
    for number, (first, last) in enumerate(_LIMBS):
        colour = tuple(int(part * _DIMMED) for part in _COLOURS[number])
        for body in bodies:
            a, b = body[first], body[last]
            if a is not None and b is not None:
                pen.polygon(_ellipse(a, b, radius), fill=colour)
    for number, colour in enumerate(_COLOURS):
        for body in bodies:
            if (place := body[number]) is not None:
                x, y = place
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return drawn


def _open_pose(person: Sequence[Place]) -> list[Place]:
    a, b = (person[joint] for joint in _SHOULDERS)
    neck = None if a is None or b is None else ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    return [neck if joint is None else person[joint] for joint in _ORDER]


def _ellipse(
    a: tuple[float, float], b: tuple[float, float], radius: float
) -> list[tuple[float, float]]:
    """Give the outline of an ellipse from one point to another."""
    middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    half = math.dist(a, b) / 2
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    cosine, sine = math.cos(angle), math.sin(angle)
    outline = []
    for degrees in range(0, 360, 5):
        along = half * math.cos(math.radians(degrees))
        across = radius * math.sin(math.radians(degrees))
        outline.append(
            (
                middle[0] + along * cosine - across * sine,
                middle[1] + along * sine + across * cosine,
            )
        )
    return outline
