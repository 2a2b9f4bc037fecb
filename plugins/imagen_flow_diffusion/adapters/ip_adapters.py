"""Attach IP-Adapters and their image encoder to a shared checkpoint for one call, and detach them
again.

An adapter's tensors are read, copied and checked here: diffusers leaves tensors that a file lacks on
the meta device, and leaves LoRAs that some adapters bring on the base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..checkpoints.folder import MAX_LAYERS, load_part
from ..loading.checkpoint import Checkpoint
from ..loading.temporary_changes import unchanged

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_flow import Model

    from .files import Adapter

_LAYER = re.compile(r"(?P<number>\d+)\.to_(?P<letter>[kv])_ip\.(?P<end>weight|bias)\Z")
_RENAMED = (
    ("ip_adapter_double_stream_k_proj", "to_k_ip"),
    ("ip_adapter_double_stream_v_proj", "to_v_ip"),
    ("processor.", ""),
)
"""What the authors of FLUX's call what diffusers calls otherwise."""

_BEGINNINGS = {
    "image_proj": "image_proj",
    "ip_adapter_proj_model": "image_proj",
    "ip_adapter": "ip_adapter",
    "double_blocks": "ip_adapter",
}
"""The two halves of an adapter by the first word of a tensor's name."""


@contextmanager
def attach_ip_adapters(
    pipeline: Any,
    checkpoint: Checkpoint,
    adapters: Sequence[Adapter],
    *,
    names: Sequence[str | None],
    scales: Sequence[float],
    encoder: Any,
) -> Iterator[list[str]]:
    """Attach IP-Adapters to a pipeline and detach them at the end, whatever happens. The caller holds
    the checkpoint's lock.

    Params:
        names: the file of weights in each adapter's folder; None if there is one.
        encoder: what reads the pictures, and its processor; None takes the pipeline's own, or what
            comes with the adapters.
    Outputs: notes about what of them is not applied.
    Raises:
        ValueError: the pipeline takes no IP-Adapters, or one is incomplete, of another kind or made
            for another base.
    """
    if not hasattr(pipeline, "load_ip_adapter") or type(pipeline).__name__.startswith(
        "StableDiffusion3"
    ):
        raise ValueError(
            f"{type(pipeline).__name__} does not support IP-Adapters here; pipelines of Stable"
            " Diffusion 1 and 2, SDXL and FLUX.1 do"
        )
    files = [adapter.file(name) for adapter, name in zip(adapters, names, strict=True)]
    if encoder is None and getattr(pipeline, "image_encoder", None) is None:
        encoder = _brought_encoder(pipeline, checkpoint, list(zip(adapters, files, strict=True)))
    notes: list[str] = []
    states = [
        _read(adapter, name, checkpoint, notes)
        for adapter, name in zip(adapters, names, strict=True)
    ]
    if encoder is not None:
        pipeline.register_modules(
            image_encoder=encoder[0],
            feature_extractor=getattr(pipeline, "feature_extractor", None) or encoder[1],
        )
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    reads, kind = (
        getattr(network, "encoder_hid_proj", None),
        getattr(network.config, "encoder_hid_dim_type", None),
    )
    with unchanged([network]):
        try:
            _load(
                pipeline,
                network,
                states,
                list(scales),
                adapters,
                checkpoint,
            )
            yield notes
        finally:
            pipeline.unload_ip_adapter()
            network.encoder_hid_proj = reads
            network.config.encoder_hid_dim_type = kind


def check_adapter_names(what: str, names: Iterable[str]) -> None:
    """Check a file by the names of its tensors.

    Raises:
        ValueError: it is not an IP-Adapter, is incomplete, or is one that reads faces by another
            network.
    """
    _layers(what, _sort(what, names)[0]["ip_adapter"])


