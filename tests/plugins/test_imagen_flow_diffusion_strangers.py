"""A checkpoint comes from a stranger: what its files say is looked at before anything is made of
it, whatever they name, however large, and whether or not it is true.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow_diffusion.tiny.known import stand_in

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = stand_in("sd-1.5", None, tmp_path_factory.mktemp("tiny"))
    assert made is not None
    return made


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A tiny Stable Diffusion to be changed."""
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def graph(model: Path) -> dict[str, Any]:
    node = {
        "type": "diffusion.text_to_image",
        "model": str(model),
        "prompt": "a",
        "width": 32,
        "height": 32,
        "num_inference_steps": 1,
        "seed": 1,
    }
    return {"imagen_flow": 1, "nodes": {"one": node}, "outputs": {"out": "${one}"}}


def planned(model: Path) -> str:
    """What planning says."""
    return "\n".join(
        f"{problem.message}: {problem.why}"
        for problem in flow.plan(graph(model), store=None, device="cpu").problems
    ).replace(str(model), "MODEL")


def failed(model: Path, pool: ModelPool) -> str:
    """What a run says."""
    with pytest.raises(flow.NodeError) as caught:
        flow.run(graph(model), store=None, device="cpu", pool=pool)
    return str(caught.value.__cause__).replace(str(model), "MODEL")


def saying(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def unet(model: Path) -> Path:
    return next((model / "unet").glob("*.safetensors"))


def rewritten(path: Path, change: Callable[[dict[str, Any], str], None]) -> None:
    """Change what a file's header says of its first tensor."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(
        header,
        min(
            (name for name in header if name != "__metadata__"),
            key=lambda name: header[name]["data_offsets"],
        ),
    )
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_weights_is_told_when_planning(part: str, model: Path, whole: Path) -> None:
    """A copy that broke off has the configuration and not what it is of; a part that another model
    stands in for may lack them.
    """
    (weights,) = (model / part).glob("*.safetensors")
    weights.unlink()
    assert planned(model).startswith(
        f"the model 'MODEL' is not whole: the folder {part} has a config.json and no weights"
    )
    if port := {"unet": "denoiser", "vae": "autoencoder"}.get(part):
        asked = graph(model)
        asked["nodes"]["one"][port] = str(whole / part)
        assert not flow.plan(asked, store=None, device="cpu").problems


@pytest.mark.parametrize(
    "change",
    [
        lambda header, name: header[name].update(shape=[10**9, 10**6]),
        lambda header, name: header[name].update(dtype="F64"),
        lambda header, name: header[name].update(data_offsets=[-4, 0]),
        lambda header, name: header[name].update(
            data_offsets=list(header.values())[-1]["data_offsets"]
        ),
        lambda header, name: header.pop(name),
    ],
    ids=[
        "a shape that fills the memory",
        "a wider dtype",
        "before the beginning",
        "where another lies",
        "a gap",
    ],
)
def test_a_header_that_lies_is_told_when_planning(
    change: Callable[[dict[str, Any], str], None], model: Path
) -> None:
    """Sizes in memory are estimated from headers: what they say must agree with where the bytes lie."""
    rewritten(unet(model), change)
    assert planned(model).startswith(
        "the model 'MODEL' is damaged: diffusion_pytorch_model.safetensors is not a complete safetensors file: its header says of '"
    )


@pytest.mark.parametrize(
    ("file", "more", "said"),
    [
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block = 1000000000"),
        ("unet/config.json", {"layers_per_block": [1, 10**9]}, "layers_per_block = 1000000000"),
        (
            "text_encoder/config.json",
            {"num_hidden_layers": 10**9},
            "num_hidden_layers = 1000000000",
        ),
        ("text_encoder/config.json", {"num_hidden_layers": -3}, "num_hidden_layers = -3"),
        (
            "text_encoder/config.json",
            {"text_config": {"num_hidden_layers": 10**12}},
            "num_hidden_layers = 1000000000000",
        ),
    ],
)
def test_layers_that_nobody_trained_are_not_made(
    file: str, more: dict[str, Any], said: str, model: Path, pool: ModelPool
) -> None:
    """A thousand million layers would take for ever, less than none would draw with a part of the
    weights.
    """
    saying(model / file, **more)
    assert failed(model, pool) == f"the model 'MODEL' is damaged: {file} says {said}"


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_json_without_bottom_is_damaged(name: str, model: Path) -> None:
    """The reader's limit is no fault of ours."""
    (model / name).write_text("[" * 100_000)
    assert f"the model 'MODEL' is damaged: {name} cannot be read" in planned(model)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "unet/notes.json"])
