"""Find the nearest vectors: all of them are compared, or, of many, those that rough codes choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EXACT = 20_000
"""Up to so many vectors all are compared: it takes a few milliseconds."""

CANDIDATES = 800
"""How many vectors the codes choose, and four more for each that is wanted."""

SURE = 2.5
"""How many deviations of the codes' error lie between what was found and what the codes left out.
Where they do not, four times as many are chosen; then all vectors are compared.
"""

DIGITS = 6
"""Of scores: further ones are noise of float32, and must not decide between equal pictures."""

_NOISE = 1e-5
"""More than a product of matrices in float32 is off."""

_LEVELS = (-1.51, -0.4528, 0.4528, 1.51)
"""The values that lose least of a normal distribution of deviation 1 (Max, 1960)."""

_CODES = "codes.safetensors"
_ROWS = 65_536


class Codes:
    """Rough copies of vectors, in two bits a number, by which a few candidates are chosen quickly.

    The vectors are moved to their mean and turned by a random rotation first, after which their
    numbers are distributed nearly normally and alike, whatever they were: so the values of a code
    are known beforehand, and so is how far the product with a query is off.

    Source: ``faiss.IndexPQFastScan`` (arXiv:1704.07355), with a Lloyd-Max quantizer a number.
    """

    def __init__(self, mean: np.ndarray, numbers: np.ndarray) -> None:
        import faiss
        import numpy as np

        self.mean, self.numbers = mean, numbers
        #: The deviation of the numbers, what rounding shortened vectors by, and the deviation of
        #: products: across the vectors, and along them.
        self.scale, self.stretch, self.across, self.along = numbers.tolist()
        width = len(mean) + len(mean) % 2  # faiss codes numbers in pairs
        random = np.random.Generator(np.random.PCG64(7)).standard_normal((width, width))
        self.rotation = np.linalg.qr(random)[0][: len(mean)].astype("float32")
        self.levels = np.array(_LEVELS, "float32") * self.scale
        pairs = [number for a in self.levels for b in self.levels for number in (a, b)]
        self.index: Any = faiss.IndexPQFastScan(width, width // 2, 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(
            np.tile(np.array(pairs, "float32"), width // 2), self.index.pq.centroids
        )
        self.index.is_trained = True

    @classmethod
    def of(cls, vectors: np.ndarray) -> Codes:
        """Compute the codes of vectors."""
        import numpy as np

        mean = vectors.mean(0, dtype="float64").astype("float32")
        sample = cls(mean, np.ones(4)).turned(vectors[:: max(1, len(vectors) // 10_000)])
        made = cls(mean, np.array([float(sample.std()) or 1.0, 1, 0, 0]))
        middles = (made.levels[1:] + made.levels[:-1]) / 2
        coded = made.levels[np.searchsorted(middles, sample)]
        # Rounding makes vectors shorter along themselves, and else is off in all directions alike.
        stretch = np.square(sample).sum() / max(1e-9, (sample * coded).sum())
        off = coded * stretch - sample
        across, along = off.std(), (off * sample).sum(1).std()
        made = cls(mean, np.array([made.scale, stretch, across, along]))
        for start in range(0, len(vectors), _ROWS):
            made.index.add(made.turned(vectors[start : start + _ROWS]))
        return made

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """Move vectors to the mean, and turn them."""
        found: np.ndarray = (vectors - self.mean) @ self.rotation
        return found

    def write(self, folder: Path) -> None:
        """Write them as plain arrays: the reader of faiss is not made for files of strangers."""
        import faiss
        from safetensors.numpy import save_file

        arrays = {
            "codes": faiss.AlignedTable_to_array(self.index.codes),
            "mean": self.mean,
            "numbers": self.numbers,
        }
        save_file(arrays, folder / _CODES)

    @classmethod
    def read(cls, folder: Path, count: int, dimension: int) -> Codes:
        """Read the codes of so many vectors.

        Raises:
            ValueError: these are codes of other vectors.
        """
        import faiss
        from safetensors.numpy import load_file

        arrays = load_file(folder / _CODES)
        if arrays["mean"].shape != (dimension,):
            raise ValueError("these are codes of other vectors")
        made = cls(arrays["mean"], arrays["numbers"])
        index = made.index
        padded = -(-count // index.bbs) * index.bbs
        if arrays["codes"].size != padded * index.M2 // 2:
            raise ValueError("these are codes of other vectors")
        faiss.copy_array_to_AlignedTable(arrays["codes"], index.codes)
        index.ntotal, index.ntotal2 = count, padded
        return made

    def choose(self, query: np.ndarray, count: int) -> tuple[np.ndarray, float]:
        """Choose vectors that are likely to be the nearest of a query, and say below which cosine
        the others are, almost surely.
        """
        found, chosen = self.index.search((query @ self.rotation)[None], count)
        least = self.stretch * float(found.min())
        error = math.hypot(self.across, self.along * least)
        rest = least + float(query @ self.mean) + SURE * error + _NOISE
        return chosen[0], rest


@dataclass(frozen=True)
class Match:
    """An entry that was found: its position in the index, its name, and its cosine."""

    position: int
    name: str
    score: float


def search(
    vectors: np.ndarray,
    names: Sequence[str],
    query: np.ndarray,
    count: int,
    codes: Codes | None = None,
) -> list[Match]:
    """Return the entries nearest to a query, the nearest first; equal ones by name, then by
    position.

    Params:
        vectors: float32 (entries, dimension), of length 1.
        query: float32 (dimension,), of length 1.
        codes: of the vectors; None: all are compared.
    """
    import numpy as np

    wanted = min(count, len(names))
    if not wanted:
        return []
    few = CANDIDATES + 4 * wanted
    for candidates in (few, 4 * few):
        if codes is not None and candidates < len(names):
            chosen, rest = codes.choose(query, candidates)
            found = _nearest(vectors[chosen] @ query, chosen, vectors, names, query, wanted)
            if found[-1].score > rest:
                return found
    return _nearest(vectors @ query, np.arange(len(names)), vectors, names, query, wanted)


def _nearest(
    rough: np.ndarray,
    chosen: np.ndarray,
    vectors: np.ndarray,
    names: Sequence[str],
    query: np.ndarray,
    wanted: int,
) -> list[Match]:
    """Return the nearest of chosen vectors, whose cosines are known but for the last digits."""
    import numpy as np

    near = chosen[rough >= np.partition(rough, -wanted)[-wanted] - _NOISE]
    # Products of matrices sum differently at their ends; this way, equal vectors have equal scores
    # wherever they lie.
    products = vectors[near].astype("float64") * query
    scores = np.clip(products.sum(axis=1).round(DIGITS), -1, 1)
    found = (
        Match(int(position), names[position], float(score))
        for position, score in zip(near, scores, strict=True)
    )
    return sorted(found, key=lambda match: (-match.score, match.name, match.position))[:wanted]


def prepared_codes(
    vectors: np.ndarray, keep: Callable[[Callable[[Path], None]], Path | None]
) -> Codes:
    """Return the codes of vectors: those that are kept, or new ones where nothing is kept.

    Params:
        keep: returns the folder that a function fills, unless it is filled already.
    """
    made: list[Any] = []

    def write(folder: Path) -> None:
        made.append(Codes.of(vectors))
        made[0].write(folder)

    folder = keep(write)
    if made:
        return made[0]
    return Codes.of(vectors) if folder is None else Codes.read(folder, *vectors.shape)
