"""The node type that writes down what is said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import imagen_flow as flow
from imagen_flow import Audio, Model, ModelError, Progress, Range, Steps, Text
from imagen_flow.errors import nearest
from imagen_flow.loaders import (
    Leased,
    Loader,
    Loading,
    expect_kind,
    load_pretrained,
    load_processor,
    load_tokenizer,
    quiet_libraries,
)

from .resampling import check_sound, resampled

if TYPE_CHECKING:
    import numpy as np

CLASSES = {"wav2vec2": "Wav2Vec2ForCTC", "whisper": "WhisperForConditionalGeneration"}
"""Model types that write down speech, as named in their configuration, and the class of
transformers for each.
"""

MAX_SECONDS = 6 * 3600
"""The longest sound."""

WINDOW_S = 30
"""Seconds that are read at once."""

_SEARCH_S = 5
"""Within how many seconds before the end of a window it is cut."""


@dataclass(frozen=True)
class Listener:
    """A model of speech, what prepares its sound, and its tokenizer."""

    kind: str
    model: Any
    extractor: Any
    tokenizer: Any


class ListenerLoader(Loader[Listener]):
    """Loads a model of speech from a folder as transformers saves it."""

    def check(self, model: Model) -> None:
        expect_kind(model, "audio.transcribe", CLASSES)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Listener:
        import transformers

        kind = expect_kind(model, "audio.transcribe", CLASSES)
        module = load_pretrained(CLASSES[kind], model, device=device, dtype=dtype)
        tokenizer = load_tokenizer(model)
        try:
            names = {"wav2vec2": "Wav2Vec2Processor", "whisper": "WhisperProcessor"}
            extractor = load_processor(
                getattr(transformers, names[kind]), model.folder
            ).feature_extractor
        except Exception as error:  # the libraries raise whatever the files make them stumble over
            raise ModelError(
                f"the model '{model.reference}' has no preprocessor_config.json that can be read"
            ) from error
        if kind == "whisper":
            own = module.generation_config
            own.do_sample, own.temperature, own.num_beams = False, None, 1
        return Listener(kind, module, extractor, tokenizer)


@flow.node("audio.transcribe", version=1, uses=("numpy", "torch", "transformers", "tokenizers"))
def transcribe(
    model: Annotated[Listener, Leased(ListenerLoader)],
    audio: Audio,
    *,
    language: Text = "",
    task: Literal["transcribe", "translate"] = "transcribe",
    silence_db: Annotated[float, Range(-200, 0)] = -60.0,
) -> Steps[Text]:
    """Write down what is said, for example a spoken prompt.

    Inputs:
        model: Whisper, or a Wav2Vec2 with letters (CTC).
        audio: of any rate and number of channels, up to six hours; channels are mixed by their
            mean, and the rate is changed as by `audio.resample`.

    Params:
        language: that is spoken, for a Whisper of several languages: ``en`` or ``english``; by
            default it listens for itself.
        task: ``translate`` writes English, whatever is spoken (Whisper).
        silence_db: sound of which no tenth of a second is louder is silent; 0 dB is a square wave
            of full range.

    Outputs:
        the text; empty, with a note, if the sound is silent. Models are not asked about silence,
            since Whisper makes words up for it. Whisper reads what is longer than 30 s as the
            library does, by its own time stamps; Wav2Vec2 in windows of at most 30 s that end where
            the last five seconds of each are quietest.

    Raises:
        ValueError: the sound has samples that are not numbers, or is too long; the model has no
            such language.

    Source:
        ``transformers.WhisperForConditionalGeneration.generate``, greedy, without fallback to
            higher temperatures; ``transformers.Wav2Vec2ForCTC``, the likeliest letter each time.
    """
    check_sound(audio)
    seconds = audio.samples.shape[1] / audio.rate
    if seconds > MAX_SECONDS:
        raise ValueError(f"the sound has {seconds:,.0f} s, more than can be read ({MAX_SECONDS:,})")
    settings = _whisper_settings(model, language, task)
    mono = audio.samples.mean(axis=0)
    if note := _silent(mono, audio.rate, silence_db):
        yield Progress(1, 1, note)
        return ""
    rate = int(model.extractor.sampling_rate)
    sound = resampled(mono[None], audio.rate, rate)[0]
    if model.kind == "whisper":
        text = _by_whisper(model, sound, rate, settings)
    else:
        words, windows = [], list(_windows(sound, rate))
        for done, window in enumerate(windows, 1):
            words.append(_by_letters(model, window, rate))
            yield Progress(done, len(windows))
        text = " ".join(filter(None, words))
    if not text:
        yield Progress(1, 1, "the model hears no words")
    return text


def _silent(mono: np.ndarray, rate: int, silence_db: float) -> str:
    """Say that sound is silent; nothing if it is not."""
    import numpy as np

    if not len(mono):
        return "the sound has no samples, so there is no text"
    length = max(1, rate // 10)
    whole = mono[: len(mono) // length * length].reshape(-1, length)
    pieces = [*whole, mono[-length:]]
    loudest = max(float(np.sqrt(np.square(piece, dtype="float64").mean())) for piece in pieces)
    if loudest > 10 ** (silence_db / 20):
        return ""
    level = f"{20 * np.log10(loudest):.0f} dB" if loudest else "no sound at all"
    return f"the sound is silent ({level} where it is loudest), so there is no text"


def _whisper_settings(model: Listener, language: str, task: str) -> dict[str, Any]:
    """Check language and task against the model, and return what it is to be told of them."""
    if model.kind != "whisper":
        if language or task != "transcribe":
            raise ValueError("a Wav2Vec2 model has one language: leave language and task out")
        return {}
    own = model.model.generation_config
    known = {mark.strip("<|>"): mark for mark in getattr(own, "lang_to_id", None) or {}}
    if not known:
        if language not in ("", "en", "english") or task != "transcribe":
            raise ValueError(
                "the model only knows English: leave language and task out, or use a Whisper of"
                " several languages"
            )
        return {}
    code = language.lower()
    if code and code not in known:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        code = TO_LANGUAGE_CODE.get(code, code)
        if code not in known:
            near = nearest(language.lower(), [*known, *TO_LANGUAGE_CODE])
            raise ValueError(
                f"port 'language': the model has no language '{language}'"
                f"{f'; {near}' if near else f', but {len(known)} others, such as en'}"
            )
    return {"task": task, **({"language": code} if code else {})}


def _by_whisper(model: Listener, sound: np.ndarray, rate: int, settings: dict[str, Any]) -> str:
    import torch

    long = len(sound) > WINDOW_S * rate
    shape = {"truncation": False, "padding": "longest"} if long else {}
    inputs = model.extractor(
        sound, sampling_rate=rate, return_tensors="pt", return_attention_mask=True, **shape
    )
    with torch.no_grad(), quiet_libraries():
        ids = model.model.generate(
            inputs["input_features"].to(model.model.device, model.model.dtype),
            attention_mask=inputs["attention_mask"].to(model.model.device),
            return_timestamps=long,
            **settings,
        )
    return str(model.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()


def _by_letters(model: Listener, sound: np.ndarray, rate: int) -> str:
    import numpy as np
    import torch

    # The convolutions need some samples to begin with.
    sound = np.pad(sound, (0, max(0, rate // 10 - len(sound))))
    inputs = model.extractor(sound, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        logits = model.model(
            inputs["input_values"].to(model.model.device, model.model.dtype)
        ).logits
    words = str(model.tokenizer.batch_decode(logits.argmax(-1))[0])
    return re.sub(r"\s+", " ", words).strip()


def _windows(sound: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """Cut sound into windows, each where its last seconds are quietest."""
    import numpy as np

    size, piece = WINDOW_S * rate, rate // 50
    while len(sound) > size:
        tail = sound[size - _SEARCH_S * rate : size]
        energy = np.square(tail[: len(tail) // piece * piece].reshape(-1, piece)).sum(axis=1)
        end = size - len(tail) + int(energy.argmin()) * piece + piece // 2
        yield sound[:end]
        sound = sound[end:]
    yield sound
