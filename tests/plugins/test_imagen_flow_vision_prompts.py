"""image.caption with a prompt: each kind of model is asked as its own documentation asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_vision.captions import caption
from imagen_flow_vision.networks import load_processor
from imagen_flow_vision.tiny.makers import MAKERS

__all__ = ["MAKERS"]

CHATS = ("llava", "qwen2-vl", "qwen2.5-vl", "qwen3-vl")


def by_hand(folder: str, image: flow.Image, prompt: str, *, kind: str) -> str:
    """Give a model's answer, as the library's documentation asks for it."""
    import torch
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    config = transformers.AutoConfig.from_pretrained(folder)
    with quiet_libraries():
        model: Any = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
        name = PROCESSOR_MAPPING_NAMES[config.model_type]
        processor: Any = load_processor(getattr(transformers, name), Path(folder))
        picture = image.rgb().to_pil()
        if kind in CHATS:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            text = f"<image>{prompt}" if kind == "paligemma" else prompt
            form = "np" if kind == "paligemma" else "pt"
            read = processor(images=picture, text=text, return_tensors=form)
            inputs = {name: torch.as_tensor(read[name]) for name in read if name != "labels"}
        with torch.no_grad():
            found = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=12)[0]
    if kind in (*CHATS, "paligemma", "blip-2"):
        found = found[inputs["input_ids"].shape[1] :] if kind != "blip-2" else found
        if kind == "blip-2":
            length = inputs["input_ids"].shape[1]
            if found[:length].tolist() == inputs["input_ids"][0].tolist():
                found = found[length:]
    return str(processor.tokenizer.decode(found, skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("blip", "a picture of"),
        ("blip-vqa", "how many foxes?"),
        ("blip-2", "Question: what is it? Answer:"),
        ("florence-2", "<DETAILED_CAPTION>"),
        ("paligemma", "answer en what is it?"),
        *((kind, "What is it?") for kind in CHATS),
    ],
)
def test_answers_are_those_of_the_library(
    kind: str, prompt: str, at: Any, look: Any, noisy: Any
) -> None:
    """The words are what greedy generation gives for the inputs of the processor, without what was
    asked; a question that is left out is the documented one.
    """
    for image in (noisy(40, 60), noisy(37, 50, 4)):
        found = look(caption, image, model=at(kind), prompt=prompt, max_length=12)
        assert found["words"] == by_hand(at(kind), image, prompt, kind=kind)
        assert found["parsed"] is None and 0 <= found["confidence"] <= 1


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("llava", "Describe the image in one sentence."),
        ("paligemma", "caption en"),
        ("florence-2", "<CAPTION>"),
    ],
)
def test_without_a_prompt_a_model_is_asked_to_describe(
    kind: str, prompt: str, at: Any, look: Any, noisy: Any
) -> None:
    """The answer is that to the question which the help names."""
    asked = look(caption, noisy(40, 60), model=at(kind), prompt=prompt, max_length=8)
    assert look(caption, noisy(40, 60), model=at(kind), max_length=8) == asked


def test_a_question_to_git_stands_before_the_answer(at: Any, look: Any, noisy: Any) -> None:
    """As in its documentation: a mark, the question, and what is generated after it."""
    import torch
    import transformers

    with quiet_libraries():
        model: Any = transformers.GitForCausalLM.from_pretrained(at("git")).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(at("git"), backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(at("git"))
    question = tokenizer("what is it?", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[tokenizer.cls_token_id, *question]])
    pixels = processor(images=noisy(40, 60).to_pil(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model.generate(
            pixel_values=pixels, input_ids=ids, do_sample=False, max_new_tokens=12
        )[0]
    answer = look(caption, noisy(40, 60), model=at("git"), prompt="what is it?", max_length=12)
    words = tokenizer.decode(found[ids.shape[1] :], skip_special_tokens=True).strip()
    assert answer["words"] == words != ""


def test_what_florence_finds_is_in_pixels_of_the_picture(at: Any, look: Any, noisy: Any) -> None:
    """A task that finds something gives what the library makes of the tokens of places, and the
    labels as words.
    """
    import torch
    import transformers

    with quiet_libraries():
        folder = at("florence-2")
        model: Any = transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
        processor: Any = load_processor(transformers.Florence2Processor, Path(folder))
    inputs = processor(images=noisy(40, 60).to_pil(), text="<OD>", return_tensors="pt")
    with torch.no_grad():
        found = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=40)[0]
    wanted = processor.post_process_generation(
        text=processor.tokenizer.decode(found), task="<OD>", image_size=(60, 40)
    )["<OD>"]
    looked = look(caption, noisy(40, 60), model=folder, prompt="<OD>", max_length=40)
    assert looked["parsed"] == wanted and set(wanted) == {"bboxes", "labels"}
    assert looked["words"] == ", ".join(wanted["labels"])


def test_an_answer_that_is_cut_says_so(at: Any, look: Any, noisy: Any) -> None:
    """A longer one begins with the same words."""
    short, long = (
        look(caption, noisy(40, 60), model=at("llava"), prompt="What?", max_length=length)
        for length in (4, 8)
    )
    assert short.notes == ["the words are cut after 4 tokens; a larger 'max_length' gives the rest"]
    assert 0 < long["confidence"] < short["confidence"]


@pytest.mark.parametrize(
    ("kind", "prompt", "told"),
    [
        ("vit-gpt2", "what?", "only describes pictures; leave it out"),
        ("blip-vqa", None, "port 'prompt' is missing: the model"),
        ("blip", "  ", "port 'prompt' is empty"),
        ("llava", "what is <image> there?", "holds '<image>', which the model"),
        ("qwen2-vl", "<|image_pad|>", "holds '<|image_pad|>'"),
        ("florence-2", "<OOD>", "names the task '<OOD>', which the model"),
        ("florence-2", "<OD> a fox", "says more than the task '<OD>'"),
        ("florence-2", "<REGION_TO_OCR>", "write after it what it is of"),
    ],
)
def test_prompts_that_a_model_would_misread_are_refused(
    kind: str, prompt: str | None, told: str, at: Any, look: Any, noisy: Any
) -> None:
    """The message says what the model takes."""
    ports = {} if prompt is None else {"prompt": prompt}
    with pytest.raises(flow.NodeError) as caught:
        look(caption, noisy(9, 9), model=at(kind), **ports)
    assert told in str(caught.value.__cause__)


def test_a_captioner_of_another_plugin_takes_no_prompt(look: Any, noisy: Any) -> None:
    """What describes pictures only is not asked."""
    with pytest.raises(flow.NodeError, match="the model only describes pictures"):
        look(caption, noisy(9, 9), model="embedded/caption", prompt="what?")
