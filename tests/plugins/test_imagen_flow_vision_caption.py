import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import Loading
from imagen_flow_vision.captions import caption
from imagen_flow_vision.kinds import CLASSES as TAKEN
from imagen_flow_vision.networks import NetworkLoader

CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
}
KINDS = sorted(CLASSES)


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Give a tiny captioner by kind, built once and found as a user's is."""
    home = tmp_path_factory.mktemp("models")

    def get(kind):
        if not (home / kind).exists():
            tiny.captioner(home / kind, kind)
        return resolve(f"./{kind}", folder=home, embedded={}, digest=digest_file)

    return get


def load(model):
    return NetworkLoader("image.caption").load(
        model, device="cpu", dtype="float32", settings=Loading()
    )


def picture(height, width, channels=3, dtype="uint8"):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
    return flow.Image(pixels if dtype == "uint8" else pixels.astype("uint16") * np.uint16(257))


def refusal(model):
    with (
        ModelPool() as pool,
        pytest.raises(flow.ModelError) as caught,
        pool.lease(NetworkLoader("image.caption"), model, device="cpu", dtype="float32"),
    ):
        pass
    return str(caught.value)


def described(captioner, image, **params):
    """Run the node to its end and give the notes of its steps and its outputs."""
    steps, notes = caption(captioner, image, **params), []
    while True:
        try:
            notes.append(next(steps).note)
        except StopIteration as end:
            return notes, end.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_captions_words_are_those_of_the_library_by_hand(models, kind):
    """The node's words are what transformers' greedy generate gives for the processed pixels."""
    import torch
    import transformers

    folder, source = models(kind).path, picture(40, 60)
    model = getattr(transformers, CLASSES[kind]).from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ids = model.generate(
            **processor(images=source.to_pil(), return_tensors="pt"),
            num_beams=1,
            do_sample=False,
            max_length=12,
        )
    _, found = described(load(models(kind)), source, max_length=12)
    assert found.words == tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_the_confidence_is_the_probability_of_the_words(models):
    """It is the product of the tokens' probabilities, as the model gives them for its own words."""
    import torch

    captioner, source = load(models("vision-encoder-decoder")), picture(40, 60)
    _, found = described(captioner, source, max_length=12)
    pixels = captioner.processor.image_processor(images=source.to_pil(), return_tensors="pt")[
        "pixel_values"
    ]
    with torch.no_grad():
        ids = captioner.module.generate(
            pixel_values=pixels, num_beams=1, do_sample=False, max_length=12
        )
        logits = captioner.module(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits
    told = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum().exp()
    assert found.confidence == pytest.approx(float(told), rel=1e-4)


def test_a_picture_of_which_the_model_says_nothing_gets_a_note(models):
    """A model that ends before its first word has no words for the picture."""
    captioner = load(models("vision-encoder-decoder"))
    tokenizer, told = captioner.processor.tokenizer, []
    for token in ("red", tokenizer.eos_token):
        biased = replace(captioner, module=copy.deepcopy(captioner.module))
        bias = biased.module.decoder.lm_head.decoder.bias.data
        bias[tokenizer.convert_tokens_to_ids(token)] = 1e4
        notes, found = described(biased, picture(20, 20), max_length=4)
        told.append((notes, found.words.split()[:1]))
    assert told == [
        (["the words are cut after 4 tokens; a larger 'max_length' gives the rest"], ["red"]),
        (["the captioner recognises nothing in the picture"], []),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (3, 300, 4), (64, 64, 2)])
def test_a_picture_of_any_size_and_kind_gets_words(models, kind, height, width, channels):
    """Grey, alpha and odd sizes are brought to what the model sees."""
    _, found = described(load(models(kind)), picture(height, width, channels), max_length=8)
    assert isinstance(found.words, str) and 0 <= found.confidence <= 1


def test_equal_pictures_have_equal_words(models):
    """A picture in 16 bits is captioned as in 8, and the same picture again the same."""
    captioner = load(models("vision-encoder-decoder"))
    assert (
        described(captioner, picture(20, 20))
        == described(captioner, picture(20, 20, dtype="uint16"))
        == described(captioner, picture(20, 20))
    )


def test_a_model_that_is_no_captioner_is_refused_by_name(models, tmp_path):
    """The message says what the model is and which kinds are taken; a diffusers folder is told as
    such.
    """
    shutil.copytree(models("blip").path, tmp_path / "m")

    def model():
        return resolve("./m", folder=tmp_path, embedded={}, digest=digest_file)

    takes = f"but image.caption supports {', '.join(sorted(TAKEN['image.caption']))}"
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert refusal(model()) == f"image.caption cannot use the model './m': it is a llama, {takes}"
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({"model_type": "blip", "quantization_config": {"quant_method": "fetched"}})
    )
    assert (
        refusal(model())
        == "image.caption cannot use the model './m': it was saved quantized, but image.caption needs plain weights"
    )
    (tmp_path / "m" / "config.json").unlink()
    assert (
        refusal(model())
        == f"image.caption cannot use the model './m': it is a folder without config.json, {takes}"
    )
    (tmp_path / "m" / "model_index.json").write_text("{}")
    assert (
        refusal(model())
        == f"image.caption cannot use the model './m': it is a diffusers checkpoint, {takes}"
    )
    (tmp_path / "m" / "config.json").write_text("[")
    assert refusal(model()).startswith("the model './m' is damaged: config.json cannot be read (")


def test_a_captioner_that_lacks_weights_is_refused(models, tmp_path):
    """Missing weights are not filled with random numbers."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(models("vision-encoder-decoder").path, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    name = min(name for name in weights if name.startswith("decoder"))
    del weights[name]
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert (
        refusal(resolve("./m", folder=tmp_path, embedded={}, digest=digest_file))
        == f"the model './m' is not whole: it lacks 1 weights, {name} first"
    )


def test_loading_and_describing_print_nothing(models):
    """No library writes over the run's display."""
    code = (
        "from pathlib import Path\nimport numpy as np\nimport imagen_flow as flow\nfrom imagen_flow_vision.captions import caption\nfrom imagen_flow_vision.networks import NetworkLoader\nfrom imagen_flow.loaders import Loading\n"
        f"model = flow.Model(Path({str(models('vision-encoder-decoder').path)!r}), 'x', 'x')\n"
        "list(caption(NetworkLoader('image.caption').load(model, device='cpu', dtype='float32', settings=Loading()), flow.Image(np.zeros((9, 9, 3), np.uint8))))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_plugin_is_registered_without_its_libraries():
    """Planning imports the plugin and reads its ports, but no torch, transformers or numpy."""
    code = (
        "import sys\nimport imagen_flow_vision as plugin\nprint(all(node.type.name for node in plugin.imagen_flow_nodes()))\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "True\n[]\n"
