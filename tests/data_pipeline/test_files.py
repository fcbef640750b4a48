"""A folder of one's own: JSONL or class folders, images of every kind, and batches out of them."""

import dataclasses
import json
import pickle

import grain
import numpy as np
import pytest
from absl import flags
from PIL import Image

from data_pipeline.pipeline import Encoder, eval_batches, train_batches
from data_pipeline.sources.files import Source
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from data_pipeline.transforms import crop

RED, GREY = (200, 30, 40), 120


def paint(folder, name, mode="RGB", colour=RED, size=(12, 8), **options):
    """A picture of one colour, `size` (width, height)."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(folder / name, **options)
    return name


def write(folder, split, *lines):
    (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    """Five examples to train on: one lacks its depth, one its caption; two in `val`."""
    lines = []
    for i in range(5):
        line = {"image": paint(tmp_path, f"imgs/{i}.png", size=(24 + 2 * i, 16)), "caption": f"number {i}", "id": i}
        if i != 2:
            line["depth"] = paint(tmp_path, f"depth/{i}.png", "L", GREY, size=(12 + i, 8))
        lines.append(line)
    lines[1]["caption"] = ["a first", "a second"]
    lines[3]["caption"] = None
    write(tmp_path, "train", *lines)
    write(tmp_path, "val", *lines[:2])
    return tmp_path


def test_examples_are_the_lines(folder):
    source = Source(folder, "train")
    assert len(source) == 5 and source.fields == {"image", "caption", "id", "depth"}
    assert source.pick(2, {"caption", "id"}) == {"row": 2, "caption": "number 2", "id": 2}
    assert source.pick(2, {"image"}, texts={"image"}) == {"row": 2, "image": "imgs/2.png"}
    example = source[4]
    assert example["row"] == 4 and isinstance(example["row"], np.int64)
    assert example["image"].shape == (16, 32, 3) and example["image"].dtype == np.uint8
    assert (example["image"] == RED).all() and example["depth"].shape == (8, 16, 1) and (example["depth"] == GREY).all()
    assert (example["caption"], example["id"], source[1]["caption"]) == ("number 4", 4, ["a first", "a second"])
    assert "depth" not in source[2] and "caption" not in source[3]


def test_several_splits_follow_each_other(folder):
    both = Source(folder, ("val", "train"))
    assert len(both) == 7 and [int(both[i]["row"]) for i in range(7)] == list(range(7))
    assert [both[i]["id"] for i in range(7)] == [0, 1, 0, 1, 2, 3, 4]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            both[index]


def test_repr_changes_with_the_listing_only(folder):
    before = repr(Source(folder, "train"))
    paint(folder, "imgs/0.png", colour=(1, 2, 3))
    assert repr(Source(folder, "train")) == before != repr(Source(folder, "val"))
    with open(folder / "train.jsonl", "a") as lines:
        lines.write('{"caption": "more"}\n')
    assert repr(Source(folder, "train")) != before and len(Source(folder, "train")) == 6


def test_pickle_and_grain(folder):
    copy = pickle.loads(pickle.dumps(Source(folder, "train")))
    assert repr(copy) == repr(Source(folder, "train")) and copy[3]["id"] == 3
    assert {e["id"] for e in grain.MapDataset.source(copy).shuffle(seed=0)} == set(range(5))


def test_most_lines_decide_what_is_an_image(tmp_path):
    """Captions found in the wild end in .jpg, too, be it in the first line."""
    paint(tmp_path, "a.JPG")
    write(tmp_path, "train", {"image": "a.JPG", "caption": "a bus"}, {"image": "a.JPG", "caption": "DSC_1.jpg"})
    assert Source(tmp_path, "train")[1]["caption"] == "DSC_1.jpg"
    write(tmp_path, "train", {"image": "a.JPG", "caption": "DSC_1.jpg"}, {"image": "a.JPG", "caption": "a bus"})
    assert [Source(tmp_path, "train")[i]["caption"] for i in range(2)] == ["DSC_1.jpg", "a bus"]


def test_folders_of_classes(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.png", "dog/3.webp", "4.png"):
        paint(tmp_path, f"train/{name}")
    paint(tmp_path, "val/dog/5.png")
    (tmp_path / "train" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    source = Source(tmp_path, "train")
    assert [source[i].get("label") for i in range(4)] == [None, "cat", "cat", "dog"]
    assert source[0]["image"].shape == (8, 12, 3) and source.fields == {"image", "label"}
    before = repr(source)
    paint(tmp_path, "train/dog/6.png")
    assert repr(Source(tmp_path, "train")) != before
    with pytest.raises(ValueError, match=r"split='test': .* has train, val$"):
        Source(tmp_path, "test")


def encode(example, *modalities):
    return Encoder(modalities, {}, False)(example, np.random.default_rng(0))


# -- Kinds of images -------------------------------------------------------------------------------------------------


def read(tmp_path, name):
    write(tmp_path, "train", {"image": name})
    return Source(tmp_path, "train")[0]["image"]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "ppm"])
def test_formats(tmp_path, suffix):
    image = read(tmp_path, paint(tmp_path, f"a.{suffix}"))
    assert image.shape == (8, 12, 3) and np.abs(image.astype(int) - RED).max() <= 12


@pytest.mark.parametrize(
    "mode, colour, want",
    [
        ("L", 77, (77,)),
        ("1", 1, (255,)),
        ("LA", (100, 0), (255,)),
        ("LA", (100, 255), (100,)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 100, 51), (244, 204, 224)),
        ("I;16", 65535, (255,)),
        ("I;16", 257 * 9, (9,)),
    ],
    ids=str,
)
def test_modes(tmp_path, mode, colour, want):
    image = read(tmp_path, paint(tmp_path, "a.png", mode, colour))
    assert image.dtype == np.uint8 and image.shape == (8, 12, len(want))
    assert np.abs(image.astype(int) - want).max() <= 1


def test_palettes_and_cmyk(tmp_path):
    palette = Image.new("RGB", (12, 8), RED).quantize(4)
    palette.save(tmp_path / "a.png")
    assert (read(tmp_path, "a.png") == RED).all()
    palette.save(tmp_path / "b.png", transparency=int(palette.getpixel((0, 0))))
    assert (read(tmp_path, "b.png") == 255).all()
    image = read(tmp_path, paint(tmp_path, "a.jpg", "CMYK", (0, 255, 255, 0)))
    assert image.shape == (8, 12, 3) and np.abs(image.astype(int) - (255, 0, 0)).max() <= 12


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_exif_orientation(tmp_path, mode):
    upright = Image.new(mode, (16, 8), "black")
    upright.paste("white", (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    upright.save(tmp_path / "a.png", exif=exif)
    image = read(tmp_path, "a.png")
    assert image.shape[:2] == (16, 8) and (image[:8] == 0).all() and (image[8:] == 255).all()


# -- Mistakes --------------------------------------------------------------------------------------------------------


def test_folders_that_hold_nothing(tmp_path, folder):
    for path in (tmp_path / "nowhere", tmp_path / "imgs" / "0.png"):
        with pytest.raises(FileNotFoundError, match=r"no examples: it must hold SPLIT.jsonl or folders SPLIT/CLASS"):
            Source(path, "train")
    with pytest.raises(ValueError, match=r"split='dev': .* has train, val$"):
        Source(folder, ("train", "dev"))
    (folder / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"split='none': .*none.jsonl.* holds no example"):
        Source(folder, "none")


@pytest.mark.parametrize("line", ['{"image": "a.png"', "[1, 2]", "\xff"])
def test_lines_that_are_no_object(folder, line):
    with open(folder / "train.jsonl", "ab") as lines:
        lines.write(line.encode("latin1") + b"\n{}\n")
    with pytest.raises(ValueError, match=r"train.jsonl, line 6: .* write"):
        Source(folder, "train")


def test_broken_and_missing_images_are_named(folder):
    source = Source(folder, "train")
    (folder / "imgs" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.jsonl, line 2: image='imgs/1.png': no such file.*take the ex"):
        source[1]
    (folder / "depth" / "3.png").write_bytes((folder / "depth" / "3.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"line 4: depth='depth/3.png': not a readable image .*restore the file"):
        source[3]
    (folder / "imgs" / "4.png").write_text("text")
    with pytest.raises(ValueError, match=r"line 5: image='imgs/4.png': not a readable image"):
        source[4]
    Image.new("F", (3, 3)).save(folder / "f.tif")
    write(folder, "float", {"image": "f.tif"})
    with pytest.raises(
        ValueError, match=r"modality 'rgb': row 0: image is float32\[3, 3, 1\] of mode F.*state the range"
    ):
        encode(Source(folder, "float")[0], Modality("rgb", "pixels", (3, 3, 3), "image"))


def test_saved_arrays_are_read(folder):
    np.save(folder / "a.npy", np.arange(4.0))
    write(folder, "arrays", {"sound": "a.npy"})
    example = Source(folder, "arrays")[0]
    np.testing.assert_array_equal(example["sound"], np.arange(4.0))
    spec = Modality("sound", "vectors", (2, 4), "sound", targets=False)
    got = Encoder((spec,), {}, train=False)(example, np.random.default_rng(0))["sound"]
    assert got["valid"].tolist() == [True, False] and got["vectors"][0].tolist() == [0.0, 1.0, 2.0, 3.0]
    (folder / "a.npy").write_text("text")
    with pytest.raises(ValueError, match=r"line 1: sound='a.npy': not a readable array"):
        Source(folder, "arrays")[0]


# -- Batches ---------------------------------------------------------------------------------------------------------

SPECS = (
    Modality("image", "pixels", (8, 8, 3), "image", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False),
    Modality("depth", "pixels", (4, 4, 1), "depth"),
    Modality("caption", "sequence", (8,), "caption", "text", 8000, tokenizer="text"),
    Modality("ids", "sequence", (4,), "ids", "ids", 9, tokenizer="stored"),
)


def test_batches(folder):
    lines = [json.loads(line) | {"ids": [1, 2]} for line in open(folder / "train.jsonl")]
    write(folder, "train", *lines)
    text, source = TextTokenizer(), Source(folder, "train")
    encoder = Encoder(SPECS, {"text": text}, True, (crop.Transform(0.4, (3 / 4, 4 / 3), 0.5),))
    batch = next(iter(train_batches(source, encoder, batch_size=20, seed=0)))
    assert batch["image"]["pixels"].shape == (20, 8, 8, 3) and batch["depth"]["pixels"].shape == (20, 4, 4, 1)
    assert (batch["image"]["pixels"] == RED).all() and batch["image"]["valid"].all()
    assert (batch["depth"]["valid"] == (batch["row"] != 2)).all()
    assert (batch["caption"]["valid"].any(1) == (batch["row"] != 3)).all()
    assert batch["ids"]["ids"][:, :2].tolist() == [[1, 2]] * 20
    captions = {text.decode(ids) for ids, row in zip(batch["caption"]["ids"], batch["row"]) if row == 1}
    assert captions == {"a first", "a second"}

    (batch,) = eval_batches(source, Encoder(SPECS, {"text": text}, False), batch_size=8)
    assert batch["row"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    words = [text.decode(ids[valid]) for ids, valid in zip(batch["caption"]["ids"], batch["caption"]["valid"])]
    assert words[:5] == ["number 0", "a first", "number 2", "", "number 4"]


def test_workers_read_files(folder):
    flags.FLAGS.mark_as_parsed()
    encoder = Encoder(SPECS[:3], {"text": TextTokenizer()}, True)
    alone, beside = (
        next(iter(train_batches(Source(folder, "train"), encoder, batch_size=4, seed=1, workers=w))) for w in (0, 1)
    )
    assert all(np.array_equal(alone[m.name][k], beside[m.name][k]) for m in SPECS[:3] for k in alone[m.name])


def test_a_mistyped_field_fails_before_training(folder):
    """A text that is written of a field which is not there is none, either."""
    known = "is unknown: use one of caption, depth, id, image$"
    for index, field in ((0, "imagee"), (2, "captione"), (2, "palette"), (2, "name:en")):
        spec, message = dataclasses.replace(SPECS[index], field=field), f"field='{field}' {known}"
        with pytest.raises(ValueError, match=message):
            train_batches(Source(folder, "train"), Encoder((spec,), {}, True), batch_size=1, seed=0)
