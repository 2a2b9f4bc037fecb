"""Load a diffusers checkpoint in groups that are leased apart: what reads the words, what takes the
noise away, what turns latents into pixels, and the rest.

A node that needs all of them and a node that needs one share what they have in common. A
`model_index.json` comes from a stranger: it may name only classes of diffusers and transformers,
and of those only models, tokenizers, processors and samplers.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, TypeGuard

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.loaders import Loader

from ..checkpoints.classes import component_class
from ..checkpoints.description import AUTOENCODERS
from ..checkpoints.diagnosing import plain
from ..checkpoints.folder import (
    article,
    device_of,
    index_of,
    load_part,
    load_scheduler,
    quiet,
    read_json,
    refuse_scaled,
    what_is,
)
from ..checkpoints.modular import is_modular, of_parts
from ..checkpoints.processors import load_processor
from ..checkpoints.quantizing import check_quantizing, saved_as
from ..checkpoints.single_file import predicts
from ..checkpoints.translation import load_from_file
from ..pipelines.calling import TAKEN_BY, problem_of
from ..pipelines.samplers import as_trained
from .replaced_parts import load_instead, refuse_misfit

if TYPE_CHECKING:
    from imagen_flow import Model

SHARED_SETTINGS = ("attention", "offload")
"""The settings that all parts of a checkpoint act on. Text encoders and denoisers can also be
quantized, and denoisers, which are called most, compiled."""


MOST_TOKENS = 10**9
"""More are no length that a tokenizer was given, but what transformers puts where it was given none."""


@dataclass(frozen=True)
class Group:
    """Parts of one checkpoint by name. Whoever changes them for the length of a call (adapters,
    tiling) holds `lock` meanwhile, and keeps in `worn` what was last put on a part.
    """

    parts: dict[str, Any]
    lock: Any = field(default_factory=threading.RLock)
    worn: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class TextParts(Loader[Group]):
    """Tokenizers and text encoders."""

    settings = (*SHARED_SETTINGS, "quantization")

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _check_support(model, "text", device, dtype, settings)

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "text", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "text")


class DenoiserParts(Loader[Group]):
    """The network, or networks, that take the noise away."""

    settings = (*TextParts.settings, "compile")

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _check_support(model, "denoiser", device, dtype, settings)

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "denoiser", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "denoiser")


class AutoencoderParts(Loader[Group]):
    """What turns pixels into latents and back."""

    settings = SHARED_SETTINGS

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _refuse_unreadable(model, "autoencoder")

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "autoencoder", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "autoencoder")


class SamplerParts(Loader[Group]):
    """Samplers: configurations, no weights."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "sampler", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "sampler")


class OtherParts(Loader[Group]):
    """Image encoders, safety checkers and processors."""

    settings = SHARED_SETTINGS

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _refuse_unreadable(model, "other")

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "other", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "other")


GROUPS: dict[str, Loader[Group]] = {
    "text": TextParts(),
    "denoiser": DenoiserParts(),
    "autoencoder": AutoencoderParts(),
    "sampler": SamplerParts(),
    "other": OtherParts(),
}


