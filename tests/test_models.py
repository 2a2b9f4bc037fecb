import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagen_flow import loaders
from imagen_flow._models import (
    BadReference,
    ModelPool,
    Reference,
    UnresolvedModel,
    UnusableModel,
    hub_cache,
    identity_of,
    is_out_of_memory,
    parse_reference,
    resolve,
    size_of,
    with_memory_fallback,
)
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Model
from imagen_flow.errors import ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights(count=4, fill=1.0):
    """The bytes of a safetensors file of one float32 tensor."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *[fill] * count)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def model_folder(path, **files):
    write(path / "config.json", "{}")
    write(path / "model.safetensors", weights())
    return path


def find(text, folder, embedded=None, environ=None):
    return resolve(
        text,
        folder=folder,
        embedded=embedded or {},
        digest=digest_file,
        environ=environ or {"HF_HUB_CACHE": str(folder / "no-cache")},
    )


def refusal(text, folder, **given):
    with pytest.raises((UnusableModel, UnresolvedModel)) as caught:
        find(text, folder, **given)
    fault = caught.value
    return "\n".join(line for line in (str(fault), fault.why, fault.fix) if line)


# --- references ---


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("embedded/imagen", Reference("embedded", "embedded/imagen")),
        ("hf:org/name", Reference("hf", "org/name")),
        ("hf:gpt2", Reference("hf", "gpt2")),
        (
            "hf:DeepFloyd/IF-I-XL-v1.0@refs/pr/3",
            Reference("hf", "DeepFloyd/IF-I-XL-v1.0", "refs/pr/3"),
        ),
        ("./model", Reference("path", "./model")),
        ("../model", Reference("path", "../model")),
        ("/models/模型", Reference("path", "/models/模型")),
        ("~/models/a", Reference("path", "~/models/a")),
        (r"C:\models\a", Reference("path", r"C:\models\a")),
    ],
)
def test_a_reference_says_what_it_is(text, reference):
    """Embedded, hub and path are told apart by how they begin."""
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        (
            "org/name",
            "'org/name' may be a repository of the hub or a folder",
            "write 'hf:org/name' for the hub, or './org/name' for a folder beside the graph",
        ),
        (
            "embeded/imagen",
            "'embeded/imagen' is not a model reference",
            "did you mean 'embedded/imagen'?",
        ),
        (
            "imagen",
            "'imagen' is not a model reference",
            "write 'embedded/imagen' for a model that comes with a plugin, 'hf:org/imagen' for the hub, or './imagen' for a file or folder beside the graph",
        ),
        (
            "https://huggingface.co/org/name",
            "'https://huggingface.co/org/name' is not a model reference",
            "write 'hf:org/name'",
        ),
        (
            "https://huggingface.co/org/name/tree/v1",
            "'https://huggingface.co/org/name/tree/v1' is not a model reference",
            "write 'hf:org/name@v1'",
        ),
        (
            "hf:org/name/unet",
            "'hf:org/name/unet' names no repository of the hub",
            "write it as hf:org/name or hf:org/name@revision",
        ),
        (
            "hf:../../etc",
            "'hf:../../etc' names no repository of the hub",
            "write it as hf:org/name or hf:org/name@revision",
        ),
        (
            "hf:org/name@",
            "'hf:org/name@' names no revision",
            "a revision is a branch, a tag or a commit: hf:org/name@main",
        ),
        (
            "hf:org/name@../../../x",
            "'hf:org/name@../../../x' names no revision",
            "a revision is a branch, a tag or a commit: hf:org/name@main",
        ),
        (
            "",
            "the reference to a model is empty",
            "a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~",
        ),
        (
            "a b",
            "'a b' is not a model reference",
            "a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~",
        ),
        (
            "./a\0b",
            "'./a\\x00b' is not a model reference",
            "a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~",
        ),
    ],
)
def test_anything_else_is_refused_and_the_spellings_offered(text, message, fix):
    """A text that could be meant in two ways is offered both."""
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert (str(caught.value), caught.value.fix) == (message, fix)


def test_a_refused_reference_is_a_problem_with_a_place():
    """The fault turns into the problem that a graph shows."""
    with pytest.raises(BadReference) as caught:
        parse_reference("org/name")
    assert str(caught.value.problem()) == (
        "error[bad-model]: 'org/name' may be a repository of the hub or a folder\n"
        "  = why: a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~\n"
        "  = fix: write 'hf:org/name' for the hub, or './org/name' for a folder beside the graph"
    )


# --- local and embedded models ---


def test_a_path_is_relative_to_the_graphs_folder(tmp_path):
    """`./model` beside the graph is found from any working directory, and `..` is folded."""
    model_folder(tmp_path / "graphs" / "model")
    model = find("./model", tmp_path / "graphs")
    assert (model.path, model.reference) == (tmp_path / "graphs" / "model", "./model")
    assert find("../graphs/model", tmp_path / "graphs").digest == model.digest


def test_the_fingerprint_is_of_names_and_contents(tmp_path):
    """Equal folders have one fingerprint wherever they lie; a changed, added or renamed file that
    is loaded gives another.
    """
    one = find("./one", model_folder(tmp_path / "one").parent).digest
    two = model_folder(tmp_path / "two")
    assert find("./two", tmp_path).digest == one
    write(two / "config.json", "{ }")
    changed = find("./two", tmp_path).digest
    os.rename(two / "config.json", two / "config2.json")
    renamed = find("./two", tmp_path).digest
    assert len({one, changed, renamed}) == 3


def test_documents_and_pickles_are_no_part_of_the_fingerprint(tmp_path):
    """A model card, a picture, a hidden file and a format that is never loaded change no key."""
    folder = model_folder(tmp_path / "m")
    before = find("./m", tmp_path).digest
    for name in ("README.md", "sample.png", ".gitattributes", ".cache/x.json", "pytorch_model.bin"):
        write(folder / name, "x")
    assert find("./m", tmp_path).digest == before


def test_an_embedded_model_is_found_by_name(tmp_path):
    """A plugin's model is looked up among those that plugins bring; a wrong name gets the nearest."""
    brought = {"embedded/imagen": model_folder(tmp_path / "weights")}
    assert find("embedded/imagen", tmp_path, embedded=brought).path == tmp_path / "weights"
    assert refusal("embedded/imgen", tmp_path, embedded=brought) == (
        "no plugin provides a model 'embedded/imgen'\navailable models: embedded/imagen\ndid you mean 'embedded/imagen'?"
    )
    assert (
        refusal("embedded/x", tmp_path)
        == "no plugin provides a model 'embedded/x'\navailable models: none"
    )


