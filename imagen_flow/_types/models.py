"""Models as values, and the contract for what loads them.

A `Model` is files with a fingerprint; it crosses edges like any other value. A `Loader` turns it
into a live object. ``Annotated[Network, Leased(NetworkLoader)]`` in a node's signature is a port
that takes a model and hands the node the `Network` that the loader made of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from .._system.dataclass import dataclass
from ..errors import ModelError
from .configurations import Memo, read_configuration
from .digest import tagged

__all__ = [
    "BaseCheckpoint",
    "Leased",
    "Loader",
    "Loading",
    "Model",
    "PLAIN",
    "StepCache",
    "name_of",
    "read_json",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StepCache(NamedTuple):
    """Which computations a denoiser takes over from earlier steps: the kind of cache, and its
    options as far as they were given, in order.
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()


class Loading(NamedTuple):
    """How a model is to be loaded and called, besides device and dtype. Each loader declares in
    `Loader.settings` which of these it acts on.

    `quantization` is ``none``, ``int8``, ``int4``, ``nf4`` or ``float8``. `offload` is ``none``,
    ``model`` (models wait on the host and come to the device in turn), ``layers`` or ``groups``
    (their layers do, one by one or several at a time). `attention` is ``auto`` (what torch
    chooses), ``math``, ``flash``, ``efficient`` or ``cudnn``, or ``diffusers/NAME``, one that diffusers dispatches to. `compile` compiles what is called
    most: whole models, or with ``regional`` the blocks that these repeat. `layerwise_casting` is
    ``none``, or the dtype in which layers keep their weights while they do not compute.
    `step_cache`, and attention of diffusers, act on calls alone: they change nothing of what is
    loaded.
    """

    quantization: str = "none"
    offload: str = "none"
    attention: str = "auto"
    compile: bool | str = False
    layerwise_casting: str = "none"
    step_cache: StepCache | None = None

    def resident(self) -> Loading:
        """Return what of the settings decides what is loaded."""
        called = self._replace(step_cache=None)
        return called if self.of_diffusers is None else called._replace(attention="auto")

    @property
    def of_diffusers(self) -> str | None:
        """The implementation of attention of diffusers that is asked for, if any."""
        library, slash, name = self.attention.partition("/")
        return name if (library, slash) == ("diffusers", "/") else None


#: How models are loaded by default.
PLAIN = Loading()


