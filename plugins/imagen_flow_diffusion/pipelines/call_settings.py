"""Follow the settings that act on calls, and leave no trace: the networks are shared, and a later
call must find them as they were loaded, also after one that failed or was stopped.

Each setting is a context manager; `_SETTINGS` lists them all.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from imagen_flow.loaders import Loading

from ..checkpoints.abilities import SKIPPING

_ABSENT = object()


def called_with(settings: Loading, pipeline: Any) -> Any:
    """Return a pipeline that `as_set` calls as the settings say."""
    pipeline.imagen_flow_settings = settings
    return pipeline


@contextmanager
def as_set(pipeline: Any, steps: int) -> Iterator[None]:
    """Prepare the networks of a pipeline as its settings say, for one call. Whoever calls holds
    them alone.

    Params:
        steps: how many denoising steps the call asks for.
    Raises:
        ValueError: this pipeline cannot follow a setting.
    """
    settings = getattr(pipeline, "imagen_flow_settings", Loading())
    with ExitStack() as prepared:
        for name, prepare in _SETTINGS.items():
            if (value := getattr(settings, name)) is not None:
                prepared.enter_context(prepare(pipeline, value, steps))
        yield


@contextmanager
def _attending(pipeline: Any, name: str, steps: int) -> Iterator[None]:
    """Let the denoisers attend by an implementation of diffusers.

    Source: diffusers' ``set_attention_backend``, which also changes the default of the whole
        process; so each processor is told here, and told what it was before.
    """
    from diffusers.models import attention_dispatch

    backend = attention_dispatch.AttentionBackendName(name)
    try:
        attention_dispatch._check_attention_backend_requirements(backend)
    except RuntimeError as error:  # a package is too old
        raise ValueError(f"attention: diffusers/{name} cannot be used: {error}") from error
    before = [
        (vars(processor), vars(processor).get("_attention_backend", _ABSENT))
        for network in _denoisers(pipeline)
        for layer in network.modules()
        if hasattr(processor := getattr(layer, "processor", None), "_attention_backend")
    ]
    if not before:
        raise ValueError(
            f"attention: diffusers/{name} is not for {type(pipeline).__name__}: its layers do not"
            " ask diffusers for their attention"
        )
    try:
        for processor, _ in before:
            processor["_attention_backend"] = backend
        yield
    finally:
        for processor, was in before:
            if was is _ABSENT:  # the class has it
                del processor["_attention_backend"]
            else:
                processor["_attention_backend"] = was


def _denoisers(pipeline: Any) -> list[Any]:
    from diffusers.models.modeling_utils import ModelMixin

    return [
        part
        for name, part in pipeline.components.items()
        if isinstance(part, ModelMixin) and name.startswith(("transformer", "unet", "prior"))
    ]


@contextmanager
def _step_caching(pipeline: Any, cache: Any, steps: int) -> Iterator[None]:
    """Let the denoisers take over what they computed in earlier steps.

    Source: diffusers' ``CacheMixin.enable_cache``. Its ``disable_cache`` leaves its registries
        behind, and hooks too if enabling failed; so hooks are taken off here.
    """
    from diffusers.models.cache_utils import CacheMixin

    name, of = f"step_cache: {cache.kind}", type(pipeline).__name__
    networks = [part for part in _denoisers(pipeline) if isinstance(part, CacheMixin)]
    if not networks:
        raise ValueError(f"{name} is not for {of}: its networks have no step caches")
    if cache.kind == "pyramid":
        if not hasattr(type(pipeline), "current_timestep"):
            raise ValueError(f"{name} is not for {of}, which does not tell at which time it is")
    elif "cache_context(" not in inspect.getsource(sys.modules[type(pipeline).__module__]):
        # Without it, the prompt's steps and the negative prompt's would be taken for one another.
        other = "; pyramid may be" if hasattr(type(pipeline), "current_timestep") else ""
        raise ValueError(
            f"{name} is not for {of}, which does not tell the steps of the prompt from those of the"
            f" negative prompt{other}"
        )
    config = _CACHES[cache.kind](dict(cache.options), pipeline, steps)
    with ExitStack() as put_back:
        for network in networks:
            any_added = put_back.enter_context(_hooks_taken_off(network))
            if cache.kind == "pyramid":
                put_back.enter_context(_one_call_a_step(network, pipeline))
            try:
                network.enable_cache(config)
            except (ValueError, IndexError) as error:
                why = "diffusers does not know its blocks" if cache.kind in SKIPPING else str(error)
                if isinstance(error, IndexError):
                    why = "it has fewer than two blocks"
                raise ValueError(f"{name} is not for {type(network).__name__}: {why}") from error
            if not any_added():
                raise ValueError(
                    f"{name} is not for {type(network).__name__}: it has no layers of the names"
                    " that diffusers looks for"
                )
        yield


def _first_block(options: dict[str, Any], pipeline: Any, steps: int) -> Any:
    from diffusers.hooks import FirstBlockCacheConfig

    return FirstBlockCacheConfig(**options)


def _taylor_seer(options: dict[str, Any], pipeline: Any, steps: int) -> Any:
    from diffusers.hooks import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(**options)


def _mag(options: dict[str, Any], pipeline: Any, steps: int) -> Any:
    from diffusers.hooks import MagCacheConfig

    ratios = list(options.pop("mag_ratios"))
    return MagCacheConfig(mag_ratios=ratios, num_inference_steps=steps, **options)


def _pyramid(options: dict[str, Any], pipeline: Any, steps: int) -> Any:
    from diffusers.hooks import PyramidAttentionBroadcastConfig

    return PyramidAttentionBroadcastConfig(
        **options, current_timestep_callback=lambda: pipeline.current_timestep
    )


#: The configuration of each kind of step cache.
_CACHES: Mapping[str, Callable[[dict[str, Any], Any, int], Any]] = {
    "first_block": _first_block,
    "mag": _mag,
    "pyramid": _pyramid,
    "taylor_seer": _taylor_seer,
}


@contextmanager
def _hooks_taken_off(network: Any) -> Iterator[Callable[[], bool]]:
    """Take off the hooks of diffusers that were put on meanwhile, with what they keep; give what
    tells whether there are any.
    """
    before = {id(layer): (_hooks(layer), vars(layer).get("forward")) for layer in network.modules()}
    try:
        yield lambda: any(_hooks(layer) != before[id(layer)][0] for layer in network.modules())
    finally:
        vars(network).pop("_cache_config", None)
        for layer in network.modules():
            hooks, forward = before[id(layer)]
            if (now := _hooks(layer)) is None:
                continue
            for name in reversed(now):
                if name not in (hooks or ()):
                    layer._diffusers_hook.remove_hook(name, recurse=False)
            layer._diffusers_hook._child_registries_cache = None
            if hooks is None:
                del layer._diffusers_hook
                if forward is None:
                    vars(layer).pop("forward", None)


def _hooks(layer: Any) -> tuple[str, ...] | None:
    """Name the hooks of diffusers on a layer, in order; None if it never had any."""
    registry = vars(layer).get("_diffusers_hook")
    return tuple(registry._hook_order) if registry is not None else None


@contextmanager
def _one_call_a_step(network: Any, pipeline: Any) -> Iterator[None]:
    """Refuse a pipeline that calls its network for the prompt and for the negative prompt: Pyramid
    Attention Broadcast would give the attention of the one to the other.
    """
    last: list[Any] = []

    def check(*_given: Any) -> None:
        now = pipeline.current_timestep
        if last and last[0] is now:
            raise ValueError(
                "step_cache: pyramid does not go with guidance here: the network is called for the"
                " prompt and for the negative prompt, and diffusers would mix their attention; take"
                " another cache, or draw without guidance"
            )
        last[:] = [now]

    handle = network.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


#: How each setting that acts on calls is followed.
_SETTINGS: Mapping[str, Callable[[Any, Any, int], AbstractContextManager[None]]] = {
    "of_diffusers": _attending,
    "step_cache": _step_caching,
}
