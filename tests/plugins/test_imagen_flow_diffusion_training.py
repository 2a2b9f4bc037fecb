"""Training a LoRA takes the steps that diffusers and peft take by hand, goes on after a kill to the
same weights, and writes files that diffusers draws our picture with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow._types.models import Model
from imagen_flow.events import Event, StepProgress
from imagen_flow_diffusion.loading.components import Trainable
from imagen_flow_diffusion.tiny import checkpoints
from imagen_flow_diffusion.training import examples, layers, lora, objective
from imagen_flow_diffusion.training.files import read_facts

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


def _sampled(folder: Path, make: Callable[[Path], Path], **settings: Any) -> Path:
    """Make a checkpoint whose sampler has other settings."""
    make(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **settings}), "utf-8")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": checkpoints.stable_diffusion,
    "sd-v": partial(_sampled, make=checkpoints.stable_diffusion, prediction_type="v_prediction"),
    "sd-zero": partial(
        _sampled,
        make=checkpoints.stable_diffusion,
        _class_name="DDIMScheduler",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    ),
    "sdxl": checkpoints.stable_diffusion_xl,
    "sdxl-refiner": partial(checkpoints.stable_diffusion_xl, refiner=True),
    "inpainting": partial(
        checkpoints.stable_diffusion, class_name="StableDiffusionInpaintPipeline", reads=9
    ),
    "flux": checkpoints.flux,
    "sd3": checkpoints.stable_diffusion_3,
    "latent-consistency": checkpoints.latent_consistency,
    "instruct-pix2pix": checkpoints.instruct_pix2pix,
}

SIDE = 64


def pictures(count: int, *, width: int = SIDE, height: int = SIDE) -> list[flow.Image]:
    rng = np.random.default_rng(5)
    return [
        flow.Image(
            np.kron(rng.integers(0, 255, (8, 8, 3), dtype="uint8"), np.ones((8, 8, 1), "uint8"))[
                :height, :width
            ]
        )
        for _ in range(count)
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three pictures to learn from."""
    paths = []
    for number, picture in enumerate(pictures(3)):
        paths.append(str(tmp_path / f"{number}.png"))
        PIL.Image.fromarray(picture.pixels).save(paths[-1])
    return paths


CAPTIONS = ["a fox", "a red fox", "a cat on a mat"]


def trained(model: str, files: list[str], **more: Any) -> dict[str, dict[str, Any]]:
    """The nodes that load pictures and train on them."""
    lora = {
        "type": "train.lora",
        "model": model,
        "images": "${images}",
        "captions": CAPTIONS[: len(files)],
        "steps": 3,
        "batch_size": 2,
        "rank": 4,
        "alpha": 2.0,
        "learning_rate": 1e-2,
        "resolution": SIDE,
        "seed": 3,
        **more,
    }
    return {"images": {"type": "image.load", "each": {"file": files}}, "lora": lora}


