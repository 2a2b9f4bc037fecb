"""Decode a file as UTF-8 text, or say what it is instead."""

from __future__ import annotations

from ..errors import Mark, Problem, Source

__all__ = ["decode"]


def decode(data: bytes, name: str) -> str | Problem:
    """Decode a file; a problem if it is binary or not UTF-8."""
    refusal = _refuse_binary(data, name)
    if refusal is not None:
        return refusal
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(data, error, name)


#: The first bytes of other kinds of files that are mistaken for graphs.
_FILE_KINDS = {
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"RIFF": "a picture or a sound",
    b"GIF8": "a picture",
    b"II*\0": "a picture",
    b"MM\0*": "a picture",
    b"PK\x03\x04": "an archive",
    b"\x1f\x8b": "an archive",
    b"%PDF-": "a PDF",
}


def _refuse_binary(data: bytes, name: str) -> Problem | None:
    """Refuse a file that is not text, and say what it is; UTF-16 without a byte order mark is
    recognised by its zero bytes.
    """
    kind = next((words for start, words in _FILE_KINDS.items() if data.startswith(start)), "")
    if not kind and (data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" not in data[:4096]):
        return None
    source = Source(name, "")
    zeros = data[:4096].count(0)
    if (
        not kind
        and max(data[:4096:2].count(0), data[1:4096:2].count(0)) == zeros
        and zeros > len(data[:4096]) // 3
    ):
        problem = Problem(
            "not-utf8",
            "the file is UTF-16",
            Mark(source, 1, 1),
            "a graph is UTF-8 text",
            "save the file as UTF-8",
        )
    else:
        fix = (
            "name a graph file; 'imagen-flow replay' runs the graph that a picture contains"
            if "picture" in kind
            else "name a graph file"
        )
        problem = Problem(
            "not-utf8",
            f"the file is {kind or 'not text'}",
            Mark(source, 1, 1),
            "" if kind else "it contains zero bytes",
            fix,
        )
    return problem


def _not_utf8(data: bytes, error: UnicodeDecodeError, name: str) -> Problem:
    before = data[: error.start].decode("utf-8")
    source = Source(name, data.decode("utf-8", "replace").replace("\0", "\ufffd"))
    mark = Mark(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    why = "the file is UTF-16" if utf16 else f"{error.reason}, at byte {error.start} of the file"
    return Problem(
        "not-utf8",
        f"byte 0x{data[error.start]:02x} is not UTF-8 text",
        mark,
        why,
        "save the file as UTF-8",
    )