def test_a_path_that_cannot_be_looked_at_is_told(tmp_path):
    """A name that is longer than a name can be is the graph's fault."""
    assert (
        refusal(f"./{'a' * 300}", tmp_path)
        == f"the model './{'a' * 300}' cannot be read\nFile name too long"
    )


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_a_link_that_leads_nowhere_is_told(tmp_path, name):
    """A configuration that cannot be read is a fault of the model, by its name."""
    folder = model_folder(tmp_path / "m")
    (folder / "unet").mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "gone")
    assert refusal("./m", tmp_path) == (
        f"the model './m' is damaged: {name} cannot be read\nNo such file or directory\n"
        "copy or download it again"
    )


def test_a_missing_folder_is_named_with_its_neighbours(tmp_path):
    """The path that was looked at is shown, and the nearest name beside it."""
    model_folder(tmp_path / "sdxl-base")
    assert (
        refusal("./sdxl-bsae", tmp_path)
        == f"the model './sdxl-bsae' does not exist\nthere is no {tmp_path / 'sdxl-bsae'}\ndid you mean 'sdxl-base'?"
    )
    assert (
        refusal("./a/b", tmp_path)
        == f"the model './a/b' does not exist\nthere is no {tmp_path / 'a' / 'b'}\nthere is no folder {tmp_path / 'a'} either"
    )


