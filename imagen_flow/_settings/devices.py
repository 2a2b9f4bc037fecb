"""Choose device and dtype before torch is imported, hold torch to the choice, and record what it
ran on.

The choice enters every key of a node that uses torch, and `plan` computes keys without torch: so
the device is found by looking at the installed torch from
outside and by asking the driver library. When a run has imported torch, `check` compares; a run
whose torch disagrees refuses to start,
because its results would be stored under a key that is not theirs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .._types.models import PLAIN, Loading
from ..errors import ModelError, nearest

__all__ = [
    "ATTENTIONS",
    "DTYPES",
    "LADDERS",
    "OFFLOADS",
    "PIXEL_EXACT",
    "QUANTIZATIONS",
    "QUANTIZERS",
    "Machine",
    "Policy",
    "check",
    "compute_capability",
    "conditions",
    "determinism_class",
    "look",
    "resolve_device",
    "resolve_dtype",
    "switches_held",
]

DTYPES = ("float32", "float16", "bfloat16")

#: Rungs of the memory ladder that do not change a pixel, and so are allowed unless the user says
# otherwise.
PIXEL_EXACT = ("evict", "offload", "stream")

#: How far down the ladder a step may go, by the word for it in ``settings:``. The rungs are taken
# in this order.
LADDERS = {
    "none": (),
    "exact": PIXEL_EXACT,
    "slice": (*PIXEL_EXACT, "slice"),
    "tile": (*PIXEL_EXACT, "slice", "tile"),
    "half": (*PIXEL_EXACT, "slice", "tile", "half"),
}

#: The library that quantizes so; what it makes of weights is its version's, which enters keys.
QUANTIZERS = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes", "float8": "torchao"}

# The closed lists of what `Loading` takes.
QUANTIZATIONS = ("none", *QUANTIZERS)
OFFLOADS = ("none", "model", "layers")
ATTENTIONS = ("auto", "math", "flash", "efficient", "cudnn")

#: What other programs call devices.
_ALSO_CALLED = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "metal": "mps",
    "apple": "mps",
    "m1": "mps",
    "processor": "cpu",
}
#: What dtypes are called elsewhere.
_DTYPES_ALSO_CALLED = {
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "full": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}

_DEVICE = re.compile(r"cuda(:(0|[1-9][0-9]{0,3}))?\Z")


@dataclass(frozen=True, slots=True)
class Machine:
    """What can be known of this machine without torch. `cuda_devices` is called only when the
    answer matters: it wakes the driver.
    """

    system: str
    processor: str
    #: ``cpu``, ``cuda``, or ``none`` where torch is not installed. (A torch for macOS is ``cpu``
    # here: Metal is part of every one.)
    torch_build: str
    cuda_devices: Callable[[], int]

    @property
    def has_metal(self) -> bool:
        return self.torch_build != "none" and self.system == "Darwin" and self.processor == "arm64"


def look() -> Machine:
    """Look at this machine."""
    return Machine(platform.system(), platform.machine(), _torch_build(), _count_cuda_devices)


def _torch_build() -> str:
    # By the libraries beside the package: a version's label is missing on wheels from PyPI, which
    # hold CUDA for Linux and none for Windows, and reading it costs
    # more than looking.
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "none"
    libraries = Path(spec.origin).parent / "lib"
    return (
        "cuda"
        if any((libraries / name).exists() for name in ("libtorch_cuda.so", "torch_cuda.dll"))
        else "cpu"
    )


def _count_cuda_devices() -> int:
    """Ask the driver how many devices it shows to this process (it heeds CUDA_VISIBLE_DEVICES)."""
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _cuda_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def compute_capability(device: str) -> tuple[int, int] | None:
    """Ask the driver what a CUDA device can do, as (major, minor). None for other devices, and
    where it cannot be known.
    """
    kind, _, index = device.partition(":")
    driver = _cuda_driver() if kind == "cuda" else None
    handle, found = ctypes.c_int(0), (ctypes.c_int(0), ctypes.c_int(0))
    if (
        driver is None
        or driver.cuInit(0) != 0
        or driver.cuDeviceGet(ctypes.byref(handle), int(index or 0)) != 0
    ):
        return None
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    for number, attribute in zip(found, (75, 76), strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle) != 0:
            return None
    return found[0].value, found[1].value


def nearest_device(word: str) -> str:
    """Say how to mend what is no device: what it is called here, the nearest word, or the list.

    >>> nearest_device("gpu:1")
    "did you mean 'cuda:1'?"
    """
    kind, colon, index = word.strip().lower().partition(":")
    if kind in _ALSO_CALLED:
        return (
            "did you mean"
            f" '{_ALSO_CALLED[kind]}{colon + index if index.isdecimal() and _ALSO_CALLED[kind] == 'cuda' else ''}'?"
        )
    near = nearest(word, ("auto", "cpu", "cuda", "mps"))
    return near if near.startswith("did") else "one of: auto, cpu, cuda, cuda:N, mps"


def nearest_dtype(word: str) -> str:
    """Say how to mend what is not a dtype: what it is called here, the nearest word, or the list.

    >>> nearest_dtype("fp16")
    "did you mean 'float16'?"
    """
    known = _DTYPES_ALSO_CALLED.get(word.strip().lower().removeprefix("torch."))
    return (
        f"did you mean '{known}'?" if known else nearest(word, ("auto", *DTYPES), what="dtypes are")
    )


def resolve_device(asked: str, machine: Machine | None = None) -> str:
    """Say which device is meant: ``cpu``, ``cuda:N`` or ``mps``.

    Params:
        asked: ``auto`` takes the first CUDA device, else Metal, else the processor.
    Raises:
        ValueError: there is no such device, and why.
    """
    machine = machine or look()
    if asked == "cpu":
        return "cpu"
    if asked == "auto":
        if machine.torch_build == "cuda" and machine.cuda_devices() > 0:
            return "cuda:0"
        return "mps" if machine.has_metal else "cpu"
    if asked == "mps":
        if not machine.has_metal:
            raise ValueError(
                "there is no device 'mps' here: it needs macOS on Apple silicon and torch, and"
                f" this is {_describe(machine)}"
            )
        return "mps"
    match = _DEVICE.match(asked)
    if match is None:
        hint = nearest_device(asked)
        raise ValueError(
            f"'{asked[:40]}' is not a device; the devices are: auto, cpu, cuda, cuda:1,"
            f" mps{f' ({hint})' if hint.startswith('did') else ''}"
        )
    if machine.torch_build != "cuda":
        built = (
            "torch is not installed"
            if machine.torch_build == "none"
            else "the installed torch is built without CUDA"
        )
        raise ValueError(f"there is no device '{asked}' here: {built}")
    count, index = machine.cuda_devices(), int(match[2] or 0)
    if count == 0:
        raise ValueError(
            f"there is no device '{asked}' here: the NVIDIA driver is missing or shows no device"
        )
    if index >= count:
        known = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"there is no device '{asked}' here: the driver shows {known}")
    return f"cuda:{index}"


def _describe(machine: Machine) -> str:
    return (
        f"{machine.system or 'an unknown system'} on {machine.processor or 'an unknown processor'}"
        + (" without torch" if machine.torch_build == "none" else "")
    )


def resolve_dtype(asked: str, device: str) -> str:
    """Say which dtype models are loaded and run in.

    Params:
        asked: ``auto`` is float32 on the processor (where halves are slower) and under Metal (where
            some of its half-precision kernels give NaN), float16
            under CUDA: the precision in which most checkpoints are published, and with 10 bits of
                mantissa it holds the 8-bit steps of a picture in pixel
            space, which the 7 of bfloat16 do not.
    Raises:
        ValueError: there is no such dtype.
    """
    if asked == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if asked not in DTYPES:
        hint = nearest_dtype(asked)
        raise ValueError(
            f"'{asked[:40]}' is not a dtype; the dtypes are: auto,"
            f" {', '.join(DTYPES)}{f' ({hint})' if hint.startswith('did') else ''}"
        )
    return asked


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for a step that uses torch: where, in which dtype, how its models are loaded, and
    how far down the memory ladder it may go (a word of `LADDERS`).
    """

    device: str
    dtype: str
    settings: Loading = PLAIN
    ladder: str = "exact"

    @property
    def rungs(self) -> tuple[str, ...]:
        """The rungs that may be taken, in order."""
        return LADDERS[self.ladder]

    def determinism(self) -> dict[str, Any]:
        """Write the policy as it enters keys."""
        return determinism_class(self.device, self.dtype, settings=self.settings, rungs=self.rungs)


