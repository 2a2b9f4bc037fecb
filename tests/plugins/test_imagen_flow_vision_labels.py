"""image.classify: its labels and scores are those of the pipelines of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_vision.kinds import CLASSES
from imagen_flow_vision.labelling import classify
from imagen_flow_vision.tiny.makers import MAKERS
from imagen_flow_vision.tiny.parts import LABELS, SIDES, VISION, labels, save

__all__ = ["MAKERS"]

WORDS = ["a fox", "an owl", "a lighthouse by the sea"]
SHAPES = [(40, 60, 3), (1, 1, 1), (3, 300, 4), (37, 5, 2)]


def by_pipeline(task: str, folder: str, image: flow.Image, **given: Any) -> dict[str, float]:
    """Give the scores of a pipeline of transformers by label, in its order."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = {}
    if given:
        tokenizer["tokenizer"] = transformers.AutoTokenizer.from_pretrained(folder)
    with quiet_libraries():
        pipeline = transformers.pipeline(task, folder, image_processor=processor, **tokenizer)
        found = pipeline(image.rgb().to_pil(), **given)
    return {one["label"]: one["score"] for one in found}


def scores(looked: dict[str, Any]) -> dict[str, float]:
    return {one["label"]: one["score"] for one in looked["scores"]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_classifiers_scores_are_those_of_the_pipeline(
    kind: str, shape: tuple[int, ...], at: Any, look: Any, noisy: Any
) -> None:
    """Labels come in the pipeline's order; scores differ by rounding alone, since it computes its
    softmax with numpy.
    """
    found = look(classify, noisy(*shape), model=at(kind))
    wanted = by_pipeline("image-classification", at(kind), noisy(*shape))
    assert list(scores(found)) == list(wanted)
    assert scores(found) == pytest.approx(wanted, abs=1e-6)
    assert (found["label"], found["score"]) == next(iter(scores(found).items()))


def test_a_classifier_with_a_teacher_is_a_classifier(look: Any, noisy: Any, tmp_path: Path) -> None:
    """DeiT's distilled checkpoints have two heads, whose scores the library averages."""
    import transformers

    config = transformers.DeiTConfig(**VISION, **labels())
    with quiet_libraries():
        save(
            tmp_path / "m",
            "DeiTForImageClassificationWithTeacher",
            config,
            transformers.DeiTImageProcessorPil(size=SIDES, crop_size=SIDES),
        )
    found = look(classify, noisy(40, 60), model=str(tmp_path / "m"))
    wanted = by_pipeline("image-classification", str(tmp_path / "m"), noisy(40, 60))
    assert list(scores(found)) == list(wanted)
    assert scores(found) == pytest.approx(wanted, abs=1e-6)


def test_a_label_without_a_name_has_its_number(
    at: Any, look: Any, noisy: Any, tmp_path: Path
) -> None:
    """Some configurations name fewer labels than the network has."""
    import torch
    import transformers

    torch.manual_seed(0)
    with quiet_libraries():
        model = transformers.PvtForImageClassification(
            transformers.PvtConfig(
                hidden_sizes=[8, 8, 8, 8],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 1, 1, 1],
                image_size=32,
                **labels(),
            )
        )
        model.save_pretrained(tmp_path / "m")
        transformers.PvtImageProcessorPil(size=SIDES).save_pretrained(tmp_path / "m")
    found = look(classify, noisy(40, 60), model=str(tmp_path / "m"), most=5000)
    count = model.classifier.out_features
    assert count > len(LABELS) and len(found["scores"]) == count
    assert {one["label"] for one in found["scores"]} == {
        *LABELS,
        *(f"LABEL_{number}" for number in range(len(LABELS), count)),
    }


@pytest.mark.parametrize("kind", ["clip", "chinese-clip", "siglip"])
def test_scores_of_words_are_those_of_the_pipeline(
    kind: str, at: Any, look: Any, noisy: Any
) -> None:
    """Words and the sentence around them are read as the pipeline reads them."""
    for shape in SHAPES[:2]:
        found = look(
            classify, noisy(*shape), model=at(kind), labels=WORDS, template="a drawing of {}"
        )
        wanted = by_pipeline(
            "zero-shot-image-classification",
            at(kind),
            noisy(*shape),
            candidate_labels=WORDS,
            hypothesis_template="a drawing of {}",
        )
        assert list(scores(found)) == list(wanted)
        assert scores(found) == pytest.approx(wanted, abs=1e-6)
        assert found.notes == []


def test_thousands_of_labels_are_scored_together(at: Any, look: Any, noisy: Any) -> None:
    """Labels that are read in groups compete with one another all the same: their scores add up
    to 1, and equal those of one call.
    """
    words = [f"w{number}" for number in range(1500)]
    found = look(classify, noisy(9, 9), model=at("clip"), labels=words, most=1500)
    wanted = by_pipeline(
        "zero-shot-image-classification", at("clip"), noisy(9, 9), candidate_labels=words
    )
    assert scores(found) == pytest.approx(wanted, abs=1e-6)
    assert sum(scores(found).values()) == pytest.approx(1, abs=1e-5)


