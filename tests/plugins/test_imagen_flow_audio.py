"""Sound is loaded as it is, and written down as the library writes it down."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._types.digest import digest_bytes
from imagen_flow.loaders import Loading
from imagen_flow_audio import resampling, tiny
from imagen_flow_audio.loading import load
from imagen_flow_audio.resampling import resample, resampled
from imagen_flow_audio.transcribing import Listener, ListenerLoader, transcribe

#: What makes the models that `folder_of` gives.
MAKERS = tiny.MAKERS

NOISE = (np.random.default_rng(0).random((8000, 2)) - 0.5).astype("float32")


def tone(hertz: float, seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    places = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * places)).astype("float32")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], flow.File]:
    def make(content: bytes) -> flow.File:
        (tmp_path / "sound").write_bytes(content)
        return flow.File(tmp_path / "sound", digest_bytes(content), len(content), "speech.wav")

    return make


def encoded(samples: np.ndarray, rate: int = 16000, *, format: str, subtype: str) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


FORMATS = [
    *(
        ("WAV", kind)
        for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")
    ),
    *(("WAVEX", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    *(("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")),
]


# --- loading


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_a_file_is_loaded_as_the_library_reads_it(
    file: Callable[[bytes], flow.File], format: str, subtype: str
) -> None:
    """Every format has the samples that soundfile gives, plain WAV by the standard library too."""
    import soundfile

    content = encoded(NOISE, format=format, subtype=subtype)
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    found = load(file(content))
    assert found.rate == rate
    # The last bit of what a decoder of MP3 gives depends on where it began to read.
    most = 2e-7 if format == "MP3" else 0
    assert np.abs(found.samples - samples.T).max() <= most
    later = load(file(content), start=0.25)
    assert np.abs(later.samples - samples.T[:, rate // 4 :]).max() <= most
    with pytest.raises(ValueError, match="port 'start' is 900 s, and 'speech.wav' is not longer"):
        load(file(content), start=900.0)


def test_plain_wav_needs_no_library(tmp_path: Path) -> None:
    """Where soundfile is missing, plain WAV is loaded; for the rest the extra is named."""
    (tmp_path / "a.wav").write_bytes(encoded(NOISE, format="WAV", subtype="PCM_16"))
    (tmp_path / "a.flac").write_bytes(encoded(NOISE, format="FLAC", subtype="PCM_16"))
    code = f"""
import sys
sys.modules["soundfile"] = None
from pathlib import Path
import imagen_flow as flow
from imagen_flow._types.digest import digest_file
from imagen_flow_audio.loading import load
for name in ("a.wav", "a.flac"):
    path = Path({str(tmp_path)!r}) / name
    try:
        print(load(flow.File(path, digest_file(path), 1, name)).samples.shape)
    except flow.ModelError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        "(2, 8000)\nsound that is not plain WAV needs the library soundfile, which is not installed:"
        " pip install 'imagen-flow[audio]'\n"
    )


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_a_file_that_is_cut_off_is_refused(
    file: Callable[[bytes], flow.File], format: str, subtype: str
) -> None:
    """Half a file is not taken for the whole, in any format."""
    content = encoded(NOISE, format=format, subtype=subtype)
    for share in (0.5, 0.03):
        with pytest.raises(ValueError, match="'speech.wav' (is cut off|cannot be read as sound)"):
            load(file(content[: int(len(content) * share)]))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 99, bytes(5000)])
def test_what_is_no_sound_is_refused(file: Callable[[bytes], flow.File], content: bytes) -> None:
    """The message names the file."""
    with pytest.raises(ValueError, match="'speech.wav' cannot be read as sound: "):
        load(file(content))


