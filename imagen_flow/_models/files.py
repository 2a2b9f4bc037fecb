"""Tell by their names which of a model's files affect its results, which are weights, and which of
several copies of the weights are needed.

A repository often holds the same weights several times: in halves (``model.fp16.safetensors``), in
one piece beside the parts, as pickles, for other libraries. One copy is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ..errors import nearest
from .references import PICKLES, WEIGHTS, UnusableModel

__all__ = [
    "INDEXES",
    "MAX_FILES",
    "needed_files",
    "completing_files",
    "affects_results",
    "is_weights",
    "list_files",
    "subfolder",
    "nearest_sibling",
    "pickled_parts",
    "variants",
]

_DOCUMENTS = (
    ".md",
    ".rst",
    ".pdf",
    ".html",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".svg",
    ".mp4",
)
_FOREIGN = (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel", ".pb", ".xml")
_UNFINISHED = (".part", ".lock")
_NO_PART = frozenset(PICKLES + _DOCUMENTS + _FOREIGN + _UNFINISHED)
_FOREIGN_FOLDERS = re.compile(
    r"(onnx|openvino|flax|tf|coreml|original|gguf|examples|assets|images)(/|\Z)|.*\.mlpackage/",
    re.IGNORECASE,
)

#: A folder with more files is not a model.
MAX_FILES = 10_000

#: A folder with more links to folders is not a model: they may lead to one another.
MAX_LINKS = 100

_SHARD = r"(?:-\d{5}-of-\d{5})?"
_PLAIN = re.compile(rf"(?P<stem>.+?){_SHARD}\.safetensors(?:\.index\.json)?\Z")
_VARIANT = re.compile(
    rf"(?P<stem>.+?){_SHARD}\.(?P<variant>[A-Za-z0-9_]+?){_SHARD}\.safetensors\Z|(?P<of>.+?)\.safetensors\.index\.(?P<index>[A-Za-z0-9_]+)\.json\Z"
)

_PICKLED = re.compile(r"(?:\A|/)(?:diffusion_)?pytorch_model(?:-\d{5}-of-\d{5})?\.bin\Z")

#: What says which parts a checkpoint has.
INDEXES = frozenset({"model_index.json", "modular_model_index.json"})

#: What the libraries call the weights of a part. Other weights in the same folder are copies in
#: another form.
_USUAL = frozenset(
    {"model", "diffusion_pytorch_model", "adapter_model", "pytorch_lora_weights", "ip_adapter"}
)


def affects_results(name: str) -> bool:
    """Whether a file may affect what a model computes. Documents, pickles and formats that are
    never loaded do not.
    """
    return os.path.splitext(name)[1].lower() not in _NO_PART


def is_weights(name: str) -> bool:
    """Whether a file holds weights that may be loaded as they are."""
    return name.lower().endswith(WEIGHTS)


def list_files(folder: Path, reference: str) -> Iterator[tuple[str, Path]]:
    """List a folder's files by relative name with ``/``, sorted and without hidden ones. Links to
    folders are followed, as the libraries follow them.

    Raises:
        UnusableModel: there are too many for a model, a link leads to a folder that contains it, or
            one is not a regular file: reading a pipe would never end.
    """
    found: list[tuple[str, Path]] = []
    seen = links = 0
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name != "__pycache__"
        ]
        for inner in [Path(root, name) for name in folders if Path(root, name).is_symlink()]:
            links += 1
            if links > MAX_LINKS:
                raise UnusableModel(
                    f"the model '{reference}' is not a model folder",
                    why=f"it holds more than {MAX_LINKS} folders that are links",
                    fix=subfolder(folder),
                )
            if Path(root).resolve().is_relative_to(inner.resolve()):
                raise UnusableModel(
                    f"the model '{reference}' is not a model folder",
                    why=(
                        f"{inner.relative_to(folder).as_posix()} in it links to a folder that"
                        " contains it"
                    ),
                    fix="remove it",
                )
        below = "" if Path(root) == folder else f"{Path(root).relative_to(folder).as_posix()}/"
        found += [(below + name, Path(root, name)) for name in names if not name.startswith(".")]
        seen += len(folders)
        if len(found) + seen > MAX_FILES:
            raise UnusableModel(
                f"the model '{reference}' is not a model folder",
                why=f"it holds more than {MAX_FILES} files",
                fix=subfolder(folder),
            )
    if irregular := next(
        (name for name, path in found if path.exists() and not path.is_file()), ""
    ):
        raise UnusableModel(
            f"the model '{reference}' is not a model folder",
            why=f"{irregular} in it is not a regular file",
            fix="remove it",
        )
    yield from sorted(found)


def variants(names: Iterable[str]) -> list[str]:
    """Name the variants of the weights among these files, e.g. ``fp16``. Plain weights are none."""
    return sorted({kind for kinds in _copies(names).values() for kind in kinds if kind})


def needed_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Pick the files that loading a model needs, sorted: one copy of the weights, and all other
    files that affect results.

    Params:
        names: all files, by relative name.
        variant: of the weights, if there is one; by default the plain ones, or the only ones.
    """
    known = {
        name
        for name in names
        if affects_results(name) and not name.startswith(".") and "/." not in name
    }
    has_parts = not INDEXES.isdisjoint(known)
    if has_parts or "config.json" in known:
        known = {name for name in known if not _FOREIGN_FOLDERS.match(name)}
    if has_parts and any(
        "/" in name and is_weights(name) for name in known
    ):  # else the parts lie side by side, as in early checkpoints
        known -= {
            name
            for name in known
            if "/" not in name and (is_weights(name) or ".safetensors.index." in name)
        }
    usual: set[str] = set()
    unusual: dict[str, set[str]] = {}
    for (folder, stem), kinds in _copies(known).items():
        wanted = (
            variant
            if variant in kinds
            else ""
            if "" in kinds
            else "fp16"
            if "fp16" in kinds
            else min(kinds)
        )
        for kind, copies in kinds.items():
            known -= _other_pieces(stem, copies) if kind == wanted else copies
        if stem in _USUAL:
            usual.add(folder)
        else:
            unusual.setdefault(folder, set()).update(kinds[wanted])
    if has_parts or "config.json" in known:
        for folder in usual:
            known -= unusual.get(folder, set())
    return sorted(known)


