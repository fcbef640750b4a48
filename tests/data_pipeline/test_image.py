"""Crops stay aligned, edges look like line art, and palettes survive the trip through text."""

import numpy as np
import pytest

from data_pipeline.image import (
    NEAREST,
    apply_crop,
    edges,
    palette,
    palette_text,
    palettes,
    parse_palette,
)
from data_pipeline.transforms.crop import crop_settings


def test_crop_settings_are_within_the_image_and_square():
    settings = crop_settings(np.random.default_rng(0), 500, (48, 64), min_scale=0.5, flip=0.5)
    top, left, height, width, flip = settings.T
    assert settings.shape == (500, 5) and settings.dtype == np.int64
    assert (height == width).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 48).all() and (left + width <= 64).all()
    assert height.min() >= round(48 * 0.5**0.5) and height.min() < 40
    assert list(settings[0]) == [0, 8, 48, 48, 0]
    assert 0.4 < flip[1:].mean() < 0.6


def test_crop_settings_defaults():
    settings = crop_settings(np.random.default_rng(0), 100, 64)
    assert list(settings[0]) == [0, 0, 64, 64, 0]
    assert not settings[:, 4].any() and (settings[:, 2] >= round(64 * 0.8**0.5)).all()
    assert np.array_equal(settings, crop_settings(np.random.default_rng(0), 100, 64))


@pytest.mark.parametrize("arguments", [{"count": 0}, {"min_scale": 0.0}, {"min_scale": 1.5}, {"flip": -1}])
def test_crop_settings_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        crop_settings(np.random.default_rng(0), **{"count": 2, "size": 64, **arguments})


def test_whole_image_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = crop_settings(np.random.default_rng(0), 1, 64)[0]
    assert np.array_equal(apply_crop(image, whole, 64), image)
    assert np.array_equal(apply_crop(image, (0, 0, 64, 64, 1), 64), image[:, ::-1])


def test_crop_without_resizing_is_a_slice():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)
    assert np.array_equal(apply_crop(image, (3, 7, 32, 32, 0), 32), image[3:35, 7:39])


def test_modalities_stay_aligned():
    """A square drawn into colour, grey and mask is found at the same place in every crop of them."""
    grey = np.full((64, 64, 1), 255, np.uint8)
    grey[20:44, 12:40] = 0
    rgb = grey.repeat(3, axis=2)
    for setting in crop_settings(np.random.default_rng(1), 20, 64, min_scale=0.5, flip=0.5):
        colour, line = apply_crop(rgb, setting, 64), apply_crop(grey, setting, 64)
        mask = apply_crop(grey, setting, 64, NEAREST)
        assert np.array_equal(colour[..., :1], line)
        assert set(np.unique(mask)) <= {0, 255}
        assert ((line < 128) == (mask < 128)).mean() > 0.97


@pytest.mark.parametrize("setting", [(-1, 0, 8, 8, 0), (0, 0, 9, 8, 0), (4, 4, 5, 5, 0), (0, 0, 0, 0, 0)])
def test_crop_outside_the_image(setting):
    with pytest.raises(ValueError, match="leaves an image"):
        apply_crop(np.zeros((8, 8, 3), np.uint8), setting, 8)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)])
def test_wrong_images(image):
    for transform in (edges, lambda x: apply_crop(x, (0, 0, 8, 8, 0), 8), lambda x: palette(x, 3)):
        with pytest.raises(ValueError, match="uint8"):
            transform(image)


def test_edges_are_black_on_white_paper():
    image = np.full((64, 64, 3), 255, np.uint8)
    assert (edges(image) == 255).all()
    image[16:48, 16:48] = (200, 0, 0)
    drawn = edges(image)
    assert drawn.shape == (64, 64, 1) and drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 255}
    rows, columns = np.nonzero(drawn[..., 0] == 0)
    assert 15 <= rows.min() <= 17 and 46 <= rows.max() <= 48 and 100 < len(columns) < 200


def test_palette_is_sorted_by_frequency():
    image = np.full((10, 10, 3), 255, np.uint8)
    image[:3] = (250, 10, 10)
    image[9] = (0, 0, 90)
    expected = [[255, 255, 255], [250, 10, 10], [0, 0, 90]]
    assert palette(image, 2).shape == (2, 3)
    for n in (3, 7):  # fewer distinct colours than asked for: exactly these
        assert palette(image, n).tolist() == expected


def test_palette_of_a_busy_image():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for n in range(1, 8):
        colours = palette(image, n)
        assert colours.shape == (n, 3) and colours.dtype == np.uint8
        assert np.array_equal(colours, palette(image, n)) and np.array_equal(colours, palettes(image)[n - 1])
    assert len(palettes(image)) == 7
    with pytest.raises(ValueError, match="n=0"):
        palette(image, 0)


@pytest.mark.parametrize("seed", range(20))
def test_palette_text_round_trip(seed):
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (rng.integers(1, 8), 3), np.uint8)
    parsed = parse_palette(palette_text(colours))
    assert parsed.dtype == np.uint8 and np.array_equal(parsed, colours)


def test_palette_text_is_that_of_4m():
    assert palette_text(np.array([[1, 2, 3], [255, 0, 9]])) == "v1=2 v0=1 v0=2 v0=3 v0=255 v0=0 v0=9"


@pytest.mark.parametrize(
    "text", ["", "v1=1", "v1=0 v0=1", "v1=1 v0=1 v0=2", "v1=1 v0=1 v0=2 v0=256", "v0=1 v0=2 v0=3", "v1=1 v0=1 v0=2 red"]
)
def test_malformed_palettes(text):
    with pytest.raises(ValueError):
        parse_palette(text)


def test_palette_text_bad_shape():
    with pytest.raises(ValueError, match="shape"):
        palette_text(np.zeros((0, 3), np.uint8))
