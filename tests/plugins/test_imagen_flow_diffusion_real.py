"""With real checkpoints every graph draws, and each picture that one call of diffusers draws too is
that call's picture, bit for bit.

What it takes: ``make test-checkpoints``, which pulls what the graphs name and runs this; the README
says how much that is. A graph whose checkpoints are not in the hub's cache is skipped. That this
module itself works is held true without them, by tiny checkpoints that a local hub serves under the
real names.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, parse_reference, quiet_libraries
from imagen_flow._models.cache import snapshot
from imagen_flow._settings.devices import resolve_device, resolve_dtype

#: The libraries warn of what they do themselves with numpy, torch and their own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ROOT = Path(__file__).parents[2]
#: Node types that are held against their own libraries elsewhere, or train for hours.
ELSEWHERE = re.compile(
    r"type: (train|score|index|audio|language|metric)\.|type: mask\.select"
    r"|type: image\.(caption|classify|depth|detect|features|pose|segment)"
    r"|type: text\.(expand|features|summarise|translate)"
)
GRAPHS = {
    path.stem: path
    for path in sorted((ROOT / "graphs").glob("*.yaml"))
    if "hf:" in (text := path.read_text("utf-8")) and not ELSEWHERE.search(text)
}


# --- by hand
# -------------------------------------------------------------------------------------------------------------------


class Hand:
    """What a user of diffusers does with the same checkpoints on the same device."""

    def __init__(self) -> None:
        self.device = resolve_device("auto")
        self.dtype = getattr(torch, resolve_dtype("auto", self.device))

    def at(self, reference: str) -> str:
        """Where a checkpoint lies in the hub's cache."""
        known = parse_reference(reference)
        return str(snapshot(known, reference) / known.file)

    def variant(self, reference: str) -> dict[str, str]:
        """Halves, where there is nothing else."""
        names = [path.name for path in Path(self.at(reference)).rglob("*.safetensors")]
        return (
            {"variant": "fp16"}
            if names and all(".fp16." in name or ".fp16-" in name for name in names)
            else {}
        )

    def load(self, reference: str, cls: str = "DiffusionPipeline", **parts: Any) -> Any:
        import diffusers

        if cls == "DiffusionPipeline":  # by its own name it brings the classes of its package along
            cls = json.loads(Path(self.at(reference), "model_index.json").read_text("utf-8"))[
                "_class_name"
            ]
        package = getattr(diffusers, cls).__module__.rpartition(".")[0]
        if not hasattr(diffusers.pipelines, name := package.rpartition(".")[2]):
            setattr(
                diffusers.pipelines, name, importlib.import_module(package)
            )  # where diffusers has put a pipeline away it does not find its parts
        if "StableDiffusionXL" in cls or "stable-diffusion-xl" in reference:
            parts["add_watermarker"] = False
        with quiet_libraries():
            pipeline = (
                getattr(diffusers, cls)
                .from_pretrained(
                    self.at(reference), torch_dtype=self.dtype, **self.variant(reference), **parts
                )
                .to(self.device)
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def noise(self, seed: int) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(seed)


Args = dict[str, Any]

#: Ports that are no arguments of a pipeline's call.
OURS = {
    "type",
    "model",
    "seed",
    "arguments",
    "instruction",
    "images",
    "mask",
    "keep_outside",
    "pipeline_class",
    "sampler",
    "sampler_settings",
    "prior",
}


def called(args: Args, *more: str) -> Args:
    """The arguments of a node that the call by hand takes as they are."""
    return {
        name: value.to_pil() if isinstance(value, flow.Image) else value
        for name, value in args.items()
        if name not in {*OURS, *more}
    } | args.get("arguments", {})


def text_to_image(hand: Hand, args: Args) -> Any:
    if "loras" in args or "controls" in args:
        if "stable-diffusion-v1-5" not in args["model"]:
            return None  # as held true on tiny ones; here one family stands for all
        return adapters(hand, args) if "loras" in args else controlnets(hand, args)
    if "prior" in args:
        return kandinsky(hand, args)
    return hand.load(args["model"])(generator=hand.noise(args["seed"]), **called(args)).images[0]


def adapters(hand: Hand, args: Args) -> Any:
    import diffusers
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    (ip_adapter,) = args["ip_adapters"]
    loras = [lora if isinstance(lora, dict) else {"model": lora} for lora in args["loras"]]
    at = hand.at(ip_adapter["model"])
    with quiet_libraries():
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            f"{at}/image_encoder", dtype=hand.dtype
        ).to(hand.device)
        side = encoder.config.image_size
        seeing = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    pipeline = hand.load(
        args["model"], "StableDiffusionPipeline", image_encoder=encoder, feature_extractor=seeing
    )
    pipeline.scheduler = getattr(diffusers, args["sampler"]).from_config(pipeline.scheduler.config)
    for number, lora in enumerate(loras):
        path = Path(hand.at(lora["model"]))
        pipeline.load_lora_weights(
            str(path.parent if path.suffix else path),
            weight_name=path.name if path.suffix else "pytorch_lora_weights.safetensors",
            adapter_name=f"lora{number}",
        )
    pipeline.set_adapters(
        [f"lora{number}" for number in range(len(loras))],
        [lora.get("weight", 1.0) for lora in loras],
    )
    for word in args["embeddings"]:
        path = Path(hand.at(word))
        # In small letters, here and below: of a word with capitals diffusers uses the first vector
        # alone.
        pipeline.load_textual_inversion(str(path), token=f"<{path.stem}>".lower())
    pipeline.load_ip_adapter(
        at, subfolder="", weight_name=ip_adapter["file"], image_encoder_folder=None
    )
    pipeline.set_ip_adapter_scale(ip_adapter["scale"])
    kept = called(args, "loras", "embeddings", "ip_adapters")
    kept = {
        name: value.lower() if isinstance(value, str) and name.endswith("prompt") else value
        for name, value in kept.items()
    }
    return pipeline(
        generator=hand.noise(args["seed"]),
        ip_adapter_image=ip_adapter["image"].to_pil(),
        **kept,
    ).images[0]


