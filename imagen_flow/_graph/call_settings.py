"""Read the settings whose values are more than a word or a number: ``step_cache``, a kind of cache
with its options, and ``attention``, which names implementations of diffusers besides torch's.
"""

from __future__ import annotations

import re
from typing import Any

from .._settings.devices import ATTENTIONS
from .._text.spec import Pair
from .._types.models import StepCache
from .._types.ports import BadValue, PortType, describe
from .._types.values import Range
from .binder import Binder
from .suggestions import only_suggestion, plain

__all__ = ["ATTENTION", "STEP_CACHE", "STEP_CACHES", "takes_itself"]

ATTENTION = PortType("text", choices=ATTENTIONS)
STEP_CACHE = PortType("json")

_STEPS = PortType("int", range=Range(1, 1000))
_TIMES = PortType("list", element=PortType("int", range=Range(-1, 1001)))

#: The options of each kind, under the names that they have in diffusers. A bare value is the first.
STEP_CACHES: dict[str, dict[str, PortType]] = {
    "first_block": {"threshold": PortType("float", range=Range(0, 10))},
    "taylor_seer": {
        "cache_interval": _STEPS,
        "disable_cache_before_step": _STEPS,
        "disable_cache_after_step": _STEPS,
        "max_order": PortType("int", range=Range(0, 8)),
        "use_lite_mode": PortType("bool"),
    },
    "mag": {
        "mag_ratios": PortType("list", element=PortType("float", range=Range(0, 100))),
        "threshold": PortType("float", range=Range(0, 10)),
        "max_skip_steps": _STEPS,
        "retention_ratio": PortType("float", range=Range(0, 1)),
    },
    "pyramid": {
        f"{kind}_attention_{name}": port
        for name, port in {"block_skip_range": _STEPS, "timestep_skip_range": _TIMES}.items()
        for kind in ("spatial", "temporal", "cross")
    },
}

_NEEDED = {"mag": "mag_ratios"}

#: Which of them there are, and which are installed, the loaders of models know.
_OF_DIFFUSERS = re.compile(r"diffusers/[a-z0-9_]{1,60}\Z")

_HOW = "write step_cache: {first_block: 0.05}"


def takes_itself(binder: Binder, pair: Pair, what: str, found: dict[str, Any]) -> bool:
    """Read a setting if its value is of these; tell whether it was."""
    if pair.key.value == "step_cache":
        _take_step_cache(binder, pair, what, found)
    elif pair.key.value == "attention":
        _take_attention(binder, pair, what, found)
    else:
        return False
    return True


def _take_attention(binder: Binder, pair: Pair, what: str, found: dict[str, Any]) -> None:
    """Read one of torch's implementations of attention, or one of those of diffusers."""
    value = pair.value.value
    if isinstance(value, str) and (value in ATTENTIONS or _OF_DIFFUSERS.match(value)):
        found["attention"] = value
        return
    lowered = value.lower() if isinstance(value, str) else ""
    binder.say(
        "bad-setting",
        f"{what} takes one of {', '.join(map(repr, ATTENTIONS))}, or diffusers/NAME, not"
        f" {describe(plain(pair.value))}",
        pair.value.mark,
        fix=(
            f"write {lowered}"
            if lowered in ATTENTIONS or _OF_DIFFUSERS.match(lowered)
            else only_suggestion(binder.nearest(lowered, ATTENTIONS))
        ),
    )


def _take_step_cache(binder: Binder, pair: Pair, what: str, found: dict[str, Any]) -> None:
    """Read ``none``, a kind, or a mapping of a kind to its options or to the first of them."""
    written = pair.value.value
    if isinstance(written, dict) and len(written) == 1:
        ((kind, given),) = written.items()
        mark = given.key.mark
    elif isinstance(written, str):
        kind, given, mark = written, None, pair.value.mark
    else:
        count = len(written) if isinstance(written, dict) else 0
        binder.say(
            "bad-setting",
            f"{what} takes none, or one kind of cache with its options, not"
            f" {f'{count} kinds' if count else describe(plain(pair.value))}",
            pair.value.mark,
            fix=_HOW,
        )
        return
    if kind == "none":
        if given is None:
            found["step_cache"] = None
        else:
            binder.say(
                "bad-setting",
                f"{what[:-1]}.none' takes no options",
                mark,
                fix="write step_cache: none",
            )
        return
    known = STEP_CACHES.get(kind)
    if known is None:
        binder.say(
            "bad-setting",
            f"{what} has no kind '{kind}'",
            mark,
            fix=binder.nearest(kind, ("none", *STEP_CACHES), what="kinds are"),
        )
        return
    options = _options(binder, f"{what[:-1]}.{kind}", known, given)
    if options is None:
        return
    if (needed := _NEEDED.get(kind)) is not None and needed not in options:
        binder.say("missing-key", f"{what[:-1]}.{kind}' needs '{needed}'", mark)
        return
    found["step_cache"] = StepCache(
        kind,
        tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(options.items())
        ),
    )


def _options(
    binder: Binder, what: str, known: dict[str, PortType], given: Pair | None
) -> dict[str, Any] | None:
    """Read the options of a kind; None if one is wrong (the problem is recorded)."""
    if given is None:
        return {}
    found: dict[str, Any] = {}
    written = given.value.value
    pairs = written if isinstance(written, dict) else {next(iter(known)): given}
    for name, pair in pairs.items():
        if name not in known:
            binder.say(
                "unknown-key",
                f"{what}' has no option '{name}'",
                pair.key.mark,
                fix=binder.nearest(name, known, what="options are"),
            )
            continue
        try:
            value = known[name].check(plain(pair.value))
            if name.endswith("timestep_skip_range"):
                _check_bounds(value)
            elif name == "mag_ratios" and not value:
                raise BadValue("takes at least one ratio")
            found[name] = value
        except BadValue as error:
            binder.say("bad-literal", f"{what}.{name}' {error}", pair.value.mark)
    return found if len(found) == len(pairs) else None


def _check_bounds(value: list[int]) -> None:
    """Refuse bounds between which there is no time step: such a cache would do nothing."""
    if len(value) != 2:
        raise BadValue(f"takes two time steps, a lower and an upper one, not {len(value)}")
    if value[0] >= value[1]:
        raise BadValue(f"takes a lower and an upper time step, not {value[0]} and {value[1]}")
