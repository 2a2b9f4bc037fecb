"""Features of pictures and texts, and scores of how well these fit, beside the library by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_diffusion.tiny import companions
from imagen_flow_retrieval import tiny
from imagen_flow_retrieval.encoders import CLASSES, READS_TEXT, EncoderLoader
from imagen_flow_retrieval.features import image_features
from imagen_flow_vision.tiny import makers

MAKERS = {
    "chinese_clip": makers.MAKERS["chinese-clip"],
    "clip": companions.clip,
    **{kind: makers.MAKERS[kind] for kind in ("resnet", "siglip", "vit")},
    **dict.fromkeys(tiny.KINDS, tiny.make),
}
KINDS = sorted(CLASSES)
TEXTS = sorted(READS_TEXT)
FOX = "a red fox, asleep in the snow"


def picture(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> flow.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
    return flow.Image(pixels if dtype == "uint8" else pixels.astype("uint16") * np.uint16(257))


def by_hand(path: str, kind: str) -> Any:
    """The network and the image processor as a user of transformers loads them."""
    import transformers

    with quiet_libraries():
        return (
            getattr(transformers, CLASSES[kind]).from_pretrained(path).eval(),
            transformers.AutoImageProcessor.from_pretrained(path, backend="pil"),
        )


def tokens(path: str, kind: str, text: str = FOX) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    more = {"padding": "max_length", "max_length": 64} if kind.startswith("siglip") else {}
    return tokenizer([text], truncation=True, return_tensors="pt", **more)["input_ids"]


def loaded(path: str) -> Any:
    from imagen_flow.loaders import Loading

    model = flow.Model(Path(path), "fingerprint", path)
    return EncoderLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def encoded(path: str, image: flow.Image, *, normalise: bool = True) -> np.ndarray:
    return image_features(loaded(path), image, normalise=normalise).numpy()


def test_every_kind_is_tried() -> None:
    """Each model type that is documented has a tiny model."""
    assert sorted(MAKERS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_picture_are_those_of_the_library_by_hand(at: Any, kind: str) -> None:
    """Image features equal the library's output for the pixels that its processor prepares."""
    import torch

    source, path = picture(40, 60), at(kind)
    network, processor = by_hand(path, kind)
    prepared = processor(images=source.to_pil(), return_tensors="pt")
    with torch.no_grad():
        if kind in READS_TEXT:
            wanted = network.get_image_features(**prepared).pooler_output
        elif kind == "vit":
            wanted = network(**prepared).last_hidden_state[:, 0]
        else:
            wanted = network(**prepared).pooler_output
    wanted = wanted.flatten().numpy()
    assert np.array_equal(encoded(path, source, normalise=False), wanted)
    unit = encoded(path, source)
    assert unit.dtype == np.float32
    assert np.allclose(unit, wanted / np.linalg.norm(wanted), atol=1e-6)


@pytest.mark.parametrize("kind", TEXTS)
def test_features_of_a_text_are_those_of_the_library_by_hand(at: Any, draw: Any, kind: str) -> None:
    """Text features equal the library's output for the tokens of the text, padded for SigLIP as it
    was trained.
    """
    import torch

    path = at(kind)
    with torch.no_grad():
        wanted = by_hand(path, kind)[0].get_text_features(input_ids=tokens(path, kind))
    got = draw(text={"type": "text.features", "model": path, "text": FOX, "normalise": False})
    assert np.array_equal(got.numpy(), wanted.pooler_output[0].numpy())


