"""Hold a picture to drawings: ControlNets and T2I-Adapters, which bases each fits, and how a
pipeline is told of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.loaders import Loader

from ..checkpoints.controlnets import IN_ONE_FILE, class_of, load_controlnet, text_width
from ..checkpoints.description import family_of
from ..checkpoints.folder import load_part, read_json, what_is
from ..loading.components import Checkpoint
from ..pipelines.calling import problem_of, to_pil

if TYPE_CHECKING:
    from imagen_flow import Image, Model


class Helper(NamedTuple):
    """How diffusers lends a kind of network to a checkpoint.

    `word` stands for it in the names of pipelines, `port` is their parameter, `families` those that
    it can be lent to. `latents` says that it reads its drawing through the
    checkpoint's autoencoder, `several` that more than one can be lent at once.
    """

    word: str
    families: tuple[str, ...]
    latents: bool = False
    several: bool = True
    port: str = "controlnet"


HELPERS = {
    "ControlNetModel": Helper("ControlNet", ("StableDiffusion", "StableDiffusionXL")),
    "ControlNetUnionModel": Helper("ControlNetUnion", ("StableDiffusionXL",)),
    "FluxControlNetModel": Helper("ControlNet", ("Flux",), latents=True),
    "QwenImageControlNetModel": Helper("ControlNet", ("QwenImage",), latents=True, several=False),
    "SD3ControlNetModel": Helper("ControlNet", ("StableDiffusion3",), latents=True),
    "SanaControlNetModel": Helper("ControlNet", ("Sana",), latents=True, several=False),
    "T2IAdapter": Helper("Adapter", ("StableDiffusion", "StableDiffusionXL"), port="adapter"),
}
"""By the class that a network says it is."""


def kind_of(network: Model) -> str:
    """Name the class of diffusers that a network is of; the first union ControlNet says what its
    authors called it before.
    """
    kind = what_is(network).replace("ControlNetModel_Union", "ControlNetUnionModel")
    return class_of(network) or kind if kind == IN_ONE_FILE else kind


def _configuration_of(network: Model) -> Mapping[str, Any]:
    """Read the configuration of a network, or what the header of its one file tells of it."""
    return (
        {"cross_attention_dim": text_width(network)}
        if network.path.is_file()
        else read_json(network, "config.json")
    )


class ControlNet(Loader[Any]):
    """A network that holds a picture to a drawing: a folder as diffusers saves one, or a ControlNet
    of Stable Diffusion or SDXL in one file.
    """

    takes_file = True

    def check(self, model: Model) -> None:
        if kind_of(model) == IN_ONE_FILE:
            raise flow.ModelError(
                f"the port 'controlnets' cannot use the model '{model.reference}': its shapes do"
                " not tell which ControlNet of a transformer it is; take the folder that has its"
                " config.json"
            )
        if kind_of(model) not in HELPERS:
            raise problem_of(
                model, "the port 'controlnets'", what_is(model), f"one of {', '.join(HELPERS)}"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        import diffusers

        self.check(model)
        if model.path.is_file():
            return load_controlnet(
                getattr(diffusers, kind_of(model)), model, device=device, dtype=dtype
            )
        return load_part(getattr(diffusers, kind_of(model)), model, "", device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "")


class Controls(NamedTuple):
    """What a node was given to hold the picture to: networks as they are lent, and lists beside
    them.
    """

    networks: Sequence[Any] | None = None
    images: Sequence[Image] | None = None
    scales: Sequence[float] | None = None
    starts: Sequence[float] | None = None
    ends: Sequence[float] | None = None
    modes: Sequence[int] | None = None

    @property
    def word(self) -> str:
        """The word for such networks in the names of diffusers' pipelines; none for none."""
        return HELPERS[type(self.networks[0]).__name__].word if self.networks else ""


