"""Read the files of one model, each once: while it is resolved, and afterwards for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._system.file_signs import Sign, sign_of
from .._types.configurations import Configuration, Memo, is_configuration, read_configuration
from .._types.models import Model
from .cache import recorded_digest
from .weights import tensors_in

__all__ = ["Files", "read_header"]

#: Larger files are digested block by block, whatever they are called.
_MAX_BYTES = 32 << 20


class Files:
    """Reads the files of one model while it is resolved.

    Params:
        digest: gives the digest of a file's content.
    """

    def __init__(self, digest: Callable[[Path], str]) -> None:
        self._digest = digest
        #: What was read; it goes to the model.
        self.memo = Memo()
        #: The signs of files, taken before they were digested, so that later changes show.
        self.signs: dict[str, Sign] = {}

    def digest(self, path: Path) -> str:
        """Digest a file. A configuration is read at once, so that it is opened once."""
        self.signs[str(path)] = sign = sign_of(path)
        if is_configuration(path.name) and sign[2] <= _MAX_BYTES:
            return read_configuration(self.memo, path).digest
        return self._digest(path)

    def recorded_digest(self, path: Path) -> str:
        """Return the digest under which the hub's cache holds a file; digest other files."""
        return recorded_digest(path) or self.digest(path)

    def configuration(self, path: Path) -> Configuration:
        """Read a JSON file.

        Raises:
            OSError: it cannot be opened.
        """
        return read_configuration(self.memo, path)

    def header(self, path: Path) -> Mapping[str, Any]:
        """Read the header of a file of weights, as `tensors_in`."""
        return _header(self.memo, path)


def read_header(model: Model, path: Path) -> Mapping[str, Any]:
    """Read the header of one of a model's files of weights: by tensor its ``dtype`` and ``shape``,
    and perhaps ``__metadata__``. It is shared: don't change it.

    Raises: what reading a damaged file raises.
    """
    return _header(model.memo, path)


def _header(memo: Memo, path: Path) -> Mapping[str, Any]:
    return memo.once(("header", str(path)), lambda: tensors_in(path))
