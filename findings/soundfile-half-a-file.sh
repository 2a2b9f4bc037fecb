#!/usr/bin/env bash
# soundfile reads half of a WAV, AIFF or Ogg file that was cut off without a word: fewer samples, or none at all; only FLAC raises.
#
# Guess:  a file whose header states 16,000 samples and that ends after half of them raises, or warns, when it is read; `frames` is what the header states.
# Fact:   with soundfile 0.14.0 (libsndfile 1.2.2) `read` gives what is there: half of the samples of WAV and AIFF, and `frames` is lowered to that number; of half an Ogg Vorbis file
#         it gives 0 samples with `frames` 0. Nothing is raised, nothing printed. FLAC raises LibsndfileError.
# Cost:   an interrupted copy or download is transcribed, or trained on, as if it were the whole recording; of a spoken instruction the end is missing.
# Remedy: compare the size that the 'data' (WAV) or 'SSND' (AIFF) chunk states with the bytes that follow, and refuse compressed files of no samples.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'soundfile==0.14.0' 'numpy==2.4.6'
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
import soundfile

noise = np.random.default_rng(0).random(16000).astype("float32") - 0.5
found = {}
for format, subtype in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")):
    whole = io.BytesIO()
    soundfile.write(whole, noise, 16000, format=format, subtype=subtype)
    half = io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2])
    try:
        with soundfile.SoundFile(half) as file:
            stated = file.frames
            found[format] = f"{len(file.read())} samples, frames {stated}"
    except soundfile.LibsndfileError as error:
        found[format] = "refused"
    print(f"half of 16,000 samples of {format}: {found[format]}")
lost = {"WAV", "AIFF", "OGG"}
sys.exit(0 if {name for name, what in found.items() if what != "refused"} == lost else 1)
PY
