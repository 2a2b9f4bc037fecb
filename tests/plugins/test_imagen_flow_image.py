"""Pictures are worked on as Pillow does it, in their own depth, with alpha weighed, and never
beyond the limits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageEnhance, ImageFilter, ImageOps

import imagen_flow_image
from imagen_flow import Image, Lettering, Mask
from imagen_flow._types.value_digests import digest_value
from imagen_flow_image import filters, geometry, layers, masks, measures, sheets, sources, tones
from imagen_flow_image.colours import read_colour
from imagen_flow_image.pixels import from_unit, premultiply, to_depth, to_unit

NODES = {node.type.name: node for node in imagen_flow_image.imagen_flow_nodes()}
DEPTHS = ("uint8", "uint16", "float32")


def picture(
    height: int = 12, width: int = 17, channels: int = 3, dtype: str = "uint8", seed: int = 0
) -> Image:
    """A smooth picture with a hard edge in it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype("float32")
    planes = [
        0.5
        + 0.45
        * np.sin(
            rows * random.uniform(0.1, 0.5)
            + columns * random.uniform(0.1, 0.5)
            + random.uniform(0, 6)
        )
        for _ in range(channels)
    ]
    planes[0][height // 2 :, width // 2 :] = 0.95
    return Image(from_unit(np.stack(planes, axis=2), dtype))


def a_mask(height: int = 12, width: int = 17, dtype: str = "uint8") -> Mask:
    pixels = np.zeros((height, width), dtype="float32")
    pixels[3:8, 4:11] = 1
    pixels[5:6, 12:13] = 0.5
    return Mask(from_unit(pixels, dtype))


def pil(image: Image) -> PIL.Image.Image:
    return image.to_pil()


def refusal(node: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as refused:
        node(*args, **kwargs)
    return str(refused.value)


def apart(one: Image | Mask, other: Image | Mask) -> float:
    """The largest difference in 8-bit levels."""
    return float(np.abs(to_unit(one.pixels) - to_unit(other.pixels)).max() * 255)


# Sizes


@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear", "box", "nearest"])
@pytest.mark.parametrize("size", [(5, 9), (40, 23), (17, 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_pillows(resample: str, size: tuple[int, int], channels: int) -> None:
    """Opaque 8-bit pictures come out as Pillow makes them, bit for bit."""
    image = picture(channels=channels)
    done = geometry.resize(image, width=size[0], height=size[1], resample=resample)
    assert np.array_equal(
        done.pixels,
        Image.from_pil(pil(image).resize(size, PIL.Image.Resampling[resample.upper()])).pixels,
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": 34}, (34, 24)),
        ({"height": 6}, (8, 6)),
        ({"width": 10, "height": 10}, (10, 10)),
        ({"width": 10, "height": 10, "fit": "contain"}, (10, 7)),
        ({"width": 100, "height": 10, "fit": "contain"}, (14, 10)),
        ({"width": 10, "height": 10, "fit": "cover"}, (10, 10)),
        ({"width": 1}, (1, 1)),
    ],
)
def test_sizes_follow_what_is_given(options: dict[str, Any], size: tuple[int, int]) -> None:
    """A side that is left out follows the other; contain stays inside; cover fills."""
    done = geometry.resize(picture(), **options)
    assert (done.width, done.height) == size


def test_a_side_is_never_rounded_to_nothing() -> None:
    """A strip that is made smaller keeps one pixel across."""
    lying, standing = (Image(np.zeros((*shape, 3), np.uint8)) for shape in ((1, 100), (100, 1)))
    done = [
        geometry.resize(lying, width=10),
        geometry.resize(standing, height=10),
        geometry.resize(lying, width=10, height=10, fit="contain"),
        geometry.scale(lying, 0.1),
        geometry.scale(standing, 0.1),
    ]
    assert [(one.width, one.height) for one in done] == [
        (10, 1),
        (1, 10),
        (10, 1),
        (10, 1),
        (1, 10),
    ]


@pytest.mark.parametrize("size", [(10, 10), (30, 8)])
def test_covering_is_pillows_fit(size: tuple[int, int]) -> None:
    """What hangs over is cut off on both sides alike."""
    done = geometry.resize(picture(), width=size[0], height=size[1], fit="cover")
    assert np.array_equal(
        done.pixels, np.array(ImageOps.fit(pil(picture()), size, PIL.Image.Resampling.LANCZOS))
    )


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "name",
    [
        "image.resize",
        "image.rotate",
        "image.blur",
        "image.sharpen",
        "image.adjust",
        "image.normalise",
        "image.pad",
    ],
)
def test_depth_and_channels_are_kept_and_depth_changes_no_look(
    name: str, dtype: str, channels: int
) -> None:
    """What is done in 16 bits or float is what is done in 8 bits, but for rounding."""
    options: dict[str, dict[str, Any]] = {
        "image.resize": {"width": 11, "height": 20},
        "image.rotate": {"degrees": 30.0, "colour": "black"},
        "image.blur": {"radius": 2.3},
        "image.sharpen": {"amount": 0.5},
        "image.adjust": {
            "brightness": 1.05,
            "contrast": 0.9,
            "saturation": 0.5,
            "hue": 50.0,
            "gamma": 1.2,
        },
        "image.normalise": {"cutoff": 1.0},
        "image.pad": {"border": 3, "colour": "white"},
    }
    image = picture(channels=channels, dtype=dtype)
    done = NODES[name](image, **options[name])
    assert (done.pixels.dtype, done.channels) == (dtype, channels)
    small = NODES[name](Image(to_depth(image.pixels, "uint8")), **options[name])
    kept, seen = (premultiply(np.clip(to_unit(one.pixels), 0, 1)) for one in (done, small))
    assert np.abs(kept - seen).max() * 255 <= 4


def test_resizing_weighs_colours_by_alpha() -> None:
    """The colour of what cannot be seen does not bleed into what can."""
    pixels = np.zeros((4, 4, 4), dtype="uint8")
    pixels[:, :2] = (255, 0, 0, 255)
    pixels[:, 2:] = (0, 255, 0, 0)
    done = geometry.resize(Image(pixels), width=2, height=4, resample="bilinear").pixels
    assert (done[:, :, 1] == 0).all()
    assert (done[:, 0, 0] == 255).all()
    small = geometry.resize(Image(pixels), width=1, height=1, resample="box").pixels
    assert small.tolist() == [[[255, 0, 0, 128]]]


def test_a_16_bit_gradient_keeps_its_steps() -> None:
    """Enlarging makes tones between, which 8 bits do not have."""
    ramp = Image(np.arange(0, 512, 2, dtype="uint16").reshape(1, 256, 1))
    assert (
        len(np.unique(geometry.resize(ramp, width=512, height=1, resample="bilinear").pixels)) > 400
    )


def test_scaling_multiplies_both_sides() -> None:
    """And never goes below one pixel."""
    assert [
        (i.width, i.height)
        for i in (
            geometry.scale(picture(), 2.0),
            geometry.scale(picture(), 0.5),
            geometry.scale(picture(), 0.001),
        )
    ] == [
        (34, 24),
        (8, 6),
        (1, 1),
    ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda i: geometry.resize(i),
            "neither port 'width' nor port 'height' is given; give one or both",
        ),
        (
            lambda i: geometry.scale(i, 1000.0),
            "the result would have 17,000 x 12,000 pixels, more than 134,217,728; use a smaller size",
        ),
        (
            lambda i: geometry.resize(i, width=16384, height=16384),
            "the result would have 16,384 x 16,384 pixels, more than 134,217,728; use a smaller size",
        ),
        (
            lambda i: geometry.crop(i, width=20, height=5),
            "ports 'width' and 'height' are 20 x 5, but the picture is 17 x 12; use smaller ones, or enlarge it first with image.resize or image.pad",
        ),
        (
            lambda i: geometry.crop(i, width=10, height=5, x=8),
            "port 'x' is 8, so the rectangle ends at 18, but the picture ends at 17; x may be at most 7",
        ),
        (
            lambda i: geometry.crop(i, width=5, height=13),
            "ports 'width' and 'height' are 5 x 13, but the picture is 17 x 12; use smaller ones, or enlarge it first with image.resize or image.pad",
        ),
        (
            lambda i: geometry.crop(i, width=5, height=10, y=3),
            "port 'y' is 3, so the rectangle ends at 13, but the picture ends at 12; y may be at most 2",
        ),
        (
            lambda i: geometry.pad(i, width=10),
            "port 'width' is 10, less than the 17 of the picture; padding never crops: use image.crop or image.resize first",
        ),
        (
            lambda i: geometry.pad(i, width=20, border=2),
            "port 'border' and a size are both given; give either 'border' or 'width' and 'height'",
        ),
        (
            lambda i: geometry.pad(i, border=8192),
            "the result would have 16,401 x 16,396 pixels, more than 134,217,728; use a smaller size",
        ),
        (
            lambda i: sources.solid(16384, 16384),
            "the result would have 16,384 x 16,384 pixels, more than 134,217,728; use a smaller size",
        ),
        (
            lambda i: geometry.pad(i, border=1, colour="blak"),
            "port 'colour': 'blak' is not a colour; did you mean 'black'?",
        ),
        (
            lambda i: sources.solid(1, 1, colour="#12345"),
            "port 'colour': '#12345' is not a colour; write a name such as orange, #ff8800, rgb(255, 136, 0), hsl(32, 100%, 50%) or transparent",
        ),
        (
            lambda i: layers.blend(i, picture(5, 6)),
            "port 'b' is 6 x 5 and port 'a' is 17 x 12; they must have the same size: use image.resize or image.crop",
        ),
        (
            lambda i: layers.composite(i, i, mask=a_mask(5, 20)),
            "port 'mask' is 20 x 5 and port 'foreground' is 17 x 12; they must have the same size: use mask.resize or image.crop",
        ),
        (
            lambda i: masks.apply(i, a_mask(12, 20)),
            "port 'mask' is 20 x 12 and port 'image' is 17 x 12; they must have the same size: use mask.resize or image.crop",
        ),
        (
            lambda i: sheets.grid([]),
            "port 'images' is an empty list; a sheet needs at least one picture",
        ),
        (
            lambda i: sheets.grid([i], labels=["a", "b"]),
            "port 'labels' has 2 texts for 1 pictures; give one label per picture",
        ),
        (
            lambda i: tones.convert(picture(channels=4), channels="rgb", background="#ff000080"),
            "port 'background': '#ff000080' is not opaque; write an opaque colour, or keep alpha with channels: rgba",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call: Any, words: str) -> None:
    """The message names the port and says how to mend it; nothing large is made first."""
    assert refusal(call, picture()) == words


def test_crops_are_cut_where_asked() -> None:
    """By a corner, by an anchor, or one of each."""
    pixels = picture().pixels
    assert np.array_equal(
        geometry.crop(picture(), width=5, height=4, x=2, y=3).pixels, pixels[3:7, 2:7]
    )
    assert np.array_equal(geometry.crop(picture(), width=5, height=4).pixels, pixels[4:8, 6:11])
    assert np.array_equal(
        geometry.crop(picture(), width=5, height=4, x=12, y=8).pixels, pixels[8:, 12:]
    )
    assert np.array_equal(
        geometry.crop(picture(), width=5, height=4, anchor="bottom_right").pixels, pixels[8:, 12:]
    )
    assert np.array_equal(
        geometry.crop(picture(), width=5, height=4, x=0, anchor="bottom").pixels, pixels[8:, :5]
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_turning_and_flipping_back_gives_the_picture(channels: int, dtype: str) -> None:
    """Quarter turns and mirrors lose nothing."""
    image = picture(channels=channels, dtype=dtype)
    for there, back in ((90.0, -90.0), (180.0, 180.0), (270.0, 90.0), (360.0, 0.0)):
        assert np.array_equal(
            geometry.rotate(geometry.rotate(image, there), back).pixels, image.pixels
        )
    for direction in ("horizontal", "vertical", "both"):
        assert np.array_equal(
            geometry.flip(geometry.flip(image, direction=direction), direction=direction).pixels,
            image.pixels,
        )


def test_rotating_is_clockwise() -> None:
    """A quarter turn brings the left side up; other angles are Pillow's."""
    image = picture()
    assert np.array_equal(
        geometry.rotate(image, 90.0).pixels,
        np.array(pil(image).transpose(PIL.Image.Transpose.ROTATE_270)),
    )
    wanted = pil(image).rotate(
        -30, PIL.Image.Resampling.BICUBIC, expand=True, fillcolor=(255, 255, 255)
    )
    assert apart(geometry.rotate(image, 30.0, colour="white"), Image.from_pil(wanted)) <= 1.01
    assert np.array_equal(geometry.flip(image).pixels, np.array(ImageOps.mirror(pil(image))))
    assert np.array_equal(
        geometry.flip(image, direction="vertical").pixels, np.array(ImageOps.flip(pil(image)))
    )


def test_corners_come_into_view_transparent() -> None:
    """Without a colour, a picture that is turned gains alpha; what can be seen keeps its colour."""
    red = sources.solid(20, 20, colour="red")
    turned = geometry.rotate(red, 45.0).pixels
    assert turned.shape[2] == 4
    assert turned[0, 0, 3] == 0
    assert (turned[turned[:, :, 3] > 0][:, :3] == (255, 0, 0)).all()
    assert geometry.rotate(red, 45.0, expand=False, colour="blue").pixels[0, 0].tolist() == [
        0,
        0,
        255,
    ]
    grey = Image(np.full((9, 9), 7, dtype="uint8"))
    assert (
        geometry.rotate(grey, 10.0, colour="white").channels,
        geometry.rotate(grey, 10.0, colour="red").channels,
    ) == (1, 3)


def test_pads_show_what_was_asked() -> None:
    """A colour, the outermost pixels, or the picture mirrored."""
    image = Image(np.array([[1, 2, 3]], dtype="uint8"))
    assert geometry.pad(image, width=6, fill="edge", anchor="left").pixels[0, :, 0].tolist() == [
        1,
        2,
        3,
        3,
        3,
        3,
    ]
    assert geometry.pad(image, width=6, fill="reflect", anchor="right").pixels[
        0, :, 0
    ].tolist() == [2, 3, 2, 1, 2, 3]
    assert geometry.pad(image, width=5, colour="white").pixels[0, :, 0].tolist() == [
        255,
        1,
        2,
        3,
        255,
    ]
    assert geometry.pad(image, border=1, colour="transparent").pixels.shape == (3, 5, 2)
    assert geometry.pad(image, border=1, colour="red").pixels[0, 0].tolist() == [255, 0, 0]
    assert geometry.pad(picture(dtype="uint16"), border=1, colour="#800000").pixels[
        0, 0
    ].tolist() == [128 * 257, 0, 0]


# Tones


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_8_bits_survive_16_and_float(values: list[int]) -> None:
    """Going deeper and back loses nothing; 16 bits survive float."""
    deep = Image(np.array([values], dtype="uint16"))
    flat = Image((deep.pixels >> 8).astype("uint8"))
    for depth in (16, "float"):
        assert np.array_equal(
            tones.convert(tones.convert(flat, depth=depth), depth=8).pixels, flat.pixels
        )
    assert np.array_equal(
        tones.convert(tones.convert(deep, depth="float"), depth=16).pixels, deep.pixels
    )


def test_grey_is_pillows_luminance() -> None:
    """In 8 bits exactly; in other depths the same weights."""
    image = picture(40, 50)
    assert np.array_equal(
        tones.convert(image, channels="grey").pixels[:, :, 0], np.array(pil(image).convert("L"))
    )
    for dtype in DEPTHS[1:]:
        assert (
            apart(
                tones.convert(picture(40, 50, dtype=dtype), channels="grey"),
                tones.convert(image, channels="grey"),
            )
            <= 1
        )


def test_channels_are_added_and_laid_down() -> None:
    """Added alpha is opaque; dropped alpha is laid over the background."""
    clear = Image(np.array([[[200, 100, 0, 51], [10, 20, 30, 255]]], dtype="uint8"))
    assert tones.convert(clear, channels="rgb").pixels.tolist() == [[[40, 20, 0], [10, 20, 30]]]
    assert tones.convert(clear, channels="rgb", background="white").pixels.tolist() == [
        [[244, 224, 204], [10, 20, 30]]
    ]
    assert tones.convert(clear, channels="grey_alpha").pixels[0, :, 1].tolist() == [51, 255]
    grey = Image(np.array([[[8]]], dtype="uint16"))
    assert tones.convert(grey, channels="rgba").pixels.tolist() == [[[8, 8, 8, 65535]]]
    half = Image(np.array([[[0, 128]]], dtype="uint8"))
    assert tones.convert(half, channels="grey", background="red").pixels.tolist() == [[[38]]]


def test_neutral_settings_change_nothing() -> None:
    """Not one bit."""
    for dtype in DEPTHS:
        image = picture(channels=4, dtype=dtype)
        for done in (
            tones.adjust(image),
            tones.convert(image),
            filters.blur(image, radius=0.0),
            filters.sharpen(image, amount=0.0),
            geometry.resize(image, width=17),
            layers.blend(image, picture(channels=4, dtype=dtype, seed=1), amount=0.0),
        ):
            assert apart(done, image) <= 0.01


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.7])
@pytest.mark.parametrize(
    ("port", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_adjusting_is_pillows(port: str, enhance: Any, factor: float) -> None:
    """The same as ImageEnhance, within rounding."""
    image = picture(30, 40)
    assert (
        apart(
            tones.adjust(image, **{port: factor}),
            Image.from_pil(enhance(pil(image)).enhance(factor)),
        )
        <= 2
    )


def test_hues_turn_and_gamma_bends() -> None:
    """120 degrees make red green; a full circle changes nothing; gamma is a power."""
    colours = Image(
        np.array(
            [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 128, 0], [90, 90, 90]]], dtype="uint8"
        )
    )
    turned = [[[0, 255, 0], [0, 0, 255], [255, 0, 0], [0, 255, 128], [90, 90, 90]]]
    assert tones.adjust(colours, hue=120.0).pixels.tolist() == turned
    assert tones.adjust(colours, hue=-240.0).pixels.tolist() == turned
    many = picture(30, 40)
    assert apart(tones.adjust(tones.adjust(many, hue=77.0), hue=-77.0), many) <= 2
    assert tones.adjust(Image(np.array([[64, 255]], dtype="uint8")), gamma=2.0).pixels[
        0, :, 0
    ].tolist() == [128, 255]


def test_tones_are_stretched_as_pillow_does() -> None:
    """Together over the luminance, or each channel apart; one tone alone stays."""
    dull = Image((picture(40, 50).pixels // 3 + 60).astype("uint8"))
    for channels, together in (("together", True), ("each", False)):
        wanted = Image.from_pil(ImageOps.autocontrast(pil(dull), preserve_tone=together))
        assert apart(tones.normalise(dull, channels=channels), wanted) <= 2
    even = tones.normalise(dull, channels="each")
    assert [(even.pixels[:, :, c].min(), even.pixels[:, :, c].max()) for c in range(3)] == [
        (0, 255)
    ] * 3
    flat = sources.solid(4, 4, colour="#336699")
    for method in ("stretch", "equalise"):
        for channels in ("together", "each"):
            assert np.array_equal(
                tones.normalise(flat, method=method, channels=channels).pixels, flat.pixels
            )


def test_cutting_off_leaves_out_outliers() -> None:
    """One white and one black pixel do not hold the range."""
    pixels = np.full((20, 20), 100, dtype="uint8")
    pixels[:, 10:] = 150
    pixels[0, 0], pixels[0, 19] = 0, 255
    done = tones.normalise(Image(pixels), cutoff=2.0).pixels[:, :, 0]
    assert (done[5, 2], done[5, 15]) == (0, 255)


def test_equalising_is_pillows() -> None:
    """Tones become about equally frequent."""
    grey = tones.convert(picture(64, 64), channels="grey")
    assert (
        apart(
            tones.normalise(grey, method="equalise"), Image.from_pil(ImageOps.equalize(pil(grey)))
        )
        <= 8
    )
    deep = tones.normalise(tones.convert(grey, depth=16), method="equalise")
    assert apart(deep, tones.normalise(grey, method="equalise")) <= 2


# Filters


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5, 7.0, 40.0])
@pytest.mark.parametrize("kind", ["gaussian", "box"])
def test_blurring_is_pillows_in_every_depth(radius: float, kind: str) -> None:
    """8 bits are Pillow's own; 16 bits and float are the same but finer."""
    image = picture(30, 40)
    wanted = Image.from_pil(
        pil(image).filter(
            ImageFilter.GaussianBlur(radius) if kind == "gaussian" else ImageFilter.BoxBlur(radius)
        )
    )
    assert np.array_equal(filters.blur(image, radius=radius, kind=kind).pixels, wanted.pixels)
    for depth in (16, "float"):
        assert (
            apart(filters.blur(tones.convert(image, depth=depth), radius=radius, kind=kind), wanted)
            <= 3
        )


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5, 7.0, 40.0])
def test_the_radius_of_a_blur_is_its_standard_deviation(radius: float) -> None:
    """One bright pixel spreads out with just this deviation."""
    pixels = np.zeros((1, 601), dtype="float32")
    pixels[0, 300] = 1
    spread = filters.blur(Image(pixels), radius=radius).pixels[0, :, 0].astype("float64")
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread * (np.arange(601) - 300) ** 2).sum() == pytest.approx(radius**2, rel=1e-3)