def determinism_class(
    device: str,
    dtype: str,
    *,
    settings: Loading = PLAIN,
    rungs: Sequence[str] = PIXEL_EXACT,
    batch: str = "exact",
) -> dict[str, Any]:
    """Write the policy in force, as it enters keys: plain JSON data, the same for the same policy.

    Params:
        device: as resolved; its index is left out, for equal cards give equal results and a run may
            move from one to the other.
        settings: those that the step's loaders heed. Where models wait changes no pixel, so
            `offload` is left out.
        rungs: of the memory ladder that are allowed; of these only the ones that change pixels
            count. The one taken is no policy: it is recorded with the result.
        batch: ``exact``, or the user's word that items may be grouped.
    """
    return {
        "attention": settings.attention,
        "batch": batch,
        "compile": settings.compile,
        "device": device.partition(":")[0],
        "dtype": dtype,
        "ladder": sorted(set(rungs) - set(PIXEL_EXACT)),
        "quantization": settings.quantization,
    }


def check(device: str, dtype: str) -> None:
    """Import torch and hold it to the device and dtype that the plan was keyed for.

    Raises:
        ModelError: torch disagrees, so the run refuses to start.
    """
    try:
        import torch
    except ImportError as missing:
        raise ModelError(
            f"the run refuses to start: torch cannot be imported ({missing})"
        ) from missing
    kind, _, index = device.partition(":")
    why = ""
    if kind == "cuda":
        if not torch.cuda.is_available():
            why = "torch cannot use CUDA, although its files and the driver said so when planning"
        elif int(index or 0) >= torch.cuda.device_count():
            why = f"torch sees {torch.cuda.device_count()} CUDA device(s)"
        elif dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            why = f"{torch.cuda.get_device_name(int(index or 0))} has no bfloat16"
    elif kind == "mps" and not torch.backends.mps.is_available():
        why = "torch cannot use Metal on this system"
    if why:
        raise ModelError(
            f"the run refuses to start: it was planned for {device} in {dtype}, but {why}; say"
            " --device cpu, or mend the installation"
        )


