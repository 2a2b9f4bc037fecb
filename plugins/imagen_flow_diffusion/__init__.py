"""Draw, enlarge and edit pictures with diffusion models: the embedded ones, DeepFloyd IF and InstructPix2Pix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import imagen_flow as flow

from . import nodes


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [nodes.encode, nodes.base, nodes.super_resolution, nodes.edit]
