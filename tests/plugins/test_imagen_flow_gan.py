"""GANs draw by their generators in ONNX files: with latents of the seed, as onnxruntime called by
hand, and nothing of a stranger's file reaches further than its own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import imagen_flow as flow
from imagen_flow_gan import imagen_flow_tiny

TINY = Path(str(imagen_flow_tiny("any.onnx", None, Path()))).parent


FLOAT = TensorProto.FLOAT


def build(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, Sequence[Any]],
    constants: dict[str, np.ndarray],
) -> ModelProto:
    """Put a network together: inputs by name with dtype and shape, outputs (floats) with their
    shapes.
    """
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(name, *port) for name, port in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(model: ModelProto, path: Path) -> str:
    path.write_bytes(model.SerializeToString())
    return str(path)


def _drawing(latents: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes that make a picture of 64 × 32 of 512 numbers: two convolutions with an enlargement
    between them.
    """
    drawn = np.random.RandomState(0)
    constants = {
        "grid": np.array([1, 2, 32, 8], np.int64),
        "scales": np.array([1, 1, 2, 4], np.float32),
        "first": drawn.randn(4, 2, 3, 3).astype(np.float32) / 3,
        "second": drawn.randn(3, 4, 3, 3).astype(np.float32) / 4,
    }
    nodes = [
        helper.make_node("Reshape", [latents, "grid"], ["small"]),
        helper.make_node("Conv", ["small", "first"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["wide", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Conv", ["large", "second"], ["colours"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["colours"], ["img"]),
    ]
    return nodes, constants


def generator() -> ModelProto:
    """From latents to a picture."""
    nodes, constants = _drawing("z")
    return build(nodes, {"z": (FLOAT, ["batch", 512])}, {"img": ["batch", 3, 64, 32]}, constants)


def mapping() -> ModelProto:
    """The first half of one like StyleGAN: latents, drawn towards the middle by psi, for each of 16
    layers.
    """
    nodes = [
        helper.make_node("Gather", ["z", "turn"], ["turned"], axis=1),
        helper.make_node("Mul", ["turned", "psi"], ["near"]),
        helper.make_node("Unsqueeze", ["near", "axis"], ["row"]),
        helper.make_node("Expand", ["row", "layers"], ["w"]),
    ]
    constants = {
        "turn": np.arange(512, dtype=np.int64)[::-1].copy(),
        "axis": np.array([1], np.int64),
        "layers": np.array([1, 16, 512], np.int64),
    }
    return build(
        nodes, {"z": (FLOAT, [1, 512]), "psi": (FLOAT, [1])}, {"w": [1, 16, 512]}, constants
    )


def synthesis() -> ModelProto:
    """The second half: from latents of each layer to a picture."""
    nodes, constants = _drawing("mean")
    return build(
        [helper.make_node("ReduceMean", ["w"], ["mean"], axes=[1], keepdims=0), *nodes],
        {"w": (FLOAT, [1, 16, 512])},
        {"img": [1, 3, 64, 32]},
        constants,
    )


BUILT = {"generator": generator, "mapping": mapping, "synthesis": synthesis}
"""What comes with the plugin."""


def at(name: str) -> str:
    return str(TINY / f"{name}.onnx")


def draw(model: str, *, seed: int = 3, **more: Any) -> flow.Image:
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": {"type": "gan.sample", "model": model, "seed": seed, **more}},
        "outputs": {"out": "${one}"},
    }
    return flow.run(graph, store=None, device="cpu")["out"]


def refused(model: str, **more: Any) -> str:
    """What a run says that cannot be done."""
    try:
        draw(model, **more)
    except flow.GraphError as error:
        return error.problems[0].message
    except flow.NodeError as error:
        return str(error.__cause__)
    return ""


def by_hand(model: str, **given: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, given)[
        0
    ]


def pixels(found: np.ndarray) -> np.ndarray:
    return np.rint(((found.transpose(1, 2, 0) + 1) / 2).clip(0, 1) * 255).astype(np.uint8)


def latents(seed: int = 3, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(*(shape or (1, 512))).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Save a network that gives one of its inputs as the picture, and has others besides."""

    def network(
        shape: list[Any] | None = None,
        *,
        of: str = "z",
        inputs: dict[str, Any] | None = None,
        extra: list[Any] | None = None,
    ) -> str:
        ports = inputs or {of: (FLOAT, shape or [1, 3, 4, 4])}
        model = build(
            [helper.make_node("Identity", [of], ["picture"]), *(extra or [])],
            ports,
            {"picture": ports[of][1]},
            {},
        )
        return save(model, tmp_path / "odd.onnx")

    return network


@pytest.mark.parametrize("name", list(BUILT))
def test_what_comes_along_is_what_is_built_here(name: str) -> None:
    """The small networks for ``--tiny`` are those of this folder's builders."""
    assert onnx.load(at(name)) == BUILT[name]()
    assert Path(at(name)).stat().st_size < 8192


def test_a_picture_is_that_of_the_generator_called_by_hand() -> None:
    """The latents are StyleGAN's own for the seed, and the pixels the generator's from -1 to 1; the
    same again, and others for another seed.
    """
    ours = draw(at("generator"))
    assert np.array_equal(ours.pixels, pixels(by_hand(at("generator"), z=latents())[0]))
    assert (ours.pixels.shape, ours.pixels.std() > 20) == ((64, 32, 3), True)
    assert np.array_equal(ours.pixels, draw(at("generator")).pixels)
    assert not np.array_equal(ours.pixels, draw(at("generator"), seed=4).pixels)
    long = draw(at("generator"), seed=2**40 + 3).pixels
    assert not np.array_equal(long, ours.pixels)


@pytest.mark.parametrize("psi", [None, 0.5])
def test_two_networks_draw_as_one_after_the_other(psi: float | None) -> None:
    """A mapping makes styles of the latents, truncated by its own input, and the synthesis a
    picture of the styles.
    """
    w = by_hand(at("mapping"), z=latents(), psi=np.array([1.0 if psi is None else psi], np.float32))
    theirs = by_hand(at("synthesis"), w=w)[0]
    assert np.array_equal(
        draw(at("synthesis"), mapping=at("mapping"), truncation=psi).pixels, pixels(theirs)
    )


def test_without_an_input_for_it_truncation_draws_again(saved: Callable[..., str]) -> None:
    """No latent is further out than the threshold, those within it stay as they were drawn, and
    none is cut to it.
    """
    path = saved([1, 3, 32, 32])
    plain = latents(3, 1, 3, 32, 32)[0].transpose(1, 2, 0)
    cut = draw(path, truncation=0.5, values="0 to 1").pixels / 255
    inside = np.abs(plain) <= 0.5
    assert np.allclose(cut[inside], plain[inside].clip(0, 1), atol=1 / 255)
    assert cut.max() <= 0.5 + 1 / 255
    assert 0.02 < (cut[~inside] > 0.25).mean() < 0.5
    assert (np.abs(cut - 0.5) < 0.01).mean() < 0.05


@pytest.mark.parametrize(
    ("dtype", "shape", "wanted"),
    [
        (TensorProto.INT64, [1], [4]),
        (TensorProto.INT32, [], 4),
        (FLOAT, ["n", 6], [[0, 0, 0, 0, 1, 0]]),
    ],
)
def test_a_class_is_given_as_the_generator_takes_it(
    dtype: int, shape: list[Any], wanted: Any, tmp_path: Path
) -> None:
    """As a number or as a one among zeros; the picture here is what came in."""
    nodes = [
        helper.make_node("Cast", ["label"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["number", "row"], ["flat"]),
        helper.make_node("Expand", ["flat", "size"], ["picture"]),
    ]
    count = np.asarray(wanted).size
    constants = {
        "row": np.array([1, 1, 1, -1], np.int64),
        "size": np.array([1, 3, 5, count], np.int64),
    }
    model = build(
        nodes,
        {"z": (FLOAT, [1, 8]), "label": (dtype, shape)},
        {"picture": [1, 3, 5, count]},
        constants,
    )
    path = save(model, tmp_path / "classes.onnx")
    assert np.array_equal(
        draw(path, label=4, values="0 to 255").pixels[0, :, 0], np.asarray(wanted).reshape(-1)
    )
    assert "choose one with 'label'" in refused(path)
    if shape == ["n", 6]:
        assert refused(path, label=6) == "there is no class 6: the generator has 6, from 0"


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([1, 3, 4, 5], (4, 5, 3)),
        ([1, 4, 5, 3], (4, 5, 3)),
        ([1, 1, 4, 5], (4, 5, 1)),
        ([2, 4, 5, 1], (4, 5, 1)),
    ],
)
def test_pictures_come_in_any_order_of_axes(
    shape: list[int], size: tuple[int, ...], saved: Callable[..., str]
) -> None:
    """Channels first or last, grey or RGB; of a batch the first is taken."""
    ours = draw(saved(shape), values="0 to 1").pixels
    assert ours.shape == size
    first = latents(3, *shape)[0]
    assert np.array_equal(
        ours, np.rint((first if size == first.shape else first.transpose(1, 2, 0)).clip(0, 1) * 255)
    )


def test_a_picture_among_several_outputs(tmp_path: Path) -> None:
    """The first that can be a picture is taken, or the one that is named."""
    nodes = [
        helper.make_node("Flatten", ["z"], ["features"]),
        helper.make_node("Identity", ["z"], ["rgb"]),
        helper.make_node("Neg", ["z"], ["raw"]),
    ]
    shape = [1, 3, 4, 4]
    path = save(
        build(nodes, {"z": (FLOAT, shape)}, {"features": [1, 48], "rgb": shape, "raw": shape}, {}),
        tmp_path / "several.onnx",
    )
    assert np.array_equal(draw(path).pixels, pixels(latents(3, *shape)[0]))
    assert np.array_equal(draw(path, output="raw").pixels, pixels(-latents(3, *shape)[0]))
    assert refused(path, output="rbg").startswith(
        "there is no output 'rbg'; there are 'features' (1 × 48, float32), 'rgb'"
    )
    assert refused(path, output="features").startswith(
        "the generator gave 1 × 48 numbers, which is not a picture"
    )


def test_other_inputs_are_named(saved: Callable[..., str]) -> None:
    """An input that nothing is known of is asked for, and gets its numbers by name."""
    path = saved(
        of="z",
        inputs={"z": (FLOAT, [1, 3, 4, 4]), "strength": (FLOAT, [1, 2])},
        extra=[helper.make_node("Identity", ["strength"], ["unused"])],
    )
    said = refused(path)
    assert (
        said
        == "the purpose of the generator's inputs 'z' (1 × 3 × 4 × 4, float32), 'strength' (1 × 2, float32) is unclear: give 'strength' (1 × 2, float32) in 'arguments'"
    )
    assert draw(path, arguments={"strength": [1, 0.5]}).pixels.shape == (4, 4, 3)
    assert refused(path, arguments={"strength": [1, 2, 3]}).startswith(
        "the input 'strength' (1 × 2, float32) does not accept its value in 'arguments'"
    )
    assert refused(path, arguments={"power": 1}).startswith(
        "the generator has no input power; its inputs are 'z'"
    )
    white = draw(path, arguments={"strength": 1, "z": 1}).pixels
    assert (white == 255).all()


def test_networks_that_do_not_belong_together_are_told(saved: Callable[..., str]) -> None:
    """A mapping of another generator, a label that is not taken, latents without a size, no picture
    at all.
    """
    assert (
        refused(saved(), mapping=at("mapping"))
        == "the mapping gives 1 × 16 × 512 numbers, but the generator's input is 'z' (1 × 3 × 4 × 4, float32): they do not belong to the same generator"
    )
    assert (
        refused(at("generator"), label=1)
        == "the generator takes no label; its inputs are 'z' (? × 512, float32)"
    )
    assert (
        refused(saved([1, 3, "height", 4]))
        == "the input 'z' (1 × 3 × ? × 4, float32) does not declare the size of its latents: export the generator with that size, or give them in 'arguments'"
    )
    assert (
        refused(at("mapping"))
        == "no output of the generator is a picture of 1 or 3 channels: there are 'w' (1 × 16 × 512, float32)"
    )


def _outside(location: str) -> bytes:
    """A network whose weights are said to lie elsewhere."""
    weights = TensorProto(
        name="weights",
        data_type=TensorProto.FLOAT,
        dims=[1, 3, 2, 2],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, "offset": "0", "length": "48"}.items():
        weights.external_data.add(key=key, value=value)
    shape = [1, 3, 2, 2]
    model = build(
        [helper.make_node("Add", ["z", "weights"], ["picture"])],
        {"z": (FLOAT, shape)},
        {"picture": shape},
        {},
    )
    model.graph.initializer.append(weights)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "location",
    [
        "beside.bin",
        "sub/beside.bin",
        "../secret.bin",
        "{folder}/secret.bin",
        "/etc/passwd",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_a_network_reads_no_other_file(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in other files are refused wherever these lie: they would not be in the model's
    digest, and the path is a stranger's.
    """
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (folder / "beside.bin", folder / "sub" / "beside.bin", tmp_path / "secret.bin"):
        place.write_bytes(b"\1" * 64)
    monkeypatch.chdir(folder)
    (folder / "outside.onnx").write_bytes(_outside(location.format(folder=tmp_path)))
    said = refused(str(folder / "outside.onnx"))
    assert "has weights in external files" in said or "cannot be loaded" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "holds a pointer in place of odd.onnx"),
        (b"not a network", "is damaged: odd.onnx is not a complete ONNX file"),
        (b"", "is damaged: odd.onnx is not a complete ONNX file"),
        (b"\x08\x08" + b"\xff" * 40, "cannot be loaded"),
        (b"\x08\x00\x00\x00ORTM" + bytes(64), "cannot be loaded"),
    ],
)
def test_a_broken_file_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    """What is torn, a pointer or another format is said before a picture is drawn."""
    (tmp_path / "odd.onnx").write_bytes(content)
    assert said in refused(str(tmp_path / "odd.onnx"))


def test_what_is_too_large_is_refused(saved: Callable[..., str], tmp_path: Path) -> None:
    """A declared port of billions of numbers is refused before any is made; what grows inside fails
    as a node does.
    """
    assert refused(saved([1, 3, 2**20, 2**20])).endswith(
        "numbers, which no generator of pictures has"
    )
    size = np.array([10**13], np.int64)
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["z", "sum"], ["picture"]),
    ]
    model = build(nodes, {"z": (FLOAT, [1, 3, 2, 2])}, {"picture": [1, 3, 2, 2]}, {"size": size})
    assert "failed: " in refused(save(model, tmp_path / "grows.onnx"))


def test_operators_from_elsewhere_are_not_loaded(tmp_path: Path) -> None:
    """A network that wants an operator of its own is refused: there is no way to bring one along."""
    shape = [1, 3, 2, 2]
    model = build(
        [helper.make_node("Run", ["z"], ["picture"], domain="strange")],
        {"z": (FLOAT, shape)},
        {"picture": shape},
        {},
    )
    model.opset_import.append(helper.make_opsetid("strange", 1))
    assert "cannot be loaded" in refused(save(model, tmp_path / "own.onnx"))


def test_nan_is_told(tmp_path: Path) -> None:
    """NaN is said, not drawn."""
    shape = [1, 3, 4, 4]
    roots = build(
        [helper.make_node("Sqrt", ["z"], ["picture"])],
        {"z": (FLOAT, shape)},
        {"picture": shape},
        {},
    )
    assert refused(save(roots, tmp_path / "roots.onnx")) == "the generator gave NaN"


def test_another_model_is_refused_when_planning(tmp_path: Path) -> None:
    """The node takes one .onnx file; other files and folders are problems of the graph."""
    (tmp_path / "folder").mkdir()
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "folder" / "model.safetensors")
    for path in (tmp_path / "folder", tmp_path / "folder" / "model.safetensors"):
        graph = {
            "imagen_flow": 1,
            "nodes": {"one": {"type": "gan.sample", "model": str(path), "seed": 1}},
            "outputs": {"out": "${one}"},
        }
        assert [p.message for p in flow.plan(graph, store=None).problems] == [
            f"gan.sample cannot use the model '{path}': it needs a generator in one .onnx file"
        ]


def test_the_number_of_threads_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of one machine is the picture of a larger one of its kind."""
    once = draw(at("generator")).pixels
    made = onnxruntime.SessionOptions

    def four() -> Any:
        options = made()
        options.intra_op_num_threads = 4
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", four)
    assert np.array_equal(once, draw(at("generator")).pixels)
