"""LoRAs give the pixels of diffusers called by hand in every family that takes them, and leave
nothing behind on a base that others share.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.loading.components import Whole
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines; peft of a second
# LoRA.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter lora1 was active which is now deleted:UserWarning"),
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

SIZE = {"width": 32, "height": 32}


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the path of a tiny base by name, or of a LoRA for it: ``flux-1.safetensors``."""
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> str:
        if not (home / name).exists():
            base, _, number = name.removesuffix(".safetensors").partition("-")
            make, parts = BASES[base]
            with quiet_libraries():
                # The second of two leaves the words alone.
                companions.lora(
                    home / name,
                    base=make,
                    parts=parts if number == "1" else parts[:1],
                    seed=int(number),
                ) if number else make(home / name)
        return str(home / name)

    return get


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a fox",
        "num_inference_steps": 2,
        "seed": 3,
        **SIZE,
        **more,
    }


@pytest.mark.parametrize("base", list(BASES))
def test_two_weighted_loras_are_those_of_diffusers(
    base: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """In one node and in three; before and after, the base draws the same."""
    plain = draw(one=drawn(at(base)))
    pipeline = by_hand(at(base))
    more = {"use_resolution_binning": False} if base == "sana" else {}
    assert (
        same(
            plain,
            pipeline("a fox", generator=noise(), num_inference_steps=2, **SIZE, **more).images[0],
        )
        or base == "sana"
    )
    names = [at(f"{base}-1.safetensors"), at(f"{base}-2.safetensors")]
    for number, name in enumerate(names):
        pipeline.load_lora_weights(name, adapter_name=f"l{number}")
    pipeline.set_adapters(["l0", "l1"], [0.8, 0.3])
    theirs = pipeline("a fox", generator=noise(), num_inference_steps=2, **SIZE, **more).images[0]
    loras = {
        "loras": [
            {"model": name, "weight": weight}
            for name, weight in zip(names, (0.8, 0.3), strict=True)
        ]
    }
    ours = draw(one=drawn(at(base), **loras, arguments=more))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    nodes = {
        "text": {"type": "text.encode", "model": at(base), "prompt": "a fox", **loras},
        "latents": {
            "type": "diffusion.denoise",
            "model": at(base),
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
            **SIZE,
            **loras,
        },
        "out": {"type": "latents.decode", "model": at(base), "latents": "${latents}"},
    }
    assert same(draw(**nodes), theirs)
    assert same(draw(one=drawn(at(base))), plain.pixels)


def wild(name: str, at: Callable[[str], str]) -> tuple[str, dict[str, Any]]:
    """A base, and weights of a LoRA for it in the names that others write."""
    from safetensors.torch import load_file

    def low(inside: int, outside: int, layer: str) -> dict[str, Any]:
        return {
            f"{layer}.lora_down.weight": torch.randn(2, inside) * 0.5,
            f"{layer}.lora_up.weight": torch.randn(outside, 2) * 0.5,
        }

    torch.manual_seed(5)
    state: dict[str, Any] = {}
    if name == "kohya":
        for key, weight in load_file(at("sd-1.safetensors")).items():
            part, _, rest = key.partition(".")
            layer, _, end = rest.partition(".lora_")
            stem = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[
                part
            ] + layer.removeprefix("text_model.").replace(".", "_")
            state |= {
                f"{stem}.lora_{'down' if end[0] == 'A' else 'up'}.weight": weight,
                f"{stem}.alpha": torch.tensor(1.0),
            }
        return "sd", state
    if name == "kohya for SDXL":
        # In the original's names of blocks: the last of two levels down, the middle, the first of
        # two levels up.
        for block in (
            "input_blocks_3_1",
            "middle_block_1",
            "output_blocks_0_1",
            "output_blocks_1_1",
        ):
            for layer, inside in (("attn1_to_q", 64), ("attn2_to_k", 64), ("attn1_to_out_0", 64)):
                state |= low(inside, 64, f"lora_unet_{block}_transformer_blocks_0_{layer}")
        for encoder in ("te1", "te2"):
            for layer in ("q_proj", "out_proj"):
                state |= low(
                    32, 32, f"lora_{encoder}_text_model_encoder_layers_0_self_attn_{layer}"
                )
        return "sdxl", state | {
            f"{key.partition('.')[0]}.alpha": torch.tensor(1.0) for key in state
        }
    if name == "kohya for FLUX":
        state = (
            low(32, 96, "lora_unet_double_blocks_0_img_attn_qkv")
            | low(32, 96, "lora_unet_double_blocks_0_txt_attn_qkv")
            | low(160, 32, "lora_unet_single_blocks_0_linear2")
        )
        state |= low(32, 32, "lora_te1_text_model_encoder_layers_0_self_attn_q_proj") | low(
            32, 32, "lora_te1_text_model_encoder_layers_0_self_attn_out_proj"
        )
        return "flux", state | {
            f"{key.partition('.')[0]}.alpha": torch.tensor(1.0) for key in state
        }
    if name == "before peft":
        return "sdxl", {
            key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): weight
            for key, weight in load_file(at("sdxl-2.safetensors")).items()
        }
    base, prefix = {
        "Qwen-Image elsewhere": ("qwen", "diffusion_model."),
        "Z-Image elsewhere": ("z", "diffusion_model."),
        "alphas": ("flux", "transformer."),
    }[name]
    state = {
        key.replace("transformer.", prefix, 1): weight
        for key, weight in load_file(at(f"{base}-2.safetensors")).items()
    }
    return base, state | (
        {key.partition(".lora_")[0] + ".alpha": torch.tensor(1.0) for key in state}
        if name == "alphas"
        else {}
    )


