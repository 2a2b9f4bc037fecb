"""Calibrate how likely a caption is right, on pictures of the world and on pictures that are none
of it, some of them nearly.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np

from imagen_flow_embedded.inference.describing import SIGNALS, Calibration, choose
from imagen_flow_embedded.training.foreign import draw_foreign, draw_near_miss
from imagen_flow_embedded.training.pictures import bend, wear
from imagen_flow_embedded.world import (
    Scene,
    attributes,
    draw_scene,
    read_caption,
    render,
)

INDEX = '{\n  "_class_name": "ShapesCaptioner"\n}\n'
KEPT = 0.995
"""The part of the captions of known pictures, where they are right, that is given."""
START = Calibration(
    dict.fromkeys(SIGNALS, 0.0) | {"doubt": -1.0, "worst": -8.0, "away": -8.0}, 4.0, 0.5
)
"""What captions are chosen by before there is a calibration."""
UNTRAINED = (
    "the captioner describes no picture correctly, so it is calibrated to refuse all: "
    "train it further"
)
"""What a calibration warns of that has nothing to go by."""
_STRENGTH = 0.3
"""How strongly the regression is held towards weights of zero, in pictures."""


def calibrate_captioner(
    scratch: Path,
    captioner: Path,
    *,
    made: Sequence[tuple[np.ndarray, Scene]] = (),
    count: int = 250,
    seed: int = 0,
    side: int = 128,
) -> Generator[tuple[int, int, str], None, Path]:
    """Calibrate a captioner and write it, with its calibration, into ``scratch/caption``. One that
    describes no picture correctly is calibrated to refuse all, with a note.

    Inputs:
        captioner: a folder as `train_captioner` writes it.
        made: pictures that other models made, uint8 of any size, with what they show.
    Params:
        count: of the pictures of the world that are drawn, of those that are none of it, and of
            those that nearly are of it.
    Outputs: yields (pictures read, pictures in all, a note); returns the folder.
    """
    from imagen_flow_embedded.training.captioner import (
        load_model,
        load_tokenizer,
        normalise,
        shrink,
    )

    model, tokenizer = load_model(captioner).eval(), load_tokenizer(captioner)
    rng = np.random.default_rng((seed, 7))
    scenes = [draw_scene(rng) for _ in range(count)]
    known = list(zip(softened(render(scenes, side), rng), scenes, strict=True)) + list(made)
    shown: list[tuple[np.ndarray, Scene | None]] = [*known]
    for draw in (draw_foreign, draw_near_miss):
        shown += [(draw(rng, side), None) for _ in range(count)]
    calibration = START
    for round_ in (1, 2):  # which caption is chosen depends on the calibration, if only a little
        vectors: list[np.ndarray] = []
        right: list[bool] = []
        for number, (picture, scene) in enumerate(shown, 1):
            found = choose(
                picture,
                normalise(shrink(picture[None])),
                model=model,
                tokenizer=tokenizer,
                calibration=calibration,
            )
            if found is not None:
                vectors.append(found[1].vector())
                right.append(scene is not None and _is_right(found[0], scene))
            yield number + (round_ - 1) * len(shown), 2 * len(shown), ""
        if not any(right):
            calibration = replace(START, least=1.0)  # no probability reaches it
            yield 2 * len(shown), 2 * len(shown), UNTRAINED
            break
        calibration = fit(np.array(vectors), np.array(right))
    folder = scratch / "caption"
    rmtree(folder, ignore_errors=True)
    copytree(captioner, folder)
    calibration.write(folder)
    (folder / "model_index.json").write_text(INDEX, encoding="utf-8")
    return folder


def softened(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give pictures edges as a cascade draws them: a third sharp, a third worn, a third warped."""
    third = len(pictures) // 3
    worn = wear(pictures[third:], rng, untouched=0)
    warped = bend(_signed(worn[third:]), rng, (0.5, 1.0))
    unsigned = ((warped + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return np.concatenate([pictures[:third], worn[:third], unsigned])


def _signed(pictures: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _is_right(words: str, scene: Scene) -> bool:
    """Say whether a caption names every fact of a scene, in either order of its things."""
    facts = read_caption(words)
    orders = [scene, Scene(scene.background, scene.things[::-1])]
    return any(attributes(order) == facts for order in orders)


def fit(vectors: np.ndarray, right: np.ndarray) -> Calibration:
    """Fit the logistic regression by Newton's method, no weight above zero: a signal only ever
    speaks against a caption.

    Inputs: the signals (N, signals) and whether each caption is right (N); one at least is.
    """
    rows = np.concatenate([vectors, np.ones((len(vectors), 1))], 1)
    target = right.astype(float)
    used = np.ones(rows.shape[1], bool)
    weights = np.zeros(rows.shape[1])
    while True:
        seen = rows[:, used]
        found = np.zeros(used.sum())
        held = _STRENGTH * np.eye(len(found))
        held[-1, -1] = 1e-3
        for _ in range(50):
            odds = 1 / (1 + np.exp(-np.clip(seen @ found, -30, 30)))
            slope = seen.T @ (target - odds) - held @ found
            curve = (seen * (odds * (1 - odds))[:, None]).T @ seen + held
            step = np.linalg.solve(curve, slope)
            found += step
            if np.abs(step).max() < 1e-6:
                break
        weights[:] = 0
        weights[used] = found
        wrong = (weights > 0) & (np.arange(len(weights)) < len(SIGNALS))
        if not wrong.any():
            break
        used &= ~wrong
    named = dict(zip(SIGNALS, (round(float(w), 4) for w in weights), strict=False))
    calibration = Calibration(named, round(float(weights[-1]), 4), 0.5)
    odds = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
    least = float(np.quantile(odds[right], 1 - KEPT))
    return Calibration(calibration.weights, calibration.bias, round(min(0.5, least), 4))
