"""Turn words into what a denoiser reads, as the checkpoint's own pipeline does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagen_flow.loaders import require_library

from ..adapters.attached import (
    AttachedAdapters,
    attach_adapters,
    skip_clip_layers,
    with_embedding_words,
)
from ..loading.checkpoint import Checkpoint
from ..pipelines.families import Split, unread_by


@dataclass(frozen=True)
class Encoder:
    """A checkpoint's tokenizers and text encoders."""

    checkpoint: Checkpoint
    family: str
    split: Split

    @property
    def networks(self) -> dict[str, Any]:
        return self.checkpoint.parts

    @property
    def fingerprint(self) -> str:
        return self.checkpoint.model.digest

    def unread(self, prompt: str, negative_prompt: str) -> str:
        """Say what of the words is not read; nothing if all is. Of words with embeddings `encode`
        notes it, which knows how many each of them is.
        """
        import diffusers

        return unread_by(
            getattr(diffusers, self.checkpoint.kind), self.checkpoint.parts, prompt, negative_prompt
        )

    def encode(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        clip_skip: int | None = None,
        weighting: str = "none",
        attached: AttachedAdapters,
    ) -> dict[str, Any]:
        """Give the tensors by the argument of the pipeline that each of them is."""
        import diffusers
        import torch

        cls = getattr(diffusers, self.checkpoint.kind)
        takes = inspect.signature(cls.__call__).parameters
        if negative_prompt and not {"negative_prompt", "negative_prompt_embeds"} & takes.keys():
            raise ValueError(f"{self.checkpoint.kind} takes no negative prompt")
        if negative_prompt is None:
            # What the pipeline's own call takes for none: some read an empty prompt, some put
            # zeros.
            negative_prompt = (
                takes["negative_prompt"].default
                if "negative_prompt" in takes
                else ""
                if "negative_prompt_embeds" in takes
                else None
            )
        texts = with_embedding_words(
            attached, {"prompt": prompt, "negative_prompt": negative_prompt}
        )
        prompt, negative_prompt = texts["prompt"], texts["negative_prompt"]
        pipeline = self.checkpoint.pipeline(cls)
        with (
            self.checkpoint.alone(),
            attach_adapters(pipeline, self.checkpoint, attached),
            skip_clip_layers(self.checkpoint, clip_skip),
            torch.no_grad(),
        ):
            if attached.embeddings and weighting == "none":
                attached.notes.append(
                    unread_by(
                        cls,
                        self.checkpoint.parts,
                        prompt,
                        negative_prompt,
                        convert=pipeline.maybe_convert_prompt,
                    )
                )
            if weighting != "none":
                return _weighted(pipeline, self, prompt, negative_prompt or "", clip_skip)
            if "negative_prompt" in inspect.signature(cls.encode_prompt).parameters:
                return self._call(
                    pipeline,
                    prompt,
                    clip_skip,
                    negative_prompt=negative_prompt,
                    do_classifier_free_guidance=True,
                )
            found = self._call(pipeline, prompt, clip_skip)
            if negative_prompt is not None:
                found |= {
                    f"negative_{name}": tensor
                    for name, tensor in self._call(pipeline, negative_prompt, clip_skip).items()
                }
            return found

    def encode_many(
        self, prompts: Sequence[str], negative_prompts: Sequence[str | None]
    ) -> list[dict[str, Any]] | None:
        """Encode several prompts at once; None if the pipeline gives no row for each."""
        import diffusers
        import torch

        cls = getattr(diffusers, self.checkpoint.kind)
        takes = inspect.signature(cls.__call__).parameters
        if (
            "negative_prompt" not in inspect.signature(cls.encode_prompt).parameters
            or "negative_prompt" not in takes
        ):
            return None
        default = takes["negative_prompt"].default
        negatives = [default if text is None else text for text in negative_prompts]
        with self.checkpoint.alone(), torch.no_grad():
            found = self._call(
                self.checkpoint.pipeline(cls),
                list(prompts),
                None,
                negative_prompt=None if None in negatives else negatives,
                do_classifier_free_guidance=True,
            )
        if any(
            not isinstance(tensor, torch.Tensor) or tensor.shape[:1] != (len(prompts),)
            for tensor in found.values()
        ):
            return None
        return [
            {name: tensor[i : i + 1].clone() for name, tensor in found.items()}
            for i in range(len(prompts))
        ]

    def _call(
        self, pipeline: Any, prompt: str | list[str], clip_skip: int | None, **given: Any
    ) -> dict[str, Any]:
        import torch

        takes = inspect.signature(pipeline.encode_prompt).parameters
        if clip_skip is not None and "clip_skip" not in takes:
            raise ValueError(f"{type(pipeline).__name__} has no clip_skip")
        offered = {
            **given,
            "clean_caption": False,
            **_defaults(pipeline),
            "prompt_2": None,
            "prompt_3": None,
            "clip_skip": clip_skip,
            "num_images_per_prompt": 1,
            "device": self.checkpoint.device,
        }
        # A pipeline that encodes by one of its encoders at a time is called for both.
        which: list[dict[str, Any]] = (
            [{"text_encoder_index": index} for index in (0, 1)]
            if "text_encoder_index" in takes
            else [{}]
        )
        found = [
            value
            for one in which
            for value in pipeline.encode_prompt(
                prompt, **{name: value for name, value in offered.items() if name in takes}, **one
            )
        ]
        named: dict[str, Any] = {}
        for name, value in zip(self.split.encoded, found, strict=True):
            if isinstance(value, list):
                named |= {f"{name}[{index}]": one for index, one in enumerate(value)}
            elif value is None and name.endswith("_mask"):
                # None lets all be read, but a pipeline that is given none warns of it.
                named[name] = found[0].new_ones(found[0].shape[:2], dtype=torch.long)
            elif name and value is not None:
                named[name] = value
        return named


