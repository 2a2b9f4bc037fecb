"""The node type that summarises texts of any length."""

from __future__ import annotations

from typing import Annotated, Literal

import imagen_flow as flow
from imagen_flow import Model, Progress, Range, Steps, Text
from imagen_flow.loaders import Leased, Loader, Loading, expect_kind, unread_words

from .passages import readable
from .writers import Writer, load_writer, new_tokens

KINDS = ("bart", "mt5", "pegasus", "t5")
"""Model types that summarise, as named in their configuration."""


class SummariserLoader(Loader[Writer]):
    """Loads a summariser from a folder as transformers saves it."""

    def check(self, model: Model) -> None:
        expect_kind(model, "text.summarise", KINDS)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Writer:
        return load_writer(model, device=device, dtype=dtype)


@flow.node("text.summarise", version=1, uses=("torch", "transformers", "tokenizers"))
def summarise(
    model: Annotated[Writer, Leased(SummariserLoader)],
    text: Text,
    *,
    min_tokens: Annotated[int, Range(0, 4096)] | None = None,
    max_tokens: Annotated[int, Range(1, 4096)] | None = None,
    num_beams: Annotated[int, Range(1, 64)] | None = None,
    combine: Literal["summarise", "join"] = "summarise",
) -> Steps[Text]:
    """Summarise a text, for example an article that is to be illustrated.

    Inputs:
        model: of the type BART, T5, mT5 or Pegasus. T5 gets the prefix that its configuration
            states for summaries.
        text: of any length. What is longer than the model reads at once is read in passages that
            end with sentences, so nothing is cut off; control characters are read as spaces.

    Params:
        min_tokens, max_tokens: the length of the summary, and of that of each passage; by default
            as the model states it, else at most 128 tokens.
        num_beams: how many beginnings are followed at a time; 1 takes the likeliest token each
            time. By default as the model states it, else 1.
        combine: what becomes of the summaries of several passages: ``summarise`` summarises them
            again, as often as it takes until one passage is left, ``join`` puts them one below
            another.

    Outputs:
        the summary. A note tells in how many passages the text was read, and which words the model
            does not know.

    Raises:
        ValueError: the text is empty, too long or not valid Unicode, or has a mark of the model; the lengths contradict each
            other.

    Source:
        ``transformers.GenerationMixin.generate`` without sampling; the passages are summarised
        hierarchically, as Wu et al., Recursively Summarizing Books with Human Feedback (2021), do.
    """
    text = readable(text, model.tokenizer)
    task = model.tasks.get("summarization") or {}
    prefix = str(task.get("prefix") or "")
    least, most = model.length(
        min_tokens,
        max_tokens,
        {
            "min_new_tokens": new_tokens(task.get("min_length")),
            "max_new_tokens": new_tokens(task.get("max_length")),
        },
    )
    named = ("early_stopping", "length_penalty", "no_repeat_ngram_size", "num_beams")
    settings = {
        **{name: task[name] for name in named if name in task},
        "min_new_tokens": least,
        "max_new_tokens": most,
    }
    if num_beams is not None:
        settings["num_beams"] = num_beams
    parts = model.passages(text, prefix)
    notes = [
        unread_words(model.tokenizer, text, None),
        f"the text is longer than the {model.window} tokens that the model reads at once: it is"
        f" read in {len(parts)} passages"
        if len(parts) > 1
        else "",
    ]
    done = 0
    yield Progress(done, len(parts), "; ".join(filter(None, notes)))
    while True:
        summaries = []
        for part in parts:
            summaries.append(model.write(prefix + part, **settings))
            done += 1
            yield Progress(done, done + len(parts) - len(summaries))
        summary = "\n".join(filter(None, summaries))
        if len(parts) == 1 or combine == "join" or not summary:
            break
        again = model.passages(summary, prefix)
        if len(again) >= len(parts):
            yield Progress(
                done, done, "the summaries do not get shorter, so they are joined; lower max_tokens"
            )
            break
        parts = again
    if not summary:
        yield Progress(done, done, "the model says nothing of the text")
    return summary
