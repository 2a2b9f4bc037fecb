"""Values that may cross an edge, and the markers that a node's signature may use.

Plain Python stands for itself: `str`, `int`, `float`, `bool` and JSON data. The classes here are
    the rest. They are
frozen: a node that wants another picture makes another picture. Pixels are numpy arrays in one
    stated form, so that a plugin
never has to ask which of five conventions it was handed.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from .._system.dataclass import dataclass
from .._system.regular_files import open_regular
from .digest import digest_bytes

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


__all__ = [
    "Absent",
    "Audio",
    "Bool",
    "Device",
    "File",
    "FileChanged",
    "Folder",
    "Image",
    "Json",
    "List",
    "Mask",
    "NamedFile",
    "Number",
    "Progress",
    "Range",
    "FallbackLevels",
    "Scratch",
    "Seed",
    "Steps",
    "Tensor",
    "Text",
    "Value",
]

T = TypeVar("T")

Text = str
Bool = bool
Number = int | float
List = list


class _JsonMarker:
    """Marks a port that takes any JSON data: mapping, list, text, number, truth value or null."""


Json = Annotated[Any, _JsonMarker()]


class _ValueMarker:
    """Marks a port that takes any value whatever."""


#: Any value that can cross an edge. An output of this type fits every port; what flows is checked
# when the step runs.
Value = Annotated[Any, _ValueMarker()]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included; None is unbounded. Used as ``Annotated[int, Range(1,
    100)]``.
    """

    min: float | None = None
    max: float | None = None


class _SeedMarker:
    """Marks an integer that seeds random numbers."""


