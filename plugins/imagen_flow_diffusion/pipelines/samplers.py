"""Choose a sampler by its name in diffusers.

A class of diffusers that is made from another sampler's configuration silently drops settings that
it does not have, uses its own defaults for those that the configuration lacks, and knows no other
name for a setting. So this module decides which classes end at the image that the model predicts,
which of the checkpoint's settings are carried over, and which are lost.

Measured with a model whose prediction is exact, on all classes (the tests have the table): the last
step ends at the image, or off by the noise of the schedule's first step (0.035 at most) where a
class ends there; for a flow within 0.005. `DEISMultistepScheduler` and `SASolverScheduler` leave a
quarter of the noise of 4 steps in the images of flow models, since they never reach sigma 0.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
"""The settings that samplers for both kinds of models need for those that predict a flow."""

UNFINISHED = ("DEISMultistepScheduler", "SASolverScheduler")
"""Samplers for both kinds that leave noise in the images of flow models."""

READS_NO_SAMPLE = (
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
)
"""Samplers that do not support models which predict the clean image."""

TRAINED = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "num_train_timesteps",
    "prediction_type",
    "rescale_betas_zero_snr",
    "thresholding",
    "clip_sample",
    "clip_sample_range",
    "use_dynamic_shifting",
    "time_shift_type",
    "shift_terminal",
    "base_shift",
    "max_shift",
    "invert_sigmas",
)
"""Settings that describe how a checkpoint was trained. They apply to every sampler, whether the
configuration has them or leaves them to the default of the checkpoint's own sampler.
"""

OFF: dict[str, Any] = {"clip_sample": False, "snr_shift_scale": 1.0}
"""Settings to switch off what classes do by default, if the checkpoint does not have them."""

MISSED: dict[str, Any] = {
    "rescale_betas_zero_snr": False,
    "clip_sample": False,
    "thresholding": False,
    "timestep_spacing": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "shift_terminal": None,
    "stochastic_sampling": False,
}
"""Settings whose loss is reported if a sampler does not have them, and the values at which nothing
is lost.
"""


def set_sampler(pipeline: Any, sampler: str | None, settings: dict[str, Any] | None) -> str:
    """Set a pipeline's sampler, or its settings, starting from the configuration of its own
    sampler; return a note on which of the checkpoint's settings are lost.

    Params:
        sampler: a class of diffusers, with or without ``Scheduler``: ``EulerAncestralDiscrete``;
            None keeps the checkpoint's.
        settings: to change in its configuration: ``{use_karras_sigmas: true}``.
    Raises:
        ValueError: there is no such sampler, it does not fit the model, it has no such setting, it
            needs a library that is missing, or the settings are not a mapping.
    """
    if settings is not None and not isinstance(settings, dict):
        raise ValueError("its 'sampler_settings' must be a mapping of names to values")
    if not sampler and not settings:
        return ""
    own, settings = pipeline.scheduler, settings or {}
    cls = _named(sampler, own, settings, type(pipeline)) if sampler else type(own)
    known = cls._get_init_keys(cls)
    if strange := sorted(settings.keys() - set(known)):
        raise ValueError(
            f"{cls.__name__} has no setting {' and no '.join(strange)}; it has:"
            f" {', '.join(sorted(known - {'self', 'kwargs'}))}"
        )
    if cls is type(own):
        pipeline.scheduler = cls.from_config(own.config, **settings)
        return ""
    # Settings that the class does not know are left out, or diffusers warns of them.
    known_config = {
        name: value for name, value in own.config.items() if name in known or name.startswith("_")
    }
    pipeline.scheduler = cls.from_config(known_config, **{**carried(cls, own), **settings})
    return _lost(cls, own)


def as_trained(own: Any, trained: Mapping[str, Any]) -> Any:
    """Return a checkpoint's sampler with the settings that its denoiser was trained with, as the
    denoiser's file says. A sampler without a setting for zero terminal SNR is replaced by DDIM.

    Params:
        trained: settings of samplers; ``sigma_max`` means that the denoiser works at any noise up
            to it (CosXL).
    """
    if not trained or _is_flow(own):
        return own
    import diffusers

    if "sigma_max" in trained:
        # Source: how diffusers' documentation loads CosXL.
        return diffusers.EDMEulerScheduler(
            **{"sigma_min": 0.002, "sigma_data": 1.0, "sigma_schedule": "exponential", **trained}
        )
    known = own._get_init_keys(type(own))
    if not trained.get("rescale_betas_zero_snr") or "rescale_betas_zero_snr" in known:
        return type(own).from_config(
            own.config, **{name: value for name, value in trained.items() if name in known}
        )
    config = {
        name: value
        for name, value in own.config.items()
        if name in diffusers.DDIMScheduler._get_init_keys(diffusers.DDIMScheduler)
        or name.startswith("_")
    }
    return diffusers.DDIMScheduler.from_config(
        config, **{**carried(diffusers.DDIMScheduler, own), **trained}
    )


def lost_by(sampler: str | None, own: Any) -> str:
    """Return a note on the settings of a checkpoint that another sampler does not have; empty if it
    keeps its own, or there is no such sampler.
    """
    every = _samplers()
    cls = (every.get(sampler) or every.get(f"{sampler}Scheduler")) if sampler else None
    return "" if cls is None or cls is type(own) or hasattr(cls, "_backends") else _lost(cls, own)


def carried(cls: Any, own: Any) -> dict[str, Any]:
    """Return the settings of a checkpoint's own sampler that another class needs besides those that
    diffusers carries over: how the model was trained, under the class's names for it.
    """
    known, config = cls._get_init_keys(cls), own.config
    found = {name: config[name] for name in TRAINED if name in known and name in config}
    found |= {name: value for name, value in OFF.items() if name in known and name not in config}
    for ours, theirs in (("flow_shift", "shift"), ("shift", "flow_shift")):
        if ours in known and theirs in config:
            found[ours] = config[theirs]
    if _is_flow(own) and _flows(cls):
        found |= FLOW
    algorithm = inspect.signature(cls.__init__).parameters.get("algorithm_type")
    if (
        algorithm is not None
        and "algorithm_type" in config
        and "DPMSolver" not in f"{cls.__name__} {type(own).__name__}"
    ):
        found["algorithm_type"] = algorithm.default
    elif algorithm is not None and ("SASolver" in cls.__name__ or "SASolver" in type(own).__name__):
        found["algorithm_type"] = algorithm.default
    return found


def _lost(cls: Any, own: Any) -> str:
    """Return a note on the settings of a checkpoint that another sampler does not have."""
    unsaid = own.config.get("_use_default_values") or ()
    lost = [
        f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
        for name, off in MISSED.items()
        if name not in cls._get_init_keys(cls)
        and (value := own.config.get(name, off)) != off
        and name not in unsaid
    ]
    return (
        f"{cls.__name__} has no setting for what the checkpoint's own sampler says:"
        f" {', '.join(lost)}; the picture may differ from what the model was trained for"
        if lost
        else ""
    )


def _named(sampler: str, own: Any, settings: Mapping[str, Any], asks: Any) -> Any:
    every = _samplers()
    found = every.get(sampler) or every.get(f"{sampler}Scheduler")
    if lacking := [library for library in getattr(found, "_backends", ()) if library != "torch"]:
        raise ValueError(
            f"'{sampler}' needs {' and '.join(lacking)}, which is not installed: pip install"
            f" {' '.join(lacking)}"
        )
    if found is not None and _fits(found, own, settings, asks):
        return found
    fitting = sorted(
        name
        for name, cls in every.items()
        if not hasattr(cls, "_backends") and _fits(cls, own, settings, asks)
    )
    hint = f"these do: {', '.join(fitting)}"
    if found is not None:
        why = (
            " and would leave noise in the picture, for it never reaches sigma 0"
            if _is_flow(own) and found.__name__ in UNFINISHED
            else ""
        )
        raise ValueError(
            f"'{sampler}' does not fit a model made for {type(own).__name__}{why}; {hint}"
        )
    stems = {name.removesuffix("Scheduler").lower(): name for name in fitting}
    wanted_stem = "".join(c for c in sampler.lower().removesuffix("scheduler") if c.isalnum())
    begun = [stem for stem in stems if stem.startswith(wanted_stem)] or [
        stem for stem in stems if wanted_stem in stem
    ]
    close = sorted(begun, key=len)[:1] if wanted_stem else []
    close = close or difflib.get_close_matches(wanted_stem, stems, n=1, cutoff=0.7)
    raise ValueError(
        f"'{sampler}' is not a diffusers sampler; "
        + (f"did you mean '{stems[close[0]]}'?" if close else hint)
    )


def _samplers() -> dict[str, Any]:
    """Return the samplers that diffusers exports, by name. Those whose library is missing have
    ``_backends``.
    """
    import diffusers.schedulers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = {
        name: getattr(diffusers.schedulers, name)
        for name in dir(diffusers.schedulers)
        if name.endswith("Scheduler")
    }
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and (issubclass(cls, SchedulerMixin) or hasattr(cls, "_backends"))
    }


def _fits(cls: Any, own: Any, settings: Mapping[str, Any], asks: Any = None) -> bool:
    """Whether a sampler can replace a checkpoint's own, with these settings, and supports the steps
    that a class of pipelines gives it.
    """
    if cls is type(own):
        return True
    if not _steps(cls) or not _takes_steps(cls, own, asks):
        return False
    if _is_flow(own):
        wanted = {name: settings.get(name, value) for name, value in FLOW.items()}
        return cls.__name__.startswith("FlowMatch") or (
            _flows(cls) and wanted == FLOW and cls.__name__ not in UNFINISHED
        )
    known, config = cls._get_init_keys(cls), own.config
    if "EDM" in f"{cls.__name__} {type(own).__name__}" or (
        config.get("snr_shift_scale", 1.0) != 1.0 and "snr_shift_scale" not in known
    ):
        return False  # the model expects another scale of its input, or another noise schedule
    if config.get("prediction_type") == "sample" and cls.__name__ in READS_NO_SAMPLE:
        return False
    # Either declares that it is compatible with the other, or both have noise schedules of betas:
    # some declare nothing.
    named = cls.__name__ in own._compatibles or type(own).__name__ in cls._compatibles
    return named or all(
        {"beta_schedule", "beta_start"} <= set(one._get_init_keys(one)) for one in (cls, type(own))
    )


def _steps(cls: Any) -> bool:
    """Whether a sampler's step takes what pipelines give it: the model's output, the time and the
    input. Some need more, some have no step.
    """
    step = getattr(cls, "step", None)
    if step is None or "Inverse" in cls.__name__:
        return False
    return (
        sum(
            p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
            for p in inspect.signature(step).parameters.values()
        )
        == 4
    )


def _takes_steps(cls: Any, own: Any, asks: Any) -> bool:
    """Whether a sampler supports the steps that a class of pipelines sets: sigmas of its own, and a
    shift that depends on the image's size (``mu``).
    """
    if not _is_flow(own) or cls.__name__ in (
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchLCMScheduler",
    ):
        return True
    takes = inspect.signature(cls.set_timesteps).parameters
    by_size = own.config.get("use_dynamic_shifting")
    if by_size and (
        "mu" not in takes
        or (own.config.get("time_shift_type") == "linear" and "DPMSolver" in cls.__name__)
    ):
        return False
    try:
        source = re.sub(r"(?m)^ *#.*$", "", inspect.getsource(asks))
    except (TypeError, OSError):
        return True
    if "scheduler.scale_noise(" in source and not hasattr(cls, "scale_noise"):
        return False
    gives_sigmas = re.search(
        r"\bsigmas = .*(np\.linspace|get_default)", source
    ) is not None and not (_flows(cls) and "use_flow_sigmas" in source)
    gives_more = (
        re.search(r"timesteps, sigmas, mu=mu|sigmas = get_default", source) is not None
    )  # times besides, or a list where an array is wanted
    if gives_more or (gives_sigmas and "sigmas" not in takes):
        return False
    # Classes that take a shift by size refuse it if the checkpoint does not ask for one, except
    # those that take sigmas too.
    always = re.search(r"\bmu=mu\b", source) is not None
    return not always or bool(by_size) or "sigmas" in takes


def _is_flow(own: Any) -> bool:
    """Whether the model predicts a flow, by the checkpoint's own sampler."""
    return (
        type(own).__name__.startswith("FlowMatch")
        or own.config.get("prediction_type") == "flow_prediction"
    )


def _flows(cls: Any) -> bool:
    """Whether a sampler supports models of both kinds."""
    return (
        not hasattr(cls, "_backends")
        and _steps(cls)
        and {"use_flow_sigmas", "beta_schedule", "use_karras_sigmas"}
        <= set(cls._get_init_keys(cls))
    )
