"""Derive seeds from seeds, so that one number in a graph gives independent noise to many stages."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated

from imagen_flow import List, Range, Seed, Text, node


@node("seed.derive", version=1)
def derive(seed: Seed, label: Text) -> Seed:
    """Derive a seed from a seed and a label, so that stages do not share their noise.

    Params:
        label: any text that differs between stages, for example ``upscale``.

    Outputs:
        always the same seed for the same seed and label.

    Source:
        BLAKE2b (RFC 7693) of 8 bytes over ``imagen_flow.seed``, a zero byte, the seed in decimal
            digits, a zero byte and the label in UTF-8; read as a little-endian number, its top bit
            cleared.
    """
    data = b"\0".join(
        [b"imagen_flow.seed", str(seed).encode(), label.encode("utf-8", "surrogatepass")]
    )
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") & (2**63 - 1)


@node("seed.list", version=1)
def several(seed: Seed, count: Annotated[int, Range(1, 10_000)]) -> List[Seed]:
    """Make a list of seeds from one, to try several variations with `each`.

    Outputs:
        `count` seeds, the n-th derived as by `seed.derive` with the label ``n``, counted from 0; a
            longer list starts with the shorter one.
    """
    return [derive(seed, str(index)) for index in range(count)]
