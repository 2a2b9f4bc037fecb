"""Words of one's own, textual inversions of every format in use, mean for one call what they mean
in diffusers, and nothing afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.stages.loaders import TextEncoder
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

SIZE = {"width": 32, "height": 32}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bases and embeddings in the formats in use."""
    folder = tmp_path_factory.mktemp("embeddings")
    with quiet_libraries():
        checkpoints.stable_diffusion(folder / "sd")
        checkpoints.stable_diffusion_xl(folder / "sdxl")
    companions.embedding(folder / "toy.safetensors")
    companions.embedding(folder / "style.safetensors", seed=31, vectors=1)
    companions.embedding(folder / "again" / "toy.safetensors", seed=32)
    companions.embedding(folder / "xl-toy.safetensors", xl=True, seed=33)
    companions.embedding(folder / "xl-style.safetensors", xl=True, seed=34, vectors=1)
    companions.embedding(folder / "wide.safetensors", width=48)
    companions.embedding(folder / "Toy.safetensors", seed=36)
    companions.lora(folder / "lora.safetensors")
    for name, state in {
        "ip": {"image_proj.norm.bias": torch.zeros(2), "image_proj.norm.weight": torch.ones(2)},
        "deep": {"emb_params": torch.zeros(1, 2, 32)},
        "empty": {"emb_params": torch.zeros(0, 32)},
        "whole": {"emb_params": torch.zeros(2, 32, dtype=torch.long)},
    }.items():
        save_file(state, folder / f"{name}.safetensors")
    made = torch.Generator().manual_seed(35)
    (folder / "cat-toy").mkdir()
    torch.save(
        {"<cat>": torch.randn(32, generator=made)}, folder / "cat-toy" / "learned_embeds.bin"
    )
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.nn.Parameter(torch.randn(3, 32, generator=made))},
            "name": "old",
            "step": 5,
        },
        folder / "old.pt",
    )
    return folder


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def drawn(model: Path, prompt: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": str(model),
        "prompt": prompt,
        "num_inference_steps": 2,
        "seed": 3,
        **SIZE,
        **more,
    }


def words_of(pool: ModelPool, path: Path) -> dict[str, Any]:
    """What a base's encoders and tokenizers know."""
    node = {"type": "text.encode", "model": str(path), "prompt": "a"}
    (model,) = flow.plan(
        {"imagen_flow": 1, "nodes": {"one": node}, "outputs": {"out": "${one}"}}, store=None
    ).values.models.resolved.values()
    with pool.lease(TextEncoder(), model, device="cpu", dtype="float32") as encoder:
        parts = encoder.checkpoint.parts
        tables = {
            name: part.get_input_embeddings()
            for name, part in parts.items()
            if name.startswith("text")
        }
        known = {
            name: dict(part.get_vocab())
            for name, part in parts.items()
            if name.startswith("tokenizer")
        }
        return {
            **known,
            **{
                name: (
                    id(table),
                    id(table.weight),
                    parts[name].config.vocab_size,
                    table.weight.detach().numpy().tobytes(),
                )
                for name, table in tables.items()
            },
        }


def by_two(pipeline: Any, file: Path, token: str) -> None:
    """Put an embedding for SDXL on by hand."""
    from safetensors.torch import load_file

    state = load_file(file)
    pipeline.load_textual_inversion(
        state["clip_l"],
        token=token,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
    )
    pipeline.load_textual_inversion(
        state["clip_g"],
        token=token,
        text_encoder=pipeline.text_encoder_2,
        tokenizer=pipeline.tokenizer_2,
    )


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_several_words_are_those_of_diffusers(
    base: str, home: Path, pool: ModelPool, draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """Two at once, in one node and in three; for SDXL each has vectors for two encoders; the base's
    tables of words are the same tensors afterwards.
    """
    names = ("toy", "style") if base == "sd" else ("xl-toy", "xl-style")
    prompt = f"a <{names[0]}> fox, <{names[1]}>"
    plain = draw(one=drawn(home / base, prompt))
    before = words_of(pool, home / base)
    pipeline = by_hand(str(home / base))
    for name in names:
        if base == "sd":
            pipeline.load_textual_inversion(str(home / f"{name}.safetensors"), token=f"<{name}>")
        else:
            by_two(pipeline, home / f"{name}.safetensors", f"<{name}>")
    theirs = pipeline(prompt, generator=noise(), num_inference_steps=2, **SIZE).images[0]
    embeddings = [str(home / f"{name}.safetensors") for name in names]
    ours = draw(one=drawn(home / base, prompt, embeddings=embeddings))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    nodes = {
        "text": {
            "type": "text.encode",
            "model": str(home / base),
            "prompt": prompt,
            "embeddings": embeddings,
        },
        "latents": {
            "type": "diffusion.denoise",
            "model": str(home / base),
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
            **SIZE,
        },
        "out": {"type": "latents.decode", "model": str(home / base), "latents": "${latents}"},
    }
    assert same(draw(**nodes), theirs)
    assert words_of(pool, home / base) == before
    assert same(draw(one=drawn(home / base, prompt)), plain.pixels)


@pytest.mark.parametrize(
    ("embedding", "file", "token"),
    [("cat-toy", "cat-toy/learned_embeds.bin", "<cat-toy>"), ("old.pt", "old.pt", "<old>")],
    ids=["diffusers' own", "Automatic1111's"],
)
def test_older_formats_are_pickles_that_the_user_allows(
    embedding: str, file: str, token: str, home: Path, pool: ModelPool, by_hand: Callable[..., Any]
) -> None:
    """They are refused by name, or give the pixels of diffusers."""
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": drawn(home / "sd", f"a {token}", embeddings=[str(home / embedding)])},
        "outputs": {"out": "${one}"},
    }
    assert any(
        "a pickle can run any code" in problem.why
        for problem in flow.plan(graph, store=None, device="cpu").problems
    )
    pipeline = by_hand(str(home / "sd"))
    pipeline.load_textual_inversion(str(home / file), token=token)
    theirs = pipeline(f"a {token}", generator=noise(), num_inference_steps=2, **SIZE).images[0]
    assert same(
        flow.run(graph, store=None, device="cpu", pool=pool, allow_pickle=[str(home / file)])[
            "out"
        ],
        theirs,
    )


