"""A checkpoint that is one file is completed by configurations of a repository, or of a folder
beside it: found, fingerprinted, locked and fetched like any model.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import Model
from imagen_flow._models import Hub, Lock, ModelPolicy, base_reference, estimate, read_lock, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import BaseCheckpoint

_spec = importlib.util.spec_from_file_location("local_hub", Path(__file__).parent / "local_hub.py")
assert _spec is not None and _spec.loader is not None
local_hub = sys.modules.setdefault("local_hub", importlib.util.module_from_spec(_spec))
if not hasattr(local_hub, "Hub"):
    _spec.loader.exec_module(local_hub)


def weights(**counts: int) -> bytes:
    """The bytes of a safetensors file of float16 tensors."""
    header, end = {}, 0
    for name, count in counts.items():
        header[name.replace("__", ".")] = {
            "dtype": "F16",
            "shape": [count],
            "data_offsets": [end, end := end + 2 * count],
        }
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + b"\1" * end


FILES = {
    "model_index.json": json.dumps(
        {
            "_class_name": "Pipeline",
            "unet": ["diffusers", "UNet"],
            "vae": ["diffusers", "VAE"],
            "tokenizer": ["transformers", "T"],
            "checker": ["diffusers", "C"],
        }
    ).encode(),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": weights(w=500),
    "vae/config.json": b'{"a": 1}',
    "vae/diffusion_pytorch_model.safetensors": weights(w=300),
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"a b",
    "checker/config.json": b"{}",
    "checker/model.safetensors": weights(w=900),
    "whole.safetensors": weights(unet__w=500, vae__w=300),
    "README.md": b"# base",
}
CONFIGURED = [
    "checker/config.json",
    "model_index.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]
VAE = "vae/diffusion_pytorch_model.safetensors"


def base_of(header: Mapping[str, Any]) -> BaseCheckpoint | None:
    """What a plugin would say: files with a unet are checkpoints of org/base, and some lack the
    vae.
    """
    if not any(name.startswith("unet.") for name in header):
        return None
    has_vae = any(name.startswith("vae.") for name in header)
    return BaseCheckpoint(
        "hf:org/base",
        (("unet", "unet."), *([("vae", "vae.")] if has_vae else [])),
        () if has_vae else ("vae",),
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with local_hub.serve(
        local_hub.Hub({"org/base": local_hub.Repository({"main": dict(FILES)})})
    ) as url:
        yield Hub(endpoint=url, environ={"HF_HUB_CACHE": str(tmp_path / "hub")})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.safetensors").write_bytes(weights(unet__w=500, vae__w=300))
    return tmp_path / "mine.safetensors"


def found(file: Path, hub: Hub, **given: Any) -> Model:
    return resolve(
        str(file),
        folder=Path("/"),
        embedded={},
        digest=digest_file,
        environ=hub.environ,
        base_of=base_of,
        **given,
    )


def test_configurations_and_tokenizers_alone_are_fetched(hub: Hub, file: Path) -> None:
    """Without them the file says what it lacks; once they are here it is whole, and no weights of
    the repository were needed.
    """
    alone = found(file, hub)
    assert (alone.configurations, alone.folder) == (None, file)
    assert "does not hold" in alone.incomplete
    assert alone.base is not None
    meant = hub.resolve(base_reference(alone.base))
    assert [f.name for f in meant.files] == CONFIGURED
    folder = hub.pull(meant)
    model = found(file, hub)
    assert (model.path, model.configurations, model.folder, model.incomplete) == (
        file,
        folder,
        folder,
        "",
    )
    assert [name for name, _ in model.parts] == ["checker", "tokenizer", "unet", "vae"]
    assert estimate(model, "float32").parts == (("unet", 2000), ("vae", 1200))


def test_parts_that_the_file_lacks_come_from_the_repository(hub: Hub, file: Path) -> None:
    """A file without an autoencoder needs the repository's, and of the rest of its weights none."""
    file.write_bytes(weights(unet__w=500))
    base = base_of({"unet.w": {}})
    assert base is not None
    hub.pull(hub.resolve(base_reference(base._replace(lacks=()))))
    assert "no weights of vae" in found(file, hub).incomplete
    meant = hub.resolve(base_reference(base))
    assert [f.name for f in meant.files] == sorted([*CONFIGURED, VAE])
    hub.pull(meant)
    model = found(file, hub)
    assert model.configurations is not None
    assert estimate(model, "float16").parts == (("unet", 1000), ("vae", 600))