def test_a_folder_without_weights_is_refused(tmp_path):
    """A folder that holds no safetensors says so, and points to the model below it if there is one."""
    write(tmp_path / "m" / "config.json", "{}")
    where = tmp_path / "m"
    assert refusal("./m", tmp_path) == (
        f"the model './m' has no weights\nthere is no .safetensors file in {where}\nname a folder in the layout of diffusers or transformers, or a .safetensors file"
    )
    write(tmp_path / "m" / "inner" / "model_index.json", "{}")
    assert refusal("./m", tmp_path).endswith("did you mean the folder 'inner' in it?")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "unet/diffusion.ckpt"])
def test_pickles_are_refused(tmp_path, name):
    """Weights that could run code are not loaded, and the message says why."""
    write(tmp_path / "m" / name, b"\x80\x04")
    assert refusal("./m", tmp_path) == (
        f"the model './m' has its weights only as pickles ({name})\na pickle can run any code when it is loaded, so only safetensors are\n"
        f"convert it to safetensors, or pass --allow-pickle ./m/{name} if you trust it"
    )
    assert refusal(f"./m/{name}", tmp_path).startswith(f"the model './m/{name}' is a pickle\n")


def test_a_single_weights_file_is_a_model(tmp_path):
    """A .safetensors file stands for itself; any other file is refused."""
    write(tmp_path / "a.safetensors", weights(8))
    assert size_of(find("./a.safetensors", tmp_path)) == len(weights(8))
    write(tmp_path / "a.txt", "x")
    assert refusal("./a.txt", tmp_path).startswith("the model './a.txt' is not a weights file\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "its header does not fit in it"),
        (weights()[:20], "its header does not fit in it"),
        (
            weights()[:-1],
            f"it has {len(weights()) - 1} bytes, and its header says {len(weights())}",
        ),
        (
            weights() + b"x",
            f"it has {len(weights()) + 1} bytes, and its header says {len(weights())}",
        ),
        (struct.pack("<Q", 2**63) + b"{}", "its header does not fit in it"),
        (struct.pack("<Q", 2) + b"[]", "'list' object has no attribute 'items'"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "'data_offsets'"),
    ],
)
def test_a_damaged_weights_file_is_told_when_planning(tmp_path, content, why):
    """A torn download is found by its header and its size, before anything is loaded."""
    write(tmp_path / "m" / "model.safetensors", content)
    assert (
        refusal("./m", tmp_path)
        == f"the model './m' is damaged: model.safetensors is not a complete safetensors file\n{why}\ncopy or download it again"
    )


@pytest.mark.parametrize(
    "header",
    [
        "{"
        + ",".join(
            f'"{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{i + 1}]}}'
            for i in range(150_000)
        )
        + "}",
        '{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + "[]," * 500_000 + "[]]}}",
        '{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + "1," * 7_000_000 + "1]}}",
    ],
    ids=["tensors", "lists", "numbers"],
)
def test_a_header_of_very_many_tensors_is_refused_at_once(tmp_path, header):
    """No model has a hundred thousand tensors in one file; reading what 500,000 say would take a
    minute, and 800 MB.
    """
    write(tmp_path / "m" / "model.safetensors", struct.pack("<Q", len(header)) + header.encode())
    start = time.process_time()
    assert (
        refusal("./m", tmp_path)
        == "the model './m' cannot be used: model.safetensors says that it holds more than 100,000 tensors\nno model has as many\nsee where it comes from"
    )
    assert time.process_time() - start < 5


