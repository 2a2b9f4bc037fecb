"""Calibrate how likely a caption is right, on pictures of the world and on pictures that are none
of it, some of them nearly.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np

from imagen_flow_embedded.inference.describing import SIGNALS, Calibration, Signals, choose
from imagen_flow_embedded.training.foreign import draw_foreign, draw_near_miss
from imagen_flow_embedded.world import (
    SHAPES,
    Scene,
    attributes,
    draw_scene,
    read_caption,
    render,
)

INDEX = '{\n  "_class_name": "ShapesCaptioner"\n}\n'
LEAST = 0.5
"""How likely a caption has to be right to be given."""
START = Calibration(
    dict.fromkeys(SIGNALS, 0.0) | {"doubt": -0.3, "outline": -1.0, "inside": -2.0, "away": -2.0},
    4.0,
    LEAST,
    dict.fromkeys(SHAPES, 0.35),
)
"""What captions are chosen by before there is a calibration."""
UNTRAINED = (
    "the captioner describes no picture correctly, so it is calibrated to refuse all: "
    "train it further"
)
"""What a calibration warns of that has nothing to go by."""
_USUAL = 0.9
"""The part of the outlines of a shape that is nearer the ideal than what is called usual."""
_STRENGTH = 0.1
"""How strongly the regression is held towards weights of zero, in pictures."""


def calibrate_captioner(
    scratch: Path,
    captioner: Path,
    *,
    made: Sequence[tuple[np.ndarray, Scene]] = (),
    count: int = 40,
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
    shown: list[tuple[np.ndarray, Scene | None]] = [
        *zip(render(scenes, side), scenes, strict=True),
        *made,
    ]
    for draw in (draw_foreign, draw_near_miss):
        shown += [(draw(rng, side), None) for _ in range(count)]
    signals: list[Signals] = []
    right: list[bool] = []
    for number, (picture, scene) in enumerate(shown, 1):
        (found,) = choose(
            [picture],
            normalise(shrink(picture[None])),
            model=model,
            tokenizer=tokenizer,
            calibration=START,
        )
        if found is not None:
            signals.append(found[1])
            right.append(scene is not None and _is_right(found[0], scene))
        yield number, len(shown), ""
    if any(right):
        calibration = fit(signals, np.array(right))
    else:
        calibration = replace(START, least=1.0)  # no probability reaches it
        yield len(shown), len(shown), UNTRAINED
    folder = scratch / "caption"
    rmtree(folder, ignore_errors=True)
    copytree(captioner, folder)
    calibration.write(folder)
    (folder / "model_index.json").write_text(INDEX, encoding="utf-8")
    return folder


def _is_right(words: str, scene: Scene) -> bool:
    """Say whether a caption names every fact of a scene, in either order of its things."""
    facts = read_caption(words)
    orders = [scene, Scene(scene.background, scene.things[::-1])]
    return any(attributes(order) == facts for order in orders)


def fit(signals: Sequence[Signals], right: np.ndarray) -> Calibration:
    """Fit a calibration: what is usual of outlines, then the regression.

    Inputs: the signals of each caption and whether it is right; one at least is.
    """
    usual = replace(START, edges=usual_edges([s for s, r in zip(signals, right, strict=True) if r]))
    vectors = np.array([usual.vector(each) for each in signals])
    weights = regress(vectors, right)
    named = dict(zip(SIGNALS, (round(float(w), 4) for w in weights), strict=False))
    return replace(usual, weights=named, bias=round(float(weights[-1]), 4))


def usual_edges(signals: Sequence[Signals]) -> dict[str, float]:
    """Give how far the outlines of each shape usually are from the ideal, in pixels."""
    edges = dict(START.edges)
    for shape in edges:
        found = [o.spread for s in signals for o in s.left.outlines if o.shape == shape]
        if found:
            edges[shape] = round(float(np.quantile(found, _USUAL)), 4)
    return edges


def regress(vectors: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Fit the logistic regression by Newton's method, no weight above zero: a signal only ever
    speaks against a caption.

    Inputs: the signals (N, signals) and whether each caption is right (N).
    Outputs: the weights of the signals, and the bias.
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
            return weights
        used &= ~wrong