def controlled(
    model: Checkpoint,
    cls: Any,
    given: Mapping[str, Any],
    controls: Controls,
    autoencoder: Checkpoint | None = None,
) -> tuple[Checkpoint, dict[str, Any]]:
    """Add to a checkpoint and to the arguments of its call what holds the picture to drawings: one
    or several networks, the checkpoint itself, or nothing.

    Inputs:
        autoencoder: where the checkpoint is leased without its own: what drawings are read through.
    Raises:
        ValueError: the lists differ in length, the networks cannot be lent together, or they lack
            an autoencoder.
        ModelError: a network was made for another base.
    """
    networks = list(controls.networks or [])
    takes = inspect.signature(cls.__call__).parameters
    arguments = dict(given)
    # A ControlNet that was made to fill in reads the picture and the mask themselves.
    fills = "control_mask" in takes
    if fills:
        arguments |= {
            "control_image": arguments.pop("image", None),
            "control_mask": arguments.pop("mask_image", None),
        }
    itself = not networks and "control_image" in takes
    count = 0 if fills else int(itself) or len(networks)
    union = [type(network).__name__ for network in networks] == ["ControlNetUnionModel"]
    if union or (len(networks) == 1 and networks[0].config.get("num_mode")):
        # It reads several drawings, each of a kind of its own: SDXL's at once, FLUX's one after the
        # other.
        count = max(1, len(controls.images or []))
        networks *= 1 if union else count
    _check_lists(controls, count, fills, itself)
    parts = dict(autoencoder.parts) if autoencoder is not None else {}
    if not networks:
        if itself and "autoencoder" not in model.groups and not parts:
            raise ValueError(
                "this checkpoint reads its drawing through its autoencoder, which is leased apart:"
                " name one as 'autoencoder'"
            )
        return model.with_parts(**parts), arguments | (
            {"control_image": to_pil(controls.images[0])} if itself and controls.images else {}
        )
    _check_networks(model, networks)

    def each(values: Sequence[Any] | None) -> Any:
        return None if not values else list(values) if union or len(networks) > 1 else values[0]

    helper = HELPERS[type(networks[0]).__name__]
    if (
        helper.latents
        and "autoencoder" not in model.groups
        and not parts
        and getattr(networks[0], "input_hint_block", None) is None
    ):
        raise ValueError(
            f"a {type(networks[0]).__name__} reads its drawing through an autoencoder, which is"
            " leased apart: name a checkpoint of the same family as 'autoencoder'"
        )
    named = {
        (
            "controlnet_conditioning_scale"
            if helper.port == "controlnet"
            else "adapter_conditioning_scale"
        ): each(controls.scales)
    }
    named |= {
        "control_guidance_start": each(controls.starts),
        "control_guidance_end": each(controls.ends),
        "control_mode": each(controls.modes),
    }
    if not fills:
        # diffusers calls the drawing `image`, except where a picture has that name already.
        named["control_image" if "control_image" in takes else "image"] = each(
            [to_pil(image) for image in controls.images or []]
        )
    parts[helper.port] = networks[0] if len(networks) == 1 else networks
    return model.with_parts(**parts), {**arguments, **named}


def _check_lists(controls: Controls, count: int, fills: bool, itself: bool) -> None:
    if fills and controls.images:
        raise ValueError(
            "this ControlNet fills in: it reads the picture and the mask themselves, and takes no"
            " 'control_images'"
        )
    held = (
        "this checkpoint is held to 1 drawing"
        if itself
        else f"its 'controlnets' are {len(controls.networks or [])}"
    )
    expected = {"images": count, "scales": count, "starts": count, "ends": count, "modes": count}
    if fills:
        expected |= dict.fromkeys(
            ("scales", "starts", "ends", "modes"), len(controls.networks or [])
        )
    for name, wanted in expected.items():
        values = getattr(controls, name) or []
        if len(values) != wanted and (values or name == "images"):
            raise ValueError(f"{held}, and 'control_{name}' holds {len(values)}: they must agree")


def _check_networks(model: Checkpoint, networks: Sequence[Any]) -> None:
    kinds = {type(network).__name__ for network in networks}
    if len(kinds) > 1:
        raise ValueError(
            f"its 'controlnets' are of different kinds, {' and '.join(sorted(kinds))}, which"
            " diffusers cannot lend together"
        )
    kind = kinds.pop()
    if len(networks) > 1 and not HELPERS[kind].several:
        raise ValueError(
            f"its 'controlnets' are {len(networks)}, and of {kind} diffusers takes one at a time"
        )
    for network in networks:
        unet = model.parts.get("unet")
        if why := misfit(
            kind, network.config, family_of(model.kind), unet.config if unet is not None else {}
        ):
            raise flow.ModelError(
                f"a {kind} among its 'controlnets' cannot be lent to the model"
                f" '{model.model.reference}' ({model.kind}): {why}"
            )


def foresee_controls(models: Mapping[str, Any]) -> None:
    """Refuse, before anything is loaded, a network that was made for another base than the model.

    Raises:
        ModelError: the message names both, and what each says it is.
    """
    model = models.get("model")
    if model is None or not family_of(what_is(model)):
        return
    for network in models.get("controlnets", ()):
        if (kind := kind_of(network)) in HELPERS and (
            why := misfit(
                kind,
                _configuration_of(network),
                family_of(what_is(model)),
                read_json(model, "unet/config.json"),
            )
        ):
            raise flow.ModelError(
                f"the {kind} '{network.reference}' cannot be lent to the model '{model.reference}'"
                f" ({what_is(model)}): {why}"
            )


def misfit(kind: str, config: Mapping[str, Any], family: str, unet: Mapping[str, Any]) -> str:
    """Say why a network cannot be lent to a base; nothing if it can, as far as configurations tell.

    Params:
        kind, config: the network's class and configuration.
        family, unet: the base's family, and the configuration of its denoiser if that is a UNet.
    """
    families = HELPERS[kind].families
    if family not in families:
        return f"it was made for {' or '.join(families)}"
    if kind == "T2IAdapter":
        wide = str(config.get("adapter_type", "")).endswith("_xl")
        return (
            "" if wide == (family == "StableDiffusionXL") else f"it was made for {families[wide]}"
        )
    reads, gives = config.get("cross_attention_dim"), unet.get("cross_attention_dim")
    return (
        f"it was made for text that is {reads} wide, and this model's is {gives}"
        if reads and gives and reads != gives
        else ""
    )