@pytest.mark.parametrize(
    "name",
    [
        "kohya",
        "kohya for SDXL",
        "kohya for FLUX",
        "before peft",
        "alphas",
        "Qwen-Image elsewhere",
        "Z-Image elsewhere",
    ],
)
def test_loras_are_read_in_the_names_of_the_wild(
    name: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """What diffusers reads, a graph reads, and the same of it."""
    from safetensors.torch import save_file

    base, state = wild(name, at)
    file = str(tmp_path / "lora.safetensors")
    save_file(state, file)
    pipeline = by_hand(at(base))
    pipeline.load_lora_weights(file, adapter_name="one")
    pipeline.set_adapters(["one"], [1.0])
    theirs = pipeline("a fox", generator=noise(), num_inference_steps=2, **SIZE).images[0]
    ours = draw(one=drawn(at(base), loras=[file]))
    assert same(ours, theirs)
    assert not same(ours, draw(one=drawn(at(base))).pixels)


def state_of(pool: ModelPool, path: str) -> dict[str, tuple[int, int, bool, bytes]]:
    """Where each of a base's weights lies, what it holds, and all that hangs on its modules."""
    (model,) = flow.plan(
        {"imagen_flow": 1, "nodes": {"one": drawn(path)}, "outputs": {"out": "${one}"}}, store=None
    ).values.models.resolved.values()
    with pool.lease(Whole(), model, device="cpu", dtype="float32") as base:
        found = {}
        for part, module in base.parts.items():
            if isinstance(module, torch.nn.Module):
                found |= {
                    f"{part}.{name}": (
                        id(weight),
                        weight.data_ptr(),
                        weight.requires_grad,
                        weight.detach().numpy().tobytes(),
                    )
                    for name, weight in module.named_parameters()
                }
                assert not getattr(module, "peft_config", None) and not getattr(
                    module, "_hf_peft_config_loaded", None
                )
        return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is loaded from checkpoints meanwhile, by class."""
    import diffusers
    import transformers

    seen: list[str] = []
    for home in (diffusers.ModelMixin, transformers.PreTrainedModel):
        inner = home.from_pretrained.__func__  # type: ignore[attr-defined]

        def watched(cls: Any, *given: Any, inner: Any = inner, **more: Any) -> Any:
            seen.append(cls.__name__)
            return inner(cls, *given, **more)

        monkeypatch.setattr(home, "from_pretrained", classmethod(watched))
    yield seen


@pytest.mark.parametrize("base", ["sdxl", "flux"])
def test_a_base_is_loaded_once_whatever_is_put_on(
    base: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    pool: ModelPool,
    loads: list[str],
    failure: Callable[..., str],
) -> None:
    """With LoRAs, with others, with one that fails after another went on: the weights are the same
    tensors with the same bits, and nothing is loaded again.
    """
    pool.evict_idle()
    draw(one=drawn(at(base)))
    parts = list(loads)
    before = state_of(pool, at(base))
    first, second, other = (
        at(f"{name}.safetensors") for name in (f"{base}-1", f"{base}-2", "sd-1")
    )
    loads[:] = parts
    a = draw(one=drawn(at(base), loras=[first]))
    b = draw(one=drawn(at(base), loras=[{"model": second, "weight": 0.5}]))
    assert not same(a, b.pixels)
    assert failure(one=drawn(at(base), loras=[first, other])).startswith(
        f"the LoRA '{other}' was made for a different base than '{at(base)}' ({'FluxPipeline' if base == 'flux' else 'StableDiffusionXLPipeline'}): "
    )
    assert state_of(pool, at(base)) == before
    assert same(draw(one=drawn(at(base), loras=[first])), a.pixels)
    assert state_of(pool, at(base)) == before
    assert loads == parts


def test_a_lora_for_flux_fits_what_reads_drawings_too(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A checkpoint that is held to a drawing reads twice the channels; a LoRA made for one that is
    not changes the half that it knows.
    """
    from safetensors.torch import load_file, save_file

    with quiet_libraries():
        canny = str(
            checkpoints.flux(tmp_path / "canny", class_name="FluxControlPipeline", reads=128)
        )
    state = load_file(at("flux-1.safetensors"))
    state |= {
        "transformer.x_embedder.lora_A.weight": torch.randn(2, 64),
        "transformer.x_embedder.lora_B.weight": torch.randn(32, 2),
    }
    save_file(state, tmp_path / "lora.safetensors")
    picture, load = photos(0)
    pipeline = by_hand(canny)
    pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"), adapter_name="one")
    pipeline.set_adapters(["one"], [0.6])
    theirs = pipeline(
        "a fox", control_image=picture, generator=noise(), num_inference_steps=2, **SIZE
    ).images[0]
    ours = draw(
        photo=load,
        one=drawn(
            canny,
            loras=[{"model": str(tmp_path / "lora.safetensors"), "weight": 0.6}],
            controls=[{"image": "${photo}"}],
        ),
    )
    assert same(ours, theirs)


def test_a_lora_whose_shapes_differ_half_way_leaves_nothing(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    pool: ModelPool,
    failure: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Its first layers fit and one of the last does not: the error names both, and the base is as
    it was.
    """
    from safetensors.torch import load_file, save_file

    state = load_file(at("sd3-1.safetensors"))
    last = max(
        name for name in state if name.startswith("transformer") and name.endswith("lora_B.weight")
    )
    state[last] = torch.randn(7, 2)
    save_file(state, tmp_path / "torn.safetensors")
    plain = draw(one=drawn(at("sd3")))
    before = state_of(pool, at("sd3"))
    said = failure(one=drawn(at("sd3"), loras=[str(tmp_path / "torn.safetensors")]))
    assert said.startswith(
        f"the LoRA '{tmp_path / 'torn.safetensors'}' was made for a different base than '{at('sd3')}' (StableDiffusion3Pipeline): "
    )
    assert state_of(pool, at("sd3")) == before
    assert same(draw(one=drawn(at("sd3"))), plain.pixels)


def test_a_control_lora_is_refused_by_name(
    at: Callable[[str], str], failure: Callable[..., str], tmp_path: Path
) -> None:
    """What makes another network of a shared base says so, and what to take instead."""
    from safetensors.torch import load_file, save_file

    state = load_file(at("flux-2.safetensors"))
    state["transformer.transformer_blocks.0.attn.norm_q.weight"] = torch.ones(16)
    save_file(state, tmp_path / "canny.safetensors")
    assert failure(one=drawn(at("flux"), loras=[str(tmp_path / "canny.safetensors")])).endswith(
        "it is a control LoRA, which changes the network of the base; use a control checkpoint instead (FLUX Canny, Depth)"
    )


def test_loras_that_go_on_again_are_not_made_again(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    pool: ModelPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layers of those that were last on go on again at once, with other weights too; others
    take their place; and the pixels are those of LoRAs freshly loaded.
    """
    from peft.tuners.lora.layer import LoraLayer

    made: list[str] = []
    inner = LoraLayer.reset_lora_parameters

    def watched(self: Any, adapter_name: str, init: Any) -> Any:
        made.append(str(next(iter(self.lora_A[adapter_name].parameters())).device))
        return inner(self, adapter_name, init)

    pool.evict_idle()
    first, second = at("sdxl-1.safetensors"), at("sdxl-2.safetensors")
    plain = draw(one=drawn(at("sdxl")))
    before = state_of(pool, at("sdxl"))
    pipeline = by_hand(at("sdxl"))
    pipeline.load_lora_weights(first, adapter_name="one")
    theirs = []
    for weight in (1.0, 0.5):
        pipeline.set_adapters(["one"], [weight])
        theirs.append(pipeline("a fox", generator=noise(), num_inference_steps=2, **SIZE).images[0])
    monkeypatch.setattr(LoraLayer, "reset_lora_parameters", watched)
    assert same(draw(one=drawn(at("sdxl"), loras=[first])), theirs[0])
    assert "meta" in made, "the denoiser's are not drawn at random either"
    made.clear()
    assert same(draw(one=drawn(at("sdxl"))), plain.pixels)
    assert same(draw(one=drawn(at("sdxl"), loras=[{"model": first, "weight": 0.5}])), theirs[1])
    assert same(draw(one=drawn(at("sdxl"), loras=[first])), theirs[0])
    assert made == []
    other = draw(one=drawn(at("sdxl"), loras=[second]))
    assert made
    assert not same(other, theirs[0])
    assert state_of(pool, at("sdxl")) == before


def test_what_is_kept_of_loras_goes_with_its_base(
    at: Callable[[str], str], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """When a base is evicted, nothing holds it or the layers that it wore."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    pool.evict_idle()
    draw(one=drawn(at("z"), loras=[at("z-1.safetensors")]))
    assert layers_alive(BaseTunerLayer)
    pool.evict_idle()
    gc.collect()
    assert layers_alive(BaseTunerLayer) == 0


def layers_alive(cls: type) -> int:
    return sum(issubclass(type(found), cls) for found in gc.get_objects())
