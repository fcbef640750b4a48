"""Pixels of any size become those of the spec: crops and flips shared by an example's images, CLIP's centre crop."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipeline.image import apply_crop, as_channels, centre_crop
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.sources import emoji
from data_pipeline.spec import Modality
from data_pipeline.transforms import crop
from data_pipeline.transforms.crop import crop_settings


def crops(**settings):
    """What the pipeline does to pictures: crops of these settings."""
    return (crop.Transform(**settings),)


STYLES = {"render3d": 3, "noto": 3, "line": 1, "mask": 1}


# -- The bits that the emoji tokenizers were trained on --------------------------------------------------------------


@pytest.mark.parametrize("min_scale", [0.8, 0.3])
def test_emoji_crops_are_those_of_the_first_release(min_scale):
    """Written out here in Pillow: square images of the spec's own size, no flip, no ratio."""
    specs = [Modality(style, "pixels", (64, 64, channels), style) for style, channels in STYLES.items()]
    specs = (*specs, Modality("edges", "pixels", (64, 64, 1), "edges:render3d"))
    encoder = Encoder(specs, {}, True, crops(min_scale=min_scale))
    for index in range(8):
        example = emoji.Source("train")[index]
        made = encoder(example, np.random.default_rng(index))
        rng = np.random.default_rng(int(np.random.default_rng(index).random() * 2**32))
        side = round(64 * np.sqrt(rng.uniform(min_scale, 1)))
        top, left = rng.integers(64 - side + 1), rng.integers(64 - side + 1)
        for style in STYLES:
            crop = Image.fromarray(example[style].squeeze()).crop((left, top, left + side, top + side))
            assert np.array_equal(made[style]["pixels"].squeeze(), crop.resize((64, 64), Image.Resampling.BICUBIC))
        assert np.array_equal(made["edges"]["pixels"][..., 0], 255 - cv2.Canny(made["render3d"]["pixels"], 100, 200))


def test_emoji_are_whole_in_evaluation():
    specs = tuple(Modality(style, "pixels", (64, 64, channels), style) for style, channels in STYLES.items())
    example = emoji.Source("val")[7]
    made = Encoder(specs, {}, False, crops(flip=1.0))(example, np.random.default_rng(0))
    assert all(np.array_equal(made[style]["pixels"], example[style]) for style in STYLES)


def test_crops_are_drawn_as_in_the_first_release():
    settings = crop_settings(np.random.default_rng(5), 4, 64)
    assert settings.tolist() == [[0, 0, 64, 64, 0], [0, 1, 63, 63, 0], [5, 0, 59, 59, 0], [0, 0, 60, 60, 0]]
    settings = crop_settings(np.random.default_rng(5), 4, (48, 64), min_scale=0.3, flip=0.5)
    assert settings.tolist() == [[0, 8, 48, 48, 0], [0, 16, 45, 45, 0], [14, 1, 34, 34, 1], [1, 1, 37, 37, 1]]


@pytest.mark.parametrize("train", [True, False])
def test_pixels_show_the_crop_that_their_tokens_are_of(train):
    """Of an example with `crop_settings` and tokens of each crop, as in 4M's tar trees; the tokens here say which."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    settings = crop_settings(np.random.default_rng(1), 5, (64, 80), min_scale=0.3, flip=0.5)
    example = {"row": 3, "rgb": picture, "crop_settings": settings, "tokens": np.arange(5)[:, None].repeat(4, 1)}
    specs = (
        Modality("rgb", "pixels", (32, 32, 3), "rgb"),
        Modality("tokens", "grid", (2, 2), "tokens", "t", 5, tokenizer="t"),
    )
    seen = set()
    for seed in range(20):
        made = Encoder(specs, {}, train)(example, np.random.default_rng(seed))
        number = int(made["tokens"]["ids"][0])
        assert np.array_equal(made["rgb"]["pixels"], apply_crop(picture, settings[number], 32))
        seen.add(number)
    assert seen == (set(range(5)) if train else {0})


# -- Evaluation ------------------------------------------------------------------------------------------------------


def clip(image: np.ndarray, size: int) -> np.ndarray:
    """CLIPImageProcessor before its normalisation, written out in Pillow."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    resized = Image.fromarray(image).resize((size, other) if width <= height else (other, size), Image.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def photo(height, width, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(small) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (48, 48), (20, 33), (97, 64)])
