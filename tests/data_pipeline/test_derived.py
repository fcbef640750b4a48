"""Pictures that are derived: how they were compressed and what was pasted, against independent writings."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.derived import dct, derive, ela, srm
from data_pipeline.pictures import read_pictures
from data_pipeline.spec import Modality, check_modalities

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(256, size=(16, 24, 3), dtype=np.uint8)


def test_coefficients_equal_numpy_in_zigzag_order():
    found = dct.derive(PICTURE)
    assert found.shape == (16, 24, 1) and found.dtype == np.uint8
    luma = PICTURE @ np.float64([0.299, 0.587, 0.114])
    # The beginning of the order that JPEG has (ISO 10918-1, figure 5), as (row, column), and its end.
    order = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]
    for top, left in ((0, 0), (8, 16)):
        block, want = luma[top : top + 8, left : left + 8], np.zeros((8, 8))
        for u in range(8):
            for v in range(8):
                scale = (0.5 if u else 8**-0.5) * (0.5 if v else 8**-0.5)
                for y in range(8):
                    for x in range(8):
                        waves = np.cos((2 * y + 1) * u * np.pi / 16) * np.cos((2 * x + 1) * v * np.pi / 16)
                        want[u, v] += scale * block[y, x] * waves
        laid = found[top : top + 8, left : left + 8, 0].ravel().astype(float)
        bytes_ = [want[0, 0] / 8, *(128 + want[at] for at in order[1:])]
        np.testing.assert_allclose(laid[:10], np.clip(np.rint(bytes_), 0, 255), atol=1)
        np.testing.assert_allclose(laid[-2:], np.clip(128 + np.array([want[7, 6], want[7, 7]]), 0, 255), atol=1)
    assert sorted(dct.zigzag()) == list(range(64))


def test_coefficients_of_a_compressed_picture_are_multiples():
    """What they are for: JPEG leaves steps in them, what is pasted has none."""
    file, grey = io.BytesIO(), RNG.integers(64, 192, size=(64, 64, 1), dtype=np.uint8).repeat(3, 2)
    Image.fromarray(grey).save(file, "JPEG", quality=20)
    before, after = (
        dct.derive(x)[..., 0].reshape(8, 8, 8, 8).transpose(1, 3, 0, 2).reshape(64, -1)[10]
        for x in (grey, np.array(Image.open(file)))
    )
    assert len(np.unique(after)) < len(np.unique(before)) / 2


def test_error_levels_are_how_far_a_picture_moves():
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", quality=80)
    want = np.abs(PICTURE.astype(int) - np.asarray(Image.open(file)))
    np.testing.assert_array_equal(ela.derive(PICTURE), want)
    smooth = np.full((16, 16, 3), 200, np.uint8)
    assert ela.derive(smooth).max() <= 1 and ela.derive(PICTURE[..., :1]).shape == (16, 24, 3)


def test_residuals_equal_numpy():
    found = srm.derive(PICTURE)
    colours = np.pad(PICTURE.astype(float).sum(2) / 57, 2)
    third = np.zeros((5, 5))
    third[2, 1:4] = 0.5, -1.0, 0.5
    first = np.pad(np.outer([1, -2, 1], [1, -2, 1]) / -4.0, 1)
    second = np.array(
        [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    )
    for channel, kernel in enumerate((first, second / 12, third)):
        for row, column in ((0, 0), (7, 11), (15, 23)):
            value = (colours[row : row + 5, column : column + 5] * kernel).sum()
            assert abs(found[row, column, channel] - (np.clip(value, -3, 3) + 3) * 42.5) <= 0.51
    flat = srm.derive(np.full((16, 16, 3), 90, np.uint8))[2:-2, 2:-2]
    assert np.ptp(flat) == 0 and abs(int(flat[0, 0, 0]) - 127.5) <= 0.5


def test_a_crop_is_what_is_derived_from():
    m = Modality("traces", "pixels", (8, 8, 1), "dct:image")
    whole = RNG.integers(256, size=(8, 12, 3), dtype=np.uint8)
    found = read_pictures({"image": whole, "row": 0}, m, None, (8, 12))
    np.testing.assert_array_equal(found, dct.derive(np.ascontiguousarray(whole[:, 2:10])))
    assert read_pictures({"image": None, "row": 0}, m, None, None) is None and derive("image") is None


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"'elo:image': what is derived='elo': .* there are: dct, edges, ela"):
        check_modalities((Modality("traces", "pixels", (8, 8, 3), "elo:image"),))
    with pytest.raises(ValueError, match="dct:FIELD: a picture of 9×16: its sides must be multiples of 8"):
        dct.derive(np.zeros((9, 16, 3), np.uint8))
