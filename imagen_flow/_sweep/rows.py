"""Combine the parts of a sweep: every combination, or side by side; all of them, or a sample.

Nothing is written out: a row is put together when it is asked for, so a sweep of a million items
takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal

from .._system.dataclass import dataclass
from ..errors import GraphError, Mark, Problem
from .axes import MAX_ITEMS, Cell, Part

__all__ = ["Rows", "combine"]


@dataclass(frozen=True)
class Rows:
    """The rows of a sweep, in order: the first part varies slowest."""

    parts: tuple[Part, ...]
    how: Literal["product", "zip"]
    #: How many rows there are before a sample is taken.
    total: int
    #: The numbers of the rows in the sample; None for all.
    sample: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.total if self.sample is None else len(self.sample)

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that vary."""
        return tuple(name for part in self.parts for name in part.names)

    def __getitem__(self, index: int) -> dict[str, Cell]:
        return self.at(index if self.sample is None else self.sample[index])

    def at(self, number: int) -> dict[str, Cell]:
        """Put together a row by its number among all, sampled or not."""
        found: dict[str, Cell] = {}
        chosen = [number] * len(self.parts)
        if self.how == "product":
            for at in range(len(self.parts) - 1, -1, -1):
                number, chosen[at] = divmod(number, len(self.parts[at].rows))
        for part, at in zip(self.parts, chosen, strict=True):
            found.update(zip(part.names, part.rows[at], strict=True))
        return found

    def __iter__(self) -> Iterator[dict[str, Cell]]:
        return (self[index] for index in range(len(self)))


def combine(
    parts: tuple[Part, ...],
    how: Literal["product", "zip"],
    sample: int | None = None,
    *,
    seed: int = 0,
    mark: Mark | None = None,
) -> Rows:
    """Combine parts, and count the rows before any is made.

    Params:
        sample: take so many rows; more than there are takes all. A larger sample contains a smaller
            one.
        seed: another seed takes another sample.
        mark: where the sweep is written.
    Raises:
        GraphError: zipped parts differ in length, or there are too many rows.
    """
    total = 1
    if how == "zip" and parts:
        total = len(parts[0].rows)
        other = next((part for part in parts if len(part.rows) != total), None)
        if other is not None:
            raise GraphError(
                [
                    Problem(
                        "bad-sweep",
                        f"zipped axes need equally many values: {parts[0].title} has {total:,},"
                        f" {other.title} has {len(other.rows):,}",
                        other.mark or mark,
                        fix="make them equally long, or combine them as a product",
                    )
                ]
            )
    elif how == "product":
        for part in parts:
            total *= _length(part)
    count = total if sample is None else min(sample, total)
    if count > MAX_ITEMS:
        factors = " × ".join(f"{part.title} {_length(part):,}" for part in parts)
        shown = factors if how == "product" and len(parts) > 1 else ""
        raise GraphError(
            [
                Problem(
                    "too-many-items",
                    f"the sweep has {count:,} items; the limit is {MAX_ITEMS:,}",
                    mark,
                    shown,
                    "sweep fewer values, or take some of the items by sample",
                )
            ]
        )
    picked = _sample(total, count, seed) if count < total else None
    return Rows(parts, how, total, picked)


def _length(part: Part) -> int:
    """Give a part's length; `len` fails beyond 2**63."""
    span = getattr(part.rows, "span", None)
    return span.count if span is not None else len(part.rows)


def _sample(total: int, count: int, seed: int) -> list[int]:
    """Take rows without replacement: the first of a shuffle that the seed decides, in order. So a
    larger sample contains a smaller one.
    """
    moved: dict[int, int] = {}
    taken = []
    for at in range(count):
        digest = blake2b(f"{seed}\0{at}".encode(), digest_size=16).digest()
        other = at + int.from_bytes(digest, "big") % (total - at)
        taken.append(moved.get(other, other))
        moved[other] = moved.get(at, at)
    return sorted(taken)
