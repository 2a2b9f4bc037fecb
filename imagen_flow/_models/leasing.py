"""Lend a step the models that it wants and call it; when memory runs out, step down as far as its
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
_ANEW = {"offload": "model", "stream": "layers"}


def lend_and_call(
    pool: ModelPool,
    wanted: Mapping[str, tuple[Loader[Any], Model | Sequence[Model]]],
    call: Callable[[dict[str, Any], tuple[str, ...]], T],
    *,
    device: str,
    dtype: str,
    settings: Loading = PLAIN,
    rungs: Sequence[str] = ("evict",),
    steps_down: bool = False,
    loading: Callable[[str], None] | None = None,
    left_changed: Callable[[str], object] | None = None,
) -> tuple[T, tuple[str, ...]]:
    """Lease models, call, and if memory runs out try again on the next rung that can help.

    Params:
        wanted: loader and model, or list of models, by port.
        call: gets the loaded models by port, and the rungs taken so far. It must keep no reference
            to the models.
        rungs: that the policy allows, in order.
        steps_down: whether `call` itself acts on rungs (``slice``, ``tile``).
        loading: told of each model that has to be loaded first, by its reference.
        left_changed: told what of a model is not as it was lent, after the call.
    Outputs: what `call` gave, and the rungs that were taken for it.
    Raises: what `call` or the loading raised, when no rung is left, or when it was not for want of
        memory.
    """
    left: list[str] | None = None
    taken: tuple[str, ...] = ()
    attention = (
        settings.attention
        if settings != PLAIN
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
                            _dtype(dtype, device, taken),
                            _settings(settings, taken),
                            loading,
                            left_changed,
                        )
                    with attending(attention):
                        return call(dict(lent), taken), taken
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    if left is None:
                        loaders = _loaders(wanted)
                        left = [
                            rung
                            for rung in rungs
                            if _helps(rung, loaders, device, dtype, settings, steps_down)
                        ]
                    if not left:
                        raise
                    failure = error
                # The traceback holds the failed call's tensors: it must be gone before anything is
                # freed.
                del failure
                taken += (left.pop(0),)
                if lent is None or taken[-1] in _ANEW or taken[-1] == "half":
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
    rung: str,
    loaders: Sequence[tuple[Loader[Any], Model]],
    device: str,
    dtype: str,
    settings: Loading,
    steps_down: bool,
) -> bool:
    """Whether a rung changes anything for these loaders, and they can take it."""
    if rung in _ANEW:
        offloaded = settings._replace(offload=_ANEW[rung])
        further = settings.offload == "none" or (settings.offload, rung) == ("model", "stream")
        return (
            device != "cpu"
            and further
            and any(
                effective_settings(loader, offloaded) != effective_settings(loader, settings)
                for loader, _ in loaders
            )
            and _is_supported(loaders, device, dtype, offloaded)
        )
    if rung == "half":
        return dtype == "float32" and bool(loaders)
    return rung == "evict" or steps_down


def _is_supported(
    loaders: Sequence[tuple[Loader[Any], Model]], device: str, dtype: str, settings: Loading
) -> bool:
    try:
        for loader, model in loaders:
            check_support(loader, model, device=device, dtype=dtype, settings=settings)
    except ModelError:
        return False
    return True


def _settings(settings: Loading, taken: Sequence[str]) -> Loading:
    offloads = [_ANEW[rung] for rung in taken if rung in _ANEW]
    return settings._replace(offload=offloads[-1]) if offloads else settings


def _dtype(dtype: str, device: str, taken: Sequence[str]) -> str:
    return dtype if "half" not in taken else "float16" if device.startswith("cuda") else "bfloat16"


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
