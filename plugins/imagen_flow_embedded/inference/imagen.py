"""The project's own kind of cascade: Imagen in pixel space, small enough to ship."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow.loaders import load_pretrained, unread_words

from .samplers import load_sampler

if TYPE_CHECKING:
    import numpy as np
    import torch

    from imagen_flow import Model

FAMILY = "imagen"


@dataclass(frozen=True)
class Text:
    """The cascade's text encoder."""

    tokenizer: Any
    text_encoder: Any
    fingerprint: str
    heads: dict[str, torch.Tensor] | None = None
    family: str = FAMILY

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> Text:
        from transformers import AutoTokenizer, T5EncoderModel

        tokenizer = AutoTokenizer.from_pretrained(
            str(model.path / "tokenizer"), local_files_only=True, trust_remote_code=False
        )
        return cls(
            tokenizer,
            load_pretrained(T5EncoderModel, model, "text_encoder", device=device, dtype=dtype),
            model.digest,
            _load_plan(model)[0],
        )

    def unread(self, prompt: str, negative_prompt: str) -> str:
        """Say what of the words is not read; nothing if all is."""
        texts = (("the prompt", prompt), ("the negative prompt", negative_prompt))
        most = int(self.tokenizer.model_max_length)
        notes = [unread_words(self.tokenizer, text, most, what=what) for what, text in texts]
        return "; ".join(filter(None, notes))

    def doubts(self, prompt: str, encoded: Mapping[str, torch.Tensor]) -> str:
        """Say what of a prompt may be misread, by its states; nothing if all is clear."""
        from imagen_flow_embedded.doubt import find_doubts

        if self.heads is None or not prompt.strip():
            return ""
        found = find_doubts(encoded["prompt_embeds"], self.heads)
        return f"the prompt may be misread: {', '.join(found)}" if found else ""

    @property
    def networks(self) -> dict[str, Any]:
        return {"text_encoder": self.text_encoder}

    def encode(self, prompt: str, negative_prompt: str | None) -> dict[str, torch.Tensor]:
        """Give states (1, tokens, width) of the prompt and of the negative prompt, zero where there
        is no word.
        """
        from . import cascade

        states = cascade.encode(
            [prompt, negative_prompt or ""],
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
        )
        return {"prompt_embeds": states[:1], "negative_prompt_embeds": states[1:]}

    def encode_many(
        self, prompts: Sequence[str], negative_prompts: Sequence[str | None]
    ) -> list[dict[str, torch.Tensor]]:
        """Encode several prompts at once, equal texts once."""
        from . import cascade

        pairs = [
            (prompt, negative or "")
            for prompt, negative in zip(prompts, negative_prompts, strict=True)
        ]
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        states = cascade.encode(texts, tokenizer=self.tokenizer, text_encoder=self.text_encoder)
        rows = {text: states[i : i + 1].clone() for i, text in enumerate(texts)}
        return [
            {"prompt_embeds": rows[prompt], "negative_prompt_embeds": rows[negative]}
            for prompt, negative in pairs
        ]


@dataclass(frozen=True)
class Base:
    """The first stage: states to a small picture."""

    unet: Any
    scheduler: Any
    heads: dict[str, torch.Tensor] | None = None
    means: dict[str, torch.Tensor] | None = None
    family: str = FAMILY

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> Base:
        from diffusers import UNet2DConditionModel

        return cls(
            load_pretrained(UNet2DConditionModel, model, "unet", device=device, dtype=dtype),
            load_sampler(model, "scheduler"),
            *_load_plan(model),
        )

    @property
    def text_width(self) -> int:
        return int(self.unet.config.encoder_hid_dim or self.unet.config.cross_attention_dim)

    def draw(
        self,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Draw a picture. Yields (steps done, steps, the noisy picture so far); returns uint8
        (height, width, 3).
        """
        from . import cascade

        return cascade.base(
            text,
            unet=self.unet,
            scheduler=self.scheduler,
            heads=self.heads,
            means=self.means,
            seed=seed,
            **_chosen(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
            ),
        )

    def draw_many(
        self,
        text: torch.Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Draw a picture for each seed, of states (2, pictures, tokens, width)."""
        from . import cascade

        return cascade.draw(
            text,
            unet=self.unet,
            scheduler=self.scheduler,
            heads=self.heads,
            means=self.means,
            seeds=seeds,
            **_chosen(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
            ),
        )


def _load_plan(
    model: Model,
) -> tuple[dict[str, torch.Tensor] | None, dict[str, torch.Tensor] | None]:
    """Load the linear heads that read the text encoder's plan and the means that its sketch is made
    of, if the cascade has them.
    """
    if "plan" not in json.loads((model.path / "model_index.json").read_text("utf-8")):
        return None, None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from imagen_flow_embedded.doubt import DOUBTS
    from imagen_flow_embedded.plan import SCENE_FACTS, THING_FACTS

    try:
        tensors = load_file(model.path / "plan" / "model.safetensors")
        heads = {
            f"{name}.{part}": tensors[f"{name}.{part}"]
            for name in (*SCENE_FACTS, *THING_FACTS, *DOUBTS)
            for part in ("weight", "bias")
        }
        tensors = load_file(model.path / "plan" / "means.safetensors")
        return heads, {name: tensors[name] for name in ("silhouettes", "colours", "backgrounds")}
    except (OSError, KeyError, SafetensorError) as error:
        raise flow.ModelError(
            f"the model '{model.reference}' is damaged: its plan cannot be read ({error})"
        ) from error


@dataclass(frozen=True)
class Enlarger:
    """The second stage: a small picture and states to a larger picture."""

    unet: Any
    scheduler: Any
    family: str = FAMILY

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> Enlarger:
        from diffusers import UNet2DConditionModel

        unet = load_pretrained(
            UNet2DConditionModel, model, "super_resolution", device=device, dtype=dtype
        )
        return cls(unet, load_sampler(model, "super_resolution_scheduler"))

    text_width = Base.text_width

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
        """Enlarge float32 (height, width, 3), 0 to 1. Yields and returns as `Base.draw`."""
        from . import cascade

        return cascade.super_resolution(
            picture,
            text,
            unet=self.unet,
            scheduler=self.scheduler,
            seed=seed,
            **_chosen(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                noise_level=noise_level,
            ),
        )

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
        """Enlarge several pictures, with states (2, pictures, tokens, width)."""
        import numpy as np

        from . import cascade

        return cascade.enlarge(
            np.stack([cascade.fit(picture, self.unet) for picture in pictures]),
            text,
            unet=self.unet,
            scheduler=self.scheduler,
            seeds=seeds,
            **_chosen(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                noise_level=noise_level,
            ),
        )


def _chosen(**options: Any) -> dict[str, Any]:
    """Leave out the options that were left to the model's own defaults."""
    return {name: value for name, value in options.items() if value is not None}
