"""The emoji source: splits, rows, pixels, pickling, and the integrity of the packaged files."""

import hashlib
import importlib.resources
import pickle

import grain
import numpy as np
import pytest
from PIL import features

from data_pipeline.sources.emoji import ATLASES, Source, metadata
from data_pipeline.text import LANGUAGES


@pytest.fixture(scope="module")
def everything() -> Source:
    return Source("all")


def test_packaged_files_match_their_checksums():
    folder = importlib.resources.files("data_pipeline") / "emoji_corpus"
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert {name for name, _ in ATLASES.values()} | {"meta.jsonl.gz", "NOTICE.txt"} == set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize(
    "split, count", [("train", 1300), ("val", 139), ("test", 131), ("all", 1570), (("val", "test"), 270)]
)
def test_split_sizes(split, count):
    assert len(Source(split)) == count


def test_splits_partition_the_corpus_and_no_family_straddles_them():
    splits = {}
    for meta in metadata():
        splits.setdefault(meta["family"], set()).add(meta["split"])
    assert all(len(found) == 1 for found in splits.values())
    rows = np.concatenate([Source(split)._rows for split in ("train", "val", "test")])
    assert sorted(rows) == list(range(1570))


def test_example(everything):
    example = everything[0]
    assert (example["id"], example["group"], example["subgroup"]) == ("1f600", "smileys & emotion", "smiling")
    assert example["name"]["en"] == "grinning face" and set(example["name"]) == set(LANGUAGES)
    assert "cheerful" in example["keywords"]
    assert isinstance(example["row"], np.int64)
    for style in ("render3d", "flat", "noto"):
        assert example[style].dtype == np.uint8 and example[style].shape == (64, 64, 3)
    for style in ("line", "mono", "mask"):
        assert example[style].dtype == np.uint8 and example[style].shape == (64, 64, 1)
    assert set(np.unique(example["mask"])) == {0, 255}


def test_rows_are_aligned_between_splits(everything):
    for split in ("train", "val", "test"):
        source = Source(split)
        for index in (0, len(source) // 2, len(source) - 1):
            example = source[index]
            twin = everything[example["row"]]
            assert example["split"] == split and example["id"] == twin["id"]
            assert all(np.array_equal(example[style], twin[style]) for style in ATLASES)


def test_styles_are_aligned_with_each_other(everything):
    """The mask covers what the 3D render paints, all over the atlas (with the next emoji's mask the IoU is 0.67)."""
    overlaps = []
    for row in range(0, 1570, 7):
        example = everything[row]
        painted, covered = (255 - example["render3d"].min(-1)) > 20, example["mask"][..., 0] == 0
        overlaps.append((painted & covered).sum() / (painted | covered).sum())
    assert np.mean(overlaps) > 0.9


def test_examples_are_copies(everything):
    everything[3]["flat"][:] = 0
    everything[3]["name"].clear()
    assert everything[3]["flat"].any() and everything[3]["name"]


def test_pickle_is_small_and_equivalent(everything):
    everything[0]  # decodes
    data = pickle.dumps(everything)
    assert len(data) < 50_000
    copy = pickle.loads(data)
    assert repr(copy) == repr(everything) and np.array_equal(copy[9]["noto"], everything[9]["noto"])


def test_repr_identifies_the_split():
    assert repr(Source("train")) == repr(Source("train")) != repr(Source("val"))


@pytest.mark.parametrize("split", ["training", (), ("train", "dev")])
def test_unknown_split(split):
    with pytest.raises(ValueError, match="use one of"):
        Source(split)


def test_grain_reads_it(everything):
    dataset = grain.MapDataset.source(everything).shuffle(seed=0)
    assert len({dataset[i]["row"] for i in range(20)}) == 20 and dataset[1570]["row"] in range(1570)


def test_index_out_of_range():
    with pytest.raises(IndexError):
        Source("val")[139]


def test_pillow_without_avif(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(RuntimeError, match="pip install"):
        Source()