@pytest.mark.parametrize(
    ("base", "embeddings", "words"),
    [
        (
            "sd",
            ["toy", "again/toy"],
            "two of its 'embeddings' are called <toy>, and a prompt could not tell them apart: rename one's file",
        ),
        (
            "sd",
            ["toy", "wide"],
            "the embedding '{home}/wide.safetensors' was made for a different base than '{home}/sd' (StableDiffusionPipeline): its vectors have 48 numbers, and text_encoder's 32",
        ),
        (
            "sdxl",
            ["xl-toy", "toy"],
            "the embedding '{home}/toy.safetensors' was made for a different base than '{home}/sdxl' (StableDiffusionXLPipeline): it holds emb_params, and not the vectors of one word for each of "
            "text_encoder, text_encoder_2",
        ),
        (
            "sd",
            ["xl-toy"],
            "the embedding '{home}/xl-toy.safetensors' was made for a different base than '{home}/sd' (StableDiffusionPipeline): it holds clip_g, clip_l, and not the vectors of one word for each of text_encoder",
        ),
        (
            "sd",
            ["toy", "deep"],
            "the embedding '{home}/deep.safetensors' is damaged or not a textual inversion: for text_encoder it holds float32 of shape (1, 2, 32), and vectors are rows of floating-point numbers",
        ),
        (
            "sd",
            ["empty"],
            "the embedding '{home}/empty.safetensors' is damaged or not a textual inversion: for text_encoder it holds float32 of shape (0, 32), and ",
        ),
        (
            "sd",
            ["whole"],
            "the embedding '{home}/whole.safetensors' is damaged or not a textual inversion: for text_encoder it holds int64 of shape (2, 32), and ",
        ),
        (
            "sd",
            ["toy", "Toy"],
            "two of its 'embeddings' are called <Toy>, <toy>, and a prompt could not tell them apart: rename one's file",
        ),
    ],
)
def test_what_does_not_fit_is_said_and_leaves_nothing(
    base: str,
    embeddings: list[str],
    words: str,
    home: Path,
    pool: ModelPool,
    failure: Callable[..., str],
) -> None:
    """Two words of one name, vectors of another width or for other encoders: the base knows none of
    them afterwards.
    """
    before = words_of(pool, home / base)
    assert failure(
        one=drawn(
            home / base, "a", embeddings=[str(home / f"{name}.safetensors") for name in embeddings]
        )
    ).startswith(words.format(home=home))
    assert words_of(pool, home / base) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora", "is a LoRA: give it to 'loras'"),
        ("ip", "is not a textual inversion: it holds image_proj.norm.bias, image_proj.norm.weight"),
    ],
)
def test_what_is_no_textual_inversion_is_told_when_planning(
    name: str, words: str, home: Path, refused: Callable[..., str]
) -> None:
    """As what it is, by its header."""
    assert (
        refused(
            one=drawn(
                home / "sd",
                "a",
                embeddings=[str(home / "toy.safetensors"), str(home / f"{name}.safetensors")],
            )
        )
        == f"the embedding '{home}/{name}.safetensors' {words}"
    )


