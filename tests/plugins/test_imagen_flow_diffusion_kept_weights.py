"""Quantized weights are kept in the store: later loads quantize nothing, read no other weights, and
draw the same pictures.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow._store import Store
from imagen_flow._types.codec import Codecs
from imagen_flow_diffusion.tiny import checkpoints, companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

ASKED: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with quiet_libraries():
        checkpoints.stable_diffusion(folder / "sd")
        checkpoints.flux(folder / "flux")
        companions.lora(folder / "fox.safetensors")
    return folder


class Watched:
    """What loading did: how many layers were quantized, and which folders of weights were read."""

    def __init__(self) -> None:
        self.quantized = 0
        self.read: list[Path] = []

    def parts(self, store: Path) -> list[str]:
        """Name the folders that do not lie in the store."""
        return sorted(path.name for path in self.read if not path.is_relative_to(store))

    def clear(self) -> None:
        self.quantized = 0
        self.read.clear()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    import diffusers
    import torchao.quantization.quant_api as api
    import transformers

    seen = Watched()

    def counting(cls: Any) -> Any:
        original = cls.__dict__["from_tensor" if "from_tensor" in cls.__dict__ else "from_hp"]

        def made(owner: Any, *given: Any, **more: Any) -> Any:
            seen.quantized += 1
            return original.__func__(owner, *given, **more)

        monkeypatch.setattr(cls, original.__func__.__name__, classmethod(made))

    counting(api.Int8Tensor)
    counting(api.Float8Tensor)
    for home in (diffusers.ModelMixin, transformers.PreTrainedModel):
        original = home.__dict__["from_pretrained"].__func__

        def reading(cls: Any, folder: str, *given: Any, _of: Any = original, **more: Any) -> Any:
            seen.read.append(Path(folder))
            return _of(cls, folder, *given, **more)

        monkeypatch.setattr(home, "from_pretrained", classmethod(reading))
    return seen


def graph(checkpoint: Path, quantization: str, **more: Any) -> dict[str, Any]:
    settings = {"quantization": quantization, "dtype": more.pop("dtype", "float32")}
    node = {
        "type": "diffusion.text_to_image",
        "model": str(checkpoint),
        "prompt": "a red fox",
        "seed": 3,
        **ASKED,
        **more,
    }
    return {
        "imagen_flow": 1,
        "settings": settings,
        "nodes": {"picture": {"cache": False, **node}},
        "outputs": {"out": "${picture}"},
    }


def draw(store: Path | None, *given: Any, **more: Any) -> np.ndarray:
    """Draw in a pool of its own, so that everything is loaded anew."""
    return np.asarray(flow.run(graph(*given, **more), store=store, device="cpu")["out"].pixels)


def entries(store: Path) -> int:
    with Store.open(store, Codecs()) as opened:
        return int(opened.info()["steps"])


@pytest.mark.parametrize("quantization", ["int8", "float8"])
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_later_load_quantizes_nothing_and_draws_the_same(
    made: Path, tmp_path: Path, watched: Watched, family: str, quantization: str
) -> None:
    """Bit for bit the picture without a store, and of the networks that are quantized nothing is
    read but what is kept.
    """
    store = tmp_path / "store"
    plain = draw(None, made / family, quantization)
    assert watched.quantized > 0
    assert all(path.is_relative_to(made) for path in watched.read)
    first = draw(store, made / family, quantization)
    watched.clear()
    later = draw(store, made / family, quantization)
    assert watched.quantized == 0
    assert watched.parts(store) == ["vae"]
    assert np.array_equal(first, plain)
    assert np.array_equal(later, plain)
    assert entries(store) == {"sd": 2, "flux": 3}[family]


def test_a_lora_goes_on_kept_weights(made: Path, tmp_path: Path, watched: Watched) -> None:
    """The picture is that of a LoRA on weights that were quantized just now."""
    store, loras = tmp_path / "store", [str(made / "fox.safetensors")]
    expected = draw(None, made / "sd", "int8", loras=loras)
    plain = draw(store, made / "sd", "int8")
    watched.clear()
    assert np.array_equal(draw(store, made / "sd", "int8", loras=loras), expected)
    assert watched.quantized == 0
    assert not np.array_equal(plain, expected)


def encode(
    store: Path, checkpoint: Path, quantization: str = "int8", dtype: str = "float32"
) -> Any:
    """Encode words, by which one network is loaded anew, and return what they became."""
    node = {
        "type": "text.encode",
        "model": str(checkpoint),
        "prompt": "a red fox",
        "cache": False,
        "settings": {"quantization": quantization},
    }
    graph = {"imagen_flow": 1, "nodes": {"words": node}, "outputs": {"out": "${words}"}}
    return flow.run(graph, store=store, device="cpu", dtype=dtype)["out"]


def test_what_decides_the_weights_decides_the_entry(
    made: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another quantization, dtype, version of a library or of the weights quantizes again; what
    was kept before is still there.
    """
    from importlib import metadata

    store = tmp_path / "store"

    def quantizes(*given: Any, **more: Any) -> bool:
        watched.clear()
        encode(store, *given, **more)
        return watched.quantized > 0

    assert quantizes(made / "sd")
    assert quantizes(made / "sd", quantization="float8")
    assert quantizes(made / "sd", dtype="bfloat16")
    other = tmp_path / "other"
    shutil.copytree(made / "sd", other)
    assert not quantizes(other)
    weights = other / "text_encoder" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert quantizes(other)
    with monkeypatch.context() as patched:
        patched.setattr(
            metadata,
            "version",
            lambda name, of=metadata.version: of(name) + "+other" * (name == "torchao"),
        )
        assert quantizes(made / "sd")
        assert not quantizes(made / "sd")
    assert not quantizes(made / "sd")
    assert entries(store) == 5


