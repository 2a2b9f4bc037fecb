"""Convert colours to sRGB, by an ICC profile or by the code points of ITU-T H.273.

littleCMS, through Pillow, converts only 8 bits, so a profile of curves and a matrix (as nearly
every RGB and grey profile is) is applied to 16 bits and floating point here, by its formula.

Source: ICC.1:2022, sections 8.3 (models), 10.6 (curveType), 10.18 (parametricCurveType), annex F;
IEC 61966-2-1 (sRGB); ITU-T H.273, tables 2 and 3; CIE 15 (L*a*b*).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decoded import Unsupported

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from PIL.ImageCms import ImageCmsProfile

_D50 = (0.96422, 1.0, 0.82521)
_XYZ_OF_SRGB = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
"""Linear sRGB to XYZ under D50 (Bradford adaptation, as in an sRGB profile)."""

_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709, sRGB
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.601, 625 lines
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
"""Chromaticities of red, green and blue; the white point is D65 in all of them."""

_BATCH = 1 << 20

Curve = Callable[["np.ndarray"], "np.ndarray"]


@dataclass(frozen=True, slots=True)
class _MatrixProfile:
    """A colour space of curves and a matrix: linear = curve(value), linear sRGB = matrix @ linear.
    Without a matrix it is grey.
    """

    curves: tuple[Curve, ...]
    matrix: np.ndarray | None
    bounded: bool = False
    """Whether a curve is a table, whose last entry is 1."""

    def apply(self, colours: np.ndarray) -> np.ndarray:
        """Convert grey or RGB of any depth to sRGB of the same depth. Floating point keeps values
        outside 0 to 1.
        """
        import numpy as np

        out = np.empty_like(colours)
        flat, target = colours.reshape(-1, colours.shape[2]), out.reshape(-1, colours.shape[2])
        whole = colours.dtype != "float32"
        full = np.iinfo(colours.dtype).max if whole else 1
        curves = (
            self.curves if len(self.curves) == flat.shape[1] else self.curves[:1] * flat.shape[1]
        )
        tables = [_values(curve, np.arange(full + 1) / full) for curve in curves] if whole else []
        for start in range(0, len(flat), _BATCH):
            part = flat[start : start + _BATCH]
            if whole:
                linear = np.stack([table[part[:, i]] for i, table in enumerate(tables)], axis=1)
            else:
                linear = np.stack(
                    [
                        _values(curve, part[:, i].astype("float64"))
                        for i, curve in enumerate(curves)
                    ],
                    axis=1,
                )
            if self.matrix is not None and linear.shape[1] == 3:
                linear = linear @ self.matrix.T
            encoded = _encode(linear)
            target[start : start + _BATCH] = (
                np.floor(np.clip(encoded, 0, 1) * full + 0.5) if whole else encoded
            )
        return out

    def changes_something(self) -> bool:
        """Tell whether any colour of a lattice moves by more than one level of 8 bits."""
        import numpy as np

        steps = np.arange(0, 65536, 4369, dtype="uint16")
        if self.matrix is None:
            lattice = steps.reshape(-1, 1, 1)
        else:
            lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(
                1, -1, 3
            )
        return bool(np.abs(self.apply(lattice).astype("int32") - lattice).max() > 257)


def convert(colours: np.ndarray, profile: bytes, cicp: tuple[int, int] | None) -> np.ndarray:
    """Convert grey (1 channel), RGB (3) or CMYK (4, 0 is no ink) to grey or RGB in sRGB.

    `cicp` takes precedence over `profile`. A profile for another kind of picture, or one that
    cannot be applied, is ignored.

    Raises:
        Unsupported: high dynamic range, or floating-point colours with a table-based profile.
    """
    import numpy as np

    if cicp is not None and colours.shape[2] != 4:
        shaper = _from_cicp(*cicp)
        if shaper is not None:
            return shaper.apply(colours) if shaper.changes_something() else colours
    if profile:
        if (
            colours.dtype != "uint8"
            and colours.shape[2] != 4
            and (parsed := _parse_matrix_profile(profile)) is not None
        ):
            if parsed.matrix is None and colours.shape[2] == 3:
                return colours  # the profile of a grey picture
            if colours.dtype == "float32" and parsed.bounded and np.abs(colours).max() > 1:
                raise Unsupported(
                    "a picture in floating point with values beyond 1, where its colour profile"
                    " ends; convert it to sRGB or to a linear profile first"
                )
            return parsed.apply(colours) if parsed.changes_something() else colours
        opened = _open_profile(profile, colours.shape[2])
        if opened is not None:
            if colours.dtype == "float32":
                raise Unsupported(
                    "a picture in floating point with a table-based colour profile; convert it"
                    " to sRGB or to a linear profile first"
                )
            eight = (
                colours
                if colours.dtype == "uint8"
                else ((colours.astype("uint32") + 128) // 257).astype("uint8")
            )
            if (
                colours.dtype == "uint16"
                and colours.shape[2] != 4
                and _is_steep(opened, colours.shape[2])
            ):
                raise Unsupported(
                    "a picture of 16 bits with a table-based colour profile for linear light,"
                    " which 8 bits cannot hold; convert it to sRGB or to another profile first"
                )
            if colours.shape[2] == 4 or not _is_srgb(opened, eight.shape[2]):
                converted = _convert_by_lcms(eight, opened)
                if converted is not None:
                    return converted
    if colours.shape[2] != 4:
        return colours
    # Without a profile, each ink absorbs its part of the light.
    out = np.empty((*colours.shape[:2], 3), colours.dtype)
    for i in range(3):
        if colours.dtype == "float32":
            out[:, :, i] = (1 - colours[:, :, i]) * (1 - colours[:, :, 3])
        else:
            full = int(np.iinfo(colours.dtype).max)
            light = (full - colours[:, :, i].astype("uint64")) * (
                full - colours[:, :, 3].astype("uint64")
            )
            out[:, :, i] = (light + full // 2) // full
    return out


def srgb_from_lab(lab: np.ndarray, *, offset: bool) -> np.ndarray:
    """Convert L*a*b* under D50 of 8 or 16 bits, as stored in a TIFF, to sRGB of the same depth.
    With `offset` a* and b* are unsigned with an offset (ICC), else two's complement (CIE).
    """
    import numpy as np

    full = int(np.iinfo(lab.dtype).max)
    middle = (full + 1) // 2
    unit = 1 if full == 255 else 256
    out = np.empty(lab.shape, lab.dtype)
    flat, target = lab.reshape(-1, 3), out.reshape(-1, 3)
    back = np.linalg.inv(np.array(_XYZ_OF_SRGB))
    for start in range(0, len(flat), _BATCH):
        part = flat[start : start + _BATCH].astype("float64")
        lightness = part[:, 0] * 100 / (full if not (offset and unit == 256) else 0xFF00)
        if offset:
            a, b = (part[:, i] / unit - middle / unit for i in (1, 2))
        else:
            a, b = (
                np.where(part[:, i] >= middle, part[:, i] - full - 1, part[:, i]) / unit
                for i in (1, 2)
            )
        y = (lightness + 16) / 116
        f = np.stack([y + a / 500, y, y - b / 200], axis=1)
        xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (3 * (6 / 29) ** 2)) * np.array(_D50)
        target[start : start + _BATCH] = np.floor(np.clip(_encode(xyz @ back.T), 0, 1) * full + 0.5)
    return out


def _encode(linear: np.ndarray) -> np.ndarray:
    """Apply sRGB's curve to linear light, mirrored below 0."""
    import numpy as np

    size = np.abs(linear)
    return np.copysign(
        np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055), linear
    )


