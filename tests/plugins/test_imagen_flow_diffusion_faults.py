"""What does not fit together is refused in words that say what it is, what was wanted, and which
node takes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow_diffusion.nodes import generic, shared_ports
from imagen_flow_diffusion.tiny.known import kind_of, stand_in

#: diffusers warns of what it itself does with numpy and torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the path of a tiny model by the name of what it stands for."""
    home = tmp_path_factory.mktemp("tiny")
    return lambda name: str(stand_in(name, None, home))


@pytest.fixture(scope="module")
def pool() -> Any:
    with ModelPool() as pool:
        yield pool


def graph(**nodes: dict[str, Any]) -> dict[str, Any]:
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}}


def refused(nodes: dict[str, dict[str, Any]]) -> str:
    """What planning says of a graph before anything runs."""
    problems = flow.plan(graph(**nodes), store=None, device="cpu").problems
    return "\n".join(problem.message for problem in problems)


@pytest.fixture
def failure(pool: ModelPool) -> Callable[..., str]:
    """What a graph's run says when it fails."""

    def run(**nodes: dict[str, Any]) -> str:
        with pytest.raises(flow.NodeError) as caught:
            flow.run(graph(**nodes), store=None, device="cpu", pool=pool)
        return str(caught.value.__cause__)

    return run


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a",
        "width": 32,
        "height": 32,
        "num_inference_steps": 1,
        "seed": 1,
        **more,
    }


@pytest.mark.parametrize(
    ("model", "node", "words"),
    [
        (
            "kontext",
            {"type": "diffusion.text_to_image", "prompt": "a", "seed": 1},
            "it is a FluxKontextPipeline, and a node that draws takes a checkpoint that draws from words; image.edit takes it",
        ),
        (
            "swin2sr",
            {"type": "diffusion.text_to_image", "prompt": "a", "seed": 1},
            "it is a Swin2SRForImageSuperResolution, and a node that draws takes a checkpoint that draws from words; image.upscale takes it",
        ),
        (
            "unclip",
            {"type": "latents.noise", "width": 64, "height": 64, "seed": 1},
            "it is an UnCLIPPipeline, and latents.decode takes checkpoints of the families AuraFlow, Chroma, ",
        ),
        (
            "unclip",
            {"type": "text.encode", "prompt": "a"},
            "diffusion.text_to_image or diffusion.pipeline takes it",
        ),
        (
            "sd-1.5",
            {"type": "image.edit", "image": "${photo}", "instruction": "a", "seed": 1},
            "it is a StableDiffusionPipeline, and image.edit takes InstructPix2Pix, ",
        ),
        (
            "sdxl",
            {"type": "image.upscale", "image": "${photo}"},
            "it is a StableDiffusionXLPipeline, and image.upscale takes ",
        ),
        (
            "sdxl",
            {"type": "mask.find", "image": "${photo}", "words": "a"},
            "it is a diffusers checkpoint, but mask.find supports clipseg",
        ),
    ],
)
def test_a_model_of_another_architecture_is_refused_before_anything_runs(
    model: str, node: dict[str, Any], words: str, tiny_model: Callable[[str], str]
) -> None:
    """Planning says what the model is, what the node takes, and which node takes the model."""
    photo = {"photo": {"type": "image.solid", "width": 16, "height": 16}} if "image" in node else {}
    said = refused({**photo, "one": {**node, "model": tiny_model(model)}})
    assert words in said
    assert tiny_model(model) in said


