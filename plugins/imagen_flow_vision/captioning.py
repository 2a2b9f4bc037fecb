"""Describe a picture, or answer a question about it, with a generative model of transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from imagen_flow import Image
from imagen_flow.loaders import quiet_libraries

from .networks import Network, to_pil

#: Model types that are asked in a conversation, in the words of their chat template.
CHATS = ("llava", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")

#: What models are asked that need a question, if the user asks none.
QUESTIONS = {
    **dict.fromkeys(CHATS, "Describe the image in one sentence."),
    "florence2": "<CAPTION>",
    "paligemma": "caption en",
}


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture."""

    words: str
    #: The probability of the words, 0 to 1.
    confidence: float
    #: Whether it was stopped before it came to an end.
    is_cut: bool
    #: What Florence-2's answer means: boxes and labels.
    parsed: Any = None


def answer(model: Network, image: Image, *, prompt: str | None, max_length: int) -> Answer:
    """Describe a picture with greedy decoding, so that equal pictures get equal words.

    Raises:
        ValueError: the model takes no prompt, needs one, or would misread it.
    """
    import torch

    kind, limit = model.module.config.model_type, "max_new_tokens"
    if prompt is None and kind in ("blip", "git", "vision-encoder-decoder"):
        inputs, limit = model.inputs(image), "max_length"
        if model.cls == "BlipForQuestionAnswering":
            raise ValueError(
                f"port 'prompt' is missing: the model '{model.reference}' answers questions"
            )
    else:
        asked = QUESTIONS.get(kind) if prompt is None else prompt
        inputs = model.inputs(image) if asked is None else _read(model, image, kind, asked)
    likely: list[float] = []

    def listen(_ids: Any, scores: Any) -> Any:
        # With greedy decoding the chosen token is the likeliest.
        likely.append(float(scores[0].float().log_softmax(-1).max()))
        return scores

    with torch.no_grad(), quiet_libraries():
        found = model.module.generate(
            **inputs,
            **{limit: max_length},
            num_beams=1,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=[listen],
        )[0]
    before = inputs.get("input_ids")
    if kind != "blip" and before is not None and _begins_with(found, before[0]):
        found = found[before.shape[1] :]
    tokenizer = model.processor.tokenizer
    words = str(tokenizer.decode(found, skip_special_tokens=True)).strip()
    task = re.match(r"<[A-Z_]+>", prompt or "")
    parsed = None
    if task is not None and _finds_something(model, task[0]):
        raw = tokenizer.decode(found, skip_special_tokens=False)
        parsed = model.processor.post_process_generation(
            text=raw, task=task[0], image_size=(image.width, image.height)
        )[task[0]]
        words = ", ".join(str(label) for label in parsed.get("labels", ()))
    confidence = float(torch.tensor(likely).sum().exp()) if likely else 0.0
    return Answer(words, confidence, _is_cut(model, found, len(likely), max_length, limit), parsed)


def _read(model: Network, image: Image, kind: str, prompt: str) -> dict[str, Any]:
    """Prepare a picture and what is asked about it, as each kind of model was trained to see them."""
    tokenizer = model.processor.tokenizer
    if kind == "vision-encoder-decoder":
        raise ValueError(
            f"port 'prompt' is given, but the model '{model.reference}' only describes pictures;"
            " leave it out, or use BLIP, GIT, Florence-2 or a model for conversations"
        )
    if not prompt.strip():
        raise ValueError("port 'prompt' is empty; leave it out, or ask something")
    if kind == "florence2":
        _check_task(model, prompt)
    elif marks := [token for token in tokenizer.all_special_tokens if token in prompt]:
        raise ValueError(
            f"port 'prompt' holds '{marks[0]}', which the model '{model.reference}' reads as a mark"
            " of its own; leave it out"
        )
    if kind == "git":
        # A question follows the mark of the beginning, and the answer follows the question.
        ids = [tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        return model.inputs(image) | model.placed({"input_ids": [ids]})
    if kind == "paligemma":
        # Its processor makes labels of the tokens with numpy, which warns of torch's tensors.
        inputs = model.inputs(image, text=f"<image>{prompt}", return_tensors="np")
        inputs.pop("labels", None)
        return inputs
    if kind not in CHATS:
        return model.inputs(image, text=prompt)
    if not model.processor.chat_template:
        raise ValueError(
            f"the model '{model.reference}' has no chat template, so it cannot be told how to ask it;"
            " use one that was trained for conversations"
        )
    content = [{"type": "image", "image": to_pil(image)}, {"type": "text", "text": prompt}]
    with quiet_libraries():
        read = model.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    return model.placed(read)


def _check_task(model: Network, prompt: str) -> None:
    tasks = model.processor.task_prompts_without_inputs
    more = model.processor.task_prompts_with_input
    named = re.match(r"<[^>]*>", prompt)
    if named is None:
        return
    if named[0] not in {*tasks, *more}:
        raise ValueError(
            f"port 'prompt' names the task '{named[0]}', which the model '{model.reference}' does not"
            f" know; its tasks are {', '.join(sorted({*tasks, *more}))}"
        )
    if named[0] in tasks and prompt != named[0]:
        raise ValueError(
            f"port 'prompt' says more than the task '{named[0]}', which takes no words; leave them"
            " out"
        )
    if named[0] in more and prompt == named[0]:
        raise ValueError(f"port 'prompt' names the task '{named[0]}'; write after it what it is of")


def _finds_something(model: Network, task: str) -> bool:
    """Whether the answer to a task of Florence-2 is more than words."""
    kinds = getattr(model.processor, "tasks_answer_post_processing_type", {})
    return kinds.get(task, "pure_text") != "pure_text"


def _begins_with(found: Any, before: Any) -> bool:
    return len(found) >= len(before) and bool((found[: len(before)] == before).all())


def _is_cut(model: Network, found: Any, count: int, most: int, limit: str) -> bool:
    """Whether generation stopped at the limit and not at a mark of the end."""
    ends = model.module.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    full = len(found) >= most if limit == "max_length" else count >= most
    return full and int(found[-1]) not in ends
