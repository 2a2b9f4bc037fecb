import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import imagen_flow as flow
import imagen_flow_diffusion.nodes.stages as nodes
from imagen_flow import loaders
from imagen_flow._models import ModelPool, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import unread_words as unread
from imagen_flow_diffusion.pipelines.families import SPLIT
from imagen_flow_diffusion.pipelines.stepping import stepping
from imagen_flow_diffusion.stages.loaders import BaseDenoiser, Editor, Enlarger, TextEncoder
from imagen_flow_embedded.inference.loaders import (
    BaseLoader,
    EditorLoader,
    EnlargerLoader,
    TextLoader,
)


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], flow.Model]:
    """Give a tiny checkpoint by name, built once and found as a user's is."""
    home = tmp_path_factory.mktemp("models")
    makers = {
        "if-1": lambda folder: tiny.deepfloyd(folder, safety=-1),
        "if-1-strict": lambda folder: tiny.deepfloyd(folder, safety=1),
        "if-2": lambda folder: tiny.deepfloyd(folder, stage=2),
        "cascade": tiny.cascade,
        "pix2pix": tiny.instruct_pix2pix,
        "editor": tiny.pixel_editor,
    }

    def get(name: str) -> flow.Model:
        if not (home / name).exists():
            makers[name](home / name)
        return resolve(f"./{name}", folder=home, embedded={}, digest=digest_file)

    return get


@pytest.fixture(scope="module")
def pool():
    with ModelPool() as pool:
        yield pool


def drive(node):
    """Run a generator node: its progress, then its outputs."""
    steps = []
    while True:
        try:
            steps.append(next(node))
        except StopIteration as end:
            return steps, end.value


def load(loader, model):
    if (parts := loader.parts(model)) is None:
        return loader.load(model, device="cpu", dtype="float32", settings=loaders.Loading())
    return loader.assemble(model, {name: load(part, model) for name, part in parts.items()})


@pytest.fixture(scope="module")
def text(models, pool):
    with pool.lease(TextEncoder(), models("if-1"), device="cpu", dtype="float32") as encoder:
        return drive(nodes.encode(encoder, "A large red circle", negative_prompt="blue"))[1]


def picture(height, width, channels=3, seed=0):
    return flow.Image(
        np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    )


# --- DeepFloyd IF, against diffusers by hand ---