@given(st.floats(0.1, 30))
def test_blurring_keeps_an_even_picture(radius: float) -> None:
    """A picture of one colour stays as it is."""
    even = Image(np.full((5, 6, 4), 12345, dtype="uint16"))
    assert np.array_equal(filters.blur(even, radius=radius).pixels, even.pixels)


def test_blurring_weighs_colours_by_alpha() -> None:
    """What cannot be seen does not bleed."""
    pixels = np.zeros((9, 9, 4), dtype="uint8")
    pixels[:, :, 1] = 255
    pixels[3:6, 3:6] = (255, 0, 0, 255)
    done = filters.blur(Image(pixels), radius=1.5).pixels
    assert (done[done[:, :, 3] > 0][:, 1] == 0).all()


def test_sharpening_is_pillows_unsharp_mask() -> None:
    """Within rounding, with and without a threshold; alpha stays."""
    image = picture(30, 40)
    for amount, threshold in ((1.0, 0), (0.5, 5)):
        wanted = Image.from_pil(
            pil(image).filter(ImageFilter.UnsharpMask(2, int(amount * 100), threshold))
        )
        assert apart(filters.sharpen(image, amount=amount, threshold=threshold / 255), wanted) <= 4
    clear = picture(channels=4)
    assert np.array_equal(filters.sharpen(clear).pixels[:, :, 3], clear.pixels[:, :, 3])