def test_a_gguf_file_of_very_many_tensors_is_refused_at_once(tmp_path):
    """The library that reads it would go through all of them."""
    write(tmp_path / "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 500_000, 0) + b"0" * 1000)
    assert "says that it holds more than 100,000 tensors" in refusal("./m.gguf", tmp_path)


def test_a_git_lfs_pointer_is_told_as_such(tmp_path):
    """A checkout without Git LFS has small text files in place of weights."""
    write(
        tmp_path / "m" / "model.safetensors",
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    )
    assert refusal("./m", tmp_path) == (
        "the model './m' holds a pointer in place of model.safetensors\nit was cloned without Git LFS\nrun `git lfs pull` in its folder"
    )


def test_a_missing_shard_is_told_when_planning(tmp_path):
    """Weights in several files are whole only with all that their index names."""
    folder = model_folder(tmp_path / "m")
    write(
        folder / "model.safetensors.index.json",
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}),
    )
    assert (
        refusal("./m", tmp_path)
        == "unresolved: './m' is not whole\n1 of 2 files of weights are missing, model-2.safetensors first\ndownload it again"
    )


def test_the_size_counts_weights_once(tmp_path):
    """Other precisions of the same weights, single-file copies beside the parts, and shards are
    told apart.
    """
    folder = tmp_path / "m"
    for name in (
        "unet/model.safetensors",
        "unet/model.fp16.safetensors",
        "all-in-one.safetensors",
        "vae/m-00001-of-00002.safetensors",
        "vae/m-00002-of-00002.safetensors",
    ):
        write(folder / name, weights())
    write(folder / "model_index.json", "{}")
    assert size_of(find("./m", tmp_path)) == 3 * len(weights())


# --- the hub's cache ---


FILES = (("config.json", b"{}"), ("unet/model.safetensors", weights()))


def cached(cache, *, revision="main", commit=COMMIT, files=FILES):
    """Lay out a repository as the hub's libraries do: blobs by digest, snapshots of links, refs."""
    repository = cache / "models--org--name"
    for name, content in files:
        blob = write(repository / "blobs" / hashlib.sha256(content).hexdigest(), content)
        link = repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    write(repository / "refs" / revision, commit)
    return repository


def test_the_hubs_cache_lies_where_its_libraries_put_it():
    """The environment is read in the order in which huggingface_hub reads it."""
    home = {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}
    assert hub_cache({"HF_HUB_CACHE": "/c", **home}) == Path("/c")
    assert hub_cache(home) == Path("/h/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")
    assert hub_cache({}) == Path.home() / ".cache" / "huggingface" / "hub"
    code = "import os, sys; os.environ.update(HF_HOME='/h'); from huggingface_hub import constants; sys.stdout.write(constants.HF_HUB_CACHE)"
    assert Path(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
    ) == Path("/h/hub")


