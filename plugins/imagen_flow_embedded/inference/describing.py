"""Describe pictures of the shapes world, and say nothing of others.

The network always finds words. Whether they are right is judged by calibrated signals: how sure
the network is of its words and that the picture is none of the world's; whether they are a whole
sentence; and what they leave over of the picture when they are rendered (see `comparing`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import imagen_flow as flow
from imagen_flow.loaders import quiet_libraries
from imagen_flow_embedded.inference.comparing import Claim, Leftover, compare
from imagen_flow_embedded.world import SHAPES, read_caption

if TYPE_CHECKING:
    import torch

    from imagen_flow import Model

CALIBRATION = "calibration.json"
_CAPS = {"doubt": 1.0, "strange": 8.0, "outline": 9.0, "inside": 6.0, "away": 6.0, "scale": 4.0}
SIGNALS = tuple(_CAPS)
_LIKELY = 0.9
"""From this probability on, the likeliest words are given, and no others are tried."""
_OTHERS = 6
"""How many captions are tried where the likeliest words do not explain a picture."""


_GROUND, _SPOT = 0.2, 0.3
"""How far the background's colour may be from the one named, and that of a spot within a thing from
the thing's; a channel's full range is 1."""
_CORNERS = 0.3
"""How far, in pixels, the outline of a circle may swing as that of a polygon does."""


@dataclass(frozen=True)
class Signals:
    """What speaks against a caption: ``doubt`` is the negative logarithm of the words' probability,
    ``strange`` the log odds that the picture is none of the world's, ``left`` what the caption does
    not explain.
    """

    doubt: float
    strange: float
    left: Leftover


@dataclass(frozen=True)
class Calibration:
    """A logistic regression from signals to the probability that a caption is right."""

    weights: Mapping[str, float]
    bias: float
    least: float
    """A caption is given from this probability on."""
    edges: Mapping[str, float]
    """How far the outlines of each shape are from the ideal in pictures of the world, in pixels."""

    def vector(self, signals: Signals) -> np.ndarray:
        """Give the signals in the order of `SIGNALS`, each within its range; the larger, the more
        they speak against a caption. What is left over enters by its square, so that a small fault
        in each place does not add up to a large one; outlines are compared with what is usual of
        their shapes.
        """
        left = signals.left
        values = {
            "doubt": signals.doubt,
            "strange": signals.strange,
            "outline": max(each.spread / self.edges[each.shape] / 2 for each in left.outlines) ** 2,
            "inside": (left.inside / 0.3) ** 2,
            "away": (left.away / 0.3) ** 2,
            "scale": (left.scale / 0.3) ** 2,
        }
        return np.array([np.clip(values[name], -_CAPS[name], _CAPS[name]) for name in SIGNALS])

    def probability(self, signals: Signals) -> float:
        weights = np.array([self.weights[name] for name in SIGNALS])
        odds = self.bias + self.vector(signals) @ weights
        return float(1 / (1 + np.exp(-np.clip(odds, -30, 30))))

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / CALIBRATION).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, model: Model) -> Calibration:
        """Read what was written.

        Raises:
            ModelError: it is missing or damaged.
        """
        try:
            found = json.loads((model.path / CALIBRATION).read_text("utf-8"))
            weights = {name: float(found["weights"][name]) for name in SIGNALS}
            edges = {shape: float(found["edges"][shape]) for shape in SHAPES}
            return cls(weights, float(found["bias"]), float(found["least"]), edges)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise flow.ModelError(
                f"the model '{model.reference}' is damaged: {CALIBRATION} cannot be read ({error})"
            ) from error


@dataclass(frozen=True)
class Reading:
    """What the network reads in a picture, and how sure it is."""

    words: str
    doubt: float
    strange: float


@dataclass(frozen=True)
class ShapesCaptioner:
    """A captioner that knows what it does not know."""

    model: Any
    image_processor: Any
    tokenizer: Any
    calibration: Calibration

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> ShapesCaptioner:
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

        folder = str(model.path)
        with quiet_libraries():
            network = VisionEncoderDecoderModel.from_pretrained(
                folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
            )
        return cls(
            network.to(device).eval(),
            AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            ),
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            Calibration.read(model),
        )

    def caption(self, picture: np.ndarray, *, max_length: int = 32) -> tuple[str, float]:
        """Describe uint8 (height, width, 3): the caption, empty if it is not likely enough to be
        right, and how likely it is.
        """
        return self.caption_many([picture], max_length=max_length)[0]

    def caption_many(
        self, pictures: Sequence[np.ndarray], *, max_length: int = 32
    ) -> list[tuple[str, float]]:
        """Describe several pictures."""
        from PIL import Image

        pictures = [squared(picture) for picture in pictures]
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self.image_processor(images=images, return_tensors="pt")
        found = choose(
            pictures,
            pixels["pixel_values"],
            model=self.model,
            tokenizer=self.tokenizer,
            longest=max_length,
            calibration=self.calibration,
        )
        return [self._judged(one) for one in found]

    def _judged(self, found: tuple[str, Signals] | None) -> tuple[str, float]:
        if found is None:
            return "", 0.0
        words, signals = found
        likely = self.calibration.probability(signals)
        return (words if likely >= self.calibration.least else ""), likely


def squared(picture: np.ndarray) -> np.ndarray:
    """Widen uint8 (height, width, 3) to a square by bands of the colour that its border has, so that
    no shape becomes another. What is a pixel off a square stays.
    """
    height, width = picture.shape[:2]
    if abs(height - width) <= 1:
        return picture
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    side = max(height, width)
    whole = np.empty((side, side, 3), np.uint8)
    whole[:] = np.rint(np.median(border, 0))
    top, left = (side - height) // 2, (side - width) // 2
    whole[top : top + height, left : left + width] = picture
    return whole


def choose(
    pictures: Sequence[np.ndarray],
    pixels: torch.Tensor,
    *,
    model: Any,
    tokenizer: Any,
    longest: int = 32,
    calibration: Calibration,
) -> list[tuple[str, Signals] | None]:
    """Choose for each picture the caption that is likeliest to be right: the likeliest words if they
    explain the picture, else the best of several. None if there is no whole sentence among them.

    Inputs:
        pictures: uint8 (height, width, 3).
        pixels: (N, 3, side, side), of the same pictures as the image processor gives them.
    """
    best: list[tuple[str, Signals] | None] = [None] * len(pictures)
    likely = [-1.0] * len(pictures)
    tried: list[set[str]] = [set() for _ in pictures]
    for count in (1, _OTHERS):
        left = [index for index, found in enumerate(likely) if found < _LIKELY]
        if not left:
            break
        readings = read(
            pixels[left], model=model, tokenizer=tokenizer, longest=longest, beams=count
        )
        for number, reading in enumerate(readings):
            index = left[number // count]
            signals = None if reading.words in tried[index] else weigh(pictures[index], reading)
            tried[index].add(reading.words)
            if signals is not None and calibration.probability(signals) > likely[index]:
                likely[index] = calibration.probability(signals)
                best[index] = reading.words, signals
    return best


def read(
    pixels: torch.Tensor, *, model: Any, tokenizer: Any, longest: int = 32, beams: int = 1
) -> Sequence[Reading]:
    """Read pictures; each gets words, however unlikely.

    Inputs: pixels: (N, 3, side, side), as the image processor gives them.
    Params:
        beams: with 1, greedy decoding; with more, as many captions of each picture by beam search.
    """
    import torch

    end = tokenizer.eos_token_id
    with torch.no_grad():
        found = model.generate(
            pixel_values=pixels.to(model.device, model.dtype),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            max_length=longest,
            begin_suppress_tokens=[end],
        )
        start = torch.full((len(found), 1), model.config.decoder_start_token_id)
        found = torch.cat([start.to(found), found[:, 1:]], 1)
        logits = model(
            pixel_values=pixels.to(model.device, model.dtype).repeat_interleave(beams, 0),
            decoder_input_ids=found[:, :-1],
        ).logits.float()
    tokens = found[:, 1:]
    # what is padded after the end counts as certain
    padded = (tokens == end).cumsum(1) - (tokens == end).long() > 0
    first = logits[:, 0].clone()
    others = first.clone()
    others[:, end] = -torch.inf
    strange = first[:, end] - others.logsumexp(-1)
    logits[:, 0] = others
    chosen = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    doubts = -chosen.masked_fill(padded, 0).sum(1)
    words = tokenizer.batch_decode(found, skip_special_tokens=True)
    return [
        Reading(str(text).strip(), float(doubt), float(odds))
        for text, doubt, odds in zip(words, doubts, strange, strict=True)
    ]


def weigh(picture: np.ndarray, reading: Reading) -> Signals | None:
    """Collect what speaks against a caption of a picture, or None if it is no whole sentence or
    contradicted: by a background of another colour, a spot within a thing, or a circle with corners.
    """
    facts = read_caption(reading.words)
    count = int(facts["count"])
    wanted = {f"{number}.size" for number in range(1, count + 1)} | {"background"}
    if count == 2:
        wanted.add("relation")
    if count not in (1, 2) or not wanted <= set(facts):
        return None
    claims = tuple(
        Claim(facts[f"{number}.size"], facts[f"{number}.colour"], facts[f"{number}.shape"])
        for number in range(1, count + 1)
    )
    left = compare(picture, facts["background"], claims)
    circles = [outline.corners for outline in left.outlines if outline.shape == "circle"]
    if left.ground > _GROUND or left.inside > _SPOT or max(circles, default=0.0) > _CORNERS:
        return None
    return Signals(reading.doubt, reading.strange, left)
