"""Turn values into bytes and back, exactly, and without pickle.

Every kind has one encoding: plain data is canonical JSON; an 8-bit picture is a PNG; deeper
pictures, tensors and sound are safetensors (with at most one metadata key, since the library writes
several in no fixed order). A plugin's own type brings a `Codec`.

Bytes that come back are not trusted: anything wrong with them raises ValueError, and no more
memory is taken than the bytes can justify. Whether they are the *right* bytes is for the store to
say: it digests what was decoded.

A file, a folder or a model is encoded as where it lies, its size and its digest, not as its
content. Below `root` (the store's folder) places are written relative to it, so that a store can be
moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from .._system.dataclass import dataclass
from .artifact import Artifact
from .digest import canonical, tagged
from .models import Model
from .value_digests import digest_list, digest_value, kind_of
from .values import Absent, Audio, File, Folder, Image, Mask, Tensor

__all__ = ["Codec", "Codecs"]

#: How deep lists may nest in lists.
DEPTH = 32

_SUFFIX = re.compile(r"\.[a-z0-9]{1,12}\Z")
_DIGEST = re.compile(r"[0-9a-f]{40}\Z")
_PNG = b"\x89PNG\r\n\x1a\n"

#: Deflate cannot do better than this, so a PNG that promises more pixels is lying.
_DEFLATE_LIMIT = 1032

_BUILT_IN = frozenset(
    "bool int float text json list image mask tensor audio file folder model absent number union".split(),
)


@dataclass(frozen=True)
class Codec:
    """How a plugin's own type of value is kept.

    `encode` must be canonical: equal values give equal bytes, always, since the value's digest is
    over `kind` and these bytes. `decode` gets untrusted bytes and raises ValueError when they are
    odd. `kind` names the type in stores and messages (``module.Class`` by custom).
    """

    kind: str
    type: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    suffix: str = ".bin"

    def __post_init__(self) -> None:
        if (
            not self.kind
            or self.kind in _BUILT_IN
            or not self.kind.isprintable()
            or " " in self.kind
        ):
            raise ValueError(
                f"'{self.kind}' cannot name a kind of value: it is one word, and not one of"
                f" {', '.join(sorted(_BUILT_IN))}"
            )
        if not _SUFFIX.match(self.suffix):
            raise ValueError(
                f"codec of {self.kind}: '{self.suffix}' is not a file extension; write a dot and"
                " letters, like .bin"
            )


class Codecs:
    """The encodings in force: the built-in ones and those of the plugins. A value, made once and
    passed on.
    """

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._by_type: dict[type, Codec] = {}
        self._by_kind: dict[str, Codec] = {}
        for codec in codecs:
            other = self._by_kind.get(codec.kind) or self._by_type.get(codec.type)
            if other is not None:
                raise ValueError(
                    f"two codecs clash: '{codec.kind}' for"
                    f" {codec.type.__module__}.{codec.type.__qualname__} and '{other.kind}' for"
                    f" {other.type.__module__}.{other.type.__qualname__}"
                )
            self._by_type[codec.type] = self._by_kind[codec.kind] = codec

    def kind(self, value: Any) -> str:
        """Name the kind of a value; TypeError if it cannot cross an edge."""
        codec = self._of(value)
        return codec.kind if codec else kind_of(value)

    def digest(self, value: Any) -> str:
        """Digest a value of any kind; a list by its elements."""
        return self.artifact(value).digest

    def artifact(self, value: Any) -> Artifact:
        """Name a value: its digest and kind, and those of a list's elements.

        Raises:
            TypeError, ValueError: it has no digest (an unknown type, a number that is not finite,
                data that is not JSON).
        """
        return self._artifact(value, 0)

    def _artifact(self, value: Any, depth: int) -> Artifact:
        codec = self._of(value) if self._by_type else None
        if codec:
            return Artifact(tagged(codec.kind, codec.encode(value)), codec.kind)
        kind = kind_of(value)
        if kind != "list":
            return Artifact(digest_value(value, kind), kind)
        if depth >= DEPTH:
            raise ValueError(f"lists nest deeper than {DEPTH}")
        items = tuple([self._artifact(item, depth + 1) for item in value])
        return Artifact(digest_list(item.digest for item in items), "list", items)

    def _of(self, value: Any) -> Codec | None:
        return self._by_type.get(type(value))

    def encode(self, value: Any, root: Path | None = None) -> tuple[str, str, bytes]:
        """Encode a value that is no list: its kind, the ending of a file that holds it, and the
        bytes.
        """
        codec = self._of(value)
        if codec:
            return codec.kind, codec.suffix, codec.encode(value)
        kind = kind_of(value)
        if kind in _PLAIN:
            return kind, ".json", b"null" if kind == "absent" else canonical(value)
        if kind == "list":
            raise TypeError("a list is kept element by element")
        if kind in ("image", "mask"):
            return kind, *_encode_pixels(value.pixels)
        if kind == "tensor":
            return kind, ".safetensors", _encode_tensor(value)
        if kind == "audio":
            return kind, ".safetensors", _safetensors(value.samples, {"rate": value.rate})
        return kind, ".json", canonical(_PLACES[kind][0](value, root))

    def decode(self, kind: str, data: bytes, root: Path | None = None) -> Any:
        """Decode what `encode` gave. Raises ValueError for bytes that are no value of this kind."""
        try:
            return self._decode(kind, data, root)
        except Exception as error:  # whatever a decoder stumbles over, the bytes are at fault
            raise ValueError(f"no {kind}: {type(error).__name__}: {error}") from error

    def _decode(self, kind: str, data: bytes, root: Path | None) -> Any:
        codec = self._by_kind.get(kind)
        if codec:
            return codec.decode(data)
        if kind in ("image", "mask"):
            pixels = _decode_png(data) if data[:8] == _PNG else _read_safetensors(data)[0]
            return Image(pixels) if kind == "image" else Mask(pixels)
        if kind == "tensor":
            array, more = _read_safetensors(data)
            return Tensor(array, _mapping(more.get("tags", {})))
        if kind == "audio":
            array, more = _read_safetensors(data)
            return Audio(array, _whole(more.get("rate")))
        if kind in _PLACES:
            return _PLACES[kind][1](_mapping(_read_json(data)), root)
        if kind not in _PLAIN:
            raise ValueError(
                f"no codec for values of kind '{kind}'; the plugin that made it may be missing"
            )
        value = _read_json(data)
        wanted = _PLAIN[kind]
        if kind == "absent":
            return Absent.value
        if wanted and type(value) is not wanted:
            raise ValueError(f"no {kind}: {type(value).__name__}")
        return value


#: Kinds that are plain data, with the type that JSON gives them (None: any).
_PLAIN: dict[str, type | None] = {
    "bool": bool,
    "int": int,
    "float": float,
    "text": str,
    "json": None,
    "absent": None,
}


def _read_json(data: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(data.decode("utf-8", "surrogatepass"), parse_constant=refuse)


def _mapping(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"a mapping is wanted, not {type(data).__name__}")
    return data


def _whole(data: Any) -> int:
    if type(data) is not int or data < 0:
        raise ValueError(f"a whole number is wanted, not {data!r}")
    return data


def _encode_pixels(pixels: Any) -> tuple[str, bytes]:
    if pixels.dtype != "uint8":
        return ".safetensors", _safetensors(pixels, None)
    import PIL.Image

    out = BytesIO()
    PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(
        out, "PNG", compress_level=1
    )
    return ".png", out.getvalue()


def _decode_png(data: bytes) -> Any:
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    # Not Image.open: its limit on pixels is one for the whole process, and too low for pictures
    # that this project itself made.
    with PngImageFile(BytesIO(data)) as picture:
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(picture.mode)
        if channels is None:
            raise ValueError(f"a PNG of mode {picture.mode}")
        if picture.width * picture.height * channels > _DEFLATE_LIMIT * len(data):
            raise ValueError(
                f"a PNG of {len(data)} bytes cannot hold {picture.width} x {picture.height} pixels"
            )
        return np.array(picture)


def _safetensors(array: Any, more: dict[str, Any] | None) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    # A copy in order and in this machine's byte order, since the library writes memory as it lies.
    # asarray keeps a shape of () as it is.
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return save({"data": plain}, _metadata(more))


def _metadata(more: dict[str, Any] | None) -> dict[str, str] | None:
    # In ASCII, since a text here must be valid Unicode and a tag need not be.
    return {"imagen_flow": json.dumps(more, sort_keys=True)} if more else None


def _encode_tensor(value: Tensor) -> bytes:
    import numpy as np

    tags = {"tags": dict(value.tags)} if value.tags else None
    if isinstance(value.data, np.ndarray):
        return _safetensors(value.data, tags)
    tensor = value.data.detach().cpu().contiguous()
    if value.dtype != "bfloat16":
        return _safetensors(tensor.numpy(), tags)
    from safetensors.torch import save

    return save({"data": tensor.clone()}, _metadata(tags))


_DTYPES = {
    "BOOL": "bool",
    **{
        f"{letter}{bits}": f"{word}{bits}"
        for letter, word in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "C64": "complex64",
}


def _read_safetensors(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Give the one array of a safetensors file (torch's only if numpy has no such dtype) and what
    its metadata key says.
    """
    import numpy as np
    from safetensors import deserialize

    found = deserialize(data)  # type: ignore[no-untyped-call]
    if len(found) != 1 or found[0][0] != "data":
        raise ValueError("one array named data is wanted")
    entry = found[0][1]
    shape = tuple(entry["shape"])
    if entry["dtype"] == "BF16":
        import torch

        raw = np.frombuffer(entry["data"], dtype="<i2").astype("int16").reshape(shape)
        array: Any = torch.from_numpy(raw).view(torch.bfloat16)
    elif entry["dtype"] in _DTYPES:
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        array = (
            np.frombuffer(entry["data"], dtype=dtype.newbyteorder("<"))
            .astype(dtype, copy=False)
            .reshape(shape)
        )
    else:
        raise ValueError(f"an array of dtype {entry['dtype']}")
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    data = header.get("__metadata__", {}).get("imagen_flow")
    return array, {} if data is None else _mapping(json.loads(data))