def test_edges_are_white_where_black_meets_white() -> None:
    """A straight edge at full contrast is white, an even picture black; the threshold makes it all
    or nothing.
    """
    pixels = np.zeros((9, 10), dtype="uint8")
    pixels[:, 5:] = 255
    drawn = filters.edges(Image(pixels), radius=0.0).pixels[:, :, 0]
    assert (drawn == np.where((np.arange(10) == 4) | (np.arange(10) == 5), 255, 0)).all()
    assert filters.edges(sources.solid(5, 5, colour="red")).pixels.max() == 0
    assert set(np.unique(filters.edges(picture(), threshold=0.1).pixels)) == {0, 255}
    assert filters.edges(picture(dtype="uint16")).pixels.dtype == "uint16"


# Layers


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_crossing_over_is_pillows_blend(amount: float) -> None:
    """Within rounding."""
    a, b = picture(), picture(seed=1)
    assert (
        apart(
            layers.blend(a, b, amount=amount),
            Image.from_pil(PIL.Image.blend(pil(a), pil(b), amount)),
        )
        <= 1.01
    )


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("multiply", lambda a, b: a * b),
        ("screen", lambda a, b: 1 - (1 - a) * (1 - b)),
        ("darken", np.minimum),
        ("lighten", np.maximum),
        ("add", lambda a, b: np.minimum(a + b, 1)),
        ("subtract", lambda a, b: np.maximum(a - b, 0)),
        ("difference", lambda a, b: np.abs(a - b)),
        ("hard_light", lambda a, b: np.where(b <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))),
        ("overlay", lambda a, b: np.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))),
        (
            "soft_light",
            lambda a, b: np.where(
                b <= 0.5,
                a - (1 - 2 * b) * a * (1 - a),
                a
                + (2 * b - 1) * (np.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, np.sqrt(a)) - a),
            ),
        ),
    ],
)
def test_modes_are_those_of_the_standard(mode: str, wanted: Any) -> None:
    """Each by its formula."""
    a, b = picture(dtype="float32"), picture(dtype="float32", seed=1)
    assert np.allclose(
        layers.blend(a, b, amount=1.0, mode=mode).pixels, wanted(a.pixels, b.pixels), atol=1e-5
    )


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_compositing_is_pillows(x: int, y: int) -> None:
    """Wherever the foreground lies, also partly or wholly outside."""
    back, front = picture(), picture(7, 9, channels=4, seed=2)
    under = pil(back).convert("RGBA")
    over = PIL.Image.new("RGBA", under.size)
    over.paste(pil(front), (x, y))
    wanted = Image.from_pil(PIL.Image.alpha_composite(under, over).convert("RGB"))
    assert apart(layers.composite(back, front, x=x, y=y), wanted) <= 1.01


