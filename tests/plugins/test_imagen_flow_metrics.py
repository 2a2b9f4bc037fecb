"""Measures of pictures, of sets of features and of texts, beside published or hand-computed values."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow_metrics import aesthetic, pairs, sets, words

MADE = {"features": "dinov2", "model": "of-a-test", "normalised": "no"}


def picture(seed: int, channels: int = 3, side: int = 40) -> flow.Image:
    return flow.Image(
        np.random.default_rng(seed).integers(0, 256, (side, side + 3, channels), np.uint8)
    )


def tensors(found: np.ndarray, **tags: str) -> list[flow.Tensor]:
    return [flow.Tensor(row.astype("float32"), {**MADE, **tags}) for row in found]


def drawn(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype("float32")


def distance(a: Sequence[flow.Tensor], b: Sequence[flow.Tensor]) -> tuple[float, str]:
    """The Fréchet distance, and what is noted of it."""
    steps = sets.fid(list(a), list(b))
    note = next(steps).note
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return ended.value.value, note


# --- two pictures ---------------------------------------------------------------------------------


def test_the_ratio_of_known_noise_is_as_computed_by_hand() -> None:
    """A picture that is off by 5 of 255 everywhere has 20 log10(255 / 5) decibels, in 8 bits, in 16
    and in floats; equal pictures have 100.
    """
    grey = np.full((9, 7, 3), 100, np.uint8)
    off = flow.Image(grey + np.uint8(5))
    wanted = 20 * math.log10(255 / 5)
    assert pairs.psnr(off, flow.Image(grey)) == pytest.approx(wanted, abs=1e-4)
    wide = [flow.Image(one.astype("uint16") * np.uint16(257)) for one in (grey + 5, grey)]
    assert pairs.psnr(*wide) == pytest.approx(wanted, abs=1e-4)
    assert pairs.psnr(off.as_float(), flow.Image(grey)) == pytest.approx(wanted, abs=1e-4)
    assert pairs.psnr(off, off) == 100
    almost = flow.Image(grey.astype("float32") / 255 + np.float32(1e-7))
    assert pairs.psnr(almost, flow.Image(grey)) == 100
    assert pairs.psnr(
        flow.Image(np.zeros((1, 1), np.uint8)), flow.Image(np.full((1, 1), 255, np.uint8))
    ) == pytest.approx(0)


def test_two_pictures_are_measured_as_by_the_libraries() -> None:
    """PSNR equals torchmetrics', and SSIM equals scikit-image's, for floats of the pictures."""
    import torch
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a = picture(1)
    noisy = np.clip(
        a.pixels.astype(int) + np.random.default_rng(5).integers(-40, 40, (40, 43, 3)), 0, 255
    )
    b = flow.Image(noisy.astype("uint8"))
    first, second = (
        torch.from_numpy(one.as_float().pixels.copy()).permute(2, 0, 1)[None] for one in (a, b)
    )
    assert pairs.psnr(a, b) == pytest.approx(
        float(peak_signal_noise_ratio(first, second, data_range=1.0)), abs=1e-3
    )
    found = pairs.ssim(a, b)
    by_skimage = structural_similarity(
        a.as_float().pixels,
        b.as_float().pixels,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
    )
    assert found == pytest.approx(by_skimage, abs=1e-5)
    assert 0 < found < 1
    assert pairs.ssim(a, a) == 1


@pytest.mark.parametrize("measure", [pairs.psnr, pairs.ssim])
def test_pictures_of_any_kind_are_compared(measure: Any) -> None:
    """Grey is compared with colour as what it looks like, and alpha is laid over black."""
    grey = picture(2, 1)
    colour = flow.Image(np.repeat(grey.pixels, 3, axis=2))
    assert measure(grey, colour) == measure(colour, colour)
    clear = flow.Image(np.concatenate([colour.pixels, np.zeros((40, 43, 1), np.uint8)], axis=2))
    black = flow.Image(np.zeros((40, 43, 3), np.uint8))
    assert measure(clear, colour) == measure(black, colour)
    with pytest.raises(ValueError, match="the picture is 43 x 40 and its reference 23 x 20"):
        measure(grey, picture(1, side=20))


def test_pictures_without_room_for_a_window_have_no_structure() -> None:
    """A picture that is smaller than the window of SSIM is refused."""
    small = flow.Image(np.zeros((10, 300, 3), np.uint8))
    with pytest.raises(ValueError, match="the pictures are 300 x 10, and metric.ssim compares"):
        pairs.ssim(small, small)


# --- sets of pictures -----------------------------------------------------------------------------


def test_the_distance_of_gaussians_is_as_computed_by_hand() -> None:
    """Sets with known means and covariances have the distance of these: here the axes are apart by
    3 and 4, and their deviations differ by 1 and 2.
    """
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float) * math.sqrt(3 / 4)
    a = tensors(signs * [1, 2] + [0, 0])
    b = tensors(signs * [2, 4] + [3, 4])
    found, note = distance(a, b)
    assert found == pytest.approx(3**2 + 4**2 + 1**2 + 2**2, abs=1e-4)
    assert note == ""
    assert distance(b, a)[0] == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize(("count", "dimension"), [(60, 8), (12, 8), (5, 8)])
def test_distances_are_those_of_torchmetrics(count: int, dimension: int) -> None:
    """FID and KID equal what torchmetrics computes of the same features, with more and with fewer
    pictures than dimensions; KID of all pictures instead of random subsets.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import poly_mmd

    class Given(torch.nn.Module):
        num_features = dimension

        def forward(self, found: Any) -> Any:
            return found

    a, b = drawn(count, dimension, 1), drawn(count, dimension, 2) * 1.5 + 0.3
    metric = FrechetInceptionDistance(feature=Given(), normalize=True)
    metric.update(torch.from_numpy(b), real=True)
    metric.update(torch.from_numpy(a), real=False)
    assert distance(tensors(a), tensors(b))[0] == pytest.approx(float(metric.compute()), rel=1e-3)
    wanted = poly_mmd(torch.from_numpy(b).double(), torch.from_numpy(a).double())
    assert sets.kid(tensors(a), tensors(b)) == pytest.approx(float(wanted), abs=1e-8)