def test_a_picture_in_16_bits_is_classified_as_in_8(at: Any, look: Any, noisy: Any) -> None:
    """Networks see 8 bits."""
    assert look(classify, noisy(20, 20, dtype="uint16"), model=at("vit")) == look(
        classify, noisy(20, 20), model=at("vit")
    )


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "clone"),
    ],
)
def test_scores_follow_what_the_classifier_was_trained_for(
    settings: dict[str, Any],
    transform: str,
    at: Any,
    look: Any,
    noisy: Any,
    tmp_path: Path,
) -> None:
    """Several labels a picture are independent of one another, and a regression's numbers stay."""
    import torch
    import transformers

    shutil.copytree(at("vit"), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | settings))
    found = look(classify, noisy(20, 20), model=str(tmp_path / "m"), most=100)
    with quiet_libraries():
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "m").eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        logits = model(**processor(noisy(20, 20).to_pil(), return_tensors="pt")).logits[0]
    wanted = dict(zip(LABELS, getattr(logits, transform)().tolist(), strict=True))
    assert scores(found) == wanted
    assert list(scores(found).values()) == sorted(wanted.values(), reverse=True)


def test_what_is_not_read_of_labels_is_said(at: Any, look: Any, noisy: Any) -> None:
    """A label that is too long is cut, and a word in a script that the model lacks is named."""
    found = look(classify, noisy(9, 9), model=at("chinese-clip"), labels=["x " * 90, "狐狸"])
    assert found.notes == [
        "'This is a photo of x x x x x x x x x x …' is cut after 62 tokens, before"
        " 'x x x x x x x x x x x x x x x…'",
        "unknown to the text encoder: '狐狸.'",
    ]


@pytest.mark.parametrize(
    ("kind", "ports", "told"),
    [
        ("vit", {"labels": ["a"]}, "has labels of its own; leave it out"),
        ("clip", {}, "port 'labels' is missing"),
        ("clip", {"labels": []}, "port 'labels' is empty; name at least one"),
        ("clip", {"labels": ["a", " "]}, "number 2 of port 'labels' is empty"),
        ("clip", {"labels": ["a", "b", "a"]}, "port 'labels' names 'a' twice"),
        ("clip", {"labels": ["a"], "template": "a photo"}, "it needs one {}"),
    ],
)
def test_labels_that_cannot_be_chosen_from_are_refused(
    kind: str, ports: dict[str, Any], told: str, at: Any, look: Any, noisy: Any
) -> None:
    """The message names the port and says what to do."""
    with pytest.raises(flow.NodeError) as caught:
        look(classify, noisy(9, 9), model=at(kind), **ports)
    assert told in str(caught.value.__cause__)


def test_weights_that_give_nan_are_named(at: Any, look: Any, noisy: Any, tmp_path: Path) -> None:
    """Damaged weights are no label."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(at("vit"), tmp_path / "m")
    weights = load_file(tmp_path / "m/model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(flow.NodeError) as caught:
        look(classify, noisy(9, 9), model=str(tmp_path / "m"))
    assert "gave NaN or infinite numbers: its weights are damaged" in str(caught.value.__cause__)


def test_models_of_another_kind_are_refused_when_planning(
    at: Callable[[str], str], refused: Any, tmp_path: Path
) -> None:
    """A class of the right family without the right end is told by name, and what is missing too."""
    node = {"type": "image.classify", "image": "${picture}"}
    picture = {"type": "image.noise", "width": 8, "height": 8, "seed": 1}

    def plan(**config: Any) -> str:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(at("vit"), tmp_path / "m")
        (tmp_path / "m/config.json").write_text(json.dumps(config))
        return refused(picture=picture, found={**node, "model": str(tmp_path / "m")})

    assert "it is a ViTModel, but image.classify supports ViTForImageClassification" in plan(
        model_type="vit", architectures=["ViTModel"]
    )
    assert "it is a llama, but image.classify supports beit, " in plan(model_type="llama")
    assert "needs the library timm, which is not installed" in plan(
        model_type="vit", backbone_config={"model_type": "timm_backbone"}
    )


@pytest.mark.parametrize("node", sorted(CLASSES))
def test_the_kinds_that_nodes_take_are_the_librarys(node: str) -> None:
    """Each class exists, belongs to its model type, and has an image processor without torchvision."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    for kind, classes in CLASSES[node].items():
        for name in classes:
            cls = getattr(transformers, name)
            assert cls.config_class.__name__ == CONFIG_MAPPING_NAMES[kind], name
        # Those without an entry name another kind's processor in their files.
        assert "pil" in IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, {"pil"}), kind
