"""Measure what was made: two pictures beside each other, sets of pictures by their features, one
picture by a trained judge, and a text beside another.
"""

from __future__ import annotations

from collections.abc import Iterable
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
