"""Measure what was made: two pictures beside each other, sets of pictures by their features, one
picture by a trained judge, and a text beside another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import imagen_flow as flow

from . import aesthetic, pairs, sets, words


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        *(pairs.psnr, pairs.ssim),
        *(sets.fid, sets.kid, sets.diversity),
        *(aesthetic.score, words.score),
    ]


@flow.hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    seen = [_features(number) for number in range(4)]
    return {
        "metric.diversity": {"features": seen},
        "metric.fid": {"features": seen[:2], "reference": seen[2:]},
        "metric.kid": {"features": seen[:2], "reference": seen[2:]},
    }


def _features(number: int) -> flow.Tensor:
    import numpy as np

    vector = np.cos(np.arange(8, dtype=np.float32) * (number + 1))
    return flow.Tensor(vector, {"features": "clip", "model": "0" * 40, "normalised": "no"})
