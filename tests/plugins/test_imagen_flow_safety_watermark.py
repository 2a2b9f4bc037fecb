"""A watermark is invisible, is read back after what pictures go through, and is not seen where
there is none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

import imagen_flow as flow
from imagen_flow_embedded.world import draw_scene, render
from imagen_flow_safety import coding, lattice
from imagen_flow_safety.watermarking import Mark, embed, read

MESSAGE = "imagen_flow 2026"

NAMES = ("astronaut.png", "camera.png", "chelsea.png", "page.png", "rocket.jpg")


@pytest.fixture(scope="module")
def photo() -> Callable[[str], np.ndarray]:
    """Give a photograph that scikit-image ships, by its file name, or a plain area by its colour."""
    skimage = pytest.importorskip("skimage")

    def get(name: str) -> np.ndarray:
        if name in ("white", "black", "grey"):
            shade = {"white": 255, "black": 0, "grey": 128}[name]
            return np.full((256, 320, 3), shade, np.uint8)
        picture = PIL.Image.open(Path(skimage.__file__).parent / "data" / name)
        return np.asarray(picture.convert("L" if name == "camera.png" else "RGB"))

    return get


def ended(steps: Any) -> tuple[list[str], Any]:
    """Run a node to its end and give its notes and what it returned."""
    notes = []
    while True:
        try:
            notes.append(next(steps).note)
        except StopIteration as end:
            return notes, end.value


def marked(pixels: np.ndarray, message: str = MESSAGE, **params: Any) -> np.ndarray:
    image = ended(embed(flow.Image(pixels), message, **params))[1].pixels
    return image[:, :, 0] if pixels.ndim == 2 else image


def found(pixels: np.ndarray, **params: Any) -> Mark:
    return ended(read(flow.Image(pixels), **params))[1]


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(out))


def webp(pixels: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "WEBP", quality=quality)
    return np.asarray(PIL.Image.open(out).convert("L" if pixels.ndim == 2 else "RGB"))


def resized(pixels: np.ndarray, factor: float) -> np.ndarray:
    picture = PIL.Image.fromarray(pixels)
    size = (round(picture.width * factor), round(picture.height * factor))
    return np.asarray(picture.resize(size, PIL.Image.Resampling.LANCZOS))


def noise_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


SURVIVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lossless": lambda p: p,
    "JPEG 90": lambda p: jpeg(p, 90),
    "JPEG 80": lambda p: jpeg(p, 80),
    "half": lambda p: resized(p, 0.5),
    "three quarters": lambda p: resized(p, 0.75),
    "one and a half": lambda p: resized(p, 1.5),
    "half, JPEG 80": lambda p: jpeg(resized(p, 0.5), 80),
    "one and a half, JPEG 80": lambda p: jpeg(resized(p, 1.5), 80),
    "WebP 80": lambda p: webp(p, 80),
    "stretched": lambda p: np.asarray(PIL.Image.fromarray(p).resize((300, 250))),
    "less contrast": lambda p: np.rint(p * 0.8 + 20).astype(np.uint8),
}


@pytest.mark.parametrize("name", [*NAMES, "white", "black", "grey"])
def test_a_watermark_survives_what_it_promises(
    name: str, photo: Callable[[str], np.ndarray]
) -> None:
    """Of photographs, line art and plain areas, it is read back to the byte after compression,
    resizing and both, with full confidence; and the picture is within 45 dB of the original.
    """
    original = photo(name)
    picture = marked(original)
    assert noise_ratio(original, picture) > 45
    read_back = {how: found(change(picture)) for how, change in SURVIVES.items()}
    assert {how: one.message for how, one in read_back.items()} == dict.fromkeys(SURVIVES, MESSAGE)
    assert min(one.confidence for one in read_back.values()) > 1 - 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("side", "changes"),
    [(64, ["lossless"]), (128, ["lossless", "JPEG 90", "three quarters", "one and a half"])],
)
def test_small_pictures_hold_what_is_promised(side: int, changes: list[str], seed: int) -> None:
    """Pictures as the embedded models draw them are marked too."""
    drawn = render([draw_scene(np.random.default_rng(seed))], side)[0]
    picture = marked(
        flow.Image(np.clip(drawn, 0, 1).astype("float32")).as_uint8().pixels
        if drawn.dtype != np.uint8
        else drawn
    )
    assert {how: found(SURVIVES[how](picture)).message for how in changes} == dict.fromkeys(
        changes, MESSAGE
    )


def test_cropping_loses_the_mark_as_the_help_says(photo: Callable[[str], np.ndarray]) -> None:
    """What the help says about cropping is so."""
    picture = marked(photo("chelsea.png"))
    assert not found(picture[10:-10, 10:-10]).found
    assert "does not survive cropping" in " ".join(embed.type.doc.split())


def unmarked(photo: Callable[[str], np.ndarray], count: int) -> list[np.ndarray]:
    """Windows of photographs, and pictures of shapes, of many sizes."""
    drawn = np.random.default_rng(5)
    pictures = []
    for number in range(count):
        if number % 2:
            scene = render([draw_scene(drawn)], (64, 128, 256)[number % 3])[0]
            pictures.append(
                scene if scene.dtype == np.uint8 else np.rint(scene * 255).astype("uint8")
            )
            continue
        whole = photo(NAMES[number // 2 % len(NAMES)])
        side = int(drawn.integers(64, min(whole.shape[:2]) + 1))
        y, x = (int(drawn.integers(0, size - side + 1)) for size in whole.shape[:2])
        pictures.append(whole[y : y + side, x : x + side])
    return pictures


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_mark_is_seen_where_there_is_none(
    count: int, photo: Callable[[str], np.ndarray]
) -> None:
    """Nothing is found in pictures without a mark, and the confidence keeps its promise: at most
    half of them reach 0.5, and one in a hundred 0.99.
    """
    marks = [found(picture) for picture in unmarked(photo, count)]
    assert not any(mark.found or mark.message or mark.hex for mark in marks)
    confidences = np.array([mark.confidence for mark in marks])
    assert [np.mean(confidences > level) <= 1 - level for level in (0.5, 0.9, 0.99)] == [True] * 3
    assert np.median(confidences) == 0


@pytest.mark.parametrize("name", ["white", "black", "grey"])
def test_a_plain_picture_reads_at_chance(name: str, photo: Callable[[str], np.ndarray]) -> None:
    """A picture of one colour has no mark, and the result says so: no confidence."""
    assert found(photo(name)) == Mark("", False, 0.0, "")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_kind_of_picture_is_marked_in_its_colours(
    dtype: str, channels: int, photo: Callable[[str], np.ndarray]
) -> None:
    """Depth and channels are kept, alpha is untouched, and the mark is that of the picture in 8
    bits.
    """
    colours = photo("chelsea.png")[:200, :200]
    alpha = np.arange(200, dtype="uint8")[None, :, None].repeat(200, 0)
    eight = {1: colours[:, :, :1], 2: np.dstack([colours[:, :, :1], alpha]), 3: colours}.get(
        channels, np.dstack([colours, alpha])
    )
    pixels = {
        "uint8": eight,
        "uint16": eight.astype("uint16") * np.uint16(257),
        "float32": eight.astype("float32") / np.float32(255),
    }[dtype]
    picture = flow.Image(marked(pixels))
    assert (picture.pixels.dtype, picture.channels) == (pixels.dtype, channels)
    assert found(picture.pixels).message == found(picture.as_uint8().pixels).message == MESSAGE
    if picture.has_alpha:
        assert np.array_equal(picture.pixels[:, :, -1], pixels[:, :, -1])
    else:
        assert found(jpeg(picture.as_uint8().pixels.squeeze(), 80)).message == MESSAGE


def test_a_mark_that_was_there_is_replaced_with_a_note(photo: Callable[[str], np.ndarray]) -> None:
    """Marking again writes the new message; the same message again is no matter for a note."""
    first = flow.Image(marked(photo("chelsea.png"), "first"))
    notes, second = ended(embed(first, "second"))
    assert notes == ["the picture has the watermark 'first', which is replaced"]
    assert found(second.pixels).message == "second"
    assert ended(embed(first, "first"))[0] == []


def test_a_key_hides_the_mark(tmp_path: Path, photo: Callable[[str], np.ndarray]) -> None:
    """Who has another key, or none, finds nothing and sees no trace."""
    graph: dict[str, Any] = {
        "imagen_flow": 1,
        "nodes": {
            "plain": {"type": "image.noise", "width": 256, "height": 256, "seed": 1},
            "marked": {
                "type": "watermark.embed",
                "image": "${plain}",
                "message": "a",
                "key": "./a",
            },
            "same": {"type": "watermark.read", "image": "${marked}", "key": "./a"},
            "other": {"type": "watermark.read", "image": "${marked}", "key": "./b"},
            "none": {"type": "watermark.read", "image": "${marked}"},
        },
        "outputs": {n: "${" + n + ".message}" for n in ("same", "other", "none")}
        | {f"{n}_sure": "${" + n + ".confidence}" for n in ("same", "other", "none")},
    }
    for name in "ab":
        (tmp_path / name).write_text(f"key {name}")
    for node in graph["nodes"].values():
        if "key" in node:
            node["key"] = str(tmp_path / node["key"])
    outputs = flow.run(graph, store=None)
    assert [outputs[n] for n in ("same", "other", "none")] == ["a", "", ""]
    assert (
        outputs["same_sure"] > 1 - 1e-9 and max(outputs["other_sure"], outputs["none_sure"]) < 0.99
    )


def test_a_damaged_mark_is_noted(photo: Callable[[str], np.ndarray]) -> None:
    """Traces of a mark that cannot be read are told apart from none."""
    picture = PIL.Image.fromarray(marked(photo("page.png")))
    blurred = np.asarray(picture.filter(PIL.ImageFilter.GaussianBlur(1)))
    notes, mark = ended(read(flow.Image(blurred)))
    assert notes == ["there are traces of a watermark that is too damaged to be read"]
    assert (mark.found, mark.message) == (False, "") and mark.confidence > 0.999999


@pytest.mark.parametrize(
    ("message", "params", "why"),
    [
        ("m" * 17, {}, "has 17 bytes, and a watermark holds 16"),
        ("\ud800", {}, "is not valid Unicode"),
        ("ä" * 9, {}, "has 18 bytes"),
        ("m" * 10**6, {}, "has 1000000 bytes"),
        ("ff" * 17, {"encoding": "hex"}, "has 17 bytes"),
        ("xyz", {"encoding": "hex"}, "is not hexadecimal: 'xyz'; write two digits a byte"),
    ],
)
def test_messages_that_do_not_fit_are_refused(
    message: str, params: dict[str, Any], why: str, photo: Callable[[str], np.ndarray]
) -> None:
    """The error says how much there is and how much fits."""
    with pytest.raises(ValueError, match=why):
        marked(photo("grey"), message, **params)


@pytest.mark.parametrize("message", ["", "00", "00ff00", "ff" * 16])
def test_bytes_are_read_back_as_they_were(message: str, photo: Callable[[str], np.ndarray]) -> None:
    """Zeros and what is no text are kept, and no message at all is a message."""
    mark = found(marked(photo("grey"), message, encoding="hex"))
    assert (mark.found, mark.hex) == (True, message)


@pytest.mark.parametrize("size", [(1, 1), (63, 200), (200, 10)])
def test_a_picture_that_is_too_small_is_refused(size: tuple[int, int]) -> None:
    """Marking it says what is needed; reading it finds nothing."""
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    with pytest.raises(ValueError, match=f"{size[0]} × {size[1]} is too small.* needs 64 px"):
        marked(pixels)
    assert not found(pixels).found


@pytest.mark.parametrize("size", range(coding.CAPACITY + 1))
def test_the_code_corrects_what_is_lost(size: int) -> None:
    """With one bit in twelve turned around, each message is decoded."""
    drawn = np.random.default_rng(size)
    message = drawn.bytes(size)
    bits = coding.encode(message)
    wrong = drawn.permutation(coding.LENGTH) < coding.LENGTH // 12
    assert coding.decode(1.0 - 2.0 * (bits ^ wrong)) == message


def test_the_code_is_the_one_that_is_cited() -> None:
    """The coded bits are the products of the polynomials over GF(2)."""
    bits = np.random.default_rng(1).integers(0, 2, 168)
    expected = [
        np.convolve(bits, [int(bit) for bit in f"{generator:07b}"]) % 2
        for generator in (0o133, 0o171, 0o165)
    ]
    assert (
        coding._convolved(bits.astype("uint8")).tolist() == np.stack(expected, 1).ravel().tolist()
    )


def test_what_is_noise_decodes_to_nothing() -> None:
    """No message comes out of random bits."""
    drawn = np.random.default_rng(1)
    assert {coding.decode(drawn.standard_normal(coding.LENGTH)) for _ in range(50)} == {None}


def test_marks_of_earlier_releases_are_read() -> None:
    """Where a mark lies never changes: these digests are for ever."""
    where = lattice.layout(b"a key")
    parts = (where.places.astype("<i8"), where.weights.astype("<f8"), where.offsets.astype("<f8"))
    digest = hashlib.blake2b(b"".join(p.tobytes() for p in parts), digest_size=8).hexdigest()
    coded = np.packbits(coding.encode(b"a message")).tobytes()
    assert (digest, hashlib.blake2b(coded, digest_size=8).hexdigest()) == (
        "a0d8951a90213791",
        "7884cdff3bead2cf",
    )
