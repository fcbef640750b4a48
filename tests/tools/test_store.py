"""Token stores, checked and exported as a tar tree that reads the same."""

import sys

import numpy as np
import pytest

from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.sources import tar_tree, tokens
from data_pipeline.spec import Modality
from tools import store

CODES = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def examples(count, first=0):
    for i in range(first, first + count):
        example = {
            "row": np.int64(3 * i), "rgb": np.arange(8, dtype=np.uint16).reshape(2, 4) + i, "caption": f"Wort {i} ü",
            "texts": ["a", f"b {i}"], "palettes": [np.full((k, 3), i, np.uint8) for k in (1, 2)],
            "wide": np.array([40_000 + i]), "vector": np.full((1, 3), i, np.float32),
        }  # fmt: skip
        yield {k: v for k, v in example.items() if k != "texts" or i % 2}


@pytest.fixture
def made(tmp_path):
    (tmp_path / "store").mkdir()
    codes = tokens.write_codes(tmp_path / "store", "rgb", CODES)
    writer = tokens.Writer(
        tmp_path / "store", tokenizers={"rgb": {"codes": codes}, "grey": {}}, licence="", shard_size=3
    )
    writer.write_split("train", examples(7))
    writer.write_split("val", examples(2, 7))
    writer.close()
    return tmp_path / "store"


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["store", *map(str, args)])
    store.main()


def test_a_tree_reads_like_its_store(made, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "export", made, f"--out={tmp_path / 'tree'}", "--shard_size=4")
    assert "train: 7 examples, val: 2 examples" in capsys.readouterr().out
    assert len(list((tmp_path / "tree" / "train" / "rgb").glob("*.tar"))) == 2
    for split, first, count in (("train", 0, 7), ("val", 7, 2)):
        tree = tar_tree.Source(tmp_path / "tree", split, missing="absent")
        assert len(tree) == count
        for i, want in enumerate(examples(count, first)):
            got = tree[i]
            assert got.keys() == want.keys() and got["caption"] == want["caption"]
            assert got.get("texts") == want.get("texts")
            for key in ("rgb", "wide", "vector"):
                np.testing.assert_array_equal(got[key], want[key])
            assert got["rgb"].dtype == np.int16 and got["wide"].dtype == np.int64 and got["vector"].dtype == np.float32
            assert got["palettes"] == [p.tolist() for p in want["palettes"]]
    specs = (
        Modality("rgb", "grid", (2, 2), "rgb", "rgb", 30, tokenizer="rgb"),
        Modality("palette", "sequence", (30,), "palette", "text", 300, tokenizer="text"),
    )
    letters = type("Letters", (), {"encode": lambda self, text, n: [ord(c) for c in text][:n]})()
    ours, theirs = (
        next(eval_batches(s, Encoder(specs, {"text": letters}, False), batch_size=7))
        for s in (tokens.Source(made), tar_tree.Source(tmp_path / "tree", missing="absent"))
    )
    for m in specs:
        np.testing.assert_array_equal(ours[m.name]["ids"], theirs[m.name]["ids"])
        assert ours[m.name]["valid"].any(1).all()
    with pytest.raises(FileExistsError, match=r"shard-00000.tar is there already"):
        store.export(made, tmp_path / "tree", 4)


def test_codes_go_with_the_tree(made, tmp_path):
    store.export(made, tmp_path / "tree", 9)
    assert sorted(f.name for f in (tmp_path / "tree").iterdir()) == ["rgb.codes.npy", "train", "val"]
    np.testing.assert_array_equal(np.load(tmp_path / "tree" / "rgb.codes.npy"), CODES)
    assert len(tar_tree.Source(tmp_path / "tree", "train", missing="absent")) == 7
    np.save(made / "rgb.codes.npy", CODES + 1)
    with pytest.raises(ValueError, match=r"rgb.codes.npy: another sha256 than its manifest says; copy it again"):
        store.export(made, tmp_path / "other", 9)
    assert not (tmp_path / "other").exists()


def test_check_finds_what_is_broken(made, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "check", made)
    assert end.value.code == 0 and "every file is as it was written" in capsys.readouterr().out
    file = made / "train-00001.array_record"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (made / "val-00000.array_record").unlink()
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "check", made)
    said = capsys.readouterr().out
    assert end.value.code == 1 and said.count("\n") == 2
    assert "train-00001.array_record: another sha256" in said and "val-00000.array_record: missing" in said


def test_rows_that_do_not_ascend_are_no_keys(tmp_path):
    writer = tokens.Writer(tmp_path / "store", tokenizers={}, licence="")
    writer.write_split("train", [{"row": 1, "a": "x"}, {"row": 1, "a": "y"}])
    writer.close()
    with pytest.raises(ValueError, match="the rows of 'train' do not ascend"):
        store.export(tmp_path / "store", tmp_path / "tree", 9)
