"""Load what a node draws with: each loader looks at what a checkpoint says it is and hands on to
the class for it.

The classes of one stage have the same methods, so that a node knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imagen_flow import loaders
from imagen_flow.loaders import Loader

from ..checkpoints.description import family_of, what_is
from ..loading.components import Checkpoint, TextParts, Whole, replace_parts, some_groups
from ..pipelines.calling import TAKEN_BY, problem_of
from ..pipelines.families import OPTIONAL_IMAGE, SPLIT, edits
from .instruction_editing import Instructed
from .roles import BaseStage, EnlargingStage, PictureEditor, PromptEncoder
from .text_encoding import DiffusersText, Encoder

if TYPE_CHECKING:
    from imagen_flow import Model, ModelError


class CascadeText(Loader[PromptEncoder]):
    """The text encoder of a cascade of the project's own kind."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        from ..pixel.imagen import Text

        return Text.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "text_encoder")


class TextEncoder(Loader[Encoder | PromptEncoder]):
    """What reads the prompt: ``encode(prompt, negative_prompt, …)``."""

    settings = TextParts.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return (
            {"text": CascadeText()}
            if what_is(model) == "ImagenCascade"
            else DiffusersText().parts(model)
        )

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Any:
        return (
            parts["text"]
            if what_is(model) == "ImagenCascade"
            else DiffusersText().assemble(model, parts)
        )


class CascadeBase(Loader[BaseStage]):
    """The first stage of a cascade of the project's own kind."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        from ..pixel.imagen import Base

        return Base.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "unet", "plan")


class CascadeEnlarger(Loader[EnlargingStage]):
    """The later stage of a cascade of the project's own kind."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        from ..pixel.imagen import Enlarger

        return Enlarger.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "super_resolution")


class BaseDenoiser(Loader[BaseStage]):
    """The first stage of a cascade: ``draw(text, …)``."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return _stage(
            model, {"ImagenCascade": CascadeBase(), "IFPipeline": None}, by="diffusion.base"
        )

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Any:
        from .deepfloyd import Base

        return parts["own"] if "own" in parts else Base.of(Checkpoint(model, parts))


class Enlarger(Loader[EnlargingStage]):
    """A later stage of a cascade: ``draw(picture, text, …)``."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return _stage(
            model,
            {"ImagenCascade": CascadeEnlarger(), "IFSuperResolutionPipeline": None},
            by="diffusion.super_resolution",
        )

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Any:
        from .deepfloyd import Enlarger

        return parts["own"] if "own" in parts else Enlarger.of(Checkpoint(model, parts))


def _stage(
    model: Model, kinds: dict[str, Loader[Any] | None], *, by: str
) -> dict[str, Loader[Any]]:
    """Name what a stage of a cascade is made of: a loader for the project's own kind, the groups of
    a checkpoint of diffusers.
    """
    if (kind := what_is(model)) not in kinds:
        raise problem_of(model, by, kind, " or ".join(sorted(kinds)))
    own = kinds[kind]
    return {"own": own} if own is not None else some_groups(model, "denoiser", "sampler", "other")


class EmbeddedEditor(Loader[PictureEditor]):
    """The project's own editor, in pixel space."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        from ..pixel.editor import PixelEditor

        return PixelEditor.load(model, device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "unet", "text_encoder")


class Editor(Loader[Instructed | PictureEditor]):
    """A model that edits by instruction: ``edit(picture, instruction, …)``."""

    settings = Whole.settings

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        home = TAKEN_BY.get(kind, "")
        draws = family_of(kind) in SPLIT and kind not in OPTIONAL_IMAGE
        if home != "image.edit" and (home or draws or not kind.endswith("Pipeline")):
            raise _no_editor(model)
        return {"own": EmbeddedEditor()} if kind == "InstructPix2Pix" else Whole().parts(model)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Any:
        if "own" in parts:
            return parts["own"]
        import diffusers

        # What a call takes is known only here: planning imports no diffusers.
        kind = what_is(model)
        cls = getattr(diffusers, kind, None) if kind.isidentifier() else None
        if cls is None or not edits(cls):
            raise _no_editor(model)
        return Instructed(Checkpoint(model, parts))


def _no_editor(model: Model) -> ModelError:
    return problem_of(
        model,
        "image.edit",
        what_is(model),
        "InstructPix2Pix, FLUX Kontext, FLUX.2, Qwen-Image-Edit and their like, which diffusers"
        " edits with by words alone",
    )