@dataclass(frozen=True)
class Checkpoint:
    """What is leased of a diffusers checkpoint: some of its groups, or all."""

    model: Model
    groups: Mapping[str, Group]

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

    def worn(self, part: str, wanted: Any) -> Any:
        """Give what was last put on a part, if it is what is wanted."""
        last, found = self._group(part).worn.get(part, (None, None))
        return found if last == wanted else None

    def wear(self, part: str, wanted: Any, found: Any) -> None:
        """Keep what was put on a part, in the place of what was before."""
        self._group(part).worn[part] = (wanted, found)

    def _group(self, part: str) -> Group:
        return [group for group in self.groups.values() if part in group.parts][-1]

    def with_parts(self, **parts: Any) -> Checkpoint:
        """Give the same checkpoint with some parts more, or others in their place."""
        before = self.groups["given"].parts if "given" in self.groups else {}
        return replace(self, groups={**self.groups, "given": Group({**before, **parts})})

    def pipeline(self, cls: Any) -> Any:
        """Make a pipeline of one's own of the shared parts: pipelines and samplers keep state while
        they run.

        Parts that are not leased are None, save for autoencoder and denoiser: of these the pipeline
        sees the form, without weights.
        """
        if is_modular(cls):
            return of_parts(
                cls,
                {
                    name: self._fresh(name, part) if _is_sampler(part) else part
                    for name, part in self.parts.items()
                },
            )
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            entry = self.index.get(name)
            if name in self.parts:
                part = self.parts[name]
                given[name] = self._fresh(name, part) if _is_sampler(part) else part
            elif (
                _is_part(entry)
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
        return pipeline

    def _fresh(self, name: str, sampler: Any) -> Any:
        """Make a sampler of one's own, as the file of the denoiser says that this was trained."""
        return as_trained(_fresh(sampler), sampled_as(self.model) if name == "scheduler" else {})

    def _needed(self, cls: Any) -> list[str]:
        optional = {*getattr(cls, "_optional_components", ()), "self", "args", "kwargs"}
        return [
            name
            for name, p in inspect.signature(cls.__init__).parameters.items()
            if p.default is p.empty and name not in optional and not _is_null(self.index.get(name))
        ]

    @property
    def _unleased(self) -> set[str]:
        return {
            name for name, entry in self.index.items() if _is_part(entry) and name not in self.parts
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


def replace_parts(
    model: Model, others: Mapping[str, Any], groups: Sequence[str] = ("denoiser", "autoencoder")
) -> Model:
    """Return the checkpoint with the parts that the ports of these names give instead of its own.

    Raises:
        ModelError: it has no such part, or several.
    """
    for group in groups:
        if (other := others.get(group)) is not None:
            names = [
                name
                for name in names_in(model, group)
                if name in ("unet", "transformer", *AUTOENCODERS[:-1])
            ]
            if len(names) != 1:
                raise flow.ModelError(
                    f"the model '{model.reference}' has {' and '.join(names) or 'none'} for its"
                    f" {group}: nothing can stand in its place"
                )
            model = model.with_part(names[0], other)
    return model


def check_replaced_parts(models: Mapping[str, Any], *ports: str) -> None:
    """Refuse, when planning, parts at these ports that cannot stand in the place of a checkpoint's
    own.
    """
    model = models.get("model")
    if model is not None and (model.folder / "model_index.json").is_file():
        for part, other in replace_parts(model, models, ports).replaced_parts:
            refuse_misfit(model, part, other)


class Whole(Loader[Checkpoint]):
    """All of a diffusers checkpoint."""

    settings = DenoiserParts.settings

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return some_groups(model, *GROUPS)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)


class Drawing(Loader[Checkpoint]):
    """All of a checkpoint that draws from words, or from words and a picture."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        if kind in TAKEN_BY or not kind.endswith("Pipeline"):
            raise problem_of(model, "a node that draws", kind, "a checkpoint that draws from words")
        return some_groups(model, *GROUPS)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)


class Filling(Loader[Checkpoint]):
    """All of a checkpoint that fills in what a mask marks, which those that edit may do too."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        edits = TAKEN_BY.get(kind) == "image.edit" and kind.endswith("Pipeline")
        return some_groups(model, *GROUPS) if edits else Drawing().parts(model)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)


class Denoiser(Loader[Checkpoint]):
    """What takes the noise away, with its sampler."""

    settings = DenoiserParts.settings

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others, groups=("denoiser",))

    def check(self, model: Model) -> None:
        from ..pipelines.families import split_of

        split_of(model, what_is(model), "diffusion.denoise")

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return some_groups(model, "denoiser", "sampler")

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)


