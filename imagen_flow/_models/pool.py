"""Keep loaded models: each is loaded once, shared and counted, and the ones that the plan needs last
are evicted first.

What loads them is an `imagen_flow.loaders.Loader`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from .._types import loader_answers as answers
from .._types.digest import tagged
from .._types.models import PLAIN, Loader, Loading, Model, name_of
from .._types.values import FileChanged
from ..errors import ModelError
from .derived import is_keeping
from .glance import Watched
from .mapped import own_tensors
from .oom import give_back, is_out_of_memory, with_memory_fallback
from .quiet import quiet_libraries
from .read_ahead import ReadAhead
from .run_threads import RunThreads
from .signs import check_unchanged, files_of, is_unchanged

__all__ = [
    "Identity",
    "ModelPool",
    "check_support",
    "default_budget",
    "effective_settings",
    "identities_of",
    "identity_of",
    "leaves",
    "weight_of",
    "with_replaced_parts",
    "with_significant_name",
]

T = TypeVar("T")

#: The share of the memory that the models on one device may take, unless a budget is given. The rest
#: is for computing and for other programs.
SHARE = 0.6
SHARE_OF_GPU = 0.8


#: How deep the parts of loaders may be nested.
DEEPEST = 16

#: The devices that torch's implementations of attention run on; those not listed run everywhere.
ATTENTION_ON = {"cudnn": ("cuda",), "efficient": ("cuda",), "flash": ("cpu", "cuda")}


class Identity(NamedTuple):
    """What makes two loaded models the same model."""

    fingerprint: str
    loader: str
    device: str
    dtype: str
    settings: Loading = PLAIN


def effective_settings(loader: Loader[Any], settings: Loading) -> Loading:
    """Reset the settings that a loader does not act on to their defaults."""
    return (
        settings
        if settings == PLAIN
        else Loading(
            **{name: value for name, value in settings._asdict().items() if name in loader.settings}
        )
    )


def identity_of(
    loader: Loader[Any], model: Model, *, device: str, dtype: str, settings: Loading = PLAIN
) -> Identity:
    """Name what ``lease`` would load with a loader that has no parts."""
    if not model.digest:
        raise ModelError(f"the model '{model.reference or model.path.name}' has no fingerprint")
    fingerprint = model.digest
    if (folders := answers.folders_of(loader, model)) is not None:
        parts, wanted = dict(model.parts), sorted(folders)
        if wanted and all(name in parts for name in wanted):
            fingerprint = tagged(
                "model-parts", *(word.encode() for name in wanted for word in (name, parts[name]))
            )
    if model.significant_name and answers.significant_name_of(loader, model):
        fingerprint = tagged(
            "model-called",
            fingerprint.encode(),
            model.significant_name.encode("utf-8", "surrogatepass"),
        )
    return Identity(
        fingerprint, name_of(loader), device, dtype, effective_settings(loader, settings).resident()
    )


def with_replaced_parts(loader: Loader[Any], port: str, given: Mapping[str, Model]) -> Model:
    """Return the model that the loader of a port loads, of those that its node was given by port.

    Raises:
        ModelError: they do not go together.
    """
    return answers.with_replaced_parts(
        loader, given[port], {name: other for name, other in given.items() if name != port}
    )


def with_significant_name(loader: Loader[Any] | None, model: Model) -> Model:
    """Return a model with what of its name changes results."""
    name = answers.significant_name_of(loader, model) if loader is not None else ""
    return replace(model, significant_name=name) if name else model


def leaves(loader: Loader[Any], model: Model, *, depth: int = 0) -> Iterator[Loader[Any]]:
    """List the loaders that load something themselves: those of the parts, if a loader has parts.

    Raises:
        ModelError: parts are nested too deeply, as those of a loader that has itself as a part.
    """
    parts = answers.parts_of(loader, model)
    if parts is None:
        yield loader
        return
    if depth == DEEPEST:
        raise ModelError(
            f"the loader {type(loader).__qualname__} has parts of parts more than {DEEPEST} deep; a"
            " loader cannot be a part of itself"
        )
    for part in parts.values():
        yield from leaves(part, model, depth=depth + 1)


def identities_of(
    loader: Loader[Any], model: Model, *, device: str, dtype: str, settings: Loading = PLAIN
) -> list[Identity]:
    """Name all that ``lease`` would load, e.g. to plan ahead: the parts, if the loader has parts."""
    return [
        identity_of(leaf, model, device=device, dtype=dtype, settings=settings)
        for leaf in leaves(loader, model)
    ]


def check_support(
    loader: Loader[Any], model: Model, *, device: str, dtype: str, settings: Loading = PLAIN
) -> None:
    """Check that all that ``lease`` would load can be loaded.

    Raises:
        ModelError: it cannot, and why.
    """
    for leaf in leaves(loader, model):
        effective = effective_settings(leaf, settings)
        runs_on = ATTENTION_ON.get(effective.attention)
        if runs_on and device.partition(":")[0] not in runs_on:
            raise ModelError(
                f"attention: {effective.attention} does not run on {device}, but on"
                f" {' and '.join(runs_on)}; auto and math run everywhere"
            )
        answers.check_support(leaf, model, device=device, dtype=dtype, settings=effective)


def default_budget(device: str) -> int | None:
    """Return the default budget for the models on a device: a share of the machine's memory (of the
    container's, if that is less), or of the GPU's. None if it is unknown.
    """
    torch = sys.modules.get("torch")
    if device.startswith("cuda"):
        if (
            torch is None
            or not torch.cuda.is_available()
            or int(device.partition(":")[2] or 0) >= torch.cuda.device_count()
        ):
            return None
        return int(torch.cuda.mem_get_info(device)[1] * SHARE_OF_GPU)
    memory = _memory()
    return int(memory * SHARE) if memory else None


def _memory() -> int:
    """The bytes of memory of this machine, or of the container that this process is in."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(limit).read_text("ascii")))
        except (OSError, ValueError):  # no such file, or it says "max"
            pass
    return memory