def _place(path: Path, root: Path | None) -> dict[str, str]:
    if root is not None and path.is_relative_to(root):
        return {"in": path.relative_to(root).as_posix()}
    return {"path": str(path)}


def _read_path(data: dict[str, Any], root: Path | None) -> Path:
    if "path" in data:
        return Path(_text(data["path"]))
    if root is None:
        raise ValueError("a path inside a store that is not given")
    return root.joinpath(*inside(_text(data.get("in"))))


def inside(name: str) -> tuple[str, ...]:
    """Split a relative name with ``/``; one that could leave its folder raises ValueError."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or any(part == ".." or "\\" in part or ":" in part or "\0" in part for part in parts)
    ):
        raise ValueError(f"'{name}' is no name inside a folder")
    return parts


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise ValueError(f"text is wanted, not {type(data).__name__}")
    return data


def _read_digest(data: Any) -> str:
    if not isinstance(data, str) or not _DIGEST.match(data):
        raise ValueError(f"{data!r} is no digest")
    return data


def _encode_file(value: File, root: Path | None) -> dict[str, Any]:
    return {
        "digest": value.digest,
        "size": value.size,
        "name": value.name,
        **({"significant_name": value.significant_name} if value.significant_name else {}),
        **_place(value.path, root),
    }


def _decode_file(data: dict[str, Any], root: Path | None) -> File:
    return File(
        _read_path(data, root),
        _read_digest(data.get("digest")),
        _whole(data.get("size")),
        _text(data.get("name")),
        _text(data.get("significant_name", "")),
    )


def _encode_folder(value: Folder, root: Path | None) -> dict[str, Any]:
    files = [{"name": f.name, "digest": f.digest, "size": f.size} for f in value.files]
    return {"digest": value.digest, "files": files, **_place(value.path, root)}


def _decode_folder(data: dict[str, Any], root: Path | None) -> Folder:
    path = _read_path(data, root)
    files = []
    for entry in data["files"]:
        name = _text(entry.get("name"))
        files.append(
            File(
                path.joinpath(*inside(name)),
                _read_digest(entry.get("digest")),
                _whole(entry.get("size")),
                name,
            )
        )
    return Folder(path, _read_digest(data.get("digest")), tuple(files))


def _encode_model(value: Model, root: Path | None) -> dict[str, Any]:
    return {"digest": value.digest, "reference": value.reference, **_place(value.path, root)}


def _decode_model(data: dict[str, Any], root: Path | None) -> Model:
    return Model(
        _read_path(data, root), _read_digest(data.get("digest")), _text(data.get("reference"))
    )


_PLACES: dict[
    str,
    tuple[
        Callable[[Any, Path | None], dict[str, Any]], Callable[[dict[str, Any], Path | None], Any]
    ],
] = {
    "file": (_encode_file, _decode_file),
    "folder": (_encode_folder, _decode_folder),
    "model": (_encode_model, _decode_model),
}
