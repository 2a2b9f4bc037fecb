"""Find models, name them by what they hold, and keep them loaded for as long as they are needed.

`resolve` turns a reference into files on this machine and a fingerprint, without torch and without the network. `ModelPool` holds what is loaded: each model once,
leased to whoever runs, dropped in the order in which the plan needs it last. A loader is any class with
``load(model, *, device, dtype)``; what it returns is shared by all who lease it, so nobody may change it.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from .digest import tagged
from .errors import Mark, ModelError, Problem, nearest
from .values import Model

__all__ = [
    "BadReference",
    "Identity",
    "ModelPool",
    "Reference",
    "UnresolvedModel",
    "UnusableModel",
    "hub_cache",
    "identity_of",
    "is_out_of_memory",
    "parse_reference",
    "resolve",
    "size_of",
    "with_memory_ladder",
]

T = TypeVar("T")


# --- references ------------------------------------------------------------------------------------------------------------------


class BadReference(ValueError):
    """A text is no reference to a model; `fix` says what may be written instead."""

    code = "bad-model"

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix

    def problem(self, mark: Mark | None = None) -> Problem:
        return Problem(self.code, str(self), mark, why=_SPELLINGS, fix=self.fix)


class UnresolvedModel(ModelError):
    """A model of the hub is not on this machine, or not whole; `fix` says how to get it."""

    code = "unresolved-model"

    def __init__(self, message: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.why = why
        self.fix = fix

    def problem(self, mark: Mark | None = None) -> Problem:
        return Problem(self.code, str(self), mark, why=self.why, fix=self.fix)


class UnusableModel(ModelError):
    """What a reference leads to is no model that can be loaded; `why` and `fix` say more."""

    code = "bad-model"

    def __init__(self, message: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.why = why
        self.fix = fix

    def problem(self, mark: Mark | None = None) -> Problem:
        return Problem(self.code, str(self), mark, why=self.why, fix=self.fix)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as written: `kind` is ``embedded``, ``hf`` or ``path``; `name` is the rest of it, `revision` a branch, tag or commit of the hub."""

    kind: str
    name: str
    revision: str = ""


_SPELLINGS = "a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~"
_PATH = re.compile(r"(\.{1,2}|~[^/\\]*)?[/\\]|~\Z|[A-Za-z]:[/\\]")
_EMBEDDED = re.compile(r"embedded/[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?\Z")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")


