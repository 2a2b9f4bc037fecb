"""Draw and edit pictures with hosted services: OpenAI's images API, and what speaks its protocol.

Other services come with plugins of their own, on top of `imagen_flow.services`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import imagen_flow as flow

from . import nodes


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [nodes.generate, nodes.edit]
