"""`tools.tokenize`, `tools.prepare` and `tools.store` on data as they are found: splits, lists of pictures, values."""

import json
import sys

import numpy as np
import pytest
import toy_tokenize
from small_sources import SOURCES, write
from tars import encode, picture

from data_pipeline.sources.files import Source as Files
from data_pipeline.sources.parquet import Source as Parquet
from data_pipeline.sources.tokens import Source, encode_record
from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.data import Part
from tools.prepare.recipe import Recipe, Unfit
from tools.tokenize import __main__ as tokenize
from tools.train_text_tokenizer import sentences, train

RECIPE = Recipe(
    "image", ("caption",), 1, 0.0, 1, 0, ("image",), ("image",), 4, 12.0, 0.8, 0, (), "png", 95, ()
)  # what the flags of tools.prepare say by default


def run_tokenize(monkeypatch, *arguments):
    toy_tokenize.install(monkeypatch.setattr)
    monkeypatch.setattr(sys, "argv", ["tokenize", "--tokenizers=rgb=w/rgb", "--crops=2", *map(str, arguments)])
    tokenize.main()


@pytest.mark.parametrize("kind, source", [("lines", "files"), ("classes", "files"), ("webdataset", "webdataset"),
                                          ("tar_tree", "tar_tree"), ("parquet", "parquet")])  # fmt: skip
def test_train_and_val_are_enough_to_tokenize(kind, source, tmp_path, monkeypatch, capsys):
    for split in ("train", "val"):
        folder = write(kind, tmp_path / "raw", split)
    (folder / ".DS_Store").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    run_tokenize(monkeypatch, f"--source={source}", "--path=~/raw", "--out=~/made", "--fields=flat=image")
    said = capsys.readouterr().out
    assert f"{source} train: 3 examples" in said and f"{source} val: 3 examples" in said
    assert len(Source(tmp_path / "made")) == 3 == len(Source(tmp_path / "made", "val"))
    assert Source.available(tmp_path / "made") == ["train", "val"]
    with pytest.raises(ValueError, match=r"test.* (has|neither)"):
        run_tokenize(monkeypatch, f"--source={source}", f"--path={folder}", f"--out={tmp_path}/b", "--splits=test",
                     "--fields=flat=image")  # fmt: skip


def test_files_outside_are_tokenized_when_the_flag_says_so(tmp_path, monkeypatch):
    folder = write("lines", tmp_path / "raw")
    (folder / "imgs/train0.png").rename(tmp_path / "away.png")
    (folder / "imgs/train0.png").symlink_to(tmp_path / "away.png")
    common = ("--source=files", f"--path={folder}", "--fields=flat=image")
    run_tokenize(monkeypatch, *common, f"--out={tmp_path}/one")
    assert len(Source(tmp_path / "one")) == 2
    assert "leads out of" in (tmp_path / "one/quarantine.jsonl").read_text()
    run_tokenize(monkeypatch, *common, f"--out={tmp_path}/two", "--outside")
    assert len(Source(tmp_path / "two")) == 3


def test_what_a_store_cannot_hold_is_a_failure_of_its_example(tmp_path, monkeypatch):
    folder = write("lines", tmp_path / "raw")
    rows = [json.loads(line) for line in open(folder / "train.jsonl")]
    rows[1]["id"], rows[2]["caption"] = 2**70, "\ud83d"
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run_tokenize(monkeypatch, "--source=files", f"--path={folder}", "--fields=flat=image", f"--out={tmp_path}/made")
    assert [Source(tmp_path / "made")[i]["caption"] for i in range(2)] == ["number 0", "\ufffd"]
    (line,) = [json.loads(line) for line in open(tmp_path / "made/quarantine.jsonl")]
    assert line["index"] == 1 and "row 1: a token store cannot hold" in line["reason"]
    with pytest.raises(ValueError, match="row 7: a token store cannot hold"):
        encode_record({"row": 7, "text": "\ud83d"})


def test_lists_of_pictures_are_one_or_a_clip(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def png(i, size=(6, 4)):
        return encode("a.png", picture(i, size))

    rows = [{"image": [png(0)], "more": [png(1), png(2)], "caption": "a"}, {"image": [png(3), png(4, (2, 2))]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    example, _ = RECIPE.read(Parquet(tmp_path), 0)
    np.testing.assert_array_equal(example["image"], picture(0))
    np.testing.assert_array_equal(example["more"], [picture(1), picture(2)])
    assert RECIPE.members(example, []).keys() == {"png", "more.npy", "json"}
    with pytest.raises(Unfit, match="2 pictures of several sizes"):
        RECIPE.read(Parquet(tmp_path), 1)
    run_tokenize(monkeypatch, "--source=parquet", f"--path={tmp_path}", "--fields=flat=image", f"--out={tmp_path}/made")
    (record,) = [Source(tmp_path / "made")[i] for i in range(len(Source(tmp_path / "made")))]
    assert record.keys() == {"row", "rgb", "flat", "caption", "crop_settings", "palettes"}


@pytest.mark.parametrize(
    "caption, want",
    [(7, "7"), ("IMG_1.jpg", "IMG_1.jpg"), (["a", None, 3], ["a", "3"]), ("a \ud83d", "a"), ({"en": 5}, {"en": "5"})],
)
def test_prepare_cleans_texts_as_they_are_found(caption, want, tmp_path):
    folder = write("lines", tmp_path)
    row = json.loads(open(folder / "train.jsonl").readline()) | {"caption": caption}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    example, _ = RECIPE.read(Files(folder), 0)
    assert example["caption"] == want and RECIPE.members(example, [])["json"]


@pytest.mark.parametrize("caption", [True, [["a"]], {"en": {"a": 1}}, [float("inf")]])
def test_prepare_leaves_out_what_is_no_text(caption, tmp_path):
    folder = write("lines", tmp_path)
    row = json.loads(open(folder / "train.jsonl").readline()) | {"caption": caption}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(Unfit, match=r"caption=.*: must be a text, or a list or dict of texts"):
        RECIPE.read(Files(folder), 0)


@pytest.mark.parametrize("kind, source", [("lines", "files"), ("webdataset", "webdataset"), ("tokens", "tokens")])
def test_a_run_asks_which_splits_there_are(kind, source, tmp_path):
    for split in ("val", "train") if kind != "tokens" else ("train",):
        write(kind, tmp_path, split)
    want = ["train", "val"] if kind != "tokens" else ["train"]
    assert build.splits(build.Data(source, str(tmp_path))) == want == SOURCES[kind].available(tmp_path)
    mixed = build.Data(sources=(Part(source, path=str(tmp_path), splits=("train",)), Part("emoji", splits=("test",))))
    assert build.splits(mixed) == ["train", "test"] and build.splits(build.Data("moving_emoji")) == [
        "train",
        "val",
        "test",
    ]
    with pytest.raises(ValueError, match="reads a folder; give its path"):
        build.splits(build.Data(source))


def test_tokenizers_of_text_that_are_none(tmp_path):
    for data in (b"", b"no model " * 9):
        (tmp_path / "x.model").write_bytes(data)
        with pytest.raises(ValueError, match=r"x.model'.*(no model of SentencePiece|must be).*train_text_tokenizer"):
            TextTokenizer(tmp_path / "x.model")
    with pytest.raises(ValueError, match=r"vocab_size=2000000: SentencePiece cannot train it .*too high"):
        train(2_000_000, sentences())