class BaseCheckpoint(NamedTuple):
    """What completes a checkpoint that is one file of weights, recognised by its header: see the
    hook `imagen_flow_base_of`.
    """

    #: The repository whose configurations and tokenizers it is loaded with, as ``hf:org/name``.
    reference: str
    #: The parts whose weights the file holds, by that repository's folder names: the prefix of the
    #: names of their tensors.
    holds: tuple[tuple[str, str], ...]
    #: The parts whose weights it lacks and needs: they come from the repository too.
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model's files: what a `train.*` node returns, and what a `Loader` loads from.

    `path` is a folder or a single file; `digest` is its fingerprint.

    ``Model[NetworkLoader]`` as an annotation is short for ``Annotated[Any,
    Leased(NetworkLoader)]``, for code that no type checker reads.
    """

    path: Path
    digest: str = ""
    #: The reference as the user wrote it, for messages and provenance.
    reference: str = ""
    #: The folders directly below and the digests of what they hold: equal parts of different models
    #: are known to be equal.
    parts: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)
    #: Which copy of the weights is meant where a folder holds several, as ``fp16``; empty: the
    #: plain one; None: the loader may choose.
    variant: str | None = field(default=None, compare=False)
    #: Pickles, by relative name, that the user allowed and that the scanner found harmless.
    pickles: tuple[str, ...] = field(default=(), compare=False)
    #: Whether the user allowed code that comes with the model to run.
    remote_code: bool = field(default=False, compare=False)
    #: What completes a checkpoint that is one file, and the folder where that lies; without the
    #: folder it is not on this machine, and `incomplete` says why.
    base: BaseCheckpoint | None = field(default=None, repr=False, compare=False)
    configurations: Path | None = field(default=None, compare=False)
    incomplete: str = field(default="", repr=False, compare=False)
    #: What `Loader.significant_name` made of its name. It is part of the value, since equal files
    #: may go by another name. Empty for most.
    significant_name: str = ""
    #: Parts of other models that are loaded instead of its own, by part name.
    replaced_parts: tuple[tuple[str, Model], ...] = field(default=(), repr=False, compare=False)
    #: The file system's times and numbers of its files when they were digested, by path.
    signs: tuple[tuple[str, tuple[int, ...]], ...] = field(default=(), repr=False, compare=False)
    #: What was worked out from its files so far: see `once`.
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Where its configurations are."""
        return self.configurations or self.path

    def once(self, describe: Callable[[Model], T]) -> T:
        """Return what a function works out from the model's files. It is called once, however often
        and by whomever it is asked for, as long as the model is held.

        Params:
            describe: goes by the model's own files alone, not by `reference`, `significant_name` or
                `replaced_parts`. What it returns is shared, so nobody may change it.
        """
        return self.memo.once((describe, self.path, self.configurations), lambda: describe(self))

    def with_part(self, name: str, part: Model) -> Model:
        """Return the model with a part of another one instead of its own."""
        parts = {
            **dict(self.parts),
            name: tagged(
                "model-part-instead",
                dict(self.parts).get(name, self.digest).encode(),
                part.digest.encode(),
            ),
        }
        digest = tagged("model-instead", self.digest.encode(), name.encode(), part.digest.encode())
        return replace(
            self,
            digest=digest,
            parts=tuple(sorted(parts.items())),
            replaced_parts=(*self.replaced_parts, (name, part)),
        )

    def __class_getitem__(cls, loader: Any) -> Any:
        return Annotated[Any, Leased(loader)]


def read_json(model: Model, name: str) -> Mapping[str, Any]:
    """Read a configuration in a model's folder; nothing if there is none. It is shared: don't
    change it.

    Raises:
        ModelError: it is not a JSON mapping, or cannot be read.
    """
    path = model.folder / name
    if not path.exists():
        return {}
    try:
        read = read_configuration(model.memo, path)
        error = read.error
    except OSError as failed:
        error = str(failed)
    if error:
        raise ModelError(
            f"the model '{model.reference}' is damaged: {name} cannot be read ({error})"
        )
    if not isinstance(read.content, dict):
        raise ModelError(f"the model '{model.reference}' is damaged: {name} is no mapping")
    return read.content


