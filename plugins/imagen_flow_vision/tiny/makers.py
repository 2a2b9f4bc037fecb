"""The tiny models by kind, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import classifiers, depth, detectors, segmenters

MAKERS: dict[str, Callable[[Path], None]] = {
    "chinese-clip": classifiers.chinese_clip,
    "clip": classifiers.clip,
    "depth-anything": depth.depth_anything,
    "depth-anything-metric": partial(depth.depth_anything, metric=True),
    "detr": detectors.detr,
    "detr-segments": segmenters.detr,
    "dpt": depth.dpt,
    "glpn": depth.glpn,
    "grounding-dino": detectors.grounding_dino,
    "mask2former": segmenters.mask2former,
    "owlv2": detectors.owlv2,
    "owlvit": detectors.owlvit,
    "resnet": classifiers.resnet,
    "rt-detr": detectors.rt_detr,
    "sam": segmenters.sam,
    "sam-hq": partial(segmenters.sam, family="SamHQ"),
    "segformer": segmenters.segformer,
    "siglip": classifiers.siglip,
    "vit": classifiers.vit,
    "yolos": detectors.yolos,
    "zoedepth": depth.zoedepth,
}
