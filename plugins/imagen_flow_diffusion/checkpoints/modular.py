"""Use modular pipelines of diffusers, which are assembled from blocks, like other pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def is_modular(cls: Any) -> bool:
    return hasattr(cls, "default_blocks_name")


def taken_by(cls: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call by name; those of its blocks if it is modular."""
    if not is_modular(cls):
        return inspect.signature(cls.__call__).parameters
    return {
        one.name: inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=one.type_hint or Any,
        )
        for one in cls().blocks.inputs
        if one.name and one.name.isidentifier()
    }


def of_parts(cls: Any, parts: Mapping[str, Any]) -> Any:
    """Make a modular pipeline from a checkpoint's parts. It makes processors and guiders that are
    not parts itself.
    """
    pipeline = cls()
    pipeline.update_components(
        **{name: part for name, part in parts.items() if name in pipeline.component_names}
    )
    _silence(pipeline._blocks)
    return pipeline


def _silence(blocks: Any) -> None:
    """Switch off progress bars of blocks at any depth: the pipeline's own setting only reaches the
    first level.
    """
    for block in getattr(blocks, "sub_blocks", {}).values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        _silence(block)


def given_by(pipeline: Any, arguments: Mapping[str, Any]) -> Any:
    """Call a pipeline and return its outputs by name: of the state of a modular one, what was not
    passed to it.
    """
    output = pipeline(**arguments)
    return (
        output
        if not is_modular(type(pipeline))
        else {
            name: value
            for name, value in output.values.items()
            if name not in taken_by(type(pipeline))
        }
    )
