"""Tell at a glance that a model is as it was, which is nearly always so: what it consists of is
compared by identity, its configurations by value, and of its weights a few numbers.

Whatever differs at a glance is looked at closely (see `changes`), which takes twenty times as long
and decides.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .changes import (
    HOOKS,
    configuration_of,
    differences,
    look_at,
    objects_looked_at,
    sampled,
    words_of,
)

__all__ = ["Watched"]

#: The dictionaries of a module that hold what it consists of, besides its attributes.
_HELD = ("_parameters", "_buffers", "_modules", *HOOKS)


class Watched:
    """A loaded model, and what it looked like.

    Params:
        moves: its weights come and go between host and device, so that where they are says nothing.
    """

    def __init__(self, value: Any, *, moves: bool) -> None:
        self._value = value
        self._moves = moves
        self._look = look_at(value, moves=moves)
        self._glance = self._new_glance()

    def differences(self) -> list[str]:
        """Say what is not as it was, in a few words each."""
        if self._glance is not None and self._glance.is_same():
            return []
        found = differences(self._look, look_at(self._value, moves=self._moves))
        if not found:
            # Libraries note things by the way when they are first called.
            self._glance = self._new_glance()
        return found

    def _new_glance(self) -> _Glance | None:
        if not self._moves:
            with suppress(Exception):  # it holds something that cannot be copied, or has no place
                return _Glance(self._value)
        return None


class _Glance:
    """What a model consists of, and copies of it that are compared in no time."""

    def __init__(self, value: Any) -> None:
        torch = sys.modules.get("torch")
        self._value = value
        self._objects = list(objects_looked_at(value))
        self._held: list[dict[Any, Any]] = []
        self._tensors: list[Any] = []
        for _, one in self._objects:
            if torch is not None and isinstance(one, torch.Tensor):
                self._tensors.append(one)
            elif torch is not None and isinstance(one, torch.nn.Module):
                for module in one.modules():
                    self._hold(module)
        self._copies = [dict(held) for held in self._held]
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._states = self._now()
        self._plain = copy.deepcopy(self._plain_now())
        self._samples = sampled(self._tensors) if torch is not None else []
        self._numbers = [_bytes(parts) for parts in self._samples]

    def is_same(self) -> bool:
        """Whether nothing differs at a glance."""
        try:
            objects = list(objects_looked_at(self._value))
            return (
                len(objects) == len(self._objects)
                and all(now[1] is was[1] for now, was in zip(objects, self._objects, strict=True))
                and self._held == self._copies
                and self._now() == self._states
                and self._plain_now() == self._plain
                and all(
                    bool((_bytes(parts) == was).all())
                    for parts, was in zip(self._samples, self._numbers, strict=True)
                )
            )
        except Exception:  # something is there that cannot be compared
            return False

    def _hold(self, module: Any) -> None:
        """Take the dictionaries that a module consists of, and its tensors."""
        own = module.__dict__
        held = [own, *(own[name] for name in _HELD if name in own)]
        if hasattr(processor := own.get("processor"), "__dict__"):
            held.append(vars(processor))
        if isinstance(hooks := getattr(own.get("_diffusers_hook"), "hooks", None), dict):
            held.append(hooks)
        self._held += held
        fleeting = own.get("_non_persistent_buffers_set") or ()
        tensors = [
            *own["_parameters"].values(),
            *(tensor for name, tensor in own["_buffers"].items() if name not in fleeting),
        ]
        self._tensors += [tensor for tensor in tensors if tensor is not None]

    def _now(self) -> tuple[list[Any], ...]:
        """Say of each tensor where it is, whether it asks for gradients, and how often it was
        written to.
        """
        return (
            [tensor.data_ptr() for tensor in self._tensors],
            [tensor.requires_grad for tensor in self._tensors],
            [tensor._version for tensor in self._counting],
        )

    def _plain_now(self) -> list[Any]:
        """Give what is compared by value: configurations, and the words of tokenizers."""
        return [
            dict(found) if isinstance(found, Mapping) else found
            for _, one in self._objects
            for found in (configuration_of(one), words_of(one))
        ]


def _bytes(parts: list[Any]) -> Any:
    torch = sys.modules["torch"]
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat(parts).view(torch.uint8)
