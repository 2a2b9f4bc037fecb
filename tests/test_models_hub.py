"""Models come from the hub resolved to a commit, checked against their digests, and whole or not at
all; a transfer goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagen_flow._models import (
    Hub,
    Lock,
    ModelPolicy,
    UnresolvedModel,
    UnusableModel,
    estimate,
    parse_reference,
    read_lock,
    resolve,
)
from imagen_flow._types.digest import digest_file

_spec = importlib.util.spec_from_file_location("local_hub", Path(__file__).parent / "local_hub.py")
assert _spec is not None and _spec.loader is not None
local_hub = importlib.util.module_from_spec(_spec)
sys.modules["local_hub"] = local_hub
_spec.loader.exec_module(local_hub)

NAME = "org/tiny"
REFERENCE = parse_reference(f"hf:{NAME}@main")


def weights(count: int = 4000, fill: float = 1.0) -> bytes:
    """The bytes of a safetensors file of one float32 tensor."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *[fill] * count)


#: A repository as they are: parts, halves, a single file, pickles, documents, other libraries'
# formats.
FILES = {
    "model_index.json": json.dumps(
        {
            "_class_name": "Pipeline",
            "unet": ["diffusers", "UNet"],
            "vae": ["diffusers", "VAE"],
            "safety_checker": [None, None],
        }
    ).encode(),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": weights(5000),
    "unet/diffusion_pytorch_model.fp16.safetensors": weights(2500),
    "unet/diffusion_pytorch_model.bin": b"\x80\x04.",
    "vae/config.json": b'{"a": 1}',
    "vae/diffusion_pytorch_model.safetensors": weights(3000, 2.0),
    "tiny.safetensors": weights(8000),
    "README.md": b"# tiny",
    "onnx/model.onnx": b"x",
}
NEEDED = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000
    )  # what a torn connection loses at most; else 10 MB
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = local_hub.Hub({NAME: local_hub.Repository({"main": dict(FILES)})})
    with local_hub.serve(hub):
        yield hub


@pytest.fixture
def hub(server: Any, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.url, environ={"HF_HUB_CACHE": str(tmp_path / "hub")})


def words(caught: pytest.ExceptionInfo[Any], hub: Hub) -> str:
    fault = caught.value
    text = "\n".join(line for line in (str(fault), fault.why, fault.fix) if line)
    return text.replace(str(hub.endpoint), "HUB").replace(hub.environ["HF_HUB_CACHE"], "CACHE")


def found(hub: Hub, **given: Any) -> Any:
    return resolve(
        f"hf:{NAME}",
        folder=Path("/"),
        embedded={},
        digest=digest_file,
        environ=hub.environ,
        **given,
    )


def cache(hub: Hub) -> Path:
    return Path(hub.environ["HF_HUB_CACHE"]) / "models--org--tiny"


# --- resolving
# -----------------------------------------------------------------------------------------------------------------


def test_a_reference_is_resolved_to_a_commit_and_the_files_that_are_needed(
    server: Any, hub: Hub
) -> None:
    """One copy of the weights, no pickles, no documents; each file with size and sha256; nothing
    appears in a snapshot, and no weights are fetched.
    """
    model = hub.resolve(REFERENCE)
    assert (model.commit, model.license, model.variant) == (
        server.commit(NAME, "main"),
        "apache-2.0",
        "",
    )
    assert [(f.name, f.size, f.sha256) for f in model.files] == [
        (name, len(FILES[name]), hashlib.sha256(FILES[name]).hexdigest()) for name in NEEDED
    ]
    assert server.transfers() == []
    assert not (cache(hub) / "snapshots").exists()


def test_a_variant_is_taken_where_there_is_one(hub: Hub) -> None:
    """Halves are taken of the part that has them, the plain file of the one that has not; the lock
    says which.
    """
    model = hub.resolve(REFERENCE, variant="fp16")
    assert [f.name for f in model.files if f.name.endswith(".safetensors")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert model.variant == "fp16"
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE, variant="fp8")
    assert (
        words(caught, hub)
        == "unresolved: org/tiny has no variant 'fp8' of its weights\nit has: fp16"
    )


