"""Change shared parts of a checkpoint for the length of a call, and put them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@contextmanager
def sparing(vae: Any, memory_levels: Sequence[str]) -> Iterator[None]:
    """Let an autoencoder work tile by tile, or picture by picture, for a while, as the memory
    fallback levels say and as far as it can. Whoever calls holds it alone.
    """
    ways = [
        way
        for level, way in (("tile", "tiling"), ("slice", "slicing"))
        if level in memory_levels and hasattr(vae, f"use_{way}")
    ]
    try:
        for way in ways:
            getattr(vae, f"enable_{way}")()
        yield
    finally:
        for way in ways:
            getattr(vae, f"disable_{way}")()


@contextmanager
def unchanged(parts: Sequence[Any]) -> Iterator[None]:
    """Put back what pipelines change of shared networks, and leave changed when they fail: the ways
    in which these attend. Whoever calls holds them alone.
    """
    before = [
        (part, dict(part.attn_processors)) for part in parts if hasattr(part, "attn_processors")
    ]
    try:
        yield
    finally:
        for part, processors in before:
            if part.attn_processors != processors:
                part.set_attn_processor(processors)