def pipeline_of(name, folder):
    """What a user of diffusers writes."""
    import diffusers
    from diffusers import UNet2DConditionModel
    from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, T5EncoderModel

    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": T5EncoderModel.from_pretrained(folder / "text_encoder"),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "scheduler": diffusers.DDPMScheduler.from_pretrained(folder / "scheduler"),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
    }
    if (folder / "safety_checker").exists():
        parts["safety_checker"] = IFSafetyChecker(
            CLIPConfig.from_pretrained(folder / "safety_checker")
        ).eval()
        parts["safety_checker"].load_state_dict(
            load_file(folder / "safety_checker" / "model.safetensors")
        )
        parts["feature_extractor"] = CLIPImageProcessorPil.from_pretrained(
            folder / "feature_extractor"
        )
    if name == "IFSuperResolutionPipeline":
        parts["image_noising_scheduler"] = diffusers.DDPMScheduler.from_pretrained(
            folder / "image_noising_scheduler"
        )
    pipeline = getattr(diffusers, name)(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_cascade_of_if_equals_diffusers_bit_for_bit(models, pool, text):
    """Prompt, small picture and large picture are those of the pipelines called by hand with the
    same arguments.
    """
    first, second = (
        pipeline_of("IFPipeline", models("if-1").path),
        pipeline_of("IFSuperResolutionPipeline", models("if-2").path),
    )
    asked, negative = first.encode_prompt("A large red circle", negative_prompt="blue")
    assert [tensor.tags["is"] for tensor in text] == ["prompt_embeds", "negative_prompt_embeds"]
    assert torch.equal(text[0].data, asked) and torch.equal(text[1].data, negative)
    given = {
        "prompt_embeds": asked,
        "negative_prompt_embeds": negative,
        "num_inference_steps": 3,
        "output_type": "np",
    }
    small = first(**given, guidance_scale=4, generator=torch.Generator().manual_seed(7)).images
    low = torch.from_numpy(small).permute(0, 3, 1, 2) * 2 - 1
    large = second(
        **given,
        image=low,
        guidance_scale=3,
        noise_level=100,
        generator=torch.Generator().manual_seed(8),
    ).images

    with pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base:
        steps, ours = drive(nodes.base(base, text, guidance_scale=4, num_inference_steps=3, seed=7))
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(ours.pixels, small[0])
    with pool.lease(Enlarger(), models("if-2"), device="cpu", dtype="float32") as enlarger:
        _, ours = drive(
            nodes.super_resolution(
                enlarger,
                ours,
                text,
                guidance_scale=3,
                num_inference_steps=3,
                noise_level=100,
                seed=8,
            )
        )
    assert ours.pixels.shape == (32, 32, 3)
    assert np.array_equal(ours.pixels, large[0])


def test_a_node_gives_the_same_bits_again(models, pool, text):
    """Equal inputs give equal pixels, also after other calls on the same shared model and after it
    was loaded anew; another seed gives others.
    """
    with pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base:
        first, other, again = (
            drive(nodes.base(base, text, num_inference_steps=steps, seed=seed))[1].pixels
            for seed, steps in ((1, 2), (2, 3), (1, 2))
        )
    pool.evict_idle()
    with pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base:
        reloaded = drive(nodes.base(base, text, num_inference_steps=2, seed=1))[1].pixels
    assert first.tobytes() == again.tobytes() == reloaded.tobytes() != other.tobytes()


def test_previews_are_small_pictures_on_the_way(models, pool, text):
    """A long node shows its picture at each quarter, not at the end, where the picture itself
    comes.
    """
    with pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base:
        steps, _ = drive(nodes.base(base, text, num_inference_steps=8, seed=1))
    assert [step.done for step in steps if step.preview is not None] == [2, 4, 6]
    assert steps[1].preview.pixels.shape == (16, 16, 3)


def test_a_picture_that_the_safety_checker_blackens_is_an_error(models, text):
    """diffusers returns a black picture and logs it; the node says so and returns none."""
    base = load(BaseDenoiser(), models("if-1-strict"))
    with pytest.raises(RuntimeError) as caught:
        drive(nodes.base(base, text, num_inference_steps=1, seed=1))
    assert (
        str(caught.value)
        == "the checkpoint's safety checker found the picture unsafe and blackened it; try another seed or prompt"
    )


def test_closing_a_node_ends_its_pipeline_at_the_next_step(models, pool, text):
    """A cancelled node leaves no thread behind."""
    import threading

    with pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base:
        node = nodes.base(base, text, num_inference_steps=500, seed=1)
        assert next(node).done == 1
        node.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "sampling"] == []


# --- the project's own kind of cascade ---


@pytest.fixture(scope="module")
def cascade_text(models, pool):
    with pool.lease(TextLoader(), models("cascade"), device="cpu", dtype="float32") as encoder:
        return drive(nodes.encode(encoder, "a large red circle"))[1]


def test_the_cascade_runs_from_words_to_a_large_picture(models, pool, cascade_text):
    """Prompt to states, states to a small picture, that to a large one, each with the model's own
    defaults.
    """
    with pool.lease(BaseLoader(), models("cascade"), device="cpu", dtype="float32") as base:
        steps, small = drive(nodes.base(base, cascade_text, seed=7))
    with pool.lease(EnlargerLoader(), models("cascade"), device="cpu", dtype="float32") as enlarger:
        more, large = drive(nodes.super_resolution(enlarger, small, cascade_text, seed=7))
    assert [tensor.shape for tensor in cascade_text] == [(1, 24, 32)] * 2
    assert dict(cascade_text[1].tags) == {
        "family": "imagen",
        "encoder": models("cascade").digest,
        "is": "negative_prompt_embeds",
    }
    assert (small.pixels.shape, small.pixels.dtype, large.pixels.shape) == (
        (64, 64, 3),
        "uint8",
        (128, 128, 3),
    )
    assert steps[-1].done == steps[-1].total == len(steps) and more[-1].done == more[
        -1
    ].total == len(more)


