"""The layers that a LoRA adds to a denoiser: which they are, how they begin, and the file that
holds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..adapters.loras import LoRALayers

if TYPE_CHECKING:
    import torch

Targets = Literal["attention", "transformer", "all"]
Names = Literal["peft", "kohya"]

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""

_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
_TRANSFORMER = (*_ATTENTION, ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
_ALL = (*_TRANSFORMER, ".conv1", ".conv2", ".conv_shortcut", ".time_emb_proj", "samplers.0.conv")
ENDINGS: Mapping[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "transformer": _TRANSFORMER,
    "all": _ALL,
}
"""How the names of the layers end that a LoRA is trained for."""

_ADAPTER = "trained"


def first_weights(
    denoiser: Any, targets: Targets, rank: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw the weights that training begins with: of each layer a random matrix down, as peft does,
    and one up that is zero.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, layer in denoiser.named_modules():
        if not name.endswith(ENDINGS[targets]) or not hasattr(layer, "weight"):
            continue
        gives, reads, *window = layer.weight.shape
        down = torch.empty(rank, reads, *window)
        torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        found[f"{name}.lora_A.weight"] = down
        found[f"{name}.lora_B.weight"] = torch.zeros(gives, rank, *[1] * len(window))
    return found


@contextmanager
def attached(
    denoiser: Any, weights: Mapping[str, torch.Tensor], rank: int, alpha: float
) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Attach trainable layers to a denoiser for a while, on its device and in float32.

    Outputs: the parameters that are trained, under the names of `weights`.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    trainable = [name for name, weight in denoiser.named_parameters() if weight.requires_grad]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        target_modules=sorted({name.rpartition(".lora_")[0] for name in weights}),
    )
    state = {name: weight.to(denoiser.device) for name, weight in weights.items()}
    try:
        # On the meta device at first, so that peft draws no random numbers.
        inject_adapter_in_model(
            config, denoiser, adapter_name=_ADAPTER, low_cpu_mem_usage=True, state_dict=state
        )
        set_peft_model_state_dict(denoiser, state, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
        found = {
            name.replace(f".{_ADAPTER}.", "."): weight
            for name, weight in denoiser.named_parameters()
            if f".{_ADAPTER}." in name
        }
        assert found.keys() == weights.keys()
        for weight in found.values():
            weight.requires_grad_(True)
        yield {name: found[name] for name in sorted(found)}
    finally:
        LoRALayers.of(denoiser, trainable).detach(denoiser)


def write_lora(
    path: Path, weights: Mapping[str, torch.Tensor], rank: int, alpha: float, names: Names
) -> None:
    """Write trained layers as other programs read them.

    Params:
        names: ``peft``: as diffusers saves a LoRA, with ``alpha / rank`` multiplied into the
            matrices up, since such a file holds no alphas; ``kohya``: with an alpha for each layer.
    """
    from safetensors.torch import save_file

    state = {f"unet.{name}": value.detach().float().cpu() for name, value in weights.items()}
    if names == "kohya":
        import torch
        from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

        state = {
            name: torch.tensor(float(alpha)) if name.endswith(".alpha") else value
            for name, value in convert_state_dict_to_kohya(state).items()
        }
    elif alpha != rank:
        state = {
            name: value * (alpha / rank) if ".lora_B." in name else value
            for name, value in state.items()
        }
    save_file(
        {name: value.contiguous().clone() for name, value in state.items()},
        path,
        {"format": "pt"},
    )