def test_compositing_on_alpha_is_pillows() -> None:
    """Both pictures with alpha, weighed as seen."""
    back, front = picture(channels=4), picture(channels=4, seed=2)
    wanted = to_unit(np.array(PIL.Image.alpha_composite(pil(back), pil(front))))
    done = to_unit(layers.composite(back, front).pixels)
    assert np.abs(done - wanted).max() * 255 <= 2


def test_modes_mix_only_where_both_are_seen() -> None:
    """Two half transparent greys: a third of what is seen is the source alone, a third the mixture,
    a third the backdrop alone.
    """
    back, front = (
        Image(np.array([[[0.8, 0.5]]], dtype="float32")),
        Image(np.array([[[0.5, 0.5]]], dtype="float32")),
    )
    done = layers.composite(back, front, mode="multiply").pixels[0, 0]
    assert done.tolist() == pytest.approx([(0.5 + 0.8 * 0.5 + 0.8) / 3, 0.75])


def test_pasting_through_a_mask_changes_what_is_inside_alone() -> None:
    """White shows the foreground, black the background, grey half of each."""
    back, front, mask = (
        sources.solid(17, 12, colour="black"),
        sources.solid(17, 12, colour="white"),
        a_mask(),
    )
    assert np.array_equal(
        layers.composite(back, front, mask=mask).pixels[:, :, 0], mask.pixels[:, :, 0]
    )
    assert layers.composite(back, front, mask=mask, opacity=0.5).pixels.max() == 128


