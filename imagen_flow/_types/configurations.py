"""Read the JSON files by which a model says what it is: each once.

What was read is kept in a `Memo` of the model that it was read for, as long as somebody holds that,
so that a plan opens each file once; and by the process under the file's sign, so that the next plan
opens none.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .._system.file_signs import RememberedBySign
from .._system.regular_files import open_regular
from .digest import digest_bytes

__all__ = ["Configuration", "Memo", "is_configuration", "read_configuration", "weight_of"]

T = TypeVar("T")

#: Configurations, by their names; other JSON files (the words of a tokenizer) are only digested.
_CONFIGURATION = re.compile(
    r"(\w*_)?config\.json|(modular_)?model_index\.json|.+\.index(\.\w+)?\.json"
)


class Memo:
    """What was worked out from a model's files so far. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is known under a key; if nothing is, make it and remember it."""
        with self._lock:
            if key not in self._known:
                self._known[key] = make()
            known: T = self._known[key]
            return known


class Configuration(NamedTuple):
    """A JSON file as it was read: its digest, and its content or why it has none."""

    digest: str
    size: int
    content: Any
    error: str = ""


def _read_configuration(path: Path) -> Configuration:
    with open_regular(path) as stream:
        data = stream.read()
    try:
        return Configuration(digest_bytes(data), len(data), json.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        return Configuration(digest_bytes(data), len(data), None, str(error))


def weight_of(read: Configuration) -> int:
    """Estimate what a configuration takes in memory: parsed, JSON is several times its text."""
    return 2048 + 16 * read.size


_configuration: RememberedBySign[Configuration] = RememberedBySign(
    _read_configuration, weigh=weight_of, max_weight=128 << 20
)


def is_configuration(name: str) -> bool:
    """Whether a file of this name says what a model is; other JSON files (the words of a tokenizer)
    are only digested.
    """
    return _CONFIGURATION.fullmatch(name) is not None


def read_configuration(memo: Memo, path: Path) -> Configuration:
    """Read a JSON file, or recall what it said.

    Raises:
        OSError: it cannot be opened.
    """
    return memo.once(("json", str(path)), lambda: _configuration(path))
