"""Find a model on this machine and compute its fingerprint, without the network or torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._system.regular_files import open_regular
from .._types.digest import tagged
from .._types.models import BaseCheckpoint, Model
from ..errors import ModelError, nearest
from .cache import recorded_digest, snapshot
from .contents import Files
from .files import (
    INDEXES,
    affects_results,
    completing_files,
    is_weights,
    list_files,
    nearest_sibling,
    pickled_parts,
    subfolder,
    variants,
)
from .lock import LockedModel
from .pickles import NO_PICKLES, scan_pickle
from .pointers import check_pointers
from .policy import STRICT, ModelPolicy
from .references import (
    PICKLES,
    BadReference,
    Reference,
    UnresolvedModel,
    UnusableModel,
    parse_reference,
)
from .weights import check_weights

__all__ = ["STRICT", "BaseOf", "ModelPolicy", "base_reference", "is_tiny", "resolve"]

#: Returns, by the header of a file of weights, what completes the checkpoint; None if it is not
#: one.
BaseOf = Callable[[Mapping[str, Any]], BaseCheckpoint | None]


#: What the reference of a tiny model ends with.
_TINY = " (tiny)"


def resolve(
    text: str,
    *,
    folder: Path,
    embedded: Mapping[str, Path | ModelError],
    digest: Callable[[Path], str],
    environ: Mapping[str, str] = os.environ,
    policy: ModelPolicy = STRICT,
    base_of: BaseOf = lambda _: None,
) -> Model:
    """Find a model on this machine and compute its fingerprint.

    Params:
        folder: the folder that relative paths are relative to.
        embedded: models that come with plugins, by reference; or why one is not there.
        digest: returns the digest of a file's content.
        environ: tells where the hub's cache is.
        policy: which models may be used, and how.
        base_of: returns what completes a checkpoint that is one file.
    Outputs: the model. Its fingerprint is over the names and contents of the files that affect its
        results. If a checkpoint of one file cannot be completed, `incomplete` says why, and there
        is no error: the file alone may be all that is needed.
    Raises:
        BadReference: the text is not a reference.
        UnresolvedModel: it is not in the hub's cache.
        UnusableModel: there is no such model, or it cannot be loaded.
    """
    files = Files(digest)
    return replace(
        _found(text, folder, embedded, files, environ, policy, base_of),
        signs=tuple(sorted(files.signs.items())),
        memo=files.memo,
    )


def _found(
    text: str,
    folder: Path,
    embedded: Mapping[str, Path | ModelError],
    files: Files,
    environ: Mapping[str, str],
    policy: ModelPolicy,
    base_of: BaseOf,
) -> Model:
    if policy.tiny is not None and parse_reference(text).kind != "embedded":
        return _tiny_model(policy.tiny, text, folder, files, environ, policy)
    model = _completed(
        _resolve(text, folder, embedded, files, environ, policy), files, environ, policy, base_of
    )
    return (
        replace(model, remote_code=True)
        if _canonical(text) in map(_canonical, policy.remote_code)
        else model
    )


def _tiny_model(
    make: Callable[[str, Path | None], Path | None],
    text: str,
    folder: Path,
    files: Files,
    environ: Mapping[str, str],
    policy: ModelPolicy,
) -> Model:
    """Find the tiny model to use instead of another."""
    try:
        at = _resolve(text, folder, {}, files, environ, policy).path
    except (UnresolvedModel, UnusableModel):
        at = None
    made = make(text, at)
    if made is None:
        raise UnresolvedModel(
            f"there is no tiny model to replace '{text}'",
            why=(
                "no plugin knows what kind of model it is by its name, and it is not on this"
                " machine"
            ),
            fix="download the model, or give it a name that contains its kind",
        )
    return replace(_model(made, text, files, policy), reference=text + _TINY)


def is_tiny(reference: str) -> bool:
    """Whether a reference, as provenance records it, is of a tiny model that was used instead."""
    return reference.endswith(_TINY)


def _resolve(
    text: str,
    folder: Path,
    embedded: Mapping[str, Path | ModelError],
    files: Files,
    environ: Mapping[str, str],
    policy: ModelPolicy,
) -> Model:
    reference = parse_reference(text)
    if reference.kind == "embedded":
        if text not in embedded:
            raise UnusableModel(
                f"no plugin provides a model '{text}'",
                why=f"available models: {', '.join(sorted(embedded)) or 'none'}",
                fix=nearest(text, embedded),
            )
        at = embedded[text]
        if isinstance(at, ModelError):
            raise at
        return _model(at, text, files, policy)
    if reference.kind == "hf":
        pinned = _locked(reference, text, policy)
        if pinned is not None:
            return _locked_model(pinned, text, files, environ, policy)
        path = snapshot(reference, text, environ)
        if reference.file:
            path = _file_in(path, reference.file, text)
        return _model(path, text, files, policy, on_the_hub=True)
    return _model(
        Path(os.path.normpath(folder / Path(reference.name).expanduser())), text, files, policy
    )


def _locked(reference: Reference, text: str, policy: ModelPolicy) -> LockedModel | None:
    """Return what the lock pins for a reference; None if it pins nothing and may leave it open.

    Raises:
        UnresolvedModel: nothing is pinned, and the policy is `locked`.
    """
    lock = policy.lock
    pinned = lock.get(reference) if lock is not None else None
    if pinned is None and policy.locked:
        known, lock_path = (lock.models, lock.path) if lock is not None else ({}, None)
        near = nearest(str(reference), known)
        raise UnresolvedModel(
            f"'{text}' is not in the lock",
            why=(
                f"--locked allows only the models in {lock_path}"
                if known
                else (
                    f"there is no lock{f' {lock_path}' if lock_path else ''}, and --locked allows"
                    " only models in a lock"
                )
            ),
            fix=near if near.startswith("did") else f"run `imagen-flow models resolve {text}`",
        )
    return pinned


def base_reference(base: BaseCheckpoint) -> Reference:
    """Return a reference to what completes a checkpoint of one file: of a repository, the
    configurations and the parts that the file lacks.
    """
    return replace(parse_reference(base.reference), parts=base.lacks)


def _completed(
    model: Model,
    files: Files,
    environ: Mapping[str, str],
    policy: ModelPolicy,
    base_of: BaseOf,
) -> Model:
    """Find what completes a checkpoint that is one file: a folder beside it with the file's name,
    else its base repository. Other models are returned as they are.
    """
    if (
        not is_weights(model.path.name)
        or not model.path.is_file()
        or (base := base_of(files.header(model.path))) is None
    ):
        return model
    try:
        folder, digests, variant = _base(base, model, files, environ, policy)
    except UnresolvedModel as missing:
        return replace(model, base=base, incomplete=missing.why or str(missing))
    own = tuple(
        (
            name,
            (
                held
                if name in base.lacks
                else tagged("model-part-completed", held.encode(), model.digest.encode())
            ),
        )
        for name, held in _parts(digests)
    )
    fingerprint = tagged(
        "model-completed",
        model.digest.encode(),
        *(part.encode() for pair in digests for part in pair),
    )
    return replace(
        model, base=base, configurations=folder, digest=fingerprint, parts=own, variant=variant
    )


def _base(
    base: BaseCheckpoint,
    model: Model,
    files: Files,
    environ: Mapping[str, str],
    policy: ModelPolicy,
) -> tuple[Path, list[tuple[str, str]], str]:
    """Return the folder that completes a checkpoint of one file, the digests by name of the files
    in it that affect results, and the variant of their weights.
    """
    own_folder, text = model.path.with_suffix(""), base.reference
    reference = base_reference(base)
    if (own_folder / "model_index.json").is_file():
        folder, text = own_folder, str(own_folder)
    elif (pinned := _locked(reference, text, policy)) is not None:
        folder = _whole_snapshot(pinned, text, files, environ)
        check_pointers({file.name: folder / file.name for file in pinned.files}, text, files)
        return folder, sorted((file.name, file.blob) for file in pinned.files), pinned.variant
    else:
        folder = snapshot(reference, text, environ)
    _check_parts(folder, text, files)
    held = dict(list_files(folder, text))
    wanted = completing_files(held, base.lacks)
    if lacking := sorted(
        name
        for name in base.lacks
        if not any(file.startswith(f"{name}/") and is_weights(file) for file in wanted)
    ):
        raise UnresolvedModel(
            f"there are no weights of {' and '.join(lacking)} in {folder}, and the file holds none"
        )
    if "model_index.json" not in wanted:
        raise UnresolvedModel(f"there is no model_index.json in {folder}")
    for name in wanted:
        if is_weights(name):
            check_weights(held[name], text, files.header)
    check_pointers({name: held[name] for name in wanted}, text, files)
    return (
        folder,
        [(name, files.recorded_digest(held[name])) for name in wanted],
        next(iter(variants(wanted)), ""),
    )


def _locked_model(
    pinned: LockedModel, text: str, files: Files, environ: Mapping[str, str], policy: ModelPolicy
) -> Model:
    """Return the model that a lock pins."""
    path, inside = _whole_snapshot(pinned, text, files, environ), ""
    if pinned.reference.file.endswith("/"):
        path, inside = path / pinned.reference.file, pinned.reference.file
    elif pinned.reference.file:
        alone = path / pinned.reference.file
        return Model(
            alone,
            tagged("model-file", pinned.files[0].blob.encode()),
            text,
            variant=pinned.variant,
            pickles=_allowed_pickles([(alone.name, alone)], text, policy, alone=True),
        )
    named = [(file.name.removeprefix(inside), file.blob) for file in pinned.files]
    allowed = _allowed_pickles([(name, path / name) for name, _ in named], text, policy)
    digests = sorted(
        (name, blob) for name, blob in named if affects_results(name) or name in allowed
    )
    check_pointers({name: path / name for name, _ in digests}, text, files)
    return Model(
        path,
        tagged("model-folder", *(part.encode() for pair in digests for part in pair)),
        text,
        _parts(digests),
        pinned.variant,
        allowed,
    )


def _whole_snapshot(
    pinned: LockedModel, text: str, files: Files, environ: Mapping[str, str]
) -> Path:
    """Find the snapshot that a lock pins, and compare its files with those in the lock.

    Raises:
        UnresolvedModel: some are missing, or differ.
    """
    path = snapshot(pinned.reference, text, environ, commit=pinned.commit)
    missing = [file for file in pinned.files if not (path / file.name).exists()]
    if missing:
        raise UnresolvedModel(
            f"unresolved: '{text}' is not whole",
            why=(
                f"{len(missing)} of its {len(pinned.files)} files are not in the hub's cache,"
                f" {missing[0].name} first"
            ),
            fix=f"run `imagen-flow models pull {text}`",
        )
    for file in pinned.files:
        here = path / file.name
        held = recorded_digest(here)
        if (
            here.stat().st_size != file.size
            or (held and held not in (file.sha256, file.git))
            or not (held or _sha256(here) == file.sha256)
        ):
            raise UnresolvedModel(
                f"unresolved: '{text}' does not match the lock",
                why=f"{file.name} has different content",
                fix=f"run `imagen-flow models pull {text}`",
            )
        if is_weights(file.name):
            check_weights(here, text, files.header)
    return path


def _allowed_pickles(
    files: Iterable[tuple[str, Path]], text: str, policy: ModelPolicy, *, alone: bool = False
) -> tuple[str, ...]:
    """List the pickles among these files that the user allows, each of them scanned.

    Params:
        alone: the only file is the model, and so must be allowed if it is a pickle.
    """
    allowed = []
    for name, path in files:
        if not name.lower().endswith(PICKLES):
            continue
        named = _canonical(text if alone else f"{text.removesuffix('/')}/{name}")
        if any(
            _canonical(allowed_by) == named or _is_same_file(allowed_by, path)
            for allowed_by in policy.pickles
        ):
            scan_pickle(path, text)
            allowed.append(name)
        elif alone:
            raise UnusableModel(
                f"the model '{text}' is a pickle",
                why=NO_PICKLES,
                fix=f"convert it to safetensors, or pass --allow-pickle {text} if you trust it",
            )
    return tuple(allowed)


def _canonical(text: str) -> str:
    """Return the canonical spelling of a reference to the hub; any other text as it is."""
    try:
        return str(parse_reference(text))
    except BadReference:
        return text


def _is_same_file(text: str, path: Path) -> bool:
    try:
        return Path(text).expanduser().samefile(path)
    except (OSError, RuntimeError):
        return False


def _sha256(path: Path) -> str:
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file_in(snapshot: Path, name: str, text: str) -> Path:
    path = snapshot / name
    if not path.exists() and not path.is_symlink():
        held = [found for found, _ in list_files(snapshot, text) if is_weights(found)]
        raise UnresolvedModel(
            f"unresolved: '{text}' is not on this machine",
            why=f"the hub's cache holds only these files of it:  {', '.join(held[:5]) or 'no weights'}",
            fix=f"run `imagen-flow models pull {text}`",
        )
    return path


def _model(
    path: Path, text: str, files: Files, policy: ModelPolicy, *, on_the_hub: bool = False
) -> Model:
    """Compute the fingerprint of a model from its files; refuse one that cannot be loaded."""
    digest = files.recorded_digest if on_the_hub else files.digest
    try:
        alone = path.is_file() or (path.is_symlink() and not path.is_dir())
    except OSError as error:  # a name that is too long, a folder that is closed
        raise UnusableModel(
            f"the model '{text}' cannot be read", why=str(error.strerror), fix=""
        ) from error
    if alone:
        if pickles := _allowed_pickles([(path.name, path)], text, policy, alone=True):
            return Model(path, tagged("model-file", digest(path).encode()), text, pickles=pickles)
        if not is_weights(path.name):
            raise UnusableModel(
                f"the model '{text}' is not a weights file",
                why=(
                    "only .safetensors, .gguf and .onnx files, and folders that hold .safetensors,"
                    " are loaded"
                ),
                fix="",
            )
        check_weights(path, text, files.header)
        return Model(path, tagged("model-file", digest(path).encode()), text)
    if not path.is_dir():
        raise UnusableModel(
            f"the model '{text}' does not exist",
            why=f"there is no {path}",
            fix=nearest_sibling(path),
        )
    held = list(list_files(path, text))
    weights = [file for _, file in held if file.suffix == ".safetensors"]
    allowed = _allowed_pickles(held, text, policy)
    if not weights and not allowed:
        if pickled := sorted(name for name, file in held if file.suffix in PICKLES):
            fix = (
                f"convert it to safetensors, or pass --allow-pickle {text}/{pickled[0]} if you"
                " trust it"
            )
            raise UnusableModel(
                f"the model '{text}' has its weights only as pickles ({pickled[0]})",
                why=NO_PICKLES,
                fix=fix,
            )
        raise UnusableModel(
            f"the model '{text}' has no weights",
            why=f"there is no .safetensors file in {path}",
            fix=subfolder(path),
        )
    for file in weights:
        check_weights(file, text, files.header)
    check_pointers(
        {name: file for name, file in held if affects_results(name) or name in allowed}, text, files
    )
    _check_parts(path, text, files)
    if (path / "model_index.json").exists() and (
        pickled := [name for name in pickled_parts(name for name, _ in held) if name not in allowed]
    ):
        fix = (
            f"convert it to safetensors, or pass --allow-pickle {text}/{pickled[0]} if you trust it"
        )
        raise UnusableModel(
            f"a part of the model '{text}' has its weights only as pickles ({pickled[0]})",
            why=NO_PICKLES,
            fix=fix,
        )
    digests: list[tuple[str, str]] = []
    for name, file in held:
        if not affects_results(name) and name not in allowed:
            continue
        try:
            digests.append((name, digest(file)))
        except OSError as error:  # a link that leads nowhere, a file that is closed
            raise UnusableModel(
                f"the model '{text}' is damaged: {name} cannot be read",
                why=error.strerror or str(error),
                fix="copy or download it again",
            ) from error
    return Model(
        path,
        tagged("model-folder", *(part.encode() for pair in digests for part in pair)),
        text,
        _parts(digests),
        pickles=allowed,
    )


def _parts(digests: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Digest each folder directly below by its files, so that equal parts of different models are
    recognised.
    """
    below: dict[str, list[bytes]] = {}
    for name, digest in digests:
        part, slash, rest = name.partition("/")
        if slash:
            below.setdefault(part, []).extend((rest.encode(), digest.encode()))
    return tuple((part, tagged("model-part", *lines)) for part, lines in sorted(below.items()))


