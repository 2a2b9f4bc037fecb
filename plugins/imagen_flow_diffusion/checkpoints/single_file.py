"""Recognise what a single file of weights is by the names and shapes in its header.

Whole checkpoints are shared as one file, with tensors named by the models' first authors. Such a
file holds only weights; which repository has its configurations is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders

if TYPE_CHECKING:
    from imagen_flow import Model

#: The header of a file of weights: dtype and shape by tensor.
Header = Mapping[str, Any]

_UNET = {"unet": ("model.diffusion_model.",), "vae": ("first_stage_model.", "vae.")}
_SD = {**_UNET, "text_encoder": ("cond_stage_model.",)}
_XL = {
    **_UNET,
    "text_encoder": ("conditioner.embedders.0.",),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
_REFINER = {**_UNET, "text_encoder_2": ("conditioner.embedders.0.",)}
_SD3 = {
    "transformer": ("model.diffusion_model.", ""),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("text_encoders.clip_l.",),
    "text_encoder_2": ("text_encoders.clip_g.",),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
_FLUX = {
    "transformer": _SD3["transformer"],
    "vae": _SD3["vae"],
    "text_encoder": ("text_encoders.clip_l.",),
    "text_encoder_2": ("text_encoders.t5xxl.",),
}

BASES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "v1": ("stable-diffusion-v1-5/stable-diffusion-v1-5", _SD),
    "inpainting": ("stable-diffusion-v1-5/stable-diffusion-inpainting", _SD),
    "instruct-pix2pix": ("timbrooks/instruct-pix2pix", _SD),
    "v2": ("stabilityai/stable-diffusion-2-1", _SD),
    "inpainting_v2": ("stabilityai/stable-diffusion-2-inpainting", _SD),
    "upscale": ("stabilityai/stable-diffusion-x4-upscaler", _SD),
    "xl_base": ("stabilityai/stable-diffusion-xl-base-1.0", _XL),
    "xl_inpaint": ("diffusers/stable-diffusion-xl-1.0-inpainting-0.1", _XL),
    "xl_refiner": ("stabilityai/stable-diffusion-xl-refiner-1.0", _REFINER),
    "playground-v2-5": ("playgroundai/playground-v2.5-1024px-aesthetic", _XL),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers", _SD3),
    "sd35_medium": ("stabilityai/stable-diffusion-3.5-medium", _SD3),
    "sd35_large": ("stabilityai/stable-diffusion-3.5-large", _SD3),
    "flux-dev": ("black-forest-labs/FLUX.1-dev", _FLUX),
    "flux-schnell": ("black-forest-labs/FLUX.1-schnell", _FLUX),
    "flux-fill": ("black-forest-labs/FLUX.1-Fill-dev", _FLUX),
    "flux-depth": ("black-forest-labs/FLUX.1-Depth-dev", _FLUX),
}
"""By diffusers' name of the kind: the repository that completes a file of it, and what the names of
each part's tensors may begin with.
"""

_ALONE = (
    (r"(^|[._])lora[._]|\.(hada_w1|lokr_w1|oft_blocks)\b", "LoRA"),
    (r"^emb_params$|^string_to_param\.|^clip_[lg]$", "textual inversion"),
    (r"^(control_model|controlnet_\w+|input_hint_block)\.", "ControlNet in one file"),
    (r"^(image_proj|ip_adapter)\.", "IP-Adapter"),
    (r"^(adapter\.)?body\.\d+\.(in_conv|resnets|block1)", "T2I-Adapter in one file"),
    (
        r"^(model\.)?(\w+\.)*(conv_first|conv_body|RDB1|rdb1)\.|^model\.0\.weight$",
        "enlarging network",
    ),
    (
        r"^(first_stage_model\.|vae\.)?(encoder\.(conv_in|down)|decoder\.(conv_in|up|mid))",
        "autoencoder alone",
    ),
    (
        r"^(model\.diffusion_model\.)?(input_blocks|down_blocks|double_blocks|joint_blocks|transformer_blocks|blocks|layers)\.",
        "denoiser alone",
    ),
    (
        r"^(text_model|encoder\.block|token_embedding|transformer\.resblocks|embeddings\.(token|position)_embedding|encoder\.layers|(language_)?model\.(layers|embed_tokens))\b|^shared\.weight$",
        "text encoder alone",
    ),
)
"""Other kinds of files, by the names of their tensors."""

_ALONE_IN_GGUF = ((r"^(enc\.)?blk\.\d|^token_embd\.", "text encoder alone"),)
"""The same, by names that only GGUF files have."""


def base_of(header: Header) -> loaders.BaseCheckpoint | None:
    """Return what completes a checkpoint that is one file; None for a file that is not one.

    Source: ``infer_diffusers_model_type`` in ``diffusers.loaders.single_file_utils``, which reads
        the tensors themselves.
    """
    kind = kind_of(header)
    if not kind:
        return None
    reference, parts = BASES[kind]
    found = {
        part: next(
            (
                beginning
                for beginning in beginnings
                if any(name.startswith(beginning) for name in header)
            ),
            None,
        )
        for part, beginnings in parts.items()
    }
    holds = tuple((part, beginning) for part, beginning in found.items() if beginning is not None)
    return loaders.BaseCheckpoint(
        f"hf:{reference}",
        holds,
        tuple(part for part, beginning in found.items() if beginning is None),
    )


def kind_of(header: Header) -> str:
    """Name the kind of checkpoint that a file is, as diffusers does; empty for a file that is not
    one.
    """

    def shape(name: str) -> list[int]:
        entry = header.get(f"model.diffusion_model.{name}") or header.get(name) or {}
        found = entry.get("shape")
        return found if isinstance(found, list) else []

    def has(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in header)

    if "model.diffusion_model.input_blocks.0.0.weight" in header:
        filling, editing = (
            shape("input_blocks.0.0.weight")[1:2] == [channels] for channels in (9, 8)
        )
        if has("model.diffusion_model.label_emb.0."):
            if has("conditioner.embedders.0.model.") or shape("label_emb.0.0.weight")[1:] == [2560]:
                return "xl_refiner"
            return (
                "xl_inpaint"
                if filling
                else "playground-v2-5"
                if "edm_mean" in header
                else "xl_base"
            )
        if shape("input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight")[-1:] == [1024]:
            return "inpainting_v2" if filling else "v2"
        if shape("input_blocks.10.0.skip_connection.bias"):
            return "upscale"
        return "inpainting" if filling else "instruct-pix2pix" if editing else "v1"
    if shape("joint_blocks.0.context_block.adaLN_modulation.1.bias"):
        if shape("joint_blocks.37.x_block.mlp.fc1.weight"):
            return "sd35_large"
        return "sd35_medium" if shape("pos_embed")[1:2] == [147456] else "sd3"
    if (
        shape("double_blocks.0.img_attn.norm.key_norm.scale")
        and not shape("distilled_guidance_layer.in_proj.bias")
        and not shape("single_stream_modulation.lin.weight")
    ):
        if not shape("guidance_in.in_layer.bias"):
            return "flux-schnell"
        reads = shape("img_in.weight")[1:2]
        return "flux-fill" if reads == [384] else "flux-depth" if reads == [128] else "flux-dev"
    return ""


PREDICTIONS = {
    **dict.fromkeys(("epsilon", "eps", "noise"), "epsilon"),
    **dict.fromkeys(
        ("v", "v_pred", "v-pred", "v_prediction", "v-prediction", "velocity"), "v_prediction"
    ),
    **dict.fromkeys(("sample", "x0"), "sample"),
}
"""How a file may say what its denoiser predicts (``modelspec.prediction_type``), and how diffusers
does.
"""

CONTINUOUS = {"sigma_max": "edm_vpred.sigma_max", "sigma_min": "edm_vpred.sigma_min"}
"""Tensors of one number that say that a denoiser predicts a velocity at any noise between two, as
CosXL's does.
"""


def predicts(model: Model) -> dict[str, Any]:
    """Return the settings of a sampler that a file of weights holds: in the tensors ``v_pred`` and
    ``ztsnr``, which hold nothing, in those of `CONTINUOUS`, or in ``modelspec.prediction_type``.

    Raises:
        ModelError: it names a prediction type that no sampler of diffusers supports.
    """
    path = model.path
    if path.suffix.lower() != ".safetensors":
        return {}
    header = _header(model, path)
    metadata = header.get("__metadata__") or {}
    if CONTINUOUS["sigma_max"] in header and (continuous := _continuous(path)):
        return {"prediction_type": "v_prediction", **continuous}
    named = (
        "v"
        if "v_pred" in header
        else str(metadata.get("modelspec.prediction_type", "")).strip().lower()
    )
    if named and named not in PREDICTIONS:
        if metadata.get("modelspec.architecture", "").startswith(
            ("stable-diffusion-v", "stable-diffusion-xl")
        ):
            raise flow.ModelError(
                f"{path.name} says that it predicts '{named[:40]}' (modelspec.prediction_type), and"
                f" samplers follow {', '.join(sorted(set(PREDICTIONS.values())))}"
            )
        return {}
    prediction = PREDICTIONS.get(named, "")
    # At zero signal-to-noise ratio, the noise says nothing about the image: ztsnr only makes sense
    # for models that predict a velocity, with steps that begin there.
    zero = (
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if "ztsnr" in header and prediction == "v_prediction"
        else {}
    )
    return {"prediction_type": prediction, **zero} if prediction else {}


def _continuous(path: Path) -> dict[str, float]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as held:
            return {
                setting: float(held.get_tensor(name).reshape(-1)[0])
                for setting, name in CONTINUOUS.items()
                if name in held.keys()  # noqa: SIM118 - it is not a mapping
            }
    except (OSError, SafetensorError, IndexError, TypeError):
        return {}  # loading the file reports it


def kind_of_file(model: Model) -> str:
    """Say in words what a single file of weights is that is not a checkpoint."""
    path = model.path
    if path.suffix.lower() != ".safetensors":
        if path.suffix.lower() == ".gguf":
            if find_spec("gguf") is None:
                return "GGUF file (which is read once you say pip install 'imagen-flow[gguf]')"
            names = header_of(model)
            return next(
                (
                    f"{kind} as GGUF"
                    for pattern, kind in (*_ALONE_IN_GGUF, *_ALONE)
                    if kind != "denoiser alone" and any(re.search(pattern, name) for name in names)
                ),
                "GGUF file",
            )
        return (
            "pickle (convert it to safetensors: what a pickle holds is not known before it is"
            " loaded)"
        )
    names = header_of(model)
    return next(
        (kind for pattern, kind in _ALONE if any(re.search(pattern, name) for name in names)),
        "single file of weights",
    )


def header_of(model: Model, path: Path | None = None) -> Header:
    """Return dtype and shape by tensor of a file of weights: the model itself, or one in its
    folder. Empty for a damaged file, which is reported when it is loaded.
    """
    return {
        name: entry
        for name, entry in _header(model, path or model.path).items()
        if name != "__metadata__"
    }


def _header(model: Model, path: Path) -> Header:
    try:
        return loaders.read_header(model, path)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
    ):
        return {}