def test_a_cascades_node_equals_the_sampler_by_hand(models, pool, cascade_text):
    """The node adds nothing to the pixels: they are the sampler's on weights loaded by hand."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file

    from imagen_flow_embedded.inference import cascade

    folder = models("cascade").path
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    given = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 3.0}
    _, theirs = drive(
        cascade.base(
            torch.cat([tensor.torch() for tensor in cascade_text]),
            unet=unet,
            scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
            heads=load_file(folder / "plan" / "model.safetensors"),
            means=load_file(folder / "plan" / "means.safetensors"),
            **given,
        )
    )
    with pool.lease(BaseLoader(), models("cascade"), device="cpu", dtype="float32") as base:
        _, ours = drive(nodes.base(base, cascade_text, **given))
    assert np.array_equal(ours.pixels, theirs)


def test_guidance_acts_where_there_is_much_noise_alone(models, pool, cascade_text):
    """Below it the negative prompt is not asked: of eight steps, the last ones are single."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from imagen_flow_embedded.inference import cascade

    folder, batches = models("cascade").path, []
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    unet.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    asked = {
        "unet": unet,
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
        "seed": 3,
        "num_inference_steps": 8,
    }
    states = torch.cat([tensor.torch() for tensor in cascade_text])
    drive(cascade.base(states, guidance_scale=3.0, **asked))
    assert batches == [2] * 6 + [1] * 2
    batches.clear()
    drive(cascade.base(states, guidance_scale=1.0, **asked))
    assert batches == [1] * 8


def test_two_seeds_of_a_prompt_draw_two_pictures_and_one_seed_one(models, pool, cascade_text):
    with pool.lease(BaseLoader(), models("cascade"), device="cpu", dtype="float32") as base:
        drawn = [
            drive(nodes.base(base, cascade_text, num_inference_steps=2, seed=seed))[1].pixels
            for seed in (1, 1, 2)
        ]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_a_picture_of_another_size_is_enlarged_too(models, pool, cascade_text):
    """What was not drawn by the stage before is resized to its size, whatever its kind."""
    with pool.lease(EnlargerLoader(), models("cascade"), device="cpu", dtype="float32") as enlarger:
        _, large = drive(
            nodes.super_resolution(
                enlarger, picture(50, 20, 4), cascade_text, num_inference_steps=1, seed=7
            )
        )
    assert large.pixels.shape == (128, 128, 3)


def test_text_of_one_cascade_does_not_fit_another(models, pool, text):
    """States of DeepFloyd IF are refused by the embedded kind, by name."""
    with (
        pool.lease(BaseLoader(), models("cascade"), device="cpu", dtype="float32") as base,
        pytest.raises(ValueError) as caught,
    ):
        drive(nodes.base(base, text, num_inference_steps=1, seed=1))
    assert str(caught.value) == (
        "the text's states were encoded for IF, and diffusion.base's model is of the family imagen: encode the text with the same model"
    )


def nan_in(*parts: str):
    """Damage a checkpoint: one weight of each part is NaN."""
    from safetensors.torch import load_file, save_file

    def damage(folder: Path):
        for part in parts:
            (path,) = (folder / part).glob("*.safetensors")
            weights = load_file(path)
            name = max(name for name in weights if name.endswith("bias") or "layer_norm" in name)
            weights[name] = weights[name] * float("nan")
            save_file(weights, path, {"format": "pt"})

    return damage


