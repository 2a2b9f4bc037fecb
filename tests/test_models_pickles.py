"""Only safetensors are loaded unless the user names a pickle, and then only if the scanner finds
nothing in it that runs code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from imagen_flow._models import ModelPolicy, UnusableModel, read_weights, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Model
from imagen_flow.errors import ModelError


def find(text: str, folder: Path, *pickles: str) -> Model:
    return resolve(
        text,
        folder=folder,
        embedded={},
        digest=digest_file,
        environ={},
        policy=ModelPolicy(pickles=pickles),
    )


def refusal(text: str, folder: Path, *pickles: str) -> str:
    with pytest.raises(UnusableModel) as caught:
        find(text, folder, *pickles)
    return "\n".join(
        line for line in (str(caught.value), caught.value.why, caught.value.fix) if line
    )


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def save(path: Path, **more: Any) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.zeros(3), **more}, path)


def test_a_pickle_is_loaded_once_the_user_names_it(tmp_path: Path) -> None:
    """Alone or inside a folder, by the reference to it or by path; what is allowed enters the
    fingerprint.
    """
    save(tmp_path / "a.pth")
    assert refusal("./a.pth", tmp_path).endswith(
        "convert it to safetensors, or pass --allow-pickle ./a.pth if you trust it"
    )
    for said in ("./a.pth", str(tmp_path / "a.pth")):
        assert find("./a.pth", tmp_path, said).pickles == ("a.pth",)
    save(tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "config.json").write_text("{}")
    assert refusal("./m", tmp_path, "./a.pth").startswith(
        "the model './m' has its weights only as pickles (pytorch_model.bin)"
    )
    first = find("./m", tmp_path, "./m/pytorch_model.bin")
    assert first.pickles == ("pytorch_model.bin",)
    save(tmp_path / "m" / "pytorch_model.bin", v=1)
    assert find("./m", tmp_path, "./m/pytorch_model.bin").digest != first.digest


def test_a_name_allows_no_other_file_of_that_name(tmp_path: Path) -> None:
    """Leave is for one file: not for its namesake in another model."""
    for folder in ("a", "b"):
        save(tmp_path / folder / "pytorch_model.bin")
    assert find("./a", tmp_path, "./a/pytorch_model.bin").pickles
    assert "only as pickles" in refusal("./b", tmp_path, "./a/pytorch_model.bin")
    assert "only as pickles" in refusal("./b", tmp_path, "pytorch_model.bin")


def test_the_hub_is_named_in_any_spelling(tmp_path: Path) -> None:
    """What is allowed for a branch is allowed however the graph spells that branch, and for no
    other.
    """
    commit = "0" * 40
    for revision in ("main", "v2"):
        (tmp_path / "models--org--name" / "refs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "models--org--name" / "refs" / revision).write_text(commit)
    save(tmp_path / "models--org--name" / "snapshots" / commit / "a.bin")

    def pickles(text: str, said: str) -> tuple[str, ...]:
        return resolve(
            text,
            folder=tmp_path,
            embedded={},
            digest=digest_file,
            environ={"HF_HUB_CACHE": str(tmp_path)},
            policy=ModelPolicy(pickles=(said,), remote_code=(said,)),
        ).pickles

    for text in ("hf:org/name", "hf:org/name@main", "hf:org/name/a.bin", "hf:org/name@main/a.bin"):
        for said in ("hf:org/name/a.bin", "hf:org/name@main/a.bin"):
            assert pickles(text, said) == ("a.bin",)
    with pytest.raises(UnusableModel):
        pickles("hf:org/name@v2", "hf:org/name@main/a.bin")


def test_a_part_whose_weights_are_a_pickle_is_told_when_planning(tmp_path: Path) -> None:
    """Not only when it is loaded: the other parts are safetensors, so something could begin. A
    pickle that is no weights (an optimiser's state) is nothing to it.
    """
    from safetensors.numpy import save_file

    for part in ("unet", "vae"):
        (tmp_path / "m" / part).mkdir(parents=True)
    (tmp_path / "m" / "model_index.json").write_text("{}")
    save_file({}, tmp_path / "m" / "unet" / "model.safetensors")
    save(tmp_path / "m" / "vae" / "optimizer.bin")
    assert find("./m", tmp_path).pickles == ()
    save(tmp_path / "m" / "vae" / "diffusion_pytorch_model.bin")
    assert refusal("./m", tmp_path).startswith(
        "a part of the model './m' has its weights only as pickles (vae/diffusion_pytorch_model.bin)\n"
    )
    assert find("./m", tmp_path, "./m/vae/diffusion_pytorch_model.bin").pickles == (
        "vae/diffusion_pytorch_model.bin",
    )
    save_file({}, tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors")
    assert find("./m", tmp_path).pickles == ()


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.bin"])
def test_a_pickle_that_runs_code_is_refused_all_the_same(tmp_path: Path, name: str) -> None:
    """The scanner looks into it without loading it; the message says what it names."""
    save(tmp_path / name, bomb=Bomb(tmp_path / "gone off"))
    assert refusal(f"./{name}", tmp_path, f"./{name}") == (
        f"the pickle {name} of './{name}' is not loaded\nit names posix.mkdir, which weights do not need\nget it as safetensors from a source that you trust"
    )
    assert not (tmp_path / "gone off").exists()


def test_a_bomb_behind_good_weights_is_found(tmp_path: Path) -> None:
    """A second pickle in the archive is looked into as well."""
    save(tmp_path / "a.pth")
    save(tmp_path / "bomb.pth", bomb=Bomb(tmp_path / "gone off"))
    with (
        zipfile.ZipFile(tmp_path / "bomb.pth") as bomb,
        zipfile.ZipFile(tmp_path / "a.pth", "a") as archive,
    ):
        archive.writestr(
            "a/extra.pkl", bomb.read(next(n for n in bomb.namelist() if n.endswith("data.pkl")))
        )
    assert "is not loaded" in refusal("./a.pth", tmp_path, "./a.pth")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04", b"PK\x03\x04torn"])
def test_what_is_no_pickle_of_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    """Torn and odd files are told as such."""
    (tmp_path / "a.pth").write_bytes(content)
    assert "a.pth" in refusal("./a.pth", tmp_path, "./a.pth")


def test_without_the_scanner_no_pickle_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names itself and how to get it."""
    save(tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "picklescan.scanner", None)
    assert refusal("./a.pth", tmp_path, "./a.pth") == (
        "the pickle a.pth of './a.pth' cannot be scanned\npicklescan is not installed\nrun `pip install 'imagen-flow[pickle]'`, or convert it to safetensors"
    )


def test_scanning_imports_no_torch(tmp_path: Path) -> None:
    """Planning stays light even with a pickle."""
    save(tmp_path / "a.pth")
    code = (
        "import sys\nfrom pathlib import Path\nfrom imagen_flow._models import ModelPolicy, resolve\n"
        f"resolve('./a.pth', folder=Path({str(tmp_path)!r}), embedded={{}}, digest=str, policy=ModelPolicy(pickles=('./a.pth',)))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_weights_are_read_with_torchs_guard_on(tmp_path: Path) -> None:
    """A pickle that nobody allowed is not opened; one that slipped by the scanner is refused by
    torch; safetensors are read as they are.
    """
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_weights(Model(tmp_path / "a.safetensors", "d"))["w"].tolist() == [1, 1]
    save(tmp_path / "a.pth")
    with pytest.raises(ModelError) as caught:
        read_weights(Model(tmp_path / "a.pth", "d", "./a.pth"))
    assert str(caught.value) == "the model './a.pth' is a pickle (a.pth), and was not allowed"
    assert read_weights(find("./a.pth", tmp_path, "./a.pth"))["w"].tolist() == [0, 0, 0]
    save(tmp_path / "bomb.pth", bomb=Bomb(tmp_path / "gone off"))
    with pytest.raises(ModelError) as caught:
        read_weights(Model(tmp_path / "bomb.pth", "d", "./bomb.pth", pickles=("bomb.pth",)))
    assert str(caught.value).startswith(
        "the pickle bomb.pth of './bomb.pth' holds more than weights: "
    )
    assert not (tmp_path / "gone off").exists()


def test_remote_code_is_for_the_reference_that_was_named(tmp_path: Path) -> None:
    """The loader is told; another reference is not."""
    from safetensors.numpy import save_file

    for name in "ab":
        save_file({}, tmp_path / f"{name}.safetensors")
    policy = ModelPolicy(remote_code=("./a.safetensors",))
    trusted = [
        resolve(
            f"./{name}.safetensors", folder=tmp_path, embedded={}, digest=digest_file, policy=policy
        ).remote_code
        for name in "ab"
    ]
    assert trusted == [True, False]
