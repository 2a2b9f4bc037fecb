"""The list of a sweep's items, ``index.jsonl`` in the output folder: one JSON object a line.

While a sweep runs, a line is appended as each item ends, after those of an earlier run: the last
line of an item holds. When all items have ended, the file is replaced by one that has each item
once, in order. So a sweep that is killed loses no line, and a reader never sees half a file.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import stat
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .._outputs.writer import OutFolder, OutputWriter
from .._plan.request import USERS_STORE, Request
from .._system.processes import temporary_name
from .._types.values import File, Folder
from ..errors import OutputError
from .items import INDEX, PARQUET, Item, shown_text
from .parquet import check_parquet, write_parquet

__all__ = ["IndexFile", "command_of", "plain_inputs", "read_rows"]

#: The keys of a row, in this order. Empty ones are left out.
ROW_KEYS = (
    "index",
    "item",
    "axes",
    "inputs",
    "seeds",
    "status",
    "error",
    "notes",
    "outputs",
    "command",
)

#: What each row begins with.
_BEGINNING = re.compile(rb'\{"index": \d+, "item": "')


class IndexFile:
    """The index of one sweep, open for its rows. Close it, or leave a `with` block.

    Params:
        count: how many items the sweep has.
        parquet: write ``index.parquet`` beside it at the end.
    Raises:
        OutputError: there is another file of that name, or another sweep writes to it.
        ImagenFlowError: the library that writes Parquet files is missing.
    """

    def __init__(self, folder: OutFolder, count: int, *, parquet: bool = False) -> None:
        if parquet:
            check_parquet(folder.path / PARQUET)
        self.folder = OutputWriter(folder).make_root("the index")
        self.path = self.folder / INDEX
        self._parquet = self.folder / PARQUET if parquet else None
        self._shown = folder.path / INDEX
        #: Where the row of each item begins, and how long it is.
        self._starts, self._sizes = array("q", [-1]) * count, array("q", [0]) * count
        self._missing = count
        try:
            self._file = self._open()
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> IndexFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of an item that has ended.

        Raises:
            OutputError: it cannot be written; the file is as it was.
        """
        ordered = {key: row[key] for key in ROW_KEYS if _is_told(row.get(key))}
        line = _as_line(ordered)
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):  # a disk that is nearly full takes a part
                written += self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
            raise self._error(error) from error
        self._missing -= self._starts[row["index"]] < 0
        self._starts[row["index"]], self._sizes[row["index"]] = start, len(line)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows of this sweep in order."""
        return map(json.loads, self._lines())

    def _lines(self) -> Iterator[bytes]:
        for start, size in zip(self._starts, self._sizes, strict=True):
            if start >= 0:
                self._file.seek(start)
                yield self._file.read(size)

    def finish(self) -> None:
        """If every item has its row, keep just these rows, in order.

        Raises:
            OutputError: the disk refuses; the rows are in the file all the same.
        """
        if self._missing:
            return
        temporary = self.folder / temporary_name()
        try:
            with open(temporary, "xb") as file:
                file.writelines(self._lines())
                file.flush()
                os.fsync(file.fileno())
            if self._parquet is not None:
                write_parquet(self._parquet, self.rows)
            os.replace(temporary, self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._error(error) from error

    def _open(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            handle = os.open(self.path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._foreign("it is a link") from error
            if error.errno == errno.EISDIR:
                raise self._foreign("it is a folder") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise self._foreign("it is not a regular file")
            file = open(handle, "r+b", buffering=0)  # noqa: SIM115 - the index keeps it open
        except BaseException:
            os.close(handle)
            raise
        try:
            self._lock(file)
            first = file.readline(1 << 20)
            if first.strip():
                self._check_ours(first)
            self._drop_torn_line(file)
        except BaseException:
            file.close()
            raise
        return file

    def _lock(self, file: Any) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another sweep is writing to {self._shown}\n"
                "  = fix: wait until it has ended, or choose another folder with --out"
            ) from None
        except OSError:  # not on this file system
            return

    def _check_ours(self, first: bytes) -> None:
        try:
            row = json.loads(first)
        except (ValueError, RecursionError):
            # A line that was not written to its end, or that is too long to be read whole.
            if not first.endswith(b"\n") and _BEGINNING.match(first):
                return
            row = None
        if not isinstance(row, dict) or not {"index", "item", "status"} <= row.keys():
            raise self._foreign("it is not the index of a sweep")

    def _foreign(self, why: str) -> OutputError:
        return OutputError(
            f"the index is not written to {self._shown}: another file exists\n"
            f"  = why: {why}\n"
            "  = fix: move it away, or choose another folder with --out"
        )

    @staticmethod
    def _drop_torn_line(file: Any) -> None:
        """Remove what a killed process wrote of its last line."""
        end = file.seek(0, os.SEEK_END)
        at = end
        while at:
            step = min(at, 1 << 16)
            file.seek(at - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                at = at - step + newline + 1
                break
            at -= step
        if at != end:
            file.truncate(at)

    def _error(self, error: OSError) -> OutputError:
        reason = (error.strerror or str(error)).lower()
        return OutputError(
            f"the index cannot be written to {self._shown}\n"
            f"  = why: {reason}\n"
            "  = fix: free disk space or change permissions, then run the same command again: what"
            " is done is not computed twice"
        )


def _as_line(row: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:  # JSON has no numbers that are infinite or none
        text = json.dumps(_finite(row), ensure_ascii=False)
    # A lone surrogate is written as JSON escapes it.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def _is_told(value: Any) -> bool:
    return value is not None and value != {} and value != [] and value != ""


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an index, of each item the last."""
    last: dict[str, int] = {}
    with open(path, "rb") as file:
        start = 0
        for line in file:
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and "item" in row:
                    last[str(row["item"])] = start
            start += len(line)
        for start in last.values():
            file.seek(start)
            yield json.loads(file.readline())