def test_equal_sets_have_no_distance() -> None:
    """The distance of a set to itself is 0, in whichever order, and grows with what is added to it;
    of two halves of one set KID is about 0, also where the halves differ in size.
    """
    a = drawn(50, 6)
    assert distance(tensors(a), tensors(a[::-1]))[0] == pytest.approx(0, abs=1e-6)
    found = [distance(tensors(a), tensors(a + np.float32(shift)))[0] for shift in (0.1, 0.5, 2)]
    assert found == pytest.approx([6 * 0.01, 6 * 0.25, 6 * 4], rel=1e-4)
    many = drawn(3000, 4)
    assert abs(sets.kid(tensors(many[:1100]), tensors(many[1100:]))) < 0.02
    assert sets.kid(tensors(many[:1100]), tensors(many[1100:] + 1)) > 1


def test_few_pictures_have_a_distance_with_a_note() -> None:
    """Fewer pictures than dimensions give a distance, and a note that it is larger for that; two are
    the fewest.
    """
    found, note = distance(tensors(drawn(3, 8)), tensors(drawn(9, 8)))
    assert math.isfinite(found)
    assert note == (
        "there are only 3 pictures for features of 8 numbers, which makes the distance larger;"
        " compare it only with those of equally many pictures"
    )
    one = tensors(drawn(1, 8))
    for measure in (
        lambda: distance(one, tensors(drawn(2, 8))),
        lambda: sets.kid(one, one),
        lambda: sets.diversity(one),
    ):
        with pytest.raises(ValueError, match="port 'features' has one picture, and nothing can be"):
            measure()
    with pytest.raises(ValueError, match="port 'reference' has no pictures"):
        sets.kid(tensors(drawn(2, 8)), [])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (tensors(drawn(2, 8), model="another"), "is of another model than the first"),
        (tensors(drawn(2, 8), normalised="yes"), "or only one of them is normalised"),
        (tensors(drawn(2, 7)), "is of another model than the first"),
        ([flow.Tensor(row) for row in drawn(2, 8)], "element 0, is not features"),
        (tensors(drawn(2, 8) * np.float32("nan")), "has features that are not finite"),
    ],
)
def test_features_of_two_models_have_no_distance(other: list[flow.Tensor], message: str) -> None:
    """What is not of one model, or no features at all, is refused."""
    for measure in (distance, sets.kid):
        with pytest.raises(ValueError, match=f"^port 'reference'.* ?{message}"):
            measure(tensors(drawn(2, 8)), other)