@pytest.mark.parametrize(
    "spelling",
    ["hf:org/name", "hf:org/name@main", f"hf:org/name@{COMMIT}", f"hf:org/name@{COMMIT[:7]}"],
)
def test_a_repository_is_found_by_branch_and_by_commit(tmp_path, spelling):
    """A branch leads to its recorded commit; a commit, or its first digits, to itself."""
    repository = cached(tmp_path / "hub")
    model = find(spelling, tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert (model.path, model.reference) == (repository / "snapshots" / COMMIT, spelling)


def test_a_hub_models_fingerprint_is_read_off_the_cache(tmp_path):
    """Files of the cache are named by their digests, so none is read; a new commit with equal files
    changes nothing.
    """
    cache = tmp_path / "hub"
    cached(cache)
    read = []
    model = resolve(
        "hf:org/name",
        folder=tmp_path,
        embedded={},
        digest=lambda path: read.append(path) or "0",
        environ={"HF_HUB_CACHE": str(cache)},
    )
    other = "f" * 40
    cached(cache, commit=other, revision="next")
    assert (
        find("hf:org/name@next", tmp_path, environ={"HF_HUB_CACHE": str(cache)}).digest
        == model.digest
    )
    assert read == []


def test_a_cache_without_links_is_digested(tmp_path):
    """Where links cannot be made (Windows), the cache holds copies, and their content is digested."""
    folder = model_folder(tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT)
    write(tmp_path / "hub" / "models--org--name" / "refs" / "main", COMMIT)
    model = find("hf:org/name", tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert model == Model(
        folder, find("./hub/models--org--name/snapshots/" + COMMIT, tmp_path).digest, "hf:org/name"
    )


def test_a_model_that_is_not_in_the_cache_is_unresolved(tmp_path):
    """Planning does not download: it says what is missing and how to get it."""
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    assert refusal("hf:org/name", tmp_path, environ=environ) == (
        f"unresolved: 'hf:org/name' is not on this machine\nthe hub's cache {tmp_path / 'hub'} does not hold it\nrun `imagen-flow models pull hf:org/name`"
    )
    cached(tmp_path / "hub")
    assert refusal("hf:org/nmae", tmp_path, environ=environ).endswith(
        "did you mean 'org/name'? Else run `imagen-flow models pull hf:org/nmae`"
    )
    assert refusal("hf:org/name@v2", tmp_path, environ=environ) == (
        f"unresolved: 'hf:org/name@v2' is not on this machine\nthe hub's cache {tmp_path / 'hub'} does not hold revision v2 of it\n"
        "run `imagen-flow models pull hf:org/name@v2`"
    )


def test_an_interrupted_download_is_unresolved(tmp_path):
    """A link whose blob is missing is an unfinished download."""
    repository = cached(tmp_path / "hub")
    os.remove(repository / "blobs" / hashlib.sha256(weights()).hexdigest())
    assert refusal("hf:org/name", tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "hub")}) == (
        "unresolved: 'hf:org/name' is not whole\nmodel.safetensors leads nowhere\ndownload it again"
    )


def test_the_first_digits_of_two_commits_are_refused(tmp_path):
    """A prefix that fits several commits names none."""
    for last in "ab":
        cached(tmp_path / "hub", commit=COMMIT[:-1] + last, revision=last)
    assert "names 2 commits" in refusal(
        f"hf:org/name@{COMMIT[:8]}", tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "hub")}
    )


def test_a_damaged_ref_leads_nowhere(tmp_path):
    """What a ref file holds is not trusted: a path in it is not followed."""
    repository = cached(tmp_path / "hub")
    write(repository / "refs" / "main", "../../..")
    assert refusal(
        "hf:org/name", tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "hub")}
    ).startswith("unresolved: ")


