"""Check the files that a model's files refer to: they must be among the files that are digested, or
changing them would not change the key.

The libraries follow the index of shards (``model.safetensors.index.json``), and transformers also
names of files in configurations.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contents import Files
from .references import UnresolvedModel, UnusableModel

__all__ = ["check_pointers", "is_index"]

_INDEX = re.compile(r".+\.(?P<kind>safetensors|bin)\.index(\.\w+)?\.json\Z")
_SHARD = re.compile(r"(?P<before>.+?)-\d{5}-of-(?P<count>\d{5})(?P<after>.*)\.safetensors\Z")
_POINTING = {
    "config.json": ("transformers_weights", "configuration_files"),
    "tokenizer_config.json": ("fast_tokenizer_files",),
}
"""Keys in configurations with which transformers finds further files."""

_AGAIN = "copy or download it again"


def is_index(name: str, *, kind: str = "safetensors") -> bool:
    """Whether a file is, by its name, an index of shards: it says which holds which tensor."""
    found = _INDEX.match(name)
    return found is not None and found["kind"] == kind


def check_pointers(files: Mapping[str, Path], reference: str, reader: Files) -> None:
    """Check what these files of a model refer to.

    Params:
        files: those that are in the model's fingerprint, by relative name.
        reader: reads each of them once.
    Raises:
        UnresolvedModel: a shard is missing, or its index is.
        UnusableModel: something refers to a file that is not in the fingerprint, an index names the
            wrong shard, or it cannot be read.
    """
    named: set[str] = set()
    for name, path in sorted(files.items()):
        # An index of pickles is read where the user allows some of that folder.
        if is_index(name) or (
            is_index(name, kind="bin")
            and any(
                other.endswith(".bin") and other.rpartition("/")[0] == name.rpartition("/")[0]
                for other in files
            )
        ):
            named |= _check_index(name, path, files, reference, reader)
        elif name.rpartition("/")[2] in _POINTING:
            _check_config(name, path, files, reference, reader)
        elif name.rpartition("/")[2] == "adapter_config.json":
            _check_adapter(name, path, files, reference)
    _check_unnamed(files, named, reference)


def _check_index(
    name: str, path: Path, files: Mapping[str, Path], reference: str, reader: Files
) -> set[str]:
    """Compare an index of shards with the files that it names; return their names."""
    tensors = _read(name, path, reference, reader).get("weight_map")
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(shard, str) for shard in tensors.values())
    ):
        raise UnusableModel(
            f"the model '{reference}' is damaged: {name} cannot be read",
            why="it has no weight_map of tensors to files",
            fix=_AGAIN,
        )
    folder = name.rpartition("/")[0]
    shards = {shard: _inside(folder, shard) for shard in sorted(set(tensors.values()))}
    ending = ".safetensors" if is_index(name) else ".bin"
    for shard, inside in shards.items():
        if (
            inside is None
            or not shard.endswith(ending)
            or (inside not in files and os.path.exists(path.parent / shard))
        ):
            raise UnusableModel(
                f"the model '{reference}' cannot be used: {name} names '{shard}'",
                why=(
                    "that is not among the files of weights in the model's folder by which it is"
                    " known"
                ),
                fix=f"keep all shards in one folder, under plain names that end in {ending}",
            )
    missing = [shard for shard, inside in shards.items() if inside not in files]
    if missing:
        raise UnresolvedModel(
            f"unresolved: '{reference}' is not whole",
            why=f"{len(missing)} of {len(shards)} files of weights are missing, {missing[0]} first",
            fix="download it again",
        )
    for shard, inside in shards.items() if is_index(name) else ():
        assert inside is not None
        wanted = [tensor for tensor, at in tensors.items() if at == shard]
        held = reader.header(files[inside])
        if lacking := sorted(tensor for tensor in wanted if tensor not in held):
            raise UnusableModel(
                f"the model '{reference}' is damaged: {name} names {shard} for {lacking[0]}",
                why=(
                    f"{len(lacking)} of the {len(wanted)} tensors that it names that file for are"
                    " not in it"
                ),
                fix=_AGAIN,
            )
    return {inside for inside in shards.values() if inside is not None}


def _check_config(
    name: str, path: Path, files: Mapping[str, Path], reference: str, reader: Files
) -> None:
    """Refuse a configuration that makes transformers read files that are not in the fingerprint."""
    for key, named in _named_in(path, reader):
        inside = _inside(name.rpartition("/")[0], named)
        if inside not in files and (
            inside is None or key == "transformers_weights" or os.path.exists(path.parent / named)
        ):
            raise UnusableModel(
                f"the model '{reference}' cannot be used: {name} says {key}: '{named[:100]}'",
                why="that is not among the files by which the model is known",
                fix="keep its files in the model's folder, under plain names",
            )


def _named_in(path: Path, reader: Files) -> list[tuple[str, str]]:
    """List the names of files that a configuration gives, each with its key."""
    try:
        content = reader.configuration(path).content
    except OSError:
        content = None
    if not isinstance(content, dict):
        return []  # whoever loads the model says so
    return [
        (key, str(one))
        for key in _POINTING[path.name]
        if (value := content.get(key)) is not None
        for one in (value if isinstance(value, list) else [value])
    ]


def _check_adapter(name: str, path: Path, files: Mapping[str, Path], reference: str) -> None:
    """Refuse an adapter whose weights are a pickle beside a network's configuration: transformers
    would load it with the network.
    """
    folder = name.rpartition("adapter_config.json")[0]
    if (
        f"{folder}config.json" in files
        and f"{folder}adapter_model.safetensors" not in files
        and f"{folder}adapter_model.bin" not in files
        and path.with_name("adapter_model.bin").exists()
    ):
        raise UnusableModel(
            f"the model '{reference}' cannot be used: {name} brings an adapter whose weights are a"
            " pickle (adapter_model.bin)",
            why=(
                "it would be loaded with the network beside it, and has no say in how the model is"
                " known"
            ),
            fix="take it away, or convert it to safetensors",
        )


def _check_unnamed(files: Mapping[str, Path], named: set[str], reference: str) -> None:
    """Refuse shards that no index names, unless something else in the folder can be loaded: the
    libraries find shards only by their index.
    """
    sets: dict[str, Counter[tuple[str, str, int]]] = {}
    others: set[str] = set()
    for name in files:
        folder, _, base = name.rpartition("/")
        if not base.endswith(".safetensors"):
            continue
        if name in named or (found := _SHARD.match(base)) is None:
            others.add(folder)
        else:
            sets.setdefault(folder, Counter())[
                found["before"], found["after"], int(found["count"])
            ] += 1
    for folder, counts in sorted(sets.items()):
        (before, after, count), here = min(counts.items())
        if folder not in others and (f"{folder}/config.json" if folder else "config.json") in files:
            stem = f"{folder}/{before}{after}" if folder else f"{before}{after}"
            what = f"{here} of {count} files" if here != count else f"all {count} files"
            raise UnresolvedModel(
                f"unresolved: '{reference}' is not whole",
                why=(
                    f"{what} of the weights {stem} are there, but not the index"
                    f" {stem}.safetensors.index.json, which says what is in which"
                ),
                fix="download it again",
            )


def _inside(folder: str, name: str) -> str | None:
    """Return the relative name of a file that another in `folder` names; None if it is outside this
    folder, which would not be in the digest of the part.
    """
    found = posixpath.normpath(name)
    return (
        None
        if found.startswith(("/", "../")) or found == ".." or "\0" in name
        else posixpath.join(folder, found)
    )


def _read(name: str, path: Path, reference: str, reader: Files) -> dict[str, Any]:
    try:
        read = reader.configuration(path)
        error = read.error
    except OSError as failed:
        error = str(failed)
    if error:
        raise UnusableModel(
            f"the model '{reference}' is damaged: {name} cannot be read",
            why=error[:200],
            fix=_AGAIN,
        )
    return read.content if isinstance(read.content, dict) else {}
