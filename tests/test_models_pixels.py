"""The same pixels before and after eviction, after a reload, and on every level that is declared
pixel-exact: on real classes of diffusers, tiny and random.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagen_flow import loaders
from imagen_flow._models import ModelPool, lend_and_call, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Loading, Model
from imagen_flow.loaders import place_module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser, an autoencoder and a text encoder, each as its library saves it."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
    ).save_pretrained(folder / "text_encoder")
    return folder


def loader(part: str, library: str, name: str) -> Any:
    """A loader of one part, as a plugin writes it. It takes any device for this one, so that levels
    can be taken on a machine without another.
    """

    class Part(loaders.Loader[Any]):
        settings = ("offload",)

        def folders(self, model: Model) -> tuple[str, ...]:
            return (part,)

        def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Any:
            import importlib

            import torch

            module = getattr(importlib.import_module(library), name).from_pretrained(
                str(model.path / part),
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
            )
            return _placed(module.eval().requires_grad_(False), settings)

    Part.__qualname__ = name
    return Part()


def _placed(module: Any, settings: Loading) -> Any:
    """Offload to the host's own memory: the weights are taken away and brought back layer by layer,
    as they are to a GPU.
    """
    if settings.offload == "none":
        return module
    import torch
    from accelerate import cpu_offload

    cpu_offload(module, torch.device("cpu"), offload_buffers=True)
    return module


UNET, VAE, TEXT = (
    loader("unet", "diffusers", "UNet2DConditionModel"),
    loader("vae", "diffusers", "AutoencoderKL"),
    loader("text_encoder", "transformers", "CLIPTextModel"),
)


class Whole(loaders.Loader):
    """All parts, leased apart."""

    def parts(self, model: Model) -> dict[str, Any]:
        return {"unet": UNET, "vae": VAE, "text_encoder": TEXT}

    def assemble(self, model: Model, parts: dict[str, Any]) -> dict[str, Any]:
        return parts


def draw(parts: dict[str, Any], seed: int = 3) -> np.ndarray:
    """Draw as the library does: its own pipeline on these parts."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with torch.inference_mode():
        states = parts["text_encoder"](torch.arange(8)[None]).last_hidden_state
    pipeline = StableDiffusionPipeline(
        vae=parts["vae"],
        unet=parts["unet"],
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    picture = pipeline(
        prompt_embeds=states,
        negative_prompt_embeds=states * 0,
        num_inference_steps=2,
        height=16,
        width=16,
        generator=generator,
        output_type="np",
    ).images[0]
    return np.asarray(picture)


@pytest.fixture
def model(checkpoint: Path) -> Model:
    return resolve(
        "./" + checkpoint.name, folder=checkpoint.parent, embedded={}, digest=digest_file
    )


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as opened:
        yield opened


def lend(
    pool: ModelPool, model: Model, call: Any, levels: tuple[str, ...] = (), device: str = "cuda:0"
) -> Any:
    return lend_and_call(
        pool, {"m": (Whole(), model)}, call, device=device, dtype="float32", levels=levels
    )


def test_pixels_are_those_of_the_library_called_directly(pool: ModelPool, model: Model) -> None:
    """What the pool lends gives the picture that the same classes give without it; and the picture
    says something.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    parts = {
        "unet": UNet2DConditionModel.from_pretrained(model.path / "unet"),
        "vae": AutoencoderKL.from_pretrained(model.path / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(model.path / "text_encoder"),
    }
    direct = draw({name: part.eval() for name, part in parts.items()})
    picture, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    assert np.array_equal(picture, direct)
    assert picture.std() > 0.01
    assert not np.array_equal(
        picture, lend(pool, model, lambda models, taken: draw(models["m"], seed=4))[0]
    )


def test_pixels_are_the_same_after_eviction_and_reload(pool: ModelPool, model: Model) -> None:
    """In the same pool, in another one, and with a budget that keeps one part at a time."""
    first, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    assert pool.evict_idle() == 3
    again, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    with ModelPool(budget_bytes=1) as tight:
        third, _ = lend(tight, model, lambda models, taken: draw(models["m"]))
        with tight.lease(UNET, model, device="cuda:0", dtype="float32"):
            pass
    assert np.array_equal(first, again)
    assert np.array_equal(first, third)


@pytest.mark.parametrize("fails", [1, 2, 3])
@pytest.mark.parametrize("kind", ["class", "words"])
def test_pixels_are_the_same_on_every_exact_level(
    pool: ModelPool, model: Model, fails: int, kind: str
) -> None:
    """Out of memory once, twice, three times: others dropped, models offloaded, layers streamed;
    the picture is the same, and the levels are told.
    """
    import torch

    first, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    tries: list[tuple[str, ...]] = []

    def call(models: dict[str, Any], taken: tuple[str, ...]) -> np.ndarray:
        tries.append(taken)
        picture = draw(models["m"])  # the failure comes late, when all has been used
        if len(tries) <= fails:
            raise (
                torch.OutOfMemoryError("CUDA out of memory")
                if kind == "class"
                else RuntimeError(
                    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
                )
            )
        return picture

    picture, taken = lend(pool, model, call, ("evict", "offload", "stream"))
    assert taken == ("evict", "offload", "stream")[:fails]
    assert np.array_equal(picture, first)
    offload = {identity.settings.offload for identity in pool.resident()}
    assert offload == {"none" if fails == 1 else "model" if fails == 2 else "layers"}


def test_pixels_do_not_depend_on_what_else_was_drawn_with_the_model(
    pool: ModelPool, model: Model
) -> None:
    """A shared model is not changed by use: other pictures, interleaved, change nothing."""
    first, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    for seed in (9, 10):
        lend(pool, model, lambda models, taken, seed=seed: draw(models["m"], seed))
    again, _ = lend(pool, model, lambda models, taken: draw(models["m"]))
    assert np.array_equal(first, again)


def test_two_checkpoints_share_the_parts_in_which_they_agree(
    pool: ModelPool, model: Model, checkpoint: Path, tmp_path: Path
) -> None:
    """A fine-tuned denoiser beside the same text encoder and autoencoder: these are in memory once,
    and the memory shows it.
    """
    import shutil

    import torch
    from diffusers import UNet2DConditionModel

    shutil.copytree(checkpoint, tmp_path / "tuned")
    tuned = UNet2DConditionModel.from_pretrained(tmp_path / "tuned" / "unet")
    with torch.no_grad():
        tuned.conv_out.bias += 0.5
    tuned.save_pretrained(tmp_path / "tuned" / "unet")
    other = resolve("./tuned", folder=tmp_path, embedded={}, digest=digest_file)
    with pool.lease(Whole(), model, device="cpu", dtype="float32") as first:
        alone = pool.weighs()["cpu"]
        with pool.lease(Whole(), other, device="cpu", dtype="float32") as second:
            assert first["text_encoder"] is second["text_encoder"]
            assert first["vae"] is second["vae"]
            assert first["unet"] is not second["unet"]
            assert pool.weighs()["cpu"] - alone == sum(
                p.numel() * 4 for p in second["unet"].parameters()
            )


def test_a_corrupt_file_fails_the_load_with_its_name(
    pool: ModelPool, checkpoint: Path, tmp_path: Path
) -> None:
    """Weights of another shape than the configuration's: the error names model, loader and reason,
    and the pool is as it was.
    """
    import shutil

    from safetensors.numpy import load_file, save_file

    from imagen_flow.errors import ModelError

    shutil.copytree(checkpoint, tmp_path / "odd")
    file = next((tmp_path / "odd" / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({**tensors, name: np.zeros(7, "float32")}, file)
    odd = resolve("./odd", folder=tmp_path, embedded={}, digest=digest_file)
    with pytest.raises(ModelError) as caught, pool.lease(UNET, odd, device="cpu", dtype="float32"):
        pass
    assert str(caught.value).startswith(
        "the model './odd' cannot be loaded by UNet2DConditionModel: "
    )
    assert pool.resident() == []


def test_a_module_that_waits_comes_in_its_turn() -> None:
    """Of two offloaded modules one is on the device at a time; without offloading, and on the host,
    nothing is hooked.
    """
    import torch

    moves: list[str] = []

    class Watched(torch.nn.Linear):
        def to(self, device: Any) -> Any:  # type: ignore[override]
            moves.append(f"{self.in_features} to {torch.device(device).type}")
            return self

    two, three = Watched(2, 2), Watched(3, 3)
    for module in (two, three):
        assert place_module(module, device="meta", settings=Loading(offload="model")) is module
        assert module._hf_hook.execution_device == torch.device("meta")
    hooks = [module._hf_hook.pre_forward for module in (two, three)]
    for hook, module in ((hooks[0], two), (hooks[0], two), (hooks[1], three), (hooks[0], two)):
        hook(module)
    assert moves == ["2 to meta", "2 to cpu", "3 to meta", "3 to cpu", "2 to meta"]
    plain = place_module(torch.nn.Linear(2, 2), device="cpu", settings=Loading(offload="model"))
    assert not hasattr(plain, "_hf_hook")


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "layers"])
def test_pixels_are_the_same_offloaded_on_a_gpu(model: Model, offload: str) -> None:
    """On a real device: the parts wait on the host, their hooks bring them, and the picture is
    bit-equal; so is the memory given back.
    """
    import torch

    def drawn(settings: Loading) -> np.ndarray:
        parts = {
            name: part.load(model, device="cuda:0", dtype="float32", settings=Loading())
            for name, part in Whole.parts(model).items()
        }
        placed = {
            name: place_module(part, device="cuda:0", settings=settings)
            for name, part in parts.items()
        }
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        with torch.inference_mode():
            states = placed["text_encoder"](
                torch.arange(8, device="cuda:0")[None]
            ).last_hidden_state
        pipeline = StableDiffusionPipeline(
            vae=placed["vae"],
            unet=placed["unet"],
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
            text_encoder=None,
            tokenizer=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        picture = pipeline(
            prompt_embeds=states,
            negative_prompt_embeds=states * 0,
            num_inference_steps=2,
            height=16,
            width=16,
            generator=torch.Generator("cpu").manual_seed(3),
            output_type="np",
        ).images[0]
        if settings.offload == "model":
            assert (
                sum(next(part.parameters()).device.type == "cuda" for part in placed.values()) == 1
            )
        return np.asarray(picture)

    assert np.array_equal(drawn(Loading()), drawn(Loading(offload=offload)))