def controlnets(hand: Hand, args: Args) -> Any:
    from diffusers import ControlNetModel

    with quiet_libraries():
        networks = [
            ControlNetModel.from_pretrained(hand.at(control["model"]), torch_dtype=hand.dtype)
            for control in args["controls"]
        ]
    pipeline = hand.load(args["model"], "StableDiffusionControlNetPipeline", controlnet=networks)
    kept = called(args, "controls")
    return pipeline(
        image=[control["image"].to_pil().convert("RGB") for control in args["controls"]],
        controlnet_conditioning_scale=[control.get("scale", 1.0) for control in args["controls"]],
        control_guidance_end=[control.get("to", 1.0) for control in args["controls"]],
        generator=hand.noise(args["seed"]),
        **kept,
    ).images[0]


def kandinsky(hand: Hand, args: Args) -> Any:
    import diffusers

    prior, decoder = hand.load(args["prior"]), hand.load(args["model"])
    pipeline = diffusers.KandinskyV22CombinedPipeline(
        **decoder.components, **{f"prior_{name}": part for name, part in prior.components.items()}
    )
    return pipeline(generator=hand.noise(args["seed"]), **called(args)).images[0]


def image_to_image(hand: Hand, args: Args) -> Any:
    return hand.load(args["model"], "AutoPipelineForImage2Image")(
        generator=hand.noise(args["seed"]), **called(args)
    ).images[0]


