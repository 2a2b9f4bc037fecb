"""Load sound, and write down what is said in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import loading, resampling, transcribing


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [loading.load, resampling.resample, transcribing.transcribe]


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny import stand_in

    return stand_in(reference, at, folder)
