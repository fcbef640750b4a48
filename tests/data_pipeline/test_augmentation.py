"""RandAugment is Pillow's operations, and large-scale jittering one window for a picture and its maps."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from data_pipeline.image import BICUBIC, NEAREST, apply_crop
from data_pipeline.pipeline import Encoder
from data_pipeline.spec import Modality
from data_pipeline.transforms import crop, jitter, randaugment
from data_pipeline.transforms.jitter import jitter_setting
from data_pipeline.transforms.randaugment import OPERATIONS

PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)).resize((48, 32), BICUBIC)
)
AFFINE = Image.Transform.AFFINE
RGB = Modality("rgb", "pixels", (32, 48, 3), "rgb", patch=16, mean=(0.5, 0.4, 0.3), std=(0.2,) * 3, targets=False)
GREY = Modality("grey", "pixels", (16, 24, 1), "rgb")
MAP = Modality("map", "pixels", (32, 48, 1), "map", resample="nearest", vocab_size=250)
DEPTH = Modality("depth", "pixels", (32, 48, 1), "map", resample="nearest")


# -- RandAugment -----------------------------------------------------------------------------------------------------

# At 0.9 of an operation's range, upwards and downwards.
EXPECTED = {
    "autocontrast": (ImageOps.autocontrast,) * 2,
    "equalize": (ImageOps.equalize,) * 2,
    "invert": (ImageOps.invert,) * 2,
    "rotate": tuple(lambda p, a=a: p.rotate(a, BICUBIC, fillcolor=(99,) * 3) for a in (27, -27)),
    "posterize": (lambda p: ImageOps.posterize(p, 1),) * 2,
    "solarize": (lambda p: ImageOps.solarize(p, 26),) * 2,
    "solarize_add": (lambda p: Image.fromarray((np.asarray(p) + 99 * (np.asarray(p) < 128)).astype(np.uint8)),) * 2,
    **{
        name: tuple(lambda p, f=f, kind=kind: kind(p).enhance(f) for f in (1.81, 0.19))
        for name, kind in (
            ("color", ImageEnhance.Color), ("contrast", ImageEnhance.Contrast), ("brightness", ImageEnhance.Brightness),
            ("sharpness", ImageEnhance.Sharpness),
        )
    },
    **{
        name: tuple(
            lambda p, m=[s * x for x in m]: p.transform(
                p.size, AFFINE, (1 + m[0], m[1], m[2], m[3], 1 + m[4], m[5]), BICUBIC, fillcolor=(99,) * 3
            )
            for s in (1, -1)
        )
        for name, m in (
            ("shear_x", (0, 0.27, 0, 0, 0, 0)), ("shear_y", (0, 0, 0, 0.27, 0, 0)),
            ("translate_x", (0, 0, 0.405 * 48, 0, 0, 0)), ("translate_y", (0, 0, 0, 0, 0, 0.405 * 32)),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name):
    picture = Image.fromarray(PICTURE)
    for sign, expected in zip((1, -1), EXPECTED[name]):
        made = OPERATIONS[name](picture, 0.9, sign, 99)
        assert np.array_equal(np.asarray(made), np.asarray(expected(picture)))
        grey = OPERATIONS[name](picture.convert("L"), 0.9, sign, 99)
        assert grey.size == picture.size and grey.mode == "L"


@pytest.mark.parametrize("magnitude, std", [(8.0, 1.0), (5.0, 100.0)])
def test_a_picture_is_what_the_drawn_operations_make_of_it(magnitude, std):
    augment = randaugment.Transform(ops=3, magnitude=magnitude, std=std)
    left_out = 0
    for seed in range(30):
        rng, picture = np.random.default_rng(seed), Image.fromarray(PICTURE)
        for name in rng.choice(list(OPERATIONS), 3):
            applied, strength, sign = rng.random() < 0.5, rng.normal(magnitude, std), rng.choice([-1, 1])
            left_out += not applied
            if applied:
                picture = OPERATIONS[name](picture, min(max(strength, 0), 10) / 10, sign, 99)
        assert np.array_equal(augment.distort(PICTURE, np.random.default_rng(seed), 99), np.asarray(picture))
    assert 30 < left_out < 60


def test_the_pipeline_augments_training_crops_after_the_crop_and_repeatably():
    example = {"row": 0, "rgb": PICTURE}
    augment = randaugment.Transform(ops=2)
    plain = Encoder((RGB, GREY), {}, True, (crop.Transform(flip=0.5),))
    made = dataclasses.replace(plain, transforms=(*plain.transforms, augment))
    differ = 0
    for seed in range(20):
        one, two = (made(example, np.random.default_rng(seed)) for _ in range(2))
        whole = plain(example, np.random.default_rng(seed))
        number = int(np.random.default_rng(seed).random() * 2**32)
        for m, grey in ((RGB, 102), (GREY, 128)):
            assert np.array_equal(one[m.name]["pixels"], two[m.name]["pixels"])
            expected = augment.distort(whole[m.name]["pixels"], np.random.default_rng([number, 1]), grey)
            assert np.array_equal(one[m.name]["pixels"], expected)
        differ += not np.array_equal(one["rgb"]["pixels"], whole["rgb"]["pixels"])
    assert 10 < differ < 20  # both operations are left out a quarter of the time
    still = dataclasses.replace(made, train=False)(example, np.random.default_rng(0))
    assert np.array_equal(still["rgb"]["pixels"], PICTURE)


# -- Large-scale jittering -------------------------------------------------------------------------------------------


def test_windows_make_the_picture_smaller_and_larger():
    """Of a picture of 300 × 200, of which 1.5 times its width just fits a window as high as wide."""
    rng = np.random.default_rng(0)
    drawn = np.stack([jitter_setting(rng, (200, 300), (0.1, 2.0), flip=0.5) for _ in range(3000)])
    top, left, rows, columns, flip = drawn.T
    assert (rows == columns).all() and 150 <= rows.min() < 155 and 2800 < rows.max() <= 3000
    scale = 300 / rows
    assert abs(scale.mean() - 1.05) < 0.03 and abs((scale < 0.575).mean() - 0.25) < 0.03
    assert (top[rows >= 200] == 0).all() and (left[columns >= 300] == 0).all()
    assert (top + rows <= 200)[rows <= 200].all() and (left + columns <= 300)[columns <= 300].all()
    assert left[columns < 300].max() > 100 and 0.45 < flip.mean() < 0.55


def test_what_lies_outside_is_filled():
    """Half of the size, in the upper left corner; the rest of a mirrored one is on the left."""
    for resample in (BICUBIC, NEAREST):
        small = np.asarray(Image.fromarray(PICTURE).resize((24, 16), resample))
        made = apply_crop(PICTURE, (0, 0, 64, 96, 0), (32, 48), resample, fill=7)
        assert np.array_equal(made[:16, :24], small)
        assert (made[16:] == 7).all() and (made[:, 24:] == 7).all()
        mirrored = apply_crop(PICTURE, (0, 0, 64, 96, 1), (32, 48), resample, fill=7)
        assert np.array_equal(mirrored, made[:, ::-1])
    inside = (4, 8, 16, 24, 1)
    assert np.array_equal(apply_crop(PICTURE, inside, 32, fill=7), apply_crop(PICTURE, inside, 32))
    with pytest.raises(ValueError, match="leaves an image"):
        apply_crop(PICTURE, (0, 0, 64, 96, 0), (32, 48))
    with pytest.raises(ValueError, match="leaves an image"):
        apply_crop(PICTURE, (32, 0, 8, 8, 0), 8, fill=7)  # nothing of the image is in it


def test_a_picture_and_its_map_show_the_same_window():
    """The map holds the class that the picture's red says; at twice its resolution."""
    columns = np.repeat(np.arange(12) * 20 + 10, 8)
    red = np.broadcast_to(columns, (64, 96))[..., None].astype(np.uint8)
    example = {"row": 0, "rgb": red[::2, ::2].repeat(3, 2), "map": red}
    encoder = Encoder((RGB, MAP, DEPTH), {}, True, (jitter.Transform((0.1, 2.0), flip=0.5),))
    outside = flipped = 0
    for seed in range(40):
        made = encoder(example, np.random.default_rng(seed))
        again = encoder(example, np.random.default_rng(seed))
        picture, labels = made["rgb"]["pixels"].astype(int), made["map"]["pixels"][..., 0].astype(int)
        known = labels != 255
        assert set(np.unique(labels[known])) <= set(columns.tolist())
        assert (picture[~known] == 102).all(), "grey as bright as its mean, where there is no label"
        assert np.array_equal(np.where(known, labels, 0), made["depth"]["pixels"][..., 0])
        near = np.abs(picture[..., 0] - labels)[known]
        assert np.median(near) < 8 and near.mean() < 14, seed
        assert all(np.array_equal(made[m]["pixels"], again[m]["pixels"]) for m in ("rgb", "map", "depth"))
        outside += not known.all()
        row = labels[0][known[0]]
        flipped += bool(row[-1] < row[0])
    assert 10 < outside < 35 and 5 < flipped < 35
    still = dataclasses.replace(encoder, train=False)(example, np.random.default_rng(0))
    assert np.array_equal(still["map"]["pixels"], apply_crop(red, (0, 0, 64, 96, 0), (32, 48), NEAREST))


# -- Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(scales=(2.0, 0.1)), r"scales=\(2.0, 0.1\) must be \(least, greatest\)"),
        (dict(scales=(0.5,)), r"scales=\(0.5,\) must be"),
        (dict(flip=2.0), r"flip=2.0 must be in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense_fail_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        jitter.Transform(**settings)


def test_transforms_that_do_not_fit_fail_at_once():
    with pytest.raises(ValueError, match=r"randaugment\.ops=2: it moves pictures, and 'map' would stay where it is"):
        Encoder((RGB, MAP), {}, True, (randaugment.Transform(ops=2),))
    with pytest.raises(ValueError, match=r"data\.transforms: jitter draws crop again after crop: keep one of them"):
        Encoder((RGB, MAP), {}, True, (crop.Transform(), jitter.Transform()))


@pytest.mark.parametrize("options", [dict(ops=-1), dict(magnitude=11.0), dict(std=-0.5)])
def test_randaugment_out_of_range(options):
    with pytest.raises(ValueError, match=r"needs ops >= 0, magnitude in 0…10 and std >= 0"):
        randaugment.Transform(**options)
