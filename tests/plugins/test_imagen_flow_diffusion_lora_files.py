"""What a LoRA's file says is what is drawn: its strengths, its kinds and its gaps, held against
weights merged by hand, in every family and in the names of every trainer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.adapters import lora_files
from imagen_flow_diffusion.adapters.attached import (
    Adapter,
    AttachedAdapters,
    LoRAUse,
    attach_adapters,
)
from imagen_flow_diffusion.loading.checkpoint import Checkpoint
from imagen_flow_diffusion.loading.components import Whole
from imagen_flow_diffusion.tiny import checkpoints

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]

BASES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "sd": (checkpoints.stable_diffusion, ["unet", "text_encoder"]),
    "sdxl": (checkpoints.stable_diffusion_xl, ["unet", "text_encoder", "text_encoder_2"]),
    "sd3": (checkpoints.stable_diffusion_3, ["transformer", "text_encoder"]),
    "flux": (checkpoints.flux, ["transformer", "text_encoder"]),
    "qwen": (checkpoints.qwen_image, ["transformer"]),
    "z": (checkpoints.z_image, ["transformer"]),
    "sana": (checkpoints.sana, ["transformer"]),
}
"""How a base is made, and what of it a LoRA may change."""

NAMES = {
    "sd": ("kohya", "peft", "diffusers"),
    "sdxl": ("kohya", "peft", "diffusers"),
    "sd3": ("peft",),
    "flux": ("kohya", "peft"),
    "qwen": ("elsewhere", "peft"),
    "z": ("elsewhere", "peft"),
    "sana": ("peft",),
}
"""In whose names LoRAs for a family come."""

KINDS = (
    "no alphas",
    "one alpha",
    "alphas that differ",
    "alphas for some",
    "ranks that differ",
    "metadata",
    "DoRA",
    "DoRA for some",
    "LoHa",
    "LoKr",
)
"""What differs from layer to layer, and how the matrices are written."""

TABLE = [
    (base, names, kind)
    for base in BASES
    for names in NAMES[base]
    for kind in KINDS
    if kind != "metadata" or names == "peft"
]

SIZE = {"width": 32, "height": 32}

ATTENTION = (
    ".to_q.weight",
    ".to_v.weight",
    ".to_out.0.weight",
    "q_proj.weight",
    "v_proj.weight",
    "out_proj.weight",
)
"""Weights that the table changes, by the ends of their names; convolutions too."""


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the path of a tiny base by name."""
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> Path:
        if not (home / name).exists():
            with quiet_libraries():
                BASES[name][0](home / name)
        return home / name

    return get


def drawn(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": str(model),
        "prompt": "a fox",
        "num_inference_steps": 1,
        "seed": 3,
        **SIZE,
        **more,
    }