class Loader(Protocol[T_co]):
    """Loads models of one kind. Subclass it, with the type of what it loads: ``class
    NetworkLoader(Loader[Network])``.

    A loader either loads a model itself, by `load`; or it names other loaders, by `parts`, and
    `assemble` puts what they load together. Parts are leased one by one, so a node that needs some
    of them shares these with a node that needs all. Everything else has a default.

    What a loader returns is shared by all nodes that lease it: nobody may change it. The class is
    imported when graphs are planned, so it imports heavy libraries only inside `load`.
    """

    #: Fields of `Loading` that the loader acts on. What is not named here changes neither what is
    #: loaded nor the keys of steps. A loader with parts names all that its parts act on.
    settings: Sequence[str] = ()
    #: Whether it reads a single file of weights by itself. If not, a checkpoint that is one file is
    #: completed by configurations and tokenizers first (see `BaseCheckpoint`).
    takes_file: bool = False
    #: What nodes use the loaded object as, e.g. ``text encoder``. If given, other plugins may offer
    #: loaders for this role: see the hook `imagen_flow_loaders`.
    role: str = ""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> T_co:
        """Load a model. Of `settings`, all that the loader does not act on are at their defaults.

        Raises:
            ModelError: it cannot be loaded; other exceptions are wrapped in one.
        """
        raise TypeError(f"{name_of(self)} implements neither load nor parts")

    def parts(self, model: Model) -> Mapping[str, Loader[Any]] | None:
        """Return the loaders of a model's parts by name, if this loader is made of others. It is
        called when planning.

        Raises:
            ModelError: the model is of a kind that the loader cannot load.
        """
        return None

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> T_co:
        """Put loaded parts together. It is called for each lease, so it must be cheap."""
        raise TypeError(f"{name_of(self)} has parts and does not implement assemble")

    def for_call(self, model: Model, lent: Any, settings: Loading) -> T_co:
        """Return what was assembled as its calls are to be made: with the settings that act on
        calls, as `Loading.step_cache`. Nothing that is shared may be changed.
        """
        found: T_co = lent
        return found

    def check(self, model: Model) -> None:
        """Refuse models of another kind, when planning, by what their configurations say.

        Raises:
            ModelError: the loader cannot load this kind of model.
        """
        self.parts(model)

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        """Refuse combinations of model, device, dtype and settings that cannot work: a library is
        missing, a part cannot be quantized. It is called when planning and again before loading,
        and only for loaders without parts.

        Raises:
            ModelError: the model cannot be loaded this way.
        """
        return

    def folders(self, model: Model) -> Sequence[str] | None:
        """Return the folders directly below the model's that the loader reads; None for all of it.
        Models that agree in these folders share one loaded object, whatever else they hold.
        """
        return None

    def disk_bytes(self, model: Model) -> int | None:
        """Return how many bytes of weights it loads, as they lie on the disk (see
        `imagen_flow.loaders.size_of`); None for those in `folders`, or all.
        """
        return None

    def significant_name(self, model: Model) -> str:
        """Return what of the model's name changes results, for instance the word that a textual
        inversion is for. It becomes part of the value, so equal files under two names are two
        values.
        """
        return ""

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        """Return the model to load when the node was given others at its other ports, which hold
        parts to use instead of its own (see `Model.with_part`).

        Raises:
            ModelError: they do not go together.
        """
        return model

    def kind_of(self, model: Model) -> str:
        """Return the class that a checkpoint names in its ``model_index.json``, by which loaders
        that other plugins offer for this role are found.
        """
        try:
            kind = read_json(model, "model_index.json").get("_class_name")
        except ModelError:
            return ""
        return kind if isinstance(kind, str) else ""


def name_of(loader: Loader[Any]) -> str:
    """Name a loader: its class, and its fields if it is a dataclass that has some."""
    cls = type(loader)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if dataclasses.is_dataclass(loader) and (fields := dataclasses.fields(loader)):
        values = ", ".join(f"{one.name}={getattr(loader, one.name)!r}" for one in fields)
        return f"{name}({values})"
    return name


@dataclass(frozen=True, slots=True)
class Leased:
    """Marks a port whose node gets what a loader makes of a model, for as long as it runs:
    ``Annotated[Network, Leased(NetworkLoader)]``.

    The loader may be given as its class, if that takes no arguments.
    """

    of: Loader[Any] | type[Loader[Any]]

    def loader(self) -> Loader[Any]:
        """Return the loader.

        Raises:
            TypeError: it is not one.
        """
        made = self.of() if isinstance(self.of, type) else self.of
        if Loader not in type(made).__mro__:
            raise TypeError(
                f"Leased({getattr(self.of, '__name__', self.of)}) needs a loader: a subclass of"
                " imagen_flow.loaders.Loader"
            )
        name = type(made).__qualname__
        if isinstance(made.settings, str) or not set(made.settings) <= set(Loading._fields):
            raise TypeError(
                f"{name}.settings is {made.settings!r}; it is a list of"
                f" {', '.join(Loading._fields)}"
            )
        if not isinstance(made.role, str):
            raise TypeError(f"{name}.role is {made.role!r}; it is text")
        if not isinstance(made, Hashable):
            raise TypeError(f"{name} is not hashable; declare it with @dataclass(frozen=True)")
        return made
