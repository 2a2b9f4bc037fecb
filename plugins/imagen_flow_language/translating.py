"""The node type that translates texts, such as prompts into the language of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Model, ModelError, Progress, Range, Steps, Text
from imagen_flow.errors import nearest
from imagen_flow.loaders import Leased, Loader, Loading, expect_kind, unread_words

from .passages import readable
from .scripts import scripts_in, scripts_of
from .writers import Writer, load_writer

KINDS = ("m2m_100", "marian", "mbart")
"""Model types that translate, as named in their configuration; NLLB is an ``m2m_100``."""

MAX_TOKENS = 512
"""How many tokens are written of a passage at most if the model does not say it."""

_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


class TranslatorLoader(Loader[Writer]):
    """Loads a translator from a folder as transformers saves it."""

    def check(self, model: Model) -> None:
        expect_kind(model, "text.translate", KINDS)

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        if not (model.folder / "tokenizer.json").is_file() and not find_spec("sentencepiece"):
            raise ModelError(
                f"the model '{model.reference}' needs the library sentencepiece, which is not"
                " installed: pip install 'imagen-flow[sentencepiece]'"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Writer:
        return load_writer(model, device=device, dtype=dtype)


@flow.node(
    "text.translate",
    version=1,
    uses=("torch", "transformers", "tokenizers", "sentencepiece"),
)
def translate(
    model: Annotated[Writer, Leased(TranslatorLoader)],
    text: Text,
    *,
    source: Text = "",
    target: Text = "",
    num_beams: Annotated[int, Range(1, 64)] | None = None,
    max_tokens: Annotated[int, Range(16, 4096)] | None = None,
) -> Steps[Text]:
    """Translate a text, for example a prompt into English for a checkpoint that reads English.

    Inputs:
        model: of the type Marian (such as opus-mt-zh-en), NLLB, M2M100 or mBART-50.
        text: of any length; it is translated line by line, and longer lines in passages of whole
            sentences, of at most half as many tokens as may be written. Control characters are read
            as spaces.

    Params:
        source, target: the languages, as the model writes them: ``zho_Hans`` and ``eng_Latn`` for
            NLLB, ``zh`` and ``en`` for M2M100, ``zh_CN`` and ``en_XX`` for mBART; what stands
            before the ``_`` is enough where only one begins like this. A Marian model knows its
            source; it needs a target only if it has several.
        num_beams: how many beginnings are followed at a time; 1 takes the likeliest token each
            time. By default as the model states it, else 1.
        max_tokens: the most tokens for a passage; by default as the model states it, else 512.

    Outputs:
        the translation. A text without a letter of the script of `source` is returned as it is,
            with a note, if it is written in that of `target`: a prompt that is in English already.
            Languages that share a script are not told apart. Notes tell which words the model does
            not know, and of passages that were not finished within `max_tokens`.

    Raises:
        ValueError: the model has no such language or needs one; the text is in a script of neither
            language, empty, too long or not valid Unicode, or has a mark of the model.

    Source:
        ``transformers.GenerationMixin.generate`` without sampling. Marian's punctuation is read as
            it stands, also where sacremoses is installed.
    """
    text = readable(text, model.tokenizer)
    languages = _Languages(model.tokenizer)
    source, target = languages.source(source), languages.target(target)
    if note := _not_to_translate(text, source, target):
        yield Progress(1, 1, note)
        return text
    usual = model.model.generation_config.max_new_tokens or MAX_TOKENS
    _, most = model.length(None, max_tokens, {"max_new_tokens": usual})
    unread = unread_words(model.tokenizer, text, None)
    window = min(model.window, max(16, most // 2))
    before = f">>{target}<< " if languages.marked else ""
    with model.lock, languages.reading(source):
        lines = [
            model.passages(line.strip(), before, window) if line.strip() else []
            for line in text.split("\n")
        ]
    done, total = 0, sum(map(len, lines))
    between = "" if scripts_of(target) & {"CJK", "THAI", "KHMER", "LAO", "MYANMAR"} else " "
    found = []
    for passages in lines:
        written = []
        for passage in passages:
            with model.lock, languages.reading(source):
                inputs = model.encode(before + passage)
            words, tokens = model.generate(
                inputs,
                forced_bos_token_id=languages.first_token(target),
                num_beams=num_beams,
                max_new_tokens=most,
            )
            written.append(words)
            done += 1
            note = unread if done == 1 else ""
            if tokens >= most:
                cut = f"'{passage[:40]}' is not translated to its end: raise max_tokens ({most})"
                note = f"{note}; {cut}" if note else cut
            yield Progress(done, total, note)
        found.append(between.join(written))
    return "\n".join(found)


def _not_to_translate(text: str, source: str, target: str) -> str:
    """Say why a text is returned as it is; nothing if it is to be translated."""
    written, wanted = scripts_in(text), scripts_of(source)
    if not written:
        return "the text has no letters, so it is not translated"
    if not wanted or written & wanted:
        return ""
    if not scripts_of(target) or written & scripts_of(target):
        return (
            f"the text has no letter of the source language '{source}', so it is not translated;"
            f" is it in '{target}' already?"
        )
    raise ValueError(
        f"the text is written in {' and '.join(sorted(s.capitalize() for s in written))}, but is to"
        f" be translated from '{source}' to '{target}'; set source, or use a model of that language"
    )


class _Languages:
    """The languages of a translator, and how its tokenizer is told of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        marks = getattr(tokenizer, "supported_language_codes", None)
        #: Whether the target is written before the text.
        self.marked = bool(marks)
        self.fixed = marks is not None
        self.codes: Sequence[str] = (
            [mark.strip("<>") for mark in marks]
            if marks
            else []
            if self.fixed
            else sorted(getattr(tokenizer, "lang_code_to_id", None) or _flores(tokenizer))
        )

    def source(self, given: str) -> str:
        if not self.fixed:
            return self._known(given, "source")
        return self._own(given, self.tokenizer.source_lang, "source")

    def target(self, given: str) -> str:
        if self.codes:
            return self._known(given, "target")
        return self._own(given, self.tokenizer.target_lang, "target")

    def _own(self, given: str, own: str | None, port: str) -> str:
        if given and own and given != own:
            raise ValueError(
                f"port '{port}': the model's {port} language is '{own}', not '{given}'; leave"
                f" {port} out, or use another model"
            )
        return given or own or ""

    def _known(self, given: str, port: str) -> str:
        if given in self.codes:
            return given
        if not given:
            raise ValueError(
                f"port '{port}' is not given, but the model has {len(self.codes)} languages; write"
                f" for example {port}: {self._example()}"
            )
        found = [code for code in self.codes if code.partition("_")[0] == given]
        if len(found) == 1:
            return found[0]
        near = (
            f"write {' or '.join(found)}"
            if found
            else nearest(given, self.codes) or f"its languages are written like {self._example()}"
        )
        what = "several languages" if found else "no language"
        raise ValueError(f"port '{port}': the model has {what} '{given}'; {near}")

    def _example(self) -> str:
        return next((c for c in self.codes if re.match(r"en(g_Latn|_XX|)\Z", c)), self.codes[0])

    @contextmanager
    def reading(self, source: str) -> Iterator[None]:
        """Set the tokenizer to a source language, for as long as the context lasts."""
        if self.fixed:
            yield
            return
        before = self.tokenizer.src_lang
        self.tokenizer.src_lang = source
        try:
            yield
        finally:
            self.tokenizer.src_lang = before

    def first_token(self, target: str) -> int | None:
        """Return the token that the translation begins with."""
        if self.fixed:
            return None
        known = getattr(self.tokenizer, "lang_code_to_id", None)
        return int(known[target] if known else self.tokenizer.convert_tokens_to_ids(target))


def _flores(tokenizer: Any) -> list[str]:
    """List the languages that NLLB's tokenizer has as tokens."""
    return [token for token in tokenizer.get_added_vocab() if _FLORES.fullmatch(token)]
