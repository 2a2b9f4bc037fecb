"""A plugin by a stranger: small torch models in a format of their own, written from
``docs/plugins.md`` and the docstrings of `imagen_flow.loaders` alone.

A model is a folder with ``toy.json`` and, in ``encoder`` and ``head``, a file ``layer.safetensors``
with the rows of a linear layer, one tensor each (``row0``, ``row1``, …). A folder whose
``model_index.json`` names ToyCascade is run by `text.encode` and `diffusion.base`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

import imagen_flow as flow
from imagen_flow import Image, Model, ModelError, Tensor
from imagen_flow.loaders import Leased, Loader, Loading, place_module, read_weights, size_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layer:
    """A linear layer."""

    module: Any

    def apply(self, values: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            weight = next(self.module.parameters())
            found = self.module(torch.tensor(values, dtype=weight.dtype, device=weight.device))
        return np.asarray(found.float().cpu().numpy())


@dataclass(frozen=True)
class LayerLoader(Loader[Layer]):
    """Loads one layer of a model. ``int8`` rounds its weights to 8 bits."""

    part: str

    settings = ("quantization", "offload")

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Layer:
        import torch

        rows = read_weights(model, f"{self.part}/layer.safetensors")
        weights = torch.stack([rows[f"row{number}"] for number in range(len(rows))])
        module = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        if settings.quantization == "int8":
            step = weights.abs().max() / 127
            weights = (weights / step).round() * step
        module.weight = torch.nn.Parameter(weights.to(getattr(torch, dtype)))
        return Layer(place_module(module.eval(), device=device, settings=settings))

    def folders(self, model: Model) -> tuple[str, ...]:
        return (self.part,)

    def disk_bytes(self, model: Model) -> int:
        return size_of(model, self.part)

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        if settings.quantization not in ("none", "int8"):
            raise ModelError(f"toy models know int8, not {settings.quantization}")


@dataclass(frozen=True)
class Toy:
    """Both layers of a model."""

    encoder: Layer
    head: Layer


class EncoderLoader(Loader[Layer]):
    """Loads the encoder alone."""

    settings = LayerLoader.settings

    def parts(self, model: Model) -> Mapping[str, Loader[Any]]:
        if not (model.path / "toy.json").is_file():
            raise ModelError(f"'{model.reference}' is not a toy model: it has no toy.json")
        return {"encoder": LayerLoader("encoder")}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Layer:
        layer: Layer = parts["encoder"]
        return layer


class ToyLoader(Loader[Toy]):
    """Loads a whole model."""

    settings = LayerLoader.settings

    def parts(self, model: Model) -> Mapping[str, Loader[Any]]:
        return {**EncoderLoader().parts(model), "head": LayerLoader("head")}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Toy:
        return Toy(parts["encoder"], parts["head"])


@flow.node("toy.encode", version=1, uses=("torch",))
def encode(model: Annotated[Layer, Leased(EncoderLoader)], values: Tensor) -> Tensor:
    """Encode numbers."""
    return Tensor(model.apply(values.numpy()))


@flow.node("toy.draw", version=1, uses=("torch",))
def draw(model: Annotated[Toy, Leased(ToyLoader)], values: Tensor) -> Tensor:
    """Encode numbers and bring them through the head."""
    return Tensor(model.head.apply(model.encoder.apply(values.numpy())))


@flow.node("toy.values", version=1)
def values(start: float = 1.0) -> Tensor:
    """Make three numbers."""
    return Tensor(np.arange(3, dtype=np.float32)[None] + np.float32(start))


@dataclass(frozen=True)
class ToyText:
    """Encodes a prompt as the lengths of its words."""

    fingerprint: str
    family: str = "toy"

    @property
    def networks(self) -> dict[str, Any]:
        return {}

    def unread(self, prompt: str, negative_prompt: str) -> str:
        return ""

    def encode(self, prompt: str, negative_prompt: str | None) -> dict[str, torch.Tensor]:
        import torch

        def states(text: str) -> torch.Tensor:
            return torch.tensor([[[float(len(word))] * 2 for word in text.split()] or [[0.0, 0.0]]])

        return {
            "prompt_embeds": states(prompt),
            "negative_prompt_embeds": states(negative_prompt or " ".join(prompt.split())),
        }


class ToyTextLoader(Loader[ToyText]):
    """Loads the text encoder of a ToyCascade."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> ToyText:
        return ToyText(model.digest)

    def disk_bytes(self, model: Model) -> int:
        return 0


@dataclass(frozen=True)
class ToyBase:
    """Draws a grey picture as bright as the first word is long."""

    unet: Any
    family: str = "toy"
    text_width: int = 2

    def draw(
        self,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        yield 1, 1
        return np.full((4, 4, 3), int(text[0, 0, 0]), np.uint8)


class ToyBaseLoader(Loader[ToyBase]):
    """Loads the first stage of a ToyCascade."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> ToyBase:
        import torch

        layer = LayerLoader("encoder").load(model, device=device, dtype=dtype, settings=settings)
        unet = layer.module
        unet.device, unet.dtype = torch.device(device), getattr(torch, dtype)
        return ToyBase(unet)

    def disk_bytes(self, model: Model) -> int:
        return LayerLoader("encoder").disk_bytes(model)


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [encode, draw, values]


@flow.hookimpl
def imagen_flow_loaders() -> Mapping[str, Mapping[str, Loader[Any]]]:
    return {
        "text encoder": {"ToyCascade": ToyTextLoader()},
        "base denoiser": {"ToyCascade": ToyBaseLoader()},
    }


def picture_of(tensor: Tensor) -> Image:
    """Show numbers as a row of grey pixels."""
    return Image(tensor.numpy().clip(0, 255).astype(np.uint8)[:, :, None])