@dataclass(eq=False)
class _Resident:
    """A model in the pool: being loaded until `ready` is set, then `value`, or `failure`."""

    identity: Identity
    model: Model
    #: The folders of the model that the loader says it reads; none: it says nothing.
    folders: tuple[str, ...] = ()
    #: The loaded model, and what it looked like; None until it is loaded.
    watched: Watched | None = None
    #: It needs its files no more.
    is_whole: bool = False
    size: int = 0
    value: Any = None
    failure: BaseException | None = None
    leases: int = 0
    used: int = 0
    ready: threading.Event = field(default_factory=threading.Event)


class ModelPool:
    """Keeps loaded models.

    Threads may share it. `budget_bytes` is what the models on one device may weigh (default: see
    `default_budget`): before a load that would exceed it, idle models are evicted. It is a target:
    what is leased stays, and a single model may be larger.
    """

    def __init__(self, *, budget_bytes: int | None = None) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._residents: dict[Identity, _Resident] = {}
        self._ahead: dict[object, dict[Identity, int]] = {}
        self._clock = 0
        self._closed = False
        #: What runs learned of computing several items together: how many fit in memory, and
        #: whether that gives what each gives alone; by what computes, models and machine.
        self.group_sizes: dict[str, int] = {}
        self.sound_groups: dict[str, bool] = {}
        #: The threads that runs with these models compute in.
        self.run_threads = RunThreads()
        self._reader = ReadAhead()
        #: What has been read ahead, or was loaded before: its files are probably in memory.
        self._read: set[Identity] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def lease(
        self,
        loader: Loader[T],
        model: Model,
        *,
        device: str,
        dtype: str,
        settings: Loading = PLAIN,
        loading: Callable[[str], None] | None = None,
        left_changed: Callable[[str], object] | None = None,
    ) -> Iterator[T]:
        """Lease what a loader makes of a model, loaded at most once, for as long as the context
        lasts.

        A loader with parts loads nothing itself: each part is leased as it would be alone, and they
        are put together for this lease. `loading` is called if the model, or a part of it, is not
        loaded yet.

        A model that comes back changed (its weights, hooks, processors, configuration) is dropped,
        and `left_changed` is called with the differences; the next lease loads it again.

        Raises:
            ModelError: it cannot be loaded; the cause is chained. A later lease tries again.
            FileChanged: its files are not what was digested.
        """
        parts = answers.parts_of(loader, model)
        if parts is not None:
            with ExitStack() as leases:
                lent = {
                    name: leases.enter_context(
                        self.lease(
                            part,
                            model,
                            device=device,
                            dtype=dtype,
                            settings=settings,
                            loading=loading,
                            left_changed=left_changed,
                        )
                    )
                    for name, part in parts.items()
                }
                yield loader.for_call(
                    model, loader.assemble(model, lent), effective_settings(loader, settings)
                )
            return
        resident = self._acquire(
            identity_of(loader, model, device=device, dtype=dtype, settings=settings),
            loader,
            model,
            loading,
        )
        try:
            yield resident.value
            if not resident.is_whole:
                # What was read of its files meanwhile may be of others.
                check_unchanged(resident.model, resident.folders)
        finally:
            self._release(resident, left_changed)

    def plan_ahead(self, identities: Iterable[Identity], *, of: object = None) -> None:
        """Announce which models a run will need, in the order of their first use (see
        `identities_of`). This replaces what was announced for that run before; an empty list
        withdraws it.
        """
        ahead: dict[Identity, int] = {}
        for position, identity in enumerate(identities):
            ahead.setdefault(identity, position)
        with self._lock:
            self._ahead.pop(of, None)
            if ahead:
                self._ahead[of] = ahead

    def read_ahead(self, coming: Iterable[tuple[Identity, Loader[Any], Model]]) -> None:
        """Have the system read the files of the first of these models that is not loaded, once,
        while others work. Of one that is quantized, they are read only if its quantized weights are
        not kept.
        """
        with self._lock:
            missing = [one for one in coming if one[0] not in self._residents][:1]
        for identity, loader, model in missing:
            if identity.settings.quantization != "none" and is_keeping():
                continue
            folders = tuple(answers.folders_of(loader, model) or ())
            large = [path for path in files_of(model, folders) if not path.endswith(".json")]
            if identity not in self._read and self._reader.begin(large):
                self._read.add(identity)

    def would_evict(self, wanted: Mapping[Identity, int]) -> bool:
        """Tell whether leasing these models, of these weights, would evict others."""
        with self._lock:
            coming = {i: weight for i, weight in wanted.items() if i not in self._residents}
            idle = [r for r in self._idle() if r.identity not in wanted]
            weights: dict[str, int] = {}
            for resident in self._residents.values():
                device = resident.identity.device
                weights[device] = weights.get(device, 0) + resident.size
        for device in {i.device for i in coming} & {r.identity.device for r in idle}:
            budget = default_budget(device) if self.budget_bytes is None else self.budget_bytes
            weight = weights[device] + sum(w for i, w in coming.items() if i.device == device)
            if budget is not None and weight > budget:
                return True
        return False

    def evict_idle(self, which: Callable[[Identity], bool] = lambda _: True) -> int:
        """Evict models that nobody leases, those that `which` selects, and return how many."""
        with self._lock:
            idle = [r for r in self._idle() if which(r.identity)]
            for resident in idle:
                del self._residents[resident.identity]
        count = len(idle)
        del idle
        if count:
            give_back()
        return count

    def resident(self) -> list[Identity]:
        """Return the models that are loaded, sorted."""
        with self._lock:
            return sorted(r.identity for r in self._residents.values() if r.ready.is_set())

    def weighs(self) -> Mapping[str, int]:
        """Return what the loaded models weigh, in bytes by device, as far as it is estimated."""
        with self._lock:
            found: dict[str, int] = {}
            for resident in self._residents.values():
                found[resident.identity.device] = (
                    found.get(resident.identity.device, 0) + resident.size
                )
            return found

    def close(self) -> None:
        """Evict every model: idle ones now, leased ones when they come back. Later leases fail."""
        with self._lock:
            self._closed = True
        self.run_threads.close()
        self._reader.close()
        self.evict_idle()

    def _release(self, resident: _Resident, left_changed: Callable[[str], object] | None) -> None:
        """Count one lease less. The last of several compares the model with what it was: a node that
        changes it for a while holds it alone, and others may be doing so before.
        """
        with self._lock:
            resident.leases -= 1
            if self._closed and not resident.leases:
                self._remove(resident)
            watched = resident.watched
            if self._closed or resident.leases or watched is None:
                return
            resident.ready.clear()  # a lease now waits for the comparison
        changed: list[str] = []
        try:
            changed = watched.differences()
        except Exception as failure:  # it is not as it was when it could be looked at
            changed = [f"it can no longer be looked at: {failure}"]
        finally:
            if changed:
                resident.failure = FileChanged("a node left the model changed")
                with self._lock:
                    self._remove(resident)
            resident.ready.set()
        if changed and left_changed is not None:
            left_changed(
                ", ".join(changed[:5])
                + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            )

    def _remove(self, resident: _Resident) -> None:
        """Lease a resident to nobody any more."""
        if self._residents.get(resident.identity) is resident:
            del self._residents[resident.identity]

    def _idle(self) -> list[_Resident]:
        return [r for r in self._residents.values() if r.ready.is_set() and not r.leases]

    def _acquire(
        self,
        identity: Identity,
        loader: Loader[Any],
        model: Model,
        loading: Callable[[str], None] | None,
    ) -> _Resident:
        folders = tuple(answers.folders_of(loader, model) or ())
        while True:
            with self._lock:
                if self._closed:
                    raise ModelError("the model pool is closed")
                resident = self._residents.get(identity)
                if (
                    resident is not None
                    and resident.ready.is_set()
                    and not resident.is_whole
                    and not is_unchanged(resident.model, resident.folders)
                ):
                    self._remove(
                        resident
                    )  # its files have changed; this model's may be others of the same content
                    resident = None
                mine = resident is None
                if resident is None:
                    resident = self._residents[identity] = _Resident(identity, model, folders)
                    self._read.add(identity)
                resident.leases += 1
                self._clock += 1
                resident.used = self._clock
            if loading is not None and not resident.ready.is_set():
                loading(model.reference or model.path.name)
            if mine:
                self._load(resident, loader, model)
                return resident
            resident.ready.wait()
            if resident.failure is None:
                return resident
            if isinstance(resident.failure, ModelError):
                raise ModelError(str(resident.failure)) from resident.failure.__cause__
            # The thread that was loading it was interrupted: this one tries itself.

    def _load(self, resident: _Resident, loader: Loader[Any], model: Model) -> None:
        """Load into `resident`, after making room, and wake those who wait for it in any case."""
        try:
            budget = (
                default_budget(resident.identity.device)
                if self.budget_bytes is None
                else self.budget_bytes
            )
            check_support(
                loader,
                model,
                device=resident.identity.device,
                dtype=resident.identity.dtype,
                settings=resident.identity.settings,
            )
            resident.size = weight_of(
                loader, model, dtype=resident.identity.dtype, settings=resident.identity.settings
            )
            if budget is not None:
                self._make_room(resident, budget)
            check_unchanged(model)
            try:
                resident.value = self._loaded(resident.identity, loader, model)
                resident.is_whole = own_tensors(resident.value)
                resident.watched = Watched(
                    resident.value, moves=resident.identity.settings.offload != "none"
                )
            except ModelError as failure:
                if is_unchanged(model):
                    raise
                raise FileChanged(
                    f"the model '{model.reference or model.path.name}' has changed while it was"
                    " loaded"
                ) from failure
            check_unchanged(model)
        except BaseException as failure:
            resident.failure = failure
            with self._lock:
                self._remove(resident)
            raise
        finally:
            resident.ready.set()

    def _loaded(self, identity: Identity, loader: Loader[Any], model: Model) -> Any:
        def load() -> Any:
            try:
                with quiet_libraries(), _plain_tensors():
                    return loader.load(
                        model,
                        device=identity.device,
                        dtype=identity.dtype,
                        settings=identity.settings,
                    )
            except ModelError:
                raise
            except (Exception, SystemExit) as cause:
                if is_out_of_memory(cause):
                    raise
                message = " ".join(str(cause).split())[:300]
                raise ModelError(
                    f"the model '{model.reference or model.path}' cannot be loaded by"
                    f" {type(loader).__qualname__}: {type(cause).__name__}{f': {message}' if message else ''}"
                ) from cause

        try:
            return with_memory_fallback(lambda _: load(), self)[0]
        except ModelError:
            raise
        except Exception as cause:
            raise ModelError(
                f"there is not enough memory on {identity.device} for the model"
                f" '{model.reference or model.path}'"
            ) from cause

    def _make_room(self, coming: _Resident, budget: int) -> None:
        """Evict idle models on the same device until the coming one fits in the budget: first those
        that are never needed, then those needed last.
        """
        dropped = False
        with self._lock:
            here = [
                r for r in self._residents.values() if r.identity.device == coming.identity.device
            ]
            weight = sum(r.size for r in here)
            idle = sorted((r for r in self._idle() if r in here), key=self._need, reverse=True)
            for resident in idle:
                if weight <= budget:
                    break
                del self._residents[resident.identity]
                weight -= resident.size
                dropped = True
            del idle, here
        if dropped:
            give_back()

    def _need(self, resident: _Resident) -> tuple[float, int]:
        """Order by how far ahead a model is needed next, by whichever run, then by how long ago it
        was used.
        """
        return (
            min(
                (ahead.get(resident.identity, float("inf")) for ahead in self._ahead.values()),
                default=float("inf"),
            ),
            -resident.used,
        )


def weight_of(loader: Loader[Any], model: Model, *, dtype: str, settings: Loading = PLAIN) -> int:
    """Estimate what a loader takes of a model in memory, in bytes; 0 if the files do not tell."""
    on_disk = answers.disk_bytes_of(loader, model)
    try:
        from .estimates import estimate

        effective = effective_settings(loader, settings)
        whole = estimate(
            model,
            dtype,
            quantization=effective.quantization,
            layerwise_casting=effective.layerwise_casting,
        )
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return on_disk or 0
    if on_disk is None:
        folders = answers.folders_of(loader, model)
        return sum(size for part, size in whole.parts if folders is None or part in folders)
    return on_disk * whole.memory_bytes // whole.disk_bytes if whole.disk_bytes else on_disk


def _plain_tensors() -> Any:
    """Weights outlive the call that loads them: tensors made in inference mode could never be
    trained or changed again.
    """
    torch = sys.modules.get("torch")
    return (
        torch.inference_mode(False)
        if torch is not None and hasattr(torch, "inference_mode")
        else nullcontext()
    )
