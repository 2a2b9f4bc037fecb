"""Load the embedded models for the node types that run such models: `text.encode`,
`diffusion.base`, `diffusion.super_resolution`, `image.edit` and `image.caption`.

What is loaded has the methods that these nodes ask of the roles ``text encoder``, ``base
denoiser``, ``enlarger``, ``editor`` and ``captioner``. Nothing here imports torch before a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagen_flow.loaders import Loader, Loading, size_of

if TYPE_CHECKING:
    from imagen_flow import Model

    from .describing import ShapesCaptioner
    from .editor import PixelEditor
    from .imagen import Base, Enlarger, Text

__all__ = ["LOADERS"]


class TextLoader(Loader["Text"]):
    """Loads the text encoder of a cascade."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Text:
        from .imagen import Text

        return Text.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return size_of(model, "text_encoder")


class BaseLoader(Loader["Base"]):
    """Loads the first stage of a cascade."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Base:
        from .imagen import Base

        return Base.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return size_of(model, "unet", "plan")


class EnlargerLoader(Loader["Enlarger"]):
    """Loads the second stage of a cascade."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Enlarger:
        from .imagen import Enlarger

        return Enlarger.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return size_of(model, "super_resolution")


class EditorLoader(Loader["PixelEditor"]):
    """Loads the editor."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> PixelEditor:
        from .editor import PixelEditor

        return PixelEditor.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return size_of(model, "unet", "close_up", "text_encoder", "plan")


class CaptionerLoader(Loader["ShapesCaptioner"]):
    """Loads the captioner."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> ShapesCaptioner:
        from .describing import ShapesCaptioner

        return ShapesCaptioner.load(model, device=device, dtype=dtype)


#: By role, and by the class that a checkpoint names in its ``model_index.json``.
LOADERS: dict[str, dict[str, Loader[Any]]] = {
    "text encoder": {"ImagenCascade": TextLoader()},
    "base denoiser": {"ImagenCascade": BaseLoader()},
    "enlarger": {"ImagenCascade": EnlargerLoader()},
    "editor": {"InstructPix2Pix": EditorLoader()},
    "captioner": {"ShapesCaptioner": CaptionerLoader()},
}
