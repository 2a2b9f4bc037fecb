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
    "sd-sample": partial(_sampled, make=checkpoints.stable_diffusion, prediction_type="sample"),
    "sdxl": checkpoints.stable_diffusion_xl,
    "sdxl-edm": partial(
        _sampled,
        make=checkpoints.stable_diffusion_xl,
        _class_name="EDMEulerScheduler",
        sigma_min=0.002,
        sigma_max=80.0,
    ),
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
        elif noise_schedule.config.prediction_type == "sample":
            target, weights = latents, torch.clamp(snr, max=5)
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


@pytest.mark.parametrize("name", ["sd", "sd-v", "sd-zero", "sd-sample", "sdxl"])
def test_the_steps_are_those_of_diffusers_and_peft(
    name: str,
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """Three steps of AdamW give the weights that diffusers' schedule and networks and peft's layers
    give by hand: for noise, velocity and pictures, with zero terminal SNR, and with SDXL's two
    encoders and sizes.
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
    """A LoRA of all layers learns one picture with one caption: its loss falls to a half."""
    nodes = trained(
        at("sd"),
        files[:1],
        steps=25,
        batch_size=4,
        rank=16,
        targets="all",
        learning_rate=3e-2,
        caption_dropout=0.0,
        min_snr_gamma=0.0,
    )
    losses = [row["loss"] for row in run(nodes, pool, "lora.losses")]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


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


@pytest.mark.parametrize("targets", ["attention", "transformer", "all"])
def test_what_saves_memory_changes_no_weight(
    targets: str,
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """Gradient checkpointing computes again what it does not keep, and the base is left as it was
    lent; more targets are more layers.
    """
    plain = kept(trained(at("sd"), files, targets=targets), pool)
    spared = kept(trained(at("sd"), files, targets=targets, gradient_checkpointing=True), pool)
    assert [name for name, value in plain.items() if not value.equal(spared[name])] == []
    layers_of = {name.rpartition(".lora_")[0] for name in plain}
    assert len(layers_of) == {"attention": 32, "transformer": 48, "all": 79}[targets]


SIZES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "Stable Diffusion 1.5": (
        {"cross_attention_dim": 768, "attention_head_dim": 8},
        [128, 192, 278],
    ),
    "SDXL": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "projection_class_embeddings_input_dim": 2816,
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
        },
        [560, 722, 788],
    ),
}
"""Networks of true size, and how many layers of each are trained."""


@pytest.mark.parametrize("name", SIZES)
def test_as_many_layers_are_trained_as_by_other_trainers(name: str) -> None:
    """In networks of true size: `transformer` and `all` are the 192 and 722 modules of kohya's
    trainer, and its 278 with convolutions; `attention` are those of diffusers' scripts.
    """
    from diffusers import UNet2DConditionModel

    config, counts = SIZES[name]
    with torch.device("meta"):
        network = UNet2DConditionModel(**config)
    first = [
        layers.first_weights(network, targets, 1, lora.torch_generator(1, -1))
        for targets in layers.ENDINGS
    ]
    assert [len(weights) // 2 for weights in first] == counts


def test_where_memory_ran_out_less_is_kept_and_the_weights_are_the_same(
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    kept: Callable[..., dict[str, torch.Tensor]],
    failure: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step that runs out of memory is tried again with gradient checkpointing; where that does
    not help either, it is said what needs less.
    """
    plain = kept(trained(at("sd"), files), pool)
    backward, failing = torch.Tensor.backward, 1

    def scarce(tensor: torch.Tensor) -> None:
        nonlocal failing
        failing -= 1
        if failing >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        backward(tensor)

    monkeypatch.setattr(torch.Tensor, "backward", scarce)
    spared = kept(trained(at("sd"), files, names="kohya"), pool)
    assert failing < 0
    ups = [value for name, value in plain.items() if ".lora_A." in name]
    downs = [value for name, value in spared.items() if ".lora_down." in name]
    assert len(ups) == len(downs)
    assert all(any(torch.equal(up, down) for down in downs) for up in ups)
    failing = 100
    assert failure(**trained(at("sd"), files)) == (
        "out of memory at batch_size: 2 and pictures of 64 x 64: lower 'batch_size', 'resolution'"
        " or 'rank' (CUDA out of memory)"
    )


def test_nothing_is_left_behind(
    at: Callable[[str], str], files: list[str], pool: ModelPool
) -> None:
    """Training draws from no generator of the process, changes no model that it is lent, and leaves
    computing of gradients as it was.
    """
    notes: list[str] = []
    nodes = trained(at("sdxl"), files, gradient_checkpointing=True)
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${lora}"}}
    before = torch.random.get_rng_state()
    outputs = flow.run(
        graph, store=None, pool=pool, device="cpu", on_event=lambda e: notes.append(str(e))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert outputs.notes == ()
    assert not [note for note in notes if "left changed" in note or "loaded again" in note]


def test_the_names_are_those_of_the_trainers(
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """diffusers' have the strength in the matrices; kohya's have an alpha for each layer, and the
    matrices as they were trained.
    """
    plain = kept(trained(at("sd"), files, targets="all"), pool)
    kohya = kept(trained(at("sd"), files, targets="all", names="kohya"), pool)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    flat = f"lora_unet_{layer.replace('.', '_')}"
    assert torch.equal(plain[f"unet.{layer}.lora_A.weight"], kohya[f"{flat}.lora_down.weight"])
    assert torch.equal(plain[f"unet.{layer}.lora_B.weight"], kohya[f"{flat}.lora_up.weight"] / 2)
    assert kohya[f"{flat}.alpha"] == 2.0
    assert "lora_unet_down_blocks_0_resnets_0_time_emb_proj.alpha" in kohya
    assert len(kohya) == 3 * len(plain) // 2


def test_a_broken_picture_is_left_out_with_its_caption(
    at: Callable[[str], str], files: list[str], pool: ModelPool
) -> None:
    """With `on_error: drop` where pictures are loaded; the others keep their own captions."""
    whole = trained(at("sd"), [files[0], files[2]])
    whole["lora"]["captions"] = [CAPTIONS[0], CAPTIONS[2]]
    expected = run(whole, pool, "lora.losses")
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:100])
    nodes = trained(at("sd"), files)
    nodes["images"]["on_error"] = "drop"
    assert run(nodes, pool, "lora.losses") == expected


def test_other_captions_are_another_training(
    at: Callable[[str], str],
    files: list[str],
    pool: ModelPool,
    tmp_path: Path,
    kept: Callable[..., dict[str, torch.Tensor]],
) -> None:
    """What a run that was cancelled has left is not gone on with for other data."""
    nodes = trained(at("sd"), files, steps=5)

    def stop(event: Event) -> None:
        if isinstance(event, StepProgress) and event.done == len(files) + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(nodes, pool, on_event=stop)
    nodes["lora"]["captions"] = ["a hat", *CAPTIONS[1:]]
    other = kept(nodes, pool)
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / "lora")
    anew = kept(nodes, pool)
    assert [name for name, value in anew.items() if not value.equal(other[name])] == []