def test_the_fingerprint_covers_file_and_configuration(hub: Hub, file: Path) -> None:
    """Other weights or another configuration make another model; more weights in the cache do not."""
    base = base_of({"unet.w": {}, "vae.w": {}})
    assert base is not None
    folder = hub.pull(hub.resolve(base_reference(base)))
    first = found(file, hub)
    (folder / VAE).write_bytes(FILES[VAE])
    assert found(file, hub).digest == first.digest
    shutil.copytree(folder, file.with_suffix(""))
    beside = found(file, hub)
    assert beside.configurations == file.with_suffix("")
    (file.with_suffix("") / "vae" / "config.json").write_text('{"a": 2}')
    other = found(file, hub)
    assert other.digest not in (first.digest, beside.digest)
    assert [name for name, digest in other.parts if dict(beside.parts)[name] != digest] == ["vae"]
    file.write_bytes(weights(unet__w=501, vae__w=300))
    assert found(file, hub).digest != other.digest


def test_the_lock_holds_what_completes_a_file(hub: Hub, file: Path, tmp_path: Path) -> None:
    """It is written as the repository with what it is taken for, comes back the same, and is all
    that --locked takes; the whole repository is another model.
    """
    base = base_of({"unet.w": {}})
    assert base is not None
    meant = hub.resolve(base_reference(base))
    hub.pull(meant)
    lock = Lock(tmp_path / "imagen-flow.lock").with_models([meant])
    assert lock.write()
    assert 'reference = "hf:org/base@main"\ncompletes_with = ["vae"]\n' in lock.path.read_text()
    assert read_lock(lock.path).text() == lock.text()
    assert list(lock.models) == ["hf:org/base@main (configurations, vae)"]
    file.write_bytes(weights(unet__w=500))
    assert (
        found(file, hub, policy=ModelPolicy(lock=read_lock(lock.path), locked=True)).digest
        == found(file, hub).digest
    )
    file.write_bytes(weights(unet__w=500, vae__w=300))
    assert (
        "--locked allows only the models in"
        in found(file, hub, policy=ModelPolicy(lock=read_lock(lock.path), locked=True)).incomplete
    )


def test_a_header_is_read_without_the_weights(hub: Hub) -> None:
    """What completes a file of the hub is known before the file is fetched."""
    from imagen_flow._models import parse_reference

    header = hub.header(hub.resolve(parse_reference("hf:org/base@main/whole.safetensors")))
    assert base_of(header) == base_of({"unet.w": {}, "vae.w": {}})
    assert header["vae.w"]["shape"] == [300]


def test_what_is_no_checkpoint_stays_a_file(hub: Hub, file: Path) -> None:
    """A file that no plugin knows as a checkpoint is taken as it is."""
    file.write_bytes(weights(lora__w=5))
    model = found(file, hub)
    assert (model.base, model.configurations, model.incomplete) == (None, None, "")
    assert (
        model.digest == resolve(str(file), folder=Path("/"), embedded={}, digest=digest_file).digest
    )


def test_a_part_in_the_place_of_another_makes_another_model(hub: Hub, file: Path) -> None:
    """It changes the fingerprint of that part and of the whole, and is weighed in its place."""
    base = base_of({"unet.w": {}, "vae.w": {}})
    assert base is not None
    hub.pull(hub.resolve(base_reference(base)))
    model = found(file, hub)
    (file.parent / "other.safetensors").write_bytes(weights(w=70))
    joined = model.with_part("vae", found(file.parent / "other.safetensors", hub))
    assert [name for name, digest in joined.parts if dict(model.parts)[name] != digest] == ["vae"]
    assert joined.digest != model.digest
    assert estimate(joined, "float32").parts == (("unet", 2000), ("vae", 280))


