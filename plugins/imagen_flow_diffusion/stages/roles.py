"""What the nodes of single stages ask of a model, whichever plugin loads it.

A plugin that has a text encoder, a stage of a cascade or an editor of its own offers a loader for
it by the hook `imagen_flow_loaders`, under the role named at each class. What is loaded has the
attributes and methods of that class here; nothing needs to be imported from this plugin.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "BaseStage",
    "DoubtingPromptEncoder",
    "EnlargingStage",
    "ManyBaseStage",
    "ManyEnlargingStage",
    "ManyPictureEditor",
    "ManyPromptEncoder",
    "PictureEditor",
    "PromptEncoder",
    "Stage",
]


class PromptEncoder(Protocol):
    """Role ``text encoder``: encodes prompts for `text.encode`."""

    @property
    def family(self) -> str:
        """Names the models that read what it encodes: equal to theirs."""

    @property
    def fingerprint(self) -> str:
        """The digest of the model that was loaded."""

    @property
    def networks(self) -> Mapping[str, Any]:
        """The torch modules by name, for messages about NaN."""

    def unread(self, prompt: str, negative_prompt: str) -> str:
        """Return a note on words that are cut off or unknown; empty if there are none."""

    def encode(self, prompt: str, negative_prompt: str | None) -> dict[str, torch.Tensor]:
        """Return ``prompt_embeds`` and ``negative_prompt_embeds``, each (1, tokens, width)."""


@runtime_checkable
class ManyPromptEncoder(Protocol):
    """What an encoder has that encodes several prompts at once."""

    def encode_many(
        self, prompts: Sequence[str], negative_prompts: Sequence[str | None]
    ) -> Sequence[dict[str, torch.Tensor]]:
        """Return for each prompt what `PromptEncoder.encode` returns."""


@runtime_checkable
class DoubtingPromptEncoder(Protocol):
    """What an encoder has that can tell how far it understands a prompt."""

    def doubts(self, prompt: str, encoded: Mapping[str, torch.Tensor]) -> str:
        """Return a note on what may be misread, by what `PromptEncoder.encode` returned."""


class Stage(Protocol):
    """What both stages of a cascade have."""

    @property
    def family(self) -> str:
        """Names the text encoders whose states it reads: equal to theirs."""

    @property
    def unet(self) -> Any:
        """The network, with its ``device`` and ``dtype``."""

    @property
    def text_width(self) -> int:
        """The width of the states that it reads."""


class BaseStage(Stage, Protocol):
    """Role ``base denoiser``: draws small pictures for `diffusion.base`."""

    def draw(
        self,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Draw a picture from states (2, tokens, width) of the prompt and the negative prompt.

        Outputs: yields (steps done, steps, the picture in the making: float (1, 3, height, width),
            -1 to 1); returns (height, width, 3), uint8 or float32 from 0 to 1.
        """


class EnlargingStage(Stage, Protocol):
    """Role ``enlarger``: enlarges small pictures for `diffusion.super_resolution`."""

    def draw(
        self,
        picture: np.ndarray,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        noise_level: int | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Enlarge float32 (height, width, 3), 0 to 1. Otherwise as `BaseStage.draw`."""


@runtime_checkable
class ManyBaseStage(Protocol):
    """What a stage has that draws several pictures at once, each with a generator of its own."""

    def draw_many(
        self,
        text: torch.Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Draw a picture for each seed from states (2, pictures, tokens, width).

        Outputs: yields (steps done, steps, the pictures in the making); returns (pictures, height,
            width, 3), otherwise as `BaseStage.draw`.
        """


@runtime_checkable
class ManyEnlargingStage(Protocol):
    """What a stage has that enlarges several pictures at once, each with a generator of its own."""

    def draw_many(
        self,
        pictures: Sequence[np.ndarray],
        text: torch.Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
        noise_level: int | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Enlarge pictures of one size. Otherwise as `ManyBaseStage.draw_many`."""


class PictureEditor(Protocol):
    """Role ``editor``: edits pictures by instruction for `image.edit`."""

    @property
    def networks(self) -> Mapping[str, Any]:
        """The torch modules by name, for messages about NaN."""

    def unread(self, instruction: str) -> str:
        """Return a note on words that are cut off or unknown; empty if there are none."""

    def edit(
        self,
        picture: np.ndarray,
        instruction: str,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Edit uint8 (height, width, 3) of any size.

        Outputs: yields (steps done, steps), or both and a note that is to stay; returns uint8 of the
            picture's size.
        Raises: FloatingPointError: it computed NaN.
        """


@runtime_checkable
class ManyPictureEditor(Protocol):
    """What an editor has that edits several pictures at once, each with a generator of its own."""

    def edit_many(
        self,
        pictures: Sequence[np.ndarray],
        instructions: Sequence[str],
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, Sequence[np.ndarray]]:
        """Edit pictures of one size. A note that is yielded is followed by the place of its
        picture. Otherwise as `PictureEditor.edit`.
        """