def test_one_file_of_a_repository(server: Any, hub: Hub) -> None:
    """A reference to a file locks and fetches that file alone; a wrong name gets the nearest."""
    reference = parse_reference(f"hf:{NAME}@main/tiny.safetensors")
    model = hub.resolve(reference)
    assert [f.name for f in model.files] == ["tiny.safetensors"]
    hub.pull(model)
    here = resolve(
        str(reference),
        folder=Path("/"),
        embedded={},
        digest=digest_file,
        environ=hub.environ,
        policy=ModelPolicy(Lock(Path("l")).with_models([model])),
    )
    assert here.path.read_bytes() == FILES["tiny.safetensors"]
    assert (
        here.digest
        == resolve(
            str(reference), folder=Path("/"), embedded={}, digest=digest_file, environ=hub.environ
        ).digest
    )
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(parse_reference(f"hf:{NAME}@main/tinny.safetensors"))
    assert (
        words(caught, hub)
        == "unresolved: org/tiny has no file 'tinny.safetensors' at 'main'\ndid you mean 'tiny.safetensors'?"
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a.bin": b"x", "config.json": b"{}"},
            "the model 'hf:org/tiny@main' has its weights only as pickles (a.bin)\na pickle can run any code when it is loaded, so only safetensors are\n"
            "name a revision that has safetensors, or pass --allow-pickle hf:org/tiny@main/a.bin if you trust it",
        ),
        (
            {
                "model_index.json": b"{}",
                "unet/a.safetensors": weights(),
                "vae/diffusion_pytorch_model.bin": b"x",
            },
            "a part of the model 'hf:org/tiny@main' has its weights only as pickles "
            "(vae/diffusion_pytorch_model.bin)\na pickle can run any code when it is loaded, so only safetensors are\n"
            "name a revision that has safetensors, or pass --allow-pickle hf:org/tiny@main/vae/diffusion_pytorch_model.bin if you trust it",
        ),
        (
            {"README.md": b"x"},
            "the model 'hf:org/tiny@main' has no weights\nnone of its 1 files ends in .safetensors",
        ),
        (
            {"a.safetensors": weights(), "b.safetensors": weights()},
            "the model 'hf:org/tiny@main' consists of 2 separate weights files\nthey are a.safetensors, b.safetensors\n"
            "name one, such as hf:org/tiny@main/a.safetensors",
        ),
        (
            {"one/a.safetensors": weights(), "two/b.safetensors": weights()},
            "the model 'hf:org/tiny@main' consists of 2 separate weights files\nthey are one/a.safetensors, two/b.safetensors\n"
            "name one, such as hf:org/tiny@main/one/a.safetensors, or a folder, such as hf:org/tiny@main/one/",
        ),
        (
            {"q4.gguf": b"GGUF", "q8.gguf": b"GGUF"},
            "the model 'hf:org/tiny@main' consists of 2 separate weights files\nname one, such as hf:org/tiny@main/q4.gguf",
        ),
    ],
)
def test_a_repository_that_cannot_be_loaded_is_told_before_it_is_fetched(
    server: Any, hub: Hub, files: dict[str, bytes], said: str
) -> None:
    """Pickles, nothing, and a choice that only the user can make."""
    server.repositories[NAME] = local_hub.Repository({"main": files})
    with pytest.raises(UnusableModel) as caught:
        hub.resolve(REFERENCE)
    assert words(caught, hub) == said


def test_a_network_in_one_file_is_fetched_alone(server: Any, hub: Hub) -> None:
    """Of a repository of such files each is a model of its own, and none is chosen by itself."""
    files = {
        "mapping.onnx": b"\x08\x08first",
        "synthesis.onnx": b"\x08\x08second",
        "train.pkl": b"x",
    }
    server.repositories[NAME] = local_hub.Repository({"main": files})
    model = hub.resolve(parse_reference(f"hf:{NAME}@main/synthesis.onnx"))
    hub.pull(model)
    here = resolve(
        f"hf:{NAME}@main/synthesis.onnx",
        folder=Path("/"),
        embedded={},
        digest=digest_file,
        environ=hub.environ,
    )
    assert ([f.name for f in model.files], here.path.read_bytes()) == (
        ["synthesis.onnx"],
        files["synthesis.onnx"],
    )
    with pytest.raises(UnusableModel) as caught:
        hub.resolve(REFERENCE)
    assert (
        words(caught, hub)
        == "the model 'hf:org/tiny@main' consists of 2 separate weights files\nname one, such as hf:org/tiny@main/mapping.onnx"
    )


