"""Describe a checkpoint by its configurations and headers: once, and without loading any of it.

A ``model_index.json`` comes from a stranger. What it says is taken as text here; `classes` decides
which class may be loaded for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders

from .single_file import kind_of_file

if TYPE_CHECKING:
    from imagen_flow import Model

AUTOENCODERS = ("vae", "movq", "vqvae", "vqgan", "audio_vae")
"""Names of the parts that turn latents into pixels."""

NAMED_SPACES: dict[tuple[Any, ...], str] = {
    (4, 0.18215, None): "Stable Diffusion: ",
    (4, 0.13025, None): "SDXL: ",
    (16, 1.5305, 0.0609): "SD 3: ",
    (16, 0.3611, 0.1159): "FLUX: ",
    (32, 0.41407, None): "Sana: ",
}
"""Latent spaces that have a name, by channels, scaling and shift."""

RENAMED = {"Lumina2Text2ImgPipeline": "Lumina2Pipeline", "LuminaText2ImgPipeline": "LuminaPipeline"}
"""What diffusers calls classes now that older checkpoints name as they were called."""

_PIPELINE = re.compile(
    r"(?P<family>.+?)(ControlNetUnion|ControlNet|Adapter|(?P<variant>Control|Fill))?(Img2Img|Inpaint(ing)?|SuperResolution)?(Combined|Decoder)?Pipeline\Z"
)


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint: the class that the index names for it, and where its files lie in the
    checkpoint's folder.
    """

    name: str
    library: str
    class_name: str
    folder: str


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, as its own files say.

    `kind` is the class of pipeline or network that it names, or a few words where it names none;
    `family` is diffusers' name of the family. `index` holds what ``model_index.json`` says, `parts`
    the parts among that. `configs` has the configurations of these by their folders, `damaged` what
    is wrong with those that cannot be read.
    """

    kind: str
    family: str
    index: Mapping[str, Any]
    parts: Mapping[str, Part]
    configs: Mapping[str, Mapping[str, Any]]
    damaged: Mapping[str, str]

    def config(self, folder: str) -> Mapping[str, Any]:
        """Return the configuration in a part's folder; nothing if there is none.

        Raises:
            ModelError: it is damaged.
        """
        if folder in self.damaged:
            raise flow.ModelError(self.damaged[folder])
        return self.configs.get(folder, {})

    @property
    def autoencoder(self) -> Mapping[str, Any]:
        """The configuration of what turns latents into pixels; nothing if there is no such part."""
        return next((found for name in AUTOENCODERS if (found := self.config(name))), {})

    @property
    def downscales(self) -> int:
        """How many times smaller latents are than pixels."""
        config = self.autoencoder
        levels = (
            config.get("block_out_channels")
            or config.get("encoder_block_out_channels")
            or config.get("dim_mult")
            or [0]
        )
        return int(2 ** (len(levels) - 1))

    @property
    def latent_space(self) -> str:
        """A name of the space that the latents are in: equal spaces have one name."""
        config = self.autoencoder
        if not config:
            return "pixels"
        channels = config.get("latent_channels", config.get("z_dim", 4))
        size = f"{channels} channels of 1/{self.downscales}"
        scale, shift = config.get("scaling_factor"), config.get("shift_factor") or None
        if scale is None and "z_dim" not in config:
            scale = 0.18215
        named = NAMED_SPACES.get((channels, scale, shift), "")
        if "batch_norm_eps" in config:
            return f"FLUX.2: {size}, normalised by its autoencoder"
        ways = [] if scale is None else [f"scaled by {scale:g}"]
        if shift:
            ways.append(f"shifted by {shift:g}")
        if config.get("latents_mean") and config.get("latents_std"):
            numbers = " ".join(
                f"{number:.9g}" for key in ("latents_mean", "latents_std") for number in config[key]
            )
            named = ""
            ways.append(f"normalised ({sha256(numbers.encode()).hexdigest()[:8]})")
        return f"{named}{', '.join([size, *ways])}"


def describe(model: Model) -> Description:
    """Describe a checkpoint. Its files are read once, however often it is asked for.

    Raises:
        ModelError: a configuration is damaged.
    """
    return model.once(_describe)


def _describe(model: Model) -> Description:
    kind, index = _kind(model), _index(model)
    parts = {
        name: Part(name, entry[0], entry[1], name if (model.folder / name).is_dir() else ".")
        for name, entry in index.items()
        if isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(word, str) for word in entry)
    }
    configs: dict[str, Mapping[str, Any]] = {}
    damaged: dict[str, str] = {}
    for folder in sorted({*(part.folder for part in parts.values()), *AUTOENCODERS}):
        try:
            configs[folder] = MappingProxyType(loaders.read_json(model, f"{folder}/config.json"))
        except flow.ModelError as error:
            damaged[folder] = str(error)
    return Description(
        kind=kind,
        family=family_of(kind),
        index=MappingProxyType(index),
        parts=MappingProxyType(parts),
        configs=MappingProxyType(configs),
        damaged=MappingProxyType(damaged),
    )


def what_is(model: Model) -> str:
    """Name the class that a checkpoint says it is, in words where it does not say.

    Raises:
        UnresolvedModel: it is one file, and what completes it is not on this machine.
    """
    if model.base is not None and model.configurations is None:
        raise loaders.UnresolvedModel(
            f"unresolved: '{model.reference}' is weights alone, and what completes it is not on"
            " this machine",
            why=(
                "its configurations and"
                f" tokenizers{''.join(f', its {name}' for name in model.base.lacks)} come from"
                f" {model.base.reference}; {model.incomplete}"
            ),
            fix=f"run `imagen-flow models pull {model.reference}`",
        )
    return describe(model).kind


def index_of(model: Model) -> Mapping[str, Any]:
    """Return what a checkpoint's index says of its parts, and of the whole."""
    return describe(model).index


def family_of(kind: str) -> str:
    """Return diffusers' name of the family that a class of pipeline belongs to: ``Flux`` of
    ``FluxInpaintPipeline``.
    """
    found = _PIPELINE.match(kind)
    return found["family"] if found else ""


def variant_of(kind: str) -> str:
    """Return the word for what a checkpoint was trained to read beside the prompt: ``Control`` of
    ``FluxControlPipeline``, ``Fill`` of ``FluxFillPipeline``.
    """
    found = _PIPELINE.match(kind)
    return (found["variant"] or "") if found else ""


def _kind(model: Model) -> str:
    if model.configurations is None and model.path.is_file():
        return kind_of_file(model)
    for name, key in (
        ("model_index.json", "_class_name"),
        ("modular_model_index.json", "_class_name"),
        ("config.json", "_class_name"),
        ("config.json", "architectures"),
    ):
        named = loaders.read_json(model, name).get(key)
        named = named[0] if isinstance(named, list) and named else named
        if isinstance(named, str) and named:
            return RENAMED.get(named, named[:100])
    return "folder without model_index.json"


def _index(model: Model) -> dict[str, Any]:
    """Read what a checkpoint's parts are. One that is a single file does without the safety checker
    of the checkpoint that completes it, as in diffusers; of a modular one those count that lie in
    it.
    """
    index = loaders.read_json(model, "model_index.json")
    if not index:
        index = {
            name: (
                entry[:2]
                if isinstance(entry, list) and len(entry) == 3 and (model.folder / name).is_dir()
                else entry
            )
            for name, entry in loaders.read_json(model, "modular_model_index.json").items()
        }
    if model.base is not None and "safety_checker" in index:
        return {**index, "safety_checker": [None, None]}
    return dict(index)