def test_compositing_takes_the_deeper_depth_and_colour() -> None:
    """A grey 8-bit background under a 16-bit colour becomes 16-bit colour, its own tones exact."""
    back = Image(np.full((4, 4), 10, dtype="uint8"))
    front = Image(np.array([[[1, 2, 3]]], dtype="uint16"))
    done = layers.composite(back, front, anchor="bottom_right")
    assert (done.pixels.dtype, done.channels) == ("uint16", 3)
    assert (done.pixels[0, 0].tolist(), done.pixels[3, 3].tolist()) == (
        [2570, 2570, 2570],
        [1, 2, 3],
    )


# Sheets


def test_sheets_lay_pictures_out_in_reading_order() -> None:
    """Smaller pictures are centred, the gap goes all around."""
    images = [sources.solid(4, 4, colour=colour) for colour in ("red", "lime", "blue")]
    sheet = sheets.grid([*images, sources.solid(2, 2, colour="black")], columns=2, gap=1).pixels
    assert sheet.shape == (11, 11, 3)
    assert [sheet[3, 3].tolist(), sheet[3, 8].tolist(), sheet[8, 3].tolist()] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]
    assert (sheet[6, 6].tolist(), sheet[7, 7].tolist()) == ([255, 255, 255], [0, 0, 0])
    assert (sheet[0] == 255).all()


