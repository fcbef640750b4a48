"""Clips: from arrays in files to batches, every frame under one crop; the emoji that move."""

import json

import numpy as np
import pytest

from data_pipeline.checks import check_fields
from data_pipeline.image import apply_crop
from data_pipeline.pipeline import Encoder
from data_pipeline.sources import emoji, files, moving_emoji
from data_pipeline.spec import Modality
from data_pipeline.transforms import crop
from data_pipeline.transforms.crop import crop_settings

CLIP = Modality("clip", "video", (3, 16, 24, 3), "clip")


@pytest.fixture
def source(tmp_path):
    """Two clips of 5 and 3 frames, one example without any."""
    rng = np.random.default_rng(0)
    with open(tmp_path / "train.jsonl", "w") as lines:
        for i, count in enumerate((5, 3)):
            np.save(tmp_path / f"{i}.npy", rng.integers(0, 256, (count, 32, 48, 3), dtype=np.uint8))
            lines.write(json.dumps({"clip": f"{i}.npy", "caption": "a"}) + "\n")
        lines.write(json.dumps({"caption": "b"}) + "\n")
    return files.Source(tmp_path, "train")


def test_evaluation_takes_the_first_frames_whole(source):
    check_fields((CLIP,), source)
    encoder = Encoder((CLIP,), {}, False)
    batch = encoder.collate([encoder.choose(source[i], None) for i in range(3)])
    assert batch["clip"]["pixels"].shape == (3, 3, 16, 24, 3) and batch["clip"]["pixels"].dtype == np.uint8
    assert batch["clip"]["valid"].tolist() == [True, True, False]
    for i in range(2):
        for t in range(3):
            want = apply_crop(source[i]["clip"][t], [0, 0, 32, 48, 0], (16, 24))
            np.testing.assert_array_equal(batch["clip"]["pixels"][i, t], want)


def test_training_crops_all_frames_alike_and_begins_anywhere(source):
    encoder, starts = Encoder((CLIP,), {}, True, (crop.Transform(min_scale=0.3, flip=0.5),)), set()
    for seed in range(12):
        made = encoder(source[0], np.random.default_rng(seed))["clip"]["pixels"]
        number = np.random.default_rng(seed).random()
        rng = np.random.default_rng(int(number * 2**32))
        setting = crop_settings(rng, 2, (32, 48), min_scale=0.3, flip=0.5, aspect=1.5)[1]
        start = int(number * 3)
        want = [apply_crop(f, setting, (16, 24)) for f in source[0]["clip"][start : start + 3]]
        np.testing.assert_array_equal(made, want)
        starts.add(start)
    assert starts == {0, 1, 2}


@pytest.mark.parametrize(
    "clip, message",
    [
        (np.zeros((2, 32, 48, 3), np.uint8), r"row 0 has uint8\[2, 32, 48, 3\]: it must be .*T at least 3"),
        (np.zeros((3, 32, 48, 3), np.float32), r"row 0 has float32\[3, 32, 48, 3\]"),
        (np.zeros((32, 48, 3), np.uint8), r"row 0 has uint8\[32, 48, 3\]"),
    ],
)
def test_what_is_no_clip_is_named(clip, message):
    with pytest.raises(ValueError, match=message):
        Encoder((CLIP,), {}, False).choose({"row": 0, "clip": clip}, None)


def test_emoji_move_and_stay_inside():
    source = moving_emoji.Source("val", frames=20, size=32)
    example, again, still = source[3], source[3], emoji.Source("val")[3]
    clip = example["clip"]
    assert clip.shape == (20, 32, 32, 3) and clip.dtype == np.uint8 and example["row"] == still["row"]
    np.testing.assert_array_equal(clip, again["clip"])
    picture = apply_crop(still["render3d"], [0, 0, 64, 64, 0], 16)
    places = []
    for frame in clip:
        found = [(y, x) for y in range(17) for x in range(17) if np.array_equal(frame[y : y + 16, x : x + 16], picture)]
        assert len(found) == 1
        y, x = found[0]
        rest = frame.copy()
        rest[y : y + 16, x : x + 16] = 255
        assert (rest == 255).all()
        places.append(found[0])
    assert len(set(places)) > 5 and len(source) == len(emoji.Source("val"))
    steps = np.abs(np.diff(places, axis=0))
    assert steps.max() <= 5  # a quarter of the room, rounded
    with pytest.raises(ValueError, match="frames=0, size=32: must be at least 1 and 8"):
        moving_emoji.Source(frames=0)
