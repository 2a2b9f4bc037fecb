"""Toy nodes for the evaluator's random graphs: pure but for a log of their calls."""

from __future__ import annotations

import json
from typing import NamedTuple

from imagen_flow import Absent, Json, List, Progress, Seed, Steps, Text, node, record

#: One line a call, in the order of the calls: a node type's name and its arguments.
CALLS: list[str] = []
#: How often a flaky node was called with these arguments.
TRIES: dict[tuple[int, int], int] = {}


def line(name: str, arguments: dict[str, object]) -> str:
    """Write a call as one line."""
    return f"{name}|" + ",".join(f"{port}={arguments[port]!r}" for port in sorted(arguments))


def log(name: str, **arguments: object) -> None:
    CALLS.append(line(name, arguments))


@node("t.int", version=1)
def number(value: int) -> int:
    log("t.int", value=value)
    return value


@node("t.add", version=1)
def add(a: int, b: int = 1) -> int:
    log("t.add", a=a, b=b)
    return (a + b) % 1000


@node("t.default", version=1)
def default(a: int | None = None, b: int = 5) -> int:
    log("t.default", a=a, b=b)
    return (100 if a is None else a) + b


@node("t.even", version=1)
def even(n: int) -> bool:
    log("t.even", n=n)
    return n % 2 == 0


@node("t.maybe", version=1)
def maybe(n: int) -> int:
    log("t.maybe", n=n)
    return Absent.value if n % 3 == 0 else n  # type: ignore[return-value]


@node("t.fail", version=1)
def fail(n: int) -> int:
    log("t.fail", n=n)
    if n % 4 == 3:
        raise ValueError(f"dislikes {n}")
    return n + 1


@node("t.flaky", version=1)
def flaky(n: int, fails: int = 1) -> int:
    log("t.flaky", n=n, fails=fails)
    TRIES[n, fails] = TRIES.get((n, fails), 0) + 1
    if TRIES[n, fails] <= fails % 2:
        raise RuntimeError("not this time")
    return n


@node("t.steps", version=1)
def steps(n: int) -> Steps[int]:
    log("t.steps", n=n)
    for done in range(n % 3):
        yield Progress(done + 1, n % 3)
    return n


class Pair(NamedTuple):
    low: int
    label: Text


@node("t.pair", version=1)
def pair(n: int) -> Pair:
    log("t.pair", n=n)
    return Pair(n // 2, f"p{n}")


class Either(NamedTuple):
    even: int
    odd: int


@node("t.split", version=1)
def split(n: int) -> Either:
    log("t.split", n=n)
    return Either(*((n, Absent.value) if n % 2 == 0 else (Absent.value, n)))  # type: ignore[arg-type]


class Scored(NamedTuple):
    text: Text
    score: int


@node("t.score", version=1)
def score(seed: Seed) -> Scored:
    log("t.score", seed=int(seed))
    return Scored(str(int(seed))[-6:], int(seed) % 7)


@node("t.show", version=1)
def show(x: float) -> Text:
    log("t.show", x=x)
    return repr(x)


@node("t.join", version=1)
def join(a: Text, b: Text = "z") -> Text:
    log("t.join", a=a, b=b)
    return (a + "|" + b)[-40:]


@node("t.range", version=1)
def range_(n: int) -> List[int]:
    log("t.range", n=n)
    return list(range(n % 4))


@node("t.ints", version=1)
def ints(values: List[int]) -> List[int]:
    log("t.ints", values=list(values))
    return list(values)


@node("t.sum", version=1)
def total(values: List[int], start: int = 0) -> int:
    log("t.sum", values=list(values), start=start)
    return (sum(values) + start) % 1000


@node("t.weigh", version=1, paired=("values", "by"))
def weigh(values: List[int], by: List[int] | None = None) -> int:
    log("t.weigh", values=list(values), by=None if by is None else list(by))
    weights = range(len(values)) if by is None else by
    return sum(n * weight for n, weight in zip(values, weights, strict=True)) % 1000


@node("t.optional_sum", version=1)
def optional_total(values: List[int] | None = None) -> int:
    log("t.optional_sum", values=None if values is None else list(values))
    return -1 if values is None else sum(values) % 1000


@node("t.chunk", version=1)
def chunk(values: List[int]) -> List[List[int]]:
    log("t.chunk", values=list(values))
    return [list(values[i : i + 2]) for i in range(0, len(values), 2)]


@node("t.nest", version=1)
def nest(values: List[List[int]]) -> Text:
    log("t.nest", values=[list(v) for v in values])
    return json.dumps([list(v) for v in values])[-40:]


@record
class Use:
    n: int
    weight: int = 2
    label: str | None = None


def told(use: Use) -> tuple[int, int, str | None]:
    return use.n, use.weight, use.label


@node("t.uses", version=1)
def uses(uses: List[Use] = (), one: Use | None = None) -> int:
    log("t.uses", uses=[told(use) for use in uses], one=None if one is None else told(one))
    return sum(use.n * use.weight for use in [*uses, *([one] if one else [])]) % 1000


@node("t.json", version=1)
def data(value: Json) -> Text:
    log("t.json", value=json.dumps(value, sort_keys=True))
    return json.dumps(value, sort_keys=True)[-40:]
