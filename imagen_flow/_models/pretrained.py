"""Load modules as diffusers and transformers save them: a folder with ``config.json`` and weights
as safetensors.
"""

from __future__ import annotations

from typing import Any

from .._types.models import PLAIN, Loading, Model
from ..errors import ModelError
from .placement import place_module
from .quiet import quiet_libraries

__all__ = ["load_pretrained"]


def load_pretrained(
    cls: Any, model: Model, part: str = "", *, device: str, dtype: str, settings: Loading = PLAIN
) -> Any:
    """Load a module with a class of diffusers or transformers, ready to infer. Both libraries fill
    missing weights with random numbers and only warn; here they are refused.

    Params:
        cls: the class, or the name of one of transformers.
        part: the folder below the model's that holds it; empty: the model's own.
        settings: where it waits while it does not run, and whether it is compiled (see
            `place_module`).
    Raises:
        ModelError: it is not there, or weights are missing.
    """
    import torch

    folder = model.folder / part
    if not (folder / "config.json").is_file():
        raise ModelError(f"the model '{model.reference}' has no {part or 'config.json'}")
    import transformers.utils.logging  # only what is imported can be silenced

    with quiet_libraries():
        if isinstance(cls, str):
            cls = getattr(transformers, cls)
        module, info = cls.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        what = f"{part} lacks" if part else "it lacks"
        raise ModelError(
            f"the model '{model.reference}' is not whole: {what} {len(missing)} weights,"
            f" {missing[0]} first"
        )
    return place_module(module.eval(), device=device, settings=settings)
