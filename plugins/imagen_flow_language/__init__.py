"""Read and write text for pictures: prompts that vary, summaries, translations, prompts that a
language model continues, and features of text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import expanding, features, summarising, translating, wildcards


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        wildcards.wildcards,
        wildcards.combinations,
        summarising.summarise,
        translating.translate,
        expanding.expand,
        features.features,
    ]


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny import stand_in

    return stand_in(reference, at, folder)
