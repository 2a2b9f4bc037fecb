"""Write tiny checkpoints as one file in the names of the models' first authors: the way back from
what diffusers translates.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def state_of(folder: Path) -> State:
    """The weights of a part's folder."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def unet(state: State) -> State:
    """UNet2DConditionModel in the names of latent diffusion."""
    layers = 1 + max(
        int(name.split(".")[3]) for name in state if name.startswith("down_blocks.0.resnets.")
    )
    crossed = {
        name.split(".")[1] for name in state if re.match(r"up_blocks\.\d+\.attentions", name)
    }
    found = {}
    for name, tensor in state.items():
        block = re.match(
            r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(?:conv\.)?(.+)",
            name,
        )
        if block is None:
            begins = next((old for old in _UNET if name.startswith(old + ".")), "")
            new = _UNET[begins] + name[len(begins) :]
        else:
            way, number, kind, layer, rest = block.groups()
            if kind in ("downsamplers", "upsamplers"):
                layer = str(layers)
            place = int(number) * (layers + 1) + int(layer) + (way == "down")
            inner = {
                "resnets": "0",
                "attentions": "1",
                "downsamplers": "0.op",
                "upsamplers": f"{2 if number in crossed else 1}.conv",
            }[kind]
            new = f"{'input' if way == 'down' else 'output'}_blocks.{place}.{inner}.{rest}"
        if "resnets" in name:
            for old, theirs in _RESNET.items():
                new = re.sub(rf"\.{old}\.", f".{theirs}.", new)
        found[new] = tensor
    return found


def controlnet(state: State) -> State:
    """ControlNetModel in the names of its authors."""
    found = {
        f"control_model.{name}": tensor
        for name, tensor in unet(
            {name: tensor for name, tensor in state.items() if not name.startswith("controlnet_")}
        ).items()
    }
    for name, tensor in state.items():
        if name.startswith("controlnet_"):
            name = re.sub(
                r"controlnet_cond_embedding\.blocks\.(\d+)",
                lambda block: f"input_hint_block.{2 * int(block[1]) + 2}",
                name,
            )
            for old, new in {
                "controlnet_cond_embedding.conv_in": "input_hint_block.0",
                "controlnet_cond_embedding.conv_out": "input_hint_block.14",
                "controlnet_mid_block": "middle_block_out.0",
            }.items():
                name = name.replace(old, new)
            found[
                "control_model."
                + re.sub(r"controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", name)
            ] = tensor
    return found


def vae(state: State) -> State:
    """AutoencoderKL in the names of latent diffusion."""
    levels = 1 + max(
        int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks.")
    )
    found = {}
    for name, tensor in state.items():
        new = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", name)
        new = (
            re.sub(
                r"decoder\.up_blocks\.(\d+)\.",
                lambda m: f"decoder.up.{levels - 1 - int(m[1])}.",
                new,
            ).replace(".resnets.", ".block.")
            if "up_blocks" in new
            else new
        )
        new = re.sub(
            r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", new
        ).replace("upsamplers.0", "upsample")
        new = re.sub(
            r"mid_block\.(?:resnets|block)\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new
        ).replace("mid_block.attentions.0", "mid.attn_1")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in new:
            for old, theirs in {
                "group_norm": "norm",
                "to_q": "q",
                "to_k": "k",
                "to_v": "v",
                "to_out.0": "proj_out",
            }.items():
                new = new.replace(f".{old}.", f".{theirs}.")
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        found[new] = tensor
    return found


def clip(state: State) -> State:
    """CLIP's text encoder as transformers named it."""
    return {
        name
        if name.startswith("text_model.") or "projection" in name
        else f"text_model.{name}": tensor
        for name, tensor in state.items()
    }


def open_clip(state: State) -> State:
    """CLIP's text encoder in OpenCLIP's names: queries, keys and values in one."""
    found: State = {}
    for name, tensor in clip(state).items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif name.startswith("embeddings."):
            found["positional_embedding" if "position" in name else "token_embedding.weight"] = (
                tensor
            )
        elif name.startswith("final_layer_norm"):
            found[name.replace("final_layer_norm", "ln_final")] = tensor
        elif "_proj." in name and "out_proj" not in name:
            place, kind = re.match(
                r"encoder\.layers\.(\d+)\.self_attn\.\w_proj\.(\w+)", name
            ).groups()  # type: ignore[union-attr]
            own = f"transformer.resblocks.{place}.attn.in_proj_{kind}"
            found.setdefault(
                own,
                torch.cat(
                    [
                        clip(state)[
                            f"text_model.encoder.layers.{place}.self_attn.{one}_proj.{kind}"
                        ]
                        for one in "qkv"
                    ]
                ),
            )
        else:
            for old, new in {
                "encoder.layers": "transformer.resblocks",
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "fc1": "c_fc",
                "fc2": "c_proj",
                "self_attn": "attn",
            }.items():
                name = name.replace(old, new)
            found[name] = tensor
    return found


