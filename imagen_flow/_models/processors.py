"""Load what prepares text and images for models of transformers, with the same results with and
without torchvision.

transformers resizes images with torchvision if that is installed, which gives other pixels than
Pillow; and it loads most processors only if it is, because they also read videos. Here images are
always resized by Pillow, and a processor is loaded without its part for videos if torchvision is
missing, since no node needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._types.models import Model
from ..errors import ModelError
from .quiet import quiet_libraries

__all__ = ["load_image_processor", "load_processor", "load_tokenizer"]


def load_tokenizer(model: Model, part: str = "") -> Any:
    """Load the tokenizer in a model's folder.

    Raises:
        ModelError: it is missing or damaged.
    """
    return _read(model, part, "tokenizer", _tokenizer)


def load_image_processor(model: Model, part: str = "") -> Any:
    """Load the image processor in a model's folder; it resizes with Pillow.

    Raises:
        ModelError: it is missing or damaged.
    """
    return _read(model, part, "image processor", _image_processor)


def load_processor(cls: Any, folder: Path) -> Any:
    """Load a processor of transformers from the files in a folder.

    Source: ``ProcessorMixin.from_pretrained``, part by part.
    """
    from transformers import AutoFeatureExtractor, AutoVideoProcessor, TokenizersBackend
    from transformers.utils import is_torchvision_available

    def part(name: str) -> Any:
        if "tokenizer" in name:
            # Pixtral's names Llama's class, which would read it as sentence pieces.
            return _tokenizer(folder, TokenizersBackend if _is_pixtral(cls) else None)
        if "image_processor" in name:
            return _image_processor(folder)
        if "video_processor" in name:
            reads_videos = (
                is_torchvision_available() and (folder / "video_preprocessor_config.json").is_file()
            )
            return (
                AutoVideoProcessor.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                if reads_videos
                else None
            )
        return AutoFeatureExtractor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )

    settings, _ = cls.get_processor_dict(str(folder), local_files_only=True)
    return _lenient(cls).from_args_and_dict([part(name) for name in cls.get_attributes()], settings)


def _tokenizer(folder: Path, cls: Any = None) -> Any:
    from transformers import AutoTokenizer

    found = (cls or AutoTokenizer).from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    # Where these are missing, transformers makes a tokenizer that knows no words.
    names = type(found).vocab_files_names
    needed = [names[which] for which in ("vocab_file", "merges_file") if which in names]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"there is neither tokenizer.json nor {' and '.join(missing)}")
    return found


def _image_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(
        str(folder), backend="pil", local_files_only=True, trust_remote_code=False
    )


def _read(model: Model, part: str, what: str, load: Callable[[Path], Any]) -> Any:
    import transformers.utils.logging  # noqa: F401  # only what is imported can be silenced

    try:
        with quiet_libraries():
            return load(model.folder / part)
    except Exception as error:  # the libraries raise whatever the files make them stumble over
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the model '{model.reference}' has no {what} that can be read"
            f" ({type(error).__name__}: {reason})"
        ) from error


def _is_pixtral(cls: Any) -> bool:
    return bool(cls.__name__ == "PixtralProcessor")


def _lenient(cls: Any) -> Any:
    """Allow a processor without some of its parts, and arguments of pipelines that transformers
    accepts with a warning at each call.
    """

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else cls.check_argument_for_proper_class(self, name, part)

    def apply_chat_template(self: Any, conversation: Any, **given: Any) -> Any:
        named = {
            name: given.pop(name)
            for name in ("max_length", "padding", "truncation")
            if name in given
        }
        return cls.apply_chat_template(
            self,
            conversation,
            processor_kwargs={**named, **(given.pop("processor_kwargs", None) or {})},
            **given,
        )

    return type(
        cls.__name__,
        (cls,),
        {"check_argument_for_proper_class": check, "apply_chat_template": apply_chat_template},
    )