@pytest.mark.parametrize("format", ["RF64", "W64", "AU"])
def test_formats_that_are_read_in_part_are_refused(
    file: Callable[[bytes], flow.File], format: str
) -> None:
    """Of half a file of these, the library reads a half and says nothing."""
    content = encoded(NOISE, format=format, subtype="PCM_16")
    with pytest.raises(ValueError, match=f"of the format {format}, .* convert it to FLAC or WAV"):
        load(file(content[: len(content) // 2]))


def test_a_recording_that_was_not_ended_is_refused(file: Callable[[bytes], flow.File]) -> None:
    """A recorder that was killed leaves both sizes zero, and the sound would be empty."""
    content = bytearray(encoded(NOISE, format="WAV", subtype="PCM_16"))
    content[4:8] = content[40:44] = bytes(4)
    with pytest.raises(ValueError, match="was not written to its end: it states no sound, though"):
        load(file(bytes(content)))


def test_sound_that_was_written_to_a_pipe_is_read_to_its_end(
    file: Callable[[bytes], flow.File],
) -> None:
    """Such a WAV file states the largest size, since the program knew none."""
    content = bytearray(encoded(NOISE, format="WAV", subtype="PCM_16"))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert load(file(bytes(content))).samples.shape == (2, 8000)


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_endless_sound_is_refused(file: Callable[[bytes], flow.File], format: str) -> None:
    """It is not read further than allowed."""
    with pytest.raises(ValueError) as refused:
        load(file(encoded(NOISE, format=format, subtype="PCM_16")), max_seconds=0.2)
    assert str(refused.value) == (
        "'speech.wav' is longer than max_seconds allows (0.2 s); raise max_seconds, or cut the sound"
    )


def test_samples_that_are_not_numbers_are_refused(file: Callable[[bytes], flow.File]) -> None:
    """A float file with NaN, and sound of a node with infinity, are refused by all nodes."""
    broken = NOISE.copy()
    broken[7, 1] = np.nan
    message = "the sound has samples that are not numbers (NaN or infinite)"
    with pytest.raises(ValueError) as refused:
        load(file(encoded(broken, format="WAV", subtype="FLOAT")))
    assert str(refused.value) == message
    with pytest.raises(ValueError) as refused:
        resample(flow.Audio(np.array([0, np.inf]), 16000), rate=8000)
    assert str(refused.value) == message


def test_an_output_is_loaded_again(tmp_path: Path) -> None:
    """What a graph writes as WAV is, but for its 16 bits, what it had."""
    (tmp_path / "in.wav").write_bytes(encoded(NOISE, format="WAV", subtype="PCM_16"))
    graph = {
        "imagen_flow": 1,
        "inputs": {"sound": {"type": "file", "help": "any"}},
        "nodes": {"loaded": {"type": "audio.load", "file": "${sound}"}},
        "outputs": {"again": {"from": "${loaded}", "path": "again.wav"}},
    }
    outputs = flow.run(graph, sound=tmp_path / "in.wav", out=tmp_path, store=None)
    with wave.open(str(tmp_path / "again.wav")) as written:
        assert (written.getnchannels(), written.getframerate(), written.getnframes()) == (
            2,
            16000,
            8000,
        )
    again = flow.run(graph, sound=tmp_path / "again.wav", out=tmp_path / "o", store=None)
    assert np.abs(again["again"].samples - outputs["again"].samples).max() < 2 / 32768


# --- rates


@pytest.mark.parametrize(
    ("rate", "wanted"), [(44100, 16000), (192000, 16000), (8000, 16000), (44100, 48000)]
)
def test_a_tone_stays_the_same_tone(rate: int, wanted: int) -> None:
    """What both rates can hold is kept to 1 in 30,000; its length stays."""
    found = resampled(tone(3000, rate=rate)[None], rate, wanted)
    assert found.shape == (1, wanted)
    inside = slice(wanted // 10, -wanted // 10)
    assert np.abs(found[0] - tone(3000, rate=wanted))[inside].max() < 1e-5


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    """A tone above half the new rate leaves no other tone behind; a constant stays."""
    found = resampled(tone(9000, rate=44100)[None], 44100, 16000)
    assert np.abs(found[0][1600:-1600]).max() < 1e-4
    flat = resampled(np.full((1, 5000), 0.5, "float32"), 48000, 44100)
    assert np.abs(flat[0][200:-200] - 0.5).max() < 1e-7


def test_odd_rates_are_filtered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that have nothing in common take another way to the same samples."""
    samples = NOISE[:3000].T
    usual = resampled(samples, 44100, 16000)
    monkeypatch.setattr(resampling, "_MOST_DENSE", 0)
    assert np.abs(resampled(samples, 44100, 16000) - usual).max() < 1e-6


def test_channels_are_mixed_by_their_mean() -> None:
    """Without `mono` all stay."""
    sound = flow.Audio(NOISE.T, 16000)
    assert np.array_equal(resample(sound, rate=16000).samples, NOISE.T)
    mixed = resample(sound, rate=16000, mono=True).samples
    assert np.array_equal(mixed, NOISE.T.mean(axis=0, keepdims=True))
    assert resample(flow.Audio(np.zeros((3, 0)), 8000), rate=16000).samples.shape == (3, 0)


# --- speech


def listener(folder: Path) -> Listener:
    model = flow.Model(folder, "any", f"./{folder.name}")
    ListenerLoader().check(model)
    return ListenerLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def result(steps: Any) -> tuple[list[str], Any]:
    """Run a node to its end and give its notes and its output."""
    notes = []
    while True:
        try:
            notes += filter(None, [next(steps).note])
        except StopIteration as ended:
            return notes, ended.value


def by_whisper(folder: Path, sound: np.ndarray, *, long: bool = False, **settings: Any) -> str:
    """What the library itself writes down."""
    import torch
    from transformers import (
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    model = WhisperForConditionalGeneration.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    more = {"truncation": False, "padding": "longest"} if long else {}
    inputs = extractor(
        sound, sampling_rate=16000, return_tensors="pt", return_attention_mask=True, **more
    )
    with torch.no_grad():
        ids = model.generate(**inputs, return_timestamps=long, **settings)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    return str(tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()


@pytest.mark.parametrize(
    ("node", "library"),
    [
        ({}, {"task": "transcribe"}),
        ({"language": "de"}, {"task": "transcribe", "language": "de"}),
        (
            {"language": "German", "task": "translate"},
            {"task": "translate", "language": "german"},
        ),
    ],
)
def test_whisper_writes_what_the_library_writes(
    folder_of: Callable[[str], Path], node: dict[str, str], library: dict[str, str]
) -> None:
    """Language and task are those of the library's own generate; other sound is other text."""
    model, folder = listener(folder_of("whisper")), folder_of("whisper")
    sounds = [tone(200), tone(1800)]
    found = [result(transcribe(model, flow.Audio(sound, 16000), **node))[1] for sound in sounds]
    assert found == [by_whisper(folder, sound, **library) for sound in sounds]
    assert found[0] != found[1]


def test_whisper_reads_long_sound_as_the_library_does(folder_of: Callable[[str], Path]) -> None:
    """What is longer than 30 s is read by its time stamps."""
    sound = np.concatenate([tone(200 + 90 * n, 5) for n in range(13)])
    folder = folder_of("whisper")
    _, found = result(transcribe(listener(folder), flow.Audio(sound, 16000), language="en"))
    assert found == by_whisper(folder, sound, long=True, language="en", task="transcribe")
    assert found


def by_letters(folder: Path, sound: np.ndarray) -> str:
    import torch
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    model, processor = (c.from_pretrained(folder) for c in (Wav2Vec2ForCTC, Wav2Vec2Processor))
    with torch.no_grad():
        logits = model(**processor(sound, sampling_rate=16000, return_tensors="pt")).logits
    return str(processor.batch_decode(logits.argmax(-1))[0])


def test_wav2vec2_writes_what_the_library_writes(folder_of: Callable[[str], Path]) -> None:
    """It has the letters of the library, and of long sound those of each window."""
    folder = folder_of("wav2vec2")
    model, short = listener(folder), NOISE[:, 0]
    assert result(transcribe(model, flow.Audio(short, 16000)))[1] == by_letters(folder, short)
    # The quietest place of the last five seconds is at 27 s.
    sound = np.concatenate([tone(300, 26.9), np.zeros(3200, "float32"), tone(500, 20)])
    _, found = result(transcribe(model, flow.Audio(sound, 16000)))
    for end in range(27 * 16000 - 1600, 27 * 16000 + 1601, 160):
        parts = [by_letters(folder, sound[:end]), by_letters(folder, sound[end:])]
        if found == " ".join(filter(None, parts)):
            break
    else:
        pytest.fail(f"it is not cut where it is quiet: {found}")


def test_other_rates_and_channels_are_heard_alike(folder_of: Callable[[str], Path]) -> None:
    """Eight channels at 192 kHz are mixed and filtered as by audio.resample."""
    model = listener(folder_of("wav2vec2"))
    sound = flow.Audio(np.stack([tone(200 + 50 * n, 0.5, 192_000) for n in range(8)]), 192_000)
    plain = resample(sound, rate=16000, mono=True)
    assert result(transcribe(model, sound)) == result(transcribe(model, plain))


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
@pytest.mark.parametrize(
    ("samples", "note"),
    [
        (np.zeros((1, 0)), "the sound has no samples, so there is no text"),
        (
            np.zeros((2, 9999)),
            "the sound is silent (no sound at all where it is loudest), so there is no text",
        ),
        (
            tone(200) / 1000,
            "the sound is silent (-73 dB where it is loudest), so there is no text",
        ),
    ],
)
def test_silence_has_no_text(
    folder_of: Callable[[str], Path], kind: str, samples: np.ndarray, note: str
) -> None:
    """No model is asked about it, and the note says how loud it is."""
    assert result(transcribe(listener(folder_of(kind)), flow.Audio(samples, 16000))) == ([note], "")


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_a_single_loud_sample_is_sound(folder_of: Callable[[str], Path], kind: str) -> None:
    """It is short, not silent; nothing breaks."""
    _, found = result(transcribe(listener(folder_of(kind)), flow.Audio(np.ones((1, 1)), 16000)))
    assert isinstance(found, str)


def test_a_word_in_a_long_silence_is_heard(folder_of: Callable[[str], Path]) -> None:
    """Loudness is that of the loudest tenth of a second, at the very end too."""
    sound = np.zeros(16000 * 20, "float32")
    sound[-800:] = 0.1
    notes, _ = result(transcribe(listener(folder_of("wav2vec2")), flow.Audio(sound, 16000)))
    assert not [note for note in notes if "silent" in note]


@pytest.mark.parametrize(
    ("kind", "audio", "params", "message"),
    [
        (
            "whisper",
            flow.Audio(tone(200), 16000),
            {"language": "germn"},
            "port 'language': the model has no language 'germn'; did you mean 'german'?",
        ),
        (
            "wav2vec2",
            flow.Audio(tone(200), 16000),
            {"language": "en"},
            "a Wav2Vec2 model has one language: leave language and task out",
        ),
        (
            "whisper",
            flow.Audio(np.array([[0.0, np.nan]]), 16000),
            {},
            "the sound has samples that are not numbers (NaN or infinite)",
        ),
        (
            "whisper",
            flow.Audio(np.zeros((1, 9)), 0),
            {},
            "the sound has 0 samples a second, but 1,000 to 768,000 can be used",
        ),
        (
            "whisper",
            flow.Audio(np.zeros((1, 21_601_000)), 1000),
            {},
            "the sound has 21,601 s, more than can be read (21,600)",
        ),
    ],
)
def test_what_cannot_be_heard_is_refused(
    folder_of: Callable[[str], Path],
    kind: str,
    audio: flow.Audio,
    params: dict[str, str],
    message: str,
) -> None:
    """The message says why."""
    with pytest.raises(ValueError) as refused:
        list(transcribe(listener(folder_of(kind)), audio, **params))
    assert str(refused.value) == message


def test_a_whisper_of_english_alone_translates_nothing(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its configuration names no languages."""
    import shutil

    folder = tmp_path / "english"
    shutil.copytree(folder_of("whisper"), folder)
    stated = json.loads((folder / "generation_config.json").read_text())
    stated |= {"is_multilingual": False}
    del stated["lang_to_id"], stated["task_to_id"]
    (folder / "generation_config.json").write_text(json.dumps(stated))
    model = listener(folder)
    assert result(transcribe(model, flow.Audio(tone(200), 16000), language="en"))[1] == by_whisper(
        folder, tone(200)
    )
    with pytest.raises(ValueError, match="the model only knows English: leave language and task"):
        list(transcribe(model, flow.Audio(tone(200), 16000), task="translate"))


def test_a_model_of_another_kind_or_without_its_parts_is_refused(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The message says what it is or lacks."""
    import shutil

    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(flow.ModelError) as refused:
        listener(tmp_path)
    assert str(refused.value).endswith(
        "it is a gpt2, but audio.transcribe supports wav2vec2, whisper"
    )
    shutil.copytree(folder_of("whisper"), tmp_path / "part")
    (tmp_path / "part" / "preprocessor_config.json").unlink()
    with pytest.raises(flow.ModelError) as refused:
        listener(tmp_path / "part")
    assert str(refused.value) == (
        "the model './part' has no preprocessor_config.json that can be read"
    )


def test_listening_prints_nothing(folder_of: Callable[[str], Path]) -> None:
    """No library writes over the run's display."""
    code = (
        "from pathlib import Path\nimport numpy as np\nimport imagen_flow as flow\n"
        "from imagen_flow_audio.transcribing import ListenerLoader, transcribe\n"
        "from imagen_flow.loaders import Loading\n"
        f"model = flow.Model(Path({str(folder_of('whisper'))!r}), 'x', 'x')\n"
        "model = ListenerLoader().load(model, device='cpu', dtype='float32', settings=Loading())\n"
        "list(transcribe(model, flow.Audio(np.ones((1, 16000)), 16000)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_plugin_is_registered_without_its_libraries() -> None:
    """Planning imports the plugin and reads its ports, but no numpy, torch or soundfile."""
    code = (
        "import sys\nimport imagen_flow_audio as plugin\n"
        "print([node.type.name for node in plugin.imagen_flow_nodes()])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'soundfile'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "['audio.load', 'audio.resample', 'audio.transcribe']\n[]\n"
