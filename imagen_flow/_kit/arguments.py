"""Make arguments for a node type that nobody gave examples for: values of each kind of port."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._types.node import NodeType
from .._types.ports import PortType
from .._types.values import Audio, Image, Mask, Tensor

__all__ = ["NoValue", "arguments_for", "picture"]

#: The size of made-up pictures, in pixels.
WIDTH, HEIGHT = 24, 16


class NoValue(Exception):
    """There is no value to make up for a port."""


def picture(width: int = WIDTH, height: int = HEIGHT, *, channels: int = 3) -> Image:
    """Draw a picture of 8 bits: a gradient with a bright square on it.

    Params:
        width, height: in pixels.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    """
    import numpy as np

    across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(40, 160, height))
    grey = np.where((abs(across - 100) < 40) & (abs(down - 100) < 30), 250, across)
    planes = {1: [grey], 2: [grey, down], 3: [grey, down, across], 4: [grey, down, across, down]}
    return Image(np.dstack(planes[channels]).round().astype(np.uint8))


def arguments_for(type_: NodeType, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return arguments by port: those that were given, and for other required ports made-up ones.

    Params:
        folder: where files for ports of files are written.
    Raises:
        NoValue: a port takes what cannot be made up.
    """
    found = {
        name: _written(value, folder)
        if type_.inputs[name].type.kind in ("file", "folder")
        else value
        for name, value in given.items()
    }
    for name, port in type_.inputs.items():
        if port.required and name not in found:
            try:
                found[name] = _value(port.type, folder)
            except NoValue as error:
                raise NoValue(f"its port '{name}' takes {error}") from None
    return found


def _written(value: Any, folder: Path) -> Any:
    """Write the file that an example describes by its name and text, or such files into a folder."""
    if not isinstance(value, dict):
        return value
    if "files" in value:
        inside = folder / "folder"
        inside.mkdir(exist_ok=True)
        for name, text in value["files"].items():
            (inside / name).write_text(text, "utf-8")
        return str(inside)
    path = folder / value["name"]
    path.write_text(value["text"], "utf-8")
    return str(path)


def _value(type_: PortType, folder: Path) -> Any:
    import numpy as np

    if type_.choices:
        return type_.choices[0]
    if type_.kind == "union":
        return _value(type_.members[0], folder)
    if type_.kind == "list":
        assert type_.element is not None
        return [_value(type_.element, folder), _value(type_.element, folder)]
    if type_.record is not None:
        fields = type_.record.fields
        return {name: _value(f.type, folder) for name, f in fields.items() if f.required}
    if type_.kind in ("int", "float", "number"):
        return _number(type_)
    if type_.kind == "file":
        path = folder / "sample.png"
        picture().to_pil().save(path)
        return str(path)
    if type_.kind == "folder":
        inside = folder / "samples"
        inside.mkdir(exist_ok=True)
        for name, channels in (("a.png", 3), ("b.png", 1)):
            picture(channels=channels).to_pil().save(inside / name)
        return str(inside)
    ramp = np.linspace(-1, 1, 64, dtype=np.float32)
    made: dict[str, Any] = {
        "bool": True,
        "text": "a red circle",
        "json": {"a": [1, 2]},
        "any": 1,
        "image": picture(),
        "mask": Mask(picture(channels=1).pixels),
        "tensor": Tensor(ramp.reshape(1, 4, 4, 4)),
        "audio": Audio(np.sin(np.arange(1600, dtype=np.float32) / 6)[:, None] / 2, 16_000),
    }
    if type_.kind not in made:
        raise NoValue(f"{type_.words}, of which there is no example")
    return made[type_.kind]


def _number(type_: PortType) -> int | float:
    low = type_.range.min if type_.range and type_.range.min is not None else None
    high = type_.range.max if type_.range and type_.range.max is not None else None
    wanted: float = 4 if type_.kind == "int" else 0.5
    wanted = wanted if low is None else max(wanted, low)
    wanted = wanted if high is None else min(wanted, high)
    return int(wanted) if type_.kind == "int" else float(wanted)
