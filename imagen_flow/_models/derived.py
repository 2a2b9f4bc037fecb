"""Let loaders keep what they derive from a model's files at some cost, such as quantized weights.

Loaders know no store: whoever lends models says where such folders are kept, for as long as a
context lasts. Outside of one, nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .._types.models import Model
from ..errors import ModelError
from .signs import check_unchanged

__all__ = ["Keeper", "derived_folder", "is_keeping", "keeping"]

#: Returns the folder of what is described, filled by a function if there is none yet; None if it
#: cannot be kept.
Keeper = Callable[[Mapping[str, Any], Callable[[Path], None]], Path | None]

_KEEPER: ContextVar[Keeper | None] = ContextVar("keeper of derived folders", default=None)


@contextmanager
def keeping(keeper: Keeper | None) -> Iterator[None]:
    """Have folders that loaders derive kept, for as long as the context lasts; None: not at all."""
    token = _KEEPER.set(keeper)
    try:
        yield
    finally:
        _KEEPER.reset(token)


def is_keeping() -> bool:
    """Tell whether derived folders are kept."""
    return _KEEPER.get() is not None


def derived_folder(
    model: Model,
    make: Callable[[Path], object],
    *,
    of: Mapping[str, Any],
    part: str = "",
    libraries: tuple[str, ...] = (),
) -> Path | None:
    """Return a folder of what is derived from a model's files: for a loader that computes something
    which costs more than to read it again. The folder lies in the store of the run, where it is
    verified when it is used, counted, and collected like results of steps.

    Call it inside `Loader.load`.

    Params:
        make: fills the empty folder that it is given, with files of any kind that is read without
            running code. It is called if there is none of this key yet, or a damaged one, by one
            thread and process at a time. If it raises, nothing is kept.
        of: what is computed, and with which settings, as JSON data. With the content of the model's
            files, the versions of the libraries and that of imagen_flow, it makes the key.
        part: the folder below the model's that alone is read; empty: all of it.
        libraries: the distributions whose versions decide what is computed.
    Outputs: the folder, whose files must not be changed; None if nothing is kept (``--no-store``, a
        full disk): then the loader does without.
    Raises:
        Exception: whatever `make` raises.
        FileChanged: the model's files changed meanwhile.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        return None
    from importlib.metadata import version  # it takes long to import

    fingerprint = dict(model.parts).get(part, model.digest)
    if not fingerprint:
        raise ModelError(f"the model '{model.reference or model.path.name}' has no fingerprint")

    def make_of_unchanged(folder: Path) -> None:
        make(folder)
        check_unchanged(model)

    return keeper(
        {
            "model": fingerprint,
            "of": of,
            "versions": {name: version(name) for name in ("imagen-flow", *libraries)},
        },
        make_of_unchanged,
    )
