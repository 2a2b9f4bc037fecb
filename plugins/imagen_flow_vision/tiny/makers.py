"""The tiny models by kind, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import classifiers, detectors

MAKERS: dict[str, Callable[[Path], None]] = {
    "chinese-clip": classifiers.chinese_clip,
    "clip": classifiers.clip,
    "detr": detectors.detr,
    "grounding-dino": detectors.grounding_dino,
    "owlv2": detectors.owlv2,
    "owlvit": detectors.owlvit,
    "resnet": classifiers.resnet,
    "rt-detr": detectors.rt_detr,
    "siglip": classifiers.siglip,
    "vit": classifiers.vit,
    "yolos": detectors.yolos,
}