def test_sheets_hold_labels_thumbnails_and_depth() -> None:
    """Labels make room and ink; long ones are cut off; thumbnails fit; the deepest depth wins."""
    images = [picture(40, 60, channels=1), picture(60, 40, channels=1, dtype="uint16")]
    plain, labelled = (
        sheets.grid(images, thumbnail=30, gap=0),
        sheets.grid(
            images,
            thumbnail=30,
            gap=0,
            labels=["one", "a label much longer than its picture is wide"],
        ),
    )
    assert (plain.width, plain.height, plain.channels, plain.pixels.dtype) == (60, 30, 1, "uint16")
    assert labelled.height > 40
    label = labelled.pixels[31:, :, 0]
    assert label[:, :30].min() < 20000
    assert label[:, 30:].min() < 20000
    assert sheets.grid(images, labels=["", ""], background="transparent").has_alpha
    assert sheets.grid(images, labels=["a", "b"], label_colour="red").channels == 3


def test_labels_wrap_between_words_up_to_the_lines_allowed() -> None:
    """A word wider than a line is broken, what does not fit ends in an ellipsis, and the sheet has
    as many lines as its longest label needs.
    """
    lettering = Lettering(size=14)
    label = "a small red  circle\nleft of a supercalifragilistic square"
    wrapped = lettering.wrap(label, 90, lines=9)
    assert wrapped == ["a small red", "circle left of a", "supercalifragil", "istic square"]
    assert lettering.wrap(label, 90, lines=2) == ["a small red", "circle left of …"]
    assert lettering.wrap(" \n", 90, lines=2) == []
    image = sources.solid(90, 20, colour="red")
    heights = [
        sheets.grid([image], gap=0, labels=[text], label_lines=lines).height
        for text, lines in (("short", 9), (label, 1), (label, 2), (label, 9))
    ]
    line = heights[0] - 20
    assert heights == [20 + line, 20 + line, 20 + 2 * line, 20 + 4 * line]


# Sources and measures


def test_pictures_of_one_colour() -> None:
    """Alpha only if the colour is not opaque."""
    assert sources.solid(2, 1, colour="#ff8800").pixels.tolist() == [[[255, 136, 0]] * 2]
    assert sources.solid(1, 1, colour="transparent").pixels.tolist() == [[[0, 0, 0, 0]]]
    assert [
        read_colour(c) for c in ("hsl(120, 100%, 50%)", " Black ", "#f80c", "rgb(1, 2, 3)")
    ] == [
        (0, 255, 0, 255),
        (0, 0, 0, 255),
        (255, 136, 0, 204),
        (1, 2, 3, 255),
    ]


