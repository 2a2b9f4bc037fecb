"""Load what a node draws with: each loader looks at what a checkpoint says it is and hands on to
the class for it.

The classes of one stage have the same methods, so that a node knows no family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagen_flow as flow

from ..checkpoints.folder import what_is
from ..loading.components import TextParts, Whole, some_groups
from ..pipelines.calling import TAKEN_BY, problem_of
from ..pipelines.families import OPTIONAL_IMAGE, SPLIT, edits, family_of
from .instruction_editing import Instructed
from .text_encoding import DiffusersText

if TYPE_CHECKING:
    from imagen_flow import Model, ModelError


class CascadeText:
    """The text encoder of a cascade of the project's own kind."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        from ..pixel.imagen import Text

        return Text.load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return flow.size_of(model, "text_encoder")


class TextEncoder:
    """What reads the prompt: ``encode(prompt, negative_prompt, …)``."""

    heeds = TextParts.heeds

    @staticmethod
    def parts(model: Model) -> dict[str, Any]:
        return (
            {"text": CascadeText}
            if what_is(model) == "ImagenCascade"
            else DiffusersText.parts(model)
        )

    @staticmethod
    def assemble(model: Model, parts: dict[str, Any]) -> Any:
        return (
            parts["text"]
            if what_is(model) == "ImagenCascade"
            else DiffusersText.assemble(model, parts)
        )


class CascadeBase:
    """The first stage of a cascade of the project's own kind."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        from ..pixel.imagen import Base

        return Base.load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return flow.size_of(model, "unet", "plan")


class CascadeEnlarger:
    """The later stage of a cascade of the project's own kind."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        from ..pixel.imagen import Enlarger

        return Enlarger.load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return flow.size_of(model, "super_resolution")


class BaseDenoiser:
    """The first stage of a cascade: ``draw(text, …)``."""

    heeds = Whole.heeds

    @staticmethod
    def parts(model: Model) -> dict[str, Any]:
        return _stage(
            model, {"ImagenCascade": CascadeBase, "IFPipeline": None}, by="diffusion.base"
        )

    @staticmethod
    def assemble(model: Model, parts: dict[str, Any]) -> Any:
        from .deepfloyd import Base

        return parts["own"] if "own" in parts else Base.of(Whole.assemble(model, parts))


class Enlarger:
    """A later stage of a cascade: ``draw(picture, text, …)``."""

    heeds = Whole.heeds

    @staticmethod
    def parts(model: Model) -> dict[str, Any]:
        return _stage(
            model,
            {"ImagenCascade": CascadeEnlarger, "IFSuperResolutionPipeline": None},
            by="diffusion.super_resolution",
        )

    @staticmethod
    def assemble(model: Model, parts: dict[str, Any]) -> Any:
        from .deepfloyd import Enlarger

        return parts["own"] if "own" in parts else Enlarger.of(Whole.assemble(model, parts))


def _stage(model: Model, kinds: dict[str, Any], *, by: str) -> dict[str, Any]:
    """Name what a stage of a cascade is made of: a loader for the project's own kind, the groups of
    a checkpoint of diffusers.
    """
    if (kind := what_is(model)) not in kinds:
        raise problem_of(model, by, kind, " or ".join(sorted(kinds)))
    return (
        {"own": kinds[kind]}
        if kinds[kind] is not None
        else some_groups(model, "denoiser", "sampler", "other")
    )


class EmbeddedEditor:
    """The project's own editor, in pixel space."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        from ..pixel.editor import PixelEditor

        return PixelEditor.load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return flow.size_of(model, "unet", "text_encoder")


class Editor:
    """A model that edits by instruction: ``edit(picture, instruction, …)``."""

    heeds = Whole.heeds
    joined = Whole.joined

    @staticmethod
    def parts(model: Model) -> dict[str, Any]:
        kind = what_is(model)
        home = TAKEN_BY.get(kind, "")
        draws = family_of(kind) in SPLIT and kind not in OPTIONAL_IMAGE
        if home != "image.edit" and (home or draws or not kind.endswith("Pipeline")):
            raise _no_editor(model)
        return {"own": EmbeddedEditor} if kind == "InstructPix2Pix" else Whole.parts(model)

    @staticmethod
    def assemble(model: Model, parts: dict[str, Any]) -> Any:
        if "own" in parts:
            return parts["own"]
        import diffusers

        # What a call takes is known only here: planning imports no diffusers.
        kind = what_is(model)
        cls = getattr(diffusers, kind, None) if kind.isidentifier() else None
        if cls is None or not edits(cls):
            raise _no_editor(model)
        return Instructed(Whole.assemble(model, parts))


def _no_editor(model: Model) -> ModelError:
    return problem_of(
        model,
        "image.edit",
        what_is(model),
        "InstructPix2Pix, FLUX Kontext, FLUX.2, Qwen-Image-Edit and their like, which diffusers"
        " edits with by words alone",
    )