def test_the_diversity_of_known_sets_is_as_computed_by_hand() -> None:
    """Equal pictures count as one, whatever the lengths of their features, and those that have
    nothing in common as many; two pairs are as two.
    """
    axes = np.eye(4)
    assert sets.diversity(tensors(axes)) == (1, 4)
    equal = np.ones((5, 4)) * np.arange(1, 6)[:, None]
    assert sets.diversity(tensors(equal)) == pytest.approx((0, 1), abs=1e-6)
    assert sets.diversity(tensors(axes[[0, 0, 1, 1]])) == pytest.approx((4 / 6, 2), abs=1e-6)
    many = np.concatenate([axes, -axes, axes])
    assert sets.diversity(tensors(many)).distinct == pytest.approx(4, abs=1e-6)
    with pytest.raises(ValueError, match="features that are all zero, and these have no angle"):
        sets.diversity(tensors(np.zeros((2, 4))))


def test_sets_are_measured_in_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures become features and features measures; a picture more costs one step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nodes: dict[str, Any] = {
        "seen": {"type": "image.noise", "width": 20, "height": 20, "each": {"seed": [1, 2, 3]}},
        "made": {"type": "image.noise", "width": 20, "height": 20, "each": {"seed": [4, 5]}},
    }
    for of in ("seen", "made"):
        nodes[f"{of}_features"] = {
            "type": "image.features",
            "model": "hf:facebook/dinov2-small",
            "normalise": False,
            "each": {"image": f"${{{of}}}"},
        }
    given = {"features": "${made_features}", "reference": "${seen_features}"}
    nodes |= {
        "fid": {"type": "metric.fid", **given},
        "kid": {"type": "metric.kid", **given},
        "diversity": {"type": "metric.diversity", "features": "${seen_features}"},
    }
    outputs = {"fid": "${fid}", "kid": "${kid}", "distinct": "${diversity.distinct}"}
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": outputs}
    found = flow.run(graph, store=None, tiny=True, device="cpu")
    assert found["fid"] > 0 and 1 <= found["distinct"] <= 3
    assert [note.message[:24] for note in found.notes] == ["there are only 2 picture"]


# --- one picture ----------------------------------------------------------------------------------


def head(folder: Path, name: str = "head.safetensors", **layers: np.ndarray) -> flow.Model:
    from safetensors.numpy import save_file

    save_file({key.replace("__", "."): value for key, value in layers.items()}, folder / name)
    return resolve(f"./{name}", folder=folder, embedded={}, digest=digest_file)


def scored(model: flow.Model, features: np.ndarray) -> float:
    with (
        ModelPool() as pool,
        pool.lease(aesthetic.HeadLoader(), model, device="cpu", dtype="float32") as lent,
    ):
        return aesthetic.score(lent, tensors(features[None])[0])


def test_an_aesthetic_score_is_what_the_layers_give(tmp_path: Path) -> None:
    """One layer, or several in the order of their numbers, give what they give one after another."""
    features = drawn(1, 12)[0]
    weight, bias = drawn(1, 12, 1), np.array([5.0], "float32")
    assert scored(head(tmp_path, weight=weight, bias=bias), features) == pytest.approx(
        float(weight[0] @ features + 5), abs=1e-5
    )
    sizes = [12, 8, 6, 4, 3, 2, 1]
    layers: dict[str, np.ndarray] = {}
    wanted = features.astype("float64")
    for number, (takes, gives) in enumerate(itertools.pairwise(sizes)):
        name = f"layers__{number * 2}"  # the last are 8 and 10, which sort otherwise as text
        layers[f"{name}__weight"] = drawn(gives, takes, number)
        layers[f"{name}__bias"] = drawn(1, gives, number + 50)[0]
        wanted = layers[f"{name}__weight"] @ wanted + layers[f"{name}__bias"]
    model = head(tmp_path, "deep.safetensors", **layers)
    assert scored(model, features) == pytest.approx(float(wanted[0]), abs=1e-4)
    with pytest.raises(ValueError, match=r"has the shape \[11\], and the layers take 12 numbers"):
        scored(model, features[:11])


