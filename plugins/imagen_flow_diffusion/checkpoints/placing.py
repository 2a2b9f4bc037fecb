"""Put a loaded network where it is to run, prepared as the settings say. What is prepared so stays
so: a model is loaded once for each such setting.
"""

from __future__ import annotations

from typing import Any

from imagen_flow import loaders


def place(module: Any, *, device: str, settings: loaders.Loading) -> Any:
    """Do as `imagen_flow.loaders.place_module` does, and besides what diffusers alone can: keep the
    weights of layers in 8 bits, compile the blocks that a network repeats, bring and take away
    groups of layers.

    Source: diffusers' ``enable_layerwise_casting``, ``compile_repeated_blocks`` and
        ``apply_group_offloading``.
    """
    if settings.layerwise_casting != "none":
        _cast(module, settings.layerwise_casting)
    if settings.compile == "regional":
        module.compile_repeated_blocks()
        settings = settings._replace(compile=False)
    if settings.offload == "groups":
        if getattr(module, "_supports_group_offloading", True):
            return _in_groups(module, device)
        # Denoisers that cannot be were refused; autoencoders come and go as a whole.
        settings = settings._replace(offload="model")
    return loaders.place_module(module, device=device, settings=settings)


def _cast(module: Any, name: str) -> None:
    import torch

    with torch.no_grad():
        module.enable_layerwise_casting(
            storage_dtype=getattr(torch, name), compute_dtype=module.dtype
        )


def _in_groups(module: Any, device: str) -> Any:
    """Let a network's blocks come to the device when they compute; of one that has none that
    diffusers knows, or is called by other methods too, its layers.
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    by_blocks = bool(getattr(module, "_repeated_blocks", None))
    apply_group_offloading(
        module,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="block_level" if by_blocks else "leaf_level",
        num_blocks_per_group=1 if by_blocks else None,
    )
    return module


def group_device(module: Any) -> Any:
    """Return the device that a network's groups are brought to; None if it is not offloaded so."""
    from diffusers.hooks import group_offloading

    return (
        group_offloading._get_group_onload_device(module)
        if group_offloading._is_group_offload_enabled(module)
        else None
    )


def hooked_for(module: Any) -> str:
    """Name the setting for which hooks of diffusers are on the layers of a network; empty if there
    are none.
    """
    for layer in module.modules() if hasattr(module, "modules") else ():
        registry = vars(layer).get("_diffusers_hook")
        if registry is None:
            continue
        if (casting := registry.get_hook("layerwise_casting")) is not None:
            return f"layerwise_casting: {str(casting.storage_dtype).removeprefix('torch.')}"
        if registry.hooks:
            return "offload: groups"
    return ""