def test_damaged_weights_are_quantized_again(made: Path, tmp_path: Path, watched: Watched) -> None:
    store = tmp_path / "store"
    encode(store, made / "sd")
    for file in (store / "objects").rglob("*.safetensors"):
        file.chmod(0o644)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    watched.clear()
    encode(store, made / "sd")
    assert watched.quantized > 0
    watched.clear()
    encode(store, made / "sd")
    assert watched.quantized == 0


def test_the_store_counts_and_collects_them(made: Path, tmp_path: Path, watched: Watched) -> None:
    """They weigh as results of steps do; without a store nothing is kept."""
    store = tmp_path / "store"
    encode(store, made / "sd")
    with Store.open(store, Codecs()) as opened:
        kept = sum(path.stat().st_size for path in (store / "objects").rglob("*.safetensors"))
        assert kept > 0
        assert opened.gc(max_size=kept * 10).steps_removed == 0
        report = opened.gc(max_size=kept // 2)
        assert report.steps_removed == 1
        assert report.bytes_freed >= kept
    assert not list((store / "objects").rglob("*.safetensors"))
    assert not list((store / "trees").iterdir())
    watched.clear()
    encode(store, made / "sd")
    assert watched.quantized > 0


def test_what_the_libraries_would_read_otherwise_is_not_used(
    made: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If what was saved reads as other weights than were quantized, each load quantizes."""
    import torch
    import transformers

    saved = transformers.PreTrainedModel.save_pretrained

    def save(module: Any, *given: Any, **more: Any) -> None:
        with torch.no_grad():
            next(p for p in module.parameters() if p.ndim == 1).add_(1)
        saved(module, *given, **more)

    store = tmp_path / "store"
    expected = encode(tmp_path / "another", made / "sd")
    with monkeypatch.context() as patched:
        patched.setattr(transformers.PreTrainedModel, "save_pretrained", save)
        first = encode(store, made / "sd")
    watched.clear()
    later = encode(store, made / "sd")
    assert watched.quantized > 0
    assert digest(first) == digest(later) == digest(expected)


def digest(value: Any) -> str:
    from imagen_flow._types.codec import Codecs as Plain

    return Plain().digest(value)