@pytest.mark.parametrize(
    "layers",
    [
        {"weight": drawn(2, 12), "bias": drawn(1, 2)[0]},
        {"weight": drawn(1, 12)},
        {"weight": drawn(1, 12), "bias": drawn(1, 2)[0]},
        {"weight": drawn(1, 12)[0], "bias": drawn(1, 1)[0]},
        {
            "a__weight": drawn(3, 12),
            "a__bias": drawn(1, 3)[0],
            "b__weight": drawn(1, 4),
            "b__bias": drawn(1, 1)[0],
        },
        {"weight": drawn(1, 12), "bias": drawn(1, 1)[0], "scale": drawn(1, 1)[0]},
    ],
)
def test_weights_that_are_no_head_are_refused_when_planning(
    tmp_path: Path, layers: dict[str, np.ndarray]
) -> None:
    """A file whose tensors are not linear layers that end in one number is told as such."""
    with pytest.raises(flow.ModelError) as caught:
        aesthetic.HeadLoader().check(head(tmp_path, **layers))
    assert str(caught.value) == (
        "score.aesthetic cannot use the model './head.safetensors': it takes linear layers, one"
        " after another, of which the last gives one number"
    )


def test_numbers_that_are_not_finite_give_no_score(tmp_path: Path) -> None:
    """Damaged weights and features are told as such: a score of NaN would sort anywhere."""
    weight, bias = drawn(1, 12), drawn(1, 1)[0]
    spoilt = np.where(np.arange(12) == 5, np.nan, weight).astype("float32")
    with pytest.raises(flow.ModelError, match="has weights that are NaN or infinite"):
        scored(head(tmp_path, "spoilt.safetensors", weight=spoilt, bias=bias), weight[0])
    with pytest.raises(ValueError, match="has features that are not finite"):
        scored(head(tmp_path, weight=weight, bias=bias), spoilt[0])


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reference", "found"),
    [
        ("the cat sat on the mat", "the cat was on the mat", (5 / 6, 5 / 6, 5 / 6)),
        ("A red circle.", "a large RED circle, left of a square", (6 / 11, 1, 3 / 8)),
        ("red red", "red", (2 / 3, 1 / 2, 1)),
        ("blue", "red", (0, 0, 0)),
        ("", "red", (0, 0, 0)),
        ("", "", (0, 0, 0)),
        ("红色的狐狸", "一只红色狐狸", (8 / 11, 4 / 5, 4 / 6)),
        ("don't", "don t", (1, 1, 1)),
        ("naïve ﬁre", "nai\u0308ve fire", (1, 1, 1)),
        ("Straße", "STRASSE", (1, 1, 1)),
        ("की बात", "का बात", (1 / 2, 1 / 2, 1 / 2)),
    ],
)
def test_words_are_counted_as_by_hand(
    text: str, reference: str, found: tuple[float, float, float]
) -> None:
    """Shared words are counted once for each time that both texts have them, without case and
    punctuation, however Unicode writes their letters; of Chinese, characters. Hindi's words have
    their vowel signs.
    """
    assert words.score(text, reference) == pytest.approx(found, abs=1e-6)


def test_the_plugin_is_registered_without_its_libraries() -> None:
    """Planning imports the plugin and reads its ports, but no numpy, torch or torchmetrics."""
    code = (
        "import sys\nimport imagen_flow_metrics as plugin\nprint(len(list(plugin.imagen_flow_nodes())))\n"
        "print(sorted({'torch', 'torchmetrics', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "7\n[]\n"