def test_evaluation_is_that_of_clip(size):
    image = photo(*size)
    encoder = Encoder((Modality("rgb", "pixels", (48, 48, 3), "rgb"),), {}, False)
    made = encoder({"row": 0, "rgb": image}, np.random.default_rng(0))["rgb"]["pixels"]
    assert np.abs(made.astype(int) - clip(image, 48)).max() <= 1


@pytest.mark.parametrize("size, covered", [((100, 100), (40, 40)), ((60, 200), (20, 66)), ((90, 60), (60, 40))])
def test_centre_crop_to_a_rectangle(size, covered):
    image = photo(*size)
    top, left = (covered[0] - 20) // 2, (covered[1] - 40) // 2
    whole = np.asarray(Image.fromarray(image).resize(covered[::-1], Image.BICUBIC))
    assert np.array_equal(centre_crop(image, (20, 40)), whole[top : top + 20, left : left + 40])


# -- Training --------------------------------------------------------------------------------------------------------

SPECS = (
    Modality("small", "pixels", (16, 24, 1), "small"),
    Modality("rgb", "pixels", (32, 48, 3), "rgb"),
    Modality("label", "pixels", (32, 48, 1), "label", resample="nearest"),
)


def ramp(height, width) -> np.ndarray:
    """Red shows the column and green the row of what is seen, in 0 … 255 of any resolution."""
    rows, columns = (np.arange(n) + 0.5 for n in (height, width))
    image = np.broadcast_arrays(255 * columns / width, 255 * rows[:, None] / height, np.float64(0))
    return np.stack(image, axis=-1).round().astype(np.uint8)


def ramps(scale=1, row=0):
    label = ramp(120 * scale, 200 * scale)[..., :1] // 64 * 80
    return {"row": row, "small": ramp(60, 100)[..., :1], "rgb": ramp(240, 400), "label": label}


