"""Write a new plugin: a small package that can be installed, tested and published as it is."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from ..errors import ImagenFlowError

__all__ = ["begin"]

#: The files of a plugin, by the template that each is made of.
_FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "gitignore.in": ".gitignore",
    "package/__init__.py.in": "{package}/__init__.py",
    "package/nodes.py.in": "{package}/nodes.py",
    "graphs/posterise.yaml.in": "graphs/posterise.yaml",
    "tests/test_nodes.py.in": "tests/test_nodes.py",
    "workflows/test.yml.in": ".github/workflows/test.yml",
}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")


def begin(name: str, folder: Path, *, version: str) -> list[Path]:
    """Write a new plugin, and return the files.

    Params:
        name: of the distribution: words in lower case with hyphens between them.
        folder: where; it is created. One with files in it is refused.
        version: the least version of imagen-flow that it asks for.
    Raises:
        ImagenFlowError: the name cannot be one, or the folder cannot be used.
    """
    package = name.replace("-", "_")
    if not _NAME.match(name) or keyword.iskeyword(package) or package.startswith("imagen_flow"):
        raise ImagenFlowError(
            f"'{name[:100]}' cannot name a plugin: write words in lower case with hyphens between"
            " them, such as my-nodes"
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ImagenFlowError(f"'{folder}' exists already; name another folder")
        words = {
            "distribution": name,
            "package": package,
            "entry": package,
            "group": name.partition("-")[0],
            "version": version,
        }
        source = files(__package__) / "template"
        made = []
        for template, target in _FILES.items():
            path = folder / target.format(package=package)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = source.joinpath(template).read_text("utf-8")
            path.write_text(Template(text).substitute(words), "utf-8")
            made.append(path)
    except OSError as error:
        raise ImagenFlowError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    return made
