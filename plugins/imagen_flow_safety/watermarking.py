"""The node types that mark pictures invisibly, and read such marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from imagen_flow import Bool, File, Image, Progress, Steps, Text, node

from . import coding, lattice

if TYPE_CHECKING:
    import numpy as np

CERTAIN = 1 - 1e-6
"""From which confidence on a mark that cannot be read is worth a note."""


@node("watermark.embed", version=1, uses=("numpy",))
def embed(
    image: Image,
    message: Text,
    *,
    encoding: Literal["text", "hex"] = "text",
    key: File | None = None,
) -> Steps[Image]:
    """Mark a picture invisibly with a short message.

    `watermark.read` finds it after JPEG at quality 80, and after resizing by 0.5 to 1.5, of pictures
    from 128 px a side; after both, and after WebP at quality 80, from 300 px. Of smaller ones it
    survives only lossless storage and enlarging. It does not survive cropping (1 % of a side is
    enough), rotation, mirroring or being drawn anew by a model, and is no protection against
    someone who wants to remove it.

    Inputs:
        image: at least 64 px a side. Depth and channels are kept, alpha is not touched.
        message: at most 16 bytes: a text of up to 16 ASCII characters, or 32 hexadecimal digits.
        key: a file of any content that decides where the message lies; who reads it needs the same.
            Without one, everyone can read it. Its content is neither stored nor recorded.

    Params:
        encoding: how `message` is written.

    Outputs:
        the marked picture. It differs by 0.5 to 1.6 levels of 255 (root mean square), the less the
            larger it is: 44 dB at least, 50 dB from 360 px. On plain areas of small pictures it can
            just be made out.

    Raises:
        ValueError: the message is too long or not hexadecimal, or the picture is too small, or has
            no room for the mark.

    Source:
        the modules `lattice` and `coding` of this plugin.
    """
    import numpy as np

    wanted = _message(message, encoding)
    if min(image.width, image.height) < lattice.SMALLEST:
        raise ValueError(
            f"a picture of {image.width} × {image.height} is too small for a watermark; it needs"
            f" {lattice.SMALLEST} px a side"
        )
    where = lattice.layout(b"" if key is None else key.read_bytes())
    colours, unit = _levels(image)
    before = lattice.read(colours, where)
    held = coding.decode(before.soft)
    if held is not None and held != wanted:
        yield Progress(1, 1, f"the picture has the watermark {_shown(held)}, which is replaced")
    most = min(0.0, float(colours.min())), max(255.0, float(colours.max()))
    added = lattice.write(colours, coding.encode(wanted), where, most)
    pixels = image.pixels.copy()
    kept = colours.shape[2]
    marked = (colours + added) * unit
    pixels[:, :, :kept] = marked if image.pixels.dtype == "float32" else np.rint(marked)
    result = Image(pixels)
    if coding.decode(lattice.read(_levels(result)[0], where).soft) != wanted:
        raise ValueError(
            f"the picture of {image.width} × {image.height} has no room for a watermark: it cannot"
            " be read back"
        )
    return result


class Mark(NamedTuple):
    message: Text
    found: Bool
    confidence: float
    hex: Text


@node("watermark.read", version=1, uses=("numpy",))
def read(image: Image, *, key: File | None = None) -> Steps[Mark]:
    """Read the invisible mark of `watermark.embed`.

    Inputs:
        image: any picture; alpha is not looked at.
        key: the file that it was marked with.

    Outputs:
        message: the message as text; empty if there is none, or if it is no text.
        found: whether there is a message that can be read. By chance, one in 4 billion pictures
            without a mark has one (CRC-32).
        confidence: that there is a mark at all: at most one in 1 / (1 - confidence) pictures without
            one reaches it. Those read at chance, most of them with 0, plain ones too. If it is
            almost 1 and nothing is found, there is a mark that is too damaged, as a note says.
        hex: the message in hexadecimal digits; empty if there is none.
    """
    if min(image.width, image.height) < lattice.SMALLEST // 2:
        return Mark("", False, 0.0, "")
    found = lattice.read(
        _levels(image)[0], lattice.layout(b"" if key is None else key.read_bytes())
    )
    message = coding.decode(found.soft)
    if message is not None:
        return Mark(_text(message), True, 1 - min(found.chance, coding.MISTAKEN), message.hex())
    if found.chance < 1 - CERTAIN:
        yield Progress(1, 1, "there are traces of a watermark that is too damaged to be read")
    return Mark("", False, 1 - found.chance, "")


def _levels(image: Image) -> tuple[np.ndarray, float]:
    """Return the colours without alpha, as levels of 255, and what one level is in the picture."""
    import numpy as np

    kept = image.channels - image.has_alpha
    unit = {"uint8": 1.0, "uint16": 257.0}.get(image.pixels.dtype.name, 1 / 255)
    return image.pixels[:, :, :kept].astype("float32") / np.float32(unit), unit


def _message(message: str, encoding: str) -> bytes:
    if encoding == "text":
        try:
            wanted = message.encode()
        except UnicodeEncodeError:
            raise ValueError(
                "port 'message' is not valid Unicode: it has half a character; fix its source"
            ) from None
    else:
        try:
            wanted = bytes.fromhex(message)
        except ValueError:
            raise ValueError(
                f"port 'message' is not hexadecimal: '{message[:60]}'; write two digits a byte, or"
                " set encoding: text"
            ) from None
    if len(wanted) > coding.CAPACITY:
        raise ValueError(
            f"port 'message' has {len(wanted)} bytes, and a watermark holds {coding.CAPACITY}; mark"
            " the picture with a number or a short name, and keep the rest under that elsewhere"
        )
    return wanted


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        return ""


def _shown(message: bytes) -> str:
    return f"'{_text(message)}'" if _text(message) else f"0x{message.hex()}"
