"""Look at pictures: describe, classify, with models of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import captions, depth_maps, detection, labelling, poses, segmentation, selection


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        captions.caption,
        labelling.classify,
        detection.detect,
        depth_maps.depth,
        poses.pose,
        segmentation.segment,
        selection.find,
        selection.select,
    ]


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny import stand_in

    return stand_in(reference, at, folder)


@flow.hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    return {
        "image.caption": {"model": "hf:Salesforce/blip-image-captioning-base"},
        "image.classify": {"model": "hf:google/vit-base-patch16-224"},
        "image.depth": {"model": "hf:depth-anything/Depth-Anything-V2-Small-hf"},
        "image.detect": {"model": "hf:google/owlvit-base-patch32", "words": ["a fox", "an owl"]},
        "image.pose": {"model": "hf:usyd-community/vitpose-base-simple"},
        "image.segment": {"model": "hf:facebook/mask2former-swin-tiny-coco-panoptic"},
        "mask.find": {"model": "hf:CIDAS/clipseg-rd64-refined", "words": "a fox"},
        "mask.select": {"model": "hf:facebook/sam-vit-base", "points": [{"x": 3, "y": 4}]},
    }