# --- which part of a picture


def test_pictures_are_cut_in_their_middle() -> None:
    """Square: the middle of the longer side, at the scale of the shorter one, and SDXL is told the
    size, the cut after resizing and the target, heights first; a picture of one row is no trouble.
    """
    wide = examples.frame(1000, 500, 256, crop=True, grid=64)
    assert wide == examples.Frame((250, 0, 750, 500), 256, 256, (500, 1000, 0, 128, 256, 256))
    tall = examples.frame(50, 100, 100, crop=True, grid=8)
    assert tall == examples.Frame((0, 25, 50, 75), 100, 100, (100, 50, 50, 0, 100, 100))
    thread = examples.frame(100_000, 1, 64, crop=True, grid=8)
    assert (thread.box[2] - thread.box[0], thread.width) == (1, 64)


def test_pictures_may_keep_their_proportions() -> None:
    """At about as many pixels on a grid, up to four to one."""
    part = examples.frame(1600, 900, 1024, crop=False, grid=64)
    assert (part.width, part.height) == (1344, 768)
    assert part.width * part.height == pytest.approx(1024**2, rel=0.05)
    assert part.box[3] - part.box[1] == pytest.approx((part.box[2] - part.box[0]) * 768 / 1344)
    assert part.time_ids[:2] + part.time_ids[4:] == (900, 1600, 768, 1344)
    thread = examples.frame(10_000, 1, 512, crop=False, grid=64)
    assert (thread.width, thread.height) == (1024, 256)


