"""Nodes for pictures and masks: sizes, tones, filters, layers, masks and measures, with Pillow and
numpy.

Every node keeps the depth of its input (8 bits, 16 bits, float) unless its help says otherwise,
weights colours by alpha where pixels are mixed, and refuses a result of more than 134 million
pixels before computing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imagen_flow import hookimpl

from . import (
    boxes,
    filters,
    geometry,
    layers,
    masks,
    measures,
    outlines,
    plots,
    sheets,
    sources,
    tones,
)


@hookimpl
def imagen_flow_nodes() -> Sequence[object]:
    """List the nodes for pictures and masks."""
    return [
        geometry.resize,
        geometry.scale,
        geometry.crop,
        geometry.rotate,
        geometry.flip,
        geometry.pad,
        tones.convert,
        tones.adjust,
        tones.normalise,
        filters.blur,
        filters.sharpen,
        filters.edges,
        outlines.canny,
        layers.composite,
        layers.blend,
        sheets.grid,
        plots.plot,
        boxes.draw_boxes,
        boxes.crop_boxes,
        sources.solid,
        sources.noise,
        measures.size,
        measures.difference,
        measures.statistics,
        masks.from_colour,
        masks.from_luminance,
        masks.threshold,
        masks.from_alpha,
        masks.to_image,
        masks.invert,
        masks.combine,
        masks.blur_mask,
        masks.grow,
        masks.resize_mask,
        masks.apply,
    ]


@hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    """Give arguments that cannot be made up."""
    return {
        "image.crop_boxes": {"boxes": [[2, 3, 12, 9]]},
        "image.draw_boxes": {"boxes": [{"box": [2, 3, 12, 9], "label": "fox", "score": 0.5}]},
        "image.resize": {"width": 12},
        "mask.from_colour": {"colour": "navy"},
        "mask.resize": {"height": 9},
        "table.plot": {
            "rows": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
            "x": "step",
            "y": ["loss"],
        },
    }
