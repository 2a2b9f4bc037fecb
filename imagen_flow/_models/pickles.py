"""Scan a pickle before it is loaded. It is loaded only if the user allowed it and the scanner finds
nothing in it that runs code, and then by torch with ``weights_only``, which refuses the rest.
"""

from __future__ import annotations

from pathlib import Path

from .._system.regular_files import is_regular
from .references import UnusableModel

__all__ = ["NO_PICKLES", "scan_pickle"]

#: Names that the scanner does not know, and torch accepts with ``weights_only``.
_HARMLESS = {"torch._utils._rebuild_parameter"}

NO_PICKLES = "a pickle can run any code when it is loaded, so only safetensors are"


def scan_pickle(path: Path, reference: str) -> None:
    """Scan a pickle that the user allows.

    Raises:
        UnusableModel: it imports something that weights do not need, it holds no weights, or the
            scanner is not installed.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_file_path
    except ImportError as missing:
        raise UnusableModel(
            f"the pickle {path.name} of '{reference}' cannot be scanned",
            why="picklescan is not installed",
            fix="run `pip install 'imagen-flow[pickle]'`, or convert it to safetensors",
        ) from missing
    if not is_regular(path):
        raise UnusableModel(
            f"the pickle {path.name} of '{reference}' cannot be scanned",
            why="it is not a regular file",
            fix="copy or download it again",
        )
    try:
        found = scan_file_path(str(path))
    except Exception as error:  # a broken file can make the scanner raise anything
        raise UnusableModel(
            f"the pickle {path.name} of '{reference}' cannot be scanned",
            why=f"{type(error).__name__}: {error}"[:200],
            fix="copy or download it again",
        ) from error
    strange = sorted(
        {f"{g.module}.{g.name}" for g in found.globals if g.safety is not SafetyLevel.Innocuous}
        - _HARMLESS
    )
    if strange or found.infected_files or found.issues_count:
        why = (
            f"it names {', '.join(strange[:5])}{', …' if len(strange) > 5 else ''}, which weights"
            " do not need"
        )
        raise UnusableModel(
            f"the pickle {path.name} of '{reference}' is not loaded",
            why=why,
            fix="get it as safetensors from a source that you trust",
        )
    if found.scan_err or not found.globals:
        raise UnusableModel(
            f"the model '{reference}' is damaged: {path.name} is not a pickle of weights",
            why="the scanner found no pickle in it",
            fix="copy or download it again",
        )
