"""Every sampler of diffusers that fits a model draws through a graph what it draws by hand; one
that does not fit is told, with those that do. So for what is said of guidance, layers and weights
of words.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow_diffusion.pipelines import samplers
from imagen_flow_diffusion.tiny import checkpoints

#: diffusers warns of what it itself does with numpy, torch, its own pipelines and samplers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::UserWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": checkpoints.stable_diffusion,
    "sdxl": checkpoints.stable_diffusion_xl,
    "sd3": checkpoints.stable_diffusion_3,
    "sana": checkpoints.sana,
}

SIZE = {"width": 32, "height": 32}


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a fox",
        "num_inference_steps": 3,
        "seed": 3,
        **SIZE,
        **more,
    }


FLOWS = ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"]
"""Samplers of both kinds of models, that end at the picture of one that predicts a flow."""

CLIPS = ["DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler"]
"""Samplers that clamp what they draw unless they are told not to."""


@pytest.mark.parametrize(
    ("base", "at_least"),
    [
        (
            "sd",
            [
                "DDIMScheduler",
                "EulerAncestralDiscreteScheduler",
                "LCMScheduler",
                "UniPCMultistepScheduler",
            ],
        ),
        ("sd3", []),
    ],
)
def test_every_sampler_that_fits_draws_as_by_hand(
    base: str,
    at_least: list[str],
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Each gives the pipeline's pixels with that sampler and the checkpoint's own settings, also
    where it draws noise of its own, and the pictures differ.
    """
    pipeline = by_hand(at(base))
    own = pipeline.scheduler
    fitting = [
        name
        for name, cls in samplers._samplers().items()
        if not hasattr(cls, "_backends") and samplers._fits(cls, own, {}, type(pipeline))
    ]
    assert (
        set(at_least) <= set(fitting)
        if base == "sd"
        else fitting
        == sorted(
            [
                *FLOWS,
                "FlowMatchEulerDiscreteScheduler",
                "FlowMatchHeunDiscreteScheduler",
                "FlowMatchLCMScheduler",
            ]
        )
    )
    seen = set()
    for name in fitting:
        given: dict[str, Any] = (
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
            if base == "sd3" and name in FLOWS
            else {}
        )
        given |= (
            {"clip_sample": False}
            if name in CLIPS
            else {"snr_shift_scale": 1.0, "clip_sample": False}
            if name == "CogVideoXDDIMScheduler"
            else {}
        )
        pipeline.scheduler = samplers._samplers()[name].from_config(own.config, **given)
        torch.manual_seed(3)
        theirs = pipeline("a fox", generator=noise(), num_inference_steps=3, **SIZE).images[0]
        ours = draw(one=drawn(at(base), sampler=name.removesuffix("Scheduler")))
        assert same(ours, theirs), name
        seen.add(ours.pixels.tobytes())
    assert len(seen) > len(fitting) * 0.7


NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}

OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "noise, as Stable Diffusion 1": (
        "PNDMScheduler",
        {**NOISE, "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False},
    ),
    "noise, as SDXL": (
        "EulerDiscreteScheduler",
        {**NOISE, "timestep_spacing": "leading", "steps_offset": 1},
    ),
    "noise, with nothing said": ("KDPM2DiscreteScheduler", {}),
    "velocity, as Stable Diffusion 2": (
        "DDIMScheduler",
        {
            **NOISE,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
    ),
    "velocity, down to no signal": (
        "EulerDiscreteScheduler",
        {
            **NOISE,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
    "the picture": ("EulerDiscreteScheduler", {**NOISE, "prediction_type": "sample"}),
    "a flow, as SD 3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "a flow, shifted by size": (
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0, "use_dynamic_shifting": True},
    ),
    "a flow, stretched to an end": (
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "shift_terminal": 0.02, "time_shift_type": "exponential"},
    ),
    "a flow, as Sana": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    ),
}
"""Samplers as checkpoints bring them, by what their models predict."""