def test_the_parts_of_a_modular_repository_are_no_choice(server: Any, hub: Hub) -> None:
    """It lists its parts in a file of another name: all are fetched, and weights beside them are
    copies.
    """
    files = {
        "modular_model_index.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights(),
        "vae/diffusion_pytorch_model.safetensors": weights(),
        "all.safetensors": weights(),
    }
    server.repositories[NAME] = local_hub.Repository({"main": files})
    assert [f.name for f in hub.resolve(REFERENCE).files] == sorted(
        files.keys() - {"all.safetensors"}
    )


def test_a_pickle_that_the_user_allows_is_fetched(server: Any, hub: Hub) -> None:
    """Naming the file is the leave."""
    server.repositories[NAME] = local_hub.Repository(
        {"main": {"a.bin": b"x", "config.json": b"{}"}}
    )
    assert [f.name for f in hub.resolve(REFERENCE, pickles=["hf:org/tiny/a.bin"]).files] == [
        "a.bin",
        "config.json",
    ]


# --- pulling
# -------------------------------------------------------------------------------------------------------------------


def test_pulling_brings_the_files_and_nothing_else(server: Any, hub: Hub) -> None:
    """The snapshot holds what the lock names; its branch is known to the cache, so it is found with
    the lock and without, offline, under one fingerprint.
    """
    model = hub.resolve(REFERENCE)
    told: list[tuple[str, int, int]] = []
    snapshot = hub.pull(model, report=lambda *said: told.append(said))
    assert sorted(
        p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()
    ) == sorted(NEEDED)
    assert all((snapshot / name).read_bytes() == FILES[name] for name in NEEDED)
    assert told[-1][1] == told[-1][2]
    server.asked.clear()
    alone, locked = (
        found(hub),
        found(hub, policy=ModelPolicy(Lock(Path("l")).with_models([model]), locked=True)),
    )
    assert (alone.path, alone.digest, dict(alone.parts)) == (
        locked.path,
        locked.digest,
        dict(locked.parts),
    )
    assert server.asked == []
    assert not list(cache(hub).rglob("*.part"))


def test_what_is_here_is_not_fetched_again(server: Any, hub: Hub) -> None:
    """A second pull transfers nothing, and a commit that shares files fetches only what differs."""
    hub.pull(hub.resolve(REFERENCE))
    server.asked.clear()
    hub.pull(hub.resolve(REFERENCE))
    assert server.transfers() == []
    server.repositories[NAME].revisions["v2"] = {
        **FILES,
        "vae/diffusion_pytorch_model.safetensors": weights(10),
    }
    hub.pull(hub.resolve(parse_reference(f"hf:{NAME}@v2")))
    assert [path.rpartition("/")[0].rpartition("/")[2] for path, _ in server.transfers()] == ["vae"]