def _read(
    adapter: Adapter, name: str | None, checkpoint: Checkpoint, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Read an adapter's two halves, off the mapped file, and note what else the file holds.

    Raises:
        ValueError: it is no IP-Adapter, one that reads faces by another network, not whole, or made
            for another base.
    """
    state = adapter.read(name)
    what = f"the IP-Adapter '{adapter.model.reference}'"
    flat = (
        {f"{half}.{key}": tensor for half, held in state.items() for key, tensor in held.items()}
        if all(isinstance(held, dict) for held in state.values())
        else state
    )
    halves, others = _sort(what, [key for key, tensor in flat.items() if hasattr(tensor, "shape")])
    _refuse_other_base(what, _layers(what, halves["ip_adapter"]), checkpoint)
    if others:
        notes.append(
            f"{len(others)} of {len(flat)} tensors of '{adapter.name}' are not part of an"
            f" IP-Adapter and are skipped: {', '.join(others[:2])}{', …' if len(others) > 2 else ''}"
        )
    return {
        half: {rest: flat[key].clone() for rest, key in held.items()}
        for half, held in halves.items()
    }


def _sort(what: str, names: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sort names into the two halves of an adapter, each by the name that diffusers has for it, and
    others.
    """
    found: dict[str, dict[str, str]] = {"image_proj": {}, "ip_adapter": {}}
    others = []
    for key in sorted(names):
        half, _, rest = key.partition(".")
        if half not in _BEGINNINGS:
            others.append(key)
            continue
        for theirs, ours in _RENAMED if _BEGINNINGS[half] == "ip_adapter" else ():
            rest = rest.replace(theirs, ours)
        found[_BEGINNINGS[half]][rest] = key
    if not any(found.values()):
        raise ValueError(f"{what} is none: it holds {', '.join(others[:3]) or 'nothing'}")
    if any("lora" in key for key in found["ip_adapter"]) or (
        "proj.0.weight" in found["image_proj"] and "proj.3.weight" not in found["image_proj"]
    ):
        raise ValueError(
            f"{what} needs face embeddings (FaceID), which are not supported; use an adapter that"
            " reads pictures"
        )
    for half, held in found.items():
        if not held:
            raise ValueError(
                f"{what} is not whole: it holds no tensors of {half}; download it again"
            )
    return found, others


def _layers(what: str, held: Iterable[str]) -> list[int]:
    """Give the numbers of an adapter's layers, each with all its matrices.

    Raises:
        ValueError: some are missing, or of a kind that diffusers does not read.
    """
    layers: dict[int, set[str]] = {}
    for key in held:
        if (layer := _LAYER.match(key)) is None:
            raise ValueError(
                f"{what} is of a kind that diffusers does not read: it holds ip_adapter.{key}"
            )
        layers.setdefault(int(layer["number"]), set()).add(f"{layer['letter']}.{layer['end']}")
    every = set().union(*layers.values())
    numbers = sorted(layers)
    step = 2 if numbers[0] == 1 else 1
    wanted = range(numbers[0], min(numbers[-1], MAX_LAYERS) + 1, step)
    lacking = [
        f"{number}.to_{end.replace('.', '_ip.')}"
        for number in wanted
        for end in sorted(every | {"k.weight", "v.weight"})
        if end not in layers.get(number, ())
    ]
    if numbers[0] not in (0, 1):
        lacking = ["1.to_k_ip.weight", *lacking]
    if lacking:
        raise ValueError(
            f"{what} is not whole: it lacks"
            f" '{lacking[0]}'{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''};"
            " download it again"
        )
    return numbers


def _refuse_other_base(what: str, numbers: Sequence[int], checkpoint: Checkpoint) -> None:
    network: Any = checkpoint.parts.get("unet", checkpoint.parts.get("transformer"))
    wanted = sum(
        not name.endswith("attn1.processor") and not name.startswith("single_transformer_blocks")
        for name in network.attn_processors
    )
    if len(numbers) != wanted:
        raise ValueError(
            f"{what} was made for a different base than '{checkpoint.model.reference}'"
            f" ({checkpoint.kind}): it is for {len(numbers)} layers that read words, and the base"
            f" has {wanted}"
        )


def _load(
    pipeline: Any,
    network: Any,
    states: Sequence[dict[str, dict[str, Any]]],
    scales: list[float],
    adapters: Sequence[Adapter],
    checkpoint: Checkpoint,
) -> None:
    names = " and ".join(f"'{adapter.model.reference}'" for adapter in adapters)
    # FLUX has another name for where the encoder would be fetched from.
    nowhere = (
        {"image_encoder_folder": None}
        if hasattr(pipeline, "unet")
        else {"image_encoder_pretrained_model_name_or_path": None}
    )
    try:
        pipeline.load_ip_adapter(
            list(states), subfolder=[""] * len(states), weight_name=[""] * len(states), **nowhere
        )
        pipeline.set_ip_adapter_scale(scales)
        empty = [
            name
            for name, weight in network.named_parameters()
            if weight.is_meta and name.startswith("encoder_hid_proj")
        ]
        empty += [
            name
            for name, processor in network.attn_processors.items()
            for weight in getattr(processor, "parameters", list)()
            if weight.is_meta
        ]
        if empty:
            raise NotImplementedError(empty[0])
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"the IP-Adapter {names} is not whole: {_lacked(error)}; download it again"
        ) from error
    except (ValueError, RuntimeError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the IP-Adapter {names} was made for a different base than"
            f" '{checkpoint.model.reference}' ({checkpoint.kind}): {reason[:200]}"
        ) from error


