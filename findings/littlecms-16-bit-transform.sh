#!/usr/bin/env bash
# littleCMS 2.18 (imagecodecs 2026.3.6) converts 16-bit integers between matrix profiles less exactly than 8-bit ones.
#
# Guess:  more bits, more precision: a 16-bit conversion between two profiles of curves and a matrix is good to a level or two of 65,535.
# Fact:   from Adobe RGB's primaries to sRGB, for colours inside of both, 16-bit integers are up to 5,000 levels off what the same library
#         computes in floats: 20 levels of 255, where its own 8-bit conversion stays within one. By default the curves and the matrix
#         are sampled into a small table of colours, between whose points 16-bit values are interpolated; 8-bit values and floats take other ways.
# Cost:   dark channels of saturated colours shift visibly in exactly the files that were kept in 16 bits for quality, and in nothing that
#         tells: a grey ramp, a chart of sRGB's own primaries and the average error all look perfect.
# Remedy: convert floats, or ask for no optimization (the flag 0x0100, cmsFLAGS_NOOPTIMIZE), which is exact to half a level.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'imagecodecs==2026.3.6' 'numpy==2.4.6'
"$work/venv/bin/python" - <<'PY'
import sys

import imagecodecs
import numpy as np

version = next(part for part in imagecodecs.version().split(", ") if part.startswith("lcms2"))
print("imagecodecs", imagecodecs.__version__, version)
wide = imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.329, 1.0], primaries=[0.64, 0.33, 1.0, 0.21, 0.71, 1.0, 0.15, 0.06, 1.0], gamma=563 / 256)
narrow = imagecodecs.cms_profile("srgb")


def convert(pixels: np.ndarray, kind: str, flags: int = 0) -> np.ndarray:
    return imagecodecs.cms_transform(pixels, wide, narrow, colorspace="rgb", outcolorspace="rgb", outdtype=kind, flags=flags).astype(float)


deep = np.random.default_rng(1).integers(0, 65536, (512, 512, 3), dtype=np.uint16)
shallow = (deep >> 8).astype(np.uint8)
exact, exact_shallow = convert(deep / 65535, "float64"), convert(shallow / 255, "float64")
inside = ((exact > 0) & (exact < 1)).all(axis=2)
inside_shallow = ((exact_shallow > 0) & (exact_shallow < 1)).all(axis=2)
error = np.abs(convert(deep, "uint16") - exact * 65535)[inside]
error_shallow = np.abs(convert(shallow, "uint8") - exact_shallow * 255)[inside_shallow]
error_plain = np.abs(convert(deep, "uint16", 0x0100) - exact * 65535)[inside]
worst = error.max(axis=1).argmax()
print("guessed: 16-bit integers are within 2 levels of 65,535 of the library's own floats")
print(f"seen:    {error.max():,.0f} levels of 65,535 at most, which is {error.max() / 257:.1f} of 255")
print(f"         at {deep[inside][worst].tolist()}: {convert(deep, 'uint16')[inside][worst].tolist()} and in floats {(exact[inside][worst] * 65535).round().tolist()}")
print(f"         8-bit integers: {error_shallow.max():.2f} levels of 255 at most; 16 bits without optimization: {error_plain.max():.2f} of 65,535")
if not (error.max() > 3000 and error_shallow.max() < 1.5 and error_plain.max() < 1):
    sys.exit("the behaviour has changed")
PY
