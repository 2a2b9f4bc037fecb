#!/usr/bin/env bash
# Pillow 13.0.0 knows two backgrounds in one GIF: entry 0 of the palette around the first frame, the file's own behind disposed frames.
#
# Guess:  what no frame of a GIF covers shows the background colour that the file names (info["background"]) or, as in browsers, is transparent.
# Fact:   around a first frame that is smaller than the screen lies entry 0 of the palette, opaque, whichever entry the file names, unless a
#         transparent entry is set. Where a frame is disposed of to the background, the named entry appears. So both are seen in one picture.
# Cost:   cropped and optimized GIFs get a frame of an arbitrary colour (entry 0 is often the commonest colour of the picture), which goes
#         into thumbnails, masks and training data; convert("RGBA") does not help, for the padding is opaque.
# Remedy: before reading, compare the first frame's box (image.tile[0].extents) with image.size, and clear what lies outside of it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'pillow==13.0.0'
"$work/venv/bin/python" - <<'PY'
import io
import struct
import sys

import PIL
from PIL import Image

RED, GREEN, BLUE, WHITE = PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))


def frame(left: int, top: int, side: int, entry: int, disposal: int) -> bytes:
    """Write a square of one colour; a clear code before each pixel keeps all codes at three bits."""
    stream = sum(code << 3 * place for place, code in enumerate([4, entry] * side**2 + [5]))
    data = stream.to_bytes((3 * (2 * side**2 + 1) + 7) // 8, "little")
    control = b"\x21\xf9\x04" + struct.pack("<BHB", disposal << 2, 10, 0) + b"\0"
    return control + b"\x2c" + struct.pack("<4HB", left, top, side, side, 0) + b"\x02" + bytes([len(data)]) + data + b"\0"


background = 2
file = b"GIF89a" + struct.pack("<2H3B", 4, 4, 0x91, background, 0) + bytes(sum(PALETTE, ()))
file += frame(1, 1, 2, 1, disposal=2) + frame(3, 3, 1, 3, disposal=1) + b"\x3b"

print("Pillow", PIL.__version__)
image = Image.open(io.BytesIO(file))
named = image.info["background"]
around = image.convert("RGBA").getpixel((0, 0))
square = image.convert("RGBA").getpixel((1, 1))
image.seek(1)
disposed = image.convert("RGBA").getpixel((1, 1))
print(f"the file names entry {named}, {PALETTE[named]}, as its background")
print(f"guessed: {(*BLUE, 255)} or transparent around the first frame, and the same where it was disposed of")
print(f"seen:    {around} around the first frame, {disposed} where it was disposed of")
if (named, around, square, disposed) != (background, (*RED, 255), (*GREEN, 255), (*BLUE, 255)):
    sys.exit("the behaviour has changed")
PY
