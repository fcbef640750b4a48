"""Tars of webdataset, their index and their shards: what comes out is what went in, and what is broken is named."""

import io
import os
import pickle
import tarfile

import grain
import numpy as np
import pytest
from tars import add, encode, picture, write_tar

from data_pipeline import tar
from data_pipeline.checks import check_fields
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.shards import expand_braces, find_shards
from data_pipeline.sources.webdataset import Source
from data_pipeline.spec import Modality


def members(start, stop):
    """Examples with a picture, a mask, a class, ids, a text and a JSON object; every third lacks the mask."""
    out = {}
    for i in range(start, stop):
        key = f"deep/{i:04d}"
        out[f"{key}.png"] = picture(i)
        if i % 3:
            out[f"{key}.mask.png"] = picture(i, channels=1)
        out[f"{key}.cls"] = i % 5
        out[f"{key}.npy"] = np.arange(i, i + 4, dtype=np.int16)
        out[f"{key}.txt"] = f"number {i} ü\n"
        out[f"{key}.json"] = {"caption": [f"a {i}", f"b {i}"], "size": 2.5 * i} | ({"note": None} if i else {"rare": 1})
    return out


@pytest.fixture
def folder(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", members(0, 4))
    write_tar(tmp_path / "train" / "1.tar", members(4, 7))
    write_tar(tmp_path / "val" / "0.tar", members(7, 9))
    return tmp_path


def check(source, rows):
    assert len(source) == len(rows)
    for index, i in enumerate(rows):
        got = source[index]
        assert got["row"] == index and isinstance(got["row"], np.int64)
        np.testing.assert_array_equal(got["image"], picture(i))
        np.testing.assert_array_equal(got["npy"], np.arange(i, i + 4, dtype=np.int16))
        assert got["npy"].dtype == np.int16 and got["cls"] == i % 5 and got["txt"] == f"number {i} ü"
        assert got["caption"] == [f"a {i}", f"b {i}"] and got["size"] == 2.5 * i and "note" not in got
        assert ("mask" in got) == bool(i % 3)
        if i % 3:
            np.testing.assert_array_equal(got["mask"], picture(i, channels=1))
        picked = source.pick(index, {"cls", "caption"})
        assert picked == {"row": index, "cls": got["cls"], "caption": got["caption"]}


def test_examples_are_the_members_of_a_key(folder):
    check(Source(folder), range(7))
    check(Source(folder, "val"), range(7, 9))
    check(Source(folder, ("val", "train")), [7, 8, *range(7)])
    assert Source(folder).fields == {"image", "mask", "cls", "npy", "txt", "caption", "size", "note", "rare"}
    assert Source(folder).report == ""
    for index in (-1, 7):
        with pytest.raises(IndexError):
            Source(folder)[index]


def test_members_may_lie_in_any_order(tmp_path):
    given = members(0, 5)
    shuffled = {name: given[name] for name in np.random.default_rng(0).permutation(list(given)).tolist()}
    order = list(dict.fromkeys(int(name[5:9]) for name in shuffled))
    check(Source(write_tar(tmp_path / "train" / "0.tar", shuffled).parent.parent), order)


def test_long_names_and_foreign_suffixes(tmp_path):
    key = "ü" * 150
    write_tar(tmp_path / "train-0.tar", {f"{key}.PNG": encode("a.png", picture(1)), f"{key}.mp3": b"sound"})
    example = Source(tmp_path)[0]
    np.testing.assert_array_equal(example["image"], picture(1))
    assert example["mp3"] == b"sound"


def test_the_index_is_kept_until_a_tar_changes(folder, monkeypatch):
    before = Source(folder)
    scans, scan = [], tar._scan
    monkeypatch.setattr(tar, "_scan", lambda path: scans.append(path) or scan(path))
    check(Source(folder), range(7))
    assert not scans and repr(Source(folder)) == repr(before) != repr(Source(folder, "val"))
    scans.clear()
    write_tar(folder / "train" / "new.tar", members(4, 9)).replace(folder / "train" / "1.tar")
    assert repr(Source(folder)) != repr(before) and len(scans) == 2
    check(Source(folder), range(9))
    (file,) = (folder / "val").glob(".*.index.npz")
    file.write_bytes(file.read_bytes()[:100])
    check(Source(folder, "val"), range(7, 9))


def test_pickle_and_batches(folder):
    source = pickle.loads(pickle.dumps(Source(folder)))
    assert {int(e["row"]) for e in grain.MapDataset.source(source).shuffle(seed=0)} == set(range(7))
    specs = (
        Modality("rgb", "pixels", (4, 6, 3), "image"),
        Modality("ids", "sequence", (5,), "npy", "ids", 30, tokenizer="stored"),
        Modality("class", "labels", (1,), "cls", vocab_size=5),
    )
    batch = next(iter(train_batches(source, Encoder(specs, {}, True), batch_size=7, seed=0)))
    for b, row in enumerate(batch["row"].tolist()):
        assert batch["ids"]["ids"][b].tolist() == [*range(row, row + 4), 0] and batch["class"]["ids"][b] == row % 5
    with pytest.raises(ValueError, match=r"field='jpg' is unknown: use one of caption, cls, image, mask"):
        check_fields((Modality("rgb", "pixels", (4, 6, 3), "jpg"),), source)


# -- Shards ----------------------------------------------------------------------------------------------------------


def test_braces():
    assert expand_braces("a-{08..10}.{x,y}") == [f"a-{n}.{c}" for n in ("08", "09", "10") for c in "xy"]
    assert expand_braces("plain.tar") == ["plain.tar"] and expand_braces("{1..1}") == ["1"]


def test_where_shards_are_found(tmp_path):
    for name in ("in-train-0.tar", "in-train-1.tar", "in-val-0.tar", "interval.tar", "trainer_0.tar"):
        (tmp_path / name).touch()
    names = lambda *args: [f.name for f in find_shards(*args, ".tar")]
    assert names(tmp_path, "train") == ["in-train-0.tar", "in-train-1.tar"] and names(tmp_path, "val") == [
        "in-val-0.tar"
    ]
    assert names(f"{tmp_path}/in-{{split}}-{{0..1}}.tar", "train") == ["in-train-0.tar", "in-train-1.tar"]
    with pytest.raises(ValueError, match=r"split='test': .* has neither test/\*.tar nor \*test\*.tar; it has in-train"):
        names(tmp_path, "test")
    with pytest.raises(ValueError, match=r"split='test': .* matches no file"):
        names(f"{tmp_path}/in-{{split}}-{{0..1}}.tar", "test")
    with pytest.raises(FileNotFoundError, match=r"in-train-2.tar: missing, as are 1 of 3 shards"):
        names(f"{tmp_path}/in-{{split}}-{{0..2}}.tar", "train")
    with pytest.raises(ValueError, match=r"say \{split\} where"):
        names(f"{tmp_path}/in-{{0..2}}.tar", "train")
    with pytest.raises(FileNotFoundError, match=r"path='.*nowhere': no such folder"):
        names(tmp_path / "nowhere", "train")


# -- What is broken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0.001, 0.2, 0.5, 0.77, 0.9])
def test_a_truncated_tar_is_named(folder, cut):
    file = folder / "train" / "1.tar"
    data = file.read_bytes()
    size = tarfile.open(file).getmembers()[-1]
    file.write_bytes(data[: int(cut * (size.offset_data + size.size))])
    with pytest.raises(ValueError, match=r"1.tar: not a whole plain tar \(.*(deep/000\d|first member).*copy it again"):
        Source(folder)


def test_a_tar_cut_between_members_or_broken_within_is_named(folder):
    file = folder / "train" / "0.tar"
    data, found = file.read_bytes(), tarfile.open(file).getmembers()
    file.write_bytes(data[: found[5].offset])
    with pytest.raises(ValueError, match=rf"0.tar: not a whole plain tar \(cut off or broken after {found[4].name}"):
        Source(folder)
    file.write_bytes(data[: found[5].offset] + os.urandom(512) + data[found[5].offset + 512 :])
    with pytest.raises(ValueError, match=rf"0.tar: not a whole plain tar .*{found[4].name}"):
        Source(folder)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"0.tar: not a whole plain tar \(empty file"):
        Source(folder)


