"""Describe pictures and texts by features, score how well they fit, and find pictures by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


@flow.hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    clip = "hf:openai/clip-vit-base-patch32"
    made = [_features(number) for number in range(3)]
    return {
        "image.features": {"model": clip},
        "text.features": {"model": clip, "text": "a red fox"},
        "score.clip": {"model": clip, "text": "a red fox"},
        "score.similarity": {"a": made[0], "b": made[1]},
        "index.add": {"index": "./index", "features": made[:2], "names": ["a.png", "b.png"]},
        "index.search": {"index": "./index", "query": made[0]},
        "index.build": {"features": made, "names": ["a.png", "b.png", "c.png"]},
    }


def _features(number: int) -> flow.Tensor:
    import numpy as np

    from .vectors import features

    vector = np.cos(np.arange(8, dtype=np.float32) * (number + 1))
    return features(vector, kind="clip", fingerprint="0" * 40, normalise=True)