CLEAN = torch.linspace(-2, 2, 256).reshape(1, 4, 8, 8)
"""A picture in latents, which go beyond 1."""

FIRST = 0.0292
"""The deviation of the noise that the first step of Stable Diffusion's schedule leaves: some classes end there."""


def predict(own: Any, x: torch.Tensor, time: float) -> torch.Tensor:
    """What a perfect model predicts of a noisy picture at a time, worked out of the schedule that
    the checkpoint was trained with.
    """
    config = own.config
    kind = config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction":
        return (x - CLEAN) / (time / 1000)
    start, end = config["beta_start"], config["beta_end"]
    betas = (
        torch.linspace(start, end, 1000).double()
        if config["beta_schedule"] == "linear"
        else torch.linspace(start**0.5, end**0.5, 1000).double() ** 2
    )
    signal = torch.cumprod(1 - betas, 0).sqrt()
    if config.get("rescale_betas_zero_snr"):
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    ratio = np.interp(
        time, np.arange(1000), np.log(signal.numpy().clip(1e-9) ** 2 / (1 - signal.numpy() ** 2))
    )
    alpha = float(1 / (1 + np.exp(-ratio))) ** 0.5
    sigma = (1 - alpha**2) ** 0.5
    noise = (x - alpha * CLEAN) / sigma
    return {"epsilon": noise, "v_prediction": alpha * noise - sigma * CLEAN, "sample": CLEAN}[
        kind
    ].float()


def last_step(sampler: Any, own: Any, steps: int) -> torch.Tensor:
    """Where a sampler ends with a perfect model."""
    generator, takes = noise(), inspect.signature(sampler.set_timesteps).parameters
    by_size: dict[str, Any] = {"mu": 0.8} if own.config.get("use_dynamic_shifting") else {}
    sampler.set_timesteps(
        steps,
        **by_size,
        **({"sigmas": np.linspace(1, 1 / steps, steps)} if by_size and "sigmas" in takes else {}),
    )
    x = torch.randn(CLEAN.shape, generator=generator) * getattr(sampler, "init_noise_sigma", 1.0)
    more = (
        {"generator": generator}
        if "generator" in inspect.signature(sampler.step).parameters
        else {}
    )
    for time in sampler.timesteps:
        seen = sampler.scale_model_input(x, time) if hasattr(sampler, "scale_model_input") else x
        x = sampler.step(predict(own, seen, float(time)), time, x, **more).prev_sample
    return x


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("steps", [4, 20])
def test_with_a_perfect_model_every_sampler_ends_at_the_picture(kind: str, steps: int) -> None:
    """The last step ends at the clean picture, or where the schedule's noise begins; a sampler that
    would not is refused, or what it loses of the checkpoint is said.
    """
    import diffusers

    name, settings = OWN[kind]
    own = getattr(diffusers, name).from_config(settings)
    first = (
        max(FIRST, ((1 / own.alphas_cumprod[0] - 1) ** 0.5).item())
        if hasattr(own, "alphas_cumprod")
        else 0
    )
    fitting = [
        cls
        for cls in samplers._samplers().values()
        if not hasattr(cls, "_backends") and samplers._fits(cls, own, {})
    ]
    assert len(fitting) >= 4
    for cls in fitting:
        pipeline = SimpleNamespace(scheduler=own)
        lost = samplers.set_sampler(pipeline, cls.__name__, None)
        off = (last_step(pipeline.scheduler, own, steps) - CLEAN).std().item()
        # Times are cut to whole numbers by some classes, so that a flow is off by a thousandth of
        # its length.
        assert off < (first * 1.2 if "flow" not in kind else 0.005) or (lost and off < 0.15), (
            cls.__name__,
            off,
        )


