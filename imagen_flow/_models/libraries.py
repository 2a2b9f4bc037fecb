"""Say which extra to install when an optional library is missing."""

from __future__ import annotations

import importlib.util

from ..errors import ModelError

__all__ = ["require_library"]


def require_library(library: str, what: str, *, extra: str) -> None:
    """Refuse with the name of the extra to install if a library is missing.

    Params:
        library: as it is imported.
        what: what needs it, to begin the message with.
        extra: the extra of imagen-flow that brings it.
    Raises:
        ModelError: the library is missing.
    """
    if importlib.util.find_spec(library) is None:
        raise ModelError(
            f"{what} needs the library {library}, which is not installed: pip install"
            f" 'imagen-flow[{extra}]'"
        )
