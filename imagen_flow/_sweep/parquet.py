"""Write the index of a sweep as a Parquet file, for programs that read tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._system.processes import temporary_name
from ..errors import ImagenFlowError, OutputError

__all__ = ["check_parquet", "write_parquet"]

#: What the file says of itself, so that no other is replaced.
_OURS = {b"imagen_flow": b"index"}

#: How many rows are written at a time.
_BATCH = 1_000

_FIRST = ("index", "item", "status", "error", "notes", "command")


def check_parquet(path: Path) -> None:
    """See that a Parquet file can be written, before anything runs.

    Raises:
        ImagenFlowError: the library is missing.
        OutputError: another file has that name.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImagenFlowError(
            "a Parquet index needs the library pyarrow\n  = fix: pip install 'imagen-flow[parquet]'"
        ) from None
    if not os.path.lexists(path):
        return
    metadata: Mapping[bytes, bytes] | None = None
    with suppress(Exception):  # any file may be there
        if path.is_file() and not path.is_symlink():
            metadata = parquet.read_schema(path).metadata
    if (metadata or {}).get(b"imagen_flow") != b"index":
        raise OutputError(
            f"the index is not written to {path}: another file exists\n"
            "  = why: it is not the index of a sweep\n"
            "  = fix: move it away, or choose another folder with --out"
        )


def write_parquet(path: Path, rows: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Write rows, with a column for each value in them, such as ``axes.seed`` or
    ``outputs.picture.path``. What has no type of its own in a column is JSON text.

    Params:
        rows: gives the rows of the index; it is called twice.
    """
    import pyarrow
    from pyarrow import parquet

    kinds: dict[str, set[type]] = {name: set() for name in _FIRST}
    for row in rows():
        for name, value in _flat(row):
            kinds.setdefault(name, set()).add(_kind(value))
    schema = pyarrow.schema(
        [(name, _column_type(pyarrow, name, found)) for name, found in kinds.items()],
        metadata=_OURS,
    )
    temporary = path.with_name(temporary_name())
    try:
        with parquet.ParquetWriter(temporary, schema) as writer:
            batch: list[dict[str, Any]] = []
            for row in rows():
                batch.append(_converted(row, schema))
                if len(batch) == _BATCH:
                    writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                    batch = []
            if batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of a row by column."""
    for name in _FIRST:
        if name in row:
            yield name, row[name]
    for group in ("axes", "seeds", "inputs"):
        for name, value in row.get(group, {}).items():
            yield f"{group}.{name}", value
    for name, told in row.get("outputs", {}).items():
        for key, value in told.items():
            yield f"outputs.{name}.{key}", value


def _kind(value: Any) -> type:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return object
    return type(value)


def _column_type(pyarrow: Any, name: str, kinds: set[type]) -> Any:
    kinds = kinds - {type(None)}
    if name == "notes":
        return pyarrow.list_(pyarrow.string())
    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {int}:
        return pyarrow.int64()
    if kinds and kinds <= {int, float}:
        return pyarrow.float64()
    return pyarrow.string()


def _converted(row: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    found = {}
    for name, value in _flat(row):
        kind = str(schema.field(name).type)
        if kind == "string" and value is not None and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        elif kind == "double":
            value = float(value)
        found[name] = value.encode("utf-8", "replace").decode() if type(value) is str else value
    return found