def parse_reference(text: str) -> Reference:
    """Read a reference to a model.

    Raises:
        BadReference: it is none; `fix` offers the spellings that it may have meant.
    """
    shown = text if len(text) <= 80 else text[:77] + "…"
    if "\0" in text or "\n" in text:
        raise BadReference(f"{shown!r} is no reference to a model", fix=_SPELLINGS)
    if _EMBEDDED.match(text):
        return Reference("embedded", text)
    if text.startswith("hf:"):
        name, at, revision = text[3:].partition("@")
        if not _REPOSITORY.match(name) or ".." in name or "--" in name:
            raise BadReference(f"'{shown}' names no repository of the hub", fix="write it as hf:org/name or hf:org/name@revision")
        if at and (not _REVISION.match(revision) or ".." in revision):
            raise BadReference(f"'{shown}' names no revision", fix=f"a revision is a branch, a tag or a commit: hf:{name}@main")
        return Reference("hf", name, revision)
    if _PATH.match(text):
        return Reference("path", text)
    hub = re.match(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:/tree/([^?#]+))?", text)
    if hub and _REPOSITORY.match(hub[1]):
        raise BadReference(f"'{shown}' is no reference to a model", fix=f"write 'hf:{hub[1]}{'@' + hub[2] if hub[2] else ''}'")
    if text and _REPOSITORY.match(text.partition("@")[0]):
        if "/" in text:
            raise BadReference(
                f"'{shown}' may be a repository of the hub or a folder", fix=f"write 'hf:{text}' for the hub, or './{text}' for a folder beside the graph"
            )
        raise BadReference(
            f"'{shown}' is no reference to a model",
            fix=f"write 'embedded/{text}' for a model that comes with a plugin, 'hf:org/{text}' for the hub, or './{text}' for a file or folder beside the graph",
        )
    raise BadReference(f"'{shown}' is no reference to a model" if text else "the reference to a model is empty", fix=_SPELLINGS)


# --- from a reference to files ---------------------------------------------------------------------------------------------------

# Files that have no say in what a model computes: formats that are never loaded, documents and pictures.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DOCUMENTS = (".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4")
_FOREIGN = (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel", ".pb", ".xml")
_UNFINISHED = (".part", ".lock")
_NO_PART = frozenset(_PICKLES + _DOCUMENTS + _FOREIGN + _UNFINISHED)
_MOST_FILES = 10_000


def resolve(
    text: str,
    *,
    folder: Path,
    embedded: Mapping[str, Path],
    digest: Callable[[Path], str],
    environ: Mapping[str, str] = os.environ,
) -> Model:
    """Find a model on this machine and give its fingerprint. Uses neither the network nor torch.

    Params:
        folder: what relative paths are relative to.
        embedded: models that come with plugins, by reference.
        digest: gives the digest of a file's content (memoised by whoever plans).
        environ: says where the hub's cache lies.
    Outputs: the model; its fingerprint is over the names and contents of the files that have a say in what it computes.
    Raises:
        BadReference: the text is no reference.
        UnresolvedModel: the hub's cache does not hold it.
        UnusableModel: there is nothing there, or nothing that can be loaded.
    """
    reference = parse_reference(text)
    if reference.kind == "embedded":
        if text not in embedded:
            raise UnusableModel(f"no plugin brings a model '{text}'", why=f"they bring: {', '.join(sorted(embedded)) or 'none'}", fix=nearest(text, embedded))
        return Model(embedded[text], _fingerprint(embedded[text], text, digest), text)
    if reference.kind == "hf":
        snapshot = _snapshot(reference, text, environ)
        return Model(snapshot, _fingerprint(snapshot, text, lambda path: _recorded(path) or digest(path)), text)
    path = Path(os.path.normpath(folder / Path(reference.name).expanduser()))
    return Model(path, _fingerprint(path, text, digest), text)


def size_of(model: Model) -> int:
    """Give the bytes of a model's weights on disk; of several precisions of the same weights, the plain one counts."""
    if model.path.is_file():
        return model.path.stat().st_size
    weights = [(name, path) for name, path in _files(model.path, model.reference) if path.suffix == ".safetensors"]
    names = {name for name, _ in weights}
    has_parts = (model.path / "model_index.json").exists()
    return sum(
        path.stat().st_size
        for name, path in weights
        if not (re.sub(r"\.[a-z0-9_]+(?=(-\d{5}-of-\d{5})?\.safetensors\Z)", "", name) in names - {name} or (has_parts and "/" not in name))
    )


def _fingerprint(path: Path, reference: str, digest: Callable[[Path], str]) -> str:
    """Name a model by its files; refuse one that cannot be loaded."""
    if path.is_file():
        if path.suffix.lower() in _PICKLES:
            raise UnusableModel(f"the model '{reference}' is a pickle", why=_NO_PICKLES, fix="convert it to safetensors")
        if path.suffix.lower() != ".safetensors":
            raise UnusableModel(f"the model '{reference}' is no weights file", why="only .safetensors files and folders that hold some are loaded", fix="")
        _check_weights(path, reference)
        return tagged("model-file", digest(path).encode())
    if not path.is_dir():
        raise UnusableModel(f"the model '{reference}' does not exist", why=f"there is no {path}", fix=_beside(path))
    files = list(_files(path, reference))
    weights = [file for _, file in files if file.suffix == ".safetensors"]
    if not weights:
        pickles = sorted(name for name, file in files if file.suffix in _PICKLES)
        if pickles:
            raise UnusableModel(f"the model '{reference}' has its weights only as pickles ({pickles[0]})", why=_NO_PICKLES, fix="convert it to safetensors")
        raise UnusableModel(f"the model '{reference}' has no weights", why=f"there is no .safetensors file in {path}", fix=_subfolder(path))
    for file in weights:
        _check_weights(file, reference)
    for name, file in files:
        if name.endswith(".safetensors.index.json"):
            _check_shards(file, reference)
    parts = [(name.encode(), digest(file).encode()) for name, file in files if file.suffix.lower() not in _NO_PART]
    return tagged("model-folder", *(part for pair in parts for part in pair))


_NO_PICKLES = "a pickle can run any code when it is loaded, so only safetensors are"


def _files(folder: Path, reference: str) -> Iterator[tuple[str, Path]]:
    """List a folder's files by relative name with ``/``, sorted; hidden ones are left out."""
    found: list[tuple[str, Path]] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [(Path(root, name).relative_to(folder).as_posix(), Path(root, name)) for name in names if not name.startswith(".")]
        if len(found) > _MOST_FILES:
            raise UnusableModel(f"the model '{reference}' is no model's folder", why=f"it holds more than {_MOST_FILES} files", fix=_subfolder(folder))
    yield from sorted(found)


def _beside(path: Path) -> str:
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()][:1000], what=f"in {path.parent} there are")
    except OSError:
        return f"there is no folder {path.parent} either"


def _subfolder(path: Path) -> str:
    parts = sorted(entry.parent.name for entry in path.glob("*/model_index.json")) or sorted(entry.parent.name for entry in path.glob("*/config.json"))
    return f"did you mean the folder '{parts[0]}' in it?" if parts else "name a folder as diffusers or transformers save it, or a .safetensors file"


def _check_weights(path: Path, reference: str) -> dict[str, Any]:
    """Read a safetensors file's header and compare its size with the file's, so that a torn download is told before anything runs."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            if head.startswith(b"version "):
                raise UnusableModel(f"the model '{reference}' holds a pointer in place of {path.name}", why="it was cloned without Git LFS", fix="run `git lfs pull` in its folder")
            if len(head) < 8 or length > min(size - 8, 100_000_000):
                raise ValueError("its header does not fit in it")
            header: dict[str, Any] = json.loads(stream.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if 8 + length + end != size:
            raise ValueError(f"it has {size} bytes, and its header says {8 + length + end}")
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise UnresolvedModel(f"unresolved: '{reference}' is not whole", why=f"{path.name} leads nowhere", fix="download it again") from error
        raise UnusableModel(f"the model '{reference}' cannot be read", why=str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise UnusableModel(f"the model '{reference}' is damaged: {path.name} is no whole safetensors file", why=str(error)[:200], fix="copy or download it again") from error
    return header


def _check_shards(index: Path, reference: str) -> None:
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in named if not (index.parent / str(name)).exists())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableModel(f"the model '{reference}' is damaged: {index.name} cannot be read", why=str(error)[:200], fix="copy or download it again") from error
    if missing:
        raise UnresolvedModel(f"unresolved: '{reference}' is not whole", why=f"{len(missing)} of {len(named)} files of weights are missing, {missing[0]} first", fix="download it again")


# --- the hub's cache -------------------------------------------------------------------------------------------------------------


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the hub's libraries keep what they downloaded."""
    for name, below in (("HF_HUB_CACHE", ()), ("HUGGINGFACE_HUB_CACHE", ()), ("HF_HOME", ("hub",)), ("XDG_CACHE_HOME", ("huggingface", "hub"))):
        if environ.get(name):
            return Path(environ[name], *below).expanduser()
    return Path.home() / ".cache" / "huggingface" / "hub"


def _snapshot(reference: Reference, text: str, environ: Mapping[str, str]) -> Path:
    """Find the folder of a repository's revision: a branch or tag by its recorded commit, a commit by its first digits."""
    cache = hub_cache(environ)
    repository = cache / ("models--" + reference.name.replace("/", "--"))
    revision = reference.revision or "main"
    at = f" --revision {revision}" if reference.revision else ""
    missing = UnresolvedModel(
        f"unresolved: '{text}' is not on this machine",
        why=f"the hub's cache {cache} does not hold {'revision ' + revision + ' of it' if repository.is_dir() else 'it'}",
        fix=f"run `hf download {reference.name}{at}`",
    )
    try:
        commit = (repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
        if re.fullmatch(r"[0-9a-f]{6,40}", revision):
            try:
                known = sorted(entry.name for entry in (repository / "snapshots").iterdir() if entry.name.startswith(revision))
            except OSError:
                known = []
            if len(known) > 1:
                raise UnresolvedModel(f"unresolved: '{text}' names {len(known)} commits", why=f"they are {', '.join(known)}", fix="write more digits of the commit") from None
            commit = known[0] if known else ""
    if not re.fullmatch(r"[0-9a-f]{6,64}", commit):
        raise missing
    snapshot = repository / "snapshots" / commit
    if not snapshot.is_dir():
        raise missing
    return snapshot


def _recorded(path: Path) -> str:
    """Give the digest under which the hub's cache holds a file: its sha256, or the git digest of a small one; nothing if it is no link into the cache."""
    try:
        blob = Path(os.readlink(path))
    except OSError:
        return ""
    return blob.name if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else ""


# --- the pool --------------------------------------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """What makes two loaded models the same model."""

    fingerprint: str
    loader: str
    device: str
    dtype: str


def identity_of(loader: Any, model: Model, *, device: str, dtype: str) -> Identity:
    """Name what ``lease`` would load, e.g. to plan ahead."""
    if not model.digest:
        raise ModelError(f"the model '{model.reference or model.path.name}' has no fingerprint")
    return Identity(model.digest, f"{loader.__module__}.{loader.__qualname__}", device, dtype)


@dataclass(eq=False)
class _Resident:
    """A model in the pool: being loaded until `ready` is set, then `value`, or `failure`."""

    identity: Identity
    size: int
    value: Any = None
    failure: BaseException | None = None
    leases: int = 0
    used: int = 0
    ready: threading.Event = field(default_factory=threading.Event)


class ModelPool:
    """Keeps loaded models: each once, shared, counted, and dropped by what the plan needs last.

    A value owned by whoever runs. Threads may share it. `budget_bytes` is what the models on one device may weigh: before a load that would exceed it, idle
    models are dropped; it is an aim, for what is leased stays, and a single model may be larger.
    """

    def __init__(self, *, budget_bytes: int | None = None) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._residents: dict[Identity, _Resident] = {}
        self._ahead: list[Identity] = []
        self._clock = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def lease(self, loader: Any, model: Model, *, device: str, dtype: str) -> Iterator[Any]:
        """Give what ``loader.load(model, device=…, dtype=…)`` gives, loaded at most once, for as long as the context lasts.

        A loader with ``parts(model)`` (loaders by name) loads nothing itself: each part is leased as it would be alone, and ``loader.assemble(model, parts)`` puts
        them together for this lease. So whoever needs some parts shares them with whoever needs all.

        Raises:
            ModelError: it cannot be loaded; the cause is chained. A later lease tries again.
        """
        if hasattr(loader, "parts"):
            with ExitStack() as leases:
                lent = {name: leases.enter_context(self.lease(part, model, device=device, dtype=dtype)) for name, part in loader.parts(model).items()}
                yield loader.assemble(model, lent)
            return
        resident = self._acquire(identity_of(loader, model, device=device, dtype=dtype), loader, model)
        try:
            yield resident.value
        finally:
            with self._lock:
                resident.leases -= 1
                if self._closed and not resident.leases:
                    self._residents.pop(resident.identity, None)

    def plan_ahead(self, identities: Iterable[Identity]) -> None:
        """Say which models will be needed, in order and as often as they will be. Replaces what was said before; each lease uses up its first mention."""
        with self._lock:
            self._ahead = list(identities)

    def evict_idle(self, which: Callable[[Identity], bool] = lambda _: True) -> int:
        """Drop the models that nobody leases (of those, the ones that `which` picks) and give their memory back. Returns how many."""
        with self._lock:
            idle = [r for r in self._idle() if which(r.identity)]
            for resident in idle:
                del self._residents[resident.identity]
        count = len(idle)
        del idle
        if count:
            _give_back()
        return count

    def resident(self) -> list[Identity]:
        """List the models that are loaded, sorted."""
        with self._lock:
            return sorted(r.identity for r in self._residents.values() if r.ready.is_set())

    def close(self) -> None:
        """Drop every model: idle ones now, leased ones when they are given back. No lease is given any more."""
        with self._lock:
            self._closed = True
        self.evict_idle()

    def _idle(self) -> list[_Resident]:
        return [r for r in self._residents.values() if r.ready.is_set() and not r.leases]

    def _acquire(self, identity: Identity, loader: Any, model: Model) -> _Resident:
        while True:
            with self._lock:
                if self._closed:
                    raise ModelError("the model pool is closed")
                resident = self._residents.get(identity)
                mine = resident is None
                if resident is None:
                    resident = self._residents[identity] = _Resident(identity, 0)
                resident.leases += 1
                self._clock += 1
                resident.used = self._clock
                if identity in self._ahead:
                    self._ahead.remove(identity)
            if mine:
                self._load(resident, loader, model)
                return resident
            resident.ready.wait()
            if resident.failure is None:
                return resident
            if isinstance(resident.failure, ModelError):
                raise ModelError(str(resident.failure)) from resident.failure.__cause__
            # The thread that was loading it was interrupted: this one tries itself.

    def _load(self, resident: _Resident, loader: Any, model: Model) -> None:
        """Load into `resident`, after making room; wake whoever waits for it, whatever happens."""
        try:
            if self.budget_bytes is not None:
                resident.size = getattr(loader, "size_of", size_of)(model)
                self._make_room(resident)
            resident.value = self._loaded(resident.identity, loader, model)
        except BaseException as failure:
            resident.failure = failure
            with self._lock:
                self._residents.pop(resident.identity, None)
            raise
        finally:
            resident.ready.set()

    def _loaded(self, identity: Identity, loader: Any, model: Model) -> Any:
        def load() -> Any:
            try:
                with _plain_tensors():
                    return loader.load(model, device=identity.device, dtype=identity.dtype)
            except ModelError:
                raise
            except Exception as cause:
                if is_out_of_memory(cause):
                    raise
                said = " ".join(str(cause).split())[:300]
                raise ModelError(
                    f"the model '{model.reference or model.path}' cannot be loaded by {loader.__qualname__}: {type(cause).__name__}{f': {said}' if said else ''}"
                ) from cause

        try:
            return with_memory_ladder(lambda _: load(), self)[0]
        except ModelError:
            raise
        except Exception as cause:
            raise ModelError(f"there is not enough memory on {identity.device} for the model '{model.reference or model.path}'") from cause

    def _make_room(self, coming: _Resident) -> None:
        """Drop idle models on the same device until the coming one fits in the budget: first what is never needed, then what is needed last."""
        assert self.budget_bytes is not None
        dropped = False
        with self._lock:
            here = [r for r in self._residents.values() if r.identity.device == coming.identity.device]
            weight = sum(r.size for r in here)
            idle = sorted((r for r in self._idle() if r in here), key=self._need, reverse=True)
            for resident in idle:
                if weight <= self.budget_bytes:
                    break
                del self._residents[resident.identity]
                weight -= resident.size
                dropped = True
            del idle, here
        if dropped:
            _give_back()

    def _need(self, resident: _Resident) -> tuple[float, int]:
        """Order by how far ahead a model is needed next, then by how long ago it was used."""
        next_need = self._ahead.index(resident.identity) if resident.identity in self._ahead else float("inf")
        return next_need, -resident.used


def _plain_tensors() -> Any:
    """Weights outlive the call that loads them: tensors made in inference mode could never be trained or changed again."""
    torch = sys.modules.get("torch")
    return torch.inference_mode(False) if torch is not None and hasattr(torch, "inference_mode") else nullcontext()


def _give_back() -> None:
    """Free what nothing refers to any more, here and on the devices."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if hasattr(torch, "mps") and torch.backends.mps.is_available():
        torch.mps.empty_cache()


# --- when memory runs out --------------------------------------------------------------------------------------------------------

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|(CUDNN|CUBLAS|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED|Invalid buffer size", re.IGNORECASE
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, is that memory ran out: torch's own class, or one of the messages of the libraries below it."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
            return True
        error = error.__cause__
    return False


def with_memory_ladder(call: Callable[[tuple[str, ...]], T], pool: ModelPool, rungs: Sequence[str] = ("evict",)) -> tuple[T, tuple[str, ...]]:
    """Call, and if memory runs out step down the ladder and call again.

    Params:
        call: gets the rungs taken so far; what it leased outside is not evicted under it.
        rungs: in order. Before each further try idle models are dropped; rungs other than ``evict`` are for `call` to act on.
    Outputs: what `call` gave, and the rungs that it took.
    Raises: what `call` raised, when the last rung did not help either, or when it was not for want of memory.
    """
    taken: tuple[str, ...] = ()
    for rung in rungs:
        try:
            return call(taken), taken
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here, outside the except block, is the traceback gone that kept the failed call's tensors alive.
        if not pool.evict_idle():
            _give_back()
        taken += (rung,)
    return call(taken), taken
