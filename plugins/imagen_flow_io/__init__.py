"""Nodes that read files: pictures, masks, text, JSON, tables and lists of files.

A file is read once, checked, and converted to one documented form; from there on no node depends on
the file format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imagen_flow import hookimpl

from . import datasets, documents, folders, pictures, tables


@hookimpl
def imagen_flow_nodes() -> Sequence[object]:
    """List the nodes that read files."""
    return [
        pictures.load_image,
        pictures.load_mask,
        documents.load_text,
        documents.load_json,
        tables.load_table,
        folders.list_files,
        folders.name,
        datasets.load_dataset,
    ]


@hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    """Give files that hold what the nodes read."""
    return {
        "dataset.load": {"missing": "empty"},
        "json.load": {"file": {"name": "data.json", "text": '{"a": [1, 2]}'}},
        "table.load": {"file": {"name": "rows.csv", "text": "prompt,seed\na fox,1\n"}},
        "text.load": {"file": {"name": "prompt.txt", "text": "a fox\n"}},
    }