class Autoencoder(Loader[Checkpoint]):
    """What turns pixels into latents and back, with the safety checker if there is one."""

    settings = SHARED_SETTINGS

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others, groups=("autoencoder",))

    def check(self, model: Model) -> None:
        from ..pipelines.families import split_of

        split_of(model, what_is(model), "latents.decode")

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        checked = _is_part(index_of(model).get("safety_checker"))
        return some_groups(model, "autoencoder", *(["other"] if checked else []))

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)


def some_groups(model: Model, *groups: str) -> dict[str, Loader[Any]]:
    """Name the loaders of groups of a checkpoint, those that it has.

    Raises:
        ModelError: it is no checkpoint in the diffusers layout.
    """
    if not index_of(model):
        raise flow.ModelError(
            f"the model '{model.reference}' is no diffusers checkpoint: it is"
            f" {article(what_is(model))}"
        )
    return {name: GROUPS[name] for name in groups if names_in(model, name)}


def _refuse_unreadable(model: Model, group: str) -> None:
    """Refuse, by what lies in a checkpoint's folder, parts without weights, and weights that would
    be read without their scales.
    """
    _refuse_empty(model, group)
    _refuse_wordless(model, group)
    elsewhere = {name for name, _ in model.replaced_parts} | dict(
        model.base.holds if model.base is not None else ()
    ).keys()
    for part in names_in(model, group):
        if (
            part not in elsewhere
            and (model.folder / part / "config.json").is_file()
            and not saved_as(read_json(model, f"{part}/config.json"))
        ):
            refuse_scaled(model, part)


_WORDLESS = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|generation|processor|preprocessor|config|chat_template|additional_chat_templates)[\w.]*\.(json|jinja)|README\.md"
)
"""Names of the files of a tokenizer that hold none of its words; all others may."""


def _refuse_wordless(model: Model, group: str) -> None:
    """Refuse a tokenizer whose folder lacks the file of its words: transformers makes one that
    reads everything as unknown, and says nothing.
    """
    for part in names_in(model, group):
        folder = model.folder / part
        if (
            not folder.is_dir()
            or "Tokenizer" not in index_of(model)[part][1]
            or index_of(model)[part][1].startswith(("ByT5", "Canine"))
        ):  # these read bytes
            continue
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        words = {
            name
            for name in names
            if re.match(r"tokenizer\.([\d.]+\.)?json\Z", name) or not _WORDLESS.fullmatch(name)
        }
        if not words or words == {"vocab.json"} or words == {"merges.txt"}:
            lacking = (
                "the file of its words (tokenizer.json, vocab.json with merges.txt, or the like)"
                if not words
                else "merges.txt"
                if words == {"vocab.json"}
                else "vocab.json"
            )
            raise flow.ModelError(
                f"the model '{model.reference}' is not whole: its {part} lacks {lacking}; download"
                " it again"
            )


def _refuse_empty(model: Model, group: str) -> None:
    if empty := [part for part in names_in(model, group) if _is_empty(model, part)]:
        raise flow.ModelError(
            f"the model '{model.reference}' is not whole: the folder {empty[0]} has a config.json"
            " and no weights; download it again"
        )


_WEIGHTLESS = ("Extractor", "Processor", "Scheduler", "Tokenizer")
"""Words in the names of classes that have no weights."""


def _is_empty(model: Model, part: str) -> bool:
    """Whether a network lies in a folder without weights, and they come from nowhere else: a copy
    that broke off.
    """
    folder = model.folder / part
    if (
        any(word in index_of(model)[part][1] for word in _WEIGHTLESS)
        or not (folder / "config.json").is_file()
    ):
        return False
    elsewhere = {name for name, _ in model.replaced_parts} | dict(
        model.base.holds if model.base is not None else ()
    ).keys()
    return (
        part not in elsewhere
        and not any(folder.glob("*.safetensors"))
        and not any(name.startswith(f"{part}/") for name in model.pickles)
    )


