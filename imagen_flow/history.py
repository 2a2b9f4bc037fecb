"""Remember which keys a graph's steps had when it last ran, so that the next plan can say what changed. One small JSON file a graph, in the store's folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from .digest import tagged

__all__ = ["recall", "remember"]


def recall(folder: Path, graph: str) -> dict[str, str]:
    """Give the last keys of a graph's steps, by step; nothing where none are known."""
    try:
        read = json.loads(_place(folder, graph).read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) and all(isinstance(v, str) for v in read.values()) else {}


def remember(folder: Path, graph: str, keys: Mapping[str, str]) -> None:
    """Write down the keys of a run. What cannot be written is only worth a vaguer word in the next plan."""
    place = _place(folder, graph)
    aside = place.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(exist_ok=True)
        aside.write_bytes(json.dumps(keys, separators=(",", ":")).encode())
        os.replace(aside, place)


def _place(folder: Path, graph: str) -> Path:
    return folder / "history" / f"{tagged('graph', graph.encode('utf-8', 'surrogatepass'))}.json"
