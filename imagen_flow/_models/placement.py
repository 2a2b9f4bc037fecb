"""Put a loaded module where it is to run: on the device, or offloaded, so that it takes the
device's memory only while it computes. The pixels are the same either way.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .._types.models import PLAIN, Loading
from ..errors import ModelError

__all__ = ["at_rest", "place_module"]


class _Turns:
    """Whose turn it is on each device: of the modules that wait on the host, one has its weights
    there at a time. A device is one for the whole process, and so is this.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.at: dict[str, weakref.ref[Any]] = {}

    def take(self, module: Any, device: str) -> None:
        """Bring a module to the device, and the one that was there back to the host."""
        with self.lock:
            before = self.at.get(device)
            other = before() if before is not None else None
            if other is not None and other is not module:
                other.to("cpu")
            if other is not module:
                module.to(device)
                self.at[device] = weakref.ref(module)


_TURNS = _Turns()


def place_module(module: Any, *, device: str, settings: Loading = PLAIN) -> Any:
    """Put a torch module where it is to run, as `settings.offload` says, compile it if they say so,
    and give it back.

    Offloaded modules carry accelerate's hooks, by which the pipelines of diffusers know the device
    that they run on (``_hf_hook.execution_device``); their parameters are elsewhere.
    Source: accelerate's ``cpu_offload`` for layers, a ``ModelHook`` of its kind for whole modules.
    """
    if settings.offload == "groups" or settings.compile == "regional":
        asked = "offload: groups" if settings.offload == "groups" else "compile: regional"
        raise ModelError(f"{asked} is for models of diffusers; {type(module).__name__} is not one")
    if settings.compile:
        module.compile()
    if device == "cpu" or settings.offload == "none":
        return module.to(device)
    import torch
    from accelerate import cpu_offload
    from accelerate.hooks import ModelHook, add_hook_to_module
    from accelerate.utils import send_to_device

    if settings.offload == "layers":
        cpu_offload(module, torch.device(device), offload_buffers=True)
        return module

    class Waiting(ModelHook):  # type: ignore[misc]  # accelerate is untyped
        execution_device = torch.device(device)

        def pre_forward(self, module: Any, *args: Any, **given: Any) -> Any:
            _TURNS.take(module, device)
            return send_to_device(args, self.execution_device), send_to_device(
                given, self.execution_device
            )

    if any(weight.device.type not in ("cpu", "meta") for weight in module.parameters()):
        module.to("cpu")  # it was quantized where it will run, and has no turn there yet
    add_hook_to_module(module, Waiting(), append=True)
    return module


@contextmanager
def at_rest(modules: Iterable[Any]) -> Iterator[None]:
    """Keep the layers of offloaded modules on the host for as long as the context lasts, so that
    layers can be put on and taken off; afterwards all that are there then come and go as before.

    Whoever calls holds the modules alone. Those that come as a whole, or do not wait at all, are
    left where they are.
    """
    from accelerate import cpu_offload
    from accelerate.hooks import AlignDevicesHook, remove_hook_from_submodules

    streamed: list[tuple[Any, Any]] = []
    for module in modules:
        hooks = (
            (getattr(part, "_hf_hook", None) for part in module.modules())
            if hasattr(module, "modules")
            else ()
        )
        device = next(
            (
                hook.execution_device
                for hook in hooks
                if isinstance(hook, AlignDevicesHook) and hook.offload
            ),
            None,
        )
        if device is not None:
            remove_hook_from_submodules(module)
            streamed.append((module, device))
    try:
        yield
    finally:
        for module, device in streamed:
            cpu_offload(module, device, offload_buffers=True)
