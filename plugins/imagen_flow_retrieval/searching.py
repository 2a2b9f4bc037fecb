"""Find the nearest vectors: all of them are compared, or, of many, those that rough codes choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EXACT = 20_000
"""Up to so many vectors all are compared: it takes a few milliseconds."""

CANDIDATES = 400
"""How many vectors the codes choose, at least; they are then compared exactly. With these, 99 % of
the ten nearest of 100,000 are found even where no structure helps: among random directions.
"""

BITS = 2
"""Of a code, for each dimension."""

DIGITS = 6
"""Of scores: further ones are noise of float32, and must not decide between equal pictures."""

_CODES = "codes.safetensors"


class Codes:
    """Rough copies of vectors, by which a few candidates are chosen quickly.

    The vectors are turned by a random rotation first, since codes of few bits need dimensions that
    spread alike; those of real models do not.

    Source: RaBitQ (arXiv:2405.12497, arXiv:2409.09913), ``faiss.IndexRaBitQFastScan``.
    """

    def __init__(self, dimension: int) -> None:
        import faiss
        import numpy as np

        random = np.random.Generator(np.random.PCG64(7)).standard_normal((dimension, dimension))
        self.rotation = np.linalg.qr(random)[0].astype("float32")
        self.index: Any = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT, 32, BITS)

    @classmethod
    def of(cls, vectors: np.ndarray) -> Codes:
        """Compute the codes of vectors."""
        made = cls(vectors.shape[1])
        turned = vectors @ made.rotation
        made.index.train(turned)
        made.index.add(turned)
        return made

    def write(self, folder: Path) -> None:
        """Write them as plain arrays: the reader of faiss is not made for files of strangers."""
        import faiss
        from safetensors.numpy import save_file

        arrays = {
            "codes": faiss.AlignedTable_to_array(self.index.codes),
            "centre": faiss.vector_to_array(self.index.center),
        }
        save_file(arrays, folder / _CODES)

    @classmethod
    def read(cls, folder: Path, count: int, dimension: int) -> Codes:
        """Read the codes of so many vectors."""
        import faiss
        from safetensors.numpy import load_file

        arrays = load_file(folder / _CODES)
        made = cls(dimension)
        index = made.index
        padded = -(-count // index.bbs) * index.bbs
        if arrays["codes"].size != padded * index.code_size or arrays["centre"].size != dimension:
            raise ValueError("these are codes of other vectors")
        faiss.copy_array_to_vector(arrays["centre"], index.center)
        faiss.copy_array_to_AlignedTable(arrays["codes"], index.codes)
        index.ntotal, index.ntotal2, index.is_trained = count, padded, True
        return made

    def choose(self, query: np.ndarray, count: int) -> np.ndarray:
        """Choose vectors that are likely to be the nearest of a query."""
        found = self.index.search((query @ self.rotation)[None], count)[1][0]
        chosen: np.ndarray = found[found >= 0]
        return chosen


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
    few = max(CANDIDATES, 8 * wanted)
    if codes is not None and few < len(names):
        chosen = codes.choose(query, few)
        scores = _scores(vectors, query, chosen)
        # Where the last of the candidates is as near as the last that is wanted, as with many
        # copies of one picture, others may be as near too: then all are compared.
        if np.partition(scores, -wanted)[-wanted] > scores.min():
            return _ranked(chosen, scores, names, wanted)
    rough = vectors @ query
    least = np.partition(rough, -wanted)[-wanted] - 1e-5
    chosen = np.flatnonzero(rough >= least)
    return _ranked(chosen, _scores(vectors, query, chosen), names, wanted)


def _scores(vectors: np.ndarray, query: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Compute cosines so that equal vectors have equal ones, wherever they lie: a product of
    matrices sums their ends in another order.
    """
    import numpy as np

    products = vectors[chosen].astype("float64") * query
    scores: np.ndarray = np.clip(products.sum(axis=1).round(DIGITS), -1, 1)
    return scores


def _ranked(
    chosen: np.ndarray, scores: np.ndarray, names: Sequence[str], wanted: int
) -> list[Match]:
    found = (
        Match(int(position), names[position], float(score))
        for position, score in zip(chosen, scores, strict=True)
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
