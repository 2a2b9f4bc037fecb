"""Nodes that read files: pictures, masks, text, JSON, tables and lists of files.

A file is read once, checked, and converted to one documented form; from there on no node depends on
the file format.
"""

from __future__ import annotations

from collections.abc import Sequence

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
