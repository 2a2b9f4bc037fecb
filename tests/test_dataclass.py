"""Frozen dataclasses behave as the standard library's, of which they are a faster copy."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass as standard
from dataclasses import field
from typing import Any

import pytest

from imagen_flow._system.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Slotted:
    """A value with a default, a factory, and fields that are not shown or compared."""

    name: str
    size: float = 1.5
    parts: list[int] = field(default_factory=list, compare=False)
    memo: object = field(default=None, repr=False, compare=False)


def classes(decorator: Callable[..., Any], **options: Any) -> Any:
    """The same class, made by the standard library and by ours."""

    class Value:
        """A value."""

        name: str
        size: float = 1.5
        parts: tuple[int, ...] = field(default_factory=tuple)
        memo: object = field(default=None, repr=False, compare=False)

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("negative")

    return decorator(**options)(Value)


OPTIONS: list[dict[str, bool]] = [
    {"frozen": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "eq": False},
    {"frozen": True, "slots": True, "repr": False},
    {"slots": True},
    {"frozen": True, "order": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_the_standard_library(options: dict[str, bool]) -> None:
    """What a class shows, compares, hashes and refuses is the same for every option."""

    def seen(decorator: Callable[..., Any]) -> list[Any]:
        value = classes(decorator, **options)
        one, two = value("a", memo=1), value("a", 1.5, (), 2)
        nan = float("nan")
        found: list[Any] = [
            repr(one).partition(" object at ")[0],
            one == two,
            one != value("b"),
            one == "a",
            value(name=nan) == value(name=nan),
            {one: 1}.get(two) if value.__hash__ else None,
            hash(one) == hash(two) if value.__hash__ else None,
            [(f.name, f.type, f.default) for f in dataclasses.fields(one)],
            dataclasses.replace(one, size=2).size,
            dataclasses.asdict(one),
            copy.copy(one).memo,
            copy.deepcopy(one).parts,
            value.__match_args__,
            value.__doc__,
            inspect.signature(value).parameters.keys(),
            value.__init__.__qualname__,
            value.__init__.__annotations__,
            "__dict__" in dir(one),
        ]
        for wrong in (
            lambda: value(),
            lambda: value("a", 1, (), 2, 3),
            lambda: value("a", sise=1),
            lambda: value("a", -1),
            lambda: setattr(one, "name", "b"),
            lambda: delattr(one, "name"),
        ):
            try:
                wrong()
            except (TypeError, ValueError, AttributeError) as error:
                found.append((type(error), str(error)))
            else:
                found.append(None)
        return found

    assert seen(dataclass) == seen(standard)


def test_pickled_and_copied() -> None:
    """A value with slots survives pickle and copy, which set its fields although it is frozen."""
    value = Slotted("a", 2.0, [1], memo={"b": 2})
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert (again, again.parts, again.memo) == (value, [1], {"b": 2})


def test_factories_make_new_values() -> None:
    """Each instance gets its own list."""
    assert Slotted("a").parts is not Slotted("a").parts


def test_own_methods_stay() -> None:
    """Methods that a class defines itself are not replaced."""

    @dataclass(frozen=True, slots=True)
    class Named:
        name: str

        def __repr__(self) -> str:
            return f"<{self.name}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Named) and self.name.lower() == other.name.lower()

        def __hash__(self) -> int:
            return hash(self.name.lower())

    assert (repr(Named("a")), len({Named("a"), Named("A")})) == ("<a>", 1)


def test_a_value_that_holds_itself() -> None:
    """A value inside itself is shown as an ellipsis."""
    value = Slotted("a")
    value.parts.append(value)  # type: ignore[arg-type]
    assert repr(value) == "Slotted(name='a', size=1.5, parts=[...])"
