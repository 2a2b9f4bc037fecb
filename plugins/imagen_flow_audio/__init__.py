"""Load sound, and write down what is said in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import imagen_flow as flow


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return []