NODES = """
from imagen_flow import Model, Text, loaders, node

class Vae(loaders.Loader):
    def load(self, model, *, device, dtype, settings):
        return dict(model.replaced_parts)["vae"].path.name if model.replaced_parts else "its own"

    def folders(self, model):
        return ("vae",)

class Unet(loaders.Loader):
    def load(self, model, *, device, dtype, settings):
        return "unet"

    def folders(self, model):
        return ("unet",)

class Whole(loaders.Loader):
    def parts(self, model):
        return {"unet": Unet(), "vae": Vae()}

    def assemble(self, model, parts):
        return parts

    def with_replaced_parts(self, model, beside):
        return model.with_part("vae", beside["other"]) if "other" in beside else model

class Other(loaders.Loader):
    def parts(self, model):
        return {}

    def assemble(self, model, parts):
        return model

@node("toy.draw", version=1)
def draw(model: Model[Whole], other: Model[Other] | None = None) -> Text:
    return model["vae"]
"""


def test_a_node_is_lent_the_parts_that_stand_in(tmp_path: Path) -> None:
    """With another model beside it a checkpoint is leased with that one's part: its own is not
    loaded, the rest is shared, and the plan weighs each where it belongs.
    """
    import imagen_flow as flow
    from imagen_flow._models import ModelPool

    (tmp_path / "nodes.py").write_text(NODES)
    for name, content in FILES.items():
        path = tmp_path / "base" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "base" / "whole.safetensors").unlink()
    (tmp_path / "other.safetensors").write_bytes(weights(w=70))
    nodes = {
        "a": {"type": "toy.draw", "model": str(tmp_path / "base")},
        "b": {
            "type": "toy.draw",
            "model": str(tmp_path / "base"),
            "other": str(tmp_path / "other.safetensors"),
        },
    }
    graph = flow.load(
        {"imagen_flow": 1, "nodes": nodes, "outputs": {"a": "${a}", "b": "${b}"}},
        plugins=tmp_path / "nodes.py",
    )
    with ModelPool() as pool:
        outputs = flow.run(graph, store=None, pool=pool, device="cpu", dtype="float32")
        assert outputs == {"a": "its own", "b": "other.safetensors"}
        assert [identity.loader.rpartition(".")[2] for identity in pool.resident()].count(
            "Unet"
        ) == 1
    del nodes["a"]
    graph = flow.load(
        {"imagen_flow": 1, "nodes": nodes, "outputs": {"b": "${b}"}}, plugins=tmp_path / "nodes.py"
    )
    plan = flow.plan(graph, store=None, device="cpu", dtype="float32")
    assert [Path(m["reference"]).name for m in plan.models] == ["base", "other.safetensors"]
    assert [m["memory_bytes"] for m in plan.models] == [2000, 280]
    assert plan.memory == {"cpu": 2280}


# --- the command line
# ----------------------------------------------------------------------------------------------------------

XL = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL = {
    f"model__diffusion_model__{name}": 4
    for name in ("input_blocks__0__0__weight", "label_emb__0__0__weight")
} | {
    "first_stage_model__x": 2,
    "conditioner__embedders__0__x": 2,
    "conditioner__embedders__1__x": 2,
}


