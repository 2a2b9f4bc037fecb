"""Generate pictures with GANs in the ONNX format: a network with its weights and no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagen_flow import hookimpl

from . import sampling


@hookimpl
def imagen_flow_nodes() -> Sequence[object]:
    return [sampling.sample]


@hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Provide generators of a few kilobytes: one in two networks, as StyleGAN is exported, and one
    in a single network.
    """
    name = reference.lower()
    if not name.endswith(".onnx"):
        return None
    kind = next((kind for kind in ("mapping", "synthesis") if kind in name), "generator")
    return Path(__file__).parent / "tiny" / f"{kind}.onnx"