def test_a_pipe_is_no_file(name: str, model: Path) -> None:
    """It is not waited for."""
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert (
        planned(model)
        == f"the model 'MODEL' is not a model folder: {name} in it is not a regular file"
    )


@pytest.mark.parametrize(
    ("part", "entry", "said"),
    [
        (
            "unet",
            ["os", "system"],
            "the model 'MODEL' wants os.system for its unet, which diffusers and transformers do not have",
        ),
        (
            "unet",
            ["builtins", "exec"],
            "the model 'MODEL' wants builtins.exec for its unet, which diffusers and transformers do not have",
        ),
        (
            "unet",
            ["diffusers.utils.os", "system"],
            "the model 'MODEL' wants diffusers.utils.os.system for its unet, which diffusers and transformers do not have",
        ),
        (
            "unet",
            ["../../evil", "Evil"],
            "the model 'MODEL' wants ../../evil.Evil for its unet, which diffusers and transformers do not have",
        ),
        (
            "scheduler",
            ["diffusers", "__import__"],
            "the model 'MODEL' wants diffusers.__import__ for its scheduler, which diffusers and transformers do not have",
        ),
    ],
)
def test_an_index_names_only_what_a_part_can_be(
    part: str, entry: list[str], said: str, model: Path, pool: ModelPool
) -> None:
    """Not any class of any module."""
    saying(model / "model_index.json", **{part: entry})
    assert failed(model, pool) == said


def test_code_that_comes_with_a_part_does_not_run_by_itself(
    model: Path, pool: ModelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the index, nor by an auto_map of a model, a tokenizer or a processor; nobody is
    asked at the terminal either.
    """
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(str(question)) or "y")
    for part in ("unet", "text_encoder", "tokenizer"):
        (model / part / "evil.py").write_text(code)
    for file, auto in (
        ("unet/config.json", "AutoModel"),
        ("text_encoder/config.json", "AutoModel"),
        ("tokenizer/tokenizer_config.json", "AutoTokenizer"),
    ):
        saying(model / file, auto_map={auto: "evil.Evil", "AutoConfig": "evil.Evil"})
    flow.run(graph(model), store=None, device="cpu", pool=pool)
    (model / "feature_extractor").mkdir(exist_ok=True)
    (model / "feature_extractor/evil.py").write_text(code)
    (model / "feature_extractor/preprocessor_config.json").write_text(
        json.dumps(
            {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
        )
    )
    saying(model / "model_index.json", feature_extractor=["transformers", "CLIPImageProcessor"])
    assert "contains custom code" in failed(model, pool)
    saying(model / "model_index.json", feature_extractor=[None, None], unet=["evil", "Evil"])
    with ModelPool() as fresh:
        assert (
            failed(model, fresh)
            == "the model 'MODEL' comes with code of its own (unet/evil.py), which runs only if you pass --trust-remote-code MODEL"
        )
    assert (asked, (tmp_path / "ran").exists()) == ([], False)


def test_weights_that_are_no_numbers_give_no_picture(model: Path, pool: ModelPool) -> None:
    """A black picture would pass for one."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    save_file(
        {name: np.full_like(values, np.nan) for name, values in load_file(unet(model)).items()},
        unet(model),
    )
    assert failed(model, pool).startswith("the model gave NaN")
