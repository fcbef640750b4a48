"""The tar trees of 4M: aligned by key; what a modality lacks is counted, and skipped or absent."""

import pickle

import numpy as np
import pytest
from tars import encode, picture, write_tar

from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.sources.tar_tree import Source
from data_pipeline.spec import Modality


def tokens(i):
    return (np.arange(8, dtype=np.int16) + 10 * i).reshape(2, 4)  # two crops


VALUES = {
    "tok_rgb@224": lambda i: ("npy", tokens(i)),
    "rgb": lambda i: ("png", picture(i)),
    "caption": lambda i: ("json", [f"a {i}", f"b {i}"]) if i % 2 else ("txt", f"one {i}"),
}


def write(folder, keys, lacks=(), order=lambda keys: keys, split="train"):
    """Tars of ten keys each. lacks: (modality, key) that is left out."""
    for modality, value in VALUES.items():
        for start in range(0, len(keys), 10):
            members = {}
            for i in order(keys[start : start + 10]):
                if (modality, i) not in lacks:
                    suffix, content = value(i)
                    members[f"{i:06d}.{suffix}"] = content
            write_tar(folder / split / modality / f"shard-{start // 10:05d}.tar", members)


def check(example, i, lacks=()):
    assert example.keys() - {"row"} == {m for m in VALUES if (m, i) not in lacks}
    for modality in example.keys() - {"row"}:
        want = VALUES[modality](i)[1]
        assert np.array_equal(example[modality], want) if isinstance(want, np.ndarray) else example[modality] == want


def test_modalities_are_aligned_by_key(tmp_path):
    write(tmp_path, range(25))
    source = pickle.loads(pickle.dumps(Source(tmp_path)))
    assert len(source) == 25 and source.report == "" and source.fields == VALUES.keys()
    for i in range(25):
        assert source[i]["row"] == i
        check(source[i], i)
        assert source.pick(i, {"caption"}).keys() == {"row", "caption"}
    write(tmp_path, range(3), split="val")
    assert len(Source(tmp_path, ("val", "train"))) == 28
    check(Source(tmp_path, ("val", "train"))[3], 0)
    few = Source(tmp_path, modalities=("caption",), shards="shard-{00001..00002}")
    assert len(few) == 15 and few[0] == {"row": 0, "caption": "one 10"}
    for index in (-1, 25):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize("missing", ["skip", "absent"])
def test_missing_and_shuffled_keys(tmp_path, missing):
    lacks = {("caption", 3), ("rgb", 3), ("rgb", 14), ("tok_rgb@224", 19)}
    orders = iter(np.random.default_rng(0).permuted(np.tile(np.arange(10), (6, 1)), axis=1))
    write(tmp_path, range(20), lacks, lambda keys: [keys[k] for k in next(orders)])
    source = Source(tmp_path, missing=missing)
    lost = {i for _, i in lacks}
    want = [i for i in range(20) if missing == "absent" or i not in lost]
    assert len(source) == len(want)
    numbers = []
    for index in range(len(source)):
        example = source[index]
        (i,) = {
            *(int(example["tok_rgb@224"][0, 0]) // 10 for _ in range("tok_rgb@224" in example)),
            *(int(np.ravel([example["caption"]])[0].split()[1]) for _ in range("caption" in example)),
        }
        numbers.append(i)
        check(example, i, lacks)
    assert sorted(numbers) == want
    start = "3 of 20 keys skipped: " if missing == "skip" else "of 20 keys: "
    assert source.report.startswith(start)
    for text in ("1 lack caption (the first: shard-00000: 000003)", "2 lack rgb", "1 lack tok_rgb@224 (the first: "):
        assert text in source.report


def test_a_missing_and_an_empty_tar_are_counted(tmp_path):
    write(tmp_path, range(30))
    (tmp_path / "train" / "rgb" / "shard-00001.tar").unlink()
    write_tar(tmp_path / "train" / "caption" / "shard-00002.tar", {})
    source = Source(tmp_path)
    assert len(source) == 10 and "20 of 30 keys skipped: " in source.report
    assert "10 lack rgb (the first: shard-00001: 000010)" in source.report
    assert "10 lack caption (the first: shard-00002: 000020)" in source.report
    assert "1 of 3 tars are empty" in source.report
    assert "10 lack rgb" in Source(tmp_path, missing="absent").report and len(Source(tmp_path, missing="absent")) == 30


def test_repr_changes_with_the_members_only(tmp_path):
    write(tmp_path, range(12))
    before = repr(Source(tmp_path))
    assert repr(Source(tmp_path)) == before != repr(Source(tmp_path, modalities=("rgb", "caption")))
    write(tmp_path, range(12), {("rgb", 5)})
    assert repr(Source(tmp_path)) != before
    assert repr(Source(tmp_path)) != repr(Source(tmp_path, missing="absent"))


def test_a_tree_feeds_the_pipeline(tmp_path):
    write(tmp_path, range(12))
    spec = Modality("rgb", "grid", (2, 2), "tok_rgb@224", "rgb", 200, tokenizer="rgb")
    batch = next(iter(train_batches(Source(tmp_path), Encoder((spec,), {}, True), batch_size=12, seed=0)))
    for ids, row in zip(batch["rgb"]["ids"].tolist(), batch["row"].tolist()):
        assert ids in tokens(row).tolist()


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path, range(3))
    for options, error, message in (
        (dict(missing="drop"), ValueError, "missing='drop': must be one of skip, absent"),
        (dict(split="test"), ValueError, r"split='test': .* has train"),
        (dict(modalities=("depth",)), FileNotFoundError, r"modality 'depth': .* has no train/depth/\*.tar"),
        (dict(shards="shard-{00000..00001}"), FileNotFoundError, r"no modality of .* has shard-00001.tar"),
    ):
        with pytest.raises(error, match=message):
            Source(tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Source(tmp_path / "nowhere")
    rgb = tmp_path / "train" / "rgb" / "shard-00000.tar"
    write_tar(rgb, {"000000.png": picture(0), "000000.jpg": b""})
    with pytest.raises(ValueError, match=r"rgb/shard-00000.tar: 000000: this key is there twice, as .jpg, .png"):
        Source(tmp_path)
    write_tar(rgb, {"000000.png": encode("a.png", picture(0))[:60], "zzz.png": picture(0)})
    source = Source(tmp_path)
    assert "3 of 4 keys skipped" in source.report and "1 lack caption (the first: shard-00000: zzz)" in source.report
    with pytest.raises(ValueError, match=r"rgb/shard-00000.tar: 000000.png: not a readable image"):
        source[0]
    write_tar(rgb, {"other.png": picture(0)})
    with pytest.raises(ValueError, match=r"has no key that all modalities share: 4 of 4 keys skipped"):
        Source(tmp_path)
    rgb.write_bytes(rgb.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"rgb/shard-00000.tar: not a whole plain tar"):
        Source(tmp_path)
