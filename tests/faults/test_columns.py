"""Parquet and TFDS: columns that nobody reads, images in lists and structs, and values that nothing can hold."""

import datetime
import decimal

import numpy as np
import pytest
from tars import encode, picture

from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.sources.parquet import Source
from data_pipeline.sources.tokens import encode_record
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from data_pipeline.transforms import crop

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = Modality("rgb", "pixels", (6, 4, 3), "image")
EDGES = Modality("edges", "pixels", (6, 4, 1), "edges:image")
CAPTION = Modality("caption", "sequence", (16,), "caption", "text", 8000, tokenizer="text")
CLIP = Modality("clip", "video", (2, 6, 4, 3), "image")


def png(i, size=(6, 4)):
    return encode("a.png", picture(i, size))


def write(folder, columns: dict):
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return Source(folder)


def batch(source, *specs):
    return next(eval_batches(source, Encoder(specs, {"text": TextTokenizer()}, False), batch_size=len(source)))


def test_columns_that_nobody_reads_break_nothing(tmp_path):
    columns = {
        "image": [png(0), png(1)],
        "caption": ["a", "b"],
        "broken": [b"broken", b"sound"],
        "bad": [b"\xff", b"x"],
        "when": pa.array([1, 2], pa.timestamp("ns")),
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
    source = write(tmp_path, columns)
    with pytest.raises(ValueError, match=r"train.parquet: row 0 of row group 0: b\w+: not a readable image"):
        source[0]
    got = batch(source, IMAGE, CAPTION)
    np.testing.assert_array_equal(got["rgb"]["pixels"], [picture(0), picture(1)])
    assert source.pick(1, {"when", "caption"}) == {"row": 1, "when": "1970-01-01 00:00:00.000000002", "caption": "b"}


@pytest.mark.parametrize("nested", ["bytes", "struct"])
def test_lists_and_structs_of_images(tmp_path, nested):
    def image(i, size=(6, 4)):
        return png(i, size) if nested == "bytes" else {"bytes": png(i, size), "path": None}

    rows = [[image(0)], [image(1), image(2)], [], None, [image(3), None]]
    source = write(tmp_path, {"image": rows, "about": [{"icon": image(i), "n": i} for i in range(5)]})
    assert [len(source[i].get("image", ())) for i in range(5)] == [1, 2, 0, 0, 2]
    np.testing.assert_array_equal(source[1]["image"], [picture(1), picture(2)])
    np.testing.assert_array_equal(source[4]["about"]["icon"], picture(4))
    got = batch(source, IMAGE, EDGES)
    assert got["rgb"]["valid"].tolist() == [True, True, False, False, True] == got["edges"]["valid"].tolist()
    for row, number in ((0, 0), (1, 1), (4, 3)):
        np.testing.assert_array_equal(got["rgb"]["pixels"][row], picture(number))
    drawn = Encoder((IMAGE,), {}, True, (crop.Transform(min_scale=1.0),))
    found = {drawn(source[1], np.random.default_rng(s))["rgb"]["pixels"].tobytes() for s in range(20)}
    assert found == {picture(1).tobytes(), picture(2).tobytes()}, "one of them is drawn, as of captions"
    clips = write(tmp_path, {"image": [[image(1), image(2)], [image(3), image(4, (8, 8))]]})
    np.testing.assert_array_equal(
        Encoder((CLIP,), {}, False)(clips[0], None)["clip"]["pixels"], [picture(1), picture(2)]
    )
    with pytest.raises(ValueError, match=r"modality 'clip': row 1 holds image=.*pictures of one size"):
        Encoder((CLIP,), {}, False)(clips[1], None)


def test_values_of_every_type_are_read_or_named(tmp_path):
    day = datetime.date(2024, 2, 29)
    source = write(tmp_path, {
        "day": [day], "time": [datetime.datetime(2024, 1, 2, 3)], "price": [decimal.Decimal("1.50")], "row": [77],
        "span": [datetime.timedelta(1)], "ragged": [[[1, 2], [3]]], "holes": [[1, None, 3]], "flags": [[True, False]],
        "nothing": pa.nulls(1), "half": pa.array([np.float16(0.5)], pa.float16()), "dates": [[day]],
    })  # fmt: skip
    got = source[0]
    assert got["row"] == 0 and got["day"] == "2024-02-29" and got["time"] == "2024-01-02 03:00:00"
    assert got["price"] == "1.50" and [part.tolist() for part in got["ragged"]] == [[1, 2], [3]]
    assert (
        got["holes"] == [1, None, 3] and got["flags"] == [True, False] and "nothing" not in got and got["half"] == 0.5
    )
    assert got["dates"] == ["2024-02-29"]
    encode_record(got)


def test_a_text_that_is_no_utf8_is_named(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    source = write(tmp_path, {"caption": bad})
    assert source[0]["caption"] == "ok"
    with pytest.raises(
        ValueError, match=r"train.parquet: row 1 of row group 0: caption: not readable .*take the row out"
    ):
        source[1]


def test_a_column_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet: the column 'a' is there twice; rename one"):
        Source(tmp_path)


def test_a_build_that_was_stopped_is_no_version(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    import builders

    from data_pipeline.sources.tfds import Source

    features = {"caption": tfds.features.Text(), "raw": tfds.features.Tensor(shape=(), dtype=np.str_)}
    folder = builders.write(
        tmp_path, "toys", features, {s: [{"caption": "a", "raw": b"\xff"}] for s in ("train", "val")}
    )
    for name in ("1.0.0.incomplete7Q", "incomplete.Q0_2.0.0", ".2.0.0", "backup"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "dataset_info.json").write_bytes((folder / "dataset_info.json").read_bytes())
    with pytest.raises(ValueError, match=r"toys/1.0.0, train: example 0: raw: no text in UTF-8 .*mend the data"):
        Source(tmp_path / "toys")[0]
    assert Source.available(tmp_path / "toys") == ["train", "val"]
