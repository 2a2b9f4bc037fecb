#!/usr/bin/env bash
# tifffile 2026.3.3 reads 24-bit samples of a big-endian TIFF with their bytes reversed.
#
# Guess:  24-bit unsigned samples come out as they were written, as those of 8, 16 and 32 bits do, whatever the byte order of the file.
# Fact:   an "MM" file that holds 0x123456 is read as 0x56341200. No exception, no warning, and the dtype (uint32) is the expected one.
#         The same strip of bytes under an "II" header is read as 0x123456: samples of a width that has no TIFF type of its own are unpacked
#         with the most significant byte first, and the byte order of the file is then applied once more, to the unpacked 32-bit words.
# Cost:   scans, depth maps and microscope data of 24 bits turn into noise of the full range, which a normalization to 0..1 hides.
# Remedy: reverse the bytes (array.byteswap()) of what comes from a big-endian file of 24 bits, or have such files written little-endian.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'tifffile==2026.3.3' 'imagecodecs==2026.3.6' 'numpy==2.4.6'
"$work/venv/bin/python" - <<'PY'
import io
import struct
import sys

import imagecodecs
import tifffile


def tiff(order: str, bits: int, strip: bytes, width: int) -> bytes:
    """Write one row of grey samples, uncompressed, in one strip."""
    tags = [
        (256, "I", width), (257, "I", 1), (258, "H", bits), (259, "H", 1), (262, "H", 1), (273, "I", 8 + 2 + 10 * 12 + 4),
        (277, "H", 1), (278, "I", 1), (279, "I", len(strip)), (339, "H", 1),
    ]
    fields = b"".join(struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], 1) + struct.pack(order + kind, value).ljust(4, b"\0") for tag, kind, value in tags)
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags)) + fields + bytes(4) + strip


def read(order: str, bits: int, strip: bytes) -> list[int]:
    return [int(sample) for sample in tifffile.imread(io.BytesIO(tiff(order, bits, strip, len(strip) * 8 // bits))).ravel()]


print("tifffile", tifffile.__version__, "imagecodecs", imagecodecs.__version__)
meant = [0x000001, 0x000100, 0x010000, 0x123456]
found = {bits: read(">", bits, b"".join(value.to_bytes(bits // 8, "big") for value in meant)) for bits in (24, 32)}
little = read("<", 24, b"".join(value.to_bytes(3, "big") for value in meant))
print("guessed, 24 bits, MM:", [hex(value) for value in meant])
print("seen,    24 bits, MM:", [hex(value) for value in found[24]])
print("seen,    32 bits, MM:", [hex(value) for value in found[32]])
print("seen,    24 bits, II, the same strip:", [hex(value) for value in little])
reversed_bytes = [int.from_bytes(value.to_bytes(4, "little"), "big") for value in meant]
if found != {24: reversed_bytes, 32: meant} or little != meant:
    sys.exit("the behaviour has changed")
PY