def inpaint(hand: Hand, args: Args) -> Any:
    """The picture's own pixels are laid over what is drawn, as much as the mask leaves of them."""
    import PIL.Image

    image, mask = (
        args["image"],
        PIL.Image.fromarray((args["mask"].as_float() * 255).round().astype(np.uint8)),
    )
    drawn = hand.load(
        args["model"],
        "DiffusionPipeline" if "Fill" in args["model"] else "AutoPipelineForInpainting",
    )(
        mask_image=mask,
        width=image.width,
        height=image.height,
        generator=hand.noise(args["seed"]),
        **called(args),
    ).images[0]
    weight = args["mask"].as_float()[:, :, None]
    return np.rint(
        np.asarray(drawn) * weight + image.rgb().as_uint8().pixels * (1 - weight)
    ).astype(np.uint8)


def edit(hand: Hand, args: Args) -> Any:
    """An edited picture has its source's size, whatever the model works at."""
    import PIL.Image

    from imagen_flow_diffusion.stages.instruction_editing import LARGEST, SEVERAL

    loaded, kept = hand.load(args["model"]), called(args, "image", "references")
    pictures = [picture.rgb().to_pil() for picture in (args["image"], *args.get("references", []))]
    size, kind = pictures[0].size, type(loaded).__name__
    if "InstructPix2Pix" in kind:
        grid = loaded.vae_scale_factor
        scale = min(1.0, LARGEST * loaded.unet.config.sample_size * grid / max(size))
        pictures = [
            pictures[0].resize(
                tuple(round(side * scale / grid) * grid for side in size),
                PIL.Image.Resampling.LANCZOS,
            )
        ]
    edited = loaded(
        prompt=args["instruction"],
        image=pictures if kind in SEVERAL else pictures[0],
        generator=hand.noise(args["seed"]),
        **kept,
    ).images[0]
    return edited if edited.size == size else edited.resize(size, PIL.Image.Resampling.LANCZOS)


def upscale(hand: Hand, args: Args) -> Any:
    image = args["image"].rgb().to_pil()
    if "prompt" in args:
        return hand.load(args["model"])(
            generator=hand.noise(args["seed"]), **{**called(args), "image": image}
        ).images[0]
    return None  # tiles have no call by hand


def pipeline(hand: Hand, args: Args) -> Any:
    if "images" in args or "tensors" in args:
        return None  # what another node gave has a name of its own in each pipeline
    return hand.load(args["model"])(generator=hand.noise(args["seed"]), **called(args)).images


def denoised(hand: Hand, args: Args) -> Any:
    """Words, denoising and decoding in three nodes: one call, or one on the latents of another."""
    import torch.nn.functional as F
    from diffusers import schedulers

    by = {
        "StableDiffusionXL": "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusion": "StableDiffusionImg2ImgPipeline",
    }

    def is_one_call(node: Any) -> bool:
        """Whether all of it comes from words and noise."""
        return node is None or (
            isinstance(node, dict) and "mask" not in node and is_one_call(node.get("latents"))
        )

    def latents_of(node: Args) -> Any:
        given = called(node, "text", "latents") | called(node["text"], "weighting")
        before = node.get("latents")
        if before is None:
            loaded = hand.load(node["model"])
        else:
            scale = before.get("scale")
            given["image"] = latents_of(before["latents"] if scale else before)
            if scale:
                size = [int(side * scale) for side in given["image"].shape[-2:]]
                given["image"] = F.interpolate(
                    given["image"].float(), size=size, mode="nearest-exact"
                ).to(given["image"].dtype)
            kind = hand.load(node["model"]).__class__.__name__
            loaded = hand.load(
                node["model"], next(cls for start, cls in by.items() if kind.startswith(start))
            )
        if "sampler" in node:
            loaded.scheduler = getattr(schedulers, node["sampler"]).from_config(
                loaded.scheduler.config, **node.get("sampler_settings", {})
            )
        kind = "pil" if node is args["latents"] else "latent"
        if "use_resolution_binning" in inspect.signature(type(loaded).__call__).parameters:
            given["use_resolution_binning"] = (
                False  # the parts draw in the size that they are asked for
            )
        return loaded(generator=hand.noise(node["seed"]), output_type=kind, **given).images

    return latents_of(args["latents"])[0] if is_one_call(args["latents"]) else None


