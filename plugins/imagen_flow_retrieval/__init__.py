"""Describe pictures and texts by features, score how well they fit, and find pictures by them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import features, indexes


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        *(features.image_features, features.text_features, features.similarity),
        features.clip_score,
        *(indexes.build, indexes.add, indexes.search),
    ]


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny import stand_in

    return stand_in(reference, at, folder)