@pytest.mark.parametrize(
    ("loader", "name"), [(EnlargerLoader(), "cascade"), (Enlarger(), "if-2")], ids=["cascade", "if"]
)
def test_a_model_that_gives_nan_is_told(models, tmp_path, loader, name):
    """NaN pixels are an error and not a black picture; the weight that they come from is named."""
    model = broken(
        models, tmp_path, name, nan_in("super_resolution" if name == "cascade" else "unet")
    )
    states = states_of("imagen" if name == "cascade" else "IF", 32)
    with pytest.raises(ValueError) as caught:
        drive(
            nodes.super_resolution(
                load(loader, model), picture(16, 16), states, num_inference_steps=1, seed=1
            )
        )
    assert re.fullmatch(
        r"the model gave NaN, for its weights hold some: up_blocks\.\d\.resnets\.1\.time_emb_proj\.bias of its unet; copy or download the model again",
        str(caught.value),
    )


def test_an_editor_that_gives_nan_is_told(models, tmp_path):
    """An editor's NaN is an error too."""
    with pytest.raises(ValueError) as caught:
        drive(
            nodes.edit(
                load(EditorLoader(), broken(models, tmp_path, "editor", nan_in("unet"))),
                picture(16, 16),
                "make the circle green",
                num_inference_steps=1,
                seed=1,
            )
        )
    assert re.fullmatch(
        r"the model gave NaN, for its weights hold some: up_blocks\.\d\.resnets\.1\.time_emb_proj\.bias of its unet; copy or download the model again",
        str(caught.value),
    )


# --- what fits together, and what does not ---


def states_of(family, width, fill=1.0):
    """Encoded text as text.encode gives it."""
    return [
        flow.Tensor(np.full((1, 5, width), fill, np.float32), {"family": family, "is": name})
        for name in ("prompt_embeds", "negative_prompt_embeds")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            [flow.Tensor(np.zeros((1, 5, 32), np.float32))],
            "the text's states do not come from text.encode, and diffusion.base's model is of the family IF: ",
        ),
        (
            states_of("imagen", 32),
            "the text's states were encoded for imagen, and diffusion.base's model is of the family IF: ",
        ),
        (
            states_of("IF", 16),
            "the text's states are of shape (1, 5, 16), (1, 5, 16), and diffusion.base's model reads two of (1, tokens, 32): ",
        ),
        (
            states_of("IF", 32)[:1],
            "the text's states are of shape (1, 5, 32), and diffusion.base's model reads two of (1, tokens, 32): ",
        ),
    ],
)
def test_states_of_another_model_are_refused(models, pool, text, message):
    """Text that was encoded for another family or width cannot be read, and the message says what
    to do.
    """
    with (
        pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base,
        pytest.raises(ValueError) as caught,
    ):
        drive(nodes.base(base, text, num_inference_steps=1, seed=1))
    assert str(caught.value) == message + "encode the text with the same model"


def test_nan_in_the_states_is_told(models, pool):
    """NaN is found where it enters, not as a black picture."""
    broken = states_of("IF", 32, float("nan"))
    with (
        pool.lease(BaseDenoiser(), models("if-1"), device="cpu", dtype="float32") as base,
        pytest.raises(ValueError) as caught,
    ):
        drive(nodes.base(base, broken, num_inference_steps=1, seed=1))
    assert (
        str(caught.value)
        == "the text's states hold NaN; say dtype: float32 (or bfloat16), half precision is too narrow for it"
    )


