"""Bring files into a graph: pictures, masks, text, JSON and lists of files.

What a file holds is read once, checked, and brought to one stated form; from there on no node asks
what it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagen_flow import hookimpl

from . import documents, folders, pictures


@hookimpl
def imagen_flow_nodes() -> Sequence[object]:
    """Offer the nodes that read files."""
    return [
        pictures.load_image,
        pictures.load_mask,
        documents.load_text,
        documents.load_json,
        folders.list_files,
    ]
