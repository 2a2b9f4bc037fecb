"""Choose a sampler by the name that diffusers gives it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
"""What samplers of both kinds of models need for those that predict a flow."""


def choose(pipeline: Any, sampler: str | None, settings: dict[str, Any] | None) -> None:
    """Give a pipeline another sampler, or its own with other settings, made from its own sampler's configuration.

    Params:
        sampler: a class of diffusers, with or without ``Scheduler``: ``EulerAncestralDiscrete``; None keeps the checkpoint's.
        settings: of its configuration: ``{use_karras_sigmas: true}``.
    Raises:
        ValueError: there is none of that name, it does not fit the model, it has no such setting, or it needs a library that is missing; or the settings are no mapping.
    """
    if settings is not None and not isinstance(settings, dict):
        raise ValueError("its 'sampler_settings' takes a mapping of names to values")
    if not sampler and not settings:
        return
    own, settings = pipeline.scheduler, settings or {}
    cls = _named(sampler, own, settings) if sampler else type(own)
    if strange := sorted(settings.keys() - set(cls._get_init_keys(cls))):
        raise ValueError(f"{cls.__name__} has no setting {' and no '.join(strange)}; it has: {', '.join(sorted(cls._get_init_keys(cls) - {'self', 'kwargs'}))}")
    pipeline.scheduler = cls.from_config(own.config, **settings)


def _named(sampler: str, own: Any, settings: Mapping[str, Any]) -> Any:
    every = _samplers()
    found = every.get(sampler) or every.get(f"{sampler}Scheduler")
    if lacking := [library for library in getattr(found, "_backends", ()) if library != "torch"]:
        raise ValueError(f"'{sampler}' needs {' and '.join(lacking)}, which is not installed: pip install {' '.join(lacking)}")
    if found is not None and _fits(found, own, settings):
        return found
    fitting = sorted(name for name, cls in every.items() if not hasattr(cls, "_backends") and _fits(cls, own, settings))
    hint = f"these do: {', '.join(fitting)}"
    if _is_flow(own) and (more := sorted(name for name, cls in every.items() if _flows(cls) and name not in fitting)):
        hint += f"; with the sampler_settings {{prediction_type: flow_prediction, use_flow_sigmas: true}} also: {', '.join(more)}"
    if found is not None:
        raise ValueError(f"'{sampler}' does not fit a model made for {type(own).__name__}; {hint}")
    stems = {name.removesuffix("Scheduler").lower(): name for name in fitting}
    said = "".join(c for c in sampler.lower().removesuffix("scheduler") if c.isalnum())
    begun = [stem for stem in stems if stem.startswith(said)] or [stem for stem in stems if said in stem]
    close = sorted(begun, key=len)[:1] if said else []
    close = close or difflib.get_close_matches(said, stems, n=1, cutoff=0.7)
    raise ValueError(f"'{sampler}' is no sampler of diffusers; " + (f"did you mean '{stems[close[0]]}'?" if close else hint))


def _samplers() -> dict[str, Any]:
    """Give the samplers that diffusers exports, by name; those that lack a library say so in ``_backends``."""
    import diffusers.schedulers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = {name: getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers) if name.endswith("Scheduler")}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and (issubclass(cls, SchedulerMixin) or hasattr(cls, "_backends"))}


def _fits(cls: Any, own: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a sampler can take the place of a checkpoint's own, with these settings."""
    if cls is type(own):
        return True
    if not _steps(cls):
        return False
    if _is_flow(own):
        merged = {**own.config, **settings}
        return cls.__name__.startswith("FlowMatch") or (_flows(cls) and all(merged.get(name) == value for name, value in FLOW.items()))
    # Either says that it can take the other's configuration, or both have noise schedules of betas: some say nothing.
    named = cls.__name__ in own._compatibles or type(own).__name__ in cls._compatibles
    return named or all({"beta_schedule", "beta_start"} <= set(one._get_init_keys(one)) for one in (cls, type(own)))


def _steps(cls: Any) -> bool:
    """Whether a sampler goes from noise to a picture by steps as pipelines take them: of itself, what the model gave, the time and what it saw. Some want more, some have none."""
    step = getattr(cls, "step", None)
    if step is None or "Inverse" in cls.__name__:
        return False
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(step).parameters.values()) == 4


def _is_flow(own: Any) -> bool:
    """Whether a checkpoint's own sampler says that its model predicts a flow."""
    return type(own).__name__.startswith("FlowMatch") or own.config.get("prediction_type") == "flow_prediction"


def _flows(cls: Any) -> bool:
    """Whether a sampler serves models of both kinds."""
    return not hasattr(cls, "_backends") and _steps(cls) and {"use_flow_sigmas", "beta_schedule", "use_karras_sigmas"} <= set(cls._get_init_keys(cls))