def test_a_member_twice_and_two_members_of_one_field(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as out:
        for _ in range(2):
            add(out, "a.txt", b"x")
    with pytest.raises(ValueError, match=r"train-0.tar: a.txt: this member is there twice"):
        Source(tmp_path)
    jpg = io.BytesIO()
    write_tar(tmp_path / "train-0.tar", {"a.png": picture(0), "b.png": picture(0), "b.jpg": jpg.getvalue()})
    with pytest.raises(ValueError, match=r"train-0.tar: b: .jpg, .png are all its 'image'; keep one"):
        Source(tmp_path)
    write_tar(tmp_path / "train-0.tar", {"a.txt": "x", "a.json": {"txt": "y"}})
    with pytest.raises(ValueError, match=r"a.json: 'txt' is a member of its own, too"):
        Source(tmp_path)[0]


def test_empty_tars_and_members_without_key_are_reported(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"a.txt": "x", "README": "y", ".hidden": "z"})
    write_tar(tmp_path / "train-1.tar", {})
    source = Source(tmp_path)
    assert len(source) == 1
    assert "1 of 2 tars are empty, such as " in source.report and "train-1.tar" in source.report
    assert "ignored: 1 no KEY.EXT (such as " in source.report and "README" in source.report
    assert "1 hidden or of the system (such as " in source.report and ".hidden" in source.report
    write_tar(tmp_path / "val-0.tar", {})
    with pytest.raises(ValueError, match=r"split='val': the 1 tars in .* hold no KEY.EXT"):
        Source(tmp_path, "val")


def test_broken_members_are_named(tmp_path):
    png = encode("a.png", picture(0))
    broken = {
        "a.png": png[:50], "b.png": b"text", "c.npy": b"text", "d.json": b"{", "e.cls": "x", "f.txt": b"\xff",
        "g.npy": encode("g.npy", np.array([1, "x"], object)), "h.txt": "fine",
    }  # fmt: skip
    write_tar(tmp_path / "train-0.tar", broken)
    source = Source(tmp_path)
    for index, name in enumerate(list(broken)[:-1]):
        kind = {"png": "image", "npy": "array", "json": "json", "cls": "number", "txt": "text"}[name[2:]]
        with pytest.raises(ValueError, match=rf"train-0.tar: {name}: not a readable {kind} \(.*take the example out"):
            source[index]
    assert source[7]["txt"] == "fine"
    with open(tmp_path / "train-0.tar", "r+b") as file:
        file.truncate(source._index.place[7, source._index.columns.index("txt"), 0] + 2)
    with pytest.raises(ValueError, match=r"train-0.tar: h.txt: ends after 2 of 4 bytes"):
        source[7]


def test_links_that_lead_to_no_member_are_refused(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as out:
        info = tarfile.TarInfo("a.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "b.txt"
        out.addfile(info)
    with pytest.raises(ValueError, match=r"a.txt: links to b.txt, no file in this tar"):
        Source(tmp_path)