def test_a_step_learns_from_pictures_of_one_size_and_each_as_often() -> None:
    """All pictures are seen before any is again; those of another size wait for their own step."""
    settings = lora.Settings(60, 2, 4, 4.0, "attention", 1e-4, "constant", 0, 5.0, 0.1, 3)
    order = lora.draw_order([(4, 8, 8)] * 4, settings)
    assert all(len(step) == 2 for step in order)
    assert all(sorted(order[i] + order[i + 1]) == [0, 1, 2, 3] for i in range(0, 60, 2))
    mixed = lora.draw_order([(4, 8, 8), (4, 6, 10), (4, 8, 8)], settings)
    assert {tuple(sorted(step)) for step in mixed} == {(0, 2), (1, 1)}
    assert lora.draw_order([(4, 8, 8)], settings) == [[0, 0]] * 60


def test_pictures_of_many_shapes_are_trained_on(
    at: Callable[[str], str], tmp_path: Path, pool: ModelPool
) -> None:
    """Wide, tall, grey, with alpha, of 16 bits, of one pixel; those that are too small are noted,
    and a caption that is too long.
    """
    shapes = [(100, 40), (30, 90), (1, 1), (64, 64)]
    modes = ["L", "RGBA", "I;16", "RGB"]
    paths = []
    for (width, height), mode in zip(shapes, modes, strict=True):
        paths.append(str(tmp_path / f"{mode[0]}{width}.png"))
        PIL.Image.new(mode, (width, height), 100).save(paths[-1])
    notes = []
    for crop in (True, False):
        nodes = trained(at("sdxl"), paths, crop=crop)
        nodes["lora"]["captions"] = ["", "a fox " * 500, "一只红狐狸", "a\x00b"]
        graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${lora.losses}"}}
        outputs = flow.run(graph, store=None, pool=pool, device="cpu")
        assert len(outputs["out"]) == 3
        notes += [note.message for note in outputs.notes]
    assert "3 of 4 pictures are smaller than what is learnt from" in notes[0]
    assert "the caption 'a fox a fox" in notes[0]
    assert "some captions are empty" in notes[0]


# --- what cannot be trained


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flux", "it is a FluxPipeline, and train.lora takes Stable Diffusion 1, 2 or SDXL"),
        ("sd3", "it is a StableDiffusion3Pipeline, and train.lora takes"),
        ("inpainting", "its network reads 9 channels and gives 4"),
        ("sdxl-refiner", "its network reads more than noise, words and sizes"),
        ("latent-consistency", "it is a LatentConsistencyModelPipeline"),
        ("instruct-pix2pix", "it is a StableDiffusionInstructPix2PixPipeline"),
    ],
)
def test_other_checkpoints_are_refused_when_planning(
    name: str, words: str, at: Callable[[str], str], files: list[str]
) -> None:
    """The family is named, and what is trained."""
    graph = {"imagen_flow": 1, "nodes": trained(at(name), files), "outputs": {"o": "${lora}"}}
    (problem,) = flow.plan(graph, store=None, device="cpu").problems
    assert words in str(problem)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rank": 0}, "rank"),
        ({"steps": 0}, "steps"),
        ({"alpha": 0.0}, "alpha"),
        ({"targets": "text"}, "targets"),
        ({"caption_dropout": 1.5}, "caption_dropout"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"resolution": 100}, "say 96 or 104"),
    ],
)
def test_numbers_out_of_range_are_refused_when_planning(
    more: dict[str, Any], words: str, at: Callable[[str], str], files: list[str]
) -> None:
    """With the port, and what it takes."""
    nodes = trained(at("sd"), files, **more)
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"o": "${lora}"}}
    try:
        problems = flow.plan(graph, store=None, device="cpu").problems
    except flow.GraphError as error:
        problems = error.problems
    assert words in "\n".join(map(str, problems))


