"""Protect a few bytes against errors: a check sum, and a convolutional code that is decoded with
the reliability of each bit.

Source: A. J. Viterbi, "Error Bounds for Convolutional Codes and an Asymptotically Optimum Decoding
    Algorithm", IEEE Transactions on Information Theory 13 (1967). The code has rate 1/3, constraint
    length 7 and the generators 133, 171, 165 (octal), as in 3GPP TS 36.212, 5.1.3.1.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CAPACITY = 16
"""The most bytes of a message."""

GENERATORS = (0o133, 0o171, 0o165)

MEMORY = 6
"""How many bits before the present one a coded bit depends on."""

MISTAKEN = 2.0**-32
"""The probability that what is no message has the right check sum."""

LENGTH = (8 * (1 + CAPACITY + 4) + MEMORY) * len(GENERATORS)
"""How many coded bits there are: of the length, the message and its CRC-32, and zeros that bring
the register back to where it began.
"""


def encode(message: bytes) -> np.ndarray:
    """Code a message of at most `CAPACITY` bytes as `LENGTH` bits."""
    import numpy as np

    body = bytes([len(message)]) + message.ljust(CAPACITY, b"\0")
    framed = body + zlib.crc32(body).to_bytes(4, "big")
    return _convolved(np.unpackbits(np.frombuffer(framed, "uint8")))


def decode(soft: np.ndarray) -> bytes | None:
    """Return the message whose code fits best, or None if its check sum is wrong.

    Inputs:
        soft: for each coded bit a number: positive for 0, negative for 1, and the surer, the larger.
    """
    import numpy as np

    framed = np.packbits(_likeliest(soft)).tobytes()
    body, checksum = framed[:-4], framed[-4:]
    size = body[0]
    if size > CAPACITY or zlib.crc32(body).to_bytes(4, "big") != checksum:
        return None
    return body[1 : 1 + size]


def _outputs() -> np.ndarray:
    """Return the coded bits of each content of the register, which has the newest bit last: that is
    what the first digit of a generator takes.
    """
    import numpy as np

    register = np.arange(1 << (MEMORY + 1))[:, None] >> np.arange(MEMORY + 1) & 1
    taken = np.array(GENERATORS)[:, None] >> np.arange(MEMORY, -1, -1) & 1
    return register @ taken.T & 1


def _convolved(bits: np.ndarray) -> np.ndarray:
    import numpy as np

    padded = np.concatenate([np.zeros(MEMORY, "int64"), bits, np.zeros(MEMORY, "int64")])
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEMORY + 1)
    register = windows @ (1 << np.arange(MEMORY, -1, -1))
    coded: np.ndarray = _outputs()[register].ravel()
    return coded


def _likeliest(soft: np.ndarray) -> np.ndarray:
    """Return the bits whose code agrees most with `soft`, without the zeros at the end."""
    import numpy as np

    signs = 1 - 2 * _outputs()
    states = 1 << MEMORY
    before = np.arange(2 * states) >> 1  # the state that each content of the register comes from
    sums = np.full(states, -np.inf)
    sums[0] = 0
    steps = soft.reshape(-1, len(GENERATORS))
    oldest = np.zeros((len(steps), states), "bool")
    for i, received in enumerate(steps):
        through = (sums[before] + signs @ received).reshape(2, states)
        oldest[i] = through[1] > through[0]
        sums = through.max(axis=0)
    state, bits = 0, np.zeros(len(steps), "uint8")
    for i in reversed(range(len(steps))):
        bits[i] = state & 1
        state = (state + states * int(oldest[i, state])) >> 1
    return bits[:-MEMORY]