def completing_files(
    names: Iterable[str], parts: Iterable[str], variant: str | None = None
) -> list[str]:
    """Pick of a repository the files that complete a checkpoint of one file, sorted: configurations
    and tokenizers, and the weights of `parts`.
    """
    folders = frozenset(parts)
    return [
        name
        for name in needed_files(names, variant)
        if not (is_weights(name) or ".safetensors.index." in name)
        or name.partition("/")[0] in folders
    ]


def _other_pieces(stem: str, copies: Iterable[str]) -> set[str]:
    """Of weights that are there both in one file and in shards, name those that the libraries
    ignore: diffusers loads the shards, transformers the one file.
    """
    several = {name for name in copies if "-of-" in name or ".safetensors.index." in name}
    one = set(copies) - several
    return (one if stem == "diffusion_pytorch_model" else several) if one and several else set()


def pickled_parts(names: Iterable[str]) -> list[str]:
    """Name the pickles that are the only weights in their folder, by the libraries' usual names."""
    known = sorted(names)
    safe = {name.rpartition("/")[0] for name in known if name.endswith(".safetensors")}
    return [
        name
        for name in known
        if _PICKLED.search(name) and "/" in name and name.rpartition("/")[0] not in safe
    ]


def _copies(names: Iterable[str]) -> dict[tuple[str, str], dict[str, set[str]]]:
    """Sort files of weights and their indexes by folder and stem, and there by variant (the plain
    one is empty).
    """
    plain: dict[str, str] = {name: match["stem"] for name in names if (match := _PLAIN.match(name))}
    stems = set(plain.values())
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for name in names:
        kind, stem = "", plain.get(name)
        if match := _VARIANT.match(name):
            of = match["stem"] or match["of"]
            # A dot in a name makes no variant by itself: the plain form is there too, or the stem
            # is the libraries' own.
            if of in stems or of.rpartition("/")[2] in _USUAL:
                kind, stem = match["variant"] or match["index"], of
        if stem is not None:
            folder, _, base = stem.rpartition("/")
            found.setdefault((folder, base), {}).setdefault(kind, set()).add(name)
    return found


def nearest_sibling(path: Path) -> str:
    """Suggest a file or folder beside a path that does not exist."""
    try:
        return nearest(
            path.name,
            [entry.name for entry in islice(path.parent.iterdir(), 200)],
            what=f"in {path.parent} there are",
        )
    except OSError:
        return f"there is no folder {path.parent} either"


def subfolder(path: Path) -> str:
    """Suggest a model that lies one folder below."""
    parts = sorted(entry.parent.name for entry in path.glob("*/model_index.json")) or sorted(
        entry.parent.name for entry in path.glob("*/config.json")
    )
    return (
        f"did you mean the folder '{parts[0]}' in it?"
        if parts
        else "name a folder in the layout of diffusers or transformers, or a .safetensors file"
    )
