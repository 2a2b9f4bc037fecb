"""The node type that lets a language model continue a prompt, or write one as it is told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Model, Progress, Range, Seed, Steps, Text
from imagen_flow.loaders import (
    Leased,
    Loader,
    Loading,
    expect_kind,
    load_pretrained,
    load_tokenizer,
)

from .passages import readable
from .writers import sober, window_of

KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Model types that continue a text, as named in their configuration."""

_DATE = {"%d": "01", "%m": "01", "%b": "Jan", "%B": "January", "%Y": "2026", "%A": "Thursday"}

_ONE_DAY = (
    "{%- macro strftime_now(form) -%}{{ form "
    + "".join(f"| replace('{field}', '{value}') " for field, value in _DATE.items())
    + "}}{%- endmacro -%}"
)
"""Put before a template for chats: otherwise some say what day it is, and answers change overnight."""


@dataclass(frozen=True)
class Continuer:
    """A language model and its tokenizer.

    Params:
        window: the most tokens that it reads and writes together.
    """

    model: Any
    tokenizer: Any
    window: int


class ContinuerLoader(Loader[Continuer]):
    """Loads a language model from a folder as transformers saves it."""

    def check(self, model: Model) -> None:
        expect_kind(model, "text.expand", KINDS)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Continuer:
        module = load_pretrained("AutoModelForCausalLM", model, device=device, dtype=dtype)
        tokenizer = load_tokenizer(model)
        sober(module)
        own = module.generation_config
        own.max_new_tokens = own.min_new_tokens = None
        if own.pad_token_id is None:
            ends = own.eos_token_id
            own.pad_token_id = ends[0] if isinstance(ends, list) else ends
        return Continuer(module, tokenizer, window_of(model, tokenizer))


@flow.node("text.expand", version=1, uses=("torch", "transformers", "tokenizers", "jinja2"))
def expand(
    model: Annotated[Continuer, Leased(ContinuerLoader)],
    prompt: Text,
    *,
    seed: Seed,
    instruction: Text = "",
    max_tokens: Annotated[int, Range(1, 2048)] = 60,
    temperature: Annotated[float, Range(0, 10)] = 0.8,
    top_k: Annotated[int, Range(0, 100_000)] = 50,
    top_p: Annotated[float, Range(0.001, 1)] = 0.95,
) -> Steps[Text]:
    """Expand a short prompt with a language model.

    Inputs:
        model: of the type GPT-2 (such as the prompt generators that were trained on prompts),
            Llama, Mistral, Qwen2, Qwen3 or SmolLM3.
        prompt: what it starts from; control characters are read as spaces.

    Params:
        seed: of the tokens that are drawn.
        instruction: what a chat model is to do, for example ``Describe this picture in one
            sentence, with its light and style:``; the prompt follows it in the same message. Without
            an instruction the model continues the prompt.
        max_tokens: the most tokens that it writes.
        temperature: how even the chances of likely and unlikely tokens are; 0 takes the likeliest
            each time, and the seed has no effect.
        top_k: draw among that many likeliest tokens; 0 among all.
        top_p: draw among the likeliest tokens that together have this probability.

    Outputs:
        with an instruction the answer; if it lacks words of the prompt, the prompt stands before
            it, with a note. Without one, the prompt as it is and its continuation. The model ends
            when it writes its mark of the end or, without an instruction, at the end of a line; or
            after `max_tokens`, and then the last word, which may not be whole, is left out.

    Raises:
        ValueError: the model has no chat template, but there is an instruction; prompt and
            `max_tokens` are more than the model reads; the prompt is empty or not valid Unicode, or
            has a mark of the model.

    Source:
        ``transformers.GenerationMixin.generate``: the tokens are those of its sampling after
        ``torch.manual_seed(seed)`` on the CPU, drawn by a generator of their own. Templates that
        name the day get the first of January 2026.
    """
    prompt = readable(prompt, model.tokenizer, "port 'prompt'")
    inputs = _inputs(model, prompt, instruction)
    start = int(inputs["input_ids"].shape[1])
    if start + max_tokens > model.window:
        raise ValueError(
            f"the prompt has {start} tokens, and with max_tokens ({max_tokens}) they are more than"
            f" the {model.window} that the model reads; shorten the prompt or lower max_tokens"
        )
    ids = _written(
        model,
        inputs,
        max_new_tokens=max_tokens,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        one_line=not instruction,
    )
    words = _decoded(model.tokenizer, ids, start)
    if not instruction:
        words = words.partition("\n")[0]
    if len(ids) - start >= max_tokens:
        words = _whole_words(words)
    if instruction:
        text, note = _with_prompt(prompt, re.sub(r"(?s)<think>.*?</think>", "", words).strip())
    else:
        text, note = (prompt + words).strip(), "" if words.strip() else "the model adds nothing"
    yield Progress(1, 1, note)
    return text


