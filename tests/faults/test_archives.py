"""Tars by what their members really are, keys with dots, and files that are cut while they are open."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import small_sources
from small_sources import SOURCES, data_file_of, write
from tars import add, encode, picture, write_tar

from data_pipeline import tar
from data_pipeline.sources import tokens
from data_pipeline.sources.tar_tree import Source as Tree
from data_pipeline.sources.webdataset import Source


def with_links(file, *links):
    """a.txt and b/a.png, then links (type, name, to)."""
    with tarfile.open(file, "w") as out:
        add(out, "a.txt", b"text")
        add(out, "b/a.png", encode("a.png", picture(0)))
        for kind, name, to in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            out.addfile(info)
    return Source(file.parent)


def examples(source) -> dict:
    """{key: example without its row}."""
    return {
        source._index.keys[i].decode(): {k: v for k, v in source[i].items() if k != "row"} for i in range(len(source))
    }


def test_links_to_other_members_are_those(tmp_path):
    source = with_links(
        tmp_path / "train-0.tar",
        (tarfile.LNKTYPE, "hard.txt", "./a.txt"), (tarfile.SYMTYPE, "soft.txt", "a.txt"),
        (tarfile.SYMTYPE, "deep/c.txt", "../soft.txt"), (tarfile.SYMTYPE, "b/d.png", "a.png"),
        (tarfile.LNKTYPE, "b/e.png", "b/a.png"), (tarfile.LNKTYPE, "a.txt", "a.txt"),
    )  # fmt: skip
    found = examples(source)
    assert {k: v["txt"] for k, v in found.items() if "txt" in v} == dict.fromkeys(
        ("a", "hard", "soft", "deep/c"), "text"
    )
    for key in ("b/a", "b/d", "b/e"):
        np.testing.assert_array_equal(found[key]["image"], picture(0))


@pytest.mark.parametrize(
    "kind, name, to",
    [
        (tarfile.SYMTYPE, "x.txt", "/etc/passwd"), (tarfile.SYMTYPE, "x.txt", "../a.txt"),
        (tarfile.SYMTYPE, "x.txt", "x.txt"), (tarfile.LNKTYPE, "x.txt", "no.txt"), (tarfile.SYMTYPE, "x.txt", "b"),
    ],
)  # fmt: skip
def test_links_to_anything_else_are_refused(tmp_path, kind, name, to):
    with pytest.raises(ValueError, match=r"train-0.tar: x.txt: links to .*, no file in this tar; put the file itself"):
        with_links(tmp_path / "train-0.tar", (kind, name, to))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"train-0.tar: x.txt: neither file nor folder; put the file itself there"):
        with_links(tmp_path / "train-0.tar", (kind, "x.txt", ""))


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_are_refused_by_their_size(tmp_path, form):
    with open(tmp_path / "a.txt", "wb") as file:
        file.write(b"x")
        file.truncate(2**40)
        file.seek(2**40)
        file.write(b"y")
    command = ["tar", "--sparse", f"--format={form}", "-C", tmp_path, "-cf", tmp_path / "train-0.tar", "a.txt"]
    subprocess.run(command, check=True)
    assert (tmp_path / "train-0.tar").stat().st_size < 2**20
    with pytest.raises(
        ValueError, match=r"train-0.tar: a.txt: 1,099,511,627,777 bytes, stored sparse: .*without --sparse"
    ):
        Source(tmp_path)


def test_a_size_that_is_a_lie_reads_nothing_else(tmp_path):
    for size, message in ((2**33, "8,589,934,592 bytes: members are"), (2**30, "not a whole plain tar")):
        info = tarfile.TarInfo("a.txt")
        info.size = size
        (tmp_path / "train-0.tar").write_bytes(info.tobuf() + bytes(2048))
        with pytest.raises(ValueError, match=message):
            Source(tmp_path)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused(tmp_path, compression):
    with tarfile.open(tmp_path / "train-0.tar", f"w:{compression}") as out:
        add(out, "a.txt", b"x")
    with pytest.raises(ValueError, match=r"train-0.tar: not a whole plain tar"):
        Source(tmp_path)
    (tmp_path / "train-0.tar").rename(tmp_path / f"train-0.tar.{compression}")
    with pytest.raises(ValueError, match=rf"it has train-0.tar.{compression}"):
        Source(tmp_path)


def test_members_that_are_compressed_stay_so(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"a.npz": b"zip", "a.jpg.gz": b"gz", "a.txt": "x"})
    assert Source(tmp_path)[0] == {"row": 0, "npz": b"zip", "jpg": b"gz", "txt": "x"}


def test_json_beyond_all_measure_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "LARGEST_JSON", 10)
    write_tar(tmp_path / "train-0.tar", {"a.json": {"caption": "x"}})
    with pytest.raises(ValueError, match=r"train-0.tar: a.json: 16 bytes of JSON, at most 10"):
        Source(tmp_path)


# -- Names -----------------------------------------------------------------------------------------------------------


def test_system_members_are_left_and_counted(tmp_path):
    names = ("._a.txt", "__MACOSX/._a.txt", "__MACOSX/a.jpg", "Thumbs.db", ".DS_Store", "x/desktop.ini")
    write_tar(tmp_path / "train-0.tar", {"./a.txt": "x", "a.cls": 3} | dict.fromkeys(names, b"junk"))
    source = Source(tmp_path)
    assert [source[i] for i in range(len(source))] == [{"row": 0, "txt": "x", "cls": 3}]
    assert "6 hidden or of the system (such as " in source.report and Source(tmp_path).report == source.report


@pytest.mark.parametrize(
    "name, key, field",
    [
        ("0001.txt", "0001", "txt"), ("clip-12.5.txt", "clip-12.5", "txt"), ("v1.2.3.txt", "v1.2.3", "txt"),
        ("a.left.txt", "a", "left"), ("clip-12.5.left.txt", "clip-12.5", "left"), ("a.b.1.txt", "a.b.1", "txt"),
        ("0.1/2.5.txt", "0.1/2.5", "txt"), ("a.7z", "a", "7z"), ("a.mp3", "a", "mp3"), ("a..txt", "a.", "txt"),
    ],
)  # fmt: skip
def test_keys_with_dots(tmp_path, name, key, field):
    write_tar(tmp_path / "train-0.tar", {name: b"1"})
    source = Source(tmp_path)
    assert source.fields == {field} and source._index.keys[0].decode() == key


def test_pictures_whose_keys_have_numbers_are_many_examples(tmp_path):
    write_tar(tmp_path / "train-0.tar", {f"clip-{i}.5.{s}": picture(i) if s == "png" else f"t {i}"
                                         for i in range(3) for s in ("png", "txt")})  # fmt: skip
    source = Source(tmp_path)
    assert [source[i]["txt"] for i in range(3)] == ["t 0", "t 1", "t 2"] and source.fields == {"image", "txt"}


def test_names_whose_keys_nobody_can_tell_are_refused(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"a.txt": "x", "a.0.txt": "y"})
    with pytest.raises(
        ValueError, match=r"train-0.tar: a.0.txt: there is a too, so one cannot tell whether 0 is of its"
    ):
        Source(tmp_path)
    write_tar(tmp_path / "train-0.tar", {f"mr.smith{i}.txt": "x" for i in range(70)})
    with pytest.raises(
        ValueError, match=r"train-0.tar: mr.smith0.txt: 70 names .* rename the members so that keys have n"
    ):
        Source(tmp_path)


def test_members_of_a_tree_align_whatever_their_names_begin_with(tmp_path):
    write_tar(tmp_path / "train/a/0.tar", {"./1.5.txt": "x", "2.5.txt": "y"})
    write_tar(tmp_path / "train/b/0.tar", {"1.5.npy": np.arange(2), "./2.5.npy": np.arange(3)})
    source = Tree(tmp_path)
    assert len(source) == 2 and source.report == "" and len(source[1]["b"]) == 3


# -- Files that are cut while they are open --------------------------------------------------------------------------

CUT = """
import os, sys
import small_sources
kind, folder, file = sys.argv[1:]
source = small_sources.SOURCES[kind](folder)
if kind != "classes":
    source[0]
