"""A hub, a lock and a cache are trusted with nothing: what they say is looked at before it is done,
and whoever asked is told what is wrong and how to mend it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import GraphError
from imagen_flow import _cli as cli
from imagen_flow._models import (
    Hub,
    Lock,
    LockedFile,
    LockedModel,
    UnresolvedModel,
    UnusableModel,
    parse_reference,
    read_lock,
)

_spec = importlib.util.spec_from_file_location("local_hub", Path(__file__).parent / "local_hub.py")
assert _spec is not None and _spec.loader is not None
local_hub = sys.modules.setdefault("local_hub", importlib.util.module_from_spec(_spec))
if not hasattr(local_hub, "Hub"):
    _spec.loader.exec_module(local_hub)

NAME = "org/tiny"
REFERENCE = parse_reference(f"hf:{NAME}@main")


def weights(count: int = 1000, fill: float = 1.0) -> bytes:
    """The bytes of a safetensors file of one float32 tensor."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *[fill] * count)


UNET = "unet/diffusion_pytorch_model.safetensors"
FILES = {
    "model_index.json": json.dumps(
        {"_class_name": "Pipeline", "unet": ["diffusers", "UNet"]}
    ).encode(),
    "unet/config.json": b"{}",
    UNET: weights(),
    "style.safetensors": weights(10),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in (
        "HF_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = local_hub.Hub({NAME: local_hub.Repository({"main": dict(FILES)})})
    with local_hub.serve(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture
def hub(server: Any) -> Hub:
    return Hub()


def words(caught: pytest.ExceptionInfo[Any], hub: Hub) -> str:
    fault = caught.value
    text = "\n".join(line for line in (str(fault), fault.why, fault.fix) if line)
    return text.replace(str(hub.endpoint), "HUB").replace(os.environ["HF_HUB_CACHE"], "CACHE")


def everything(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and ".locks" not in path.parts
    }


# --- what a hub says
# -----------------------------------------------------------------------------------------------------------


def of_file(
    change: Callable[[dict[str, Any]], None], name: str = UNET
) -> Callable[[dict[str, Any]], Any]:
    """Change what the hub says of one file."""

    def saying(said: dict[str, Any]) -> Any:
        for sibling in said["siblings"]:
            if sibling["rfilename"] == name:
                change(sibling)
        return said

    return saying


@pytest.mark.parametrize(
    "saying",
    [
        of_file(lambda file: file.update(rfilename="/tmp/imagen_flow_escaped.safetensors")),
        of_file(lambda file: file.update(rfilename="unet//escaped.safetensors")),
        of_file(lambda file: file.update(rfilename="unet/\x1b[2Jescaped.safetensors")),
        of_file(lambda file: file["lfs"].update(sha256="../../../escaped")),
        of_file(lambda file: file["lfs"].update(sha256="A" * 64)),
        of_file(lambda file: file["lfs"].update(sha256=None)),
        of_file(lambda file: file["lfs"].update(size=-1)),
        of_file(lambda file: file["lfs"].update(size="12")),
        of_file(lambda file: file.update(blobId="../../../escaped"), "model_index.json"),
        of_file(lambda file: file.update(blobId=None), "model_index.json"),
        of_file(lambda file: file.update(size=None), "model_index.json"),
        lambda said: {**said, "sha": "../../escaped"},
        lambda said: {**said, "sha": None},
        lambda said: {**said, "siblings": [3]},
        lambda said: {**said, "siblings": "abc"},
        lambda _: "[]",
        lambda _: "[" * 100_000,
        lambda _: "<html>Welcome to the network of our hotel</html>",
    ],
)
def test_what_a_hub_cannot_mean_is_refused_before_anything_is_fetched(
    saying: Callable[[dict[str, Any]], Any], server: Any, hub: Hub, tmp_path: Path
) -> None:
    """Names, digests and commits that lead out of the cache, sizes that are none, and answers that
    are no listing: nothing is written anywhere.
    """
    server.saying = saying
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert str(caught.value) == f"unresolved: the server for 'hf:{NAME}@main' is not a hub"
    assert "check HF_ENDPOINT" in caught.value.fix
    assert everything(tmp_path) == set()
    assert not Path("/tmp/imagen_flow_escaped.safetensors").exists()


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (10**6, "cannot be downloaded"),
        (0, "does not match the digest that the hub gives"),
        (10**18, "does not fit on the disk of "),
    ],
)
def test_a_size_that_is_not_so_installs_nothing(
    size: int, why: str, server: Any, hub: Hub, tmp_path: Path
) -> None:
    """Too large, nothing, and larger than any disk."""
    server.saying = of_file(lambda file: file["lfs"].update(size=size))
    model = hub.resolve(REFERENCE)
    with pytest.raises(UnresolvedModel, match=why):
        hub.pull(model)
    assert not [name for name in everything(tmp_path) if "/snapshots/" in name]


def test_a_listing_without_end_is_no_model(server: Any, hub: Hub) -> None:
    """Nobody waits for a hundred thousand small files."""
    server.saying = lambda said: {
        **said,
        "siblings": said["siblings"]
        + [{"rfilename": f"unet/{n}.json", "size": 1, "blobId": "0" * 40} for n in range(100_000)],
    }
    with pytest.raises(UnusableModel) as caught:
        hub.resolve(REFERENCE)
    assert (
        words(caught, hub)
        == f"the model 'hf:{NAME}@main' is not a model repository\n100,003 of its files would be downloaded\nname one file of it"
    )


@pytest.mark.parametrize(
    ("status", "wait", "why", "fix"),
    [
        (401, "", "Unauthorized", "log in with `hf auth login` or set HF_TOKEN"),
        (403, "", "Forbidden", "log in with `hf auth login` or set HF_TOKEN"),
        (404, "", "Not Found", "check HF_ENDPOINT: there is no hub at this address"),
        (429, "37", "Too Many Requests", "try again in 37 s"),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", "Too Many Requests", "try again later"),
        (503, "", "Service Unavailable", "try again later"),
    ],
)
def test_an_answer_that_is_none_says_what_to_do(
    status: int, wait: str, why: str, fix: str, server: Any, hub: Hub
) -> None:
    """Each status has its own mending; one that says how long to wait is quoted."""
    server.status, server.retry_after = status, wait
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    assert (
        words(caught, hub)
        == f"unresolved: 'hf:{NAME}@main' cannot be downloaded\nHUB returned {status}: {why}\n{fix}"
    )


def test_a_gated_repository_shows_itself_and_keeps_its_files(server: Any, hub: Hub) -> None:
    """As on the real hub: who may not have the files is told where to accept the licence; the token
    goes to the hub, and not where the files are.
    """
    server.repositories[NAME].gated, server.repositories[NAME].token = "files", "hf_secret"
    for token in (None, "hf_other"):
        hub.token = token
        with pytest.raises(UnresolvedModel) as caught:
            hub.resolve(REFERENCE)
        assert words(caught, hub) == (
            f"unresolved: 'hf:{NAME}@main' (model_index.json) is gated\nits owners require you to accept its licence first\naccept it at HUB/{NAME}, then log in with `hf auth login` or set HF_TOKEN"
        )
    hub.token = "hf_secret"
    model = hub.resolve(REFERENCE)
    hub.token = None
    with pytest.raises(UnresolvedModel, match="is gated"):
        hub.pull(model)
    assert not Path(os.environ["HF_HUB_CACHE"], "models--org--tiny", "snapshots").exists()


def test_a_proxy_is_named_without_what_it_says_of_a_user(
    server: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot be reached through a proxy learns that there is one; its password stays untold."""
    import huggingface_hub

    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    huggingface_hub.close_session()  # it looked at the environment when it was opened
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(REFERENCE)
    huggingface_hub.close_session()
    assert caught.value.why.startswith(
        f"{os.environ['HF_ENDPOINT']} cannot be reached through 127.0.0.1:9: "
    )
    assert "secret" not in words(caught, hub)
    assert "the proxy in your environment variables" in caught.value.fix


def test_a_file_that_the_library_does_not_fetch_is_told(server: Any, hub: Hub) -> None:
    """Above 50 GB it fetches only by another way; the message names the command that does."""
    hub._free = lambda place: 10**12
    model = LockedModel(
        REFERENCE, "a" * 40, "", "", (LockedFile("all.safetensors", 60_000_000_000, "b" * 64),)
    )
    with pytest.raises(UnresolvedModel) as caught:
        hub.pull(model)
    assert words(caught, hub) == (
        f"unresolved: 'all.safetensors' of {NAME} is too large to download\nit has 60,000,000,000 bytes, and the hub's library downloads 50,000,000,000 at most in this way\n"
        f"download it with `hf download {NAME} all.safetensors --revision {'a' * 40}`, then pull again"
    )


def test_the_library_tells_nothing_by_itself(
    server: Any,
    hub: Hub,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A torn connection that was taken up again is no news, and the library's own setting is as it
    was.
    """
    import huggingface_hub.constants
    import huggingface_hub.file_download
    from huggingface_hub.utils import logging

    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    before = logging.get_verbosity()
    server.torn[UNET] = [2000]
    hub.pull(hub.resolve(REFERENCE))
    assert (caplog.records, capsys.readouterr().err, logging.get_verbosity()) == ([], "", before)


# --- a cache that others own
# ---------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let nothing be made, moved or removed below a folder, also for a user who may do everything."""
    import errno

    def forbid(folder: Path) -> None:
        def guarded(module: Any, name: str) -> None:
            call = getattr(module, name)

            def refusing(path: Any, *rest: Any, **more: Any) -> Any:
                writes = name != "open" or (
                    rest
                    and isinstance(rest[0], int)
                    and rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                )
                if (
                    writes
                    and isinstance(path, str | os.PathLike)
                    and Path(path).absolute().is_relative_to(folder)
                ):
                    if name == "mkdir" and os.path.isdir(path):
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return call(path, *rest, **more)

            monkeypatch.setattr(module, name, refusing)

        for name in ("open", "mkdir", "unlink", "rmdir", "replace", "rename", "symlink"):
            guarded(os, name)

    return forbid


def test_a_cache_that_may_only_be_read_is_as_good_once_it_is_whole(
    server: Any, hub: Hub, read_only: Callable[[Path], None]
) -> None:
    """What another user has fetched is checked and taken; what is lacking is told as what it is;
    nothing can be removed, and that is said.
    """
    model = hub.resolve(REFERENCE)
    snapshot = hub.pull(model)
    read_only(Path(os.environ["HF_HUB_CACHE"]))
    assert hub.resolve(REFERENCE) == model
    assert hub.pull(model) == snapshot
    lora = hub.resolve(parse_reference(f"hf:{NAME}@main/style.safetensors"))
    with pytest.raises(UnresolvedModel) as caught:
        hub.pull(lora)
    assert (
        str(caught.value)
        == f"unresolved: 'hf:{NAME}@main/style.safetensors' (style.safetensors) cannot be written to the hub's cache"
    )
    assert caught.value.fix == "make the folder writable, or set HF_HUB_CACHE to another one"
    with pytest.raises(UnusableModel) as refused:
        hub.remove(NAME, model.commit, model.files)
    assert words(refused, hub).startswith(f"'hf:{NAME}' cannot be removed from CACHE\n")
    assert hub.missing(model) == []


def test_removing_leaves_what_else_is_kept_of_the_same_commit(server: Any, hub: Hub) -> None:
    """Two references to one repository share a commit: the files of the other stay, with the branch
    that leads to them.
    """
    whole, lora = (
        hub.resolve(REFERENCE),
        hub.resolve(parse_reference(f"hf:{NAME}@main/style.safetensors")),
    )
    snapshot = hub.pull(whole)
    hub.pull(lora)
    assert hub.remove(NAME, whole.commit, whole.files, keep=["style.safetensors"]) >= len(
        FILES[UNET]
    )
    assert everything(snapshot) == {"style.safetensors"}
    assert (snapshot / "style.safetensors").read_bytes() == FILES["style.safetensors"]
    assert not (snapshot / "unet").exists()
    assert (snapshot.parents[1] / "refs/main").exists()
    hub.remove(NAME, lora.commit, lora.files)
    assert not snapshot.parents[1].exists()


# --- the commands
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in a folder of its own; give exit code, standard output and standard
    error.
    """
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def test_two_commands_at_once_write_one_lock(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """What another command locked while this one fetched stays locked."""
    server.repositories["org/other"] = local_hub.Repository({"main": {"a.safetensors": weights(7)}})
    lock, began = tmp_path / "work/imagen-flow.lock", []

    def meanwhile(said: dict[str, Any]) -> dict[str, Any]:
        if said["id"] == NAME and not began:
            began.append(said)
            other = Hub().resolve(parse_reference("hf:org/other"))
            read_lock(lock).with_models([other]).write()
        return said

    server.saying = meanwhile
    assert flow("models", "pull", f"hf:{NAME}")[0] == 0
    assert list(read_lock(lock).models) == ["hf:org/other@main", f"hf:{NAME}@main"]


def test_a_lock_that_cannot_be_written_is_told(
    server: Any,
    flow: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    read_only: Callable[[Path], None],
) -> None:
    """Where the command runs nothing may be written: that is said, and no weights are fetched for
    nothing.
    """
    read_only(tmp_path / "work")
    code, _, err = flow("models", "pull", f"hf:{NAME}")
    assert (code, err) == (
        2,
        f"error: the lock {tmp_path}/work/imagen-flow.lock cannot be written: Read-only file system\n  = fix: make the folder writable\n",
    )
    assert server.transfers() == []


def test_what_failed_is_not_shown_as_resolved(
    server: Any, flow: Callable[..., tuple[int, str, str]]
) -> None:
    """A model that was locked before is no answer to --update when the hub gives none."""
    assert flow("models", "resolve", f"hf:{NAME}")[0] == 0
    server.status = 503
    code, out, err = flow("models", "resolve", "--update", f"hf:{NAME}")
    assert (code, out) == (1, "")
    assert "returned 503" in err


def test_a_broken_cache_is_listed_and_removed(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Links that lead nowhere, files where folders belong, loops and names that are none harm
    neither; a snapshot without content can be removed.
    """
    flow("models", "pull", f"hf:{NAME}")
    (tmp_path / "work/imagen-flow.lock").unlink()
    cache = tmp_path / "hub"
    for blob in cache.glob("models--*/blobs/*"):
        blob.unlink()
    (cache / "models--file").touch()
    (cache / "models--empty").mkdir()
    (cache / "models--odd--one/snapshots").mkdir(parents=True)
    (cache / "models--odd--one/snapshots/abc").touch()
    (cache / "models--odd--one/snapshots/loop").symlink_to("../snapshots")
    (cache / "models--odd--one/refs/main").mkdir(parents=True)
    (cache / "models--odd--one/refs/bin").write_bytes(b"\xff\xfe")
    (cache / "models--gone").symlink_to("nowhere")
    commit = server.commit(NAME, "main")[:7]
    assert flow("models", "list") == (
        0,
        f"in the hub's cache, but not in a lock here:\n  hf:{NAME}@main  {commit}  0 B\n",
        "",
    )
    code, out, _ = flow("models", "rm", "--yes", f"hf:{NAME}")
    assert (code, out.startswith(f"removed hf:{NAME}@main: ")) == (0, True)
    assert flow("models", "list")[1] == "no models are locked here, and the hub's cache is empty\n"
    assert flow("models", "rm", "--yes", "hf:odd/one")[0] == 1


def test_removing_one_of_two_in_a_lock_leaves_the_other_whole(
    server: Any, flow: Callable[..., tuple[int, str, str]]
) -> None:
    """They are of one commit; after it the other still runs by the lock."""
    one = f"hf:{NAME}@main/style.safetensors"
    flow("models", "pull", f"hf:{NAME}", one)
    assert flow("models", "rm", "--yes", f"hf:{NAME}")[0] == 0
    assert [line.split("  ")[-1] for line in flow("models", "list")[1].splitlines()] == ["here"]
    flow("models", "pull", f"hf:{NAME}")
    assert flow("models", "rm", "--yes", one)[0] == 0
    assert [line.split("  ")[-1] for line in flow("models", "list")[1].splitlines()] == ["here"]


def test_nobody_to_ask(
    server: Any, flow: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes nothing is removed, and the command line is at fault."""
    from io import StringIO

    flow("models", "pull", f"hf:{NAME}")
    monkeypatch.setattr("sys.stdin", StringIO(""))
    code, _, err = flow("models", "rm", f"hf:{NAME}")
    assert (code, err.splitlines()[-1]) == (
        2,
        "Error: cannot ask for confirmation: the session is not interactive; pass --yes",
    )
    assert flow("models", "list")[1].endswith("here\n")


# --- a lock that a hand has been in
# --------------------------------------------------------------------------------------------

GOOD = {
    "reference": f"hf:{NAME}@main",
    "commit": "0" * 40,
    "license": "",
    "variant": "",
    "files": [{"name": "a.safetensors", "size": 1, "sha256": "0" * 64}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "../../../etc"},
        {"commit": 3},
        {"commit": "0" * 39},
        {"reference": "hf:../../x@main"},
        {"reference": "hf:a/b@../../x"},
        {"reference": 7},
        {"files": {"a": 1}},
        {"files": [3]},
        {"files": [{"name": "a//b", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "a\tb", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "a", "size": -1, "sha256": "0" * 64}]},
        {"files": [{"name": "a", "size": 1.5, "sha256": "0" * 64}]},
        {"files": [{"name": "a", "size": 1, "sha256": "../../../x"}]},
        {"files": [{"name": "a", "size": 1, "sha256": ""}]},
        {"files": [{"name": "a", "size": 1, "sha256": "", "git": "0" * 40}]},
        {"files": [{"name": "a", "size": 1, "sha256": "0" * 64, "git": "../x"}]},
        {"files": [{"name": "a", "size": 1, "sha256": "0" * 64, "git": 5}]},
        {"completes_with": "vae"},
        {"completes_with": [1]},
    ],
)
def test_a_lock_that_says_what_cannot_be_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    """Whatever type or form is wrong, it is one problem with a mending, and no traceback."""

    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key} = {toml(of)}" for key, of in value.items()) + " }"
        return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)

    path = tmp_path / "imagen-flow.lock"
    path.write_text(
        "imagen_flow_lock = 1\n[[model]]\n"
        + "".join(f"{key} = {toml(value)}\n" for key, value in {**GOOD, **change}.items())
    )
    with pytest.raises(GraphError) as caught:
        read_lock(path)
    (problem,) = caught.value.problems
    assert (problem.message, problem.fix) == (
        "the lock is damaged",
        "take it from version control again, or remove it and run `imagen-flow models resolve GRAPH`",
    )


def test_a_lock_whose_digest_was_changed_installs_nothing(server: Any, hub: Hub) -> None:
    """What the hub sends is held to what the lock says."""
    model = hub.resolve(REFERENCE)
    other = hashlib.sha256(b"something else").hexdigest()
    changed = LockedModel(
        model.reference,
        model.commit,
        "",
        "",
        tuple(LockedFile(f.name, f.size, other, "") if f.name == UNET else f for f in model.files),
    )
    with pytest.raises(UnresolvedModel, match="does not match the digest that the hub gives"):
        hub.pull(changed)
    assert hub.missing(model) == list(model.files)


def test_a_folder_is_fetched_and_locked_alone(server: Any, hub: Hub) -> None:
    """Of a repository only what lies in the folder comes; with the lock and without it is the same
    model; a wrong folder gets the nearest.
    """
    from imagen_flow._models import Lock, ModelPolicy, resolve
    from imagen_flow._types.digest import digest_file

    reference = parse_reference(f"hf:{NAME}@main/unet/")
    model = hub.resolve(reference)
    assert [file.name for file in model.files] == ["unet/config.json", UNET]
    hub.pull(model)
    lock = Lock(Path("l")).with_models([model])
    locked, alone = (
        resolve(str(reference), folder=Path("/"), embedded={}, digest=digest_file, policy=policy)
        for policy in (ModelPolicy(lock, locked=True), ModelPolicy())
    )
    assert (locked.path, locked.digest) == (alone.path, alone.digest)
    assert sorted(path.name for path in locked.path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    with pytest.raises(UnresolvedModel) as caught:
        hub.resolve(parse_reference(f"hf:{NAME}@main/unit/"))
    assert (
        words(caught, hub)
        == f"unresolved: {NAME} has no weights in a folder 'unit/' at 'main'\ndid you mean 'unet/'?"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_pull_installs_nothing_and_goes_on(server: Any, tmp_path: Path) -> None:
    """Ctrl-C ends a pull at once with 130 and no traceback; the lock knows what was to come, the
    next pull fetches the rest.
    """
    import signal
    import subprocess
    import time

    server.repositories[NAME].revisions["main"][UNET] = weights(300_000)
    server.slow_s = 0.02
    environ = {**os.environ, "HF_HUB_OFFLINE": "0"}
    code = "import huggingface_hub.constants as c\nc.DOWNLOAD_CHUNK_SIZE = 1000\nfrom imagen_flow.__main__ import main\nmain()"
    command = [sys.executable, "-c", code, "models", "pull", f"hf:{NAME}"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        # Of the weights: what lies there before may be a configuration, of which the lock does not
        # know yet.
        while not [part for part in tmp_path.rglob("*.part") if part.stat().st_size > 1000]:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err.splitlines()[-1], "Traceback" in err) == (
        130,
        "",
        "interrupted",
        False,
    )
    assert not (tmp_path / "hub/models--org--tiny/snapshots").exists()
    (part,) = tmp_path.rglob("*.part")
    here, server.slow_s = part.stat().st_size, 0.0
    server.asked.clear()
    again = subprocess.run(
        [*command[:-1]], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (again.returncode, again.stdout.startswith(f"pulled hf:{NAME}@main: ")) == (0, True)
    assert [range_ for path, range_ in server.transfers() if path.endswith(UNET)] == [
        f"bytes={here}-"
    ]


def test_a_pull_that_was_stopped_before_it_was_locked_is_taken_up(
    server: Any,
    flow: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The next pull without names asks for what was asked for then, in the same variant; once the
    lock has it, or it cannot be had, nothing is left to take up.
    """
    server.repositories[NAME].revisions["main"]["unet/diffusion_pytorch_model.fp16.safetensors"] = (
        weights(9)
    )
    real = Hub.resolve

    def stop(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    assert flow("models", "pull")[0] == 2
    monkeypatch.setattr(Hub, "resolve", stop)
    assert flow("models", "pull", f"hf:{NAME}", "--variant", "fp16")[0] == 130
    assert not (tmp_path / "work/imagen-flow.lock").exists()
    assert flow("models", "pull")[0] == 130
    monkeypatch.setattr(Hub, "resolve", real)
    code, out, _ = flow("models", "pull")
    assert (code, out.startswith(f"pulled hf:{NAME}@main: ")) == (0, True)
    assert 'variant = "fp16"' in (tmp_path / "work/imagen-flow.lock").read_text()
    (tmp_path / "work/imagen-flow.lock").unlink()
    assert flow("models", "pull")[0] == 2
    assert flow("models", "pull", "hf:org/nothing")[0] == 1
    assert flow("models", "pull")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\xff",
        b"[1]",
        b"{}",
        b'[{"reference": "./x", "parts": null}]',
        b'[{"reference": 1, "parts": null, "whole": 1, "variant": null, "pickles": []}]',
        b"[" * 100_000,
    ],
)
def test_a_note_of_a_stopped_pull_that_is_rubbish_is_ignored(
    words: bytes,
    server: Any,
    flow: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says nothing."""

    def stop(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Hub, "resolve", stop)
    assert flow("models", "pull", f"hf:{NAME}")[0] == 130
    (note,) = (Path.home() / ".cache" / "imagen-flow" / "pulls").iterdir()
    note.write_bytes(words)
    assert flow("models", "pull")[0] == 2


@pytest.mark.parametrize(
    "header",
    [
        b'{"w": 3}',
        b'{"w": {}}',
        b"[]",
        b"zzz",
        b"[" * 100_000,
        b'{"w": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b"",
        None,
    ],
    ids=["a number", "no fields", "a list", "no JSON", "no bottom", "no shape", "empty", "short"],
)
def test_a_file_that_is_no_weights_is_told_once_it_is_here(
    header: bytes | None, server: Any, flow: Callable[..., tuple[int, str, str]]
) -> None:
    """Its digest is what the hub says, and it is none the less damaged: a problem, no traceback, by
    every command.
    """
    server.repositories[NAME].revisions["main"]["style.safetensors"] = (
        b"abc" if header is None else struct.pack("<Q", len(header)) + header
    )
    if header == b"":
        server.repositories[NAME].revisions["main"]["style.safetensors"] = b""
    for _ in range(2):
        code, _, err = flow("models", "pull", f"hf:{NAME}@main/style.safetensors")
        assert (code, "Traceback" in err) == (1, False)
        assert (
            f"error[bad-model]: the model 'hf:{NAME}@main/style.safetensors' is damaged: style.safetensors is not a complete safetensors file"
            in err
        )


def test_a_lock_is_not_written_through_links_that_came_along(tmp_path: Path) -> None:
    """Neither a link in its own place nor one in the place of what it is first written to is
    followed.
    """
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "imagen-flow.lock").symlink_to(victim)
    (folder / f".imagen-flow.lock.{os.getpid()}").symlink_to(victim)
    model = LockedModel(parse_reference("hf:a/b@main"), "0" * 40, "mit", "", ())
    assert Lock(folder / "imagen-flow.lock", {"hf:a/b@main": model}).write()
    assert victim.read_text() == "precious"
    assert not (folder / "imagen-flow.lock").is_symlink()