def weights_of(base: Path, parts: list[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a base by part and name."""
    from safetensors.torch import load_file

    return {
        f"{part}.{name}": weight
        for part in parts
        for file in sorted((base / part).glob("*.safetensors"))
        for name, weight in load_file(file).items()
    }


def merged(base: Path, folder: Path, changes: Mapping[str, torch.Tensor]) -> Path:
    """Copy a base with other weights in the place of some."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    for part in {name.partition(".")[0] for name in changes}:
        for file in (folder / part).glob("*.safetensors"):
            state = load_file(file)
            save_file(
                {
                    name: changes.get(f"{part}.{name}", weight).contiguous()
                    for name, weight in state.items()
                },
                file,
                {"format": "pt"},
            )
    return folder


def chosen(base: str, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the layers that the table changes."""
    convolution = [
        name
        for name, weight in weights.items()
        if weight.ndim == 4 and ".conv1." in name and base in ("sd", "sdxl")
    ]
    return sorted(
        name.removesuffix(".weight")
        for name, weight in weights.items()
        if (name.endswith(ATTENTION) and weight.ndim == 2) or name in convolution[:2]
    )


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.7


def written(
    kind: str, number: int, weight: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Make what a trainer writes of one layer, by the ends of the names, and the weight that it
    means.
    """
    gives, reads = weight.shape[0], weight[0].numel()
    rank = 2 + number % 3 if kind == "ranks that differ" else 4
    alpha = {
        "one alpha": 1.0,
        "alphas that differ": [0.5, 1.0, 3.0, 8.0][number % 4],
        "ranks that differ": 3.0,
        "DoRA": 2.0,
        "LoHa": 3.0,
        "LoKr": 2.0,
    }.get(kind)
    if kind in ("alphas for some", "DoRA for some") and number % 2:
        alpha = 1.0
    found: dict[str, torch.Tensor]
    if kind == "LoHa":
        found = {
            "hada_w1_a": random(gives, rank),
            "hada_w1_b": random(rank, reads),
            "hada_w2_a": random(gives, rank),
            "hada_w2_b": random(rank, reads),
        }
        delta = (found["hada_w1_a"] @ found["hada_w1_b"]) * (
            found["hada_w2_a"] @ found["hada_w2_b"]
        )
    elif kind == "LoKr":
        inner = (reads // weight[0, 0].numel()) if weight.ndim == 4 else reads
        found = {"lokr_w1": random(2, 4)}
        if number % 2:
            found |= {"lokr_w2_a": random(gives // 2, rank), "lokr_w2_b": random(rank, reads // 4)}
            second = found["lokr_w2_a"] @ found["lokr_w2_b"]
        else:
            found["lokr_w2"] = random(
                gives // 2,
                *((inner // 4, *weight.shape[2:]) if weight.ndim == 4 else (reads // 4,)),
            )
            second, alpha = found["lokr_w2"].flatten(1), 7.0
        window = weight.shape[2:].numel()
        delta = torch.einsum(
            "ai,bjk->abijk", found["lokr_w1"], second.reshape(gives // 2, -1, window)
        ).reshape(gives, reads)
        rank = rank if number % 2 else 7
    else:
        found = {
            "down": random(rank, *weight.shape[1:]),
            "up": random(gives, rank, *[1] * (weight.ndim - 2)),
        }
        delta = found["up"].flatten(1) @ found["down"].flatten(1)
    if alpha is not None:
        found["alpha"] = torch.tensor(alpha)
        delta = delta * (alpha / rank)
    meant = weight + delta.reshape(weight.shape)
    if kind == "DoRA" or (kind == "DoRA for some" and number % 3):
        found["dora_scale"] = weight.flatten(1).norm(dim=1) * (1 + torch.rand(gives))
        meant = (
            meant.flatten(1) * (found["dora_scale"] / meant.flatten(1).norm(dim=1))[:, None]
        ).reshape(weight.shape)
        found["dora_scale"] = found["dora_scale"].reshape(-1, *[1] * (weight.ndim - 1))
    return found, meant


def named(
    names: str, base: str, layer: str, ends: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Write one layer's tensors in a trainer's names."""
    part, _, inside = layer.partition(".")
    if names == "kohya":
        beginning = {
            "unet": "lora_unet_",
            "transformer": "lora_unet_",
            "text_encoder": "lora_te_" if base == "sd" else "lora_te1_",
            "text_encoder_2": "lora_te2_",
        }[part]
        inside = (
            inside
            if inside.startswith("text_model.") or part not in ("text_encoder", "text_encoder_2")
            else f"text_model.{inside}"
        )
        stem, spelt = (
            beginning + inside.replace(".", "_"),
            {"down": "lora_down.weight", "up": "lora_up.weight"},
        )
    elif names == "diffusers":
        text = part.startswith("text")
        stem, spelt = (
            layer,
            {
                "down": "lora_linear_layer.down.weight" if text else "lora.down.weight",
                "up": "lora_linear_layer.up.weight" if text else "lora.up.weight",
            },
        )
    else:
        stem = (
            layer.replace("transformer.", "diffusion_model.", 1) if names == "elsewhere" else layer
        )
        spelt = {
            "down": "lora_A.weight",
            "up": "lora_B.weight",
            "dora_scale": "lora_magnitude_vector" if names == "peft" else "dora_scale",
        }
    return {f"{stem}.{spelt.get(end, end)}": tensor for end, tensor in ends.items()}


FUSED = {
    "transformer_blocks.0.attn.to_": ("double_blocks_0_img_attn_qkv", "qkv"),
    "transformer_blocks.0.attn.add_": ("double_blocks_0_txt_attn_qkv", "qkv"),
}


def for_flux_by_kohya(
    kind: str, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Write a LoRA for FLUX in the authors' names, where three layers are one, and the weights that
    it means.
    """
    state, meant = {}, {}
    plan = {
        "double_blocks_0_img_attn_qkv": [
            f"transformer.transformer_blocks.0.attn.to_{letter}" for letter in "qkv"
        ],
        "double_blocks_0_txt_attn_qkv": [
            f"transformer.transformer_blocks.0.attn.add_{letter}_proj" for letter in "qkv"
        ],
        "double_blocks_0_img_attn_proj": ["transformer.transformer_blocks.0.attn.to_out.0"],
        "single_blocks_0_linear2": ["transformer.single_transformer_blocks.0.proj_out"],
    }
    for number, (name, layers) in enumerate(plan.items()):
        ends, whole = written(
            kind, number, torch.cat([weights[f"{layer}.weight"] for layer in layers])
        )
        state |= named("kohya", "flux", f"transformer.{name}", ends)
        meant |= {
            f"{layer}.weight": rows
            for layer, rows in zip(layers, whole.chunk(len(layers)), strict=True)
        }
    for number, layer in enumerate(
        name for name in chosen("flux", weights) if name.startswith("text_encoder.")
    ):
        ends, meant[f"{layer}.weight"] = written(kind, number, weights[f"{layer}.weight"])
        state |= named("kohya", "flux", layer, ends)
    return state, meant


def made(
    base: str, names: str, kind: str, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
    """Make a LoRA's tensors, the weights that it means and its metadata."""
    torch.manual_seed(7)
    if (base, names) == ("flux", "kohya"):
        return *for_flux_by_kohya(kind, weights), {}
    state: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    said: dict[str, Any] = {}
    for number, layer in enumerate(chosen(base, weights)):
        ends, changed = written(kind, number, weights[f"{layer}.weight"])
        if kind == "metadata":
            part, _, inside = layer.partition(".")
            strength = [0.5, 2.0][number % 2]
            changed = weights[f"{layer}.weight"] + (changed - weights[f"{layer}.weight"]) * strength
            said |= {f"{part}.r": 4, f"{part}.lora_alpha": 2.0, f"{part}.rank_pattern": {}}
            if strength == 2.0:
                said.setdefault(f"{part}.alpha_pattern", {})[inside.removeprefix("text_model.")] = (
                    8.0
                )
        meant[f"{layer}.weight"] = changed
        state |= named(names, base, layer, ends)
    return state, meant, {"lora_adapter_metadata": json.dumps(said)} if said else {}


def saved(
    file: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a LoRA's file."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous().clone() for name, tensor in state.items()},
        file,
        {"format": "pt", **(metadata or {})},
    )
    return str(file)


@contextmanager
def lent(pool: ModelPool, base: Path) -> Iterator[Checkpoint]:
    """Lease all of a base."""
    model = flow.Model(base, f"digest of {base}", str(base))
    with pool.lease(Whole(), model, device="cpu", dtype="float32") as checkpoint, torch.no_grad():
        yield checkpoint


def acts(layer: Any) -> torch.Tensor:
    """What a layer does to each of its inputs alone: its weight, whatever is in its place."""
    inner = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    if isinstance(inner, torch.nn.Linear):
        found = layer(torch.eye(inner.in_features)) - layer(torch.zeros(1, inner.in_features))
        return found.T
    window = (inner.in_channels, *inner.kernel_size)
    each = torch.eye(int(np.prod(window))).reshape(-1, *window)
    middle = [side // 2 for side in inner.kernel_size]
    found = (layer(each) - layer(torch.zeros(1, *window)))[:, :, middle[0], middle[1]]
    return found.T.reshape(inner.out_channels, *window)


@pytest.mark.parametrize(("base", "names", "kind"), TABLE)
def test_a_lora_is_as_strong_as_its_file_says(
    base: str, names: str, kind: str, at: Callable[[str], Path], pool: ModelPool, tmp_path: Path
) -> None:
    """Whatever is said of strength, layer by layer or not at all, each layer does what the weight
    merged by hand does, and all others what they did.
    """
    weights = weights_of(at(base), BASES[base][1])
    state, meant, metadata = made(base, names, kind, weights)
    lora = Adapter(
        flow.Model(
            Path(saved(tmp_path / "lora.safetensors", state, metadata)),
            f"{names} {kind}",
            "lora.safetensors",
        )
    )
    with lent(pool, at(base)) as checkpoint:
        pipeline = checkpoint.pipeline(getattr(diffusers, checkpoint.kind))
        attached = AttachedAdapters([LoRAUse(lora)])
        with checkpoint.alone(), attach_adapters(pipeline, checkpoint, attached):
            assert attached.notes == []
            for name, weight in meant.items():
                part, _, layer = name.removesuffix(".weight").partition(".")
                own = dict(checkpoint.parts[part].named_modules())
                module = own.get(layer) or own[layer.removeprefix("text_model.")]
                assert hasattr(module, "get_base_layer"), name
                torch.testing.assert_close(
                    acts(module),
                    weight,
                    rtol=1e-4,
                    atol=1e-4,
                    msg=lambda text, name=name: f"{name}: {text}",
                )
            changed = [
                f"{part}.{name}"
                for part in BASES[base][1]
                for name, module in checkpoint.parts[part].named_modules()
                if hasattr(module, "get_base_layer")
            ]
            assert len(changed) == len(meant)
        assert not any(
            hasattr(module, "get_base_layer")
            for part in BASES[base][1]
            for module in checkpoint.parts[part].modules()
        )


@pytest.mark.parametrize("base", list(BASES))
def test_the_picture_is_that_of_merged_weights(
    base: str, at: Callable[[str], Path], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """The whole way, from the file to the pixels; the base draws as before."""
    plain = draw(one=drawn(at(base))).pixels
    state, meant, _ = made(base, NAMES[base][0], "no alphas", weights_of(at(base), BASES[base][1]))
    # The tiny networks hardly heed less.
    ups = {
        name: tensor * 50 if name.endswith(("lora_up.weight", "lora_B.weight")) else tensor
        for name, tensor in state.items()
    }
    before = weights_of(at(base), BASES[base][1])
    strong = {name: before[name] + (weight - before[name]) * 50 for name, weight in meant.items()}
    ours = draw(one=drawn(at(base), loras=[saved(tmp_path / "lora.safetensors", ups)])).pixels
    theirs = draw(one=drawn(merged(at(base), tmp_path / "merged", strong))).pixels
    far, near = (int(np.abs(ours.astype(int) - other).max()) for other in (plain, theirs))
    assert far >= 4
    assert near <= 1
    assert np.array_equal(draw(one=drawn(at(base))).pixels, plain)


def plain_lora(
    base: str, weights: Mapping[str, torch.Tensor], *, only: str = ""
) -> dict[str, torch.Tensor]:
    """A LoRA in peft's names without alphas."""
    torch.manual_seed(11)
    layers = [layer for layer in chosen(base, weights) if only in layer]
    return {
        name: tensor
        for layer in layers
        for name, tensor in named(
            "peft", base, layer, written("no alphas", 0, weights[f"{layer}.weight"])[0]
        ).items()
    }


def bits(checkpoint: Checkpoint) -> dict[str, Any]:
    """What there is of a base: each of its tensors, where it lies and what it holds, and the
    classes and hooks of its modules.
    """
    found: dict[str, Any] = {}
    for part, module in checkpoint.parts.items():
        if isinstance(module, torch.nn.Module):
            for kind, tensors in (
                ("weight", module.named_parameters()),
                ("buffer", module.named_buffers()),
            ):
                found |= {
                    f"{part}.{name}": (
                        kind,
                        id(tensor),
                        tensor.data_ptr(),
                        tensor.requires_grad,
                        tensor.detach().numpy().tobytes(),
                    )
                    for name, tensor in tensors
                }
            found |= {
                f"{part}.{name}/": (
                    type(inner).__name__,
                    sorted(vars(inner).keys() - {"peft_config", "_hf_peft_config_loaded"}),
                    len(inner._forward_hooks),
                )
                for name, inner in module.named_modules()
            }
            found[f"{part}?"] = (
                getattr(module, "peft_config", None),
                bool(getattr(module, "_hf_peft_config_loaded", None)),
                str(
                    module.config.to_dict()
                    if hasattr(module.config, "to_dict")
                    else dict(module.config)
                ),
            )
        elif hasattr(module, "get_vocab"):
            found[part] = module.get_vocab()
    return found


def full_of(base: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a base in full that do not belong in a LoRA: a bias of each part, a norm and a
    last layer.
    """
    first = {
        name.partition(".")[0]: name
        for name in sorted(weights)
        if name.endswith(".bias") or "norm" in name
    }
    last = [
        name for name in sorted(weights) if name.endswith(("proj_out.weight", "conv_out.weight"))
    ][:1]
    return {name: torch.randn_like(weights[name].float()) + 1 for name in [*first.values(), *last]}


@pytest.mark.parametrize("base", list(BASES))
def test_whatever_a_file_holds_the_base_stays_as_it_was(
    base: str, at: Callable[[str], Path], pool: ModelPool, draw: Callable[..., Any], tmp_path: Path
) -> None:
    """Put on, with weights of the base in full beside it, refused half-way, cancelled in the midst
    of drawing: every tensor of the base is the same, with the same bits, and its modules too.
    """
    weights = weights_of(at(base), BASES[base][1])
    good = plain_lora(base, weights)
    full = full_of(base, weights)
    assert full
    torn = dict(good)
    last = max(name for name in torn if name.endswith("lora_B.weight"))
    torn[last] = torch.randn(7, torn[last].shape[1])
    files = {
        "good": good,
        "with others": {**good, **full},
        "torn": torn,
        "torn with others": {**torn, **full},
        "others alone": full,
        "half": {name: tensor for name, tensor in good.items() if name != last},
        "foreign": {
            f"unet.nowhere.{number}.lora_{side}.weight": torch.ones(2, 2)
            for number in range(3)
            for side in "AB"
        },
    }
    names = {name: saved(tmp_path / f"{name}.safetensors", state) for name, state in files.items()}
    with lent(pool, at(base)) as checkpoint:
        pipeline = checkpoint.pipeline(getattr(diffusers, checkpoint.kind))
        before = bits(checkpoint)
        for name, file in names.items():
            lora = Adapter(flow.Model(Path(file), name, file))
            good_lora = Adapter(flow.Model(Path(names["good"]), "good", "good"))
            attached = AttachedAdapters([LoRAUse(good_lora), LoRAUse(lora)])
            if name in ("good", "with others"):
                with (
                    pytest.raises(KeyboardInterrupt),
                    checkpoint.alone(),
                    attach_adapters(pipeline, checkpoint, AttachedAdapters(attached.loras)),
                ):
                    raise KeyboardInterrupt
                with checkpoint.alone(), attach_adapters(pipeline, checkpoint, attached):
                    assert bits(checkpoint) != before
                assert [
                    f"{len(full)} of {len(good) + len(full)} tensors of" in note
                    for note in attached.notes
                ] == [True] * (name == "with others")
            else:
                with (
                    pytest.raises(ValueError, match=f"{name}.safetensors'"),
                    checkpoint.alone(),
                    attach_adapters(pipeline, checkpoint, attached),
                ):
                    pass
            assert bits(checkpoint) == before, name


def changed(state: Mapping[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    """Spoil a LoRA for Stable Diffusion."""
    first, second, *_ = sorted(state)
    stems = sorted({name.partition(".lora_")[0] for name in state})
    if how == "no partner":
        return {name: tensor for name, tensor in state.items() if name != second}
    if how == "alpha alone":
        return {**state, "unet.conv_in.alpha": torch.tensor(1.0)}
    if how == "scale alone":
        return {**state, "unet.conv_in.dora_scale": torch.ones(32)}
    if how == "nothing":
        return {}
    if how == "ranks":
        return {**state, first: torch.cat([state[first], state[first]])}
    if how == "alpha of several":
        return {**state, f"{stems[0]}.alpha": torch.ones(3)}
    if how == "alpha is no number":
        return {**state, f"{stems[0]}.alpha": torch.tensor(float("nan"))}
    if how == "integers":
        return {**state, first: state[first].to(torch.int8)}
    if how == "scale along the inputs":
        return {**state, f"{stems[0]}.dora_scale": torch.ones(1, 5)}
    if how == "half of LoHa":
        return {
            "unet.conv_in.hada_w1_a": torch.ones(32, 2),
            "unet.conv_in.hada_w1_b": torch.ones(2, 36),
            "unet.conv_in.hada_w2_a": torch.ones(32, 2),
        }
    if how == "half of LoKr":
        return {"unet.conv_in.lokr_w1": torch.ones(2, 2)}
    kinds = {
        "OFT": "lora_unet_mid_block_attentions_0_proj_in.oft_blocks",
        "BOFT": "unet.conv_in.boft_R.weight",
        "IA3": "lora_unet_mid_block_attentions_0_proj_in.on_input",
        "GLoRA": "lora_unet_conv_in.a1.weight",
        "differences": "lora_unet_conv_in.diff",
        "norms": "lora_unet_conv_norm_out.w_norm",
        "control": "lora_controlnet",
        "IP-Adapter": "image_proj.norm.weight",
        "inversion": "emb_params",
        "checkpoint": "model.diffusion_model.input_blocks.0.0.weight",
        "embeddings": "bundle_emb.toy.string_to_param.*",
        "something": "epoch",
    }
    return {kinds[how]: torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "no partner",
            "it is not whole: it holds 'text_encoder.encoder.layers.0.self_attn.out_proj.lora_A.weight' without its partner; download or save it again",
        ),
        (
            "alpha alone",
            "it is not whole: it holds 'unet.conv_in.alpha' without its matrices; download or save it again",
        ),
        (
            "scale alone",
            "it is not whole: it holds the DoRA scale of 'unet.conv_in' without its matrices; download or save it again",
        ),
        (
            "nothing",
            "it holds no tensors: it was not written to its end, or a training run that learned nothing saved it",
        ),
        (
            "ranks",
            "the matrices of 'text_encoder.encoder.layers.0.self_attn.out_proj' do not fit each other: (8, 32) and (32, 4)",
        ),
        (
            "alpha of several",
            "'text_encoder.encoder.layers.0.self_attn.out_proj.alpha' is not a number",
        ),
        (
            "alpha is no number",
            "'text_encoder.encoder.layers.0.self_attn.out_proj.alpha' is not a number",
        ),
        (
            "integers",
            "'text_encoder.encoder.layers.0.self_attn.out_proj.lora_A.weight' holds int8, and weights are floating-point numbers",
        ),
        (
            "scale along the inputs",
            "the DoRA scale of 'text_encoder.encoder.layers.0.self_attn.out_proj' goes along the inputs ((1, 5)), and peft computes those along the outputs",
        ),
        ("half of LoHa", "it is not whole: 'unet.conv_in' lacks w2_b; download or save it again"),
        (
            "half of LoKr",
            "it is not whole: 'unet.conv_in' lacks w2_a, and 1 more like it; download or save it again",
        ),
        (
            "OFT",
            "it holds OFT (rotations), which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        (
            "BOFT",
            "it holds BOFT (rotations), which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        (
            "IA3",
            "it holds IA3 (scales), which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        (
            "GLoRA",
            "it holds GLoRA, which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        (
            "differences",
            "it holds full differences of weights, which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        (
            "norms",
            "it holds differences of norms, which neither diffusers nor peft reads from such a file; LoRA, DoRA, LoHa and LoKr can be applied",
        ),
        ("control", "it is a control LoRA, which changes the network of the base"),
        ("IP-Adapter", "it is an IP-Adapter: give it to 'ip_adapters'"),
        ("inversion", "it is a textual inversion: give it to 'embeddings'"),
        ("checkpoint", "it is a whole checkpoint: give it to 'model'"),
        (
            "embeddings",
            "it holds no LoRA but the embeddings toy: save each as a file of its own and give it to 'embeddings'",
        ),
        ("something", "it is not a LoRA: it holds epoch"),
    ],
)
def test_a_file_that_is_no_whole_lora_is_told_as_what_it_is(
    how: str,
    words: str,
    at: Callable[[str], Path],
    refused: Callable[..., str],
    failure: Callable[..., str],
    tmp_path: Path,
) -> None:
    """When planning where the header tells, else before anything is drawn; by its name, and never
    as one for another base.
    """
    file = saved(
        tmp_path / "lora.safetensors",
        changed(plain_lora("sd", weights_of(at("sd"), BASES["sd"][1])), how),
    )
    node = drawn(at("sd"), loras=[file])
    said = (
        failure(one=node)
        if how
        in ("ranks", "alpha of several", "alpha is no number", "integers", "scale along the inputs")
        else refused(one=node)
    )
    assert said == f"the LoRA '{file}' cannot be applied: {words}"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            "{",
            "its metadata 'lora_adapter_metadata' is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)), so its strength is unknown",
        ),
        ("[]", "its metadata 'lora_adapter_metadata' is no mapping, so its strength is unknown"),
        (
            '{"unet.lora_alpha": "much"}',
            "its metadata says of 'unet.lora_alpha' 'much', which is not a number",
        ),
        (
            '{"unet.alpha_pattern": [1]}',
            "its metadata says of 'unet.alpha_pattern' [1], which gives no layer a number",
        ),
        (
            '{"unet.alpha_pattern": {"(a+)+$": 1}}',
            "its metadata names layers by '(a+)+$' in 'unet.alpha_pattern', which is no layer's name",
        ),
    ],
)
def test_metadata_that_cannot_be_read_is_told(
    metadata: str,
    words: str,
    at: Callable[[str], Path],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    """The strength would be a guess: when planning."""
    state = plain_lora("sd", weights_of(at("sd"), BASES["sd"][1]))
    file = saved(tmp_path / "lora.safetensors", state, {"lora_adapter_metadata": metadata})
    assert (
        refused(one=drawn(at("sd"), loras=[file]))
        == f"the LoRA '{file}' cannot be applied: {words}"
    )


def noted(pool: ModelPool, node: dict[str, Any], *, again: bool = False) -> list[str]:
    """What the run of a node says besides its picture."""
    graph = {"imagen_flow": 1, "nodes": {"one": node}, "outputs": {"out": "${one}"}}
    for _ in range(1 + again):
        said = {
            event.note
            for event in flow.execute(flow.plan(graph, store=None, device="cpu"), pool=pool)
            if getattr(event, "note", "")
        }
    return sorted(said)


def test_what_is_not_put_on_is_counted_in_a_note(
    at: Callable[[str], Path], pool: ModelPool, tmp_path: Path
) -> None:
    """Layers that the base lacks, tensors of other kinds, bundled embeddings; also when the layers
    are those of the picture before.
    """
    weights = weights_of(at("sd"), BASES["sd"][1])
    good = plain_lora("sd", weights)
    more = {
        name.replace("down_blocks", "down_blocks.7"): tensor
        for name, tensor in good.items()
        if "down_blocks" in name
    }
    others = {
        "unet.conv_out.bias": torch.ones(4),
        "unet.conv_norm_out.w_norm": torch.ones(32),
        "bundle_emb.toy.string_to_param.*": torch.ones(2, 32),
    }
    file = saved(tmp_path / "style.safetensors", {**good, **more, **others})
    total = len(good) + len(more) + 2
    first = sorted(name.removesuffix(".lora_A.weight") for name in more if "lora_A" in name)[:2]
    expected = "; ".join(
        [
            f"1 of {total} tensors of 'style.safetensors' are not part of a LoRA (weights of the base in full) and are left out: unet.conv_out.bias",
            f"1 of {total} tensors of 'style.safetensors' are differences of norms and are left out: unet.conv_norm_out.w_norm",
            "the embeddings in 'style.safetensors' are left out (toy): save each as a file of its own and give it to 'embeddings'",
            f"{len(more) // 2} of {(len(good) + len(more)) // 2} layers of 'style.safetensors' do not exist in the base: {', '.join(first)}, …",
        ]
    )
    assert noted(pool, drawn(at("sd"), loras=[file]), again=True) == [expected]
    shutil.copy(file, tmp_path / "other.safetensors")
    assert noted(pool, drawn(at("sd"), loras=[str(tmp_path / "other.safetensors")])) == [
        expected.replace("style.", "other.")
    ]
    assert noted(pool, drawn(at("sd"), loras=[saved(tmp_path / "good.safetensors", good)])) == []


def test_layers_of_a_part_that_the_base_does_without_are_counted(
    at: Callable[[str], Path], pool: ModelPool, tmp_path: Path
) -> None:
    """Stable Diffusion 3 may lack text encoders."""
    weights = weights_of(at("sd3"), BASES["sd3"][1])
    shutil.copytree(at("sd3"), tmp_path / "sd3")
    index = json.loads((tmp_path / "sd3" / "model_index.json").read_text())
    (tmp_path / "sd3" / "model_index.json").write_text(
        json.dumps({**index, "text_encoder": [None, None]})
    )
    state = plain_lora("sd3", weights)
    lora = Adapter(
        flow.Model(Path(saved(tmp_path / "lora.safetensors", state)), "of both", "lora.safetensors")
    )
    with lent(pool, tmp_path / "sd3") as checkpoint:
        attached = AttachedAdapters([LoRAUse(lora)])
        with (
            checkpoint.alone(),
            attach_adapters(
                checkpoint.pipeline(diffusers.StableDiffusion3Pipeline), checkpoint, attached
            ),
        ):
            lost = sum(name.startswith("text_encoder.") and "lora_A" in name for name in state)
            assert [note.partition(":")[0] for note in attached.notes] == [
                f"{lost} of {len(state) // 2} layers of 'lora.safetensors' do not exist in the base"
            ]


@pytest.mark.parametrize(
    ("base", "names"), [("sd", "kohya"), ("sdxl", "kohya"), ("sd", "diffusers"), ("flux", "kohya")]
)
@pytest.mark.parametrize("letters", ["q_proj", "fc1", "q_proj v_proj"])
def test_a_lora_for_a_few_layers_of_the_text_encoder_is_read(
    base: str, names: str, letters: str, at: Callable[[str], Path], pool: ModelPool, tmp_path: Path
) -> None:
    """Whichever they are: diffusers tells old names from new ones by the last layer of attention."""
    weights = weights_of(at(base), ["text_encoder"])
    layers = [
        name.removesuffix(".weight")
        for name in sorted(weights)
        if name.endswith(tuple(f"{letter}.weight" for letter in letters.split()))
    ]
    state = {
        name: tensor
        for layer in layers
        for name, tensor in named(
            names, base, layer, written("one alpha", 0, weights[f"{layer}.weight"])[0]
        ).items()
    }
    lora = Adapter(
        flow.Model(
            Path(saved(tmp_path / "lora.safetensors", state)),
            f"{names} {letters}",
            "lora.safetensors",
        )
    )
    with lent(pool, at(base)) as checkpoint:
        attached = AttachedAdapters([LoRAUse(lora)])
        with (
            checkpoint.alone(),
            attach_adapters(
                checkpoint.pipeline(getattr(diffusers, checkpoint.kind)), checkpoint, attached
            ),
        ):
            put = [
                name
                for name, module in checkpoint.parts["text_encoder"].named_modules()
                if hasattr(module, "get_base_layer")
            ]
            assert len(put) == len(layers)
        assert attached.notes == []


def test_layers_named_in_two_ways_are_not_dropped(
    at: Callable[[str], Path], failure: Callable[..., str], tmp_path: Path
) -> None:
    """diffusers drops those in the original's names where there are others: that is told."""
    state = {}
    for layer in (
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    ):
        state |= {
            f"{layer}.lora_down.weight": torch.randn(2, 64),
            f"{layer}.lora_up.weight": torch.randn(64, 2),
        }
    file = saved(tmp_path / "lora.safetensors", state)
    assert failure(one=drawn(at("sdxl"), loras=[file])).endswith(
        "diffusers drops 1 of its 2 layers, lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q first: it names layers in two ways"
    )


def test_small_strengths_keep_their_digits_in_half_precision() -> None:
    """``alpha / rank`` is divided between the two matrices: by one alone, float16 would lose its
    digits.
    """
    torch.manual_seed(3)
    down, up = torch.randn(128, 64) * 1e-2, torch.randn(64, 128) * 1e-3
    state = {
        "x.lora_down.weight": down.half(),
        "x.lora_up.weight": up.half(),
        "x.alpha": torch.tensor(1.0),
    }
    pair = lora_files.read(state).pairs["x"]
    assert pair.down is not None
    assert pair.up is not None
    meant = (up.half().double() @ down.half().double()) / 128
    found = pair.up.double() @ pair.down.double()
    assert (found - meant).norm() / meant.norm() < 2e-3


def foreign(name: str) -> tuple[str, dict[str, torch.Tensor]]:
    """A LoRA in names that diffusers translates, and the base that it is for."""
    torch.manual_seed(13)

    def low(
        inside: int, outside: int, layer: str, down: str = "lora_A", up: str = "lora_B"
    ) -> dict[str, torch.Tensor]:
        return {
            f"{layer}{down}.weight": torch.randn(2, inside),
            f"{layer}{up}.weight": torch.randn(outside, 2),
        }

    if name == "XLabs":
        return "flux", {
            key: tensor
            for what, gives in (("qkv", 96), ("proj", 32))
            for stream in (1, 2)
            for key, tensor in low(
                32, gives, f"double_blocks.0.processor.{what}_lora{stream}", ".down", ".up"
            ).items()
        }
    if name == "peft's default":
        return "qwen", {
            key: tensor
            for letter in "qv"
            for key, tensor in low(
                48,
                48,
                f"transformer_blocks.0.attn.to_{letter}.",
                "lora_A.default",
                "lora_B.default",
            ).items()
        }
    return "sd", {
        key: tensor
        for letter in ("q", "out")
        for key, tensor in low(
            64,
            64,
            f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_{letter}_lora",
            ".down",
            ".up",
        ).items()
    }


@pytest.mark.parametrize("name", ["XLabs", "peft's default", "diffusers of old"])
def test_names_that_diffusers_translates_are_read(
    name: str,
    at: Callable[[str], Path],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """The picture is the one of diffusers called by hand."""
    base, state = foreign(name)
    file = saved(tmp_path / "lora.safetensors", state)
    pipeline = by_hand(str(at(base)))
    pipeline.load_lora_weights(file, adapter_name="one")
    theirs = pipeline(
        "a fox", generator=torch.Generator("cpu").manual_seed(3), num_inference_steps=1, **SIZE
    ).images[0]
    ours = draw(one=drawn(at(base), loras=[file])).pixels
    assert np.array_equal(ours, np.asarray(theirs))
    assert not np.array_equal(ours, draw(one=drawn(at(base))).pixels)


def test_names_that_diffusers_does_not_read_are_told(
    at: Callable[[str], Path], failure: Callable[..., str], tmp_path: Path
) -> None:
    """It is no matter of the base."""
    state = {
        "lora_unet_joint_blocks_0_x_block_attn_proj.lora_down.weight": torch.ones(2, 32),
        "lora_unet_joint_blocks_0_x_block_attn_proj.lora_up.weight": torch.ones(32, 2),
    }
    file = saved(tmp_path / "lora.safetensors", state)
    assert failure(one=drawn(at("sd3"), loras=[file])) == (
        f"the LoRA '{file}' cannot be applied: diffusers knows no layers by its names, 'lora_unet_joint_blocks_0_x_block_attn_proj' first, for StableDiffusion3Pipeline"
    )


def test_cores_of_convolutions_are_the_same_matrix() -> None:
    """LoCon, LoHa and LoKr may have a core between their matrices (Tucker's form): the pair that is
    made of them is the weight that LyCORIS makes.
    """
    torch.manual_seed(17)
    rank, reads, gives = 3, 6, 8

    def rebuilt(core: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ijkl,jr,ip->prkl", core, inside, outside)

    locon = {
        "down.weight": torch.randn(rank, reads, 1, 1),
        "up.weight": torch.randn(gives, rank, 1, 1),
        "mid.weight": torch.randn(rank, rank, 3, 3),
    }
    loha = {
        "w1_a": torch.randn(rank, gives),
        "w1_b": torch.randn(rank, reads),
        "w2_a": torch.randn(rank, gives),
        "w2_b": torch.randn(rank, reads),
        "t1": torch.randn(rank, rank, 3, 3),
        "t2": torch.randn(rank, rank, 3, 3),
    }
    lokr = {
        "w1": torch.randn(2, 3),
        "w2_a": torch.randn(rank, gives // 2),
        "w2_b": torch.randn(rank, reads // 3),
        "t2": torch.randn(rank, rank, 3, 3),
    }
    meant = {
        "a": rebuilt(
            locon["mid.weight"], locon["down.weight"].flatten(1), locon["up.weight"].flatten(1).T
        )
        * 2
        / rank,
        "b": rebuilt(loha["t1"], loha["w1_b"], loha["w1_a"])
        * rebuilt(loha["t2"], loha["w2_b"], loha["w2_a"])
        * 2
        / rank,
        "c": torch.einsum(
            "ai,bjkl->abijkl", lokr["w1"], rebuilt(lokr["t2"], lokr["w2_b"], lokr["w2_a"])
        ).reshape(gives, reads, 3, 3)
        * 2
        / rank,
    }
    state = (
        {f"a.lora_{end}": tensor for end, tensor in locon.items()}
        | {f"b.hada_{end}": tensor for end, tensor in loha.items()}
        | {f"c.lokr_{end}": tensor for end, tensor in lokr.items()}
    )
    pairs = lora_files.read(state | {f"{layer}.alpha": torch.tensor(2.0) for layer in "abc"}).pairs
    for layer, weight in meant.items():
        down, up = pairs[layer].down, pairs[layer].up
        assert down is not None
        assert up is not None
        torch.testing.assert_close(
            (up.flatten(1) @ down.flatten(1)).reshape(gives, reads, 3, 3),
            weight,
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_control_lora_in_the_authors_names_is_told(
    at: Callable[[str], Path], failure: Callable[..., str], tmp_path: Path
) -> None:
    """FLUX's own come with norms, which no LoRA holds."""
    state = {
        "double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(2, 32),
        "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(96, 2),
        "double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(16),
    }
    file = saved(tmp_path / "canny.safetensors", state)
    assert failure(one=drawn(at("flux"), loras=[file])) == (
        f"the LoRA '{file}' cannot be applied: it is a control LoRA, which changes the network of the base; use a control checkpoint instead (FLUX Canny, Depth)"
    )


def test_a_lora_of_whose_denoiser_no_layer_exists_is_refused(
    at: Callable[[str], Path], failure: Callable[..., str], tmp_path: Path
) -> None:
    """Though its layers of the text encoder do: a LoRA for FLUX on SDXL, which share one, is for
    another base.
    """
    state, _ = for_flux_by_kohya("one alpha", weights_of(at("flux"), BASES["flux"][1]))
    file = saved(tmp_path / "lora.safetensors", state)
    assert failure(one=drawn(at("sdxl"), loras=[file])) == (
        f"the LoRA '{file}' was made for a different base than '{at('sdxl')}' (StableDiffusionXLPipeline): none of its 4 layers for unet exists there (unet.double.blocks.0.img.attn.proj)"
    )


def test_names_in_which_diffusers_misses_layers_are_told(
    at: Callable[[str], Path], failure: Callable[..., str], tmp_path: Path
) -> None:
    """What peft saves by itself is for the base that is given: it is no matter of the base."""
    state = {
        "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 32),
        "base_model.model.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(32, 2),
    }
    file = saved(tmp_path / "lora.safetensors", state)
    assert failure(one=drawn(at("flux"), loras=[file])) == (
        f"the LoRA '{file}' cannot be applied: diffusers does not translate its names for FluxPipeline: it looks for 'base_model.model.double_blocks.0.img_mod.lin.lora_A.weight' among them"
    )
