"""image.canny draws the lines that OpenCV draws."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

import imagen_flow as flow
from imagen_flow_image.outlines import canny


def lines(pixels: np.ndarray, **ports: Any) -> np.ndarray:
    found: np.ndarray = canny(flow.Image(pixels), **ports).pixels[:, :, 0]
    return found


@pytest.mark.parametrize("name", ["astronaut", "camera", "coffee"])
def test_lines_of_photographs_are_those_of_opencv(name: str) -> None:
    """Every pixel agrees, in colour and in grey."""
    photo = getattr(skimage.data, name)()
    assert np.array_equal(lines(photo), cv2.Canny(photo, 100, 200))
    assert 0.01 < (lines(photo) == 255).mean() < 0.3


@pytest.mark.parametrize("channels", [1, 3])
def test_lines_of_any_pixels_are_those_of_opencv(channels: int) -> None:
    """Noise and blurred noise of odd sizes, down to one pixel, at any thresholds."""
    random = np.random.default_rng(7)
    for number in range(150):
        height, width = random.integers(1, 30, 2)
        pixels = random.integers(0, 256, (height, width, channels)).astype("uint8")
        if number % 2:
            pixels = cv2.GaussianBlur(pixels, (0, 0), 1.5).reshape(height, width, channels)
        low, high = sorted(random.integers(0, 700, 2).tolist())
        wanted = cv2.Canny(pixels if channels == 3 else pixels[:, :, 0].copy(), low, high)
        assert np.array_equal(lines(pixels, low=low, high=high), wanted), (number, low, high)


def test_a_line_is_followed_to_its_end() -> None:
    """A spiral whose first pixels alone are strong is one line; it takes no time to follow it."""
    pixels = np.full((201, 201), 100, np.uint8)
    top, left, bottom, right = 10, 10, 190, 190
    while bottom - top > 8:
        pixels[top, left:right] = pixels[bottom, left:right] = 140
        pixels[top:bottom, right] = pixels[top + 4 : bottom, left] = 140
        pixels[top + 4, left : left + 4] = 140
        top, left, bottom, right = top + 4, left + 4, bottom - 4, right - 4
    pixels[8:12, 8:14] = 255
    assert np.array_equal(lines(pixels, low=60, high=400), cv2.Canny(pixels, 60, 400))


def test_16_bits_and_alpha_are_brought_to_8_bits_over_black() -> None:
    """What is transparent is black, and so a transparent shape on black has no lines."""
    shape = np.zeros((20, 20, 4), np.uint16)
    shape[5:15, 5:15] = 65535
    drawn = lines(shape)
    assert drawn.max() == 255 and drawn.dtype == np.uint8
    shape[:, :, 3] = 0
    assert lines(shape).max() == 0


def test_thresholds_the_wrong_way_round_are_refused() -> None:
    """The message says which is which."""
    with pytest.raises(ValueError, match="port 'low' is 9 and port 'high' is 3"):
        canny(flow.Image(np.zeros((3, 3), np.uint8)), low=9, high=3)
