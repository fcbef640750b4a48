"""Forgeries: what is tampered was pasted, what is not was compressed; the same every time."""

import numpy as np
import pytest

from data_pipeline.derived import ela
from data_pipeline.sources.tampered_emoji import AREA, Source


def test_forgeries():
    train, val = Source("train", pictures=40), Source("val", pictures=40)
    assert (len(train), len(val), len(Source(("val", "test"), pictures=40))) == (40, 4, 8)
    inside, outside = [], []
    for i in range(12):
        example = train[i]
        assert example.keys() == train.fields | {"row"} and example["row"] == i
        picture, tampered = example["picture"], example["tampered"][..., 0]
        assert (
            picture.shape == (64, 64, 3) and tampered.shape == (64, 64) and picture.dtype == tampered.dtype == np.uint8
        )
        down, across = (np.flatnonzero(tampered.any(axis)) for axis in (1, 0))
        sides = len(down), len(across)
        assert tampered.sum() == np.prod(sides) and AREA[0] <= min(sides) <= max(sides) <= AREA[1]
        moved = ela.derive(picture).mean(2)
        inside.append(moved[tampered == 1].mean())
        outside.append(moved[tampered == 0].mean())
    assert np.mean(inside) > 1.5 * np.mean(outside), "compressed again, what was pasted moves more"
    np.testing.assert_array_equal(train[3]["picture"], Source("train", pictures=90)[3]["picture"])
    assert (train[3]["picture"] != train[4]["picture"]).any() and repr(train) != repr(val)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="pictures=9: need at least 10"):
        Source(pictures=9)
    with pytest.raises(ValueError, match="split='all' is unknown"):
        Source("all")