@pytest.mark.parametrize(
    ("loader", "name", "message"),
    [
        (
            BaseDenoiser(),
            "if-2",
            "diffusion.base cannot use the model './if-2': it is an IFSuperResolutionPipeline, and diffusion.base takes IFPipeline, or what a plugin loads as base denoiser; diffusion.super_resolution takes it",
        ),
        (
            Editor(),
            "if-1",
            "image.edit cannot use the model './if-1': it is an IFPipeline, and image.edit takes InstructPix2Pix, FLUX Kontext, FLUX.2, Qwen-Image-Edit and their like, "
            "which diffusers edits with by words alone; diffusion.text_to_image or diffusion.pipeline takes it",
        ),
        (
            TextEncoder(),
            "pix2pix",
            "text.encode cannot use the model './pix2pix': it is a StableDiffusionInstructPix2PixPipeline, and text.encode takes checkpoints of the families "
            f"{', '.join(sorted(SPLIT))}, or what a plugin loads as text encoder; image.edit takes it",
        ),
    ],
)
def test_a_checkpoint_of_another_family_is_refused_by_name(models, loader, name, message):
    """The message says what the checkpoint is, and what the node takes."""
    assert refusal(loader, models(name)) == message


def broken(models, tmp_path, name, damage):
    shutil.copytree(models(name).path, tmp_path / "m")
    damage(tmp_path / "m")
    return resolve("./m", folder=tmp_path, embedded={}, digest=digest_file)


def refusal(loader, model):
    with (
        ModelPool() as pool,
        pytest.raises(flow.ModelError) as caught,
        pool.lease(loader, model, device="cpu", dtype="float32"),
    ):
        pass
    return str(caught.value)


def without_a_weight(folder: Path):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.weight"]
    save_file(weights, path)


def test_a_checkpoint_that_lacks_weights_is_refused(models, tmp_path):
    """Libraries fill missing weights with random numbers and only warn; here it is an error."""
    assert refusal(BaseDenoiser(), broken(models, tmp_path, "if-1", without_a_weight)) == (
        "the model './m' is not whole: unet lacks 1 weights, conv_in.weight first"
    )


def test_a_checkpoint_that_lacks_a_part_is_refused(models, tmp_path):
    """A missing subfolder is told before anything is loaded; one without its configuration when it
    is.
    """
    with pytest.raises(flow.ModelError, match="is not whole"):
        broken(models, tmp_path, "if-1", lambda folder: shutil.rmtree(folder / "text_encoder"))
    shutil.rmtree(tmp_path / "m")
    assert (
        refusal(
            TextEncoder(),
            broken(
                models,
                tmp_path,
                "if-1",
                lambda folder: (folder / "text_encoder" / "config.json").unlink(),
            ),
        )
        == "the model './m' has no text_encoder"
    )


def test_only_samplers_of_diffusers_are_made(models, tmp_path):
    """A checkpoint's configuration comes from a stranger: a class it names is made only if it is a
    sampler.
    """

    def name_a_class(folder: Path):
        (folder / "scheduler" / "scheduler_config.json").write_text(
            '{"_class_name": "SchedulerMixin.from_pretrained"}'
        )

    assert refusal(BaseDenoiser(), broken(models, tmp_path, "if-1", name_a_class)) == (
        "the model './m' names no sampler of diffusers in scheduler, but 'SchedulerMixin.from_pretrained'"
    )


def test_a_damaged_index_is_told(models, tmp_path):
    """A model_index.json that is no JSON names the model and the file."""
    with pytest.raises(
        flow.ModelError, match=r"the model '\./m' is damaged: model_index\.json cannot be read"
    ):
        broken(
            models, tmp_path, "if-1", lambda folder: (folder / "model_index.json").write_text("{")
        )


def test_a_folder_of_another_library_is_named(models, tmp_path):
    """A transformers model is called by its architecture."""

    def disguise(folder: Path):
        (folder / "model_index.json").unlink()
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')

    assert "it is a LlamaForCausalLM, and" in refusal(
        BaseDenoiser(), broken(models, tmp_path, "if-1", disguise)
    )


def test_a_half_precision_copy_is_taken_where_it_is_the_only_one(models, tmp_path):
    """Checkpoints that were downloaded with variant fp16 load, also in float32."""

    def rename(folder: Path):
        (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
            folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
        )

    assert (
        load(BaseDenoiser(), broken(models, tmp_path, "if-1", rename)).unet.dtype == torch.float32
    )