def group_of(name: str) -> str:
    """Say in which group a part of this name is leased."""
    if name.startswith(
        ("tokenizer", "text_encoder", "prior_tokenizer", "prior_text_encoder", "processor")
    ):
        return "text"
    if name in AUTOENCODERS:
        return "autoencoder"
    if name.endswith("scheduler"):
        return "sampler"
    if (
        name.startswith(
            ("unet", "transformer", "prior_prior", "super_res", "decoder", "controlnet", "low_res")
        )
        or name == "prior"
    ):
        return "denoiser"
    return "other"


def _load(model: Model, group: str, device: str, dtype: str, settings: loaders.Loading) -> Group:
    index = index_of(model)
    return Group(
        {
            name: load_component(
                model, name, index[name], device=device, dtype=dtype, settings=settings
            )
            for name in names_in(model, group)
        }
    )


def _check_support(
    model: Model, group: str, device: str, dtype: str, settings: loaders.Loading
) -> None:
    _refuse_unreadable(model, group)
    if group == "denoiser":
        sampled_as(model)  # refuses what no sampler follows
    index, held = (
        index_of(model),
        dict(model.base.holds) if model.base is not None and model.path.suffix != ".gguf" else {},
    )
    held |= {
        name: "" for name, other in model.replaced_parts if other.path.suffix == ".safetensors"
    }
    if settings.quantization != "none" and (
        alone := sorted(held.keys() & set(names_in(model, group)))
    ):
        raise flow.ModelError(
            f"the {alone[0]} of the model '{model.reference}' comes from one file of weights, which"
            " diffusers does not quantize as it loads them: say quantization: none, or take a"
            " folder or a GGUF file"
        )
    others = {name: other for name, other in model.replaced_parts if other.path.is_dir()}
    networks = [
        name for name in names_in(model, group) if not name.startswith(("tokenizer", "processor"))
    ]
    parts = {
        name: (
            index[name][0],
            (
                read_json(others[name], "config.json")
                if name in others
                else read_json(model, f"{name}/config.json")
            ),
        )
        for name in networks
    }
    check_quantizing(model, parts, device=device, dtype=dtype, settings=settings)


def names_in(model: Model, group: str) -> tuple[str, ...]:
    """Name a checkpoint's parts of a group."""
    return tuple(
        name
        for name, entry in index_of(model).items()
        if _is_part(entry) and group_of(name) == group
    )


def folders_in(model: Model, group: str) -> tuple[str, ...]:
    """Name the folders of a checkpoint's parts of a group: several networks that are one part lie
    in folders with numbers.
    """
    index = index_of(model)
    return tuple(
        folder
        for name in names_in(model, group)
        for folder in (_folders(model, name) if index[name][1].startswith("Multi") else [name])
    )


def _folders(model: Model, name: str) -> list[str]:
    folders = takewhile(
        lambda folder: (model.folder / folder).is_dir(), (f"{name}_{number}" for number in count(1))
    )
    return [name, *folders]


def _is_part(entry: Any) -> TypeGuard[list[str]]:
    return (
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)
    )


def _is_null(entry: Any) -> bool:
    return isinstance(entry, list) and entry == [None, None]


