"""Every sampler of diffusers that fits a model draws through a graph what it draws by hand; one that does not fit is told, with those that do. So for what is said of guidance, layers and weights of words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagen_flow_diffusion.pipelines import samplers
from imagen_flow_diffusion.tiny import checkpoints

#: diffusers warns of what it itself does with numpy, torch, its own pipelines and samplers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::UserWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {"sd": checkpoints.stable_diffusion, "sdxl": checkpoints.stable_diffusion_xl, "sd3": checkpoints.stable_diffusion_3, "sana": checkpoints.sana}

SIZE = {"width": 32, "height": 32}


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {"type": "diffusion.text_to_image", "model": model, "prompt": "a fox", "num_inference_steps": 3, "seed": 3, **SIZE, **more}


FLOWS = ["DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"]
"""Samplers of both kinds of models."""


@pytest.mark.parametrize(("base", "at_least"), [("sd", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "UniPCMultistepScheduler"]), ("sd3", [])])
def test_every_sampler_that_fits_draws_as_by_hand(base: str, at_least: list[str], at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]) -> None:
    """Each gives the pipeline's pixels with that sampler, also where it draws noise of its own, and the pictures differ."""
    pipeline = by_hand(at(base))
    own, settings = pipeline.scheduler, dict(samplers.FLOW) if base == "sd3" else {}
    fitting = [name for name, cls in samplers._samplers().items() if not hasattr(cls, "_backends") and samplers._fits(cls, own, settings)]
    assert set(at_least) <= set(fitting) if base == "sd" else fitting == sorted([*FLOWS, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"])
    seen = set()
    for name in fitting:
        given = settings if name in FLOWS else {}
        pipeline.scheduler = samplers._samplers()[name].from_config(own.config, **given)
        torch.manual_seed(3)
        theirs = pipeline("a fox", generator=noise(), num_inference_steps=3, **SIZE).images[0]
        ours = draw(one=drawn(at(base), sampler=name.removesuffix("Scheduler"), sampler_settings=given or None))
        assert same(ours, theirs), name
        seen.add(ours.pixels.tobytes())
    assert len(seen) > len(fitting) * 0.7


@pytest.mark.parametrize(
    ("base", "sampler", "words"),
    [
        ("sd3", "DDIM", "'DDIM' does not fit a model made for FlowMatchEulerDiscreteScheduler; these do: FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler; with the "
        f"sampler_settings {{prediction_type: flow_prediction, use_flow_sigmas: true}} also: {', '.join(FLOWS)}"),
        ("sd3", "UniPCMultistepScheduler", "'UniPCMultistepScheduler' does not fit a model made for FlowMatchEulerDiscreteScheduler; "),
        ("sana", "EulerDiscreteScheduler", "'EulerDiscreteScheduler' does not fit a model made for DPMSolverMultistepScheduler; these do: DEISMultistepScheduler, "),
        ("sd", "FlowMatchEulerDiscreteScheduler", "'FlowMatchEulerDiscreteScheduler' does not fit a model made for PNDMScheduler; these do: "),
        ("sd", "RePaintScheduler", "'RePaintScheduler' does not fit a model made for PNDMScheduler; these do: "),
        ("sd", "EulerAncestral", "'EulerAncestral' is no sampler of diffusers; did you mean 'EulerAncestralDiscreteScheduler'?"),
        ("sd", "dpmsolvermultistepscheduler", "'dpmsolvermultistepscheduler' is no sampler of diffusers; did you mean 'DPMSolverMultistepScheduler'?"),
        ("sd3", "FlowMatchEulerScheduler", "'FlowMatchEulerScheduler' is no sampler of diffusers; did you mean 'FlowMatchEulerDiscreteScheduler'?"),
        ("sd", "euler", "'euler' is no sampler of diffusers; did you mean 'EulerDiscreteScheduler'?"),
        ("sd", "Euler a", "'Euler a' is no sampler of diffusers; did you mean 'EulerAncestralDiscreteScheduler'?"),
        ("sd", "dpm2", "'dpm2' is no sampler of diffusers; did you mean 'KDPM2DiscreteScheduler'?"),
        ("sd", "+", "'+' is no sampler of diffusers; these do: "),
        ("sd", "SchedulerMixin", "'SchedulerMixin' is no sampler of diffusers; "),
    ],
)  # fmt: skip
def test_a_sampler_that_does_not_fit_is_told(base: str, sampler: str, words: str, at: Callable[[str], str], failure: Callable[..., str]) -> None:
    """The message names those that do, or the one that was meant."""
    assert failure(one=drawn(at(base), sampler=sampler)).startswith(words)


def test_a_sampler_that_lacks_a_library_names_it(at: Callable[[str], str], failure: Callable[..., str]) -> None:
    """diffusers has samplers that need more than diffusers."""
    import importlib.util

    if importlib.util.find_spec("torchsde") is not None:
        pytest.skip("torchsde is installed")
    assert failure(one=drawn(at("sd"), sampler="DPMSolverSDE")) == "'DPMSolverSDE' needs torchsde, which is not installed: pip install torchsde"


def three(model: str, words: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Words to states, noise to latents, latents to pixels."""
    return {
        "text": {"type": "text.encode", "model": model, **words},
        "latents": {"type": "diffusion.denoise", "model": model, "text": "${text}", "num_inference_steps": 3, "seed": 3, **SIZE, **more},
        "out": {"type": "latents.decode", "model": model, "latents": "${latents}"},
    }


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_guidance_is_rescaled_as_by_hand(base: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]) -> None:
    """In one node and in three."""
    given = {"guidance_scale": 9.0, "guidance_rescale": 0.7}
    theirs = by_hand(at(base))("a fox", generator=noise(), num_inference_steps=3, **SIZE, **given).images[0]
    ours = draw(one=drawn(at(base), **given))
    assert same(ours, theirs)
    assert same(draw(**three(at(base), {"prompt": "a fox"}, **given)), theirs)
    assert not same(draw(one=drawn(at(base), guidance_scale=9.0)), ours.pixels)


def test_layers_of_both_encoders_are_skipped_as_by_hand(at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]) -> None:
    """SDXL without one layer more."""
    theirs = by_hand(at("sdxl"))("a fox", clip_skip=1, generator=noise(), num_inference_steps=3, **SIZE).images[0]
    assert same(draw(one=drawn(at("sdxl"), clip_skip=1)), theirs)
    assert same(draw(**three(at("sdxl"), {"prompt": "a fox", "clip_skip": 1})), theirs)
    assert not same(draw(one=drawn(at("sdxl"))), theirs)


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_words_are_weighted_as_by_hand(base: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]) -> None:
    """Compel with the pipeline's own encoders gives the states, and the pipeline with these the pixels."""
    from compel import Compel, ReturnedEmbeddingsType

    prompt, negative = "a (red)1.6 fox, " + "so very long a prompt " * 8, "(blue)0.5"
    pipeline = by_hand(at(base))
    if base == "sd":
        compel = Compel(tokenizer=pipeline.tokenizer, text_encoder=pipeline.text_encoder, truncate_long_prompts=False)
        states = dict(zip(("prompt_embeds", "negative_prompt_embeds"), compel.pad_conditioning_tensors_to_same_length([compel(prompt), compel(negative)]), strict=True))
    else:
        compel = Compel(
            tokenizer=[pipeline.tokenizer, pipeline.tokenizer_2], text_encoder=[pipeline.text_encoder, pipeline.text_encoder_2], requires_pooled=[False, True], truncate_long_prompts=False,
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        )  # fmt: skip
        (states_of, pooled), (negative_of, negative_pooled) = compel(prompt), compel(negative)
        states_of, negative_of = compel.pad_conditioning_tensors_to_same_length([states_of, negative_of], precomputed_padding=compel("")[0])
        states = {"prompt_embeds": states_of, "negative_prompt_embeds": negative_of, "pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    theirs = pipeline(**states, generator=noise(), num_inference_steps=3, **SIZE).images[0]
    assert same(draw(**three(at(base), {"prompt": prompt, "negative_prompt": negative, "weighting": "compel"})), theirs)
