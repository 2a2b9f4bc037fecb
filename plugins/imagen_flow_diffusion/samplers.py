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
    if not sampler and not settings:
        return
    own = pipeline.scheduler
    cls = type(own)
    if sampler:
        found = next((known for name in (sampler, f"{sampler}Scheduler") if (known := _sampler(name)) is not None), None)
        if found is None or not _fits(found, cls):
            what = "is no sampler of diffusers" if found is None else f"does not fit a model made for {cls.__name__}"
            fitting = sorted({cls.__name__, *cls._compatibles})
            close = difflib.get_close_matches(sampler, fitting, n=1, cutoff=0.7)
            hint = f"did you mean '{close[0]}'?" if close else f"these do: {', '.join(fitting)}"
            raise ValueError(f"'{sampler}' {what}; {hint}")
        cls = found
    settings = settings or {}
    if strange := sorted(settings.keys() - set(cls._get_init_keys(cls))):
        raise ValueError(f"{cls.__name__} has no setting {' and no '.join(strange)}; it has: {', '.join(sorted(cls._get_init_keys(cls) - {'self', 'kwargs'}))}")
    pipeline.scheduler = cls.from_config(own.config, **settings)


def _sampler(name: str) -> Any:
    import diffusers.schedulers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = getattr(diffusers.schedulers, name, None) if name.isidentifier() else None
    return found if isinstance(found, type) and issubclass(found, SchedulerMixin) and found is not SchedulerMixin else None


def _fits(one: Any, other: Any) -> bool:
    """Whether either says that it can take the other's configuration, or both have noise schedules of betas: some say nothing."""
    named = one.__name__ in other._compatibles or other.__name__ in one._compatibles
    return one is other or named or all("beta_schedule" in cls._get_init_keys(cls) for cls in (one, other))
