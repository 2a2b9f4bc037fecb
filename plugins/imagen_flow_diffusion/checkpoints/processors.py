"""Load the processors of models that read text and images, with the same results with and without
torchvision.

transformers loads most of them only if torchvision is installed, because they also read videos, and
then lets torchvision resize the images, which gives other pixels than Pillow. Here a processor is
loaded without its part for videos if torchvision is missing, since no node needs it, and images are
always resized by Pillow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_processor(cls: Any, folder: Path) -> Any:
    """Load a processor of transformers from the files in a folder.

    Source: ``ProcessorMixin.from_pretrained``, part by part.
    """
    from transformers import (
        AutoFeatureExtractor,
        AutoImageProcessor,
        AutoTokenizer,
        AutoVideoProcessor,
        TokenizersBackend,
    )
    from transformers.utils import is_torchvision_available

    def part(name: str) -> Any:
        if "tokenizer" in name:
            # Pixtral's names Llama's class, which would read it as sentence pieces.
            return (
                TokenizersBackend if cls.__name__ == "PixtralProcessor" else AutoTokenizer
            ).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if "image_processor" in name:
            return AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", local_files_only=True, trust_remote_code=False
            )
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


def words_alone(name: str) -> Any:
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
