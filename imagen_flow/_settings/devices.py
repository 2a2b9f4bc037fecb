"""Choose device and dtype before torch is imported, verify that torch agrees, and record the
conditions of a run.

The choice enters every key of a node that uses torch, and planning computes keys without torch. So
the device is determined from the files of the installed torch and by asking the driver library.
Once a run has imported torch, `check_torch` compares; if torch disagrees, the run refuses to start,
because its results would be stored under wrong keys.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .._system.dataclass import dataclass
from .._types.models import PLAIN, Loading
from ..errors import ModelError, nearest

__all__ = [
    "ATTENTIONS",
    "BATCHES",
    "COMPILATIONS",
    "DTYPES",
    "LAYERWISE_CASTINGS",
    "MAX_BATCH",
    "MEMORY_LEVELS",
    "OFFLOADS",
    "PIXEL_EXACT",
    "QUANTIZATIONS",
    "QUANTIZERS",
    "Machine",
    "Policy",
    "check_torch",
    "compute_capability",
    "conditions",
    "determinism_class",
    "this_machine",
    "resolve_device",
    "resolve_dtype",
]

DTYPES = ("float32", "float16", "bfloat16")

#: Memory fallback levels that do not change a pixel; they are allowed unless the user says
#: otherwise.
PIXEL_EXACT = ("evict", "offload", "stream")

#: The memory fallback levels that a step may use, in this order, by their name in ``settings:``.
MEMORY_LEVELS = {
    "none": (),
    "exact": PIXEL_EXACT,
    "slice": (*PIXEL_EXACT, "slice"),
    "tile": (*PIXEL_EXACT, "slice", "tile"),
    "half": (*PIXEL_EXACT, "slice", "tile", "half"),
}

#: The library behind each quantization; its version enters keys.
QUANTIZERS = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes", "float8": "torchao"}

# The choices of `Loading`.
QUANTIZATIONS = ("none", *QUANTIZERS)
OFFLOADS = ("none", "model", "layers", "groups")
COMPILATIONS = ("regional",)
LAYERWISE_CASTINGS = ("none", "float8_e4m3fn", "float8_e5m2")
#: What may be said of groups besides their largest size.
BATCHES = ("exact", "auto")
MAX_BATCH = 1024

ATTENTIONS = ("auto", "math", "flash", "efficient", "cudnn")

#: Names of devices in other programs.
_DEVICE_ALIASES = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "metal": "mps",
    "apple": "mps",
    "m1": "mps",
    "processor": "cpu",
}
#: Names of dtypes in other programs.
_DTYPE_ALIASES = {
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
    """What is known of this machine without torch. `cuda_devices` is called only if the answer
    matters, because it wakes the driver.
    """

    system: str
    processor: str
    #: ``cpu``, ``cuda``, or ``none`` if torch is not installed. (A torch for macOS is ``cpu`` here,
    #: because each one includes Metal.)
    torch_build: str
    cuda_devices: Callable[[], int]

    @property
    def has_metal(self) -> bool:
        return self.torch_build != "none" and self.system == "Darwin" and self.processor == "arm64"


def this_machine() -> Machine:
    """Describe this machine."""
    import platform

    return Machine(platform.system(), platform.machine(), _torch_build(), _count_cuda_devices)


def _torch_build() -> str:
    # By the package's libraries: wheels from PyPI have no version label (they include CUDA on Linux
    # and none on Windows), and reading it would cost more than looking.
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
    """Ask the driver how many devices this process can see (CUDA_VISIBLE_DEVICES applies)."""
    import ctypes

    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _cuda_driver() -> Any:
    import ctypes

    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def compute_capability(device: str) -> tuple[int, int] | None:
    """Ask the driver for a CUDA device's compute capability as (major, minor). None for other
    devices, or if it is unknown.
    """
    import ctypes

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
    """Suggest a device for a word that is none: its name here, the nearest word, or the list.

    >>> nearest_device("gpu:1") "did you mean 'cuda:1'?"
    """
    kind, colon, index = word.strip().lower().partition(":")
    if kind in _DEVICE_ALIASES:
        device = _DEVICE_ALIASES[kind]
        suffix = colon + index if index.isdecimal() and device == "cuda" else ""
        return f"did you mean '{device}{suffix}'?"
    near = nearest(word, ("auto", "cpu", "cuda", "mps"))
    return near if near.startswith("did") else "one of: auto, cpu, cuda, cuda:N, mps"


def nearest_dtype(word: str) -> str:
    """Suggest a dtype for a word that is none: its name here, the nearest word, or the list.

    >>> nearest_dtype("fp16") "did you mean 'float16'?"
    """
    known = _DTYPE_ALIASES.get(word.strip().lower().removeprefix("torch."))
    return (
        f"did you mean '{known}'?" if known else nearest(word, ("auto", *DTYPES), what="dtypes are")
    )


def resolve_device(requested: str, machine: Machine | None = None) -> str:
    """Resolve a device to ``cpu``, ``cuda:N`` or ``mps``.

    Params:
        requested: ``auto`` is the first CUDA device, else Metal, else the CPU.

    Raises:
        ValueError: there is no such device; the message says why.
    """
    machine = machine or this_machine()
    if requested == "cpu":
        return "cpu"
    if requested == "auto":
        if machine.torch_build == "cuda" and machine.cuda_devices() > 0:
            return "cuda:0"
        return "mps" if machine.has_metal else "cpu"
    if requested == "mps":
        if not machine.has_metal:
            raise ValueError(
                "there is no device 'mps' here: it needs macOS on Apple silicon and torch, and"
                f" this is {_describe(machine)}"
            )
        return "mps"
    match = _DEVICE.match(requested)
    if match is None:
        hint = nearest_device(requested)
        raise ValueError(
            f"'{requested[:40]}' is not a device; the devices are: auto, cpu, cuda, cuda:1,"
            f" mps{f' ({hint})' if hint.startswith('did') else ''}"
        )
    if machine.torch_build != "cuda":
        built = (
            "torch is not installed"
            if machine.torch_build == "none"
            else "the installed torch is built without CUDA"
        )
        raise ValueError(f"there is no device '{requested}' here: {built}")
    count, index = machine.cuda_devices(), int(match[2] or 0)
    if count == 0:
        raise ValueError(
            f"there is no device '{requested}' here: the NVIDIA driver is missing or reports no"
            " device"
        )
    if index >= count:
        known = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"there is no device '{requested}' here: the driver reports {known}")
    return f"cuda:{index}"


def _describe(machine: Machine) -> str:
    return (
        f"{machine.system or 'an unknown system'} on {machine.processor or 'an unknown processor'}"
        + (" without torch" if machine.torch_build == "none" else "")
    )


def resolve_dtype(requested: str, device: str) -> str:
    """Resolve the dtype in which models are loaded and run.

    Params:
        requested: ``auto`` is float32 on the CPU, where half precision is slower, and under Metal,
            where some of its half-precision kernels give NaN; it is float16 under CUDA, the
            precision of most published checkpoints, whose 10 mantissa bits hold the 8-bit steps of
            a picture in pixel space, unlike the 7 bits of bfloat16.

    Raises:
        ValueError: there is no such dtype.
    """
    if requested == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if requested not in DTYPES:
        hint = nearest_dtype(requested)
        raise ValueError(
            f"'{requested[:40]}' is not a dtype; the dtypes are: auto,"
            f" {', '.join(DTYPES)}{f' ({hint})' if hint.startswith('did') else ''}"
        )
    return requested


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of a step that uses torch: device, dtype, how its models are loaded, the memory
    fallback levels that it may use (a name of `MEMORY_LEVELS`), and whether it may be computed
    together with others: ``exact`` only where that changes no bit, ``auto`` or at most so many.
    """

    device: str
    dtype: str
    settings: Loading = PLAIN
    memory: str = "exact"
    batch: str | int = "exact"

    @property
    def alone(self) -> bool:
        """Whether steps are always computed one by one: a step cache decides for all items of a
        call together, and each would depend on the others.
        """
        return self.settings.step_cache is not None

    @property
    def memory_levels(self) -> tuple[str, ...]:
        """The levels that may be used, in order."""
        return MEMORY_LEVELS[self.memory]

    def determinism(self) -> dict[str, Any]:
        """Give the policy as it enters keys."""
        return determinism_class(
            self.device,
            self.dtype,
            settings=self.settings,
            memory_levels=self.memory_levels,
            batch="exact" if self.alone or self.batch in ("exact", 1) else "grouped",
        )