def test_loading_is_silent(models):
    """No library prints a progress bar of its own over the run's display."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom imagen_flow import Model\nfrom imagen_flow._models import ModelPool\nfrom imagen_flow_diffusion.stages.loaders import TextEncoder, BaseDenoiser\n"
        f"model = Model(Path({str(models('if-1').path)!r}), 'x', 'x')\n"
        "pool = ModelPool()\n"
        "for loader in (TextEncoder(), BaseDenoiser()):\n    with pool.lease(loader, model, device='cpu', dtype='float32'): pass\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


# --- prompts ---


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        ("a red circle", ""),
        ("", ""),
        ("a red zebra on the 背景", "unknown to the text encoder: 'zebra', '背景'"),
        ("a 🎨", "unknown to the text encoder: '🎨'"),
        (
            "red " * 30 + "blue",
            "the prompt is cut after 23 tokens, before 'red red red red red red red b…'",
        ),
    ],
)
def test_what_the_encoder_does_not_read_is_said(tiny, prompt, note):
    """Words that are cut off or unknown are named; a prompt that is read whole has no note."""
    assert unread(tiny.word_tokenizer(24), prompt, 24) == note


def test_looking_for_unknown_words_prints_nothing(capfd):
    """A word of more pieces than the encoder reads is cut, and the library says nothing."""
    import transformers
    from tokenizers import Tokenizer, models

    pieces = Tokenizer(models.BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="<unk>", model_max_length=8
    )
    assert "cut after 8 tokens" in unread(tokenizer, "a" * 40, 8)
    assert capfd.readouterr() == ("", "")


def test_a_prompt_of_a_megabyte_is_cut_and_said(models, pool):
    """A very long prompt gives the states of its beginning, and a note."""
    with pool.lease(TextEncoder(), models("if-1"), device="cpu", dtype="float32") as encoder:
        steps, states = drive(nodes.encode(encoder, "red " * 250_000))
        _, start = drive(nodes.encode(encoder, "red " * 100))
    assert steps == [
        flow.Progress(
            1, 1, "the prompt is cut after 76 tokens, before 'red red red red red red red r…'"
        )
    ]
    assert np.array_equal(states[0].numpy(), start[0].numpy())


def test_states_are_of_the_prompt_and_of_the_negative_prompt(text, models):
    """One edge carries both, with the family and the encoder's fingerprint."""
    assert [tensor.shape for tensor in text] == [(1, 77, 32)] * 2
    assert {(tensor.tags["family"], tensor.tags["encoder"]) for tensor in text} == {
        ("IF", models("if-1").digest)
    }


# --- editing ---


def test_instruct_pix2pix_equals_diffusers_bit_for_bit(models, pool):
    """A picture of a fitting size is edited as by the pipeline called by hand."""
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    folder, source = models("pix2pix").path, picture(32, 48)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=PNDMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "make it red",
        image=source.to_pil(),
        num_inference_steps=3,
        guidance_scale=5,
        image_guidance_scale=1.2,
        generator=torch.Generator().manual_seed(5),
    )
    with pool.lease(Editor(), models("pix2pix"), device="cpu", dtype="float32") as editor:
        steps, ours = drive(
            nodes.edit(
                editor,
                source,
                "make it red",
                num_inference_steps=3,
                guidance_scale=5,
                image_guidance_scale=1.2,
                seed=5,
            )
        )
    assert np.array_equal(ours.pixels, np.asarray(theirs.images[0]))
    assert {step.total for step in steps} == {4}  # PNDM takes its second step twice


