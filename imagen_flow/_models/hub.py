"""Download models from the hub into the cache of its own libraries: resolved to a commit first,
verified by digests, all files or none.

huggingface_hub talks to the hub and transfers the bytes. This module adds what it lacks: a transfer
resumes where a killed one stopped (the library starts the file again), content is verified, and
a repository's files appear in its snapshot only once all of them are there. Nothing else in the
core uses the network.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ..errors import nearest
from .cache import hub_cache, repository_folder
from .files import (
    INDEXES,
    MAX_FILES,
    completing_files,
    is_weights,
    needed_files,
    pickled_parts,
    variants,
)
from .lock import LockedFile, LockedModel, checked
from .pickles import NO_PICKLES
from .references import (
    PICKLES,
    BadReference,
    Reference,
    UnresolvedModel,
    UnusableModel,
    parse_reference,
)
from .weights import check_weights, tensors_in

__all__ = ["Hub"]

#: Called with progress: file, bytes of it that are here, bytes of it in all.
Report = Callable[[str, int, int], None]

_BLOCK = 1 << 20

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

#: Bytes to leave free on the disk: a full one breaks more than a download.
SPARE_BYTES = 200_000_000


class Hub:
    """The hub, at its own address or at ``HF_ENDPOINT``, and the cache to download to."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.endpoint = endpoint or environ.get("HF_ENDPOINT") or None
        self.token = token
        self.environ = environ
        self._free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def resolve(
        self,
        reference: Reference,
        *,
        variant: str | None = None,
        pickles: Sequence[str] = (),
        report: Report = lambda *_: None,
    ) -> LockedModel:
        """Resolve a reference to a commit, and to the files of it that are needed with their
        digests. Small files are downloaded for that; none appears in a snapshot.

        Params:
            variant: of the weights, e.g. ``fp16``; by default the plain ones, or the only ones.
            pickles: references of pickles that the user allows, although they can run code when
                they are loaded.
        Raises:
            UnresolvedModel: the hub cannot be reached, has no such model, or denies access.
            UnusableModel: nothing in it can be loaded.
        """
        info = self._info(reference)
        known = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        wanted = _wanted(reference, known, variant, pickles)
        if len(wanted) > MAX_FILES:
            raise UnusableModel(
                f"the model '{reference}' is not a model repository",
                why=f"{len(wanted):,} of its files would be downloaded",
                fix="name one file of it",
            )
        try:
            described = [checked(_described(known[name])) for name in wanted]
        except ValueError as error:
            raise _no_hub(reference, f"it describes a file incorrectly:  {error}") from error
        files = []
        for file in described:
            if file.git:
                with self._faults(reference, file.name):
                    blob = self._fetch(reference.name, info.sha, file, report)
                file = replace(file, sha256=_sha256(blob))
            files.append(file)
        found = set(variants(wanted))
        return LockedModel(
            reference,
            str(info.sha),
            _license(info),
            found.pop() if len(found) == 1 else variant or "",
            tuple(sorted(files)),
        )

    def pull(self, model: LockedModel, *, report: Report = lambda *_: None) -> Path:
        """Download those files of a model that the cache lacks, and return its snapshot. Files that
        are there are verified, and downloaded again if they are damaged.

        Raises:
            UnresolvedModel: it cannot be downloaded, the disk is too small, or what came differs
                from the lock. What was downloaded is kept for the next try, and nothing appears in
                the snapshot.
        """
        reference = model.reference
        self._check_disk(model)
        blobs = {}
        for file in model.files:
            with self._faults(reference, file.name):
                blobs[file.name] = self._fetch(reference.name, model.commit, file, report)
        with self._faults(reference, ""):
            folder = repository_folder(reference.name, self.environ)
            for name, blob in sorted(
                blobs.items(), key=lambda item: is_weights(item[0]), reverse=True
            ):
                _link(blob, folder / "snapshots" / model.commit / name)
            revision = reference.revision or "main"
            if not model.commit.startswith(revision):
                _write(folder / "refs" / revision, model.commit)
        return folder / "snapshots" / model.commit

    @contextmanager
    def alone(self, *name: str) -> Iterator[None]:
        """Lock a name against other processes that use this cache, as the hub's libraries lock
        files.
        """
        from huggingface_hub.utils import WeakFileLock

        guard = Path(hub_cache(self.environ), ".locks", *name[:-1], f"{name[-1]}.lock")
        guard.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(str(guard)):
            yield

    def missing(self, model: LockedModel) -> list[LockedFile]:
        """List the files of a model that the cache does not hold, without asking the hub."""
        snapshot = (
            repository_folder(model.reference.name, self.environ) / "snapshots" / model.commit
        )
        return [file for file in model.files if not (snapshot / file.name).exists()]

    def remove(
        self,
        name: str,
        commit: str,
        files: Sequence[LockedFile] = (),
        *,
        keep: Collection[str] = (),
    ) -> int:
        """Remove a commit of a repository from the cache, with all content that no other commit
        needs and partial downloads of `files`. Returns the bytes freed.

        Params:
            keep: names of files to leave there.

        Raises:
            UnusableModel: the cache may not be written to.
        """
        folder = repository_folder(name, self.environ)
        snapshot = folder / "snapshots" / commit
        before = _size(folder)
        try:
            gone = {file.blob for file in files if file.name not in keep} | _blobs(snapshot)
            kept = [path for path in (snapshot / name for name in keep) if path.exists()]
            if not kept:
                for ref in [path for path in (folder / "refs").rglob("*") if path.is_file()]:
                    if ref.read_text("ascii", errors="replace").strip() == commit:
                        ref.unlink()
            for path in [
                path
                for path in snapshot.rglob("*")
                if path not in kept and (path.is_symlink() or not path.is_dir())
            ]:
                path.unlink()
            for below in sorted(
                (path for path in snapshot.rglob("*") if path.is_dir()), reverse=True
            ):
                with contextlib.suppress(OSError):  # something is kept in it
                    below.rmdir()
            if snapshot.is_dir() and not kept:
                snapshot.rmdir()
            for blob in gone - _blobs(folder / "snapshots"):
                (folder / "blobs" / blob).unlink(missing_ok=True)
                (folder / "blobs" / f"{blob}.part").unlink(missing_ok=True)
        except OSError as error:
            raise UnusableModel(
                f"'hf:{name}' cannot be removed from {hub_cache(self.environ)}",
                why=str(error),
                fix=(
                    "ask the owner of the folder to remove it, or remove it only from the lock, with"
                    " --keep-files"
                ),
            ) from error
        freed = before - _size(folder)
        if not any((folder / "snapshots").glob("*/*")) and not any((folder / "blobs").glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def header(self, model: LockedModel) -> Mapping[str, Any]:
        """Return the header of the file of weights that a reference names: from the cache, else by
        downloading no more than that. The header of a GGUF file is empty until the file is here.

        Raises:
            UnresolvedModel: the hub cannot be reached, or what it sends is not a header.
            UnusableModel: the file is here and damaged.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import SafetensorsParsingError

        reference = model.reference
        here = (
            repository_folder(reference.name, self.environ)
            / "snapshots"
            / model.commit
            / reference.file
        )
        with self._faults(reference, reference.file):
            if here.exists():
                check_weights(here, str(reference))
                return tensors_in(here)
            if not reference.file.lower().endswith(".safetensors"):
                return {}
            try:
                parsed = HfApi(
                    endpoint=self.endpoint, token=self.token
                ).parse_safetensors_file_metadata(
                    reference.name, reference.file, revision=model.commit
                )
            except (
                SafetensorsParsingError,
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
                RecursionError,
            ) as error:
                raise UnresolvedModel(
                    f"unresolved: '{reference}' is not a complete safetensors file",
                    why=_first_line(error),
                    fix="use another file",
                ) from error
        return {
            name: {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": tensor.data_offsets,
            }
            for name, tensor in parsed.tensors.items()
        }

    def _info(self, reference: Reference) -> Any:
        from huggingface_hub import HfApi

        try:
            with self._faults(reference, ""):
                info = HfApi(endpoint=self.endpoint, token=self.token).model_info(
                    reference.name, revision=reference.revision or "main", files_metadata=True
                )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _no_hub(reference, f"its answer cannot be read: {_first_line(error)}") from error
        if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
            raise _no_hub(reference, f"it names the commit {str(info.sha)[:80]!r}")
        return info

    @contextmanager
    def _faults(self, reference: Reference, file: str) -> Iterator[None]:
        """Turn exceptions of the hub's library into errors that say what to do."""
        from huggingface_hub import errors
        from huggingface_hub.utils import logging

        text, name = str(reference), reference.name
        address = (self.endpoint or "https://huggingface.co").rstrip("/")
        what = f"'{text}'" + (f" ({file})" if file else "")
        loud = logging.get_verbosity()
        # The library logs each attempt; how they end is reported here.
        logging.set_verbosity_error()
        try:
            yield
        except errors.GatedRepoError as fault:
            raise UnresolvedModel(
                f"unresolved: {what} is gated",
                why="its owners require you to accept its licence first",
                fix=(
                    f"accept it at {address}/{name}, then log in with `hf auth login` or set"
                    " HF_TOKEN"
                ),
            ) from fault
        except errors.RevisionNotFoundError as fault:
            raise UnresolvedModel(
                f"unresolved: {name} has no revision '{reference.revision or 'main'}'",
                why=f"{address} does not know it",
                fix=f"see {address}/{name}/tree/main",
            ) from fault
        except errors.RepositoryNotFoundError as fault:
            raise UnresolvedModel(
                f"unresolved: there is no repository '{name}' that you can access",
                why=f"{address} reports that it does not exist or is private",
                fix=f"correct its name, or {_LOG_IN}",
            ) from fault
        except errors.EntryNotFoundError as fault:
            raise UnresolvedModel(
                f"unresolved: {what} is not in that revision",
                why="the hub lists it but does not have it",
                fix="try again; if that does not help, use another revision",
            ) from fault
        except errors.OfflineModeIsEnabled as fault:
            raise UnresolvedModel(
                f"unresolved: {what} cannot be downloaded",
                why="HF_HUB_OFFLINE forbids it",
                fix="unset HF_HUB_OFFLINE, or run it where it was pulled",
            ) from fault
        except errors.HfHubHTTPError as fault:
            status = fault.response.status_code
            answer = " ".join(
                str(fault.server_message or fault.response.reason_phrase or "").split()
            )[:200]
            wait = fault.response.headers.get("Retry-After", "")
            fix = {
                401: _LOG_IN,
                403: _LOG_IN,
                404: "check HF_ENDPOINT: there is no hub at this address",
            }.get(status, f"try again in {wait} s" if wait.isdecimal() else "try again later")
            raise UnresolvedModel(
                f"unresolved: {what} cannot be downloaded",
                why=f"{address} returned {status}{f': {answer}' if answer else ''}",
                fix=fix,
            ) from fault
        except errors.HFValidationError as fault:
            raise UnresolvedModel(
                f"unresolved: {what} cannot be downloaded",
                why=_first_line(fault),
                fix="correct the reference",
            ) from fault
        except OSError as fault:
            if fault.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UnresolvedModel(
                    f"unresolved: {what} does not fit on the disk of {hub_cache(self.environ)}",
                    why=str(fault.strerror),
                    fix=(
                        "free some space, or set HF_HUB_CACHE to a larger disk; what is here is"
                        " kept"
                    ),
                ) from fault
            if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
                raise UnresolvedModel(
                    f"unresolved: {what} cannot be written to the hub's cache",
                    why=_first_line(fault),
                    fix="make the folder writable, or set HF_HUB_CACHE to another one",
                ) from fault
            why = (
                f"{address} cannot be reached: {_first_line(fault)}"
                if isinstance(fault, ConnectionError | TimeoutError)
                else _first_line(fault)
            )
            raise UnresolvedModel(
                f"unresolved: {what} cannot be downloaded",
                why=why,
                fix="try again; files that are complete are kept",
            ) from fault
        except Exception as fault:
            if not type(fault).__module__.startswith(
                ("httpx", "httpcore")
            ):  # which of them the library rests on depends on its version
                raise
            proxy = _proxy(address)
            suspects = "your network connection"
            if proxy:
                suspects += ", the proxy in your environment variables"
            if self.endpoint:
                suspects += ", HF_ENDPOINT"
            fix = f"check {suspects}; what has been downloaded is kept"
            raise UnresolvedModel(
                f"unresolved: {what} cannot be downloaded",
                why=(
                    f"{address} cannot be reached{f' through {proxy}' if proxy else ''}:"
                    f" {_first_line(fault)}"
                ),
                fix=fix,
            ) from fault
        finally:
            logging.set_verbosity(loud)

    def _fetch(self, repository: str, commit: str, file: LockedFile, report: Report) -> Path:
        """Return the blob of a file, downloaded unless it is here, and verified in any case."""
        folder = repository_folder(repository, self.environ)
        blob = folder / "blobs" / file.blob
        if blob.exists() and _matches(
            blob, file
        ):  # so that a cache which others fill, and which one may only read, is as good
            report(file.name, file.size, file.size)
            return blob
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self.alone(folder.name, file.blob):
            if blob.exists():
                if _matches(blob, file):
                    report(file.name, file.size, file.size)
                    return blob
                blob.unlink()
            part = blob.with_name(f"{blob.name}.part")
            for began in (True, False):
                resumed = began and part.exists()
                self._transfer(repository, commit, file, part, report)
                if _matches(part, file):
                    os.replace(part, blob)
                    return blob
                part.unlink()
                if not resumed:
                    break
        raise UnresolvedModel(
            f"unresolved: '{file.name}' of {repository} does not match the digest that the hub gives",
            why=f"the downloaded file does not have the digest {file.sha256 or file.git}",
            fix=(
                "try again; if that does not help, something between you and the hub alters the files"
            ),
        )

    def _transfer(
        self, repository: str, commit: str, file: LockedFile, part: Path, report: Report
    ) -> None:
        """Download into a partial file, from where that ends."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        here = part.stat().st_size if part.exists() else 0
        if here > file.size:
            part.unlink()
            here = 0
        report(file.name, here, file.size)
        if here == file.size and part.exists():
            return
        if not here and file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise UnresolvedModel(
                f"unresolved: '{file.name}' of {repository} is too large to download",
                why=(
                    f"it has {file.size:,} bytes, and the hub's library downloads"
                    f" {constants.MAX_HTTP_DOWNLOAD_SIZE:,} at most in this way"
                ),
                fix=(
                    f"download it with `hf download {repository} {file.name} --revision {commit}`,"
                    " then pull again"
                ),
            )
        url = hf_hub_url(repository, file.name, revision=commit, endpoint=self.endpoint)
        with open(part, "ab") as stream:
            # Not asked to compress, the hub sends the bytes that the sizes and digests are of.
            headers = build_hf_headers(token=self.token, headers={"Accept-Encoding": "identity"})
            http_get(
                url,
                stream,
                resume_size=here,
                headers=headers,
                expected_size=file.size,
                tqdm_class=lambda **given: _Counter(file, int(given.get("initial") or 0), report),
            )

    def _check_disk(self, model: LockedModel) -> None:
        blobs = repository_folder(model.reference.name, self.environ) / "blobs"
        needed = 0
        for file in {file.blob: file for file in model.files}.values():
            if not (blobs / file.blob).exists():
                with contextlib.suppress(OSError):
                    needed -= min(file.size, (blobs / f"{file.blob}.part").stat().st_size)
                needed += file.size
        existing = next(folder for folder in (blobs, *blobs.parents) if folder.exists())
        free = self._free(existing)
        if needed and needed + SPARE_BYTES > free:
            raise UnresolvedModel(
                f"unresolved: '{model.reference}' does not fit on the disk of"
                f" {hub_cache(self.environ)}",
                why=f"{needed:,} bytes are needed, and {free:,} are free",
                fix="free some space, or set HF_HUB_CACHE to a larger disk",
            )


def _wanted(
    reference: Reference, known: Mapping[str, Any], variant: str | None, pickles: Sequence[str]
) -> list[str]:
    """Choose the files of a repository that a reference needs."""
    allowed = _references(pickles)
    if reference.parts is not None:
        wanted = completing_files(known, reference.parts, variant)
        lacking = [
            part
            for part in reference.parts
            if not any(name.startswith(f"{part}/") and is_weights(name) for name in wanted)
        ]
        if lacking or "model_index.json" not in wanted:
            raise UnusableModel(
                f"'{reference}' cannot complete a checkpoint",
                why=(
                    f"it has no weights of {' and '.join(lacking)}"
                    if lacking
                    else "it has no model_index.json"
                ),
            )
        return wanted
    if reference.file.endswith("/"):
        inside = [
            name.removeprefix(reference.file) for name in known if name.startswith(reference.file)
        ]
        wanted = [reference.file + name for name in needed_files(inside, variant)] + [
            name
            for name in sorted(known)
            if name.startswith(reference.file) and _file_of(reference, name) in allowed
        ]
        if not any(name.endswith((".safetensors", *PICKLES)) for name in wanted):
            folders = sorted(
                {
                    f"{name.rpartition('/')[0]}/"
                    for name in known
                    if "/" in name and is_weights(name)
                }
            )
            raise UnresolvedModel(
                f"unresolved: {reference.name} has no weights in a folder '{reference.file}' at"
                f" '{reference.revision or 'main'}'",
                fix=nearest(reference.file, folders, what="folders with weights are"),
            )
        return wanted
    if reference.file:
        if reference.file not in known:
            raise UnresolvedModel(
                f"unresolved: {reference.name} has no file '{reference.file}' at"
                f" '{reference.revision or 'main'}'",
                fix=nearest(
                    reference.file,
                    [name for name in known if is_weights(name)],
                    what="its weights are",
                ),
            )
        if reference.file.lower().endswith(PICKLES) and str(reference) not in allowed:
            raise UnusableModel(
                f"the model '{reference}' is a pickle",
                why=NO_PICKLES,
                fix=f"pass --allow-pickle {reference} if you trust it",
            )
        return [reference.file]
    held = variants(known)
    if variant and variant not in held:
        raise UnresolvedModel(
            f"unresolved: {reference.name} has no variant '{variant}' of its weights",
            fix=nearest(variant, held, what="it has") or "leave --variant out",
        )
    chosen = needed_files(known, variant) + [
        name for name in sorted(known) if _file_of(reference, name) in allowed
    ]
    weights = [name for name in chosen if name.endswith((".safetensors", *PICKLES))]
    if not weights:
        single = sorted(
            name
            for name in known
            if name.endswith(".gguf")
            or (name.endswith(".onnx") and INDEXES.isdisjoint(known) and "config.json" not in known)
        )
        if single:
            raise UnusableModel(
                f"the model '{reference}' consists of {len(single)} separate weights files",
                fix=f"name one, such as hf:{reference.name}@{reference.revision or 'main'}/{single[0]}",
            )
        pickled = sorted(name for name in known if name.lower().endswith(PICKLES))
        if pickled:
            fix = (
                "name a revision that has safetensors, or pass --allow-pickle"
                f" {replace(reference, file=pickled[0])} if you trust it"
            )
            raise UnusableModel(
                f"the model '{reference}' has its weights only as pickles ({pickled[0]})",
                why=NO_PICKLES,
                fix=fix,
            )
        raise UnusableModel(
            f"the model '{reference}' has no weights",
            why=f"none of its {len(known)} files ends in .safetensors",
            fix="",
        )
    if "model_index.json" in known and (
        pickled := [name for name in pickled_parts(known) if name not in chosen]
    ):
        fix = (
            "name a revision that has safetensors, or pass --allow-pickle"
            f" {replace(reference, file=pickled[0])} if you trust it"
        )
        raise UnusableModel(
            f"a part of the model '{reference}' has its weights only as pickles ({pickled[0]})",
            why=NO_PICKLES,
            fix=fix,
        )
    if (
        INDEXES.isdisjoint(known)
        and "config.json" not in known
        and len({name for name in weights if "-of-" not in name}) > 1
    ):
        raise UnusableModel(
            f"the model '{reference}' consists of {len(weights)} separate weights files",
            why=f"they are {', '.join(weights[:6])}{', …' if len(weights) > 6 else ''}",
            fix=f"name one, such as {_file_of(reference, weights[0])}"
            + (
                f", or a folder, such as {_file_of(reference, weights[0].rpartition('/')[0])}/"
                if "/" in weights[0]
                else ""
            ),
        )
    return chosen


def _file_of(reference: Reference, name: str) -> str:
    return str(replace(reference, file=name))


def _references(texts: Sequence[str]) -> set[str]:
    """Return the canonical spellings of those texts that are references."""
    found = set()
    for text in texts:
        with contextlib.suppress(BadReference):
            found.add(str(parse_reference(text)))
    return found


def _described(sibling: Any) -> LockedFile:
    """Return what the hub says of a file: its sha256 if it is in large-file storage, else its git
    digest.
    """
    return (
        LockedFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
        if sibling.lfs is not None
        else LockedFile(sibling.rfilename, sibling.size, "", sibling.blob_id)
    )


def _no_hub(reference: Reference, why: str) -> UnresolvedModel:
    return UnresolvedModel(
        f"unresolved: the server for '{reference}' is not a hub",
        why=why[:300],
        fix=(
            "check HF_ENDPOINT, and whether a proxy or a login page of your network answers instead"
            " of the hub"
        ),
    )


def _proxy(address: str) -> str:
    """Name the proxy for an address, without credentials."""
    from urllib.request import getproxies, proxy_bypass  # a client of HTTP, which no plan needs

    parts = urlsplit(address)
    try:
        if not parts.hostname or proxy_bypass(parts.hostname):
            return ""
        proxies = getproxies()
        named = proxies.get(parts.scheme) or proxies.get("all") or ""
        return named.rpartition("@")[2]
    except ValueError:
        return ""


def _license(info: Any) -> str:
    declared = getattr(info.card_data, "license", None) if info.card_data is not None else None
    name = getattr(info.card_data, "license_name", None) if info.card_data is not None else None
    found = name if declared in (None, "other") and name else declared
    if isinstance(found, list):
        found = ", ".join(map(str, found))
    tagged = next(
        (tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")), ""
    )
    return " ".join(str(found or tagged).split())[:100]


class _Counter:
    """Stands in for the library's progress bar: it draws nothing and reports how much is here."""

    def __init__(self, file: LockedFile, here: int, report: Report) -> None:
        self.file = file
        self.here = here
        self.report = report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        self.here += int(count or 0)
        self.report(self.file.name, self.here, self.file.size)


def _matches(path: Path, file: LockedFile) -> bool:
    """Whether a file's content has the size and digest in a lock."""
    if path.stat().st_size != file.size:
        return False
    return _sha256(path) == file.sha256 if file.sha256 else _git(path) == file.git


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git(path: Path) -> str:
    """Digest a file as git does."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _link(blob: Path, pointer: Path) -> None:
    """Link a snapshot's file to its blob, as the hub's libraries do; copy it where links are not
    possible.
    """
    target = os.path.relpath(blob, pointer.parent)
    if pointer.is_symlink() and os.readlink(pointer) == target:
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    aside = pointer.with_name(f".{pointer.name}.{os.getpid()}.part")
    try:
        aside.symlink_to(target)
    except (OSError, NotImplementedError):
        shutil.copyfile(blob, aside)
    os.replace(aside, pointer)


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if path.read_text("ascii") == text:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text(text, "ascii")
    os.replace(aside, path)


def _blobs(snapshot: Path) -> set[str]:
    """Name the blobs that a snapshot links to."""
    return {
        os.path.basename(os.readlink(link)) for link in snapshot.rglob("*") if link.is_symlink()
    }


def _size(folder: Path) -> int:
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def _first_line(fault: BaseException) -> str:
    return " ".join(str(fault).strip().split("\n", 1)[0].split())[:200] or type(fault).__name__
