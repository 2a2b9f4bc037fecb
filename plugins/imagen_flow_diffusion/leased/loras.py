"""Put LoRAs on a shared checkpoint for the length of one call, and off again; the layers of those that were last on are kept, and go on again at once.

What is kept hangs on the leased parts, so it goes when they are evicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_flow import Model

    from .components import Checkpoint


@dataclass(frozen=True)
class Layers:
    """Layers that LoRAs put in the place of a module's own, each with its place: the layer above, its name there, and what was there before."""

    config: Any
    names: frozenset[str]
    swaps: Sequence[tuple[Any, str, Any, Any]]
    silent: Sequence[Any]

    @staticmethod
    def of(module: Any, asking: Sequence[Any]) -> Layers:
        """Note what LoRAs did to a module.

        Inputs:
            asking: its weights that asked for gradients before.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        swaps = [(above, name, layer, layer.get_base_layer()) for above in module.modules() for name, layer in above.named_children() if isinstance(layer, BaseTunerLayer)]
        return Layers(module.peft_config, frozenset(module.peft_config), swaps, [weight for weight in asking if not weight.requires_grad])

    def put_on(self, module: Any) -> None:
        for above, name, layer, _ in self.swaps:
            setattr(above, name, layer)
        module.peft_config, module._hf_peft_config_loaded = self.config, True
        # peft stops those of the base asking for gradients, and torch then multiplies otherwise on the CPU: pictures are those of LoRAs freshly loaded.
        for weight in self.silent:
            weight.requires_grad_(False)

    def take_off(self, module: Any) -> None:
        for above, name, _, base in self.swaps:
            setattr(above, name, base)
        del module.peft_config
        module._hf_peft_config_loaded = None
        for weight in self.silent:
            weight.requires_grad_(True)


@contextmanager
def with_loras(pipeline: Any, checkpoint: Checkpoint, loras: Sequence[tuple[Model, Path]], weights: Sequence[float] | None) -> Iterator[None]:
    """Put LoRAs on those parts of a checkpoint that are leased, and take them off at the end, whatever happens. Whoever calls holds the checkpoint alone.

    Params:
        loras: each a model and its file of weights.
    Raises:
        ValueError: the pipeline takes none, or one was made for another base; nothing is left of any.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        raise ValueError(f"{type(pipeline).__name__} takes no LoRA")
    wanted = tuple((model.digest, file.name) for model, file in loras)
    modules = {name: checkpoint.parts[name] for name in pipeline._lora_loadable_modules if hasattr(checkpoint.parts.get(name), "named_children")}
    asking = {name: [weight for weight in module.parameters() if weight.requires_grad] for name, module in modules.items()}
    kept = {name: layers for name in modules if (layers := checkpoint.worn(name, wanted)) is not None}
    fresh = {name: module for name, module in modules.items() if name not in kept}
    try:
        for name, layers in kept.items():
            if layers.names:
                layers.put_on(modules[name])
        if fresh:
            for number, (model, file) in enumerate(loras):
                _load(pipeline, checkpoint, model, file, f"lora{number}", fresh)
            for name, module in fresh.items():
                found = Layers.of(module, asking[name]) if getattr(module, "peft_config", None) else Layers(None, frozenset(), (), ())
                kept[name] = found
                checkpoint.wear(name, wanted, found)
        if names := sorted({name for layers in kept.values() for name in layers.names}):
            pipeline.set_adapters(names, [float(weights[int(name[4:])]) if weights else 1.0 for name in names])
        yield
    finally:
        for name, layers in kept.items():
            if layers.names:
                layers.take_off(modules[name])
        if fresh.keys() - kept.keys():
            # One failed on the way: its library takes off what it put on.
            pipeline.unload_lora_weights()
            for name in fresh:
                for weight in asking[name]:
                    weight.requires_grad_(True)


def _load(pipeline: Any, checkpoint: Checkpoint, model: Model, file: Path, name: str, modules: Mapping[str, Any]) -> None:
    """Load a LoRA into those of these modules that it concerns."""
    more = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "text_encoder_2") and hasattr(pipeline, "unet") else {}
    try:
        # Of the families' own methods some give two things, some three.
        state, *rest = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, local_files_only=True, return_alphas=True, return_lora_metadata=True, **more)
        metadata, alphas = rest[-1], rest[0] if len(rest) > 1 else None
        parts = sorted({key.partition(".")[0] for key in state})
        if strange := [part for part in parts if part not in pipeline._lora_loadable_modules or (part not in checkpoint.parts and part not in checkpoint.index)]:
            raise ValueError(f"its weights are for {', '.join(strange[:3])}")
        if any(norm in key for key in state for norm in getattr(pipeline, "_control_lora_supported_norm_keys", ())):
            raise ValueError("it is a control LoRA, which makes another network of the base; take a checkpoint that was made to be held to drawings")
        if "transformer" in modules and hasattr(pipeline, "_maybe_expand_lora_state_dict"):
            # FLUX's checkpoints that read more than noise take LoRAs made for those that do not.
            its = {key: weight for key, weight in state.items() if key.startswith("transformer.") and "lora" in key}
            state |= pipeline._maybe_expand_lora_state_dict(transformer=modules["transformer"], lora_state_dict=its)
        for part in parts:
            given = {"prefix": part, "adapter_name": name, "network_alphas": alphas, "metadata": metadata, "low_cpu_mem_usage": True}
            if part not in modules:
                continue
            if part.startswith("text_encoder"):
                pipeline.load_lora_into_text_encoder(state, text_encoder=modules[part], **given)
            else:
                modules[part].load_lora_adapter(state, **given)
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as odd:
        said = " ".join(str(odd).split())
        raise ValueError(f"the LoRA '{model.reference}' was made for another base than '{checkpoint.model.reference}' ({checkpoint.kind}): {said[:200]}") from odd