@pytest.mark.parametrize(
    ("loader", "name"),
    [(EditorLoader(), "editor"), (Editor(), "pix2pix")],
    ids=["own", "checkpoint"],
)
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(37, 91, 3), (5, 200, 4), (30, 17, 1), (64, 64, 2)]
)
def test_a_picture_of_any_size_and_kind_is_edited(
    models, pool, loader, name, height, width, channels
):
    """The result has the source's size; alpha is kept as it is."""
    source = picture(height, width, channels)
    with pool.lease(loader, models(name), device="cpu", dtype="float32") as editor:
        _, edited = drive(
            nodes.edit(editor, source, "make the circle green", num_inference_steps=1, seed=1)
        )
    assert edited.pixels.shape == (height, width, 4 if source.has_alpha else 3)
    if source.has_alpha:
        assert np.array_equal(edited.pixels[:, :, 3], source.pixels[:, :, -1])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pictures_are_edited_in_8_bits(models, pool, dtype):
    """16-bit and float pictures give the edit of the same picture in 8 bits."""
    source = picture(16, 16)
    deep = (
        flow.Image(source.pixels.astype("uint16") * np.uint16(257))
        if dtype == "uint16"
        else source.as_float()
    )
    with pool.lease(EditorLoader(), models("editor"), device="cpu", dtype="float32") as editor:
        ours, eight = (
            drive(
                nodes.edit(editor, image, "make the circle green", num_inference_steps=1, seed=1)
            )[1].pixels
            for image in (deep, source)
        )
    assert ours.dtype == "uint8"
    assert np.array_equal(ours, eight)


def test_what_a_model_does_not_have_is_refused(models, pool):
    """A parameter of another family is not silently ignored."""
    with (
        pool.lease(EditorLoader(), models("editor"), device="cpu", dtype="float32") as editor,
        pytest.raises(ValueError) as caught,
    ):
        drive(
            nodes.edit(
                editor, picture(8, 8), "make the circle green", image_guidance_scale=2.0, seed=1
            )
        )
    assert (
        str(caught.value)
        == "this model has no image_guidance_scale: it keeps the source's own pixels where nothing changes"
    )


def test_unknown_words_of_an_instruction_are_said(models, pool):
    """The note comes with the progress."""
    with pool.lease(EditorLoader(), models("editor"), device="cpu", dtype="float32") as editor:
        steps, _ = drive(
            nodes.edit(
                editor,
                picture(16, 16),
                "make the zebra circle green",
                num_inference_steps=1,
                seed=1,
            )
        )
    assert {step.note for step in steps} == {"unknown to the text encoder: 'zebra'"}


# --- the generator around a call ---


def test_a_calls_reports_are_yielded_and_its_result_returned():
    """A library call with a callback becomes a generator."""

    def call(report):
        for step in range(3):
            report(step)
        return "picture"

    assert drive(stepping(call)) == ([0, 1, 2], "picture")


def test_a_calls_error_is_raised_as_it_is():
    """The cause keeps its traceback, and nothing else is raised in its place."""

    def call(report):
        report(1)
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        drive(stepping(call))


def test_a_failed_calls_values_are_let_go():
    """After the error is handled nothing keeps the failed call's tensors alive: the memory ladder
    counts on it.
    """
    import weakref

    class Latents:
        pass

    kept = []

    def call(report):
        latents = Latents()
        kept.append(weakref.ref(latents))
        raise RuntimeError("CUDA error: out of memory")

    try:
        drive(stepping(call))
    except RuntimeError:
        pass
    assert kept[0]() is None


# --- the plugin ---


def test_the_plugin_is_registered_without_its_libraries():
    """Planning imports the plugin and reads its ports, but no torch, diffusers, transformers or
    numpy.
    """
    code = (
        "import sys\nimport imagen_flow_diffusion as plugin\n"
        "print([node.type.name for node in plugin.imagen_flow_nodes()])\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names, heavy = ran.stdout.splitlines()
    assert {
        "text.encode",
        "diffusion.base",
        "diffusion.denoise",
        "latents.decode",
        "image.edit",
    } <= set(ast.literal_eval(names))
    assert heavy == "[]"