def test_crops_and_flips_are_shared_by_images_of_other_sizes():
    encoder = Encoder(SPECS, {}, True, crops(min_scale=0.2, ratio=(0.7, 1.4), flip=0.5))
    flips = []
    for seed in range(40):
        made = {
            k: v["pixels"].astype(int) for k, v in encoder(ramps(), np.random.default_rng(seed)).items() if k != "row"
        }
        red = made["rgb"][..., 0]
        # The middle of a picture is far from its borders, where a filter sees less.
        assert np.abs(made["small"][2:-2, 2:-2, 0] - red.reshape(16, 2, 24, 2).mean((1, 3))[2:-2, 2:-2]).max() < 3
        assert (np.abs(made["label"][..., 0] - red // 64 * 80) > 0).mean() < 0.05
        assert set(np.unique(made["label"])) <= {0, 80, 160, 240}
        flips.append(red[0, -1] < red[0, 0])
    assert 10 < sum(flips) < 30


def test_the_resolution_of_an_image_does_not_change_what_the_others_show():
    """Only the largest decides in which pixels a crop is drawn."""
    encoder = Encoder(SPECS, {}, True, crops(min_scale=0.2, flip=0.5))
    for seed in range(5):
        one, two = (encoder(ramps(scale), np.random.default_rng(seed)) for scale in (1, 2))
        assert all(np.array_equal(one[k]["pixels"], two[k]["pixels"]) for k in ("small", "rgb"))


def test_the_same_generator_gives_the_same_pixels_and_others_other():
    encoder = Encoder(SPECS, {}, True)
    one, again, other = (encoder(ramps(), np.random.default_rng(s))["rgb"]["pixels"] for s in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_absent_pixels():
    made = Encoder(SPECS, {}, True)({k: v for k, v in ramps().items() if k != "rgb"}, np.random.default_rng(0))
    assert made["small"]["valid"] and not made["rgb"]["valid"] and not made["rgb"]["pixels"].any()
    made = Encoder(SPECS, {}, True)({"row": 0}, np.random.default_rng(0))
    assert not any(made[m.name]["valid"] for m in SPECS)


@pytest.mark.parametrize("size, aspect", [((300, 400), 1.0), ((400, 300), 1.0), ((300, 300), 1.5), ((64, 500), 0.5)])
def test_scales_and_ratios_are_within_their_bounds(size, aspect):
    settings = crop_settings(np.random.default_rng(0), 2000, size, min_scale=0.3, ratio=(3 / 4, 4 / 3), aspect=aspect)
    top, left, height, width, _ = settings[1:].T.astype(float)
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= size[0]).all() and (left + width <= size[1]).all()
    )
    factor = width / height / aspect
    assert 0.72 < factor.min() < 0.77 and 1.30 < factor.max() < 1.39 and abs(np.log(factor).mean()) < 0.02
    # Of the largest crop of the same aspect, each keeps a share that is uniform in 0.3 … 1.
    drawn = aspect * factor
    share = width * height / (np.minimum(size[0], size[1] / drawn) * np.minimum(size[1], size[0] * drawn))
    assert 0.28 < share.min() < 0.32 and 0.97 < share.max() < 1.03 and abs(share.mean() - 0.65) < 0.02


def test_grey_becomes_colour_and_colour_luminance():
    image = photo(20, 30)
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    assert np.array_equal(as_channels(image, 1), grey) and np.array_equal(as_channels(grey, 3), grey.repeat(3, axis=2))
    specs = (Modality("rgb", "pixels", (20, 30, 3), "grey"), Modality("grey", "pixels", (20, 30, 1), "rgb"))
    made = Encoder(specs, {}, False)({"row": 0, "rgb": image, "grey": grey}, np.random.default_rng(0))
    assert np.array_equal(made["rgb"]["pixels"], grey.repeat(3, axis=2))
    assert np.array_equal(made["grey"]["pixels"], grey)


# -- Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_images_that_one_crop_does_not_fit(train):
    encoder = Encoder(SPECS, {}, train)
    encoder(ramps() | {"small": ramp(61, 101)}, np.random.default_rng(0))  # a pixel of rounding
    with pytest.raises(ValueError, match=r"row 3: 'rgb' is 240×400 and 'small' 60×80: one crop serves all"):
        encoder(ramps(row=3) | {"small": ramp(60, 80)}, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"modality 'rgb': row 0 holds 'a.jpg2': pixels need an image"):
        encoder({"row": 0, "rgb": "a.jpg2"}, np.random.default_rng(0))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(min_scale=0.0), r"min_scale=0.0 must be in \(0, 1\]"),
        (dict(ratio=(1.3, 0.7)), r"ratio=\(1.3, 0.7\) must be \(least, greatest\)"),
        (dict(ratio=(0.0, 1.0)), r"ratio=\(0.0, 1.0\)"),
        (dict(flip=2.0), r"flip=2.0 must be in \[0, 1\]"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_fail_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        crops(**options)


def test_specs_that_one_crop_does_not_fit():
    with pytest.raises(ValueError, match=r"modalities: shape: 'rgb' is 32×48 and 'b' 16×16"):
        Encoder((*SPECS, Modality("b", "pixels", (16, 16, 3), "b")), {}, True)
    with pytest.raises(ValueError, match=r"modality 'b': resample='area': must be bicubic, or nearest"):
        Modality("b", "pixels", (16, 16, 3), "b", resample="area")


def test_a_mistyped_field_of_the_emoji_fails_before_training():
    for spec, message in (
        (
            Modality("a", "pixels", (8, 8, 3), "edges:render3e"),
            r"modality 'a': field='edges:render3e' is unknown: .*flat",
        ),
        (
            Modality("a", "sequence", (8,), "name:xx", "text", 9, tokenizer="text"),
            r"field='name:xx' is unknown.*name:en",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train_batches(emoji.Source("val"), Encoder((spec,), {}, True), batch_size=1, seed=0)
