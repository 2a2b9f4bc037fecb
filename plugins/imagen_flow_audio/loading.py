"""Read sound from files."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

import imagen_flow as flow
from imagen_flow import Audio, File, ModelError, Range

from .resampling import check_sound

if TYPE_CHECKING:
    pass

MAX_FILE_BYTES = 2 << 30
"""The largest file that is read."""

MAX_SAMPLES = 400_000_000
"""The most samples of all channels together."""

MAX_CHANNELS = 64

_BLOCK = 1 << 18

_MAX_CHUNKS = 1000
"""The most parts of a WAV or AIFF file that are looked at."""

_FORMATS = ("AIFF", "FLAC", "MP3", "OGG", "WAV", "WAVEX")
"""What is read of all that the library knows: of others, it reads a part and says nothing."""

_ENDLESS = 0x7FFF0000
"""A program that writes to a pipe states this size of a WAV file or more, since it knows none."""


@flow.node("audio.load", version=1, uses=("numpy", "soundfile"))
def load(
    file: File,
    *,
    start: Annotated[float, Range(0, 1_000_000)] = 0.0,
    max_seconds: Annotated[float, Range(0.01, 86_400)] = 3600.0,
) -> Audio:
    """Load sound from a file.

    Inputs:
        file: WAV with whole numbers as it is; other WAV, FLAC, Ogg Vorbis, Opus, MP3 and AIFF by
            the library soundfile (``pip install 'imagen-flow[audio]'``). The kind is recognised by
            content.

    Params:
        start: seconds to leave out at the beginning.
        max_seconds: refuse longer sound (what comes after `start`).

    Outputs:
        all channels at the rate of the file, float32. Whole numbers are divided by their largest
            power of two, so they lie from -1 to 1; other files may go beyond.

    Raises:
        ValueError: the file is not sound, damaged, cut off, or too long; it has samples that are
            not numbers, more than 64 channels, or a rate beyond 1,000 to 768,000.
    """
    name = file.name or file.path.name
    if file.size > MAX_FILE_BYTES:
        raise ValueError(
            f"'{name}' has {file.size:,} bytes, more than can be read ({MAX_FILE_BYTES:,})"
        )
    content = file.read_bytes()
    _check_whole(content, name)
    sound = _plain_wav(content, name, start, max_seconds)
    if sound is None:
        sound = _by_library(content, name, start, max_seconds)
    if start and not sound.samples.shape[1]:
        raise ValueError(f"port 'start' is {start:g} s, and '{name}' is not longer than that")
    check_sound(sound)
    return sound


def _plain_wav(content: bytes, name: str, start: float, most: float) -> Audio | None:
    """Read a WAV file of whole numbers; None if it is not one."""
    import wave

    import numpy as np

    try:
        with wave.open(BytesIO(content)) as file:
            channels, rate, width = file.getnchannels(), file.getframerate(), file.getsampwidth()
            if width > 4:
                return None
            stated, size = file.getnframes(), channels * width
            _check_size(name, channels, rate)
            if stated * size < _ENDLESS:
                _check_length(name, stated - int(start * rate), rate, channels, most)
            # A file that was written to a pipe states more than there is.
            data = file.readframes(stated)
    except (wave.Error, EOFError):
        return None
    data = data[int(start * rate) * size : len(data) // size * size]
    _check_length(name, len(data) // size, rate, channels, most)
    if width == 3:
        # The missing lowest byte is zero, so that these become 32 bits.
        whole = np.zeros((len(data) // 3, 4), "uint8")
        whole[:, 1:] = np.frombuffer(data, "uint8").reshape(-1, 3)
        values = whole.view("<i4")[:, 0].astype("float32")
    else:
        values = np.frombuffer(data, {1: "u1", 2: "<i2", 4: "<i4"}[width]).astype("float32")
    values = values - 128 if width == 1 else values
    scale = {1: 2**7, 2: 2**15}.get(width, 2**31)
    return Audio((values / np.float32(scale)).reshape(-1, channels).T, rate)


def _by_library(content: bytes, name: str, start: float, most: float) -> Audio:
    import numpy as np

    soundfile = _library()
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            if file.format not in _FORMATS:
                raise ValueError(
                    f"'{name}' is sound of the format {file.format}, which cannot be read; convert"
                    " it to FLAC or WAV"
                )
            rate, channels, stated = file.samplerate, file.channels, file.frames
            _check_size(name, channels, rate)
            blocks, count, left = list[np.ndarray](), 0, int(start * rate)
            while len(
                block := file.read(
                    max(1, min(_BLOCK, stated - count)), dtype="float32", always_2d=True
                )
            ):
                skipped, left = min(left, len(block)), max(0, left - len(block))
                count += len(block)
                blocks.append(block[skipped:])
                _check_length(name, count - int(start * rate), rate, channels, most)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"'{name}' cannot be read as sound: {error.error_string.rstrip('.').lower()}; is it"
            " damaged, or another kind of file?"
        ) from error
    if count < stated < 2**40 or not count:
        raise ValueError(
            f"'{name}' is cut off: it has {count:,} of {max(count, stated):,} samples; copy it again"
        )
    samples = np.concatenate(blocks) if blocks else np.empty((0, channels), "float32")
    return Audio(samples.T, rate)


def _library() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ModelError(
            "sound that is not plain WAV needs the library soundfile, which is not installed: pip"
            " install 'imagen-flow[audio]'"
        ) from error
    return soundfile


def _check_size(name: str, channels: int, rate: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"'{name}' has {channels} channels, but 1 to {MAX_CHANNELS} can be used")
    if rate < 1:
        raise ValueError(f"'{name}' states {rate} samples a second; it is damaged")


def _check_length(name: str, count: int, rate: int, channels: int, most: float) -> None:
    if count > most * rate:
        raise ValueError(
            f"'{name}' is longer than max_seconds allows ({most:g} s); raise max_seconds, or cut"
            " the sound"
        )
    if count * channels > MAX_SAMPLES:
        raise ValueError(
            f"'{name}' has more than {MAX_SAMPLES:,} samples; cut the sound, or lower its rate"
        )


def _check_whole(content: bytes, name: str) -> None:
    """Refuse WAV and AIFF files whose samples end before they should: the library reads what there
    is of them, and says nothing.
    """
    orders = {b"RIFF": ("little", b"data"), b"FORM": ("big", b"SSND")}
    order, wanted = orders.get(content[:4], ("", b""))
    at = 12
    for _ in range(_MAX_CHUNKS if order else 0):
        if at + 8 > len(content):
            return
        kind, size = content[at : at + 4], content[at + 4 : at + 8]
        stated = int.from_bytes(size, "little" if order == "little" else "big")
        if kind == wanted:
            there = len(content) - at - 8
            if not stated and there and not int.from_bytes(content[4:8], "little"):
                raise ValueError(
                    f"'{name}' was not written to its end: it states no sound, though there are"
                    f" {there:,} bytes; repair it with a program that edits sound"
                )
            if there < stated < _ENDLESS:
                raise ValueError(
                    f"'{name}' is cut off: it has {there:,} of {stated:,} bytes of sound; copy it"
                    " again"
                )
            return
        at += 8 + stated + stated % 2
