"""Choose a sampler by the name that diffusers gives it."""

from __future__ import annotations

import difflib
from typing import Any


def choose(pipeline: Any, sampler: str | None, settings: dict[str, Any] | None) -> None:
    """Give a pipeline another sampler, or its own with other settings, made from its own sampler's configuration.

    Params:
        sampler: a class of diffusers, with or without ``Scheduler``: ``EulerAncestralDiscrete``; None keeps the checkpoint's.
        settings: of its configuration: ``{use_karras_sigmas: true}``.
    Raises:
        ValueError: there is none of that name, it does not fit the model, or it has no such setting.
    """
    import diffusers.schedulers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    if not sampler and not settings:
        return
    own = pipeline.scheduler
    cls = type(own)
    if sampler:
        known = {name: found for name, found in vars(diffusers.schedulers).items() if _is_sampler(found, SchedulerMixin)}
        fitting = {name: known[name] for name in sorted({type(own).__name__, *own._compatibles}) if name in known}
        found = known.get(sampler) or known.get(f"{sampler}Scheduler")
        if found is None or found.__name__ not in fitting:
            what = "is no sampler of diffusers" if found is None else f"does not fit a model made for {type(own).__name__}"
            close = difflib.get_close_matches(sampler, fitting, n=1, cutoff=0.7)
            hint = f"did you mean '{close[0]}'?" if close else f"these do: {', '.join(fitting)}"
            raise ValueError(f"'{sampler}' {what}; {hint}")
        cls = found
    settings = settings or {}
    if strange := sorted(settings.keys() - set(cls._get_init_keys(cls))):
        raise ValueError(f"{cls.__name__} has no setting {' and no '.join(strange)}; it has: {', '.join(sorted(cls._get_init_keys(cls) - {'self', 'kwargs'}))}")
    pipeline.scheduler = cls.from_config(own.config, **settings)


def _is_sampler(found: Any, mixin: Any) -> bool:
    return isinstance(found, type) and issubclass(found, mixin) and found is not mixin