def _below(beginning: str, state: State) -> State:
    return {beginning + name: tensor.contiguous() for name, tensor in state.items()}


def sd3_transformer(state: State) -> State:
    """SD3Transformer2DModel in the names of its authors."""
    layers = 1 + max(
        int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks.")
    )

    def swapped(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(tensor.chunk(2)[::-1])

    found = {"pos_embed": state["pos_embed.pos_embed"]}
    for old, new in {
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "proj_out": "final_layer.linear",
    }.items():
        found |= {f"{new}.{kind}": state[f"{old}.{kind}"] for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        found[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(state[f"norm_out.linear.{kind}"])
        for i in range(layers):
            own, theirs, last = f"transformer_blocks.{i}.", f"joint_blocks.{i}.", i == layers - 1
            for block, names in {
                "x_block": ("to_q", "to_k", "to_v"),
                "context_block": ("add_q_proj", "add_k_proj", "add_v_proj"),
            }.items():
                found[f"{theirs}{block}.attn.qkv.{kind}"] = torch.cat(
                    [state[f"{own}attn.{name}.{kind}"] for name in names]
                )
            pairs = {
                "attn.to_out.0": "x_block.attn.proj",
                "norm1.linear": "x_block.adaLN_modulation.1",
                "ff.net.0.proj": "x_block.mlp.fc1",
                "ff.net.2": "x_block.mlp.fc2",
            }
            if not last:
                pairs |= {
                    "attn.to_add_out": "context_block.attn.proj",
                    "ff_context.net.0.proj": "context_block.mlp.fc1",
                    "ff_context.net.2": "context_block.mlp.fc2",
                }
            found |= {
                f"{theirs}{new}.{kind}": state[f"{own}{old}.{kind}"] for old, new in pairs.items()
            }
            modulation = state[f"{own}norm1_context.linear.{kind}"]
            found[f"{theirs}context_block.adaLN_modulation.1.{kind}"] = (
                swapped(modulation) if last else modulation
            )
    return found


def flux_without_denoiser(folder: Path, file: Path) -> Path:
    """Write FLUX's text encoders and autoencoder into one file, with the marks by which it is
    known; its denoiser's names translate at the true width alone.
    """
    marks = {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(128),
        "guidance_in.in_layer.bias": torch.ones(1),
        "img_in.weight": torch.ones(1, 64),
    }
    state = _below("model.diffusion_model.", marks) | _below("vae.", vae(state_of(folder / "vae")))
    state |= _below(
        "text_encoders.clip_l.transformer.", clip(state_of(folder / "text_encoder"))
    ) | _below("text_encoders.t5xxl.transformer.", state_of(folder / "text_encoder_2"))
    save_file(state, file)
    return file


def single_file(folder: Path, file: Path, *, sd2: bool = False) -> Path:
    """Write a checkpoint's folder as one file; Stable Diffusion 2 has its text encoder in
    OpenCLIP's names.
    """
    parts = {path.name for path in folder.iterdir()}
    state: State = {}
    if "unet" in parts:
        state |= _below("model.diffusion_model.", unet(state_of(folder / "unet"))) | _below(
            "first_stage_model.", vae(state_of(folder / "vae"))
        )
        if sd2:
            state |= _below("cond_stage_model.model.", open_clip(state_of(folder / "text_encoder")))
        elif "text_encoder_2" not in parts:
            state |= _below(
                "cond_stage_model.transformer.", clip(state_of(folder / "text_encoder"))
            )
        elif "text_encoder" not in parts:
            state |= _below(
                "conditioner.embedders.0.model.", open_clip(state_of(folder / "text_encoder_2"))
            )
        else:
            state |= _below(
                "conditioner.embedders.0.transformer.", clip(state_of(folder / "text_encoder"))
            )
            state |= _below(
                "conditioner.embedders.1.model.", open_clip(state_of(folder / "text_encoder_2"))
            )
    else:
        state |= _below(
            "model.diffusion_model.", sd3_transformer(state_of(folder / "transformer"))
        ) | _below("first_stage_model.", vae(state_of(folder / "vae")))
        state |= _below(
            "text_encoders.clip_l.transformer.", clip(state_of(folder / "text_encoder"))
        ) | _below("text_encoders.clip_g.transformer.", clip(state_of(folder / "text_encoder_2")))
        state |= _below("text_encoders.t5xxl.transformer.", state_of(folder / "text_encoder_3"))
    save_file(state, file)
    return file
