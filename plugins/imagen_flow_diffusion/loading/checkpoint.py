"""What is leased of a diffusers checkpoint, and pipelines made of it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imagen_flow.loaders import Loading, read_json

from ..checkpoints.classes import component_class
from ..checkpoints.description import index_of, what_is
from ..checkpoints.folder import device_of, quiet
from ..checkpoints.modular import is_modular, of_parts
from ..checkpoints.single_file import predicts
from ..pipelines.call_settings import called_with
from ..pipelines.samplers import as_trained
from .grouping import group_of, is_null, is_part

if TYPE_CHECKING:
    from imagen_flow import Model


@dataclass(frozen=True)
class Group:
    """Parts of one checkpoint by name. Whoever changes them for the length of a call (adapters,
    tiling) holds `lock` meanwhile, and keeps in `attached` what was last attached to a part.
    """

    parts: dict[str, Any]
    lock: Any = field(default_factory=threading.RLock)
    attached: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """What is leased of a diffusers checkpoint: some of its groups, or all."""

    model: Model
    groups: Mapping[str, Group]
    #: How its pipelines are called.
    settings: Loading = field(default_factory=Loading)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        return index_of(self.model)

    @property
    def kind(self) -> str:
        """The class of pipeline that the checkpoint says it is."""
        return what_is(self.model)

    @cached_property
    def parts(self) -> dict[str, Any]:
        return {name: part for group in self.groups.values() for name, part in group.parts.items()}

    @property
    def device(self) -> Any:
        return next(device_of(part) for part in self.parts.values() if hasattr(part, "device"))

    def attached(self, part: str, wanted: Any) -> Any:
        """Return what was last attached to a part, if it is what is wanted."""
        last, found = self._group(part).attached.get(part, (None, None))
        return found if last == wanted else None

    def remember_attached(self, part: str, wanted: Any, found: Any) -> None:
        """Remember what was attached to a part, in place of what was before."""
        self._group(part).attached[part] = (wanted, found)

    def _group(self, part: str) -> Group:
        return [group for group in self.groups.values() if part in group.parts][-1]

    def with_parts(self, **parts: Any) -> Checkpoint:
        """Return the checkpoint with further parts, or others instead of its own."""
        before = self.groups["given"].parts if "given" in self.groups else {}
        return replace(self, groups={**self.groups, "given": Group({**before, **parts})})

    def pipeline(self, cls: Any) -> Any:
        """Make a pipeline of one's own of the shared parts: pipelines and samplers keep state while
        they run.

        Parts that are not leased are None, save for autoencoder and denoiser: of these the pipeline
        sees the form, without weights.
        """
        if is_modular(cls):
            return called_with(
                self.settings,
                of_parts(
                    cls,
                    {
                        name: self._fresh(name, part) if _is_sampler(part) else part
                        for name, part in self.parts.items()
                    },
                ),
            )
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            entry = self.index.get(name)
            if name in self.parts:
                part = self.parts[name]
                given[name] = self._fresh(name, part) if _is_sampler(part) else part
            elif (
                is_part(entry)
                and entry[0] == "diffusers"
                and group_of(name) in ("autoencoder", "denoiser")
            ):
                given[name] = Shape(self.model, name, entry)
            elif isinstance(entry, list) or parameter.default is parameter.empty:
                given[name] = None
            elif name in self.index:
                given[name] = entry
        given.pop("self")
        if "requires_safety_checker" in given:
            given["requires_safety_checker"] = given.get("safety_checker") is not None
        if "add_watermarker" in inspect.signature(cls.__init__).parameters:
            # Left to itself it depends on what else is installed, and two machines would draw two
            # pictures.
            given["add_watermarker"] = False
        if lacking := [
            name
            for name in self._needed(cls)
            if given.get(name) is None and name not in self._unleased
        ]:
            raise ValueError(
                f"{cls.__name__} needs {' and '.join(lacking)}, which the model"
                f" '{self.model.reference}' does not have"
            )
        # diffusers warns of classes that it no longer tends.
        with quiet() if getattr(cls, "_last_supported_version", None) else nullcontext():
            pipeline = cls(**given)
        pipeline.set_progress_bar_config(disable=True)
        return called_with(self.settings, pipeline)

    def _fresh(self, name: str, sampler: Any) -> Any:
        """Make a sampler of one's own, as the file of the denoiser says that this was trained."""
        return as_trained(_fresh(sampler), sampled_as(self.model) if name == "scheduler" else {})

    def _needed(self, cls: Any) -> list[str]:
        optional = {*getattr(cls, "_optional_components", ()), "self", "args", "kwargs"}
        return [
            name
            for name, p in inspect.signature(cls.__init__).parameters.items()
            if p.default is p.empty and name not in optional and not is_null(self.index.get(name))
        ]

    @property
    def _unleased(self) -> set[str]:
        return {
            name for name, entry in self.index.items() if is_part(entry) and name not in self.parts
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from using these parts, for as long as they are not as they were loaded."""
        with ExitStack() as locks:
            for name in sorted(self.groups):
                locks.enter_context(self.groups[name].lock)
            yield


class Shape:
    """A network without weights: its configuration, and the sizes that pipelines compute of it. It
    is made when it is first asked.
    """

    def __init__(self, model: Model, name: str, entry: list[str]) -> None:
        self._made: list[Any] = []
        self._of = (model, name, entry)

    def __getattr__(self, name: str) -> Any:
        import torch

        if name.startswith("_"):
            raise AttributeError(name)
        if not self._made:
            model, part, entry = self._of
            with torch.device("meta"):
                self._made.append(
                    component_class(model, part, entry).from_config(
                        read_json(model, f"{part}/config.json")
                    )
                )
        return getattr(self._made[0], name)


def _is_sampler(part: Any) -> bool:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    return isinstance(part, SchedulerMixin) or (
        hasattr(part, "add_noise") and hasattr(part, "from_config")
    )


def sampled_as(model: Model) -> dict[str, Any]:
    """Give the settings of a sampler that a checkpoint's denoiser wants besides those in the
    checkpoint's own folder: of a file what it says itself, of another checkpoint's what its sampler
    says.
    """
    other = next(
        (other for name, other in model.replaced_parts if name in ("unet", "transformer")), None
    )
    if other is None:
        return predicts(model) if model.path.is_file() else {}
    config = read_json(other, "scheduler/scheduler_config.json") if index_of(other) else {}
    trained_as = {
        name: config.get(name, usual)
        for name, usual in (("prediction_type", "epsilon"), ("rescale_betas_zero_snr", False))
        if config
    }
    return {**trained_as, **(predicts(other) if other.path.is_file() else {})}


def _fresh(sampler: Any) -> Any:
    return type(sampler).from_config(sampler.config)