def _lacked(error: Exception) -> str:
    return (
        f"it lacks '{error.args[0]}'"
        if isinstance(error, KeyError) and error.args
        else "weights of image_proj, which makes words of a picture, are missing"
    )


def _brought_encoder(
    pipeline: Any, checkpoint: Checkpoint, found: Sequence[tuple[Adapter, Path]]
) -> tuple[Any, Any]:
    """Load the image encoder that comes with adapters, once: beside a file or, for the adapters
    that say so in their name, the smaller one of the same collection.

    Raises:
        ValueError: none comes with them, or each wants another.
    """
    homes = {}
    for adapter, file in found:
        # What lies beside a file that is the whole model is no part of it: no key knows of that.
        places = (
            [file.parent / "image_encoder", adapter.model.path / "models" / "image_encoder"]
            if file != adapter.model.path
            else []
        )
        if "vit-h" in file.name:
            places.reverse()
        if (
            folder := next((at for at in places if (at / "config.json").is_file()), None)
        ) is not None:
            homes[folder] = adapter
    if not homes:
        names = " nor ".join(f"the IP-Adapter '{adapter.model.reference}'" for adapter, _ in found)
        raise ValueError(
            f"neither the model '{checkpoint.model.reference}' nor {names} has an image encoder:"
            " name one as 'ip_encoder'"
        )
    if len(homes) > 1:
        raise ValueError(
            "its 'ip_adapters' read pictures through different encoders,"
            f" {' and '.join(sorted(folder.parent.name + '/' + folder.name for folder in homes))},"
            " and a pipeline has one"
        )
    ((folder, adapter),) = homes.items()
    with adapter.companions.lock:
        part = folder.relative_to(adapter.model.path).as_posix()
        if part not in adapter.companions.encoders:
            adapter.companions.encoders[part] = load_encoder(
                adapter.model,
                part,
                device=str(checkpoint.device),
                dtype=str(pipeline.dtype).removeprefix("torch."),
            )
        encoder: tuple[Any, Any] = adapter.companions.encoders[part]
    return encoder


def load_encoder(model: Model, part: str, *, device: str, dtype: str) -> tuple[Any, Any]:
    """Load CLIP's image encoder, and make the processor that belongs to it."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    encoder = load_part(CLIPVisionModelWithProjection, model, part, device=device, dtype=dtype)
    side = encoder.config.image_size
    return encoder, CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
