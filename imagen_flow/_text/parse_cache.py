"""Remember how a graph's text was read, so that the same text is not read twice: parsing is the
dearest part of planning from the store.

A memo is a file of JSON in the user's cache folder, named by a digest of the text and of all that
reads it: this module, `yaml_text`, ruamel.yaml and Python's own tables of
characters. So an upgrade never meets what an older reader made. Only what was read without a
problem is kept. A memo that is damaged, or cannot be written, costs time and nothing else.
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

from ..errors import Mark, Source
from . import yaml_reader as yaml_text
from .yaml_reader import Pair, Reference, Template, Word, Written

__all__ = ["read_words"]

#: How many texts are remembered, and how large the largest is: those least recently read make room.
KEEP = 128
MAX_BYTES = 256 << 10

#: A memo is some ten times as long as its text; one that is longer than this is no memo.
MAX_MEMO_BYTES = 64 << 20


def read_words(text: str | bytes, *, name: str, folder: Path | None) -> Written:
    """Read one document of YAML or JSON as `yaml_text.read_words` does, or remember how it was
    read.

    Params:
        folder: where memos lie; None reads the text.
    """
    if folder is None or len(text) > MAX_BYTES:
        return yaml_text.read_words(text, name=name)
    try:
        data = text if isinstance(text, bytes) else text.encode()
        place = folder / f"{blake2b(_reader() + data, digest_size=20).hexdigest()}.json"
    except (OSError, UnicodeEncodeError):
        return yaml_text.read_words(text, name=name)
    remembered = _remembered(place, data, name)
    if remembered is not None:
        return remembered
    written = yaml_text.read_words(text, name=name)
    if written.word is not None and not written.problems:
        _remember(place, written.word)
    return written


def _reader() -> bytes:
    """Digest what reads a text.

    Raises:
        OSError: its source is not available, as in an archive.
    """
    ruamel = importlib.util.find_spec("ruamel.yaml")
    sources = (__file__, yaml_text.__file__, ruamel.origin if ruamel else None)
    state = blake2b(sys.version.encode(), digest_size=20)
    for source in sources:
        if source is None:
            raise FileNotFoundError("ruamel.yaml")
        state.update(Path(source).read_bytes())
    return state.digest()


def _remembered(place: Path, data: bytes, name: str) -> Written | None:
    try:
        found = os.stat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_MEMO_BYTES:
            return None
        digest, _, body = place.read_bytes().partition(b"\n")
        if digest != _seal(place, body):
            return None
        source = yaml_text.source_of(data.decode(), name)
        word = _word(json.loads(body), source)
        os.utime(place)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return Written(source, word, ())


def _seal(place: Path, body: bytes) -> bytes:
    """Bind what a memo says to its name, so that one under another's name is not taken for it."""
    return blake2b(place.name.encode() + b"\n" + body, digest_size=20).hexdigest().encode()


def _remember(place: Path, word: Word) -> None:
    body = json.dumps(_plain(word), separators=(",", ":")).encode()
    aside = place.with_suffix(f".{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(_seal(place, body) + b"\n" + body)
        os.replace(aside, place)
        for old in _surplus(place.parent):
            old.unlink(missing_ok=True)
    except OSError:
        return


def _surplus(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(((entry.stat().st_mtime_ns, entry.path) for entry in entries), reverse=True)
    return (Path(path) for _, path in found[KEEP:])


# ---- words as JSON
#
# A word is [line, column, width, value]. A value is itself, a list of words in {"l": …}, a mapping
# in {"m": [key, value, key, value, …]}, a reference in
# {"r": [name, port, line, column, width]}, a text with references in {"t": […]}.


def _plain(word: Word) -> list[Any]:
    value = word.value
    said: Any = value
    if isinstance(value, dict):
        said = {"m": [_plain(part) for pair in value.values() for part in (pair.key, pair.value)]}
    elif isinstance(value, tuple):
        said = {"l": [_plain(item) for item in value]}
    elif isinstance(value, Reference):
        said = _plain_reference(value)
    elif isinstance(value, Template):
        said = {
            "t": [part if isinstance(part, str) else _plain_reference(part) for part in value.parts]
        }
    return [*_plain_mark(word.mark), said]


def _plain_reference(reference: Reference) -> dict[str, Any]:
    return {"r": [reference.name, reference.port, *_plain_mark(reference.mark)]}


def _plain_mark(mark: Mark) -> tuple[int, int, int]:
    return mark.line, mark.column, mark.width


def _word(said: list[Any], source: Source) -> Word:
    line, column, width, value = said
    if type(value) is dict:
        ((kind, inner),) = value.items()
        if kind == "m":
            words = [_word(part, source) for part in inner]
            value = {
                key.value: Pair(key, item)
                for key, item in zip(words[::2], words[1::2], strict=True)
            }
        elif kind == "l":
            value = tuple(_word(item, source) for item in inner)
        elif kind == "r":
            value = _reference(inner, source)
        else:
            value = Template(
                tuple(
                    part if type(part) is str else _reference(part["r"], source) for part in inner
                )
            )
    return Word(value, Mark(source, line, column, width))


def _reference(said: list[Any], source: Source) -> Reference:
    name, port, line, column, width = said
    return Reference(name, port, Mark(source, line, column, width))
