"""Denoisers and text encoders compute several items at once where the user allows it, within one
level of what each gives alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

PROMPTS = ["a red fox", "a large blue square on a white background", "words"]
SEEDS = [1, 2, 3]


def both(nodes: dict[str, Any]) -> tuple[list[flow.Image], list[flow.Image], ModelPool]:
    """Run nodes one by one and together; give the pictures of both, and what the pool learned."""
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}}
    with ModelPool() as pool:
        alone = flow.run(graph, store=None, pool=pool, device="cpu")["out"]
        assert pool.sound_groups == {}
        together = flow.run(graph, store=None, pool=pool, device="cpu", batch="auto")
        assert not [note for note in together.notes if "one by one" in note.message]
        return alone, together["out"], pool


def furthest(a: list[flow.Image], b: list[flow.Image]) -> int:
    """By how many levels of 8 bits pictures differ at most."""
    return max(
        int(np.abs(x.as_uint8().pixels.astype(int) - y.as_uint8().pixels.astype(int)).max())
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("kind", ["sd", "sdxl", "flux", "sd3"])
def test_pictures_of_a_checkpoint_are_drawn_together(kind: str, at: Callable[[str], str]) -> None:
    """With prompts and seeds of their own, each picture is that of its own generator."""
    drawn = {
        "type": "diffusion.text_to_image",
        "model": at(kind),
        "each": {"prompt": PROMPTS, "seed": SEEDS},
        "num_inference_steps": 2,
        "width": 32,
        "height": 32,
    }
    alone, together, pool = both({"drawn": drawn})
    assert furthest(alone, together) <= 1
    assert furthest(alone[:1], together[1:2]) > 1
    assert list(pool.sound_groups.values()) == [True]


def test_a_prompt_is_encoded_together_with_others(at: Callable[[str], str]) -> None:
    """The states of several prompts are those of each, and draw the same pictures."""
    model = at("sd")
    alone, together, pool = both(
        {
            "text": {"type": "text.encode", "model": model, "each": {"prompt": PROMPTS}},
            "latents": {
                "type": "diffusion.denoise",
                "model": model,
                "each": {"text": "${text}", "seed": SEEDS},
                "num_inference_steps": 2,
                "width": 32,
                "height": 32,
            },
            "drawn": {
                "type": "latents.decode",
                "model": model,
                "each": {"latents": "${latents}"},
            },
        }
    )
    assert furthest(alone, together) <= 1
    assert list(pool.sound_groups.values()) == [True]


def stages(model: str, larger: str, **given: Any) -> dict[str, Any]:
    """Words to states, states to small pictures, these to large ones."""
    return {
        "text": {"type": "text.encode", "model": model, "each": {"prompt": PROMPTS}},
        "base": {
            "type": "diffusion.base",
            "model": model,
            "each": {"text": "${text}", "seed": SEEDS},
            "num_inference_steps": 2,
        },
        "large": {
            "type": "diffusion.super_resolution",
            "model": larger,
            "each": {"image": "${base}", "text": "${text}", "seed": SEEDS},
            "num_inference_steps": 2,
        },
    }


def test_all_stages_of_a_cascade_compute_together(tiny: ModuleType, tmp_path: Any) -> None:
    """Encoder, base and enlarger of the embedded kind."""
    model = str(tiny.cascade(tmp_path / "cascade"))
    alone, together, pool = both(stages(model, model))
    assert furthest(alone, together) <= 1
    assert list(pool.sound_groups.values()) == [True] * 3


def test_both_stages_of_deepfloyd_compute_together(tmp_path: Any) -> None:
    """Through diffusers' own pipelines, with a list of generators."""
    from imagen_flow_diffusion.tiny import checkpoints

    with quiet_libraries():
        first = checkpoints.deepfloyd(tmp_path / "first")
        second = checkpoints.deepfloyd(tmp_path / "second", stage=2)
    alone, together, pool = both(stages(str(first), str(second)))
    assert furthest(alone, together) <= 1
    assert list(pool.sound_groups.values()).count(True) >= 2


def test_adapters_of_one_picture_are_not_grouped(at: Callable[[str], str]) -> None:
    """Arguments of the pipeline by name are for one picture: it is drawn alone, and comes out so."""
    drawn = {
        "type": "diffusion.text_to_image",
        "model": at("sd"),
        "each": {"prompt": PROMPTS, "seed": SEEDS},
        "num_inference_steps": 2,
        "width": 32,
        "height": 32,
        "arguments": {"eta": 0.5},
    }
    alone, together, pool = both({"drawn": drawn})
    assert furthest(alone, together) == 0
    assert pool.sound_groups == {}


def test_the_embedded_editor_and_captioner_compute_together() -> None:
    """Each picture by its own instruction, with the notes of its own."""
    nodes = {
        "drawn": {"type": "dataset.edits", "count": 3, "seed": 1},
        "edited": {
            "type": "image.edit",
            "model": "embedded/edit",
            "each": {
                "image": "${drawn.pictures}",
                "instruction": ["make the background white", "", "keep the circle"],
            },
            "seed": 3,
        },
        "words": {
            "type": "image.caption",
            "model": "embedded/caption",
            "each": {"image": "${edited}"},
        },
    }
    graph = {
        "imagen_flow": 1,
        "nodes": nodes,
        "outputs": {"edited": "${edited}", "words": "${words}", "sure": "${words.confidence}"},
    }
    with ModelPool() as pool:
        alone = flow.run(graph, store=None, pool=pool, device="cpu")
        together = flow.run(graph, store=None, pool=pool, device="cpu", batch="auto")
    assert list(pool.sound_groups.values()) == [True, True]
    assert furthest(alone["edited"], together["edited"]) <= 1
    assert furthest(alone["edited"][:1], alone["edited"][1:2]) > 1
    assert alone["words"] == together["words"] and len(set(alone["words"])) == 3
    assert together["sure"] == pytest.approx(alone["sure"], abs=1e-4)
    notes = [sorted((note.item, note.message) for note in one.notes) for one in (alone, together)]
    assert notes[0] == notes[1] and [item for item, _ in notes[0]] == ["[1]", "[2]"]


def test_the_embedded_encoder_notes_what_it_doubts_of_each_prompt() -> None:
    """Alone and together with others."""
    prompts = ["a circle that is red or blue", "a large red circle", "a red circle by the sea"]
    text = {"type": "text.encode", "model": "embedded/imagen", "each": {"prompt": prompts}}
    graph = {"imagen_flow": 1, "nodes": {"text": text}, "outputs": {"text": "${text}"}}
    with ModelPool() as pool:
        alone, together = (
            sorted(
                (note.item, note.message)
                for note in flow.run(graph, store=None, pool=pool, device="cpu", batch=batch).notes
            )
            for batch in ("exact", "auto")
        )
    assert alone == together
    assert alone[0] == ("[0]", "the prompt may be misread: 'blue' may be left out")
    assert "'sea'" in alone[1][1] and [item for item, _ in alone] == ["[0]", "[2]"]
