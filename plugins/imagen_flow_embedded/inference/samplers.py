"""Make the sampler that the embedded models were trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagen_flow as flow

if TYPE_CHECKING:
    from imagen_flow import Model


def load_sampler(model: Model, part: str) -> Any:
    """Make a sampler from a part of a model."""
    from diffusers import DDIMScheduler

    config, _ = DDIMScheduler.load_config(str(model.path / part), return_unused_kwargs=True)
    if (name := config.get("_class_name")) != "DDIMScheduler":
        raise flow.ModelError(
            f"the model '{model.reference}' names the sampler {name!r} in {part}; models of its kind"
            " are trained for DDIMScheduler"
        )
    return DDIMScheduler.from_config(config)