def test_noise_is_seeded() -> None:
    """One seed, one noise; another, another; its mean and spread are as asked."""
    one, same, other = (
        sources.noise(64, 64, seed=seed, depth="float", deviation=0.1) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, other.pixels)
    assert abs(one.pixels.mean() - 0.5) < 0.01
    assert abs(one.pixels.std() - 0.1) < 0.01
    assert (
        sources.noise(8, 8, seed=2**63 - 1, kind="uniform", colour=False, depth=16).pixels.dtype
        == "uint16"
    )


def test_equal_pictures_do_not_differ() -> None:
    """And black against white differs by all."""
    assert measures.difference(picture(), picture())[1:] == (0.0, 0.0, 0.0)
    assert measures.difference(sources.solid(3, 3), sources.solid(3, 3, colour="white"))[1:] == (
        1.0,
        1.0,
        1.0,
    )
    told = measures.difference(
        Image(np.array([[0, 0]], dtype="uint8")), Image(np.array([[0, 51]], dtype="uint8"))
    )
    assert told[1:] == (0.1, 0.2, round(0.2 / 2**0.5, 8))
    assert told.image.pixels[0, :, 0].tolist() == [0, 51]
    clear = measures.difference(
        sources.solid(1, 1, colour="transparent"),
        Image(np.array([[[255, 0, 0, 0]]], dtype="uint8")),
    )
    assert clear.mean == 0


def test_statistics_tell_size_depth_and_tones() -> None:
    """As JSON data."""
    image = Image(np.array([[[0, 255], [51, 255]]], dtype="uint8"))
    assert measures.statistics(image) == {
        "width": 2,
        "height": 1,
        "channels": 2,
        "depth": 8,
        "mean": [0.1, 1.0],
        "deviation": [0.1, 0.0],
        "min": [0.0, 1.0],
        "max": [0.2, 1.0],
        "luminance": 0.1,
    }
    assert measures.size(picture()) == (17, 12)


# Masks


def test_masks_are_found_by_colour() -> None:
    """Within the tolerance, with or without a soft edge."""
    image = Image(
        np.array([[[0, 255, 0], [20, 255, 0], [60, 255, 0], [255, 255, 255]]], dtype="uint8")
    )
    assert masks.from_colour(image, "lime", tolerance=20 / 255).pixels[0, :, 0].tolist() == [
        255,
        255,
        0,
        0,
    ]
    assert masks.from_colour(image, "lime", tolerance=20 / 255, softness=80 / 255).pixels[
        0, :, 0
    ].tolist() == [255, 255, 128, 0]


def test_masks_are_found_by_light_and_alpha() -> None:
    """Transparent pixels count as black."""
    image = Image(
        np.array([[[255, 0, 0, 255], [255, 255, 255, 0], [255, 255, 255, 200]]], dtype="uint8")
    )
    assert masks.from_luminance(image).pixels[0, :, 0].tolist() == [76, 0, 200]
    assert masks.from_alpha(image).pixels[0, :, 0].tolist() == [255, 0, 200]
    assert masks.threshold(image, level=0.5).pixels[0, :, 0].tolist() == [0, 0, 255]
    assert masks.threshold(masks.from_alpha(image), level=1.0).pixels[0, :, 0].tolist() == [
        255,
        0,
        0,
    ]
    assert masks.from_alpha(picture(dtype="uint16")).pixels.min() == 65535


@pytest.mark.parametrize("dtype", DEPTHS)
def test_masks_follow_the_laws_of_sets(dtype: str) -> None:
    """De Morgan's, and back by inverting twice."""
    a, b = a_mask(dtype=dtype), Mask(np.roll(a_mask(dtype=dtype).pixels, 3, axis=1))
    both = masks.combine(a, b, mode="intersection")
    assert np.array_equal(
        masks.invert(both).pixels, masks.combine(masks.invert(a), masks.invert(b)).pixels
    )
    assert np.array_equal(masks.invert(masks.invert(a)).pixels, a.pixels)
    assert np.array_equal(
        masks.combine(a, b, mode="difference").pixels,
        masks.combine(a, masks.invert(b), mode="intersection").pixels,
    )
    one = masks.combine(
        masks.combine(a, b, mode="difference"), masks.combine(b, a, mode="difference")
    )
    assert np.array_equal(masks.combine(a, b, mode="exclusive").pixels, one.pixels)
    assert both.pixels.dtype == dtype


@pytest.mark.parametrize("pixels", [-3, -1, 0, 1, 2, 5])
def test_growing_is_pillows(pixels: int) -> None:
    """MaxFilter grows, MinFilter shrinks, in every depth."""
    mask = a_mask()
    filter_ = (ImageFilter.MaxFilter if pixels >= 0 else ImageFilter.MinFilter)(2 * abs(pixels) + 1)
    wanted = np.array(PIL.Image.fromarray(mask.pixels[:, :, 0]).filter(filter_))
    for dtype in DEPTHS:
        grown = masks.grow(Mask(to_depth(mask.pixels, dtype)), pixels)
        assert np.array_equal(to_depth(grown.pixels, "uint8")[:, :, 0], wanted)


