"""Keep tensors in a scratch folder so that a kill leaves a whole file: the one before, or the new
one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_tensors(path: Path, tensors: Mapping[str, Any], facts: Any = None) -> None:
    """Write tensors, and facts as JSON beside them, aside; then put the file in place."""
    from safetensors.torch import save_file

    aside = path.with_suffix(".new")
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        aside,
        {"facts": json.dumps(facts)},
    )
    aside.replace(path)


def read_tensors(path: Path) -> dict[str, Any] | None:
    """Read the tensors of a file, copied off it; None if there is none, or a power cut spoilt it."""
    found = read_facts(path)
    return None if found is None else found[0]


def read_facts(path: Path) -> tuple[dict[str, Any], Any] | None:
    """Read the tensors of a file and the facts beside them, as `read_tensors` does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name).clone() for name in sorted(file.keys())}, facts
    except (OSError, SafetensorError, ValueError):
        return None