def determinism_class(
    device: str,
    dtype: str,
    *,
    settings: Loading = PLAIN,
    memory_levels: Sequence[str] = PIXEL_EXACT,
    batch: str = "exact",
) -> dict[str, Any]:
    """Give a policy as it enters keys: plain JSON data, equal for equal policies.

    Params:
        device: as resolved; its index is left out, because equal cards give equal results and a run
            may move between them.
        settings: those that the step's loaders use. Offloading changes no pixel, so `offload` is
            left out.
        memory_levels: the allowed memory fallback levels; only those that change pixels count. The
            level that was used is recorded with the result.
        batch: ``exact``, or ``grouped`` by the user's permission; how many are computed together is
            left out.
    """
    # What is at its default and came later is left out, so that keys stay as they were.
    later: dict[str, Any] = {}
    if settings.layerwise_casting != "none":
        later["layerwise_casting"] = settings.layerwise_casting
    if settings.step_cache is not None:
        later["step_cache"] = {settings.step_cache.kind: dict(settings.step_cache.options)}
    return {
        **later,
        "attention": settings.attention,
        "batch": batch,
        "compile": settings.compile,
        "device": device.partition(":")[0],
        "dtype": dtype,
        "ladder": sorted(set(memory_levels) - set(PIXEL_EXACT)),
        "quantization": settings.quantization,
    }