def test_masks_cut_out() -> None:
    """What is outside becomes transparent; what was transparent stays so unless forgotten."""
    image = Image(np.array([[[1, 2, 3, 100], [4, 5, 6, 200]]], dtype="uint8"))
    mask = Mask(np.array([[255, 0]], dtype="uint8"))
    assert masks.apply(image, mask).pixels.tolist() == [[[1, 2, 3, 100], [4, 5, 6, 0]]]
    assert masks.apply(image, mask, mode="replace").pixels.tolist() == [
        [[1, 2, 3, 255], [4, 5, 6, 0]]
    ]
    assert masks.apply(picture(dtype="uint16"), a_mask()).pixels.shape == (12, 17, 4)


def test_masks_are_resized_and_softened() -> None:
    """As pictures are."""
    assert masks.resize_mask(a_mask(), width=34).pixels.shape == (24, 34, 1)
    soft = masks.blur_mask(a_mask(), radius=2.0)
    assert 0 < soft.pixels[2, 7, 0] < 255
    assert np.array_equal(masks.blur_mask(a_mask(), radius=0.0).pixels, a_mask().pixels)
    assert np.array_equal(masks.to_image(a_mask()).pixels, a_mask().pixels)


# All of them

CALLS: dict[str, dict[str, Any]] = {
    "image.resize": {"image": picture(), "width": 9},
    "image.canny": {"image": picture()},
    "image.crop_boxes": {"image": picture(), "boxes": [[0, 0, 1, 1]]},
    "image.draw_boxes": {"image": picture(), "boxes": [[0, 0, 1, 1]]},
    "image.scale": {"image": picture(), "factor": 0.7},
    "image.crop": {"image": picture(), "width": 5, "height": 5},
    "image.rotate": {"image": picture(), "degrees": 10.0},
    "image.flip": {"image": picture()},
    "image.pad": {"image": picture(), "border": 2},
    "image.convert": {"image": picture(), "channels": "grey", "depth": 16},
    "image.adjust": {"image": picture(), "hue": 30.0, "contrast": 1.2},
    "image.normalise": {"image": picture()},
    "image.blur": {"image": picture()},
    "image.sharpen": {"image": picture()},
    "image.edges": {"image": picture()},
    "image.composite": {"background": picture(), "foreground": picture(channels=4)},
    "image.blend": {"a": picture(), "b": picture(seed=1)},
    "image.grid": {"images": [picture(), picture(seed=1)], "labels": ["a", "b"]},
    "table.plot": {"rows": [{"a": 1, "b": 2}, {"a": 2, "b": 1.5}], "x": "a", "y": ["b"]},
    "image.solid": {"width": 3, "height": 2},
    "image.noise": {"width": 3, "height": 2, "seed": 1},
    "image.size": {"image": picture()},
    "image.difference": {"a": picture(), "b": picture(seed=1)},
    "image.statistics": {"image": picture()},
    "mask.from_colour": {"image": picture(), "colour": "red", "tolerance": 0.5},
    "mask.from_luminance": {"image": picture()},
    "mask.threshold": {"mask": a_mask()},
    "mask.from_alpha": {"image": picture(channels=4)},
    "mask.to_image": {"mask": a_mask()},
    "mask.invert": {"mask": a_mask()},
    "mask.combine": {"a": a_mask(), "b": a_mask()},
    "mask.blur": {"mask": a_mask()},
    "mask.grow": {"mask": a_mask(), "pixels": 1},
    "mask.resize": {"mask": a_mask(), "width": 5},
    "mask.apply": {"image": picture(), "mask": a_mask()},
}


def test_every_node_is_tried() -> None:
    """The list above has every node."""
    assert NODES.keys() == CALLS.keys()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_node_conforms(name: str) -> None:
    """Help begins with a sentence, inputs stay as they were, the same inputs give the same value,
    and it fits the output's type.
    """
    node, arguments = NODES[name], CALLS[name]
    first = node.type.doc.splitlines()[0]
    assert first[0].isupper()
    assert ". " in f"{first} " or ": " in first
    before = {port: digest_value(value) for port, value in arguments.items()}
    for port, value in arguments.items():
        node.type.inputs[port].type.check(value)
    results = [node(**arguments) for _ in range(2)]
    outputs = [list(result) if node.type.named_outputs else [result] for result in results]
    assert [digest_value(value) for value in outputs[0]] == [
        digest_value(value) for value in outputs[1]
    ]
    for port, value in zip(node.type.outputs.values(), outputs[0], strict=True):
        port.type.check(value)
    assert {port: digest_value(value) for port, value in arguments.items()} == before


@pytest.mark.parametrize(
    "name",
    sorted(
        name for name, call in CALLS.items() if any(isinstance(v, Image) for v in call.values())
    ),
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_every_node_takes_every_form_down_to_one_pixel(
    name: str, channels: int, dtype: str
) -> None:
    """Any channels, any depth, any size."""
    for size in ((12, 17), (1, 1), (1, 9)):
        arguments = {
            port: picture(*size, channels, dtype)
            if isinstance(v, Image)
            else a_mask(*size, dtype)
            if isinstance(v, Mask)
            else v
            for port, v in CALLS[name].items()
        }
        if name == "image.crop":
            arguments |= {"width": 1, "height": 1}
        NODES[name](**arguments)