def sdxl() -> bytes:
    """The bytes of a file that is known as SDXL by its header, and holds next to nothing."""
    content = weights(**SDXL)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.diffusion_model.input_blocks.0.0.weight"]["shape"] = [1, 4, 1, 1]
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + content[8 + length :]


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Run a command line beside a hub; give its exit code, what it printed, and what the hub was
    asked for in earnest.
    """
    import huggingface_hub.constants

    from imagen_flow import _cli as cli

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    server = local_hub.Hub(
        {
            XL: local_hub.Repository({"main": dict(FILES)}),
            "me/mine": local_hub.Repository(
                {"main": {"mine.safetensors": sdxl(), "lora.safetensors": weights(lora__w=3)}}
            ),
        }
    )

    def run(*words: str) -> tuple[int, str, list[str]]:
        server.asked.clear()
        with pytest.raises(SystemExit) as left:
            cli.main(list(words))
        out, err = capsys.readouterr()
        return (
            int(left.value.code or 0),
            out + err,
            sorted(
                {
                    path.partition("/main/")[2] or path.rpartition("/")[2]
                    for path, _ in server.transfers()
                }
            ),
        )

    run.server = server  # type: ignore[attr-defined]
    with local_hub.serve(server) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield run


def test_pull_fetches_what_completes_a_file(said: Any, tmp_path: Path) -> None:
    """A file on this machine names no model of the hub, and yet pull knows what it needs:
    configurations and tokenizers, which the lock then holds.
    """
    (tmp_path / "mine.safetensors").write_bytes(sdxl())
    code, text, fetched = said("models", "pull", "./mine.safetensors")
    assert code == 0, text
    assert f"hf:{XL}@main (configurations)" in text
    assert fetched == []  # of what is kept apart for its size, nothing
    assert (
        sorted(
            path.relative_to(tmp_path / "hub").as_posix().split("/", 3)[3]
            for path in (tmp_path / "hub").glob("*/snapshots/*/**/*")
            if path.is_file()
        )
        == CONFIGURED
    )
    assert "completes_with = []" in (tmp_path / "imagen-flow.lock").read_text()
    code, text, _ = said("models", "list", "./mine.safetensors")
    assert (code, "here" in text) == (0, True)
    code, text, _ = said("models", "rm", "--yes", "./mine.safetensors")
    assert (code, "is not a hub model: remove it yourself" in text) == (2, True)
    code, text, _ = said("models", "rm", "--yes", f"hf:{XL}")
    assert code == 0, text
    assert (
        not (tmp_path / "imagen-flow.lock").exists()
        or "completes_with" not in (tmp_path / "imagen-flow.lock").read_text()
    )
    assert [
        path
        for path in (tmp_path / "hub").rglob("*")
        if path.is_file() and ".locks" not in path.parts
    ] == []


def test_resolve_knows_a_file_of_the_hub_by_its_header(said: Any, tmp_path: Path) -> None:
    """The file is locked and what completes it too; neither is fetched. pull fetches both."""
    code, text, _ = said(
        "models", "resolve", "hf:me/mine@main/mine.safetensors", "hf:me/mine@main/lora.safetensors"
    )
    assert code == 0, text
    assert list(read_lock(tmp_path / "imagen-flow.lock").models) == [
        "hf:me/mine@main/lora.safetensors",
        "hf:me/mine@main/mine.safetensors",
        f"hf:{XL}@main (configurations)",
    ]
    assert list((tmp_path / "hub").glob("*/snapshots/*/*")) == []
    code, text, fetched = said("models", "pull")
    assert (code, fetched) == (0, ["lora.safetensors", "mine.safetensors"]), text
    code, text, _ = said("models", "list", "hf:me/mine@main/mine.safetensors")
    assert [line.rpartition("  ")[2] for line in text.splitlines()] == ["here", "here"]
    model = resolve(
        "hf:me/mine@main/mine.safetensors",
        folder=tmp_path,
        embedded={},
        digest=digest_file,
        policy=ModelPolicy(lock=read_lock(tmp_path / "imagen-flow.lock"), locked=True),
        base_of=_registry().base_of,
    )
    assert model.configurations is not None
    assert model.configurations.name == local_hub.Hub().commit(XL, "main")


def test_a_gguf_of_the_hub_is_completed_once_it_is_here(said: Any, tmp_path: Path) -> None:
    """What it lacks is fetched after it: the text encoders and the autoencoder, and not the
    denoiser that it stands for.
    """
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "sd3")
    writer.add_tensor(
        "joint_blocks.0.context_block.adaLN_modulation.1.bias", np.ones(32, np.float32)
    )
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    parts = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer")
    files = {
        "model_index.json": json.dumps(
            {"_class_name": "P", **{part: ["diffusers", "X"] for part in parts}}
        ).encode()
    }
    files |= {f"{part}/config.json": b"{}" for part in parts} | {
        f"{part}/model.safetensors": weights(w=7) for part in parts
    }
    said.server.repositories["stabilityai/stable-diffusion-3-medium-diffusers"] = (
        local_hub.Repository({"main": files})
    )
    said.server.repositories["me/quantized"] = local_hub.Repository(
        {"main": {"q.gguf": (tmp_path / "q.gguf").read_bytes()}}
    )
    code, text, _ = said("models", "pull", "hf:me/quantized@main/q.gguf")
    assert code == 0, text
    held = {
        path.relative_to(tmp_path / "hub").as_posix().split("/", 3)[3]
        for path in (tmp_path / "hub").glob("*/snapshots/*/**/*.safetensors")
    }
    assert held == {f"{part}/model.safetensors" for part in parts[:-1]}
    assert (
        'completes_with = ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"]'
        in (tmp_path / "imagen-flow.lock").read_text()
    )
    code, text, _ = said("models", "pull", "./q.gguf")
    assert (code, "hf:stabilityai/stable-diffusion-3-medium-diffusers@main" in text) == (0, True), (
        text
    )


def test_a_part_of_a_graph_is_not_completed(said: Any, tmp_path: Path) -> None:
    """A file that stands in for a denoiser is configured by the checkpoint; nothing is fetched for
    it besides. As a checkpoint it is completed.
    """
    graph = "imagen_flow: 1\nnodes:\n  one: {type: diffusion.text_to_image, model: ./base, PORT: ./mine.safetensors, prompt: a, seed: 1}\noutputs:\n  one: ${one}\n"
    (tmp_path / "mine.safetensors").write_bytes(sdxl())
    (tmp_path / "graph.yaml").write_text(graph.replace("PORT", "denoiser"))
    code, text, _ = said("models", "resolve", "graph.yaml")
    assert (code, XL in text) == (0, False), text
    (tmp_path / "graph.yaml").write_text(graph.replace("PORT", "prior"))
    code, text, _ = said("models", "resolve", "graph.yaml")
    assert (code, f"hf:{XL}@" in text) == (0, True), text


def _registry() -> Any:
    from imagen_flow._plugins.registry import discover

    return discover()


def test_what_completes_a_file_is_watched(tmp_path: Path) -> None:
    """A change in the folder beside a file changes what it draws."""
    import imagen_flow as flow
    from imagen_flow._watch.dependencies import paths_of

    graph = flow.load(
        {
            "imagen_flow": 1,
            "nodes": {
                "one": {
                    "type": "diffusion.text_to_image",
                    "model": str(tmp_path / "mine.safetensors"),
                    "prompt": "a",
                    "seed": 1,
                }
            },
            "outputs": {"out": "${one}"},
        }
    )
    assert list(paths_of(graph, {}, {}, tmp_path)) == [
        tmp_path / "mine.safetensors",
        tmp_path / "mine",
    ]


def test_a_hook_says_what_completes_a_file(tmp_path: Path) -> None:
    """Of the plugins the first that knows a header answers; a plugin of a user's own may."""
    from imagen_flow._plugins.registry import discover

    (tmp_path / "own.py").write_text(
        "import imagen_flow as flow\nfrom imagen_flow import loaders\n\n@flow.hookimpl\ndef imagen_flow_base_of(header):\n    return loaders.BaseCheckpoint('hf:me/own', (('unet', 'own.'),)) if 'own.x' in header else None\n\n"
        "@flow.hookimpl\ndef imagen_flow_nodes():\n    return []\n"
    )
    registry = discover([tmp_path / "own.py"])
    assert registry.faults == []
    assert registry.base_of({"own.x": {"shape": [1]}}) == BaseCheckpoint(
        "hf:me/own", (("unet", "own."),)
    )
    assert registry.base_of({"x": {"shape": [1]}}) is None