def test_latents_of_another_space_are_refused_before_anything_runs(
    tiny_model: Callable[[str], str],
) -> None:
    """Planning names both checkpoints and both spaces, also where the latents come by way of a node
    without a model.
    """
    xl, sd = tiny_model("sdxl"), tiny_model("sd-1.5")
    latents = {"type": "latents.noise", "model": xl, "width": 64, "height": 64, "seed": 1}
    larger = {"type": "latents.resize", "latents": "${noise}", "scale": 2.0}
    assert refused(
        {
            "noise": latents,
            "larger": larger,
            "picture": {"type": "latents.decode", "model": sd, "latents": "${larger}"},
        }
    ) == (
        f"the latents come from '{xl}' (SDXL: 4 channels of 1/8, scaled by 0.13025), and this decoder in latents.decode, '{sd}', reads "
        "Stable Diffusion: 4 channels of 1/8, scaled by 0.18215: use the checkpoint that they were made with"
    )
    text = {"type": "text.encode", "model": sd, "prompt": "a"}
    denoise = {
        "type": "diffusion.denoise",
        "model": sd,
        "text": "${text}",
        "latents": "${noise}",
        "seed": 1,
    }
    assert "and its model in diffusion.denoise" in refused(
        {"noise": latents, "text": text, "more": denoise}
    )
    assert refused(
        {
            "text": text,
            "more": {"type": "diffusion.denoise", "model": xl, "text": "${text}", "seed": 1},
        }
    ) == (
        f"the text comes from '{sd}', of the family StableDiffusion, and diffusion.denoise's model '{xl}' is of the family StableDiffusionXL: encode the text with the same model"
    )
    assert (
        refused(
            {
                "noise": latents,
                "larger": larger,
                "picture": {"type": "latents.decode", "model": xl, "latents": "${larger}"},
            }
        )
        == ""
    )


def test_latents_of_another_space_are_refused(
    tiny_model: Callable[[str], str], pool: ModelPool
) -> None:
    """Where planning cannot know, since a model comes as a value, a decoder names the space that it
    reads and the one that came.
    """
    from imagen_flow_diffusion.loading.components import Autoencoder
    from imagen_flow_diffusion.nodes import latents

    made = latents.Tensor(
        np.zeros((1, 4, 8, 8), np.float32),
        {"latents": "SDXL: 4 channels of 1/8, scaled by 0.13025"},
    )
    model = flow.plan(
        graph(text={"type": "text.encode", "model": tiny_model("sd-1.5"), "prompt": "a"}),
        store=None,
    ).values.models.resolved
    (found,) = model.values()
    with (
        pool.lease(Autoencoder(), found, device="cpu", dtype="float32") as decoder,
        pytest.raises(ValueError) as caught,
    ):
        latents.decode(decoder, made)
    assert str(caught.value) == (
        "the latents are of another space (SDXL: 4 channels of 1/8, scaled by 0.13025), and this decoder reads Stable Diffusion: 4 channels of 1/8, scaled by 0.18215: "
        "use the checkpoint that they were made with"
    )


