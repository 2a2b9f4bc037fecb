"""What stands beside a tiny checkpoint: LoRAs, textual inversions and IP-Adapters that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import parts as p


def lora(file: Path, *, seed: int = 20, rank: int = 2, xl: bool = False, text: bool = True) -> Path:
    """A LoRA for the attention of Stable Diffusion or SDXL, of the text encoder too."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tokenizer = p.clip_tokenizer()
    unet = p.unet(**XL) if xl else p.unet()
    parts = {"unet": unet, **({"text_encoder": p.clip_text(tokenizer)} if text else {})}
    state: dict[str, Any] = {}
    for part, module in parts.items():
        for name, layer in module.named_modules():
            if name.endswith(("to_q", "to_v", "to_out.0", "q_proj", "v_proj")):
                state[f"{part}.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.5
                state[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.5
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file, {"format": "pt"})
    return file


XL: dict[str, Any] = {
    "width": 2 * p.WIDTH, "attention_head_dim": (2, 4), "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2), "projection_class_embeddings_input_dim": p.WIDTH + 8 * 6,
}  # fmt: skip
"""How SDXL's denoiser differs from Stable Diffusion's."""


def embedding(file: Path, *, seed: int = 30, vectors: int = 2, width: int = p.WIDTH) -> Path:
    """A textual inversion of several vectors."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.randn(vectors, width)}, file)
    return file


def ip_adapter(folder: Path, *, seed: int = 40, tokens: int = 4) -> Path:
    """An IP-Adapter for Stable Diffusion, with its image encoder."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    encoder, unet = p.clip_vision(), p.unet()
    state = {
        "image_proj.proj.weight": torch.randn(tokens * p.WIDTH, p.WIDTH) * 0.2,
        "image_proj.proj.bias": torch.randn(tokens * p.WIDTH) * 0.2,
        "image_proj.norm.weight": torch.ones(p.WIDTH),
        "image_proj.norm.bias": torch.zeros(p.WIDTH),
    }
    crossed = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(crossed):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for letter in "kv":
            state[f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"] = torch.randn(width, p.WIDTH) * 0.2
    (folder / "models").mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder / "models" / "image_encoder")
    save_file(state, folder / "models" / "ip-adapter_sd15.safetensors", {"format": "pt"})
    return folder
