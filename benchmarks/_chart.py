"""Draw measurements as an SVG: lines over sizes, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw"]

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 320, 60, 40, 150, 40
COLOURS = ("#0969da", "#1a7f37", "#bc4c00")


def draw(
    path: Path, title: str, sizes: Sequence[int], lines: Mapping[str, Sequence[float]]
) -> None:
    """Write a chart with a line for each name; the decades are ruled and labelled."""
    values = [value for line in lines.values() for value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])

    def x(size: float) -> float:
        share = (math.log10(size) - first) / (last - first or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    drawn = [f'<text x="{LEFT}" y="20" font-weight="bold">{title}</text>']
    for decade in range(low, high + 1):
        at = y(10**decade)
        drawn.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        drawn.append(
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10**decade:,g}</text>'
        )
    for size in sizes:
        drawn.append(
            f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size:,}</text>'
        )
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        points = [(x(size), y(value)) for size, value in zip(sizes, line, strict=True)]
        path_ = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        drawn.append(f'<polyline points="{path_}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        a, b = points[-1]
        drawn.append(f'<text x="{a + 10:.1f}" y="{b + 4:.1f}" fill="{colour}">{name}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#1f2328">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(drawn) + "\n</svg>\n",
        "utf-8",
    )
