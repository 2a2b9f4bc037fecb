"""Cache how a graph's text was parsed, so that the same text is not parsed twice: parsing is the
most expensive part of planning from the store.

An entry is a JSON file in the user's cache folder, named by a digest of the text and of everything
that parses it: this module, `decoding`, `words`, `yaml_reader`, ruamel.yaml and Python's own character
tables. So an upgrade never uses the results of an older parser. Only text without problems is
cached. An entry that is damaged or cannot be written costs only time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import Source
from . import decoding, words, yaml_reader
from .words import Pair, ParsedText, Reference, Template, Word

__all__ = ["read_words"]

#: How many texts are cached, and the size of the largest; the least recently used are removed.
MAX_ENTRIES = 128
MAX_BYTES = 256 << 10

#: An entry is about ten times as long as its text; a longer file than this is not an entry.
MAX_ENTRY_BYTES = 64 << 20


def read_words(text: str | bytes, *, name: str, folder: Path | None) -> ParsedText:
    """Read one document of YAML or JSON as `yaml_reader.read_words` does, from the cache if
    possible.

    Params:
        folder: the folder of the cache; None always parses.
    """
    if folder is None or len(text) > MAX_BYTES:
        return yaml_reader.read_words(text, name=name)
    try:
        data = text if isinstance(text, bytes) else text.encode()
        path = folder / f"{blake2b(_reader_digest() + data, digest_size=20).hexdigest()}.json"
    except (OSError, UnicodeEncodeError):
        return yaml_reader.read_words(text, name=name)
    cached = _load_cached(path, data, name)
    if cached is not None:
        return cached
    written = yaml_reader.read_words(text, name=name)
    if written.word is not None and not written.problems:
        _save(path, written.word)
    return written


def _reader_digest() -> bytes:
    """Digest everything that parses a text.

    Raises:
        OSError: its source is not available, for example in an archive.
    """
    ruamel = importlib.util.find_spec("ruamel.yaml")
    sources = (
        __file__,
        decoding.__file__,
        words.__file__,
        yaml_reader.__file__,
        ruamel.origin if ruamel else None,
    )
    state = blake2b(sys.version.encode(), digest_size=20)
    for source in sources:
        if source is None:
            raise FileNotFoundError("ruamel.yaml")
        state.update(Path(source).read_bytes())
    return state.digest()


def _load_cached(path: Path, data: bytes, name: str) -> ParsedText | None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_ENTRY_BYTES:
            return None
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest != _seal(path, body):
            return None
        source = yaml_reader.source_of(data.decode(), name)
        word = _from_json(json.loads(body), source)
        os.utime(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return ParsedText(source, word, ())


def _seal(path: Path, body: bytes) -> bytes:
    """Bind an entry to its name, so that one under another name is not used for it."""
    return blake2b(path.name.encode() + b"\n" + body, digest_size=20).hexdigest().encode()


def _save(path: Path, word: Word) -> None:
    body = json.dumps(_to_json(word), separators=(",", ":")).encode()
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_seal(path, body) + b"\n" + body)
        os.replace(temporary, path)
        for old in _oldest(path.parent):
            old.unlink(missing_ok=True)
    except OSError:
        return


def _oldest(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        status = sorted(((entry.stat().st_mtime_ns, entry.path) for entry in entries), reverse=True)
    return (Path(path) for _, path in status[MAX_ENTRIES:])


# ---- words as JSON
#
# A word is [start, end, value]. A value is itself, a list of words in {"l": …}, a mapping
# in {"m": [key, value, key, value, …]}, a reference in {"r": [name, port, start, end]}, a
# text with references in {"t": […]}.


def _to_json(word: Word) -> list[Any]:
    value = word.value
    data: Any = value
    if isinstance(value, dict):
        data = {"m": [_to_json(part) for pair in value.values() for part in (pair.key, pair.value)]}
    elif isinstance(value, tuple):
        data = {"l": [_to_json(item) for item in value]}
    elif isinstance(value, Reference):
        data = _reference_to_json(value)
    elif isinstance(value, Template):
        data = {
            "t": [
                part if isinstance(part, str) else _reference_to_json(part) for part in value.parts
            ]
        }
    return [word.start, word.end, data]


def _reference_to_json(reference: Reference) -> dict[str, Any]:
    return {"r": [reference.name, reference.port, reference.start, reference.end]}


def _from_json(data: list[Any], source: Source) -> Word:
    start, end, value = data
    if type(value) is dict:
        ((kind, inner),) = value.items()
        if kind == "m":
            words = [_from_json(part, source) for part in inner]
            value = {
                key.value: Pair(key, item)
                for key, item in zip(words[::2], words[1::2], strict=True)
            }
        elif kind == "l":
            value = tuple(_from_json(item, source) for item in inner)
        elif kind == "r":
            value = _reference_from_json(inner, source)
        else:
            value = Template(
                tuple(
                    part if type(part) is str else _reference_from_json(part["r"], source)
                    for part in inner
                )
            )
    return Word(value, source, start, end)


def _reference_from_json(data: list[Any], source: Source) -> Reference:
    name, port, start, end = data
    return Reference(name, port, source, start, end)
