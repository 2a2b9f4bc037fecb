"""The second super-resolution stage of the embedded Imagen: its training on a few tiny steps, and
the enlarging by what it writes.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import imagen_flow as flow
from imagen_flow_embedded.training import second_super_resolution as second
from imagen_flow_embedded.training.edges import SEEN, edge_losses

TINY = {"batch_size": 2, "crop": 32, "channels": (8, 8, 8), "every_s": 1000.0}
ENLARGE = """
imagen_flow: 1
inputs: {side: 128}
nodes:
  text:  {type: text.encode, model: embedded/imagen, prompt: a large red circle}
  small: {type: image.solid, width: "${side}", height: "${side}", colour: red}
  large: {type: diffusion.super_resolution, model: ./imagen-256, image: "${small}", text: "${text}", seed: 1, num_inference_steps: 2}
outputs: {large: "${large}"}
"""


def finish(training):
    """Run a generator to its end and give what it yielded and returned."""
    yielded = []
    while True:
        try:
            yielded.append(next(training))
        except StopIteration as end:
            return yielded, end.value


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return finish(
        second.train_second_super_resolution(tmp_path_factory.mktemp("second"), steps=4, **TINY)
    )


def test_training_writes_a_cascade_of_super_resolution_alone(trained):
    yielded, folder = trained
    assert [(done, total) for done, total, _ in yielded] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    assert [name for name in index if not name.startswith("_")] == [
        "super_resolution",
        "super_resolution_scheduler",
    ]


def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(trained, tmp_path):
    training = second.train_second_super_resolution(tmp_path, steps=4, **TINY)
    next(training)
    training.close()
    _, folder = finish(second.train_second_super_resolution(tmp_path, steps=4, **TINY))
    one, other = (
        (whole / "super_resolution" / "diffusion_pytorch_model.safetensors").read_bytes()
        for whole in (trained[1], folder)
    )
    assert one == other


def test_a_training_goes_on_from_the_weights_of_another(trained, tmp_path):
    more = {**TINY, "start": trained[1], "steps": 1, "learning_rate": 1e-6}
    _, folder = finish(second.train_second_super_resolution(tmp_path, **more))
    one, other = (
        (whole / "super_resolution" / "config.json").read_text("utf-8")
        for whole in (trained[1], folder)
    )
    assert one == other
    one, other = (
        load_file(whole / "super_resolution" / "diffusion_pytorch_model.safetensors")
        for whole in (trained[1], folder)
    )
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, atol=1e-4, rtol=1e-3)


def test_errors_too_small_to_see_count_by_their_square_and_others_by_their_size():
    """So that flat colour, nearly right, weighs little beside an edge."""
    clean, sigma = torch.zeros(1, 3, 4, 4), torch.ones(1)
    tiny, twice, large, larger = (
        edge_losses(torch.full_like(clean, error), clean, sigma)
        for error in (SEEN / 4, SEEN / 2, 0.5, 1.0)
    )
    assert twice["pixels"] / tiny["pixels"] == pytest.approx(4)
    assert larger["pixels"] - large["pixels"] == pytest.approx(0.5)
    assert [each["slopes"] for each in (tiny, twice, large, larger)] == [0] * 4
    wavering = clean.clone()
    wavering[..., ::2] = 0.5
    assert edge_losses(wavering, clean, sigma)["slopes"] > 0.2


@pytest.mark.parametrize("side", [128, 100])
def test_its_pictures_are_of_256_px_whatever_the_size_of_the_small_one(trained, tmp_path, side):
    (tmp_path / "imagen-256").symlink_to(trained[1])
    graph = tmp_path / "enlarge.yaml"
    graph.write_text(ENLARGE, "utf-8")
    large = flow.run(graph, {"side": side}, store=None, device="cpu")["large"]
    assert (large.width, large.height) == (256, 256)


def test_softening_blurs_and_warps_pictures_one_by_one_and_keeps_flat_ones_flat():
    rng = np.random.default_rng(0)
    edge = torch.full((40, 3, 32, 32), -1.0)
    edge[:, :, :, 16:] = 1
    soft = second.soften(rng, edge)
    between = ((soft > -0.8) & (soft < 0.8)).float().mean((1, 2, 3)) * 32
    assert between.min() < 1 < 3 < between.max()
    flat = second.soften(rng, torch.full((8, 3, 32, 32), 0.5))
    assert (flat.amax((2, 3)) - flat.amin((2, 3))).max() < 1e-5
