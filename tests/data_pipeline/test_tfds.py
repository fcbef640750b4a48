"""TFDS builders without TensorFlow: features as fields, splits, versions, and what is broken."""

import pickle
import sys

import builders
import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tars import picture

from data_pipeline.sources.tfds import Source

FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "mask": tfds.features.Image(shape=(None, None, 1)),
    "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
    "number": tfds.features.ClassLabel(num_classes=5),
    "name": tfds.features.Text(),
    "words": tfds.features.Sequence(tfds.features.Text()),
    "kinds": tfds.features.Sequence(tfds.features.ClassLabel(names=["x", "y"])),
    "objects": tfds.features.Sequence(
        {"label": tfds.features.ClassLabel(names=["car", "bus"]), "size": tfds.features.Scalar(np.float32)}
    ),
    "about": {"lang": tfds.features.Text(), "size": tfds.features.Scalar(np.int64)},
    "vector": tfds.features.Tensor(shape=(3,), dtype=np.float32),
}


def example(i):
    return {
        "image": picture(i, (4 + i, 5)), "mask": picture(i, channels=1), "label": i % 3, "number": i % 5,
        "name": f"number {i} ü", "words": [f"w{k}" for k in range(i)], "kinds": [0, 1],
        "objects": [{"label": k % 2, "size": k / 2} for k in range(i)],
        "about": {"lang": "en", "size": 10 * i}, "vector": np.full(3, i, np.float32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return builders.write(
        tmp_path_factory.mktemp("data"), "toys", FEATURES,
        {"train": [example(i) for i in range(7)], "test": [example(i) for i in range(7, 9)]},
    )  # fmt: skip


def number(got):
    return got["about"]["size"] // 10


def test_features_are_fields(folder):
    source = Source(folder)
    assert len(source) == 7 and source.fields == FEATURES.keys()
    assert {number(source[i]) for i in range(7)} == set(range(7)), "tfds shuffles what it writes"
    for index in range(7):
        got = source[index]
        want = example(number(got))
        assert got.keys() == want.keys() | {"row"} and got["row"] == index and isinstance(got["row"], np.int64)
        for key in ("image", "mask", "vector"):
            np.testing.assert_array_equal(got[key], want[key])
            assert got[key].dtype == want[key].dtype
        assert got["label"] == ("ant", "bee", "cat")[want["label"]] and got["number"] == want["number"]
        assert got["name"] == want["name"] and got["words"] == want["words"] and got["kinds"] == ["x", "y"]
        assert got["objects"]["label"] == [("car", "bus")[o["label"]] for o in want["objects"]]
        assert got["objects"]["size"] == [o["size"] for o in want["objects"]]
        assert got["about"] == want["about"]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source[index]
    assert "tensorflow" not in sys.modules


def test_splits_and_versions(folder):
    assert {number(e) for e in (Source(folder, "test")[i] for i in range(2))} == {7, 8}
    assert len(Source(folder, ("train", "test"))) == 9 and len(Source(folder, "train[:3]")) == 3
    assert repr(Source(folder)) == repr(Source(folder)) != repr(Source(folder, "test"))
    above = folder.parent
    assert repr(Source(above)) == repr(Source(folder))
    builders.write(above.parent, "toys", FEATURES, {"train": [example(3)]}, version="1.10.0")
    assert len(Source(above)) == 1 and len(Source(above / "1.0.0")) == 7


def test_pickle_and_grain(folder):
    source = pickle.loads(pickle.dumps(Source(folder)))
    assert sorted(number(e) for e in grain.MapDataset.source(source).shuffle(seed=0)) == list(range(7))


def test_what_is_wrong_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"split='val': .* has (train, test|test, train)"):
        Source(folder, "val")
    with pytest.raises(FileNotFoundError, match=r"no prepared builder .*file_format=array_record"):
        Source(tmp_path)
    for name in ("a", "b"):
        builders.write(tmp_path, name, {"name": tfds.features.Text()}, {"train": [{"name": "x"}]})
    with pytest.raises(FileNotFoundError, match=r"it has .*/a, .*/b; name one"):
        Source(tmp_path)
    info = tmp_path / "a" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"its tfrecord files have no random access; prepare it with"):
        Source(tmp_path / "a")


def test_a_broken_record_is_named(tmp_path):
    image = {"image": FEATURES["image"]}
    folder = builders.write(tmp_path, "broken", image, {"train": [{"image": b"\x89PNG\r\n\x1a\ntext"}]})
    with pytest.raises(ValueError, match=r"broken/1.0.0, train: example 0 is not readable"):
        Source(folder)[0]
    (file,) = folder.glob("*.array_record*")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"broken/1.0.0"):
        Source(folder)[0]