def test_a_quantized_model_is_refused_when_planning(
    at: Callable[[str], str], files: list[str], tmp_path: Path
) -> None:
    """One that is to be loaded so, and one that was saved so."""
    nodes = trained(at("sd"), files)
    graph: dict[str, Any] = {
        "imagen_flow": 1,
        "settings": {"quantization": "int8"},
        "nodes": nodes,
        "outputs": {"o": "${lora}"},
    }
    (problem,) = flow.plan(graph, store=None, device="cpu").problems
    assert "say settings: {quantization: none} for this node" in str(problem)
    nodes["lora"]["settings"] = {"quantization": "none"}
    assert flow.plan(graph, store=None, device="cpu").problems == ()
    saved = tmp_path / "saved"
    shutil.copytree(at("sd"), saved)
    config = json.loads((saved / "unet" / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "torchao", "quant_type": "int8wo"}
    (saved / "unet" / "config.json").write_text(json.dumps(config), "utf-8")
    graph = {"imagen_flow": 1, "nodes": trained(str(saved), files), "outputs": {"o": "${lora}"}}
    (problem,) = flow.plan(graph, store=None, device="cpu").problems
    assert "quantized (torchao)" in str(problem)


def test_data_that_does_not_fit_is_refused(
    at: Callable[[str], str], files: list[str], failure: Callable[..., str]
) -> None:
    """Fewer captions than pictures, and no picture."""
    nodes = trained(at("sd"), files)
    nodes["lora"]["captions"] = ["a fox"]
    assert "'images' has 3 elements and 'captions' has 1" in failure(**nodes)
    nodes["lora"] |= {"captions": [], "images": []}
    assert "there is nothing to learn from" in failure(lora=nodes["lora"])


def test_a_schedule_of_other_noise_is_refused(
    at: Callable[[str], str], files: list[str], failure: Callable[..., str]
) -> None:
    """The sampler is named, and what is known."""
    said = failure(**trained(at("sdxl-edm"), files))
    assert "its sampler is EDMEulerScheduler" in said
    assert "noise schedules of discrete times (epsilon, v_prediction, sample)" in said


def test_a_rate_that_is_too_high_is_told(
    at: Callable[[str], str], files: list[str], failure: Callable[..., str]
) -> None:
    """As soon as the loss is not a number, with what to change."""
    said = failure(**trained(at("sd"), files, learning_rate=1.0, rank=64, alpha=4096.0, steps=200))
    assert "the loss of step" in said
    assert "lower 'learning_rate'" in said


def test_a_spoilt_checkpoint_is_begun_anew(
    at: Callable[[str], str], pool: ModelPool, tmp_path: Path
) -> None:
    """A file that a power cut left half is not read, and the weights are those of a whole run."""
    settings = lora.Settings(2, 2, 4, 2.0, "attention", 1e-2, "constant", 0, 5.0, 0.1, 7)
    model = Model(Path(at("sd")), digest="sd", reference="sd")
    with pool.lease(Trainable(), model, device="cpu", dtype="float32") as leased:
        whole = _finish(leased, settings, tmp_path / "whole")
        for name in ("checkpoint.safetensors", "examples.safetensors"):
            content = (tmp_path / "whole" / name).read_bytes()
            (tmp_path / "whole" / name).write_bytes(content[: len(content) // 2])
        again = _finish(leased, settings, tmp_path / "whole")
        assert [n for n, v in whole.weights.items() if not v.equal(again.weights[n])] == []
        assert again.losses == whole.losses


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_trained_in_more(
    dtype: str, at: Callable[[str], str], files: list[str], pool: ModelPool
) -> None:
    """On the CPU float16 is trained in float32, and bfloat16 under layers in float32."""
    losses = run(trained(at("sdxl"), files), pool, "lora.losses", dtype=dtype)
    full = run(trained(at("sdxl"), files), pool, "lora.losses", dtype="float32")
    for half, whole in zip(losses, full, strict=True):
        assert half["loss"] == pytest.approx(whole["loss"], rel=0.02)
