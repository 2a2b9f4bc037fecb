"""Attach LoRAs to a shared checkpoint for one call, and detach them again. The layers of the LoRAs
that were attached last are kept, so that they are attached again at once.

They are kept with the leased parts, so they are dropped when these are evicted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from . import lora_files
from .lora_files import NotLoRA, Pair, left_out

if TYPE_CHECKING:
    from ..loading.checkpoint import Checkpoint
    from .files import Adapter


class LoRALayers(NamedTuple):
    """The layers by which LoRAs replace those of a module: each with the module above it, its name
    there, and the layer that it replaces.
    """

    config: Any
    names: frozenset[str]
    swaps: Sequence[tuple[Any, str, Any, Any]]
    #: The base's weights for which peft disables gradients, by name: while layers are offloaded, the
    #: weights themselves are other objects each time.
    frozen: Sequence[str]
    #: By LoRA: what of it is not applied.
    notes: Sequence[Sequence[str]] = ()

    @staticmethod
    def of(module: Any, trainable: Sequence[str]) -> LoRALayers:
        """Record what LoRAs changed in a module.

        Inputs:
            trainable: the weights that required gradients before, by name.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        swaps = [
            (above, name, layer, layer.get_base_layer())
            for above in module.modules()
            for name, layer in above.named_children()
            if isinstance(layer, BaseTunerLayer)
        ]
        config = getattr(module, "peft_config", None) or {}
        quiet = {
            name.replace(".base_layer.", ".")
            for name, weight in module.named_parameters()
            if not weight.requires_grad
        }
        return LoRALayers(
            config, frozenset(config), swaps, [name for name in trainable if name in quiet]
        )

    def attach(self, module: Any) -> None:
        # peft disables gradients for the base's weights, and torch then multiplies in another way on
        # the CPU: do the same, so that pictures equal those of LoRAs that were just loaded.
        self._set_trainable(module, trainable=False)
        for above, name, layer, _ in self.swaps:
            setattr(above, name, layer)
        module.peft_config, module._hf_peft_config_loaded = self.config, True

    def detach(self, module: Any) -> None:
        for above, name, _, base in self.swaps:
            setattr(above, name, base)
        if hasattr(module, "peft_config"):
            del module.peft_config
        module._hf_peft_config_loaded = None
        self._set_trainable(module, trainable=True)

    def _set_trainable(self, module: Any, *, trainable: bool) -> None:
        weights = dict(module.named_parameters()) if self.frozen else {}
        for name in self.frozen:
            weights[name].requires_grad_(trainable)


