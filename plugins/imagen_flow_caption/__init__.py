"""Describe pictures with a captioning model of transformers: the embedded one, BLIP or GIT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import imagen_flow as flow

from . import nodes


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [nodes.caption]
