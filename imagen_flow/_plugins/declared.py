"""Read which node types the Python files of a folder declare, without running any of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from .._system.regular_files import read_regular

__all__ = ["declared_node_types"]

#: At most so many files are read, none of them longer than this.
MAX_FILES, MAX_BYTES = 100, 1_000_000


def declared_node_types(folder: Path) -> dict[str, Path]:
    """Give the files of a folder by the node types that they declare: by the names that decorators
    called `node` are given as text.
    """
    found: dict[str, Path] = {}
    try:
        files = sorted(islice(folder.glob("*.py"), MAX_FILES))
    except OSError:
        return found
    for file in files:
        try:
            for name in _names(read_regular(file, max_bytes=MAX_BYTES)):
                found.setdefault(name, file)
        except OSError:
            continue
    return found


def _names(source: bytes) -> list[str]:
    if b"imagen_flow" not in source:
        return []
    import ast

    try:
        functions = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [
        decorator.args[0].value
        for function in functions
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call)
        and (
            decorator.func.attr
            if isinstance(decorator.func, ast.Attribute)
            else getattr(decorator.func, "id", "")
        )
        == "node"
        and decorator.args
        and isinstance(decorator.args[0], ast.Constant)
        and isinstance(decorator.args[0].value, str)
    ]