@pytest.mark.parametrize("name", samplers.UNFINISHED)
def test_a_sampler_that_leaves_noise_is_refused_for_a_flow(
    name: str, at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """It would end above sigma 0: measured with a perfect model, a quarter of the noise of 4 steps
    is left.
    """
    import diffusers

    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    sampler = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert (last_step(sampler, own, 4) - CLEAN).std() > 0.2
    said = failure(one=drawn(at("sd3"), sampler=name, sampler_settings=dict(samplers.FLOW)))
    assert said.startswith(
        f"'{name}' does not fit a model made for FlowMatchEulerDiscreteScheduler and would leave noise in the picture, for it never reaches sigma 0; these do: "
    )


@pytest.mark.parametrize(
    ("own", "sampler", "settings"),
    [
        (
            "a flow, as SD 3",
            "UniPCMultistep",
            {"flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        ),
        ("a flow, as Sana", "FlowMatchEulerDiscrete", {"shift": 3.0}),
        ("a flow, shifted by size", "DPMSolverMultistep", {"use_dynamic_shifting": True}),
        (
            "noise, as Stable Diffusion 1",
            "DDIM",
            {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
        ),
        ("noise, with nothing said", "LCM", {"beta_schedule": "linear", "beta_start": 0.00085}),
        (
            "velocity, down to no signal",
            "DDPM",
            {
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
            },
        ),
    ],
)
def test_a_checkpoints_own_settings_go_over(
    own: str, sampler: str, settings: dict[str, Any]
) -> None:
    """Under the name that the other class has for them; what the user says goes before."""
    import diffusers

    name, said = OWN[own]
    pipeline = SimpleNamespace(scheduler=getattr(diffusers, name).from_config(said))
    other = SimpleNamespace(scheduler=pipeline.scheduler)
    assert samplers.set_sampler(pipeline, sampler, None) == ""
    assert settings.items() <= pipeline.scheduler.config.items()
    first, value = next(iter(settings.items()))
    said_by_user = {
        first: not value
        if isinstance(value, bool)
        else "squaredcos_cap_v2"
        if isinstance(value, str)
        else 2.0
    }
    if first != "use_dynamic_shifting":
        samplers.set_sampler(other, sampler, said_by_user)
        assert said_by_user.items() <= other.scheduler.config.items()


@pytest.mark.parametrize(
    "sampler",
    [
        "DEISMultistep",
        "DPMSolverSinglestep",
        "HeunDiscrete",
        "KDPM2AncestralDiscrete",
        "KDPM2Discrete",
        "PNDM",
        "SASolver",
    ],
)
def test_what_a_sampler_loses_is_said(sampler: str) -> None:
    """Seven classes have no setting for a schedule that goes down to no signal."""
    import diffusers

    name, said = OWN["velocity, down to no signal"]
    pipeline = SimpleNamespace(scheduler=getattr(diffusers, name).from_config(said))
    words = samplers.set_sampler(pipeline, sampler, None)
    assert words.startswith(
        f"{sampler}Scheduler has no setting for what the checkpoint's own sampler says: rescale_betas_zero_snr: true"
    )
    assert words == samplers.lost_by(sampler, getattr(diffusers, name).from_config(said))


def test_what_a_sampler_loses_is_a_note_of_the_step(
    at: Callable[[str], str], tmp_path: Path
) -> None:
    """The user is told in the progress, by every node that takes a sampler."""
    folder = tmp_path / "sd"
    shutil.copytree(at("sd"), folder)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "use_karras_sigmas": True})
    )
    text = {"type": "text.encode", "model": str(folder), "prompt": "a"}
    for node in (
        {"type": "diffusion.text_to_image", "prompt": "a", **SIZE},
        {"type": "diffusion.denoise", "text": "${text}", **SIZE},
        {
            "type": "diffusion.pipeline",
            "arguments": {"prompt": "a", "num_inference_steps": 2, **SIZE},
        },
    ):
        steps = {} if "arguments" in node else {"num_inference_steps": 2}
        graph = {
            "imagen_flow": 1,
            "nodes": {
                "text": text,
                "one": {**node, **steps, "model": str(folder), "seed": 1, "sampler": "DDIM"},
            },
            "outputs": {"out": "${one}"},
        }
        assert any(
            "use_karras_sigmas: true" in getattr(event, "note", "")
            for event in flow.execute(flow.plan(graph, store=None, device="cpu"))
        ), node["type"]


FLOW_FAMILIES = [
    "aura_flow",
    "chroma",
    "cogview",
    "flux",
    "lumina",
    "qwen_image",
    "sana",
    "stable_diffusion_3",
    "z_image",
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FLOW_FAMILIES)
def test_every_sampler_that_is_named_as_fitting_draws(
    family: str, tmp_path: Path, by_hand: Callable[..., Any]
) -> None:
    """In each family's pipeline each class that the hint names takes the steps that the pipeline
    gives it, and ends at sigma 0.
    """
    getattr(checkpoints, family)(tmp_path / family)
    pipeline = by_hand(str(tmp_path / family))
    own = pipeline.scheduler
    with pytest.raises(ValueError, match="; these do: ") as caught:
        samplers.set_sampler(pipeline, "DDIM", None)
    names = str(caught.value).partition("; these do: ")[2].split(", ")
    assert {"FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"} <= set(names)
    for name in names:
        pipeline.scheduler = own
        samplers.set_sampler(pipeline, name, None)
        pipeline(
            "a fox",
            num_inference_steps=4,
            generator=noise(),
            output_type="latent",
            **SIZE,
            **({"use_resolution_binning": False} if family == "sana" else {}),
        )
        assert pipeline.scheduler.sigmas[-1] == 0, name


def test_what_a_sampler_makes_of_its_steps_is_told_in_words(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """An error that comes out of a sampler names it and the pipeline, and is no text of the library
    alone.
    """
    said = failure(one=drawn(at("sd"), sampler="LCM", num_inference_steps=60))
    assert said.startswith(
        "the sampler LCMScheduler does not work in StableDiffusionPipeline with these settings: "
    )


@pytest.mark.parametrize(
    ("base", "sampler", "words"),
    [
        (
            "sd3",
            "DDIM",
            f"'DDIM' does not fit a model made for FlowMatchEulerDiscreteScheduler; these do: {', '.join(FLOWS[:2])}, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler, {FLOWS[2]}",
        ),
        (
            "sana",
            "EulerDiscreteScheduler",
            "'EulerDiscreteScheduler' does not fit a model made for DPMSolverMultistepScheduler; these do: DPMSolverMultistepScheduler, ",
        ),
        (
            "sd",
            "FlowMatchEulerDiscreteScheduler",
            "'FlowMatchEulerDiscreteScheduler' does not fit a model made for PNDMScheduler; these do: ",
        ),
        ("sd", "EDMEuler", "'EDMEuler' does not fit a model made for PNDMScheduler; these do: "),
        (
            "sd",
            "RePaintScheduler",
            "'RePaintScheduler' does not fit a model made for PNDMScheduler; these do: ",
        ),
        (
            "sd",
            "EulerAncestral",
            "'EulerAncestral' is not a diffusers sampler; did you mean 'EulerAncestralDiscreteScheduler'?",
        ),
        (
            "sd",
            "dpmsolvermultistepscheduler",
            "'dpmsolvermultistepscheduler' is not a diffusers sampler; did you mean 'DPMSolverMultistepScheduler'?",
        ),
        (
            "sd3",
            "FlowMatchEulerScheduler",
            "'FlowMatchEulerScheduler' is not a diffusers sampler; did you mean 'FlowMatchEulerDiscreteScheduler'?",
        ),
        (
            "sd",
            "euler",
            "'euler' is not a diffusers sampler; did you mean 'EulerDiscreteScheduler'?",
        ),
        (
            "sd",
            "Euler a",
            "'Euler a' is not a diffusers sampler; did you mean 'EulerAncestralDiscreteScheduler'?",
        ),
        ("sd", "dpm2", "'dpm2' is not a diffusers sampler; did you mean 'KDPM2DiscreteScheduler'?"),
        ("sd", "+", "'+' is not a diffusers sampler; these do: "),
        ("sd", "SchedulerMixin", "'SchedulerMixin' is not a diffusers sampler; "),
    ],
)
def test_a_sampler_that_does_not_fit_is_told(
    base: str, sampler: str, words: str, at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """The message names those that do, or the one that was meant."""
    assert failure(one=drawn(at(base), sampler=sampler)).startswith(words)


def test_a_sampler_that_lacks_a_library_names_it(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """diffusers has samplers that need more than diffusers."""
    import importlib.util

    if importlib.util.find_spec("torchsde") is not None:
        pytest.skip("torchsde is installed")
    assert (
        failure(one=drawn(at("sd"), sampler="DPMSolverSDE"))
        == "'DPMSolverSDE' needs torchsde, which is not installed: pip install torchsde"
    )


def three(model: str, words: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Words to states, noise to latents, latents to pixels."""
    return {
        "text": {"type": "text.encode", "model": model, **words},
        "latents": {
            "type": "diffusion.denoise",
            "model": model,
            "text": "${text}",
            "num_inference_steps": 3,
            "seed": 3,
            **SIZE,
            **more,
        },
        "out": {"type": "latents.decode", "model": model, "latents": "${latents}"},
    }


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_guidance_is_rescaled_as_by_hand(
    base: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """In one node and in three."""
    given = {"guidance_scale": 9.0, "guidance_rescale": 0.7}
    theirs = by_hand(at(base))(
        "a fox", generator=noise(), num_inference_steps=3, **SIZE, **given
    ).images[0]
    ours = draw(one=drawn(at(base), **given))
    assert same(ours, theirs)
    assert same(draw(**three(at(base), {"prompt": "a fox"}, **given)), theirs)
    assert not same(draw(one=drawn(at(base), guidance_scale=9.0)), ours.pixels)


def test_layers_of_both_encoders_are_skipped_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """SDXL without one layer more."""
    theirs = by_hand(at("sdxl"))(
        "a fox", clip_skip=1, generator=noise(), num_inference_steps=3, **SIZE
    ).images[0]
    assert same(draw(one=drawn(at("sdxl"), clip_skip=1)), theirs)
    assert same(draw(**three(at("sdxl"), {"prompt": "a fox", "clip_skip": 1})), theirs)
    assert not same(draw(one=drawn(at("sdxl"))), theirs)


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_words_are_weighted_as_by_hand(
    base: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """Compel with the pipeline's own encoders gives the states, and the pipeline with these the
    pixels.
    """
    from compel import Compel, ReturnedEmbeddingsType

    prompt, negative = "a (red)1.6 fox, " + "so very long a prompt " * 8, "(blue)0.5"
    pipeline = by_hand(at(base))
    if base == "sd":
        compel = Compel(
            tokenizer=pipeline.tokenizer,
            text_encoder=pipeline.text_encoder,
            truncate_long_prompts=False,
        )
        states = dict(
            zip(
                ("prompt_embeds", "negative_prompt_embeds"),
                compel.pad_conditioning_tensors_to_same_length([compel(prompt), compel(negative)]),
                strict=True,
            )
        )
    else:
        compel = Compel(
            tokenizer=[pipeline.tokenizer, pipeline.tokenizer_2],
            text_encoder=[pipeline.text_encoder, pipeline.text_encoder_2],
            requires_pooled=[False, True],
            truncate_long_prompts=False,
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        )
        (states_of, pooled), (negative_of, negative_pooled) = compel(prompt), compel(negative)
        states_of, negative_of = compel.pad_conditioning_tensors_to_same_length(
            [states_of, negative_of], precomputed_padding=compel("")[0]
        )
        states = {
            "prompt_embeds": states_of,
            "negative_prompt_embeds": negative_of,
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": negative_pooled,
        }
    theirs = pipeline(**states, generator=noise(), num_inference_steps=3, **SIZE).images[0]
    assert same(
        draw(
            **three(
                at(base), {"prompt": prompt, "negative_prompt": negative, "weighting": "compel"}
            )
        ),
        theirs,
    )