@pytest.mark.parametrize("kind", TEXTS)
def test_a_score_is_what_the_model_makes_of_picture_and_text(at: Any, pool: Any, kind: str) -> None:
    """The logit equals the model's own for the pair; the cosine is that of the features, and the
    score 100 times as much, but not below 0.
    """
    import torch

    path, source = at(kind), flow.Image(np.full((8, 8, 3), 200, np.uint8))
    network, processor = by_hand(path, kind)
    with torch.no_grad():
        found = network(
            input_ids=tokens(path, kind), **processor(images=source.to_pil(), return_tensors="pt")
        )
    nodes = {
        "grey": {"type": "image.solid", "width": 8, "height": 8, "colour": "#c8c8c8"},
        "fit": {"type": "score.clip", "model": path, "image": "${grey}", "text": FOX},
        "seen": {"type": "image.features", "model": path, "image": "${grey}"},
        "read": {"type": "text.features", "model": path, "text": FOX},
        "cosine": {"type": "score.similarity", "a": "${seen}", "b": "${read}"},
    }
    outputs = {"score": "${fit}", "cosine": "${fit.cosine}", "logit": "${fit.logit}"}
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {**outputs, "same": "${cosine}"}}
    got = flow.run(graph, store=None, pool=pool, device="cpu")
    assert got["logit"] == pytest.approx(float(found.logits_per_image), abs=1e-3)
    assert got["cosine"] == pytest.approx(
        float((found.image_embeds * found.text_embeds).sum()), abs=1e-6
    )
    assert got["score"] == pytest.approx(max(0.0, 100 * got["cosine"]), abs=1e-6)
    assert got["same"] == got["cosine"]


def test_the_clip_score_is_that_of_torchmetrics(at: Any) -> None:
    """A score equals what torchmetrics computes with the same model. It expects features as
    transformers gave them before version 5: the pooled tensor alone.
    """
    import torch
    from torchmetrics.functional.multimodal.clip_score import clip_score
    from transformers import CLIPModel, CLIPProcessor

    from imagen_flow_retrieval import features

    path, source = at("clip"), picture(32, 32)

    class Former(CLIPModel):
        def get_image_features(self, *args: Any, **given: Any) -> Any:
            return super().get_image_features(*args, **given).pooler_output

        def get_text_features(self, *args: Any, **given: Any) -> Any:
            return super().get_text_features(*args, **given).pooler_output

    def load() -> Any:
        import transformers

        return Former.from_pretrained(path), CLIPProcessor(
            transformers.AutoImageProcessor.from_pretrained(path, backend="pil"),
            transformers.AutoTokenizer.from_pretrained(path),
        )

    wanted = clip_score(torch.from_numpy(source.pixels.copy()).permute(2, 0, 1), FOX, load)
    steps = features.clip_score(loaded(path), source, FOX)
    with pytest.raises(StopIteration) as ended:
        while True:
            next(steps)
    assert ended.value.value.score == pytest.approx(float(wanted.detach()), abs=1e-3)
    assert float(wanted.detach()) > 0


@pytest.mark.parametrize("kind", ["clip", "dinov2", "resnet", "siglip2"])
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (3, 300, 4), (64, 65, 2)])
def test_a_picture_of_any_size_and_kind_has_features(
    at: Any, kind: str, height: int, width: int, channels: int
) -> None:
    """Grey, alpha and odd sizes are brought to what the model sees."""
    found = encoded(at(kind), picture(height, width, channels))
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_equal_pictures_have_equal_features(at: Any) -> None:
    """A picture in 16 bits has the features of the one in 8, and alpha is laid over black."""
    path = at("clip")
    eight = encoded(path, picture(20, 20))
    assert np.array_equal(eight, encoded(path, picture(20, 20, dtype="uint16")))
    opaque = np.concatenate([picture(20, 20).pixels, np.full((20, 20, 1), 255, np.uint8)], 2)
    assert np.array_equal(eight, encoded(path, flow.Image(opaque)))


def test_a_picture_that_is_far_longer_than_wide_is_refused(at: Any) -> None:
    """Enlarging its shorter side to the model's would take gigabytes."""
    with pytest.raises(ValueError, match="1 x 60000, more than 200 times as long"):
        encoded(at("clip"), flow.Image(np.zeros((60_000, 1, 3), np.uint8)))


