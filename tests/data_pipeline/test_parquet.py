"""Parquet files: rows as examples, images out of bytes, and what is broken."""

import pickle

import grain
import numpy as np
import pytest
from tars import encode, picture

from data_pipeline.sources.parquet import Source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows(start, stop):
    for i in range(start, stop):
        png = encode("a.png", picture(i))
        yield {
            "image": {"bytes": png, "path": f"{i}.png"},
            "raw": png if i % 2 else None,
            "caption": f"number {i} ü",
            "texts": [f"a {i}", "b"],
            "ids": list(range(i)),
            "box": [[0.5, 1.0], [i, 2.0]],
            "label": i % 3,
            "about": {"lang": "en", "n": i},
        }


def write(file, start, stop, group=2):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows(start, stop))), file, row_group_size=group)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", 0, 5)
    write(tmp_path / "train-00001-of-00002.parquet", 5, 8)
    write(tmp_path / "validation-00000-of-00001.parquet", 8, 10)
    return tmp_path


def check(source, numbers):
    assert len(source) == len(numbers)
    for index, i in enumerate(numbers):
        got = source[index]
        assert got["row"] == index and isinstance(got["row"], np.int64)
        np.testing.assert_array_equal(got["image"], picture(i))
        assert ("raw" in got) == bool(i % 2)
        if i % 2:
            np.testing.assert_array_equal(got["raw"], picture(i))
        assert got["caption"] == f"number {i} ü" and got["texts"] == [f"a {i}", "b"] and got["label"] == i % 3
        assert np.array_equal(got["ids"], np.arange(i)) and got["about"] == {"lang": "en", "n": i}
        np.testing.assert_array_equal(got["box"], [[0.5, 1.0], [i, 2.0]])
        assert source.pick(index, {"label", "caption"}) == {k: got[k] for k in ("label", "caption", "row")}


def test_rows_are_examples(folder):
    check(Source(folder), range(8))
    check(pickle.loads(pickle.dumps(Source(folder, ("validation", "train")))), [8, 9, *range(8)])
    assert Source(folder).fields == next(iter(rows(0, 1))).keys()
    assert {int(e["row"]) for e in grain.MapDataset.source(Source(folder)).shuffle(seed=0)} == set(range(8))
    for index in (-1, 8):
        with pytest.raises(IndexError):
            Source(folder)[index]


def test_repr_changes_with_the_files_only(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "train" / "0.parquet", 0, 5)
    write(other / "train" / "1.parquet", 5, 8)
    assert repr(Source(folder)) == repr(Source(other)) != repr(Source(folder, "validation"))
    write(other / "train" / "2.parquet", 0, 1)
    assert repr(Source(folder)) != repr(Source(other))


def test_what_is_broken_is_named(folder):
    with pytest.raises(ValueError, match=r"split='test': .* has neither test/\*.parquet"):
        Source(folder, "test")
    file = folder / "test-0.parquet"
    write(file, 0, 4)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"test-0.parquet: no whole Parquet file \(.*restore it"):
        Source(folder, "test")
    broken = list(rows(0, 3))
    broken[1]["raw"] = b"text"
    pq.write_table(pa.Table.from_pylist(broken), folder / "broken-0.parquet")
    source = Source(folder, "broken")
    assert source[0]["label"] == 0
    with pytest.raises(ValueError, match=r"broken-0.parquet: row 1 of row group 0: raw: not a readable image"):
        source[1]
    pq.write_table(pa.Table.from_pylist(broken)[:0], folder / "none-0.parquet")
    with pytest.raises(ValueError, match=r"split='none': the 1 files in .* hold no row"):
        Source(folder, "none")


def test_a_broken_row_group_is_named(tmp_path):
    table = pa.table({"text": [f"{i:05d}" * 20 for i in range(200)]})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=100, compression="gzip", use_dictionary=False)
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[200:260] = bytes(60)
    (tmp_path / "train.parquet").write_bytes(data)
    source = Source(tmp_path)
    with pytest.raises(ValueError, match=r"train.parquet: row group 0 is not readable"):
        source[5]
    assert source[150]["text"] == "00150" * 20
