"""Lease the models that a step needs and call it; if memory runs out, fall back as far as its
policy allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from .._types.models import PLAIN, Loader, Loading, Model
from ..errors import ModelError
from .attention import attending
from .oom import give_back, is_out_of_memory
from .pool import ModelPool, check_support, effective_settings, leaves

__all__ = ["lend_and_call"]

T = TypeVar("T")

#: FallbackLevels for which models are loaded anew, and what they are loaded with.
_RELOADED = {"offload": "model", "stream": "layers"}


def lend_and_call(
    pool: ModelPool,
    wanted: Mapping[str, tuple[Loader[Any], Model | Sequence[Model]]],
    call: Callable[[dict[str, Any], tuple[str, ...]], T],
    *,
    device: str,
    dtype: str,
    settings: Loading = PLAIN,
    levels: Sequence[str] = ("evict",),
    steps_down: bool = False,
    loading: Callable[[str], None] | None = None,
    left_changed: Callable[[str], object] | None = None,
) -> tuple[T, tuple[str, ...]]:
    """Lease models, call, and if memory runs out, try again on the next level that can help.

    Params:
        wanted: loader and model, or list of models, by port.
        call: gets the loaded models by port, and the levels reached so far. It must keep no
            reference to the models.
        levels: that the policy allows, in order.
        steps_down: whether `call` itself acts on levels (``slice``, ``tile``).
        loading: told of each model that has to be loaded first, by its reference.
        left_changed: told what of a model is not as it was lent, after the call.
    Outputs: what `call` returned, and the levels that were needed.
    Raises: what `call` or the loading raised, if no level is left, or if memory was not the
        cause.
    """
    left: list[str] | None = None
    reached: tuple[str, ...] = ()
    attention = (
        settings.attention
        if settings != PLAIN
        and settings.of_diffusers is None
        and any(
            effective_settings(loader, settings).attention != "auto"
            for loader, _ in _loaders(wanted)
        )
        else "auto"
    )
    while True:
        with ExitStack() as leases:
            lent: dict[str, Any] | None = None
            while True:
                failure: Exception | None = None
                try:
                    if lent is None:
                        lent = _lend(
                            pool,
                            leases,
                            wanted,
                            device,
                            _dtype(dtype, device, reached),
                            _settings(settings, reached),
                            loading,
                            left_changed,
                        )
                    with attending(attention):
                        return call(dict(lent), reached), reached
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    if left is None:
                        loaders = _loaders(wanted)
                        left = [
                            level
                            for level in levels
                            if _helps(level, loaders, device, dtype, settings, steps_down)
                        ]
                    if not left:
                        raise
                    failure = error
                # The traceback holds the failed call's tensors: it must be gone before anything is
                # freed.
                del failure
                reached += (left.pop(0),)
                if lent is None or reached[-1] in _RELOADED or reached[-1] == "half":
                    break
                if not pool.evict_idle():
                    give_back()
            lent = None
        if not pool.evict_idle():
            give_back()


def _lend(
    pool: ModelPool,
    leases: ExitStack,
    wanted: Mapping[str, tuple[Loader[Any], Model | Sequence[Model]]],
    device: str,
    dtype: str,
    settings: Loading,
    loading: Callable[[str], None] | None,
    left_changed: Callable[[str], object] | None,
) -> dict[str, Any]:
    lent: dict[str, Any] = {}
    for name, (loader, models) in wanted.items():
        held = [
            leases.enter_context(
                pool.lease(
                    loader,
                    model,
                    device=device,
                    dtype=dtype,
                    settings=settings,
                    loading=loading,
                    left_changed=_telling(model, left_changed),
                )
            )
            for model in _listed(models)
        ]
        lent[name] = held[0] if isinstance(models, Model) else held
    return lent


def _telling(
    model: Model, left_changed: Callable[[str], object] | None
) -> Callable[[str], object] | None:
    return (
        None
        if left_changed is None
        else lambda what: left_changed(f"the model '{model.reference or model.path.name}' ({what})")
    )


def _helps(
    level: str,
    loaders: Sequence[tuple[Loader[Any], Model]],
    device: str,
    dtype: str,
    settings: Loading,
    steps_down: bool,
) -> bool:
    """Tell whether a level changes anything for these loaders, and they support it."""
    if level in _RELOADED:
        offloaded = settings._replace(offload=_RELOADED[level])
        further = settings.offload == "none" or (settings.offload, level) == ("model", "stream")
        return (
            device != "cpu"
            and further
            and any(
                effective_settings(loader, offloaded) != effective_settings(loader, settings)
                for loader, _ in loaders
            )
            and _is_supported(loaders, device, dtype, offloaded)
        )
    if level == "half":
        return dtype == "float32" and bool(loaders)
    return level == "evict" or steps_down


def _is_supported(
    loaders: Sequence[tuple[Loader[Any], Model]], device: str, dtype: str, settings: Loading
) -> bool:
    try:
        for loader, model in loaders:
            check_support(loader, model, device=device, dtype=dtype, settings=settings)
    except ModelError:
        return False
    return True


def _settings(settings: Loading, reached: Sequence[str]) -> Loading:
    offloads = [_RELOADED[level] for level in reached if level in _RELOADED]
    return settings._replace(offload=offloads[-1]) if offloads else settings


def _dtype(dtype: str, device: str, reached: Sequence[str]) -> str:
    return (
        dtype if "half" not in reached else "float16" if device.startswith("cuda") else "bfloat16"
    )


def _listed(models: Model | Sequence[Model]) -> Sequence[Model]:
    return [models] if isinstance(models, Model) else models


def _loaders(
    wanted: Mapping[str, tuple[Loader[Any], Model | Sequence[Model]]],
) -> list[tuple[Loader[Any], Model]]:
    return [
        (leaf, model)
        for loader, models in wanted.values()
        for model in _listed(models)
        for leaf in leaves(loader, model)
    ]