def _decode(value: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _values(curve: Curve, values: np.ndarray) -> np.ndarray:
    """Apply a curve, mirrored below 0."""
    import numpy as np

    with np.errstate(all="ignore"):
        return np.copysign(curve(np.abs(values)), values)


# ---- code points


def _from_cicp(primaries: int, transfer: int) -> _MatrixProfile | None:
    """Give the colour space of two code points of H.273; None if they specify nothing that can be
    applied.
    """
    import numpy as np

    if transfer in (16, 18):
        raise Unsupported(
            f"a picture of high dynamic range ({'PQ' if transfer == 16 else 'HLG'}), which sRGB"
            " cannot hold; tone-map it to sRGB first"
        )
    # Cameras encode with BT.709 and related curves; screens and other programs show such pictures
    # with sRGB's curve.
    curve: Curve | None = {
        1: _decode,
        6: _decode,
        14: _decode,
        15: _decode,
        13: _decode,
        4: _power(2.2),
        5: _power(2.8),
        8: _power(1.0),
    }.get(transfer)
    if curve is None or primaries not in _PRIMARIES:
        return None
    matrix = np.linalg.inv(_primaries_matrix(*_PRIMARIES[1])) @ _primaries_matrix(
        *_PRIMARIES[primaries]
    )
    return _MatrixProfile((curve,) * 3, matrix)


def _power(gamma: float) -> Curve:
    import numpy as np

    return lambda value: np.power(value, gamma)


def _primaries_matrix(*primaries: tuple[float, float]) -> np.ndarray:
    """Give the matrix from linear RGB of these primaries, under D65, to XYZ."""
    import numpy as np

    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return np.asarray(columns * np.linalg.solve(columns, white))


# ---- ICC profiles of curves and a matrix


def _parse_matrix_profile(profile: bytes) -> _MatrixProfile | None:
    """Read a grey or RGB profile of curves and a matrix; None if it is of another kind or damaged."""
    import numpy as np

    try:
        space, connection = profile[16:20], profile[20:24]
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = {}
        for i in range(min(count, 200)):
            name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
            tags[name] = profile[at : at + size]
        if profile[36:40] != b"acsp" or any(
            name in tags for name in (b"A2B0", b"A2B1", b"D2B0", b"D2B1")
        ):
            return None
        if space == b"GRAY" and connection in (b"XYZ ", b"Lab "):
            curve = _curve(tags[b"kTRC"])
            return _if_finite(
                _MatrixProfile(
                    (curve if connection == b"XYZ " else _from_lightness(curve),),
                    None,
                    _is_table(tags[b"kTRC"]),
                )
            )
        if space != b"RGB " or connection != b"XYZ ":
            return None
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        columns = np.array(
            [
                [number / 65536 for number in struct.unpack_from(">iii", tags[name], 8)]
                for name in (b"rXYZ", b"gXYZ", b"bXYZ")
            ]
        ).T
        white = columns.sum(axis=1)
        if (
            np.abs(white - _D50) < 0.02
        ).all():  # rounded in 16 bits: what is white is to come out white
            columns = columns * (np.array(_D50) / white)[:, None]
        bounded = any(_is_table(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        return _if_finite(
            _MatrixProfile(curves, np.linalg.inv(np.array(_XYZ_OF_SRGB)) @ columns, bounded)
        )
    except (struct.error, KeyError, ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        return None


def _if_finite(shaper: _MatrixProfile) -> _MatrixProfile | None:
    """Return a profile that gives finite light for every value, else None: its numbers may be
    anything.
    """
    import numpy as np

    return (
        shaper
        if all(
            np.isfinite(_values(curve, np.arange(65536) / 65535)).all() for curve in shaper.curves
        )
        else None
    )


def _is_table(tag: bytes) -> bool:
    return tag[:4] == b"curv" and int.from_bytes(tag[8:12], "big") > 1


def _from_lightness(curve: Curve) -> Curve:
    """Convert a grey curve measured in L* to one in light."""
    import numpy as np

    def light(value: np.ndarray) -> np.ndarray:
        y = (curve(value) * 100 + 16) / 116
        return np.where(y > 6 / 29, y**3, (y - 4 / 29) * (3 * (6 / 29) ** 2))

    return light


def _curve(tag: bytes) -> Curve:
    import numpy as np

    kind = tag[:4]
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return _power(1.0)
        table = np.frombuffer(tag, ">u2", count, 12).astype("float64")
        if count == 1:
            return _power(table[0] / 256)
        return lambda value: np.interp(value, np.linspace(0, 1, count), table / 65535)
    if kind != b"para":
        raise ValueError(kind)
    (function,) = struct.unpack_from(">H", tag, 8)
    length = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[function]
    numbers = [number / 65536 for number in struct.unpack_from(f">{length}i", tag, 12)]
    if function == 0:
        return _power(numbers[0])
    # All are Y = (aX + b)^g + e from d on, and cX + f below.
    g, a, b = numbers[:3]
    c = d = e = f = 0.0
    if function in (1, 2):
        e = f = numbers[3] if function == 2 else 0.0
        d = -b / a
    elif function == 3:
        c, d = numbers[3:]
    else:
        c, d, e, f = numbers[3:]
    return lambda value: np.where(
        value >= d, np.power(np.maximum(a * value + b, 0), g) + e, c * value + f
    )


# ---- ICC profiles of any kind, in 8 bits


def _open_profile(profile: bytes, channels: int) -> ImageCmsProfile | None:
    """Open a profile, unless it does not suit pictures with this number of channels. A grey picture
    may contain the RGB profile of the program's documents.
    """
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, AttributeError, ValueError):
        return None
    return opened if space in {1: ("GRAY", "RGB"), 3: ("RGB",), 4: ("CMYK",)}[channels] else None


def _is_srgb(profile: ImageCmsProfile, channels: int) -> bool:
    """Tell whether a profile is sRGB by its effect, because its name may say anything: true if no
    colour of a lattice moves by more than one level.
    """
    import numpy as np

    steps = np.arange(0, 256, 1 if channels == 1 else 17, dtype="uint8")
    if channels == 1:
        lattice = steps.reshape(16, 16, 1)
    else:
        lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(
            64, 64, 3
        )
    converted = _convert_by_lcms(lattice, profile)
    return converted is None or bool(np.abs(converted.astype("int32") - lattice).max() <= 1)


def _is_steep(profile: ImageCmsProfile, channels: int) -> bool:
    """Tell whether steps of 8 bits would be visible: linear light maps the first of them to 13
    levels of sRGB.
    """
    import numpy as np

    greys = np.repeat(np.arange(256, dtype="uint8").reshape(16, 16, 1), channels, axis=2)
    converted = _convert_by_lcms(greys, profile)
    return (
        converted is not None
        and int(np.abs(np.diff(converted.reshape(256, -1).astype("int32"), axis=0)).max()) > 6
    )


def _convert_by_lcms(colours: np.ndarray, profile: ImageCmsProfile) -> np.ndarray | None:
    """Convert 8-bit grey, RGB or CMYK; None if the profile cannot be applied."""
    import numpy as np
    from PIL import ImageCms

    grey = colours.shape[2] == 1
    if grey and profile.profile.xcolor_space.strip() == "RGB":
        colours = np.repeat(colours, 3, axis=2)
    try:
        seen = ImageCms.profileToProfile(
            _picture(colours),
            profile,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        return None
    assert seen is not None
    converted = np.array(seen)
    return converted[:, :, 1:2] if grey else converted


def _picture(colours: np.ndarray) -> PIL.Image.Image:
    import PIL.Image

    height, width, channels = colours.shape
    return PIL.Image.frombytes(
        {1: "L", 3: "RGB", 4: "CMYK"}[channels], (width, height), colours.tobytes()
    )