def run(nodes: dict[str, dict[str, Any]], pool: ModelPool, out: str = "lora", **more: Any) -> Any:
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + out + "}"}}
    return flow.run(graph, pool=pool, device="cpu", **{"store": None, **more})["out"]


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Run nodes in a store, and read the weights that were trained."""

    def read(nodes: dict[str, dict[str, Any]], pool: ModelPool, **more: Any) -> Any:
        graph = {
            "imagen_flow": 1,
            "nodes": nodes,
            "outputs": {"lora": {"from": "${lora}", "path": "lora"}},
        }
        flow.run(graph, pool=pool, device="cpu", store=tmp_path / "store", out=tmp_path, **more)
        return load_file(tmp_path / "lora" / layers.FILE)

    return read


# --- the steps


def steps_by_hand(
    path: str, settings: lora.Settings, *, schedule: dict[str, Any]
) -> dict[str, Any]:
    """Take the steps with diffusers and peft alone, with the numbers that the seed draws."""
    from diffusers import DDPMScheduler, DiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = DiffusionPipeline.from_pretrained(path)
    unet, vae = pipeline.unet, pipeline.vae
    first = layers.first_weights(unet, "attention", 4, lora.torch_generator(settings.seed, -1))
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    chosen = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    for name, weight in chosen.items():
        weight.data.copy_(first[name.replace(".default", "")])
    noise_schedule = DDPMScheduler.from_config(pipeline.scheduler.config, **schedule)
    pixels = [torch.tensor(p.pixels).permute(2, 0, 1)[None] / 127.5 - 1 for p in pictures(3)]
    xl = "XL" in type(pipeline).__name__
    with torch.no_grad():
        dists = [vae.encode(each).latent_dist for each in pixels]
        texts = [pipeline.encode_prompt(t, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True) for t in CAPTIONS]  # fmt: skip
    states = torch.cat([t[0] for t in texts] + [texts[0][1]])
    pooled = torch.cat([t[2] for t in texts] + [texts[0][3]]) if xl else None
    optimizer = torch.optim.AdamW(chosen.values(), lr=settings.learning_rate)
    order = lora.draw_order([tuple(d.mean[0].shape) for d in dists], settings)
    for step in range(settings.steps):
        generator = lora.torch_generator(settings.seed, step)
        rows = order[step]
        mean = torch.cat([dists[i].mean for i in rows])
        std = torch.cat([dists[i].std for i in rows])
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        latents = latents * vae.config.scaling_factor
        noise = torch.randn(mean.shape, generator=generator)
        times = torch.randint(1000, (len(rows),), generator=generator)
        left_out = torch.rand(len(rows), generator=generator) < settings.caption_dropout
        words = torch.where(left_out, 3, torch.tensor(rows))
        added = {"text_embeds": pooled[words], "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * len(rows)).float()} if xl else None  # fmt: skip
        noisy = noise_schedule.add_noise(latents, noise, times)
        guess = unet(noisy, times, states[words], added_cond_kwargs=added).sample
        alphas = noise_schedule.alphas_cumprod[times]
        snr = (alphas**0.5 / (1 - alphas) ** 0.5) ** 2
        if noise_schedule.config.prediction_type == "v_prediction":
            target = noise_schedule.get_velocity(latents, noise, times)
            weights = torch.clamp(snr, max=5) / (snr + 1)
        else:
            target, weights = noise, torch.clamp(snr, max=5) / snr
        loss = (((guess - target) ** 2).flatten(1).mean(1) * weights).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(chosen.values(), 1.0)
        optimizer.step()
    return {
        f"unet.{name}": value * 0.5 if "lora_B" in name else value
        for name, value in get_peft_model_state_dict(unet).items()
    }


@pytest.mark.parametrize("name", ["sd", "sd-v", "sd-zero", "sdxl"])
def test_the_steps_are_those_of_diffusers_and_peft(
    name: str,
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """Three steps of AdamW give the weights that diffusers' schedule and networks and peft's layers
    give by hand: for noise and velocity, with zero terminal SNR, and with SDXL's two encoders and
    sizes.
    """
    ours = kept(trained(at(name), files), pool)
    settings = lora.Settings(3, 2, 4, 2.0, "attention", 1e-2, "constant", 0, 5.0, 0.1, 3)
    zero = {"rescale_betas_zero_snr": True} if name == "sd-zero" else {}
    theirs = steps_by_hand(at(name), settings, schedule=zero)
    assert sorted(ours) == sorted(theirs)
    assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    assert max(float(value.abs().max()) for key, value in ours.items() if "lora_B" in key) > 1e-3


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    at: Callable[[str], str], pool: ModelPool, tmp_path: Path
) -> None:
    """What lies in the scratch folder after any step leads to the weights, the losses and the
    examples of the run that nobody killed, bit for bit.
    """
    settings = lora.Settings(4, 2, 4, 2.0, "transformer", 1e-2, "cosine", 1, 5.0, 0.3, 7)
    model = Model(Path(at("sdxl")), digest="sdxl", reference="sdxl")
    with pool.lease(Trainable(), model, device="cpu", dtype="float32") as leased:
        whole = _finish(leased, settings, tmp_path / "whole")
        for killed_after in (1, 3):
            scratch = tmp_path / f"{killed_after}"
            running = _started(leased, settings, scratch)
            for _ in range(4 + 1 + killed_after):
                next(running)
            shutil.copytree(scratch, tmp_path / f"copy{killed_after}")
            running.close()
            resumed = _finish(leased, settings, tmp_path / f"copy{killed_after}")
            assert resumed.losses == whole.losses
            assert [n for n, v in whole.weights.items() if not v.equal(resumed.weights[n])] == []


def _started(leased: Any, settings: lora.Settings, scratch: Path) -> Iterator[flow.Progress]:
    import diffusers

    scratch.mkdir(exist_ok=True)
    pipeline = leased.pipeline(getattr(diffusers, leased.kind))
    schedule = objective.noise_schedule(pipeline.scheduler, "sdxl")
    found = yield from examples.encode(
        leased, pictures(3), CAPTIONS, SIDE, crop=True, kept=scratch / "examples.safetensors"
    )
    return (yield from lora.train(leased, found, schedule, settings, scratch, saved_every_s=0.0))


def _finish(leased: Any, settings: lora.Settings, scratch: Path) -> lora.Trained:
    running = _started(leased, settings, scratch)
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


def test_a_run_that_was_cancelled_stops_within_a_step_and_goes_on(
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    tmp_path: Path,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """Cancelling ends the run at the step that is being taken; the next run takes the rest only,
    and its weights are those of a run in one go.
    """
    nodes = trained(at("sd"), files, steps=8)
    whole = kept(nodes, pool)
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / "lora")
    seen: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepProgress) and event.node == "lora":
            assert event.total == len(files) + 8
            seen.append(event.done)
            if event.done == len(files) + 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(nodes, pool, on_event=watch)
    assert not (tmp_path / "lora").exists()
    (scratch,) = (tmp_path / "store" / "scratch").iterdir()
    found = read_facts(scratch / "checkpoint.safetensors")
    assert found is not None
    assert len(found[1]) in (2, 3)
    seen.clear()
    again = kept(nodes, pool, on_event=lambda event: seen.append(getattr(event, "done", 0)))
    assert len(files) + 1 not in seen
    assert [key for key, value in whole.items() if not torch.equal(again[key], value)] == []


# --- what is trained


def test_the_loss_falls_where_one_picture_is_learnt(
    at: Callable[[str], str], files: list[str], pool: ModelPool
) -> None:
    """A LoRA of all layers learns one picture with one caption: its loss falls by a third."""
    nodes = trained(
        at("sd"), files[:1], steps=60, batch_size=8, rank=16, targets="all", caption_dropout=0.0
    )
    losses = [row["loss"] for row in run(nodes, pool, "lora.losses")]
    assert np.mean(losses[-10:]) < 0.67 * np.mean(losses[:5])


@pytest.mark.parametrize("names", ["peft", "kohya"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_diffusers_draws_our_picture_with_the_file(
    name: str,
    names: str,
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    tmp_path: Path,
    by_hand: Callable[[str], Any],
) -> None:
    """The trained LoRA, given to the next node, draws what diffusers draws with the file that is
    written, bit for bit; and not what the base draws.
    """
    call = {"num_inference_steps": 2, "width": SIDE, "height": SIDE}
    drawn = {
        "type": "diffusion.text_to_image",
        "model": at(name),
        "prompt": "a fox",
        "seed": 3,
        **call,
    }
    nodes = {
        **trained(at(name), files, targets="all", names=names, learning_rate=0.1),
        "plain": drawn,
        "drawn": {**drawn, "loras": [{"model": "${lora}"}]},
    }
    graph = {
        "imagen_flow": 1,
        "nodes": nodes,
        "outputs": {
            "plain": "${plain}",
            "drawn": "${drawn}",
            "lora": {"from": "${lora}", "path": "lora"},
        },
    }
    outputs = flow.run(graph, store=None, pool=pool, device="cpu", out=tmp_path)
    pipeline = by_hand(at(name))
    pipeline.load_lora_weights(str(tmp_path / "lora"))
    theirs = pipeline("a fox", generator=torch.Generator().manual_seed(3), **call).images[0]
    assert np.array_equal(outputs["drawn"].pixels, np.asarray(theirs))
    assert not np.array_equal(outputs["drawn"].pixels, outputs["plain"].pixels)