def test_resolving_imports_neither_torch_nor_the_hubs_libraries(tmp_path):
    """Planning stays light."""
    cached(tmp_path / "hub")
    code = (
        "import sys\nfrom pathlib import Path\nfrom imagen_flow._models import resolve, size_of\n"
        f"model = resolve('hf:org/name', folder=Path('/'), embedded={{}}, digest=str, environ={{'HF_HUB_CACHE': {str(tmp_path / 'hub')!r}}})\n"
        "size_of(model)\n"
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the pool ---


class Thing:
    """A loaded model of the tests: it remembers which it is."""

    def __init__(self, name):
        self.name = name


def loader_of(log, *, fail=None, before=lambda: None):
    class Loader(loaders.Loader):
        def load(self, model, *, device, dtype, settings):
            log.append(model.digest)
            before()
            if fail is not None:
                raise fail
            return Thing(model.digest)

        def disk_bytes(self, model):
            return 10

    return Loader()


def model(name):
    return Model(Path("/nowhere") / name, name, f"./{name}")


def lease(pool, loader, name, device="cpu", dtype="float32"):
    return pool.lease(loader, model(name), device=device, dtype=dtype)


def names(pool):
    return [identity.fingerprint for identity in pool.resident()]


def test_a_model_is_loaded_once_and_shared():
    """Leases of one identity, at once or one after the other, give the same object; another dtype
    or device is another model.
    """
    log = []
    loader = loader_of(log)
    with ModelPool() as pool:
        with lease(pool, loader, "a") as first, lease(pool, loader, "a") as second:
            assert first is second
        with lease(pool, loader, "a") as third:
            assert third is first
        with lease(pool, loader, "a", dtype="float16") as half:
            assert half is not first
    assert log == ["a", "a"]


def test_who_needs_all_parts_shares_them_with_who_needs_one():
    """A loader of parts loads none itself: the parts are leased as they are alone, and put together
    for each lease.
    """
    log = []
    one, two = loader_of(log), loader_of(log)
    type(one).__qualname__, type(two).__qualname__ = "One", "Two"

    class Whole(loaders.Loader):
        def parts(self, model):
            return {"one": one, "two": two}

        def assemble(self, model, parts):
            return model.reference, parts

    with ModelPool() as pool:
        with (
            pool.lease(two, model("a"), device="cpu", dtype="float32") as part,
            pool.lease(Whole(), model("a"), device="cpu", dtype="float32") as (name, parts),
        ):
            assert name == model("a").reference
            assert parts["two"] is part
            assert parts["one"] is not part
            assert pool.evict_idle() == 0
        assert [identity.loader.rpartition(".")[2] for identity in pool.resident()] == [
            "One",
            "Two",
        ]
        assert pool.evict_idle() == 2
    assert len(log) == 2


def test_a_leased_model_is_not_evicted():
    """Eviction takes what is idle only; what is leased stays until it is given back."""
    log = []
    loader = loader_of(log)
    with ModelPool() as pool:
        with lease(pool, loader, "a") as held:
            with lease(pool, loader, "b"):
                pass
            assert pool.evict_idle() == 1
            assert names(pool) == ["a"]
            with lease(pool, loader, "a") as again:
                assert again is held
        assert pool.evict_idle() == 1
        assert names(pool) == []


def test_the_budget_drops_what_the_plan_needs_last():
    """With room for two: what is never needed goes first, then what is needed latest."""
    log = []
    loader = loader_of(log)
    order = [identity_of(loader, model(name), device="cpu", dtype="float32") for name in "abcabd"]
    with ModelPool(budget_bytes=20) as pool:
        seen = []
        for place, name in enumerate("abcabd"):
            pool.plan_ahead(order[place:])
            with lease(pool, loader, name):
                seen.append(names(pool))
    assert seen == [["a"], ["a", "b"], ["a", "c"], ["a", "c"], ["a", "b"], ["b", "d"]]
    assert log == ["a", "b", "c", "b", "d"]


def test_a_model_that_is_needed_twice_is_needed_when_it_is_first():
    """What comes back at the end of a plan is not dropped for what comes in between."""
    loader = loader_of([])
    plan = [identity_of(loader, model(name), device="cpu", dtype="float32") for name in "abcaba"]
    with ModelPool(budget_bytes=20) as pool:
        for place, name in enumerate("abc"):
            pool.plan_ahead(plan[place:])
            with lease(pool, loader, name):
                pass
        assert names(pool) == ["a", "c"]


def test_the_budget_respects_the_plans_of_all_runs():
    """What one run will need is kept while another says what it needs; once a run is over it needs
    nothing.
    """
    log = []
    loader = loader_of(log)
    a, c = (identity_of(loader, model(name), device="cpu", dtype="float32") for name in "ac")
    with ModelPool(budget_bytes=20) as pool:
        pool.plan_ahead([a], of="first")
        pool.plan_ahead([c], of="second")
        for name in "abc":
            with lease(pool, loader, name):
                pass
        assert names(pool) == ["a", "c"]
        pool.plan_ahead([], of="first")
        with lease(pool, loader, "d"):
            assert names(pool) == ["c", "d"]


def test_without_a_plan_the_least_recently_used_goes():
    """The pool that is told nothing drops what was used longest ago."""
    log = []
    loader = loader_of(log)
    with ModelPool(budget_bytes=20) as pool:
        for name in "abac":
            with lease(pool, loader, name):
                pass
        assert names(pool) == ["a", "c"]


def test_the_budget_yields_to_leases():
    """A model that is leased is not dropped for another: the budget is exceeded instead."""
    loader = loader_of([])
    with ModelPool(budget_bytes=10) as pool, lease(pool, loader, "a"), lease(pool, loader, "b"):
        assert names(pool) == ["a", "b"]


def test_budgets_are_of_one_device():
    """What lies on another device takes no room on this one."""
    loader = loader_of([])
    with ModelPool(budget_bytes=10) as pool:
        with lease(pool, loader, "a", device="cuda:0"):
            pass
        with lease(pool, loader, "b", device="cuda:1"):
            assert names(pool) == ["a", "b"]


def test_threads_that_want_one_model_load_it_once():
    """The second thread waits for the first one's load; another model loads meanwhile."""
    log = []
    loading, go_on = threading.Event(), threading.Event()

    def slow():
        loading.set()
        assert go_on.wait(10)

    loader, quick = loader_of(log, before=slow), loader_of(log)
    got = []

    def want():
        with lease(pool, loader, "a") as thing:
            got.append(thing)

    with ModelPool() as pool:
        threads = [threading.Thread(target=want) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert loading.wait(10)
        with lease(pool, quick, "b"):
            assert names(pool) == ["b"]
        assert pool.evict_idle() == 1
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert log == ["a", "b"]
    assert len(got) == 4 and len(set(map(id, got))) == 1


def test_a_load_that_fails_names_the_model_and_its_cause():
    """The message has the reference, the loader and the reason; the next lease tries again."""
    log = []
    loader = loader_of(log, fail=KeyError("unet.conv_in"))
    with ModelPool() as pool:
        for _ in range(2):
            with pytest.raises(ModelError) as caught, lease(pool, loader, "a"):
                pass
            assert (
                str(caught.value)
                == f"the model './a' cannot be loaded by {type(loader).__qualname__}: KeyError: 'unet.conv_in'"
            )
            assert isinstance(caught.value.__cause__, KeyError)
        assert names(pool) == []
    assert log == ["a", "a"]


def test_threads_that_wait_for_a_failing_load_fail_alike():
    """Whoever waited is told the same reason and does not load again."""
    log = []
    loading, go_on = threading.Event(), threading.Event()

    def slow():
        loading.set()
        assert go_on.wait(10)

    loader = loader_of(log, fail=ValueError("torn"), before=slow)
    said = []

    def want():
        try:
            with lease(pool, loader, "a"):
                pass
        except ModelError as error:
            said.append(str(error))

    with ModelPool() as pool:
        first = threading.Thread(target=want)
        first.start()
        assert loading.wait(10)
        resident = next(iter(pool._residents.values()))
        second = threading.Thread(target=want)
        second.start()
        while resident.leases < 2:
            threading.Event().wait(0.001)
        go_on.set()
        first.join(10)
        second.join(10)
    assert log == ["a"]
    assert (
        said
        == [f"the model './a' cannot be loaded by {type(loader).__qualname__}: ValueError: torn"]
        * 2
    )


def test_an_interrupted_load_leaves_nothing_behind():
    """Ctrl-C while loading passes through, and the next lease loads anew."""
    log = []
    with ModelPool() as pool:
        with (
            pytest.raises(KeyboardInterrupt),
            lease(pool, loader_of(log, fail=KeyboardInterrupt()), "a"),
        ):
            pass
        assert names(pool) == []


def test_a_closed_pool_lends_nothing():
    """Closing drops what is idle now and what is leased when it comes back."""
    loader = loader_of([])
    pool = ModelPool()
    with lease(pool, loader, "a"):
        pool.close()
        assert names(pool) == ["a"]
    assert names(pool) == []
    with pytest.raises(ModelError) as caught, lease(pool, loader, "a"):
        pass
    assert str(caught.value) == "the model pool is closed"


def test_a_model_without_fingerprint_is_not_shared_by_mistake():
    """Two models that nobody digested would look like one, so they are refused."""
    with (
        ModelPool() as pool,
        pytest.raises(ModelError) as caught,
        pool.lease(loader_of([]), Model(Path("/a")), device="cpu", dtype="float32"),
    ):
        pass
    assert str(caught.value) == "the model 'a' has no fingerprint"


def test_what_is_evicted_is_really_let_go():
    """The pool keeps no hidden reference: an evicted object dies."""
    import weakref

    with ModelPool() as pool:
        with lease(pool, loader_of([]), "a") as thing:
            alive = weakref.ref(thing)
        del thing
        pool.evict_idle()
        assert alive() is None


def test_weights_loaded_while_inferring_can_still_be_trained():
    """A model that is first leased inside inference mode is made of plain tensors."""
    import torch

    class Loader(loaders.Loader):
        def load(self, model, *, device, dtype, settings):
            return torch.nn.Linear(2, 2)

    with (
        ModelPool() as pool,
        torch.inference_mode(),
        pool.lease(Loader(), model("a"), device="cpu", dtype="float32") as linear,
    ):
        assert not linear.weight.is_inference()


# --- when memory runs out ---


def out_of_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


MESSAGES = [
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory",
    "MPS backend out of memory (MPS allocated: 17.00 GB)",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12",
]


@pytest.mark.parametrize(
    "error",
    [out_of_memory(), MemoryError(), *map(RuntimeError, MESSAGES)],
    ids=lambda e: str(e)[:30] or type(e).__name__,
)
def test_running_out_of_memory_evicts_and_tries_again(error):
    """torch's own class and the plain errors of the libraries below it take the level alike, and
    leased models stay.
    """
    tries = []
    loader = loader_of([])

    def call(taken):
        tries.append((taken, names(pool)))
        if not taken:
            raise error
        return "picture"

    with ModelPool() as pool:
        with lease(pool, loader, "idle"):
            pass
        with lease(pool, loader, "mine"):
            assert with_memory_fallback(call, pool) == ("picture", ("evict",))
    assert tries == [((), ["idle", "mine"]), (("evict",), ["mine"])]


def test_each_level_is_taken_in_turn():
    """The call is told which levels it stands on, and the last failure is its own."""
    tries = []

    def call(taken):
        tries.append(taken)
        raise out_of_memory()

    with ModelPool() as pool, pytest.raises(type(out_of_memory())):
        with_memory_fallback(call, pool, ("evict", "offload"))
    assert tries == [(), ("evict",), ("evict", "offload")]


def test_other_errors_take_no_level():
    """A shape that does not fit is not for want of memory."""
    tries = []

    def call(taken):
        tries.append(taken)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")

    with ModelPool() as pool, pytest.raises(RuntimeError):
        with_memory_fallback(call, pool)
    assert tries == [()]


def test_the_failed_tries_memory_is_free_before_the_next():
    """The traceback, which holds the failed call's values, is gone when idle models are evicted and
    the call begins again.
    """
    import weakref

    held = []

    def call(taken):
        if taken:
            return [ref() is None for ref in held]
        big = Thing("latents")
        held.append(weakref.ref(big))
        raise RuntimeError("CUDA error: out of memory")

    with ModelPool() as pool:
        assert with_memory_fallback(call, pool) == ([True], ("evict",))


def test_a_load_that_runs_out_of_memory_evicts_idle_models():
    """Loading steps down the ladder by itself; when that does not help, the message names the model
    and the device.
    """
    loads = []

    class Tight(loaders.Loader):
        def load(self, model, *, device, dtype, settings):
            loads.append(names(pool))
            if loads[-1] or model.digest == "huge":
                raise out_of_memory()
            return Thing(model.digest)

    with ModelPool() as pool:
        with lease(pool, loader_of([]), "idle"):
            pass
        with lease(pool, Tight(), "a") as thing:
            assert thing.name == "a"
        pool.evict_idle()
        with pytest.raises(ModelError) as caught, lease(pool, Tight(), "huge"):
            pass
    assert loads == [["idle"], [], [], []]
    assert str(caught.value) == "there is not enough memory on cpu for the model './huge'"
    assert is_out_of_memory(caught.value)
