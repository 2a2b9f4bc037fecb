"""Import the public names of a package when they are first used.

A package declares its names in a block ``if TYPE_CHECKING:``, one a line, each marked as exported in
the way of PEP 484 (``from .home import name as name``). Type checkers read the block as it stands;
at run time nothing in it is executed, but `lazy_names` reads from the same lines where each name
lives. So the two cannot disagree, as a second table could.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, *others: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give a package's ``__getattr__`` and ``__dir__``. `others` are names that it has besides."""
    homes: dict[str, str] = {}

    def __getattr__(name: str) -> Any:
        module = sys.modules[package]
        if not homes:
            homes.update(_read_homes(module))
        if name == "__all__":
            value: Any = sorted([*homes, *others])
        elif name in homes:
            value = getattr(import_module(homes[name], package), name)
        else:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        vars(module)[name] = value
        return value

    def __dir__() -> list[str]:
        return list(__getattr__("__all__"))

    return __getattr__, __dir__


def _read_homes(module: Any) -> dict[str, str]:
    """Read which module each name comes from."""
    source = module.__loader__.get_data(module.__file__).decode()  # from an archive too
    return {
        name: home
        for home, name in re.findall(r"^    from (\.\S+) import (\w+) as \2\r?$", source, re.M)
    }
