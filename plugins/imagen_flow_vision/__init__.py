"""Look at pictures: describe, classify, with models of transformers."""

from __future__ import annotations

from collections.abc import Iterable
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