def test_text_of_another_width_is_refused(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """States of the family's other encoder are told by their width."""
    text = {"type": "text.encode", "model": tiny_model("sdxl-refiner"), "prompt": "a"}
    assert failure(
        text=text,
        more={
            "type": "diffusion.denoise",
            "model": tiny_model("sdxl"),
            "text": "${text}",
            "seed": 1,
        },
    ) == (
        "the text's states are 32 wide, and diffusion.denoise's model reads 64: encode the text with the same model"
    )


def test_adapters_for_another_base_are_refused(
    tiny_model: Callable[[str], str], failure: Callable[..., str], pool: ModelPool
) -> None:
    """A LoRA, an embedding and an IP-Adapter that were made for another base are named, and the
    base draws on as before.
    """
    before = flow.run(graph(one=drawn(tiny_model("sdxl"))), store=None, device="cpu", pool=pool)[
        "out"
    ]
    said = failure(one=drawn(tiny_model("sdxl"), loras=[tiny_model("lora")]))
    assert said.startswith(
        f"the LoRA '{tiny_model('lora')}' was made for a different base than '{tiny_model('sdxl')}' (StableDiffusionXLPipeline): "
    )
    said = failure(one=drawn(tiny_model("flux"), loras=[tiny_model("lora")]))
    assert said.startswith(
        f"the LoRA '{tiny_model('lora')}' was made for a different base than '{tiny_model('flux')}' (FluxPipeline): its weights are for "
    )
    photo = {"type": "image.solid", "width": 16, "height": 16}
    said = failure(
        photo=photo,
        one=drawn(
            tiny_model("sdxl"),
            ip_adapters=[
                {
                    "model": tiny_model("ip-adapter"),
                    "file": "models/ip-adapter_sd15.safetensors",
                    "image": "${photo}",
                }
            ],
        ),
    )
    assert said.startswith(
        f"the IP-Adapter '{tiny_model('ip-adapter')}' was made for a different base than "
    )
    after = flow.run(graph(one=drawn(tiny_model("sdxl"))), store=None, device="cpu", pool=pool)[
        "out"
    ]
    assert np.array_equal(before.pixels, after.pixels)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"sampler": "EulerDiscreteSchedular"},
            "'EulerDiscreteSchedular' is not a diffusers sampler; did you mean 'EulerDiscreteScheduler'?",
        ),
        (
            {"sampler": "FlowMatchEulerDiscreteScheduler"},
            "'FlowMatchEulerDiscreteScheduler' does not fit a model made for PNDMScheduler; ",
        ),
        (
            {"sampler": "DDIM", "sampler_settings": {"karras": True}},
            "DDIMScheduler has no setting karras; it has: ",
        ),
        (
            {"arguments": {"true_cfg_scale": 4}},
            "StableDiffusionPipeline takes no true_cfg_scale; it takes: prompt, height, width, ",
        ),
        ({"arguments": [1]}, "its 'arguments' must be a mapping of names to values"),
        (
            {"arguments": {"prompt": "b"}},
            "its 'arguments' names prompt, which a port of the node already sets: set it only once",
        ),
        (
            {"arguments": {"guidance_scale": 3}, "guidance_scale": 2},
            "its 'arguments' names guidance_scale, which a port of the node already sets",
        ),
        (
            {"arguments": {"generator": 1, "output_type": "latent"}},
            "its 'arguments' names generator and output_type, which the node itself sets",
        ),
        (
            {"arguments": {"num_images_per_prompt": 2}},
            "its 'arguments' asks for several pictures, and the node draws one: ",
        ),
        (
            {"sampler_settings": ["use_karras_sigmas"]},
            "its 'sampler_settings' must be a mapping of names to values",
        ),
        ({"clip_skip": 3}, "its 'clip_skip' is 3, and of the text encoder of "),
        (
            {"controls": [{"scale": 1.0}]},
            "its 'controls[0]' names no 'model', but this checkpoint ",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    more: dict[str, Any], words: str, tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """A sampler, a setting or an argument that there is not is named, with what there is."""
    assert failure(one=drawn(tiny_model("sd-1.5"), **more)).startswith(words)


def test_as_many_layers_as_there_are_can_be_left_out(
    tiny_model: Callable[[str], str], failure: Callable[..., str], pool: ModelPool
) -> None:
    """SDXL's encoders leave one out of themselves."""
    for model, most in (("sd-1.5", 2), ("sdxl", 1)):
        assert failure(one=drawn(tiny_model(model), clip_skip=most + 1)).endswith(
            f"at most {most} layers can be left out"
        )
        assert failure(
            one={
                "type": "text.encode",
                "model": tiny_model(model),
                "prompt": "a",
                "clip_skip": most + 1,
            }
        ).endswith(f"at most {most} layers can be left out")
        flow.run(
            graph(one=drawn(tiny_model(model), clip_skip=most)), store=None, device="cpu", pool=pool
        )


def test_a_region_that_is_not_marked_is_told(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """There is none to work on where the mask is black."""
    nodes = {
        "photo": {"type": "image.solid", "width": 32, "height": 32, "colour": "black"},
        "hole": {"type": "mask.from_luminance", "image": "${photo}"},
    }
    one = {
        "type": "diffusion.inpaint",
        "model": tiny_model("sd-1.5"),
        "image": "${photo}",
        "mask": "${hole}",
        "prompt": "a",
        "num_inference_steps": 2,
        "padding_mask_crop": 4,
        "seed": 1,
    }
    assert (
        failure(**nodes, one=one)
        == "its 'padding_mask_crop' works on the region that the mask marks, and the mask marks nothing"
    )


def test_a_class_that_diffusers_does_not_have_is_told(
    tiny_model: Callable[[str], str], failure: Callable[..., str], tmp_path: Path
) -> None:
    """No node is offered for it."""
    path = shutil.copytree(tiny_model("sd-1.5"), tmp_path / "model")
    index = path / "model_index.json"
    index.write_text(
        index.read_text().replace('"StableDiffusionPipeline"', '"StableDifusionPipeline"')
    )
    assert (
        f"it says that it is a StableDifusionPipeline, and diffusers {version('diffusers')} has no class of that name"
        in failure(one=drawn(str(path)))
    )
    one = {
        "type": "diffusion.pipeline",
        "model": tiny_model("sd-1.5"),
        "pipeline_class": "StableDifusionPipeline",
        "seed": 1,
    }
    assert failure(one=one).startswith(
        "diffusion.pipeline cannot call StableDifusionPipeline for the model "
    )


def test_no_step_left_is_told(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """Of one step a half is none."""
    photo = {"type": "image.solid", "width": 32, "height": 32}
    one = {
        "type": "diffusion.image_to_image",
        "model": tiny_model("sd-1.5"),
        "image": "${photo}",
        "prompt": "a",
        "num_inference_steps": 1,
        "strength": 0.5,
        "seed": 1,
    }
    assert (
        failure(photo=photo, one=one)
        == "no denoising step is left: use a larger 'strength' or more 'num_inference_steps'"
    )


def test_what_goes_on_with_latents_wants_some(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """How much of them is given up, and where the denoising begins, say nothing of noise."""
    text = {"type": "text.encode", "model": tiny_model("sdxl"), "prompt": "a"}
    for name in ("strength", "denoising_start"):
        one = {
            "type": "diffusion.denoise",
            "model": tiny_model("sdxl"),
            "text": "${text}",
            "seed": 1,
            name: 0.5,
        }
        assert (
            failure(text=text, one=one)
            == f"its '{name}' says how to go on with latents, and there are none: take them from latents.encode or diffusion.denoise"
        )


def test_a_refiner_does_not_draw_from_text_alone(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """It goes on with a picture, or with latents."""
    assert failure(one=drawn(tiny_model("sdxl-refiner"))).endswith(
        "it is a refiner, which goes on with a picture; diffusion.image_to_image and diffusion.denoise take it"
    )


def test_a_prior_that_would_not_be_read_is_refused(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """A checkpoint that reads the prompt by itself would pass it over."""
    assert failure(one=drawn(tiny_model("sd-1.5"), prior=tiny_model("flux"))).startswith(
        "diffusion.text_to_image can do nothing with a 'prior' for the model "
    )


def test_an_inpainting_checkpoint_does_not_draw_from_text_alone(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """Its network reads the mask and the picture besides the noise; the message says which node
    takes it.
    """
    assert failure(one=drawn(tiny_model("sd-inpainting"))).endswith(
        "it was made for filling in (its network reads 9 channels, not 4); diffusion.inpaint takes it"
    )


def test_a_picture_that_the_checker_blackens_is_no_result(tmp_path: Path, pool: ModelPool) -> None:
    """IF returns a black picture and no error when its safety checker strikes; the node that draws
    with the whole checkpoint fails instead.
    """
    from imagen_flow_diffusion.tiny.checkpoints import deepfloyd

    folder = deepfloyd(tmp_path / "strict", safety=1.0)
    node = {
        "type": "diffusion.text_to_image",
        "model": str(folder),
        "prompt": "a",
        "num_inference_steps": 1,
        "seed": 1,
    }
    with pytest.raises(
        flow.NodeError, match="safety checker found the picture unsafe and blackened it"
    ):
        flow.run(graph(one=node), store=None, device="cpu", pool=pool)


def test_a_prompt_that_is_too_long_is_cut_and_said(
    tiny_model: Callable[[str], str], pool: ModelPool
) -> None:
    """What CLIP does not read is named in the progress, in one node and in three; compel reads it
    all.
    """
    prompt = "a very long prompt " * 20
    for node in (
        drawn(tiny_model("sd-1.5"), prompt=prompt),
        {"type": "text.encode", "model": tiny_model("sd-1.5"), "prompt": prompt},
    ):
        notes: list[str] = []
        flow.run(
            graph(one=node),
            store=None,
            device="cpu",
            pool=pool,
            on_event=lambda event, notes=notes: notes.append(getattr(event, "note", "")),
        )
        assert any(
            note.startswith("the prompt is cut after 75 tokens, before '") for note in notes
        ), notes
    whole = flow.run(
        graph(
            one={
                "type": "text.encode",
                "model": tiny_model("sd-1.5"),
                "prompt": prompt,
                "weighting": "compel",
            }
        ),
        store=None,
        device="cpu",
        pool=pool,
    )["out"]
    assert whole[0].shape[1] > 77


@pytest.mark.parametrize(
    ("library", "node"), [("peft", {"loras": True}), ("compel", {"weighting": "compel"})]
)
def test_a_library_that_is_missing_names_itself(
    library: str,
    node: dict[str, Any],
    tiny_model: Callable[[str], str],
    failure: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is an extra says how to install it."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == library else found(name, *rest),
    )
    more = {"loras": [tiny_model("lora")]} if "loras" in node else node
    said = failure(
        one={"type": "text.encode", "model": tiny_model("sd-1.5"), "prompt": "a", **more}
    )
    assert said.endswith(
        f"needs the library {library}, which is not installed: pip install 'imagen-flow[adapters]'"
    )


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("hf:stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("hf:stabilityai/stable-diffusion-xl-refiner-1.0", "sdxl-refiner"),
        ("hf:runwayml/stable-diffusion-v1-5", "sd"),
        ("hf:stabilityai/stable-diffusion-3.5-large", "sd3"),
        ("hf:diffusers/controlnet-canny-sdxl-1.0", "controlnet-xl"),
        ("hf:lllyasviel/control_v11p_sd15_canny", "controlnet"),
        ("hf:diffusers/stable-diffusion-xl-1.0-inpainting-0.1", "sdxl"),
        ("hf:DeepFloyd/IF-I-XL-v1.0", "if-1"),
        ("hf:DeepFloyd/IF-II-L-v1.0", "if-2"),
        ("hf:black-forest-labs/FLUX.1-Kontext-dev", "kontext"),
        ("hf:Salesforce/blip-image-captioning-base", ""),
    ],
)
def test_what_a_tiny_model_stands_for_is_told_by_name(reference: str, kind: str) -> None:
    """The well-known checkpoints are known by their names; what is not known is not guessed."""
    assert kind_of(reference, None) == kind


def test_what_a_tiny_model_stands_for_is_told_by_what_it_is(
    tiny_model: Callable[[str], str],
) -> None:
    """Where the checkpoint is at hand its own configuration says what it is, whatever its name."""
    for name in ("flux", "sd-inpainting", "controlnet", "controlnet-sdxl", "swin2sr", "deepfloyd"):
        path = Path(tiny_model(name))
        assert kind_of("./my model", path) == path.name


def test_a_folder_of_what_a_tiny_model_stands_for(tmp_path: Path) -> None:
    """A reference to a folder of a repository gets that folder of the tiny one."""
    whole = stand_in("hf:h94/IP-Adapter", None, tmp_path)
    assert whole is not None
    assert stand_in("hf:h94/IP-Adapter@main/models/", None, tmp_path) == whole / "models"
    assert (whole / "models/ip-adapter_sd15.safetensors").is_file()


@pytest.mark.parametrize(
    ("reference", "token"),
    [
        ("hf:org/EasyNegative@main/EasyNegative.safetensors", "<EasyNegative>"),
        ("hf:org/many@main/words/toy.safetensors", "<toy>"),
        ("hf:sd-concepts-library/cat-toy", "<cat-toy>"),
        ("hf:sd-concepts-library/cat-toy@main (tiny)", "<cat-toy>"),
        ("./words/toy.safetensors", "<toy>"),
        ("/home/me@work/words/cat-toy", "<cat-toy>"),
        ("./me@work/words/toy.safetensors", "<toy>"),
    ],
)
def test_an_embeddings_word_is_its_files_name(reference: str, token: str) -> None:
    """Or its repository's, where no file is named."""
    from imagen_flow_diffusion.adapters.attached import token_of

    assert token_of(flow.Model(Path("x"), "digest", reference)) == token


def test_a_negative_prompt_that_changes_nothing_is_said(
    tiny_model: Callable[[str], str], pool: ModelPool
) -> None:
    """FLUX is led by one above a ``true_cfg_scale`` of 1 alone, and other families by their
    guidance.
    """

    def notes(model: str, **more: Any) -> set[str]:
        told: list[str] = []
        node = drawn(tiny_model(model), negative_prompt="b", **more)
        flow.run(
            graph(one=node),
            store=None,
            device="cpu",
            pool=pool,
            on_event=lambda event: told.append(getattr(event, "note", "")),
        )
        return {note for note in told if note}

    assert notes("flux") == {
        "the negative prompt changes nothing: that takes arguments: {true_cfg_scale: 4}"
    }
    assert notes("flux", arguments={"true_cfg_scale": 2.0}) == set()
    assert notes("sd-1.5") == set()


def test_a_denoising_that_ends_where_it_begins_is_refused(
    tiny_model: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """diffusers would denoise to the end."""
    text = {"type": "text.encode", "model": tiny_model("sdxl"), "prompt": "a"}
    said = failure(
        text=text,
        one={
            "type": "diffusion.denoise",
            "model": tiny_model("sdxl"),
            "text": "${text}",
            "denoising_end": 0,
            "seed": 1,
        },
    )
    assert said.startswith("its 'denoising_end' is 0")


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        ("cudnn", "attention: cudnn does not run on cpu, but on cuda; "),
        ("efficient", "attention: efficient does not run on cpu, but on cuda; "),
        ("flash", ""),
    ],
)
def test_attention_that_a_device_has_not_is_refused(
    tiny_model: Callable[[str], str], attention: str, said: str
) -> None:
    """torch would say so in the middle of a run, in words of its own."""
    assert refused(
        {"one": drawn(tiny_model("sd-1.5"), settings={"attention": attention})}
    ).startswith(said)
    assert bool(
        refused({"one": drawn(tiny_model("sd-1.5"), settings={"attention": attention})})
    ) == bool(said)


@pytest.mark.parametrize(
    ("type_", "renamed"),
    [
        ("diffusion.text_to_image", shared_ports.RENAMED),
        ("diffusion.image_to_image", shared_ports.RENAMED),
        ("diffusion.inpaint", shared_ports.RENAMED),
        ("diffusion.denoise", shared_ports.RENAMED),
        ("text.encode", shared_ports.RENAMED_LORAS),
        ("image.edit", shared_ports.RENAMED_LORAS),
        ("diffusion.pipeline", generic.RENAMED),
        ("diffusion.tensors", generic.RENAMED),
    ],
)
def test_a_list_beside_another_is_told_the_record_that_it_is_now(
    type_: str, renamed: dict[str, str]
) -> None:
    """Each spelling of before is a problem that shows the one of today."""
    node = {"type": type_, **dict.fromkeys(renamed, 1)}
    with pytest.raises(flow.GraphError) as refused:
        flow.load({"imagen_flow": 1, "nodes": {"n": node}, "outputs": {"o": "${n}"}})
    fixes = [p.fix for p in refused.value.problems if p.code == "unknown-port"]
    assert fixes == [f"write {now}" for now in renamed.values()]
