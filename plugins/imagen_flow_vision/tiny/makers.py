"""The tiny models by kind, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import captioners, classifiers, depth, detectors, segmenters

MAKERS: dict[str, Callable[[Path], None]] = {
    "blip": captioners.blip,
    "blip-2": captioners.blip_2,
    "blip-vqa": partial(captioners.blip, answers=True),
    "chinese-clip": classifiers.chinese_clip,
    "clip": classifiers.clip,
    "depth-anything": depth.depth_anything,
    "depth-anything-metric": partial(depth.depth_anything, metric=True),
    "detr": detectors.detr,
    "detr-segments": segmenters.detr,
    "dpt": depth.dpt,
    "florence-2": captioners.florence_2,
    "git": captioners.git,
    "glpn": depth.glpn,
    "grounding-dino": detectors.grounding_dino,
    "llava": captioners.llava,
    "mask2former": segmenters.mask2former,
    "owlv2": detectors.owlv2,
    "owlvit": detectors.owlvit,
    "paligemma": captioners.paligemma,
    "qwen2-vl": partial(captioners.qwen, version="2"),
    "qwen2.5-vl": captioners.qwen,
    "qwen3-vl": partial(captioners.qwen, version="3"),
    "resnet": classifiers.resnet,
    "rt-detr": detectors.rt_detr,
    "sam": segmenters.sam,
    "sam-hq": partial(segmenters.sam, family="SamHQ"),
    "segformer": segmenters.segformer,
    "siglip": classifiers.siglip,
    "vit": classifiers.vit,
    "vit-gpt2": captioners.vit_gpt2,
    "vitpose": detectors.vitpose,
    "yolos": detectors.yolos,
    "zoedepth": depth.zoedepth,
}