def load_component(
    model: Model,
    name: str,
    entry: list[str],
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading | None = None,
) -> Any:
    """Load one part of a checkpoint with the class that its index names."""
    import torch
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import AutoImageProcessor, ProcessorMixin

    cls = component_class(model, name, entry)
    if issubclass(cls, SchedulerMixin) or hasattr(cls, "add_noise"):
        return load_scheduler(model, name)
    if issubclass(cls, torch.nn.Module) and entry[1].startswith("Multi"):
        kinds = {
            folder: read_json(model, f"{folder}/config.json").get("_class_name", "")
            for folder in _folders(model, name)
        }
        return cls(
            [
                load_part(
                    component_class(model, folder, ["diffusers", kind]),
                    model,
                    folder,
                    device=device,
                    dtype=dtype,
                    settings=settings,
                )
                for folder, kind in kinds.items()
            ]
        )
    if issubclass(cls, torch.nn.Module):
        return load_network(cls, model, name, device=device, dtype=dtype, settings=settings)
    folder = model.folder / name
    if not folder.is_dir():
        raise flow.ModelError(f"the model '{model.reference}' has no {name}")
    try:
        with quiet():
            if entry[1].endswith(
                ("ImageProcessor", "FeatureExtractor", "ImageProcessorFast", "ImageProcessorPil")
            ):
                return AutoImageProcessor.from_pretrained(
                    str(folder), backend="pil", local_files_only=True, trust_remote_code=False
                )
            if issubclass(cls, ProcessorMixin):
                return load_processor(cls, folder)
            made = cls.from_pretrained(str(folder), local_files_only=True)
    except (
        LookupError,
        TypeError,
        AttributeError,
    ) as odd:  # what the libraries raise for files that make no sense
        raise flow.ModelError(
            f"the model '{model.reference}' is damaged: the files of its {name} make no {entry[1]}"
            f" ({type(odd).__name__}: {plain(odd)})"
        ) from odd
    if "tokenizer" in name and made.model_max_length > MOST_TOKENS:
        # Nothing says how far it reads (``tokenizer_config.json``), so it is as far as its encoder
        # does, where pipelines ask.
        config = read_json(model, f"{name.replace('tokenizer', 'text_encoder')}/config.json")
        length = (config.get("text_config") or config).get("max_position_embeddings", 77)
        made.model_max_length = (
            length
            if isinstance(length, int)
            and str(config.get("model_type")).startswith(("clip", "bert"))
            else made.model_max_length
        )
    return made


def load_network(
    cls: Any,
    model: Model,
    name: str,
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading | None = None,
) -> Any:
    """Load a network of a checkpoint from where its weights are: its folder, the one file of all,
    or another model that stands in for it.
    """
    if (other := dict(model.replaced_parts).get(name)) is not None:
        return load_instead(cls, other, model, name, device=device, dtype=dtype, settings=settings)
    if model.base is not None and (beginning := dict(model.base.holds).get(name)) is not None:
        return load_from_file(
            cls,
            model.path,
            beginning,
            like=model.folder,
            part=name,
            of=model.reference,
            device=device,
            dtype=dtype,
            settings=settings,
        )
    return load_part(cls, model, name, device=device, dtype=dtype, settings=settings)


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
    said = {
        name: config.get(name, usual)
        for name, usual in (("prediction_type", "epsilon"), ("rescale_betas_zero_snr", False))
        if config
    }
    return {**said, **(predicts(other) if other.path.is_file() else {})}


def _fresh(sampler: Any) -> Any:
    return type(sampler).from_config(sampler.config)


@contextmanager
def sparing(vae: Any, rungs: Sequence[str]) -> Iterator[None]:
    """Let an autoencoder work tile by tile, or picture by picture, for a while, as the rungs of the
    memory ladder say and as far as it can. Whoever calls holds it alone.
    """
    ways = [
        way
        for rung, way in (("tile", "tiling"), ("slice", "slicing"))
        if rung in rungs and hasattr(vae, f"use_{way}")
    ]
    try:
        for way in ways:
            getattr(vae, f"enable_{way}")()
        yield
    finally:
        for way in ways:
            getattr(vae, f"disable_{way}")()


@contextmanager
def unchanged(parts: Sequence[Any]) -> Iterator[None]:
    """Put back what pipelines change of shared networks, and leave changed when they fail: the ways
    in which these attend. Whoever calls holds them alone.
    """
    before = [
        (part, dict(part.attn_processors)) for part in parts if hasattr(part, "attn_processors")
    ]
    try:
        yield
    finally:
        for part, processors in before:
            if part.attn_processors != processors:
                part.set_attn_processor(processors)
