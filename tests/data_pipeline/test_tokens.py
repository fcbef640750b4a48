"""Token stores: what was written comes back, over several shards, and what is broken is named."""

import base64
import json
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.sources import tokens
from data_pipeline.spec import Modality

# zlib, base64: train-00000-of-00001.array_record of a store of format 1.
OLD_FILE = (
    "eNrt0V9olWUcB/D3nHfOaR5KROZw0+VNI8dpJnlulFRsywmxGQqFOsQZCMLmK20WK6dOZiNrTtLyJsLdDCxJJ8hqKhqkCKK7SIwUlqD5B4Zh"
    "bML+GDvnXHSxi1118/ncPO/3B8/v+8C772T9jcSByjeDjOWZ81DPxaUdrf1d2Xn/t7MuPPjxUrQz+K/PnlYvaruan5Nd8MOycOY/U3bOiWLp"
    "XJKZf/xCrOTMayPFsWn/zkrGP0tWxIK9x6O6xqBzS13t1j1dNTWbo2jzRzU1h48v3fZ6Rzz+S14QxIJ4EAZbKv/a9f35Z7XZmsupoi93H1i1"
    "YDI1sYlr0iU5Qd/pXcGdok3NrZl1XcfaNzxumtEWhenckK1JhOO7w4Ig2JY7tWE8NHwYBn+XF8xrT704NvbTwY0Ho29O7WhtH1n79OafwxVT"
    "hhoHm2IdUyuKHpRer654tXjVV7tv97wX/ZGzcE1Z1f3ezxcPff1W1ZLz1W9/UP+kdmbuQO0nybtnf0/N7+79tbX0/sruNwZSyeTt3BlbO/cV"
    "FseC4Vst8dV5fVXn5uQvmzuaftb6+YPryqpfflYfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAATNrPe5LFbbfef5jN2zPn7HDe0b5r96aXZvLKE9d/29/9TnMUpvMr2QthIpHI+yL+0p0Lj0Zbrl26smPiUPjpu8kj5d8d"
    "2T6Wvlq2KFGZas69V+83AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/O+e"
    "AzpLuig="
)


def examples(count, start=0):
    for i in range(start, start + count):
        ids = np.arange(8, dtype=np.int16).reshape(2, 2, 2) + i
        yield {
            "row": np.int64(i),
            "code": ids,
            "name": {"en": f"Wort {i} ü"},
            "keywords": ["a", "b"],
            "empty": np.zeros((0, 3)),
        }


@pytest.fixture
def store(tmp_path):
    """Five training examples in shards of two, two of validation in one."""
    writer = tokens.Writer(tmp_path / "store", tokenizers={"fsq": "abc"}, licence="CC0", shard_size=2)
    writer.write_split("train", examples(5))
    writer.write_split("val", examples(2, start=5))
    assert not (tmp_path / "store" / "manifest.json").exists(), "nothing is visible before close"
    writer.close()
    return tmp_path / "store"


def check(source, want):
    want = list(want)
    assert len(source) == len(want)
    for i, example in enumerate(want):
        got = source[i]
        assert got.keys() == example.keys() and got["row"] == i + want[0]["row"]
        for key in ("code", "empty"):
            np.testing.assert_array_equal(got[key], example[key])
            assert got[key].dtype == example[key].dtype
        assert got["name"] == example["name"] and got["keywords"] == ["a", "b"]


def test_a_store_gives_back_what_was_written(store):
    for split, want in (("train", examples(5)), ("val", examples(2, 5)), (("train", "val"), examples(7))):
        check(pickle.loads(pickle.dumps(tokens.Source(store, split))), want)
    manifest = tokens.read_manifest(store)
    assert manifest["tokenizers"] == {"fsq": "abc"} and manifest["licence"] == "CC0"
    about = manifest["splits"]["train"]
    assert about["count"] == 5 and [s["count"] for s in about["shards"]] == [2, 2, 1]
    assert all(len(s["sha256"]) == 64 and (store / s["file"]).stat().st_size == s["bytes"] for s in about["shards"])
    assert not list(store.glob("*.partial"))


