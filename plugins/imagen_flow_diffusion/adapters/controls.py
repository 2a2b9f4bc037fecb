"""Hold a picture to drawings: ControlNets and T2I-Adapters, which bases each fits, and how a
pipeline is told of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Model, Range, loaders
from imagen_flow.loaders import Leased, Loader, read_json

from ..checkpoints.controlnets import IN_ONE_FILE, class_of, load_controlnet, text_width
from ..checkpoints.description import family_of, what_is
from ..checkpoints.folder import load_part
from ..loading.checkpoint import Checkpoint
from ..pipelines.calling import problem_of, to_pil


class ControlKind(NamedTuple):
    """How diffusers lends a kind of network to a checkpoint.

    `word` stands for it in the names of pipelines, `port` is their parameter, `families` those that
    it can be lent to. `latents` says that it reads its drawing through the checkpoint's
    autoencoder, `several` that more than one can be lent at once.
    """

    word: str
    families: tuple[str, ...]
    latents: bool = False
    several: bool = True
    port: str = "controlnet"


CONTROL_KINDS = {
    "ControlNetModel": ControlKind("ControlNet", ("StableDiffusion", "StableDiffusionXL")),
    "ControlNetUnionModel": ControlKind("ControlNetUnion", ("StableDiffusionXL",)),
    "FluxControlNetModel": ControlKind("ControlNet", ("Flux",), latents=True),
    "QwenImageControlNetModel": ControlKind(
        "ControlNet", ("QwenImage",), latents=True, several=False
    ),
    "SD3ControlNetModel": ControlKind("ControlNet", ("StableDiffusion3",), latents=True),
    "SanaControlNetModel": ControlKind("ControlNet", ("Sana",), latents=True, several=False),
    "T2IAdapter": ControlKind("Adapter", ("StableDiffusion", "StableDiffusionXL"), port="adapter"),
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
                f"the port 'controls' cannot use the model '{model.reference}': its shapes do"
                " not tell which ControlNet of a transformer it is; take the folder that has its"
                " config.json"
            )
        if kind_of(model) not in CONTROL_KINDS:
            raise problem_of(
                model, "the port 'controls'", what_is(model), f"one of {', '.join(CONTROL_KINDS)}"
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


@flow.record
class ControlUse:
    """What a picture is held to: a drawing, and the network that reads it."""

    model: Annotated[Any, Leased(ControlNet)] | None = None
    image: Image | None = None
    scale: float | None = None
    from_: Annotated[float, Range(0, 1)] | None = None
    to: Annotated[float, Range(0, 1)] | None = None
    mode: int | None = None


#: The fields of `ControlUse` that become arguments of pipelines, as graphs write them.
_ARGUMENTS = {
    "scale": "controlnet_conditioning_scale",
    "from": "control_guidance_start",
    "to": "control_guidance_end",
    "mode": "control_mode",
}


def pipeline_word(controls: Sequence[ControlUse]) -> str:
    """Give the word for the networks in the names of diffusers' pipelines; empty for none."""
    networks = [control.model for control in controls if control.model is not None]
    return CONTROL_KINDS[type(networks[0]).__name__].word if networks else ""


def with_controls(
    model: Checkpoint,
    cls: Any,
    given: Mapping[str, Any],
    controls: Sequence[ControlUse],
    autoencoder: Checkpoint | None = None,
) -> tuple[Checkpoint, dict[str, Any]]:
    """Add to a checkpoint and to the arguments of its call what holds the picture to drawings: one
    or several networks, the checkpoint itself, or nothing.

    Inputs:
        autoencoder: where the checkpoint is leased without its own: what drawings are read through.
    Raises:
        ValueError: a control lacks its network or its drawing, the networks cannot be lent
            together, or they lack an autoencoder.
        ModelError: a network was made for another base.
    """
    takes = inspect.signature(cls.__call__).parameters
    arguments = dict(given)
    # A ControlNet that was made to fill in reads the picture and the mask themselves.
    fills = "control_mask" in takes
    if fills:
        arguments |= {
            "control_image": arguments.pop("image", None),
            "control_mask": arguments.pop("mask_image", None),
        }
    parts = dict(autoencoder.parts) if autoencoder is not None else {}
    networks = [control.model for control in controls if control.model is not None]
    if not networks:
        by_itself = "control_image" in takes
        drawing = _drawing_of_checkpoint(controls, by_itself)
        if by_itself and "autoencoder" not in model.groups and not parts:
            raise ValueError(
                "this checkpoint reads its drawing through its autoencoder, which is leased apart:"
                " name one as 'autoencoder'"
            )
        return model.with_parts(**parts), arguments | drawing
    _check_fields(controls, fills)
    # A union network that several drawings are given to is lent once.
    union = _is_one_union(networks)
    if union:
        networks = networks[:1]
    _check_networks(model, networks)
    kind = CONTROL_KINDS[type(networks[0]).__name__]
    if (
        kind.latents
        and "autoencoder" not in model.groups
        and not parts
        and getattr(networks[0], "input_hint_block", None) is None
    ):
        raise ValueError(
            f"a {type(networks[0]).__name__} reads its drawing through an autoencoder, which is"
            " leased apart: name a checkpoint of the same family as 'autoencoder'"
        )

    def as_argument(values: list[Any]) -> Any:
        return values if union or len(networks) > 1 else values[0]

    for field, name in _ARGUMENTS.items():
        if field == "scale" and kind.port == "adapter":
            name = "adapter_conditioning_scale"
        values = [getattr(control, "from_" if field == "from" else field) for control in controls]
        if any(value is not None for value in values):
            arguments[name] = as_argument([_or_default(value, name, takes) for value in values])
    if not fills:
        # diffusers calls the drawing `image`, except where a picture has that name already.
        arguments["control_image" if "control_image" in takes else "image"] = as_argument(
            [to_pil(control.image) for control in controls if control.image is not None]
        )
    parts[kind.port] = networks[0] if len(networks) == 1 else networks
    return model.with_parts(**parts), arguments