def test_a_word_that_the_base_knows_already_stays_its_own(
    home: Path,
    draw: Callable[..., Any],
    pool: ModelPool,
    failure: Callable[..., str],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A base that was saved with a word of its own keeps it, and says so."""
    pipeline = by_hand(str(home / "sd"))
    pipeline.load_textual_inversion(str(home / "style.safetensors"), token="<style>")
    with quiet_libraries():
        pipeline.save_pretrained(tmp_path / "sd")
    plain = draw(one=drawn(tmp_path / "sd", "a <style> fox"))
    before = words_of(pool, tmp_path / "sd")
    assert failure(
        one=drawn(tmp_path / "sd", "a <style>", embeddings=[str(home / "style.safetensors")])
    ) == (
        f"the model '{tmp_path / 'sd'}' already knows the word <style>: rename the file of the embedding '{home / 'style.safetensors'}'"
    )
    assert words_of(pool, tmp_path / "sd") == before
    assert same(draw(one=drawn(tmp_path / "sd", "a <style> fox")), plain.pixels)


@pytest.mark.parametrize("weighting", ["none", "compel"])
@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_a_word_with_capitals_has_all_its_vectors(
    base: str, weighting: str, home: Path, draw: Callable[..., Any], tmp_path: Path
) -> None:
    """However file and prompt spell it: the tokenizer reads no capitals, and finds the second
    vector all the same; under compel too.
    """
    file = home / ("toy.safetensors" if base == "sd" else "xl-toy.safetensors")
    states = []
    for name, prompt in (
        ("toy", "a <toy> fox"),
        ("EasyToy", "a <EasyToy> fox"),
        ("EasyToy", "a <easytoy> fox"),
    ):
        embedding = tmp_path / f"{name}.safetensors"
        embedding.write_bytes(file.read_bytes())
        states.append(
            draw(
                text={
                    "type": "text.encode",
                    "model": str(home / base),
                    "prompt": prompt,
                    "embeddings": [str(embedding)],
                    "weighting": weighting,
                }
            )
        )
    one = tmp_path / "one.safetensors"
    with torch.no_grad():
        from safetensors.torch import load_file

        save_file({key: vectors[:1].clone() for key, vectors in load_file(file).items()}, one)
    short = draw(
        text={
            "type": "text.encode",
            "model": str(home / base),
            "prompt": "a <one> fox",
            "embeddings": [str(one)],
            "weighting": weighting,
        }
    )
    small, large, either = ([np.asarray(tensor.data) for tensor in tensors] for tensors in states)
    assert all(
        np.array_equal(a, b) and np.array_equal(a, c)
        for a, b, c in zip(small, large, either, strict=True)
    )
    assert not np.array_equal(small[0], np.asarray(short[0].data))


def test_a_renamed_embedding_is_another(home: Path, pool: ModelPool, tmp_path: Path) -> None:
    """Its name is a word of prompts and so a part of its value: the picture of the old name is not
    taken from the store for the new one.
    """
    store = tmp_path / "store"

    def drawn_with(name: str, *, kept: bool = True) -> Any:
        graph = {
            "imagen_flow": 1,
            "nodes": {"one": drawn(home / "sd", "a <b> fox", embeddings=[str(tmp_path / name)])},
            "outputs": {"out": "${one}"},
        }
        return flow.run(graph, store=store if kept else None, device="cpu", pool=pool)["out"].pixels

    (tmp_path / "a.safetensors").write_bytes((home / "toy.safetensors").read_bytes())
    first = drawn_with("a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    second = drawn_with("b.safetensors")
    assert np.array_equal(second, drawn_with("b.safetensors", kept=False))
    assert not np.array_equal(first, second)


def test_provenance_names_the_models_of_lists_too(home: Path, pool: ModelPool) -> None:
    """Each by its reference and the digest of its content: a replay knows what it looks for."""
    files = [home / "toy.safetensors", home / "style.safetensors"]
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": drawn(home / "sd", "a <toy>", embeddings=[str(file) for file in files])},
        "outputs": {"out": "${one}"},
    }
    plan = flow.plan(graph, store=None, device="cpu")
    run = flow.execute(plan, pool=pool)
    list(run)
    (output,) = plan.graph.outputs.values()
    said = json.loads(run.provenance(output) or "")
    assert {model["reference"]: model["fingerprint"] for model in said["models"]} == {
        Path(model.reference).name: model.digest for model in plan.values.models.resolved.values()
    }


def test_two_files_of_equal_content_are_two_words(
    home: Path, draw: Callable[..., Any], tmp_path: Path
) -> None:
    """In one process and in one node: each word has the vectors."""
    names = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    for name in names:
        Path(name).write_bytes((home / "style.safetensors").read_bytes())
    ones, twos = (
        draw(one=drawn(home / "sd", f"a <{word}> fox", embeddings=[name])).pixels
        for word, name in zip(("one", "two"), names, strict=True)
    )
    both = draw(one=drawn(home / "sd", "a <two> fox", embeddings=names)).pixels
    assert np.array_equal(ones, twos)
    assert np.array_equal(ones, both)


@pytest.mark.parametrize(
    ("prompt", "more", "notes"),
    [
        (
            "a fox",
            {},
            "the embedding 'toy.safetensors' has no effect: no prompt contains its word <toy>",
        ),
        ("a <toy>", {}, ""),
        ("a fox", {"negative_prompt": "<toy>"}, ""),
        (
            "a (red:1.3) <toy>",
            {},
            "'(red:1.3)' in the prompt is read as words, not as a weight; text.encode with weighting: compel reads (red)1.3",
        ),
        (
            "a (red:1.3) <toy>",
            {"weighting": "compel"},
            "'(red:1.3)' in the prompt is read as words, not as a weight; weighting: compel reads (red)1.3",
        ),
        ("a <toy> BREAK a fox", {}, "'BREAK' in the prompt is read as a word, and divides nothing"),
        (
            "a <toy>",
            {"negative_prompt": "<lora:ink:0.8>"},
            "'<lora:ink:0.8>' in the negative prompt is read as words and loads nothing: give the file to 'loras'",
        ),
        ("a <toy>, breaking (news) at 3:15", {}, ""),
    ],
)
def test_what_is_read_otherwise_than_meant_is_noted(
    prompt: str, more: dict[str, Any], notes: str, home: Path, pool: ModelPool
) -> None:
    """Words of embeddings that are nowhere, and commands of other programs."""
    graph = {
        "imagen_flow": 1,
        "outputs": {"out": "${text}"},
        "nodes": {
            "text": {
                "type": "text.encode",
                "model": str(home / "sd"),
                "prompt": prompt,
                "embeddings": [str(home / "toy.safetensors")],
                **more,
            }
        },
    }
    said = [
        event.note
        for event in flow.execute(flow.plan(graph, store=None, device="cpu"), pool=pool)
        if getattr(event, "note", "")
    ]
    # The tiny tokenizer knows no brackets.
    assert {re.sub(r"unknown to the text encoder: '[^;]*'(; |\Z)", "", note) for note in said} - {
        ""
    } == {notes} - {""}


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("a\\1b", "a <a\\1b> fox"),
        ("Ka\u0308se", "a <K\u00e4se> fox"),
        ("K\u00e4se", "a <Ka\u0308se> fox"),
        ("my  cat", "a <my  cat> fox"),
        ("My cat", "a <my\ncat> fox"),
        ("v1.5", "a<v1.5>fox"),
    ],
)
def test_a_word_is_read_however_its_file_is_called(
    name: str,
    prompt: str,
    home: Path,
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """With a backslash, in another form of Unicode than the prompt, with spaces, which CLIP's
    tokenizers make one of: the picture is that of a plain word.
    """
    file = companions.embedding(tmp_path / f"{name}.safetensors", seed=41)
    plain = companions.embedding(tmp_path / "plainly.safetensors", seed=41)
    expected = draw(
        one=drawn(
            home / "sd",
            re.sub("<.*>", "<plainly>", prompt, flags=re.DOTALL),
            embeddings=[str(plain)],
        )
    ).pixels
    assert np.array_equal(
        draw(one=drawn(home / "sd", prompt, embeddings=[str(file)])).pixels, expected
    )


@pytest.mark.parametrize("node", ["diffusion.text_to_image", "text.encode"])
@pytest.mark.parametrize(
    ("vectors", "cut"),
    [(74, ""), (80, "the prompt is cut after 75 tokens, before '<many>_74 <many>_75 <many>_76…'")],
)
def test_a_prompt_is_cut_by_the_vectors_of_its_words(
    node: str, vectors: int, cut: str, home: Path, pool: ModelPool, tmp_path: Path
) -> None:
    """Not by the letters of their names: an embedding of 80 vectors fills a prompt by itself, and
    what is cut is told.
    """
    file = companions.embedding(tmp_path / "many.safetensors", vectors=vectors)
    one = {**drawn(home / "sd", "a <many>", embeddings=[str(file)]), "type": node}
    if node == "text.encode":
        one = {
            name: value
            for name, value in one.items()
            if name in ("type", "model", "prompt", "embeddings")
        }
    graph = {"imagen_flow": 1, "nodes": {"one": one}, "outputs": {"out": "${one}"}}
    said = {
        event.note
        for event in flow.execute(flow.plan(graph, store=None, device="cpu"), pool=pool)
        if getattr(event, "note", "")
    }
    assert said == ({cut} if cut else set())