def test_threads_may_share_a_store(store):
    source, order = tokens.Source(store, ("train", "val")), np.random.default_rng(0).integers(0, 7, 500).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert [int(e["row"]) for e in threads.map(source.__getitem__, order)] == order


def test_a_store_feeds_the_pipeline(store):
    specs = (Modality("code", "grid", (2, 2), "code", "code", 50, tokenizer="fsq"),)
    batch = next(iter(train_batches(tokens.Source(store), Encoder(specs, {}, True), batch_size=5, seed=0)))
    assert sorted(batch["row"]) == list(range(5))


def test_repr_tells_stores_apart(store, tmp_path):
    assert repr(tokens.Source(store)) == repr(tokens.Source(store)) != repr(tokens.Source(store, "val"))
    writer = tokens.Writer(tmp_path / "other", tokenizers={}, licence="", shard_size=2)
    writer.write_split("train", examples(5, start=1))
    writer.close()
    assert repr(tokens.Source(store)) != repr(tokens.Source(tmp_path / "other"))


def test_stores_of_format_1_open(tmp_path):
    """One file a split, written by the first version: its bytes."""
    file = tmp_path / "train-00000-of-00001.array_record"
    file.write_bytes(zlib.decompress(base64.b64decode(OLD_FILE)))
    about = {"file": file.name, "count": 2, "sha256": "ab" * 32, "fields": ["row", "code"]}
    manifest = {"format": 1, "tokenizers": {}, "licence": "CC0", "splits": {"train": about}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    source = tokens.Source(tmp_path)
    assert [int(source[i]["row"]) for i in range(len(source))] == [0, 1]
    np.testing.assert_array_equal(source[1]["code"], [[1, 2], [3, 4]])
    assert repr(source) == "tokens.Source(train:abababababab)", "what checkpoints of old runs say"
    assert source.fields == {"row", "code"}


def test_store_errors(store, tmp_path):
    with pytest.raises(ValueError, match=r"split='test': the store .* has train, val"):
        tokens.Source(store, "test")
    with pytest.raises(FileNotFoundError, match=r"no token store at .*nowhere.*tools.tokenize"):
        tokens.Source(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=r"already holds a token store"):
        tokens.Writer(store, tokenizers={}, licence="")
    with pytest.raises(TypeError, match=r"cannot hold set"):
        tokens.encode_record({"x": {1, 2}})
    file = store / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match=r"format=99, this version reads 1 to 2"):
        tokens.Source(store)
    file.write_text('{"format": 1, "spl')
    with pytest.raises(ValueError, match=r"manifest.json: not valid JSON"):
        tokens.Source(store)


def test_missing_and_cut_shards_are_named_at_opening(store):
    shard = store / "train-00001.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=rf"train-00001.array_record: {len(data) - 1} bytes, but .* {len(data)}; copy"):
        tokens.Source(store)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001.array_record: missing"):
        tokens.Source(store)
    assert len(tokens.Source(store, "val")) == 2, "other splits are not concerned"


def test_a_broken_record_is_named(tmp_path):
    codes = ({"row": i, "code": np.random.default_rng(i).integers(0, 2**15, 4000)} for i in range(4))
    writer = tokens.Writer(tmp_path, tokenizers={}, licence="", shard_size=3)
    writer.write_split("train", codes)
    writer.close()
    file = tmp_path / "train-00000.array_record"
    data = bytearray(file.read_bytes())
    data[12_000:12_100] = bytes(100)  # in the second record: one takes 8 kB
    file.write_bytes(data)
    source, broken = tokens.Source(tmp_path), 0
    for i in range(4):
        try:
            assert source[i]["row"] == i
        except ValueError as e:
            broken += 1
            assert f"{file}: record {i} is not readable" in str(e) and "tools.store check" in str(e)
    assert broken == 1
    file.write_bytes(bytes(len(data)))
    with pytest.raises(ValueError, match=rf"{file}: record 0 is not readable"):
        tokens.Source(tmp_path)[0]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            tokens.Source(tmp_path)[index]


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    def failing():
        yield from examples(2)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        tokens.write_shard(tmp_path / "train-00000.array_record", failing())
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"train-00000.array_record: cannot be written .*: is the disk full\?"):
        tokens.write_shard(tmp_path / "no" / "train-00000.array_record", examples(2))