#: How a node's picture comes about by hand.
BY_HAND: dict[str, Callable[[Hand, Args], Any]] = {
    "diffusion.text_to_image": text_to_image,
    "diffusion.image_to_image": image_to_image,
    "diffusion.inpaint": inpaint,
    "diffusion.pipeline": pipeline,
    "image.edit": edit,
    "image.upscale": upscale,
    "latents.decode": denoised,
}


# --- through the graph
# ---------------------------------------------------------------------------------------------------------


def read(path: Path, device: str) -> dict[str, Any]:
    """A graph as a mapping that gives the values of all its nodes, small and with few steps: as
    many show equality as any.
    """
    from ruamel.yaml import YAML

    graph = YAML(typ="safe").load(path.read_text("utf-8"))
    side = 512 if device.startswith("cuda") else 64
    soon = {
        "steps": 4,
        "width": side,
        "height": side,
        "prior_steps": 3,
        "large_steps": 3,
        "count": 2,
    }
    for name, declared in graph["inputs"].items():
        if isinstance(declared, dict) and declared.get("type") == "file":
            declared["default"] = str((path.parent / declared["default"]).resolve())
        elif name in soon and isinstance(declared, dict):
            declared["default"] = soon[name]
    for node in graph["nodes"].values():
        if (
            node["type"] in ("image.resize", "image.solid")
            and isinstance(node["width"], int)
            and node["width"] > 256
            and not device.startswith("cuda")
        ):
            node |= {"width": node["width"] // 4, "height": node["height"] // 4}
    graph["outputs"] = {name: f"${{{name}}}" for name in graph["nodes"]}
    return graph


def args_of(name: str, graph: Mapping[str, Any], values: Mapping[str, Any]) -> Args:
    """A node's arguments, as values: of inputs and of other nodes. A node that makes no picture
    stands for itself.
    """

    def value(said: Any) -> Any:
        if isinstance(said, list):
            return [value(one) for one in said]
        if isinstance(said, dict):
            return {key: value(one) for key, one in said.items()}
        if not isinstance(said, str) or not (found := re.fullmatch(r"\$\{(\w+)\}", said)):
            return said
        if found[1] in graph["nodes"]:
            kind = graph["nodes"][found[1]]["type"]
            return (
                args_of(found[1], graph, values)
                if kind in ("text.encode", "diffusion.denoise", "latents.resize", "latents.noise")
                else values[found[1]]
            )
        declared = graph["inputs"][found[1]]
        return declared["default"] if isinstance(declared, dict) else declared

    return {key: value(said) for key, said in graph["nodes"][name].items()}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return np.array_equal(ours.rgb().pixels, np.asarray(theirs))


#: Graphs that no call of diffusers draws by itself.
NOT_ONE_CALL = {
    "controlnet_union",
    "depth",
    "enlarge_photo",
    "film",
    "flux_canny",
    "flux_controlnet",
    "gan",
    "latent_inpaint",
    "sdxl_adapters",
    "stable_cascade",
    "unclip_variation",
    "vae_sampling",
}


@pytest.mark.checkpoint
@pytest.mark.parametrize("name", list(GRAPHS))
def test_a_graph_draws_with_real_checkpoints_as_diffusers_by_hand(
    name: str, pool: ModelPool
) -> None:
    """The graph runs, all of its pictures are pictures, and those of its nodes that diffusers draws
    by one call are that call's.
    """
    hand = Hand()
    graph = read(GRAPHS[name], hand.device)
    plan = flow.plan(graph, store=None)
    if lacking := [problem for problem in plan.problems if problem.code == "unresolved-model"]:
        pytest.skip(
            f"not in the hub's cache: imagen-flow models pull graphs/{name}.yaml ({lacking[0].message})"
        )
    assert [str(problem) for problem in plan.problems] == []
    values = flow.run(graph, store=None, pool=pool)
    pool.evict_idle()
    for made in (values[node] for node, said in graph["nodes"].items() if said["type"] in BY_HAND):
        for picture in made if isinstance(made, list) else [made]:
            assert (
                not isinstance(picture, flow.Image) or picture.pixels.std() > 0
            )  # a model that gives NaN gives one colour
    compared = 0
    lacking_by_hand = (
        name in ("flux2", "qwen_edit") and importlib.util.find_spec("torchvision") is None
    )
    for node, said in graph["nodes"].items():
        draw = (
            BY_HAND.get(said["type"]) if not lacking_by_hand else None
        )  # diffusers loads their processors only with torchvision
        args = args_of(node, graph, values)
        if draw is denoised and (
            not isinstance(args["latents"], dict) or args["latents"]["type"] != "diffusion.denoise"
        ):
            draw = None
        theirs = draw(hand, args) if draw is not None else None
        if theirs is not None:
            assert same(values[node], theirs), node
            compared += 1
        gc.collect()
    assert compared or lacking_by_hand or name in NOT_ONE_CALL, "nothing was compared"


# --- that this works, without real checkpoints
# ---------------------------------------------------------------------------------


def served(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Repositories of tiny checkpoints under the names that the graphs know, laid out as the real
    ones are; and the graphs whose checkpoints there are.
    """
    from imagen_flow_diffusion.tiny.known import stand_in

    found: dict[str, dict[str, bytes]] = {}
    whole = list(GRAPHS)
    for graph, path in GRAPHS.items():
        for text in sorted(
            set(
                re.findall(
                    r"hf:[\w./@-]*\w/?(?=[\s\"\],}])", re.sub(r"#.*", "", path.read_text("utf-8"))
                )
            )
        ):
            reference = parse_reference(text)
            made = stand_in(
                text.partition("@")[0] if reference.file.endswith("/") else text, None, folder
            )
            if made is None or (
                made.is_dir() and reference.file and not reference.file.endswith("/")
            ):
                whole.remove(graph)  # there is none of its kind, as of a network in GGUF
                break
            files = found.setdefault(reference.name, {})
            if made.is_file():
                files[reference.file or "pytorch_lora_weights.safetensors"] = made.read_bytes()
            else:
                files |= {
                    file.relative_to(made).as_posix(): file.read_bytes()
                    for file in made.rglob("*")
                    if file.is_file()
                }
    flat = found["google/ddpm-cat-256"]  # its parts lie side by side
    found["google/ddpm-cat-256"] = {
        name.rpartition("/")[2]: content for name, content in flat.items()
    }
    return found, whole


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_tests_of_real_checkpoints_run(tmp_path: Path) -> None:
    """Tiny checkpoints come from a hub under the real names, by the command that fetches the real
    ones; then every test above passes, and none is skipped.
    """
    spec = importlib.util.spec_from_file_location("local_hub", ROOT / "tests/local_hub.py")
    assert spec is not None and spec.loader is not None
    local_hub = sys.modules.setdefault("local_hub", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(local_hub)
    shutil.copytree(ROOT / "graphs", tmp_path / "graphs")  # the lock is written beside them
    repositories, names = served(tmp_path / "tiny")
    hub = local_hub.Hub(
        {name: local_hub.Repository({"main": files}) for name, files in repositories.items()}
    )
    environ = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    with local_hub.serve(hub) as url:
        pulled = subprocess.run(
            [
                sys.executable,
                "-m",
                "imagen_flow",
                "models",
                "pull",
                *(f"graphs/{name}.yaml" for name in names),
            ],
            cwd=tmp_path,
            env={**environ, "HF_ENDPOINT": url},
            capture_output=True,
            text=True,
        )
    assert pulled.returncode == 0, pulled.stderr
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--run",
            "checkpoint",
            *(
                f"{__file__}::test_a_graph_draws_with_real_checkpoints_as_diffusers_by_hand[{name}]"
                for name in names
            ),
        ],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    assert f"{len(names)} passed" in ran.stdout, ran.stdout[-3000:]
    assert len(names) >= 25