for size in (os.path.getsize(file) // 2, 10, 0):
    os.truncate(file, size)
    for index in range(len(source)):
        try:
            source[index]
        except (ValueError, OSError) as e:
            print(e)
"""


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_that_is_cut_ends_in_an_error(kind, tmp_path):
    """Not in SIGBUS, which ends a process that has mapped it into memory."""
    folder = write(kind, tmp_path / "data", count=5)
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [{"ids": list(range(i, i + 20_000))} for i in range(20)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-0.parquet", row_group_size=1)
    if kind == "tokens":
        for file in folder.iterdir():
            file.unlink()
        small_sources.store(folder, {"train": [{"row": np.int64(i), "ids": np.random.bytes(9**5)} for i in range(5)]})
    file = data_file_of(kind, folder)
    here = os.path.dirname(small_sources.__file__)
    env = os.environ | {"PYTHONPATH": f"{here}:{os.path.dirname(here)}"}
    command = [sys.executable, "-c", CUT, kind, folder, file]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert file.name in ended.stdout


def test_a_shard_with_another_number_of_records_is_named(tmp_path):
    one, other = (write("tokens", tmp_path / name, count=n) for name, n in (("one", 4), ("other", 3)))
    file = one / "train-00001.array_record"
    file.write_bytes((other / file.name).read_bytes().ljust(file.stat().st_size, b"\0"))
    source = tokens.Source(one)
    with pytest.raises(ValueError, match=r"train-00001.array_record: record \d is not readable .*tools.store check"):
        source[3]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 9999, '{"format": 2}', '{"format": 2, "tokenizers": {}, "splits": {"train": {}}}', "\ufeff5",
     '{"format": 2, "tokenizers": {}, "splits": {"train": {"shards": [{"file": 5, "count": 1, "sha256": ""}]}}}',
     '{"format": 2, "tokenizers": [], "splits": {}}', '{"format": 9}'],
)  # fmt: skip
def test_manifests_that_are_none_are_named(tmp_path, text):
    write("tokens", tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json: (not valid JSON|no manifest|format=).*(again|this version)"):
        tokens.Source(tmp_path)


def test_a_manifest_that_was_changed_is_named(tmp_path):
    file = write("tokens", tmp_path) / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace("train-00001", "train-00000"))
    with pytest.raises(
        ValueError, match=r"manifest.json: it was changed since it was written: .*; copy it again, or take"
    ):
        tokens.Source(tmp_path)
    file.write_text(json.dumps(json.loads(text), indent=9))
    assert len(tokens.Source(tmp_path)) == 3, "its layout says nothing"


@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_of_a_page_is_found_if_it_has_a_checksum(tmp_path, checksums):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": [f"number {i} of many" for i in range(50)]})
    options = dict(compression="none", use_dictionary=False, write_page_checksum=checksums)
    pq.write_table(table, tmp_path / "train.parquet", **options)
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[data.index(b"number 7 ")] ^= 1
    (tmp_path / "train.parquet").write_bytes(data)
    if not checksums:  # no file without them can tell
        assert SOURCES["parquet"](tmp_path)[7]["text"] == "oumber 7 of many"
        return
    with pytest.raises(ValueError, match=r"train.parquet: row group 0 is not readable .*restore the file"):
        SOURCES["parquet"](tmp_path)[7]


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path):
    folder = write("webdataset", tmp_path)
    before = examples(Source(folder)).keys()
    (index,) = folder.glob(".*.npz")
    index.unlink()
    os.mkfifo(index)
    assert examples(Source(folder)).keys() == before