def _is_one_union(networks: Sequence[Any]) -> bool:
    """Whether all networks are the same union ControlNet of SDXL."""
    return type(networks[0]).__name__ == "ControlNetUnionModel" and all(
        network is networks[0] for network in networks
    )


def _or_default(value: Any, name: str, takes: Mapping[str, inspect.Parameter]) -> Any:
    """Give a value, or what the pipeline takes where nothing is said."""
    if value is not None or name not in takes:
        return value
    default = takes[name].default
    return default[0] if isinstance(default, list | tuple) else default


def _drawing_of_checkpoint(controls: Sequence[ControlUse], by_itself: bool) -> dict[str, Any]:
    """Give the drawing of a checkpoint that is held to one without a network."""
    if not by_itself:
        if controls:
            raise ValueError(
                "its 'controls[0]' names no 'model', but this checkpoint has no built-in"
                " control: write controls: [{model: …, image: …}]"
            )
        return {}
    drawings = [control.image for control in controls if control.image is not None]
    if len(controls) != 1 or len(drawings) != 1:
        raise ValueError(
            f"this checkpoint takes 1 control image, but its 'controls' have {len(drawings)}: write"
            " controls: [{image: …}]"
        )
    control = controls[0]
    if any(value is not None for value in (control.scale, control.from_, control.to, control.mode)):
        raise ValueError(
            "this checkpoint has built-in control: its 'controls[0]' takes only an 'image'"
        )
    return {"control_image": to_pil(drawings[0])}


def _check_fields(controls: Sequence[ControlUse], fills: bool) -> None:
    """Refuse controls without a network, or without the drawing that it reads."""
    for i, control in enumerate(controls):
        if control.model is None:
            raise ValueError(f"its 'controls[{i}]' names no 'model', but others do")
        if fills and control.image is not None:
            raise ValueError(
                "this is an inpainting ControlNet: it reads the picture and the mask; omit the"
                f" 'image' of 'controls[{i}]'"
            )
        if not fills and control.image is None:
            raise ValueError(f"its 'controls[{i}]' has no 'image'")


def _check_networks(model: Checkpoint, networks: Sequence[Any]) -> None:
    kinds = {type(network).__name__ for network in networks}
    if len(kinds) > 1:
        raise ValueError(
            f"its 'controls' have models of different kinds, {' and '.join(sorted(kinds))}, which"
            " diffusers cannot combine"
        )
    kind = kinds.pop()
    if len(networks) > 1 and not CONTROL_KINDS[kind].several:
        raise ValueError(
            f"its 'controls' are {len(networks)}, and of {kind} diffusers takes one at a time"
        )
    for network in networks:
        unet = model.parts.get("unet")
        if why := misfit(
            kind, network.config, family_of(model.kind), unet.config if unet is not None else {}
        ):
            raise flow.ModelError(
                f"a {kind} among its 'controls' does not fit the model"
                f" '{model.model.reference}' ({model.kind}): {why}"
            )


def check_controls(models: Mapping[str, Any]) -> None:
    """Refuse, before anything is loaded, a network for another base than the model.

    Raises:
        ModelError: the message names both, and what each says it is.
    """
    model = models.get("model")
    if model is None or not family_of(what_is(model)):
        return
    for network in models.get("controls.model", ()):
        if (kind := kind_of(network)) in CONTROL_KINDS and (
            why := misfit(
                kind,
                _configuration_of(network),
                family_of(what_is(model)),
                read_json(model, "unet/config.json"),
            )
        ):
            raise flow.ModelError(
                f"the {kind} '{network.reference}' does not fit the model '{model.reference}'"
                f" ({what_is(model)}): {why}"
            )


def misfit(kind: str, config: Mapping[str, Any], family: str, unet: Mapping[str, Any]) -> str:
    """Say why a network cannot be lent to a base; nothing if it can, as far as configurations tell.

    Params:
        kind, config: the network's class and configuration.
        family, unet: the base's family, and the configuration of its denoiser if that is a UNet.
    """
    families = CONTROL_KINDS[kind].families
    if family not in families:
        return f"it was made for {' or '.join(families)}"
    if kind == "T2IAdapter":
        wide = str(config.get("adapter_type", "")).endswith("_xl")
        return (
            "" if wide == (family == "StableDiffusionXL") else f"it was made for {families[wide]}"
        )
    reads, gives = config.get("cross_attention_dim"), unet.get("cross_attention_dim")
    return (
        f"it was made for text that is {reads} wide, and this model gives {gives}"
        if reads and gives and reads != gives
        else ""
    )
