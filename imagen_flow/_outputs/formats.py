"""The options of the formats that outputs are written in, by ending: which there are, and what they
take.

They are part of what decides whether a file is up to date, but of no key: a value is not computed
again because it is written otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._types.ports import PortType
from .._types.values import Range

__all__ = ["OPTIONS", "TABLES", "options_of"]

#: Endings of tables: a list that is not written element by element is written whole, a row each.
TABLES = (".csv", ".jsonl")

_COMPRESSION = PortType("int", range=Range(0, 9))
_QUALITY = PortType("int", range=Range(0, 100))
_JPEG = {
    "quality": PortType("int", range=Range(1, 100)),
    "subsampling": PortType("text", choices=("4:4:4", "4:2:2", "4:2:0")),
    "progressive": PortType("bool"),
}
_TIFF = {"compress_level": _COMPRESSION}
_TABLE = {
    "columns": PortType("list", element=PortType("text")),
    "absent": PortType("text", choices=("drop", "keep")),
}

#: The options of each format.
OPTIONS: Mapping[str, Mapping[str, PortType]] = {
    ".png": {"compress_level": _COMPRESSION},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": {
        "lossless": PortType("bool"),
        "quality": _QUALITY,
        "method": PortType("int", range=Range(0, 6)),
    },
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".csv": {
        **_TABLE,
        "formulas": PortType("text", choices=("escape", "keep")),
        "bom": PortType("bool"),
    },
    ".jsonl": _TABLE,
}


def options_of(ending: str, type: PortType) -> Mapping[str, PortType]:
    """Give the options of a format for an output of this type: a text is written as it is, whatever
    its ending.
    """
    if ending in TABLES and type.kind == "text":
        return {}
    return OPTIONS.get(ending, {})
