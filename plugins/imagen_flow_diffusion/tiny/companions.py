"""Make companions of tiny checkpoints: ControlNets, LoRAs, textual inversions and IP-Adapters that
fit them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import checkpoints
from . import parts as p

LAYERS = (
    "to_q.weight",
    "to_v.weight",
    "to_out.0.weight",
    "q_proj.weight",
    "v_proj.weight",
    "out_proj.weight",
)
"""Ends of the names of weights that a LoRA changes: attention, in denoisers and in CLIP."""


def lora(
    file: Path,
    *,
    base: Callable[[Path], Path] = checkpoints.stable_diffusion,
    parts: Sequence[str] = ("unet", "text_encoder"),
    seed: int = 20,
    rank: int = 2,
) -> Path:
    """A LoRA for the attention of some parts of a checkpoint, in the names that diffusers saves one
    with.

    Params:
        base: makes the checkpoint, from whose weights the shapes are read.
    """
    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as scratch:
        folder = base(Path(scratch) / "base")
        weights = {
            f"{part}.{name}": weight
            for part in parts
            for path in sorted((folder / part).glob("*.safetensors"))
            for name, weight in load_file(path).items()
        }
    torch.manual_seed(seed)
    state: dict[str, Any] = {}
    for name, weight in weights.items():
        if name.endswith(LAYERS) and weight.ndim == 2:
            layer = name.removesuffix(".weight")
            state[f"{layer}.lora_A.weight"] = torch.randn(rank, weight.shape[1]) * 0.5
            state[f"{layer}.lora_B.weight"] = torch.randn(weight.shape[0], rank) * 0.5
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file, {"format": "pt"})
    return file


def embedding(
    file: Path, *, seed: int = 30, vectors: int = 2, width: int = p.WIDTH, xl: bool = False
) -> Path:
    """A textual inversion of several vectors, for SDXL's two encoders if wanted."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            name: torch.randn(vectors, width)
            for name in (("clip_l", "clip_g") if xl else ("emb_params",))
        },
        file,
    )
    return file


def ip_adapter(folder: Path, *, seed: int = 40) -> Path:
    """A collection of IP-Adapters as the well-known one is laid out: for Stable Diffusion and SDXL,
    plain and plus, with two image encoders.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    small, large = 32, 48
    for home, width in (("models", small), ("sdxl_models", large)):
        p.clip_vision(width=width).save_pretrained(folder / home / "image_encoder")
    for name, unet, reads, cross in (
        ("models/ip-adapter_sd15", p.unet(), small, p.WIDTH),
        ("models/ip-adapter-plus_sd15", p.unet(), small, p.WIDTH),
        ("sdxl_models/ip-adapter_sdxl", p.unet(**p.XL), large, 2 * p.WIDTH),
        ("sdxl_models/ip-adapter_sdxl_vit-h", p.unet(**p.XL), small, 2 * p.WIDTH),
        ("sdxl_models/ip-adapter-plus_sdxl_vit-h", p.unet(**p.XL), small, 2 * p.WIDTH),
    ):
        state = {
            f"image_proj.{key}": weight
            for key, weight in (_resampler if "plus" in name else _projection)(reads, cross).items()
        }
        crossed = [layer for layer in unet.attn_processors if layer.endswith("attn2.processor")]
        for number, layer in enumerate(crossed):
            width = unet.get_submodule(layer.removesuffix(".processor")).to_q.in_features
            for letter in "kv":
                state[f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"] = (
                    torch.randn(width, cross) * 0.2
                )
        save_file(state, folder / f"{name}.safetensors", {"format": "pt"})
    return folder


def _projection(reads: int, gives: int, *, tokens: int = 4) -> dict[str, Any]:
    """Weights that make words of what an image encoder says of the whole picture."""
    import torch

    return {
        "proj.weight": torch.randn(tokens * gives, reads) * 0.2,
        "proj.bias": torch.randn(tokens * gives) * 0.2,
        "norm.weight": torch.ones(gives),
        "norm.bias": torch.zeros(gives),
    }


def _resampler(reads: int, gives: int, *, tokens: int = 4, width: int = 32) -> dict[str, Any]:
    """Weights that make words of what an image encoder says of each patch, in the names of the
    original.
    """
    import torch

    shapes = {
        "latents": (1, tokens, width),
        "proj_in.weight": (width, reads),
        "proj_in.bias": (width,),
        "proj_out.weight": (gives, width),
        "proj_out.bias": (gives,),
        "norm_out.weight": (gives,),
    }
    shapes["norm_out.bias"] = (gives,)
    for layer in range(4):
        shapes |= {
            f"layers.{layer}.0.{norm}.{end}": (width,)
            for norm in ("norm1", "norm2")
            for end in ("weight", "bias")
        }
        shapes |= {
            f"layers.{layer}.0.to_q.weight": (64, width),
            f"layers.{layer}.0.to_kv.weight": (128, width),
            f"layers.{layer}.0.to_out.weight": (width, 64),
        }
        shapes |= {
            f"layers.{layer}.1.0.weight": (width,),
            f"layers.{layer}.1.0.bias": (width,),
            f"layers.{layer}.1.1.weight": (4 * width, width),
            f"layers.{layer}.1.3.weight": (width, 4 * width),
        }
    return {name: torch.randn(*shape) * 0.3 for name, shape in shapes.items()}


def flux_ip_adapter(folder: Path, *, seed: int = 41) -> Path:
    """An IP-Adapter for FLUX.1, which brings no image encoder."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    state = {
        f"ip_adapter_proj_model.{key}": weight for key, weight in _projection(32, p.WIDTH).items()
    }
    for letter in "kv":
        layer = f"double_blocks.0.processor.ip_adapter_double_stream_{letter}_proj"
        state |= {
            f"{layer}.weight": torch.randn(32, p.WIDTH) * 0.2,
            f"{layer}.bias": torch.randn(32) * 0.2,
        }
    folder.mkdir(parents=True)
    save_file(state, folder / "ip_adapter.safetensors", {"format": "pt"})
    return folder


