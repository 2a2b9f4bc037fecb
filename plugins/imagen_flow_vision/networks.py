"""What nodes that look at pictures lease: a network of transformers with what prepares its inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import Image, Model
from imagen_flow.loaders import (
    Loader,
    Loading,
    expect_kind,
    load_image_processor,
    load_pretrained,
    load_processor,
    load_tokenizer,
    quiet_libraries,
    read_json,
    require_library,
)

from .kinds import CLASSES, NEEDS_SCIPY, named_class

if TYPE_CHECKING:
    import PIL.Image


#: What image processors and torch say of a size of zero.
_NO_PIXELS = re.compile(r"Size must contain|sizes should be greater than 0")


@dataclass(frozen=True)
class Network:
    """A network, the name of its class, and its image processor, or its processor where it reads
    text or points as well.
    """

    module: Any
    cls: str
    processor: Any
    reference: str

    def label(self, number: int) -> str:
        """Return what a number stands for; ``LABEL_7`` if the configuration does not say."""
        return str(self.module.config.id2label.get(number, f"LABEL_{number}"))

    def inputs(self, image: Image | None = None, **given: Any) -> dict[str, Any]:
        """Prepare inputs with the processor: on the network's device, floats in its dtype. The
        image is given to it in 8 bits, with alpha composited over black.

        Raises:
            ValueError: the picture is so small or narrow that nothing of it is left when it is resized.
        """
        if image is not None:
            given["images"] = to_pil(image)
        try:
            with quiet_libraries():
                found = self.processor(**{"return_tensors": "pt", **given})
        except (RuntimeError, ValueError) as error:
            if image is None or not _NO_PIXELS.search(str(error)):
                raise
            raise ValueError(
                f"the picture of {image.width} x {image.height} is too small or too narrow for the"
                f" model '{self.reference}', which would resize it to nothing; enlarge it, or pad it"
                " with image.pad"
            ) from error
        return self.placed(found)

    def placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Put inputs on the network's device, and floats into its dtype."""
        import torch

        def place(value: Any) -> Any:
            tensor = torch.as_tensor(value)
            dtype = self.module.dtype if tensor.is_floating_point() else None
            return tensor.to(self.module.device, dtype)

        return {name: place(value) for name, value in inputs.items()}

    def finite(self, values: Any) -> Any:
        """Return what the network computed, in float32.

        Raises:
            ValueError: there is NaN or infinity in it.
        """
        import torch

        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"the model '{self.reference}' gave NaN or infinite numbers: its weights are damaged"
                f" (download it again), or do not work in {str(self.module.dtype).removeprefix('torch.')}"
                " (use dtype: float32)"
            )
        return values.float()


@dataclass(frozen=True)
class NetworkLoader(Loader[Network]):
    """Loads networks for one node type: those of `CLASSES`."""

    node: str
    role: str = ""

    def check(self, model: Model) -> None:
        self._class_of(model)

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        kind = read_json(model, "config.json").get("model_type")
        if kind in NEEDS_SCIPY:
            require_library("scipy", f"a {kind} model", extra="vision")
        if _uses_timm(read_json(model, "config.json")) and find_spec("timm") is None:
            raise flow.ModelError(
                f"the model '{model.reference}' needs the library timm, which is not installed: pip"
                " install timm (and torchvision), or use a revision of the model without it, such as"
                " hf:facebook/detr-resnet-50@no_timm"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Network:
        kind, cls = self._class_of(model)
        with reading(model):
            processor = _processor(model, kind, cls)
        module = load_pretrained(cls, model, device=device, dtype=dtype)
        return Network(module, cls, processor, model.reference)

    def _class_of(self, model: Model) -> tuple[str, str]:
        """Return the model type and the class to load it with: the one that its configuration
        names, or the first of those that this node knows.
        """
        known = CLASSES[self.node]
        kind = expect_kind(model, self.node, known)
        named = named_class(read_json(model, "config.json"))
        if named and named not in known[kind]:
            raise flow.ModelError(
                f"{self.node} cannot use the model '{model.reference}': it is a {named[:100]}, but"
                f" {self.node} supports {' and '.join(known[kind])} of the type {kind}"
            )
        return kind, named or known[kind][0]


@contextmanager
def reading(model: Model) -> Iterator[None]:
    """Name the model in errors of libraries that read its files.

    Raises:
        ModelError: they cannot be read.
    """
    import transformers.utils.logging  # noqa: F401  # only what is imported can be silenced

    try:
        with quiet_libraries():
            yield
    except flow.ModelError:
        raise
    except Exception as error:  # the libraries raise whatever the files make them stumble over
        reason = " ".join(str(error).split())[:200]
        raise flow.ModelError(
            f"the processor of the model '{model.reference}' cannot be read"
            f" ({type(error).__name__}: {reason})"
        ) from error


def to_pil(image: Image) -> PIL.Image.Image:
    """Give the picture as networks see it: 8 bits, RGB, alpha composited over black."""
    return image.rgb().to_pil()


def _processor(model: Model, kind: str, cls: str) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if kind == "vision-encoder-decoder":
        from transformers import TrOCRProcessor

        return TrOCRProcessor(load_image_processor(model), load_tokenizer(model))
    name = PROCESSOR_MAPPING_NAMES.get(kind)
    if name is None or "ForImageClassification" in cls:
        return load_image_processor(model)
    import transformers

    return load_processor(getattr(transformers, name), model.folder)


def _uses_timm(config: Mapping[str, Any]) -> bool:
    backbone = config.get("backbone_config")
    if isinstance(backbone, dict):
        return backbone.get("model_type") == "timm_backbone"
    return bool(config.get("use_timm_backbone"))
