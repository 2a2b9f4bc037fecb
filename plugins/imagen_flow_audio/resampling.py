"""Change the rate of sound, and bring it to one channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import imagen_flow as flow
from imagen_flow import Audio, Range

if TYPE_CHECKING:
    import numpy as np

MIN_RATE, MAX_RATE = 1000, 768_000
"""Samples a second that sound may have."""

_ZEROS = 48
"""Zero crossings of the filter on each side."""

_SHARPNESS = 9.0
"""Kaiser's beta: what lies above half the lower rate is damped by some 90 dB."""

_ROLLOFF = 0.94
"""Where the filter begins to fall, by half the lower rate."""

_BLOCK = 8192

_MOST_DENSE = 4_000_000
"""The largest matrix of filters."""


@flow.node("audio.resample", version=1, uses=("numpy",))
def resample(
    audio: Audio, *, rate: Annotated[int, Range(MIN_RATE, MAX_RATE)], mono: bool = False
) -> Audio:
    """Change the rate of sound.

    Inputs:
        audio: any number of channels, at 1,000 to 768,000 samples a second.

    Params:
        rate: samples a second.
        mono: mix all channels into one, by their mean.

    Outputs:
        sound of the same length, rounded up to whole samples.

    Raises:
        ValueError: the sound has samples that are not numbers, or a rate that is out of range.

    Source:
        A polyphase filter, a sinc with a Kaiser window: Smith, Digital Audio Resampling (2002);
        48 zero crossings on each side, beta 9, 0.94 of half the lower rate.
    """
    check_sound(audio)
    samples = audio.samples.mean(axis=0, keepdims=True) if mono else audio.samples
    return Audio(resampled(samples, audio.rate, rate), rate)


def check_sound(audio: Audio) -> None:
    """Refuse sound that no filter and no model can make sense of."""
    import numpy as np

    if not MIN_RATE <= audio.rate <= MAX_RATE:
        raise ValueError(
            f"the sound has {audio.rate:,} samples a second, but {MIN_RATE:,} to {MAX_RATE:,} can be"
            " used"
        )
    if not np.isfinite(audio.samples).all():
        raise ValueError("the sound has samples that are not numbers (NaN or infinite)")


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return samples (channels, count) at another rate, in float32."""
    import numpy as np

    if rate == wanted or not samples.shape[1]:
        return samples.astype("float32")
    up, down = (n // math.gcd(rate, wanted) for n in (wanted, rate))
    filters = _filters(up, down)
    taps = filters.shape[1]
    count = -(-samples.shape[1] * up // down)
    padded = np.pad(samples.astype("float32"), ((0, 0), (taps // 2, taps // 2 + down)))
    if up * (down + taps) > _MOST_DENSE:
        return _one_by_one(padded, filters, down, count)
    # Every `down` samples the filters repeat: they are the columns of one matrix.
    starts = np.arange(up) * down
    matrix = np.zeros((down + taps, up))
    for column, (place, phase) in enumerate(zip(starts // up, starts % up, strict=True)):
        matrix[place : place + taps, column] = filters[phase]
    rows = np.lib.stride_tricks.sliding_window_view(padded, len(matrix), axis=1)[:, ::down]
    found = np.empty((len(samples), rows.shape[1], up), "float32")
    for start in range(0, rows.shape[1], _BLOCK):
        found[:, start : start + _BLOCK] = (
            rows[:, start : start + _BLOCK].astype("float64") @ matrix
        )
    return found.reshape(len(samples), -1)[:, :count]


def _one_by_one(padded: np.ndarray, filters: np.ndarray, down: int, count: int) -> np.ndarray:
    """Filter where rates have so little in common that the filters hardly ever repeat."""
    import numpy as np

    up, taps = filters.shape
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)
    found = np.empty((len(padded), count), "float32")
    for start in range(0, count, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, count), dtype="int64") * down
        found[:, start : start + _BLOCK] = np.einsum(
            "cbt,bt->cb", windows[:, places // up], filters[places % up]
        )
    return found


def _filters(up: int, down: int) -> np.ndarray:
    """Return a filter for each place between two samples, (up, taps), each with the sum 1."""
    import numpy as np

    cutoff = _ROLLOFF * min(1, up / down)
    width = _ZEROS / cutoff
    reach = math.ceil(width)
    around = np.arange(-reach, reach + 1)[None, :]
    filters = np.empty((up, around.shape[1]))
    # Some at a time: of rates that have little in common there are very many.
    for start in range(0, up, block := max(1, _BLOCK * 100 // around.shape[1])):
        offsets = np.arange(start, min(start + block, up))[:, None] / up - around
        window = np.i0(_SHARPNESS * np.sqrt(np.clip(1 - (offsets / width) ** 2, 0, None)))
        some = np.sinc(cutoff * offsets) * window * (np.abs(offsets) < width)
        filters[start : start + block] = some / some.sum(axis=1, keepdims=True)
    return filters
