"""Load what the nodes of single stages use, from checkpoints of diffusers. Each loader has a role
(see `roles`), under which other plugins offer loaders for checkpoints of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imagen_flow.loaders import Loader, Loading

from ..checkpoints.description import family_of, what_is
from ..loading.checkpoint import Checkpoint
from ..loading.components import UNCACHED, Whole, replace_parts
from ..loading.groups import TextParts, some_groups
from ..pipelines.calling import TAKEN_BY, problem_of
from ..pipelines.families import OPTIONAL_IMAGE, SPLIT, edits
from .instruction_editing import Instructed
from .roles import BaseStage, EnlargingStage, PictureEditor, PromptEncoder
from .text_encoding import Encoder

if TYPE_CHECKING:
    from imagen_flow import Model, ModelError


class TextEncoder(Loader[Encoder | PromptEncoder]):
    """The text encoders of a checkpoint whose family can be split."""

    settings = TextParts.settings
    role = "text encoder"

    def kind_of(self, model: Model) -> str:
        return what_is(model)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        if family_of(kind) not in SPLIT:
            families = ", ".join(sorted(SPLIT))
            raise problem_of(
                model,
                "text.encode",
                kind,
                f"checkpoints of the families {families}, or what a plugin loads as text encoder",
            )
        return some_groups(model, "text")

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Encoder:
        family = family_of(what_is(model))
        return Encoder(Checkpoint(model, parts), family, SPLIT[family])


class BaseDenoiser(Loader[BaseStage]):
    """The first stage of DeepFloyd IF."""

    settings = UNCACHED
    role = "base denoiser"

    def kind_of(self, model: Model) -> str:
        return what_is(model)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return _stage(model, "IFPipeline", by="diffusion.base", role=self.role)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> BaseStage:
        from .deepfloyd import Base

        return Base.of(Checkpoint(model, parts))


class Enlarger(Loader[EnlargingStage]):
    """The second stage of DeepFloyd IF."""

    settings = UNCACHED
    role = "enlarger"

    def kind_of(self, model: Model) -> str:
        return what_is(model)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return _stage(
            model, "IFSuperResolutionPipeline", by="diffusion.super_resolution", role=self.role
        )

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> EnlargingStage:
        from .deepfloyd import Enlarger

        return Enlarger.of(Checkpoint(model, parts))


def _stage(model: Model, expected: str, *, by: str, role: str) -> dict[str, Loader[Any]]:
    """Return the loaders of what a stage is made of.

    Raises:
        ModelError: the checkpoint is of another class.
    """
    if (kind := what_is(model)) != expected:
        raise problem_of(model, by, kind, f"{expected}, or what a plugin loads as {role}")
    return some_groups(model, "denoiser", "sampler", "other")


class Editor(Loader[Instructed | PictureEditor]):
    """A checkpoint that edits by instruction."""

    settings = Whole.settings
    role = "editor"

    def kind_of(self, model: Model) -> str:
        return what_is(model)

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        home = TAKEN_BY.get(kind, "")
        draws = family_of(kind) in SPLIT and kind not in OPTIONAL_IMAGE
        if home != "image.edit" and (home or draws or not kind.endswith("Pipeline")):
            raise _no_editor(model)
        return Whole().parts(model)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Instructed:
        import diffusers

        # What a call takes is known only here: planning imports no diffusers.
        kind = what_is(model)
        cls = getattr(diffusers, kind, None) if kind.isidentifier() else None
        if cls is None or not edits(cls):
            raise _no_editor(model)
        return Instructed(Checkpoint(model, parts))

    def for_call(
        self, model: Model, lent: Instructed | PictureEditor, settings: Loading
    ) -> Instructed | PictureEditor:
        assert isinstance(lent, Instructed)
        return Instructed(replace(lent.checkpoint, settings=settings))


def _no_editor(model: Model) -> ModelError:
    return problem_of(
        model,
        "image.edit",
        what_is(model),
        "InstructPix2Pix, FLUX Kontext, FLUX.2, Qwen-Image-Edit and their like, which diffusers"
        " edits with by words alone",
    )
