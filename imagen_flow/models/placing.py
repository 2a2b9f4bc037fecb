"""Put a loaded module where it is to run: on the device, or offloaded, so that it takes the device's memory only while it computes. The pixels are the same either way."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from ..values import PLAIN, Loading

__all__ = ["place_module"]


class _Turns:
    """Whose turn it is on each device: of the modules that wait on the host, one has its weights there at a time. A device is one for the whole process, and so is this."""

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
    """Put a torch module that is on the host where it is to run, as `settings.offload` says, compile it if they say so, and give it back.

    Offloaded modules carry accelerate's hooks, by which the pipelines of diffusers know the device that they run on (``_hf_hook.execution_device``); their parameters are elsewhere.
    Source: accelerate's ``cpu_offload`` for layers, a ``ModelHook`` of its kind for whole modules.
    """
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
            return send_to_device(args, self.execution_device), send_to_device(given, self.execution_device)

    add_hook_to_module(module, Waiting(), append=True)
    return module
