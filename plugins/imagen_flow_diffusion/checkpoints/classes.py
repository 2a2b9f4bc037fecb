"""Find the class of a part by what the checkpoint says. The checkpoint comes from a stranger, so
only models, tokenizers, processors and samplers of diffusers and transformers are allowed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow.loaders import read_json

from .description import what_is

if TYPE_CHECKING:
    from imagen_flow import Model

RENAMED = {
    "CLIPFeatureExtractor": "CLIPImageProcessor",
    "DPTFeatureExtractor": "DPTImageProcessor",
    "ViTFeatureExtractor": "ViTImageProcessor",
}
"""Old names of classes of transformers that checkpoints still use, with the new ones."""


def component_of(model: Model) -> Any:
    """Find the class of a model whose folder is one part.

    Raises:
        ModelError: as `component_class`.
    """
    return component_class(
        model,
        "",
        [
            "diffusers" if "_class_name" in read_json(model, "config.json") else "transformers",
            what_is(model),
        ],
    )


def component_class(model: Model, name: str, entry: list[str]) -> Any:
    """Find the class that a checkpoint's index names for a part.

    Raises:
        ModelError: neither library has it, or it is not a class that a part can have.
    """
    import diffusers
    import transformers
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.modeling_utils import ModelMixin

    library, word = entry
    if library == "transformers":
        word = RENAMED.get(word, word)
    home: Any = {"diffusers": diffusers, "transformers": transformers}.get(library)
    if home is None and library.isidentifier():
        # The library of a class that belongs to a pipeline is that pipeline's package.
        for package in ("diffusers.pipelines", "diffusers.pipelines.deprecated"):
            if home is None and find_spec(f"{package}.{library}") is not None:
                home = import_module(f"{package}.{library}")
    if home is None and library.isidentifier() and (model.path / name / f"{library}.py").is_file():
        home = _own_code(model, f"{name}/{library}.py")
    cls = getattr(home, word, None) if home is not None and word.isidentifier() else None
    if cls is None and word.isidentifier():
        # Some are only known to the module of the pipeline, which is in diffusers.
        kind = what_is(model)
        pipeline = getattr(diffusers, kind, None) if kind.isidentifier() else None
        cls = getattr(sys.modules.get(getattr(pipeline, "__module__", "")), word, None)
    if (
        getattr(cls, "_backends", None) == ["torchvision"]
        and word.endswith("Processor")
        and not word.endswith("ImageProcessor")
    ):
        cls = _words_alone(word)
    kinds = (
        ModelMixin,
        ConfigMixin,
        transformers.PreTrainedModel,
        transformers.PreTrainedTokenizerBase,
        transformers.ProcessorMixin,
        transformers.image_processing_base.ImageProcessingMixin,
        transformers.feature_extraction_utils.FeatureExtractionMixin,
    )
    if lacking := getattr(cls, "_backends", None):
        raise flow.ModelError(
            f"the model '{model.reference}' wants {library}.{word} for its {name}, which needs"
            f" {' and '.join(lacking)}: install what is missing"
        )
    if not isinstance(cls, type) or not issubclass(cls, kinds):
        raise flow.ModelError(
            f"the model '{model.reference}' wants {library}.{word} for its {name}, which diffusers"
            " and transformers do not have"
        )
    if word == "IFSafetyChecker":
        return _finished(cls)
    return cls


def _own_code(model: Model, name: str) -> Any:
    """Import code that comes with a checkpoint: as diffusers stores it, beside the weights of a
    part.

    Raises:
        ModelError: the user did not allow it to run, or it fails.
    """
    if not model.remote_code:
        raise flow.ModelError(
            f"the model '{model.reference}' comes with code of its own ({name}), which runs only if"
            f" you pass --trust-remote-code {model.reference}"
        )
    made = spec_from_file_location(
        f"imagen_flow_remote_{model.digest[:16]}_{Path(name).stem}", model.path / name
    )
    assert made is not None and made.loader is not None
    module = module_from_spec(made)
    try:
        made.loader.exec_module(module)
    except Exception as failed:  # a stranger's code may raise anything
        raise flow.ModelError(
            f"the code that comes with the model '{model.reference}' ({name}) fails:"
            f" {type(failed).__name__}: {failed}"
        ) from failed
    return module


def _finished(cls: Any) -> Any:
    """Add the call that transformers 5 needs at the end of ``__init__`` to a class of diffusers;
    without it no checkpoint of that class loads.
    """

    def made(self: Any, config: Any) -> None:
        cls.__init__(self, config)
        self.post_init()

    return type(cls.__name__, (cls,), {"__init__": made})


def _words_alone(name: str) -> Any:
    """Make a class that replaces a processor which transformers has only with torchvision: it reads
    text as that does, and refuses images.

    Raises:
        ImportError: when it is called with images.
    """
    from transformers import ProcessorMixin

    def made(self: Any, tokenizer: Any = None, chat_template: Any = None) -> None:
        ProcessorMixin.__init__(self, tokenizer, chat_template=chat_template)

    def called(self: Any, images: Any = None, text: Any = None, **given: Any) -> Any:
        if images is not None:
            raise ImportError(f"{name} reads pictures only where torchvision is installed")
        return ProcessorMixin.__call__(self, text=text, **given)

    return type(name, (ProcessorMixin,), {"__init__": made, "__call__": called})