def plain_inputs(inputs: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Give the values of inputs as JSON data: of a file its path, relative to the index, and its
    digest.
    """
    return {name: _plain(value, folder) for name, value in inputs.items() if value is not None}


def _plain(value: Any, folder: Path | None) -> Any:
    if isinstance(value, File | Folder):
        path = str(value.path)
        return {
            "path": Path(os.path.relpath(path, folder)).as_posix() if folder else path,
            "digest": value.digest,
        }
    return [_plain(item, folder) for item in value] if isinstance(value, list) else value


def command_of(request: Request, item: Item, out: Path | None) -> str | None:
    """Write the command line that makes an item again; None for a graph that is in no file.

    Params:
        out: the output folder, or None if nothing is written.
    """
    if request.graph.spec.path is None:
        return None
    values: dict[str, str] = {}
    types = {name: wanted.type for name, wanted in request.graph.inputs.items()}
    for name, value in {**request.values, **item.values}.items():
        is_path = name in types and _holds_paths(types[name])
        values[name] = shown_text(_near(value) if is_path else value)
    values |= {name: text for name, text in request.texts.items() if name not in item.values}
    words = ["imagen-flow", "run", _near(str(request.graph.spec.path))]
    for name, text in values.items():
        words += ["--set", f"{name}={text}"]
    options = request.options
    folder = _near(str(out)) if out is not None else "out"
    for option, given in (
        ("--out", folder if folder != "out" else None),
        ("--device", options.device),
        ("--dtype", options.dtype),
        ("--batch", options.batch),
    ):
        words += [option, str(given)] if given else []
    if options.store is None:
        words.append("--no-store")
    elif options.store != USERS_STORE and isinstance(options.store, str | Path):
        words += ["--store", str(options.store)]
    for path in options.plugins:
        words += ["--plugin", str(path)]
    words += [f"--{flag}" for flag in ("locked", "tiny") if getattr(options, flag)]
    for pickle_file in options.allow_pickle:
        words += ["--allow-pickle", pickle_file]
    for model in options.trust_remote_code:
        words += ["--trust-remote-code", model]
    return shlex.join(words)


def _holds_paths(type_: Any) -> bool:
    inner = type_.element or type_
    return inner.kind in ("file", "folder")


def _near(path: Any) -> Any:
    """Give a path relative to the working directory if it lies below it."""
    if isinstance(path, list):
        return [_near(item) for item in path]
    with suppress(ValueError, OSError):
        return str(Path(path).absolute().relative_to(Path.cwd()))
    return str(path)