def conditions(device: str = "cpu") -> dict[str, Any]:
    """Record what steps really run on, so that drift can be named: nothing unless torch is loaded.

    Outputs: plain JSON data: ``torch``, ``threads``, ``cpu`` (the instruction set torch chose), and
        on a GPU ``gpu`` and ``cuda`` (of the driver).
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(
        torch, "get_num_threads"
    ):  # absent, or still being imported by another thread
        return {}
    found: dict[str, Any] = {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    kind, _, index = device.partition(":")
    if kind == "cuda" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(int(index or 0))
        version = ctypes.c_int(0)
        driver = _cuda_driver()
        if driver is not None and driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
            found["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    elif kind == "mps":
        found["gpu"] = f"{platform.processor()} {platform.mac_ver()[0]}"
    return found


class _Switch(NamedTuple):
    """A switch of torch that outlasts whoever sets it: how it is read and set, how it stands when
    torch is loaded, and whether it is the thread's own or one for the process.
    """

    read: Callable[[Any], Any]
    set: Callable[[Any, Any], object]
    at_first: Callable[[Any], Any]
    is_own: bool


def _first_threads(torch: Any) -> int | None:
    words = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(words) if words.isdecimal() and int(words) else None


_SWITCHES = {
    "number of threads": _Switch(
        lambda torch: torch.get_num_threads(),
        lambda torch, value: torch.set_num_threads(value),
        _first_threads,
        True,
    ),
    "default device": _Switch(
        lambda torch: torch.get_default_device(),
        lambda torch, value: torch.set_default_device(None if value.type == "cpu" else value),
        lambda torch: torch.device("cpu"),
        True,
    ),
    "recording of gradients": _Switch(
        lambda torch: torch.is_grad_enabled(),
        lambda torch, value: torch.set_grad_enabled(value),
        lambda torch: True,
        True,
    ),
    "default dtype": _Switch(
        lambda torch: torch.get_default_dtype(),
        lambda torch, value: torch.set_default_dtype(value),
        lambda torch: torch.float32,
        False,
    ),
    "choice of deterministic algorithms": _Switch(
        lambda torch: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda torch, value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        lambda torch: (False, False),
        False,
    ),
    "precision of matrix products": _Switch(
        lambda torch: torch.get_float32_matmul_precision(),
        lambda torch, value: torch.set_float32_matmul_precision(value),
        lambda torch: "highest",
        False,
    ),
}


class _Going:
    """The calls of nodes that go on in this process, and those of them beside which another went
    on: torch's switches are one for the process, and so is this.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: set[object] = set()
        self.together: set[object] = set()


_GOING = _Going()


@contextmanager
def switches_held(changed: Callable[[list[str], dict[str, Any]], object]) -> Iterator[None]:
    """Put torch's switches back at the end as they were, whatever a node did to them: they would
    hold for every later step of the process.

    Those that are one for the process are left alone if another node was called meanwhile: the
    libraries set them for a moment while they load.

    Params:
        changed: told at the end which were not as before, and how they all stood then.
    """
    call = object()
    with _GOING.lock:
        if _GOING.calls:
            _GOING.together |= {*_GOING.calls, call}
        _GOING.calls.add(call)
    before = _switches()
    try:
        yield
    finally:
        now = _switches()
        with _GOING.lock:
            _GOING.calls.discard(call)
            alone = call not in _GOING.together
            _GOING.together.discard(call)
            names = _put_back(before, now, everything=alone)
        if names:
            changed(names, now)


def _switches() -> dict[str, Any]:
    """Say how torch's switches stand in this thread; nothing if it is not loaded."""
    torch = sys.modules.get("torch")
    found: dict[str, Any] = {}
    if torch is not None and hasattr(torch, "get_num_threads"):
        for name, switch in _SWITCHES.items():
            with suppress(AttributeError, RuntimeError):
                found[name] = switch.read(torch)
    return found


def _put_back(before: Mapping[str, Any], now: Mapping[str, Any], *, everything: bool) -> list[str]:
    torch = sys.modules.get("torch")
    changed = []
    for name, value in now.items():
        switch = _SWITCHES[name]
        # If torch was loaded meanwhile, what it is like at first is what it is to be like, as far
        # as that is known.
        wanted = before[name] if name in before else None if before else switch.at_first(torch)
        if wanted is not None and wanted != value and (everything or switch.is_own):
            switch.set(torch, wanted)
            changed.append(name)
    return changed