def test_pictures_that_are_encoded_together_have_the_features_of_each_alone(at: Any) -> None:
    """A group gives what its pictures give alone, within the rounding of products in batches."""
    encoder = loaded(at("dinov2"))
    sources = [picture(24, 30), flow.Image(np.zeros((24, 30, 3), np.uint8))]
    many = image_features.type.many
    assert many is not None and not many.exact
    together = many.function(encoder, sources)
    for one, source in zip(together, sources, strict=True):
        alone = image_features(encoder, source)
        assert np.allclose(one.numpy(), alone.numpy(), atol=1e-5)
        assert (
            one.tags
            == alone.tags
            == {
                "features": "dinov2",
                "model": "fingerprint",
                "normalised": "yes",
            }
        )


@pytest.mark.parametrize(
    ("kind", "text", "note"),
    [
        ("clip", "fox " * 200, "the text is cut after 75 tokens, before 'fox fox"),
        ("siglip", "fox " * 200, "the text is cut after 63 tokens, before "),
        ("clip", "  ", "the text is empty"),
        ("siglip", "", "the text is empty"),
    ],
)
def test_what_is_not_read_of_a_text_is_said(
    at: Any, pool: Any, kind: str, text: str, note: str
) -> None:
    """A text that is longer than the model reads is cut with a note, and an empty one has one."""
    nodes = {"text": {"type": "text.features", "model": at(kind), "text": text}}
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${text}"}}
    outputs = flow.run(graph, store=None, pool=pool, device="cpu")
    assert [said.message[: len(note)] for said in outputs.notes] == [note]


def test_the_tokenizer_of_siglip_is_read(at: Any, pool: Any, tmp_path: Path) -> None:
    """A model whose tokenizer is made of sentence pieces, as SigLIP's, gives the library's features
    and says where a text is cut.
    """
    import io

    import sentencepiece
    import torch
    from transformers import SiglipTokenizer

    path = tmp_path / "siglip"
    shutil.copytree(at("siglip"), path)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red fox asleep in the snow", "the quick brown fox jumps over"]),
        model_writer=pieces,
        vocab_size=50,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(pieces.getvalue())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    SiglipTokenizer(
        str(tmp_path / "spiece.model"), model_input_names=["input_ids"]
    ).save_pretrained(path)
    nodes = {"text": {"type": "text.features", "model": str(path), "text": "red fox " * 100}}
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${text}"}}
    outputs = flow.run(graph, store=None, pool=pool, device="cpu")
    with torch.no_grad():
        network = by_hand(str(path), "siglip")[0]
        ids = tokens(str(path), "siglip", "red fox " * 100)
        wanted = network.get_text_features(input_ids=ids).pooler_output[0].numpy()
    assert np.allclose(outputs["out"].numpy(), wanted / np.linalg.norm(wanted), atol=1e-6)
    assert [said.message for said in outputs.notes] == ["the text is cut after 63 tokens"]


def test_a_model_that_reads_no_text_is_refused_when_planning(at: Any, refused: Any) -> None:
    """Texts have no features with a model of pictures alone; the message says which ones do."""
    for node in ("text.features", "score.clip"):
        more = {"image": "${grey}"} if node == "score.clip" else {}
        said = refused(
            grey={"type": "image.solid", "width": 4, "height": 4},
            out={"type": node, "model": at("vit"), "text": FOX, **more},
        )
        assert said == (
            f"{node} cannot use the model '{at('vit')}': it is a vit, but {node} supports"
            " chinese_clip, clip, siglip, siglip2"
        )


def test_features_of_two_models_are_not_compared(at: Any, failure: Any) -> None:
    """A similarity of features that two models made is refused by both their names."""
    said = failure(
        grey={"type": "image.solid", "width": 4, "height": 4},
        a={"type": "image.features", "model": at("clip"), "image": "${grey}"},
        b={"type": "image.features", "model": at("siglip"), "image": "${grey}"},
        out={"type": "score.similarity", "a": "${a}", "b": "${b}"},
    )
    assert said.startswith("port 'a, b', element 1, is of another model than the elements before")
    assert "siglip" in said and "clip" in said


