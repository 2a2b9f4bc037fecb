"""What the user allows models to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .._system.dataclass import dataclass
from .lock import Lock

__all__ = ["STRICT", "ModelPolicy"]


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """Which models may be used, and how. Only the user decides this, never a graph.

    `lock` pins references to the hub; with `locked`, references that it does not pin are refused.
    `pickles` are pickled files that may be loaded: each by the model's reference and the file's
    name in it (``hf:org/name@main/file.bin``), or by path. `remote_code` are references whose own
    code may run. `tiny` returns a small model to use instead, given a reference and the path of the
    model (None if it is not on this machine).
    """

    lock: Lock | None = None
    locked: bool = False
    pickles: tuple[str, ...] = ()
    remote_code: tuple[str, ...] = ()
    tiny: Callable[[str, Path | None], Path | None] | None = None


#: The default: nothing that runs code, and everything that is on this machine.
STRICT = ModelPolicy()