def _inputs(model: Continuer, prompt: str, instruction: str) -> Any:
    if not instruction:
        inputs = model.tokenizer(prompt, return_tensors="pt", verbose=False)
    elif not model.tokenizer.chat_template:
        raise ValueError(
            "the model has no chat template, so it cannot be given an instruction; leave"
            " instruction out, and it continues the prompt"
        )
    else:
        instruction = readable(instruction, model.tokenizer, "port 'instruction'")
        inputs = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{instruction}\n\n{prompt}"}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            chat_template=_ONE_DAY + model.tokenizer.get_chat_template(),
            tokenizer_kwargs={"verbose": False},
            enable_thinking=False,
        )
    return inputs.to(model.model.device)


def _written(
    model: Continuer,
    inputs: Any,
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    one_line: bool,
) -> list[int]:
    """Return the tokens of the prompt and those that the model writes."""
    import torch
    from transformers import (
        LogitsProcessorList,
        StoppingCriteriaList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(seed)
    narrow = LogitsProcessorList()
    if temperature > 0:
        narrow.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            narrow.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            narrow.append(TopPLogitsWarper(top_p))

    def draw(ids: Any, scores: Any) -> Any:
        # The library draws from the generator of the whole process; here a token is drawn, and
        # leaves it nothing else to take.
        chances = narrow(ids, scores).float().softmax(-1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def at_the_end_of_a_line(ids: Any, _scores: Any) -> Any:
        ended = "\n" in _decoded(model.tokenizer, ids[0].tolist(), start)
        return torch.tensor([ended], device=ids.device)

    start = int(inputs["input_ids"].shape[1])
    with torch.no_grad():
        ids = model.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([draw] if temperature > 0 else []),
            stopping_criteria=StoppingCriteriaList([at_the_end_of_a_line] if one_line else []),
        )
    return list(map(int, ids[0]))


def _decoded(tokenizer: Any, ids: list[int], start: int) -> str:
    """Return what the tokens from `start` on say, with the space before it if there is one."""
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, all_ = (str(tokenizer.decode(i, **settings)) for i in (ids[:start], ids))
    return all_[len(before) :] if all_.startswith(before) else all_


def _whole_words(words: str) -> str:
    """Leave out the last word, unless it is the only one."""
    words = words.rstrip("\N{REPLACEMENT CHARACTER}")
    return found[1] if (found := re.match(r"(?s)(.*[^ \n])[ \n]+[^ \n]*\Z", words)) else words


def _with_prompt(prompt: str, answer: str) -> tuple[str, str]:
    """Return an answer that has the words of the prompt, and a note if it had not."""
    if not answer:
        return prompt.strip(), "the model adds nothing"
    found = answer.casefold()
    words = dict.fromkeys(re.findall(r"\w+", prompt))
    lacking = [f"'{word[:30]}'" for word in words if word.casefold() not in found]
    if not lacking:
        return answer, ""
    shown = f"{', '.join(lacking[:5])}{', …' if len(lacking) > 5 else ''}"
    return (
        f"{prompt.strip()}, {answer}",
        f"the answer lacks {shown} of the prompt, which therefore stands before it",
    )