def test_features_that_are_not_numbers_are_refused(at: Any, tmp_path: Path, failure: Any) -> None:
    """A model whose weights are damaged gives an error, not a vector of nothing."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "clip"
    shutil.copytree(at("clip"), path)
    weights = load_file(path / "model.safetensors")
    weights["visual_projection.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    said = failure(
        grey={"type": "image.solid", "width": 4, "height": 4},
        out={"type": "image.features", "model": str(path), "image": "${grey}"},
    )
    assert said == (
        "the model gave features that are not numbers; its weights may be damaged, or need dtype:"
        " float32"
    )


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("hf:google/siglip-so400m-patch14-384", ""),
        ("hf:google/siglip2-base-patch16-naflex", "siglip2"),
        ("hf:facebook/dinov2-base", "dinov2"),
        ("hf:facebook/dinov2-with-registers-base", "dinov2_with_registers"),
        ("hf:facebook/convnextv2-base-22k-512", "convnextv2"),
        ("hf:google/vit-base-patch16-224-in21k", ""),
        ("hf:microsoft/resnet-50", ""),
        ("hf:nlpconnect/vit-gpt2-image-captioning", ""),
        ("hf:openai/clip-vit-large-patch14", ""),
        ("hf:some/thing", ""),
    ],
)
def test_the_kind_of_a_tiny_model_is_told_by_the_name(reference: str, kind: str) -> None:
    """A model that is not on this machine is known by the words in its name, if no other plugin
    makes its kind.
    """
    assert tiny.kind_of(reference, None) == kind


@pytest.mark.parametrize(
    "reference",
    """openai/clip-vit-large-patch14 laion/CLIP-ViT-H-14-laion2B-s32B-b79K google/siglip-base-patch16-224
    google/siglip2-base-patch16-naflex facebook/dinov2-base microsoft/resnet-50
    google/vit-base-patch16-224 facebook/convnext-large-224 OFA-Sys/chinese-clip-vit-base-patch16""".split(),
)
def test_usual_encoders_have_tiny_models(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of a picture are computed offline with `tiny`, whichever plugin makes the model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nodes = {
        "grey": {"type": "image.solid", "width": 9, "height": 5},
        "seen": {"type": "image.features", "model": f"hf:{reference}", "image": "${grey}"},
    }
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${seen}"}}
    found = flow.run(graph, store=None, tiny=True, device="cpu")["out"]
    assert len(found.shape) == 1
    assert ("chinese" in reference) == (found.tags["features"] == "chinese_clip")


def test_the_kind_of_a_tiny_model_is_told_by_its_configuration(tmp_path: Path) -> None:
    """What a model on this machine says of itself goes before its name."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    assert tiny.kind_of("./resnet-50", tmp_path) == "dinov2"
    for text in ("[]", "{", '{"model_type": "llama"}'):
        (tmp_path / "config.json").write_text(text)
        assert tiny.stand_in("./resnet-50", tmp_path, tmp_path / "kept") is None


@pytest.mark.parametrize("kind", ["siglip", "vit"])
def test_loading_and_encoding_print_nothing(at: Any, kind: str) -> None:
    """No library writes over the run's display, whatever it thinks of a configuration or of weights
    that are not used.
    """
    code = (
        "from pathlib import Path\nimport numpy as np\nimport imagen_flow as flow\nfrom imagen_flow_retrieval.features import EncoderLoader, image_features\nfrom imagen_flow.loaders import Loading\n"
        f"model = flow.Model(Path({at(kind)!r}), 'x', 'x')\n"
        "image_features(EncoderLoader().load(model, device='cpu', dtype='float32', settings=Loading()), flow.Image(np.zeros((9, 9, 3), np.uint8)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_plugin_is_registered_without_its_libraries() -> None:
    """Planning imports the plugin and reads its ports, but no torch, transformers, faiss or numpy."""
    code = (
        "import sys\nimport imagen_flow_retrieval as plugin\nprint(len(list(plugin.imagen_flow_nodes())))\n"
        "print(sorted({'torch', 'transformers', 'faiss', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "7\n[]\n"