def _check_parts(path: Path, text: str, files: Files) -> None:
    """Check that the folders of the parts are there that ``model_index.json`` names: after a
    download that broke off some are not. A part with another name than a plain one would lie
    elsewhere.
    """
    indexes: dict[str, dict[str, Any]] = {}
    for name in sorted(INDEXES):
        if not (path / name).exists():
            continue
        try:
            read = files.configuration(path / name)
            error = read.error or ("" if isinstance(read.content, dict) else "it is not a mapping")
        except OSError as failed:
            error = str(failed)
        if error:
            raise UnusableModel(
                f"the model '{text}' is damaged: {name} cannot be read",
                why=error[:200],
                fix="copy or download it again",
            )
        indexes[name] = read.content
        if elsewhere := sorted(
            part
            for part, made_by in indexes[name].items()
            if isinstance(made_by, list) and not part.isidentifier()
        ):
            raise UnusableModel(
                f"the model '{text}' cannot be used: {name} names a part '{elsewhere[0][:100]}'",
                why="a part is a folder in the model's folder",
                fix="give it a plain name",
            )
    if "model_index.json" not in indexes:
        return
    parts = [
        name
        for name, made_by in indexes["model_index.json"].items()
        if isinstance(made_by, list)
        and len(made_by) == 2
        and all(isinstance(word, str) for word in made_by)
    ]
    missing = sorted(name for name in parts if not (path / name).is_dir())
    side_by_side = (
        len(missing) == len(parts) and (path / "config.json").is_file()
    )  # as in early checkpoints, which diffusers still loads
    if missing and not side_by_side:
        raise UnresolvedModel(
            f"unresolved: '{text}' is not whole",
            why=f"model_index.json names {len(parts)} parts, and there is no {missing[0]}",
            fix="download it again",
        )
