"""Compare sets of pictures, and measure how diverse one is, by features of any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from imagen_flow import List, Progress, Steps, Tensor, node

if TYPE_CHECKING:
    import numpy as np

_ROWS = 1024
"""How many rows of a matrix of all pairs are computed at once."""


@node("metric.fid", version=1, uses=("numpy",))
def fid(features: List[Tensor], reference: List[Tensor]) -> Steps[float]:
    """Measure how far a set of pictures is from a reference, such as drawn from real ones: the
    Fréchet distance between Gaussians that are fitted to their features.

    Inputs:
        features, reference: of `image.features` with one model, at least two in each. Published
            figures are of tens of thousands of pictures, and of features that were not normalised
            (``normalise: false``).

    Outputs:
        0 for equal sets; the smaller, the closer. It depends on the model: with
            hf:facebook/dinov2-large it is FD-DINOv2 (arXiv:2306.04675), but for how pictures are
            resized. The FID of the literature takes Inception V3, which transformers does not have,
            so its figures cannot be compared with these. It also depends on the count: few pictures
            make it larger, and a note says so if there are fewer than a vector has numbers.

    Raises:
        ValueError: fewer than two pictures in a set, or features of different models.

    Source:
        arXiv:1706.08500, equation 6. The trace of the root of a product of covariances is the
            sum of the singular values of a product of their factors, which loses fewer digits than
            the root of a matrix.
    """
    import numpy as np

    drawn, real = _stacked(features, reference)
    yield Progress(0, 1, _few(min(len(drawn), len(real)), drawn.shape[1]))
    a, b = _factor(drawn), _factor(real)
    apart = np.square(drawn.mean(0) - real.mean(0)).sum()
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    found = float(apart + np.square(a).sum() + np.square(b).sum() - 2 * shared)
    return round(max(0.0, found), 6)


@node("metric.kid", version=1, uses=("numpy",))
def kid(features: List[Tensor], reference: List[Tensor]) -> float:
    """Measure how far a set of pictures is from a reference, without a bias for small sets: the
    kernel distance between their features.

    Inputs:
        features, reference: of `image.features` with one model, at least two in each.

    Outputs:
        about 0 for sets of one kind (a little below is as close); the larger, the further apart.
            Often printed times 1000. All pairs are compared; the literature takes the mean over
            random subsets, which is an estimate of this.

    Raises:
        ValueError: fewer than two pictures in a set, or features of different models.

    Source:
        arXiv:1801.01401: the unbiased squared maximum mean discrepancy with the kernel
            (x·y / dimension + 1)³.
    """
    drawn, real = _stacked(features, reference)
    n, m = len(drawn), len(real)
    within = [
        (_kernel_sum(one, one) - _kernel_diagonal(one)) / (len(one) * (len(one) - 1))
        for one in (drawn, real)
    ]
    return round(sum(within) - 2 * _kernel_sum(drawn, real) / (n * m), 9)


class Diversity(NamedTuple):
    """How diverse a set of pictures is."""

    distance: float
    distinct: float


@node("metric.diversity", version=1, uses=("numpy",))
def diversity(features: List[Tensor]) -> Diversity:
    """Measure how much the pictures of a set differ from one another, for example those of one
    prompt and several seeds.

    Inputs:
        features: of `image.features` with one model, of at least two pictures; their lengths do not
            matter.

    Outputs:
        distance: the mean of 1 - cosine over all pairs: 0 if all are equal, 1 if they have nothing
            in common.
        distinct: as how many wholly different pictures they are: 1 if all are equal, their count if
            they have nothing in common.

    Raises:
        ValueError: fewer than two pictures, features of different models, or features that are all
            zero.

    Source:
        ``distinct`` is the Vendi score (arXiv:2210.02410) with the cosine as kernel.
    """
    import numpy as np

    (found,) = _stacked(features)
    lengths = np.sqrt(np.square(found).sum(1, keepdims=True))
    if not lengths.all():
        raise ValueError("port 'features' has features that are all zero, and these have no angle")
    unit = found / lengths
    count = len(unit)
    cosines = (np.square(unit.sum(0)).sum() - count) / (count * (count - 1))
    gram = unit @ unit.T if count < unit.shape[1] else unit.T @ unit
    shares = np.linalg.eigvalsh(gram / count)
    shares = shares[shares > 1e-12]
    return Diversity(
        round(max(0.0, float(1 - cosines)), 6),
        round(float(np.exp(-(shares * np.log(shares)).sum())), 6),
    )


def _stacked(features: Sequence[Tensor], *references: Sequence[Tensor]) -> list[np.ndarray]:
    """Stack features as float64 (count, dimension), one array for each set.

    Raises:
        ValueError: a set has fewer than two, or they are no features of one model.
    """
    import numpy as np

    stacked = []
    for port, values in zip(("features", "reference"), (features, *references), strict=False):
        if len(values) < 2:
            raise ValueError(
                f"port '{port}' has {'one picture' if values else 'no pictures'}, and nothing can be"
                " said of a set of fewer than two"
            )
        for number, value in enumerate(values):
            if "features" not in value.tags or len(value.shape) != 1:
                raise ValueError(
                    f"port '{port}', element {number}, is not features: take the output of"
                    " image.features"
                )
            if (value.tags, value.shape) != (features[0].tags, features[0].shape):
                raise ValueError(
                    f"port '{port}', element {number}, is of another model than the first of"
                    " 'features', or only one of them is normalised; such features cannot be"
                    " compared"
                )
        array = np.stack([value.numpy() for value in values]).astype("float64")
        if not np.isfinite(array).all():
            raise ValueError(f"port '{port}' has features that are not finite")
        stacked.append(array)
    return stacked


def _few(count: int, dimension: int) -> str:
    if count > dimension:
        return ""
    return (
        f"there are only {count} pictures for features of {dimension} numbers, which makes the"
        " distance larger; compare it only with those of equally many pictures"
    )


def _factor(features: np.ndarray) -> np.ndarray:
    """Return a matrix whose transpose times itself is the covariance of features, with no more rows
    than it needs.
    """
    import numpy as np

    centred: np.ndarray = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.asarray(np.linalg.qr(centred, mode="r"))
    return centred


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum the kernel over all pairs, some rows at a time."""
    return sum(
        float(((a[start : start + _ROWS] @ b.T / a.shape[1] + 1) ** 3).sum())
        for start in range(0, len(a), _ROWS)
    )


def _kernel_diagonal(a: np.ndarray) -> float:
    import numpy as np

    return float(((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum())