def _defaults(pipeline: Any) -> dict[str, Any]:
    """What the pipeline's own call would encode with, where encoding alone has another default."""
    called = inspect.signature(type(pipeline).__call__).parameters
    return {
        name: called[name].default
        for name in ("complex_human_instruction", "max_sequence_length")
        if name in called
    }


def _weighted(
    pipeline: Any, encoder: Encoder, prompt: str, negative_prompt: str, clip_skip: int | None
) -> dict[str, Any]:
    """Encode words with weights, ``a (red)1.3 fox``, by the library compel."""
    require_library("compel", "prompt weighting", extra="adapters")
    from compel import Compel, ReturnedEmbeddingsType

    if clip_skip is not None or encoder.family not in ("StableDiffusion", "StableDiffusionXL"):
        raise ValueError(
            "prompt weighting works with Stable Diffusion 1, 2 and SDXL, and without clip_skip"
        )
    parts = encoder.checkpoint.parts
    # compel does not know of words that are several vectors.
    prompt, negative_prompt = (
        pipeline.maybe_convert_prompt(
            text, parts["tokenizer"] if "tokenizer" in parts else parts["tokenizer_2"]
        )
        for text in (prompt, negative_prompt)
    )
    if encoder.family == "StableDiffusion":
        compel = Compel(
            tokenizer=parts["tokenizer"],
            text_encoder=parts["text_encoder"],
            truncate_long_prompts=False,
        )
        states = compel.pad_conditioning_tensors_to_same_length(
            [compel(prompt), compel(negative_prompt)]
        )
        return dict(zip(encoder.split.encoded, states, strict=True))
    pairs = [
        (parts[f"tokenizer{n}"], parts[f"text_encoder{n}"], n == "_2")
        for n in ("", "_2")
        if f"text_encoder{n}" in parts
    ]
    tokenizers, encoders, pooled = (list(column) for column in zip(*pairs, strict=True))
    compel = Compel(
        tokenizer=tokenizers,
        text_encoder=encoders,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        requires_pooled=pooled,
        truncate_long_prompts=False,
    )
    (positive, positive_pooled), (negative, negative_pooled) = (
        compel(prompt),
        compel(negative_prompt),
    )
    # Of several encoders compel does not find the states of no words by itself.
    positive, negative = compel.pad_conditioning_tensors_to_same_length(
        [positive, negative], precomputed_padding=compel("")[0]
    )
    return dict(
        zip(
            encoder.split.encoded,
            (positive, negative, positive_pooled, negative_pooled),
            strict=True,
        )
    )