def clip(folder: Path, *, seed: int = 42) -> Path:
    """CLIP, with both its encoders and what prepares their inputs."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(seed)
    tokenizer = p.clip_tokenizer()
    size = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    config = CLIPConfig(
        vision_config={**size, "image_size": 32, "patch_size": 8, "projection_dim": 32},
        text_config={
            **size,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=32,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def esrgan(file: Path, *, seed: int = 50) -> Path:
    """A network of the ESRGAN family of one block, four times the sides, in the names of the
    original's weights.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    features, growth = 8, 32

    def conv(reads: int, gives: int) -> dict[str, Any]:
        return {"weight": torch.randn(gives, reads, 3, 3) * 0.1, "bias": torch.zeros(gives)}

    layers = {
        "conv_first": conv(3, features),
        "conv_body": conv(features, features),
        "conv_hr": conv(features, features),
        "conv_last": conv(features, 3),
    }
    layers |= {f"conv_up{n}": conv(features, features) for n in (1, 2)}
    for block in (1, 2, 3):
        for n in range(1, 6):
            layers[f"body.0.rdb{block}.conv{n}"] = conv(
                features + (n - 1) * growth, growth if n < 5 else features
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            f"{name}.{part}": tensor
            for name, layer in layers.items()
            for part, tensor in layer.items()
        },
        file,
    )
    return file


def clipseg(folder: Path) -> Path:
    """CLIPSeg, which finds in a picture what words name."""
    import torch
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    torch.manual_seed(60)
    tokenizer = p.clip_tokenizer()
    size = {
        "hidden_size": p.WIDTH,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPSegConfig(
        text_config={**size, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=p.WIDTH,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _awake(module: Any, *names: str) -> Any:
    """Give weights to layers that begin as zeros, so that what was never trained does something."""
    import torch

    for name in names:
        for parameter in module.get_submodule(name).parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module


def union(folder: Path, *, seed: int = 70) -> Path:
    """A ControlNet for SDXL that reads drawings of six kinds."""
    import torch
    from diffusers import ControlNetUnionModel

    torch.manual_seed(seed)
    more = {name: value for name, value in p.XL.items() if name not in ("width", "up_block_types")}
    made = ControlNetUnionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        in_channels=4,
        cross_attention_dim=2 * p.WIDTH,
        conditioning_embedding_out_channels=(8, 8, 8, 8),
        num_trans_channel=32,
        num_trans_head=2,
        num_proj_channel=32,
        **more,
    )
    _awake(
        made,
        "controlnet_down_blocks",
        "controlnet_mid_block",
        "controlnet_cond_embedding.conv_out",
        "spatial_ch_projs",
    ).save_pretrained(folder)
    return folder


def flux_controlnet(
    folder: Path, *, modes: int | None = None, hints: int | None = None, seed: int = 71
) -> Path:
    """A ControlNet for FLUX.1, of several kinds of drawings if it has modes; with hints (16) it
    reads a drawing by itself and not through an autoencoder.
    """
    import torch
    from diffusers import FluxControlNetModel

    torch.manual_seed(seed)
    made = FluxControlNetModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=p.WIDTH,
        pooled_projection_dim=p.WIDTH,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
        num_mode=modes,
        conditioning_embedding_channels=hints,
        patch_size=2 if hints else 1,
    )
    _awake(
        made,
        *(["input_hint_block.conv_out"] if hints else []),
        "controlnet_blocks",
        "controlnet_single_blocks",
        "controlnet_x_embedder",
    ).save_pretrained(folder)
    return folder


def sd3_controlnet(folder: Path, *, fills: bool = False, seed: int = 72) -> Path:
    """A ControlNet for Stable Diffusion 3, or one that fills in."""
    import torch
    from diffusers import SD3ControlNetModel

    torch.manual_seed(seed)
    made = SD3ControlNetModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=4 * p.WIDTH,
        pooled_projection_dim=2 * p.WIDTH,
        extra_conditioning_channels=int(fills),
        force_zeros_for_pooled_projection=not fills,
    )
    _awake(made, "controlnet_blocks", "pos_embed_input").save_pretrained(folder)
    return folder


def qwen_controlnet(folder: Path, *, seed: int = 74) -> Path:
    """A ControlNet for Qwen-Image."""
    import torch
    from diffusers import QwenImageControlNetModel

    torch.manual_seed(seed)
    made = QwenImageControlNetModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    _awake(made, "controlnet_blocks", "controlnet_x_embedder").save_pretrained(folder)
    return folder


def sana_controlnet(folder: Path, *, seed: int = 75) -> Path:
    """A ControlNet for Sana."""
    import torch
    from diffusers import SanaControlNetModel

    torch.manual_seed(seed)
    made = SanaControlNetModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
    )
    _awake(made, "controlnet_blocks", "input_block").save_pretrained(folder)
    return folder


def t2i_adapter(folder: Path, *, xl: bool = False, seed: int = 73) -> Path:
    """A T2I-Adapter for Stable Diffusion or SDXL."""
    import torch
    from diffusers import T2IAdapter

    torch.manual_seed(seed)
    made = T2IAdapter(
        in_channels=3,
        channels=[32, 64, 64, 64] if xl else [32, 64],
        num_res_blocks=1,
        downscale_factor=16 if xl else 8,
        adapter_type="full_adapter_xl" if xl else "full_adapter",
    )
    made.save_pretrained(folder)
    return folder
