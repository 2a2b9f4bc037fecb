#!/usr/bin/env bash
# Pillow 13.0.0 converts an uncompressed YCbCr TIFF to RGB without regard to what the file says about its range and its matrix.
#
# Guess:  ReferenceBlackWhite (tag 532) and YCbCrCoefficients (tag 529) say how YCbCr becomes RGB, so convert("RGB") follows them.
# Fact:   the three channels are handed on as they are, and convert("RGB") always applies JPEG's range and Rec. 601's weights. White and
#         black of video range (235 and 15) come out as grey 235 and 15, and Rec. 709's pure red as another red. Nothing warns of it.
# Cost:   frames that were grabbed from video are flat and slightly off in hue, in training data and in results alike, where other viewers
#         of the same file show it right.
# Remedy: read the tags (image.tag_v2.get(532), .get(529)) and convert the channels by TIFF 6.0, section 21, unless they are JPEG's.
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

VIDEO, FULL = (15, 235, 128, 240, 128, 240), (0, 255, 128, 255, 128, 255)
REC_601, REC_709 = (2990, 5870, 1140), (2126, 7152, 722)


def tiff(pixels: list[tuple[int, int, int]], limits: tuple[int, ...], weights: tuple[int, ...]) -> bytes:
    """Write one row of YCbCr without subsampling, uncompressed."""
    body = bytes(channel for pixel in pixels for channel in pixel)
    behind = 8 + 2 + 13 * 12 + 4
    values = {
        256: (4, struct.pack("<I", len(pixels))), 257: (4, struct.pack("<I", 1)), 258: (3, struct.pack("<3H", 8, 8, 8)), 259: (3, struct.pack("<H", 1)),
        262: (3, struct.pack("<H", 6)), 273: (4, struct.pack("<I", behind + 6 + 24 + 48)), 277: (3, struct.pack("<H", 3)), 278: (4, struct.pack("<I", 1)),
        279: (4, struct.pack("<I", len(body))), 529: (5, b"".join(struct.pack("<II", weight, 10000) for weight in weights)), 530: (3, struct.pack("<2H", 1, 1)),
        531: (3, struct.pack("<H", 1)), 532: (5, b"".join(struct.pack("<II", limit, 1) for limit in limits)),
    }
    fields, far = b"", b""
    for tag, (kind, raw) in values.items():
        place = raw.ljust(4, b"\0")
        if len(raw) > 4:
            place = struct.pack("<I", behind + len(far))
            far += raw
        fields += struct.pack("<HHI", tag, kind, len(raw) // {3: 2, 4: 4, 5: 8}[kind]) + place
    return b"II" + struct.pack("<HIH", 42, 8, len(values)) + fields + bytes(4) + far + body


def meant(pixel: tuple[int, int, int], limits: tuple[int, ...], weights: tuple[int, ...]) -> tuple[int, ...]:
    """Convert as section 21 of TIFF 6.0 says."""
    red_weight, green_weight, blue_weight = (weight / 10000 for weight in weights)
    luma, blue_part, red_part = ((code - black) * full / (white - black) for code, black, white, full in zip(pixel, limits[::2], limits[1::2], (255, 127, 127)))
    red = red_part * (2 - 2 * red_weight) + luma
    blue = blue_part * (2 - 2 * blue_weight) + luma
    green = (luma - blue_weight * blue - red_weight * red) / green_weight
    return tuple(min(255, max(0, round(value))) for value in (red, green, blue))


print("Pillow", PIL.__version__)
same = True
for name, pixel, limits, weights, apart in (
    ("JPEG's own", (235, 128, 128), FULL, REC_601, False),
    ("white of video range", (235, 128, 128), VIDEO, REC_601, True),
    ("black of video range", (15, 128, 128), VIDEO, REC_601, True),
    ("red by Rec. 709", (54, 99, 255), FULL, REC_709, True),
):
    image = Image.open(io.BytesIO(tiff([pixel], limits, weights)))
    guessed, seen = meant(pixel, limits, weights), image.convert("RGB").getpixel((0, 0))
    print(f"{name}: YCbCr {pixel}, guessed {guessed}, seen {seen}")
    ignored = seen == Image.new("YCbCr", (1, 1), pixel).convert("RGB").getpixel((0, 0))
    off = max(abs(left - right) for left, right in zip(guessed, seen))
    same = same and image.mode == "YCbCr" and ignored and (off > 9 if apart else off <= 1)
if not same:
    sys.exit("the behaviour has changed")
PY
