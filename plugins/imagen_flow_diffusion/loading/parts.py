"""Load one part of a checkpoint with the class that its index names.

A ``model_index.json`` comes from a stranger: it may name only classes of diffusers and
transformers, and of those only models, tokenizers, processors and samplers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.loaders import load_processor, read_json

from ..checkpoints.classes import component_class
from ..checkpoints.diagnosing import plain
from ..checkpoints.folder import load_part, load_scheduler, quiet
from ..checkpoints.translation import load_from_file
from .grouping import numbered_folders
from .replaced_parts import load_instead

if TYPE_CHECKING:
    from imagen_flow import Model


MAX_TOKENS = 10**9
"""More are no length that a tokenizer was given, but what transformers puts where it was given none."""


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
            for folder in numbered_folders(model, name)
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
    ) as error:  # what the libraries raise for files that make no sense
        raise flow.ModelError(
            f"the model '{model.reference}' is damaged: the files of its {name} make no {entry[1]}"
            f" ({type(error).__name__}: {plain(error)})"
        ) from error
    if "tokenizer" in name and made.model_max_length > MAX_TOKENS:
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