@contextmanager
def attach_loras(
    pipeline: Any,
    checkpoint: Checkpoint,
    loras: Sequence[Adapter],
    weights: Sequence[float],
    *,
    streamed: bool = False,
) -> Iterator[list[str]]:
    """Attach LoRAs to the leased parts of a checkpoint, and detach them at the end, whatever happens.
    The caller holds the checkpoint's lock.

    Params:
        streamed: whether the layers of these parts are moved to the device one after the other.
    Outputs: notes about what of them is not applied.
    Raises:
        ValueError: the pipeline takes no LoRAs, or one is incomplete, of another kind or made for
            another base; nothing stays attached.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        raise ValueError(f"{type(pipeline).__name__} does not support LoRAs")
    wanted = tuple((lora.model.digest, lora.file().name) for lora in loras)
    modules = {
        name: checkpoint.parts[name]
        for name in pipeline._lora_loadable_modules
        if hasattr(checkpoint.parts.get(name), "named_children")
    }
    trainable = {
        name: [name for name, weight in module.named_parameters() if weight.requires_grad]
        for name, module in modules.items()
    }
    kept = {
        name: layers
        for name in modules
        if (layers := checkpoint.attached(name, wanted)) is not None
    }
    try:
        if len(kept) < len(modules):
            kept = {}
            notes = [
                _load(pipeline, checkpoint, lora, number, modules, streamed=streamed)
                for number, lora in enumerate(loras)
            ]
            for name, module in modules.items():
                layers = (
                    LoRALayers.of(module, trainable[name])
                    if getattr(module, "peft_config", None)
                    else LoRALayers(None, frozenset(), (), ())
                )
                kept[name] = layers._replace(notes=notes)
                checkpoint.remember_attached(name, wanted, kept[name])
        else:
            for name, layers in kept.items():
                if layers.names:
                    layers.attach(modules[name])
        if names := sorted({name for layers in kept.values() for name in layers.names}):
            pipeline.set_adapters(names, [float(weights[_number(name)]) for name in names])
        yield [
            note.replace("{name}", lora.name)
            for layers in list(kept.values())[:1]
            for lora, notes in zip(loras, layers.notes, strict=True)
            for note in notes
        ]
    finally:
        for name, module in modules.items():
            # What was attached before a failure is detached too.
            layers = kept.get(name) or LoRALayers.of(module, trainable[name])
            if layers.names or layers.swaps:
                layers.detach(module)


def _number(adapter: str) -> int:
    """Return the index of the LoRA that an adapter of peft belongs to."""
    return int(adapter.removeprefix("lora").partition("_")[0])


def _load(
    pipeline: Any,
    checkpoint: Checkpoint,
    lora: Adapter,
    number: int,
    modules: Mapping[str, Any],
    *,
    streamed: bool,
) -> list[str]:
    """Attach a LoRA to the modules that it has layers for; return notes about what is not applied."""
    try:
        file = lora_files.read(lora.read(), lora.metadata())
        if (control := getattr(pipeline, "_control_lora_supported_norm_keys", ())) and any(
            norm in name
            for names in file.others.values()
            for name in names
            for norm in (*control, "query_norm", "key_norm")
        ):
            raise NotLoRA(
                "it is a control LoRA, which changes the network of the base; use a control"
                " checkpoint instead (FLUX Canny, Depth)"
            )
        if streamed and any(pair.magnitude is not None for pair in file.pairs.values()):
            raise NotLoRA(
                "it is a DoRA, which is computed with the weights of each layer, and with offload:"
                " layers these come to the device for the layer alone; say offload: model, or none"
            )
    except NotLoRA as error:
        raise ValueError(f"the LoRA '{lora.model.reference}' cannot be applied: {error}") from error
    try:
        unet = (
            pipeline.unet.config
            if hasattr(pipeline, "text_encoder_2") and hasattr(pipeline, "unet")
            else None
        )
        found = lora_files.translate(file, pipeline, unet)
        if strange := sorted(
            part
            for part in found
            if part not in pipeline._lora_loadable_modules
            or (part not in checkpoint.parts and part not in checkpoint.index)
        ):
            raise ValueError(f"its weights are for {', '.join(strange[:3])}")
        notes = left_out(file)
        total = 0
        lost: list[str] = []
        for part, layers in sorted(found.items()):
            if part in modules:
                fitting, missing = _fitting(modules[part], layers, pipeline, part)
                if len(missing) == len(layers) and not part.startswith("text_encoder"):
                    raise ValueError(
                        f"none of its {len(missing)} layers for {part} exists there"
                        f" ({part}.{missing[0]})"
                    )
                total += len(layers)
                lost += [f"{part}.{layer}" for layer in missing]
                for ending, chosen in (
                    ("", {name: pair for name, pair in fitting.items() if pair.magnitude is None}),
                    (
                        "_dora",
                        {
                            name: pair
                            for name, pair in fitting.items()
                            if pair.magnitude is not None
                        },
                    ),
                ):
                    if chosen:
                        _attach(modules[part], chosen, f"lora{number}{ending}")
            elif checkpoint.index.get(part) == [None, None]:
                total += len(layers)
                lost += [f"{part}.{layer}" for layer in sorted(layers)]
        if total and len(lost) == total:
            raise ValueError(f"none of its {total} layers exists there ({lost[0]})")
        if lost:
            notes.append(
                f"{len(lost)} of {total} layers of '{{name}}' do not exist in the base:"
                f" {', '.join(lost[:2])}{', …' if len(lost) > 2 else ''}"
            )
        return notes
    except NotLoRA as error:
        raise ValueError(f"the LoRA '{lora.model.reference}' cannot be applied: {error}") from error
    except (
        ValueError,
        RuntimeError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        NotImplementedError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the LoRA '{lora.model.reference}' was made for a different base than"
            f" '{checkpoint.model.reference}' ({checkpoint.kind}): {reason[:200]}"
        ) from error


def _fitting(
    module: Any, layers: Mapping[str, Pair], pipeline: Any, part: str
) -> tuple[dict[str, Pair], list[str]]:
    """Take the layers that a module has, by its own names; name those that it has not.

    Raises:
        ValueError: a layer has other sizes there.
    """
    import torch

    own = dict(module.named_modules())
    found, missing = {}, []
    for given, pair in sorted(layers.items()):
        # transformers 5 took away a level of one of CLIP's classes.
        layer = next(
            (
                name
                for name in (given, given.removeprefix("text_model."), f"text_model.{given}")
                if name in own
            ),
            given,
        )
        base: Any = own.get(layer)
        base = base.get_base_layer() if hasattr(base, "get_base_layer") else base
        if isinstance(base, torch.nn.Linear):
            reads, gives, window = base.in_features, base.out_features, ()
        elif isinstance(base, torch.nn.Conv2d) and base.groups == 1:
            reads, gives, window = base.in_channels, base.out_channels, tuple(base.kernel_size)
        else:
            missing.append(given)
            continue
        found[layer] = _shaped(
            given,
            pair,
            reads,
            gives,
            window,
            padded=part == "transformer" and hasattr(pipeline, "_maybe_expand_lora_state_dict"),
        )
    return found, missing


def _shaped(
    layer: str, pair: Pair, reads: int, gives: int, window: tuple[int, ...], *, padded: bool
) -> Pair:
    """Give a pair's matrices the shapes that peft has for a layer: some trainers write those of
    linear layers as windows of one pixel, and the reverse.
    """
    import torch

    down, up = pair.down, pair.up
    assert down is not None and up is not None
    rank = up[0].numel()
    if padded and not window and down.ndim == 2 and down.shape[1] < reads:
        # FLUX's checkpoints that read more than noise take LoRAs made for those that do not.
        down = torch.nn.functional.pad(down, (0, reads - down.shape[1]))
    wide = (rank, reads, *window)
    if (
        down.numel() != torch.Size(wide).numel()
        or up.shape[0] != gives
        or (pair.magnitude is not None and pair.magnitude.numel() != gives)
    ):
        raise ValueError(
            f"its layer '{layer}' goes from {down[0].numel()} to {up.shape[0]} numbers, and the"
            f" base's from {torch.Size(wide[1:]).numel()} to {gives}"
        )
    return replace(pair, down=down.reshape(wide), up=up.reshape(gives, rank, *[1] * len(window)))


def _attach(module: Any, layers: Mapping[str, Pair], adapter: str) -> None:
    """Put pairs of matrices on a module as an adapter of peft, every one at its full strength, and
    see that all arrived and nothing else.

    Raises:
        RuntimeError: peft left some of them out.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    ranks = {layer: pair.down.shape[0] for layer, pair in layers.items() if pair.down is not None}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other = {f"^{re.escape(layer)}": its for layer, its in ranks.items() if its != rank}
    biased, scaled = (
        any(getattr(pair, what) is not None for pair in layers.values())
        for what in ("bias", "magnitude")
    )
    state: dict[str, Any] = {}
    for layer, pair in layers.items():
        assert pair.down is not None and pair.up is not None  # the callers leave out the rest
        state |= {f"{layer}.lora_A.weight": pair.down, f"{layer}.lora_B.weight": pair.up}
        if biased:
            state[f"{layer}.lora_B.bias"] = (
                pair.bias if pair.bias is not None else pair.up.new_zeros(pair.up.shape[0])
            )
        if scaled and pair.magnitude is not None:
            state[f"{layer}.lora_magnitude_vector"] = (
                pair.magnitude
                if pair.down.ndim == 2
                else pair.magnitude.reshape(1, -1, *[1] * (pair.down.ndim - 2))
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=other,
        alpha_pattern=dict(other),
        target_modules=sorted(layers),
        use_dora=scaled,
        lora_bias=biased,
    )
    # The names of the state choose the layers: by the config's alone, 'proj_out' would choose all
    # that end so.
    inject_adapter_in_model(
        config, module, adapter_name=adapter, low_cpu_mem_usage=True, state_dict=state
    )
    module._hf_peft_config_loaded = True
    set_peft_model_state_dict(module, state, adapter_name=adapter, low_cpu_mem_usage=True)
    put: dict[str, Any] = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.scaling
    }
    strengths = {layer.scaling[adapter] for layer in put.values()}
    empty = [
        name
        for name, layer in put.items()
        for weight_name, weight in layer.named_parameters()
        if f".{adapter}" in weight_name
        and weight.is_meta
        and not weight_name.startswith("base_layer")
    ]
    if put.keys() != layers.keys() or strengths != {1.0} or empty:
        raise RuntimeError(f"peft attached {len(put) - len(empty)} of {len(layers)} layers")