#: A whole number from 0 to 2**63 - 1 that seeds random numbers. `repeat` and sweeps derive new
# ones from it.
Seed = Annotated[int, Range(0, 2**63 - 1), _SeedMarker()]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long node has come: yielded by the node itself. `done` never goes back; `preview`
    is an Image or None.

    `note` is a warning about the result (a word that the model does not know): it is kept with the
    result, and shown again when that comes from the store. In a function for many items, `item` is
    the position of the one that it concerns; None means all. `status` is a word on the work itself
    (the loss of a training): it is shown while the node runs, and not kept.
    """

    done: int
    total: int
    note: str = ""
    preview: Any = None
    item: int | None = None
    status: str = ""


#: What a long node returns: it yields Progress and returns its outputs. ``def f(…) ->
# Steps[Image]: …``
Steps = Generator[Progress, None, T]


class Absent:
    """The value of an output that has none this time (see `when`). There is one: ``Absent.value``."""

    value: Absent

    def __repr__(self) -> str:
        return "absent"

    def __bool__(self) -> bool:
        return False


Absent.value = Absent()


_PIXEL_TYPES = ("uint8", "uint16", "float32")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture: `pixels` of shape (height, width, channels), in sRGB.

    Channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (straight, not premultiplied). The
        dtype is uint8 or uint16 over
    their whole range, or float32 from 0 to 1 (values outside are kept: clip when you need to). A
    (height, width) array gains its channel axis.
    NaN and infinite pixels are refused with a ValueError.
    """

    pixels: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", _checked_pixels(self.pixels, "a picture", (1, 2, 3, 4)))

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def has_alpha(self) -> bool:
        return self.channels in (2, 4)

    @classmethod
    def from_pil(cls, picture: PIL.Image.Image) -> Image:
        """Take a Pillow picture of any mode, at its own depth.

        L, LA, RGB and RGBA are taken as they are. The modes of 16 bits (``I;16`` …) become uint16,
        ``I`` too where its values are those of 16 bits; ``F`` becomes float32 with its
        values as they stand, so 1 is white. All else is converted to RGB, with alpha if it has
        transparency; so does a colour that `info` names as transparent become alpha.

        Raises:
            ValueError: mode I with values outside of 0 to 65535, or mode F with NaN or infinite
                ones.
        """
        import numpy as np

        mode = picture.mode
        clear = picture.info.get("transparency")
        if mode in ("I", "F") or mode.startswith("I;16"):
            pixels = np.array(picture)
            if mode == "F":
                return cls(pixels)
            if mode == "I" and (pixels.min() < 0 or pixels.max() > 65535):
                raise ValueError(
                    f"a Pillow picture of mode I has values from {pixels.min()} to {pixels.max()},"
                    " and of these no white is known; bring them to 0 to 65535, or to floats from"
                    " 0 to 1 (mode F)"
                )
            pixels = pixels.astype("uint16")[:, :, None]
            if isinstance(clear, int):
                pixels = np.concatenate(
                    [pixels, np.where(pixels == clear, np.uint16(0), np.uint16(65535))], axis=2
                )
            return cls(pixels)
        if clear is not None and mode in ("1", "L", "RGB"):
            if mode == "1":
                picture = picture.convert("L")
                picture.info["transparency"] = 255 if clear else 0
            picture = picture.convert("RGBA" if mode == "RGB" else "LA")
        elif mode == "La":
            picture = picture.convert("LA")
        elif mode not in ("L", "LA", "RGB", "RGBA"):
            picture = picture.convert(
                "RGBA"
                if mode in ("PA", "RGBa")
                or clear is not None
                or (mode == "P" and _has_alpha(picture))
                else "RGB"
            )
        return cls(np.array(picture))

    def to_pil(self) -> PIL.Image.Image:
        """Give an 8-bit Pillow picture of mode L, LA, RGB or RGBA."""
        import PIL.Image

        pixels = self.as_uint8().pixels
        return PIL.Image.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels)

    def _repr_png_(self) -> bytes:
        """Show the picture in a notebook, in 8 bits."""
        out = BytesIO()
        self.to_pil().save(out, "PNG", compress_level=1)
        return out.getvalue()

    def as_uint8(self) -> Image:
        """Give the same picture in 8 bits (rounded, clipped)."""
        return self if self.pixels.dtype == "uint8" else Image(_as_uint8(self.pixels))

    def as_float(self) -> Image:
        """Give the same picture as float32 from 0 to 1."""
        return self if self.pixels.dtype == "float32" else Image(_as_float(self.pixels))

    def rgb(self) -> Image:
        """Give three channels: grey is repeated, alpha is laid over black."""
        import numpy as np

        if self.channels == 3:
            return self
        pixels = self.pixels
        if self.has_alpha:
            unit = _as_float(pixels)
            laid = unit[:, :, :-1] * unit[:, :, -1:]
            pixels = laid if pixels.dtype == "float32" else _from_float(laid, pixels.dtype)
        return Image(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Where something applies: `pixels` of shape (height, width, 1), dtypes as for Image; 0 is
    outside, full range inside.
    """

    pixels: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", _checked_pixels(self.pixels, "a mask", (1,)))

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def _repr_png_(self) -> bytes:
        """Show the mask in a notebook, in 8 bits."""
        return Image(self.pixels)._repr_png_()

    def as_float(self) -> np.ndarray:
        """Give the (height, width) weights as float32 from 0 to 1."""
        return _as_float(self.pixels)[:, :, 0]


def _has_alpha(picture: PIL.Image.Image) -> bool:
    """Whether a palette holds alpha itself."""
    return picture.palette is not None and picture.palette.mode.endswith("A")


def _checked_pixels(pixels: Any, what: str, channels: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    array = np.asarray(pixels)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype in ("float64", "float16"):
        array = array.astype("float32")
    if array.dtype == "bool":
        array = array.astype("uint8") * np.uint8(255)
    if array.ndim != 3 or array.shape[2] not in channels:
        raise ValueError(
            f"{what} is (height, width, channels) with {' or '.join(map(str, channels))} channels,"
            f" not {array.shape}"
        )
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{what} has at least one pixel, not {array.shape[1]} x {array.shape[0]}")
    if array.dtype.name not in _PIXEL_TYPES:
        raise ValueError(f"{what} is of dtype {', '.join(_PIXEL_TYPES)}, not {array.dtype}")
    if array.dtype == "float32" and not np.isfinite(array).all():
        raise ValueError(f"{what} has NaN or infinite pixels")
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def _as_float(pixels: np.ndarray) -> np.ndarray:
    import numpy as np

    scale = {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name)
    return pixels.astype("float32") / np.float32(scale) if scale else pixels


def _from_float(pixels: np.ndarray, dtype: Any) -> np.ndarray:
    import numpy as np

    full = 255 if np.dtype(dtype) == "uint8" else 65535
    return (np.clip(pixels, 0, 1) * full + np.float32(0.5)).astype(dtype)


def _as_uint8(pixels: np.ndarray) -> np.ndarray:
    import numpy as np

    if pixels.dtype == "uint16":
        return ((pixels.astype("uint32") + 128) // 257).astype("uint8")
    return _from_float(pixels, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Numbers with a shape: `data` is a numpy array or a torch tensor, on whatever device it was
    made; `tags` say what it is.

    Whoever needs the other form asks for it: `numpy()` copies to the host, `torch()` to a device.
    """

    data: Any
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> str:
        """The dtype's plain name, e.g. ``float32`` or ``bfloat16``."""
        return str(self.data.dtype).removeprefix("torch.")

    def numpy(self) -> np.ndarray:
        """Give a host array. bfloat16, which numpy lacks, comes as float32."""
        import numpy as np

        if isinstance(self.data, np.ndarray):
            return self.data
        tensor = self.data.detach().cpu()
        return np.asarray((tensor.float() if self.dtype == "bfloat16" else tensor).numpy())

    def torch(self, device: Any = None, dtype: Any = None) -> Any:
        """Give a torch tensor on `device` (default: where it lies)."""
        import torch

        tensor = (
            self.data if isinstance(self.data, torch.Tensor) else torch.from_numpy(self.data.copy())
        )
        return (
            tensor.to(device=device, dtype=dtype)
            if device is not None or dtype is not None
            else tensor
        )


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Sound: `samples` of shape (channels, count), float32 from -1 to 1, at `rate` samples a
    second.
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        import numpy as np

        samples = np.ascontiguousarray(self.samples, dtype="float32")
        samples = samples[None] if samples.ndim == 1 else samples
        if samples.ndim != 2:
            raise ValueError(f"sound is (channels, count), not {samples.shape}")
        object.__setattr__(self, "samples", samples)


class FileChanged(Exception):
    """A file no longer has the content that was digested. The runner takes this as: key the step
    anew.
    """


@dataclass(frozen=True, slots=True)
class File:
    """A file by its content and its ending: `digest` is of the bytes seen when planning, and
    reading gives those bytes or raises FileChanged.

    A node that is given a file sees a `name` and a `path` that are made of its content, since no
    key knows what the file is called; in what the node raises they are replaced by the real ones.
    A node that needs the name takes a `NamedFile`: then the name is part of the value, and `name`
    is the real one.
    """

    path: Path
    digest: str
    size: int
    #: The name as the user knows it, for messages. Only its ending is part of the value.
    name: str = ""
    #: The name where it is part of the value: relative to the folder that the file was listed from,
    #: with ``/``, else the file's own name.
    significant_name: str = ""

    def __post_init__(self) -> None:
        name = self.significant_name
        if name and ("\0" in name or any(part in ("", ".", "..") for part in name.split("/"))):
            raise ValueError(f"'{name}' is not the name of a file, relative to its folder")

    @property
    def suffix(self) -> str:
        """The ending in lower case, e.g. ``.png``."""
        return os.path.splitext(self._called)[1].lower()

    @property
    def stem(self) -> str:
        """The name without its folders and its ending."""
        return PurePosixPath(self._called).stem

    @property
    def folder(self) -> str:
        """The folders of the name, with ``/``; empty if it has none."""
        return self._called.rpartition("/")[0]

    @property
    def _called(self) -> str:
        return self.significant_name or self.name or self.path.name

    def read_bytes(self) -> bytes:
        """Give the content, checked against the digest."""
        try:
            with open_regular(self.path) as stream:
                content = stream.read()
        except FileNotFoundError as gone:
            raise FileChanged(f"{self.name or self.path} is gone") from gone
        if digest_bytes(content) != self.digest:
            raise FileChanged(f"{self.name or self.path} has changed")
        return content

    def read_text(self) -> str:
        """Give the content as UTF-8 text (a byte order mark is dropped)."""
        return self.read_bytes().decode("utf-8-sig")


class _NamedMarker:
    """Marks a port that takes a file with its name."""


#: A file whose name is part of its value, and so of keys: `File.name` is its real name, relative to
# the folder that it was listed from. As an output, `name` names the file.
NamedFile = Annotated[File, _NamedMarker()]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder by its content: `files` are sorted by relative name (with ``/``); hidden files are
    left out.
    """

    path: Path
    digest: str
    files: tuple[File, ...]

    def __post_init__(self) -> None:
        # Names inside a folder are part of its content, so they are part of its files' values.
        if any(file.significant_name != file.name for file in self.files):
            files = tuple([replace(file, significant_name=file.name) for file in self.files])
            object.__setattr__(self, "files", files)

    def __iter__(self) -> Iterator[File]:
        return iter(self.files)


class _ScratchMarker:
    """Marks a parameter that receives the step's scratch folder."""


class _DeviceMarker:
    """Marks a parameter that receives the device that the step runs on."""


class _FallbackLevelsMarker:
    """Marks a parameter that receives the memory fallback levels reached so far."""


#: A folder of the step's own, named by its key and kept across kills until the step is stored. For
# checkpoints.
Scratch = Annotated[Path, _ScratchMarker()]

#: The device a step runs on: ``cpu``, ``cuda:0``, ``mps``. For nodes that compute with torch but
# lease no model.
Device = Annotated[str, _DeviceMarker()]

#: The memory fallback levels reached so far, none at first. For nodes that can do with less: on
#: ``slice`` they decode pictures one by one, on ``tile`` in tiles.
FallbackLevels = Annotated[tuple[str, ...], _FallbackLevelsMarker()]

ExistsPolicy = Literal["error", "number", "replace"]