def check_torch(device: str, dtype: str) -> None:
    """Import torch and verify that it supports the device and dtype that the plan was keyed for.

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
            why = (
                "torch cannot use CUDA, although its files and the driver indicated it when"
                " planning"
            )
        elif int(index or 0) >= torch.cuda.device_count():
            why = f"torch sees {torch.cuda.device_count()} CUDA device(s)"
        elif dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            why = f"{torch.cuda.get_device_name(int(index or 0))} does not support bfloat16"
    elif kind == "mps" and not torch.backends.mps.is_available():
        why = "torch cannot use Metal on this system"
    if why:
        raise ModelError(
            f"the run refuses to start: it was planned for {device} in {dtype}, but {why}; use"
            " --device cpu, or repair the installation"
        )


def conditions(device: str = "cpu") -> dict[str, Any]:
    """Record what steps really run on, so that differences can be explained; empty unless torch is
    loaded.

    Outputs: plain JSON data: ``torch``, ``threads``, ``cpu`` (the instruction set that torch
    chose), and on a GPU ``gpu`` and ``cuda`` (of the driver).
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
        import ctypes

        version = ctypes.c_int(0)
        driver = _cuda_driver()
        if driver is not None and driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
            found["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    elif kind == "mps":
        import platform

        found["gpu"] = f"{platform.processor()} {platform.mac_ver()[0]}"
    return found


class _Switch(NamedTuple):
    """A setting of torch that persists after it is set: how to read and set it, its initial value,
    and whether it belongs to the thread or to the process.
    """

    read: Callable[[Any], Any]
    set: Callable[[Any, Any], object]
    initial: Callable[[Any], Any]
    per_thread: bool


def _initial_threads(torch: Any) -> int | None:
    words = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(words) if words.isdecimal() and int(words) else None


_SWITCHES = {
    "number of threads": _Switch(
        lambda torch: torch.get_num_threads(),
        lambda torch, value: torch.set_num_threads(value),
        _initial_threads,
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


#: The calls of nodes that are running: torch's settings belong to the process, and so does this.
_RUNNING_CALLS: set[RestoredSwitches] = set()
_RUNNING_CALLS_LOCK = threading.Lock()


class RestoredSwitches:
    """Restores torch's settings at the end of a `with`, whatever a node did to them: they would
    affect every later step of the process.

    Settings of the process are left alone if another node ran meanwhile, because libraries change
    them for a moment while they load.

    Params:
        changed: called at the end with the settings that had changed, and the values of all of
            them.
    """

    __slots__ = ("_before", "_changed", "_is_alone")

    def __init__(self, changed: Callable[[list[str], dict[str, Any]], object]) -> None:
        self._changed = changed

    def __enter__(self) -> None:
        with _RUNNING_CALLS_LOCK:
            self._is_alone = not _RUNNING_CALLS
            for other in _RUNNING_CALLS:
                other._is_alone = False
            _RUNNING_CALLS.add(self)
        self._before = _read_switches() if "torch" in sys.modules else {}

    def __exit__(self, *_: object) -> None:
        now = _read_switches() if "torch" in sys.modules else {}
        with _RUNNING_CALLS_LOCK:
            _RUNNING_CALLS.discard(self)
            names = _restore(self._before, now, everything=self._is_alone) if now else []
        if names:
            self._changed(names, now)


def _read_switches() -> dict[str, Any]:
    """Read torch's settings in this thread."""
    torch = sys.modules["torch"]
    found: dict[str, Any] = {}
    if hasattr(torch, "get_num_threads"):
        for name, switch in _SWITCHES.items():
            with suppress(AttributeError, RuntimeError):
                found[name] = switch.read(torch)
    return found


def _restore(before: Mapping[str, Any], now: Mapping[str, Any], *, everything: bool) -> list[str]:
    torch = sys.modules.get("torch")
    changed = []
    for name, value in now.items():
        switch = _SWITCHES[name]
        # If torch was loaded meanwhile, its initial values are restored where they are known.
        wanted = before[name] if name in before else None if before else switch.initial(torch)
        if wanted is not None and wanted != value and (everything or switch.per_thread):
            switch.set(torch, wanted)
            changed.append(name)
    return changed