def test_the_libraries_find_what_was_pulled(
    server: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is laid out as huggingface_hub lays it out: its own look-up finds each file,
    offline.
    """
    from huggingface_hub import hf_hub_download

    hub.pull(hub.resolve(REFERENCE))
    server.asked.clear()
    path = hf_hub_download(NAME, UNET, cache_dir=hub.environ["HF_HUB_CACHE"], local_files_only=True)
    assert Path(path).read_bytes() == FILES[UNET]
    assert server.asked == []


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Any, hub: Hub) -> None:
    """A torn connection is taken up again by Range within one pull."""
    server.torn[UNET] = [7000]
    snapshot = hub.pull(hub.resolve(REFERENCE))
    assert (snapshot / UNET).read_bytes() == FILES[UNET]
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == [
        "",
        "bytes=7000-",
    ]


def test_a_pull_that_was_killed_goes_on_where_it_stopped(
    server: Any, hub: Hub, tmp_path: Path
) -> None:
    """Another process fetches only the rest; what a kill leaves behind is no model."""
    code = (
        "import huggingface_hub.constants as constants\nconstants.DOWNLOAD_CHUNK_SIZE = 1000\nfrom imagen_flow._models import Hub, parse_reference\n"
        f"hub = Hub(environ={dict(hub.environ)!r})\nhub.pull(hub.resolve(parse_reference('hf:{NAME}@main')))\n"
    )
    server.slow_s = 0.02
    server.repositories[NAME].revisions["main"][UNET] = weights(300_000)
    environ = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
    }
    with subprocess.Popen([sys.executable, "-c", code], env=environ) as child:
        part = cache(hub) / "blobs" / f"{hashlib.sha256(weights(300_000)).hexdigest()}.part"
        while not (part.exists() and part.stat().st_size > 0):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    here = part.stat().st_size
    assert 0 < here < len(weights(300_000))
    with pytest.raises(UnresolvedModel):
        found(hub)
    server.slow_s = 0.0
    server.asked.clear()
    model = hub.resolve(REFERENCE)
    snapshot = hub.pull(model)
    assert (snapshot / UNET).read_bytes() == weights(300_000)
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == [
        f"bytes={here}-"
    ]


def test_a_transfer_that_never_ends_well_leaves_nothing_installed(server: Any, hub: Hub) -> None:
    """After its tries the pull says so; no snapshot appears, and what came is kept for the next
    try.
    """
    server.torn[UNET] = [2000, *[0] * 20]
    with pytest.MonkeyPatch.context() as patch:
        import huggingface_hub.file_download

        patch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
        with pytest.raises(UnresolvedModel) as caught:
            hub.pull(hub.resolve(REFERENCE))
    assert str(caught.value) == f"unresolved: 'hf:{NAME}@main' ({UNET}) cannot be downloaded"
    assert not (cache(hub) / "snapshots").exists()
    server.torn.clear()
    server.asked.clear()
    hub.pull(hub.resolve(REFERENCE))
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == ["bytes=2000-"]


def test_content_that_is_not_what_the_hub_says_is_refused(server: Any, hub: Hub) -> None:
    """The right size and another digest: nothing is installed and nothing of it is kept."""
    model = hub.resolve(REFERENCE)
    server.swapped[UNET] = weights(5000, 9.0)
    with pytest.raises(UnresolvedModel) as caught:
        hub.pull(model)
    assert words(caught, hub) == (
        f"unresolved: '{UNET}' of {NAME} does not match the digest that the hub gives\nthe downloaded file does not have the digest {hashlib.sha256(FILES[UNET]).hexdigest()}\n"
        "try again; if that does not help, something between you and the hub alters the files"
    )
    assert not (cache(hub) / "snapshots").exists()
    assert not [
        p for p in cache(hub).rglob("*") if p.is_file() and p.stat().st_size == len(FILES[UNET])
    ]


def test_a_small_file_is_checked_too(server: Any, hub: Hub) -> None:
    """What the hub keeps in git itself is held to its git digest."""
    server.swapped["vae/config.json"] = b'{"a": 2}'
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert (
        str(caught.value)
        == f"unresolved: 'vae/config.json' of {NAME} does not match the digest that the hub gives"
    )


def test_a_stale_part_is_thrown_away(server: Any, hub: Hub) -> None:
    """A partial file of other bytes is told by the digest, and the file is fetched from its
    beginning.
    """
    model = hub.resolve(REFERENCE)
    file = next(f for f in model.files if f.name == UNET)
    part = cache(hub) / "blobs" / f"{file.sha256}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"?" * 1000)
    assert (hub.pull(model) / UNET).read_bytes() == FILES[UNET]
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == [
        "bytes=1000-",
        "",
    ]


def test_a_part_that_is_longer_than_its_file_is_begun_anew(server: Any, hub: Hub) -> None:
    """Nothing is asked for beyond the end of a file."""
    model = hub.resolve(REFERENCE)
    file = next(f for f in model.files if f.name == UNET)
    part = cache(hub) / "blobs" / f"{file.sha256}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(FILES[UNET] + b"?")
    assert (hub.pull(model) / UNET).read_bytes() == FILES[UNET]
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == [""]


def test_a_file_that_was_damaged_on_the_disk_is_fetched_anew(server: Any, hub: Hub) -> None:
    """Pulling checks what is here."""
    model = hub.resolve(REFERENCE)
    snapshot = hub.pull(model)
    blob = (snapshot / UNET).resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0\0\0\0")
    assert (hub.pull(model) / UNET).read_bytes() == FILES[UNET]


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(server: Any, hub: Hub) -> None:
    """The sizes are known, so nothing is begun that cannot end; what is here already is not
    counted.
    """
    model = hub.resolve(REFERENCE)
    hub._free = lambda place: 200_000_000
    with pytest.raises(UnresolvedModel) as caught:
        hub.pull(model)
    to_come = sum(len(FILES[name]) for name in NEEDED if name.endswith(".safetensors"))
    assert words(caught, hub) == (
        f"unresolved: 'hf:{NAME}@main' does not fit on the disk of CACHE\n{to_come:,} bytes are needed, and 200,000,000 are free\nfree some space, or set HF_HUB_CACHE to a larger disk"
    )
    assert server.transfers() == []
    hub._free = lambda place: 200_000_000 + to_come
    hub.pull(model)
    hub._free = lambda place: 0
    hub.pull(model)


def test_a_disk_that_fills_up_while_fetching_is_told(
    server: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space left on the device: the message says where, and no snapshot appears."""
    import errno

    import huggingface_hub.file_download

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = hub.resolve(REFERENCE)
    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    with pytest.raises(UnresolvedModel) as caught:
        hub.pull(model)
    assert words(caught, hub) == (
        f"unresolved: 'hf:{NAME}@main' ({UNET}) does not fit on the disk of CACHE\nNo space left on device\nfree some space, or set HF_HUB_CACHE to a larger disk; what is here is kept"
    )
    assert not (cache(hub) / "snapshots").exists()


# --- what the hub refuses
# ------------------------------------------------------------------------------------------------------


def test_a_gated_repository_says_how_to_be_let_in(server: Any, hub: Hub) -> None:
    """Without the right to see it: where to accept the licence, and how to log in. With the token
    it comes, and the token is not sent to the host of the files.
    """
    server.repositories[NAME].gated, server.repositories[NAME].token = True, "hf_secret"
    for token in (None, "hf_wrong"):
        hub.token = token
        with pytest.raises(UnresolvedModel) as caught:
            hub.resolve(REFERENCE)
        assert words(caught, hub) == (
            f"unresolved: 'hf:{NAME}@main' is gated\nits owners require you to accept its licence first\naccept it at HUB/{NAME}, then log in with `hf auth login` or set HF_TOKEN"
        )
    hub.token = "hf_secret"
    hub.pull(hub.resolve(REFERENCE))
    assert {
        authorization for _, path, _, authorization in server.asked if path.startswith("/cdn/")
    } == {""}


def test_a_repository_or_revision_that_is_not_there(hub: Hub) -> None:
    """The hub does not say whether a repository is missing or private, so both are named; a wrong
    revision is told apart.
    """
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(parse_reference("hf:org/tinny"))
    assert words(caught, hub) == (
        "unresolved: there is no repository 'org/tinny' that you can access\nHUB reports that it does not exist or is private\ncorrect its name, or log in with `hf auth login` or set HF_TOKEN"
    )
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(parse_reference(f"hf:{NAME}@v9"))
    assert (
        words(caught, hub)
        == f"unresolved: {NAME} has no revision 'v9'\nHUB does not know it\nsee HUB/{NAME}/tree/main"
    )


def test_a_hub_that_is_down_or_away(server: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of 500, nobody at the address, and no leave to use the network: each is told as
    what it is.
    """
    import huggingface_hub.constants

    server.status = 500
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert words(caught, hub).startswith(
        f"unresolved: 'hf:{NAME}@main' cannot be downloaded\nHUB returned 500: "
    )
    hub.endpoint = "http://127.0.0.1:9"
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert words(caught, hub).startswith(
        f"unresolved: 'hf:{NAME}@main' cannot be downloaded\nHUB cannot be reached: "
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert (
        words(caught, hub)
        == f"unresolved: 'hf:{NAME}@main' cannot be downloaded\nHF_HUB_OFFLINE forbids it\nunset HF_HUB_OFFLINE, or run it where it was pulled"
    )


# --- the lock
# ------------------------------------------------------------------------------------------------------------------


def test_the_lock_says_the_same_in_the_same_words(hub: Hub, tmp_path: Path) -> None:
    """Written, read and written again it is the same text, sorted; equal content is not written."""
    lock = Lock(tmp_path / "imagen-flow.lock").with_models(
        [hub.resolve(parse_reference(f"hf:{NAME}@main/tiny.safetensors")), hub.resolve(REFERENCE)]
    )
    assert lock.write()
    again = read_lock(lock.path)
    assert again == lock
    assert not again.write()
    text = lock.path.read_text()
    assert text == again.text()
    assert text.startswith(
        "# Written by `imagen-flow models`. Keep it with your graphs.\nimagen_flow_lock = 1\n\n[[model]]\n"
        f'reference = "hf:{NAME}@main"\ncommit = "{hub.resolve(REFERENCE).commit}"\nlicense = "apache-2.0"\nvariant = ""\nfiles = [\n  {{ name = "model_index.json", size = '
    )


def test_a_lock_is_held_to_when_the_branch_has_moved(server: Any, hub: Hub) -> None:
    """The lock's commit is what runs, whatever the branch means by now."""
    model = hub.resolve(REFERENCE)
    hub.pull(model)
    before = found(hub)
    server.repositories[NAME].revisions = {"old": dict(FILES), "main": {**FILES, UNET: weights(7)}}
    server.commit = lambda repository, revision: model.commit if revision == "old" else "f" * 40
    hub.pull(hub.resolve(REFERENCE))
    assert found(hub).digest != before.digest
    assert (
        found(hub, policy=ModelPolicy(Lock(Path("l")).with_models([model]))).digest == before.digest
    )


def test_locked_refuses_what_the_lock_does_not_have(hub: Hub, tmp_path: Path) -> None:
    """Another revision, and a lock that is not there."""
    lock = Lock(tmp_path / "imagen-flow.lock").with_models([hub.resolve(REFERENCE)])
    hub.pull(hub.resolve(REFERENCE))
    with pytest.raises(UnresolvedModel) as caught:
        resolve(
            f"hf:{NAME}@mian",
            folder=Path("/"),
            embedded={},
            digest=digest_file,
            environ=hub.environ,
            policy=ModelPolicy(lock, locked=True),
        )
    assert (
        words(caught, hub)
        == f"'hf:{NAME}@mian' is not in the lock\n--locked allows only the models in {lock.path}\ndid you mean 'hf:{NAME}@main'?"
    )
    with pytest.raises(UnresolvedModel) as caught:
        found(hub, policy=ModelPolicy(Lock(lock.path), locked=True))
    assert words(caught, hub) == (
        f"'hf:{NAME}' is not in the lock\nthere is no lock {lock.path}, and --locked allows only models in a lock\nrun `imagen-flow models resolve hf:{NAME}`"
    )


def test_a_cache_that_is_not_what_the_lock_says_is_refused(hub: Hub) -> None:
    """A file that is missing, and one that is another: both are told when planning."""
    model = hub.resolve(REFERENCE)
    snapshot = hub.pull(model)
    lock = Lock(Path("l")).with_models([model])
    other = snapshot / "vae/config.json"
    link = os.readlink(other)
    other.unlink()
    with pytest.raises(UnresolvedModel) as caught:
        found(hub, policy=ModelPolicy(lock))
    assert (
        words(caught, hub)
        == f"unresolved: 'hf:{NAME}' is not whole\n1 of its 5 files are not in the hub's cache, vae/config.json first\nrun `imagen-flow models pull hf:{NAME}`"
    )
    other.write_bytes(b'{"a": 7}')
    with pytest.raises(UnresolvedModel) as caught:
        found(hub, policy=ModelPolicy(lock))
    assert (
        words(caught, hub)
        == f"unresolved: 'hf:{NAME}' does not match the lock\nvae/config.json has different content\nrun `imagen-flow models pull hf:{NAME}`"
    )
    other.unlink()
    other.symlink_to(link)
    assert found(hub, policy=ModelPolicy(lock)).path == snapshot


def test_a_locked_file_that_is_linked_to_another_blob_is_refused(hub: Hub) -> None:
    """A blob of the same size under another name is another file."""
    model = hub.resolve(REFERENCE)
    link = hub.pull(model) / "vae/config.json"
    other = link.resolve().with_name("0" * 40)
    other.write_bytes(link.read_bytes()[::-1])
    link.unlink()
    link.symlink_to(os.path.relpath(other, link.parent))
    with pytest.raises(UnresolvedModel, match="does not match the lock"):
        found(hub, policy=ModelPolicy(Lock(Path("l")).with_models([model])))


def test_a_locked_file_that_was_cut_off_is_refused(hub: Hub) -> None:
    """A blob that still has the name of its content, but not its size, is told when planning."""
    model = hub.resolve(REFERENCE)
    blob = (hub.pull(model) / "vae/config.json").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(UnresolvedModel, match="does not match the lock") as caught:
        found(hub, policy=ModelPolicy(Lock(Path("l")).with_models([model])))
    assert caught.value.why == "vae/config.json has different content"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/../../b", "a\\\\b", "."])
def test_a_lock_cannot_lead_out_of_the_cache(tmp_path: Path, name: str) -> None:
    """A lock comes with whatever folder the user has fetched: its names are held to the inside of a
    repository.
    """
    from imagen_flow.errors import GraphError

    path = tmp_path / "imagen-flow.lock"
    path.write_text(
        f'imagen_flow_lock = 1\n[[model]]\nreference = "hf:a/b@main"\ncommit = "{"0" * 40}"\nlicense = ""\nvariant = ""\nfiles = [\n  {{ name = "{name}", size = 1, sha256 = "{"0" * 64}" }},\n]\n'
    )
    with pytest.raises(GraphError) as caught:
        read_lock(path)
    assert caught.value.problems[0].message == "the lock is damaged"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagen_flow_lock = 1\n[[model", "the lock is not TOML"),
        ("imagen_flow_lock = 2\n", "the lock is of another format"),
        ("", "the lock is of another format"),
        (
            'imagen_flow_lock = 1\n[[model]]\nreference = "./x"\ncommit = "00"\nfiles = []\n',
            "the lock is damaged",
        ),
        ("imagen_flow_lock = 1\nmodel = 3\n", "the lock is damaged"),
    ],
)
def test_a_damaged_lock_is_told(tmp_path: Path, text: str, message: str) -> None:
    """It is untrusted text like any other."""
    from imagen_flow.errors import GraphError

    (tmp_path / "imagen-flow.lock").write_text(text)
    with pytest.raises(GraphError) as caught:
        read_lock(tmp_path / "imagen-flow.lock")
    assert [p.message for p in caught.value.problems] == [message]


# --- removing, weighing
# --------------------------------------------------------------------------------------------------------


def test_removing_a_model_leaves_what_another_commit_needs(server: Any, hub: Hub) -> None:
    """Only blobs that no other snapshot links to go; the last commit takes the repository with it."""
    server.repositories[NAME].revisions["v2"] = {**FILES, UNET: weights(10)}
    first, second = hub.resolve(REFERENCE), hub.resolve(parse_reference(f"hf:{NAME}@v2"))
    hub.pull(first)
    hub.pull(second)
    assert hub.remove(NAME, first.commit, first.files) >= len(FILES[UNET])
    assert hub.missing(first) == list(first.files)
    assert hub.missing(second) == []
    with pytest.raises(UnresolvedModel):
        found(hub)
    hub.remove(NAME, second.commit)
    assert not cache(hub).exists()


def test_a_model_is_weighed_by_its_headers(hub: Hub) -> None:
    """What it takes in memory follows from the tensors and the dtype, part by part; other copies do
    not count.
    """
    hub.pull(hub.resolve(REFERENCE))
    model = found(hub)
    assert estimate(model, "float16").memory_bytes == 2 * 8000
    assert estimate(model, "float32").parts == (("unet", 20_000), ("vae", 12_000))
    assert estimate(model, "float32").disk_bytes == len(FILES[UNET]) + len(
        FILES["vae/diffusion_pytorch_model.safetensors"]
    )
