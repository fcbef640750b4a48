"""What of a folder is data is one rule in every source: hidden files, links, files outside, and what is no file."""

import json
import os
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import small_sources
from small_sources import SOURCES, data_file_of, write
from tars import add, encode, picture

from data_pipeline.folders import is_system
from data_pipeline.plan import describe_data, describe_split
from data_pipeline.shards import find_splits, in_order
from data_pipeline.sources.files import Source as Files
from data_pipeline.sources.parquet import Source as Parquet
from data_pipeline.sources.tokens import read_codes
from tools.store import check

KINDS = list(SOURCES)
SYSTEM = (".DS_Store", "._train-0.tar", "._train-0.parquet", "._train.jsonl", "Thumbs.db", "desktop.ini")


def values(source):
    return [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in source[i].items()} for i in range(len(source))
    ]


@pytest.mark.parametrize("name", [*SYSTEM, "__MACOSX/a.jpg", ".ipynb_checkpoints/a.jpg", "a/@eaDir/a.jpg", "THUMBS.DB"])
def test_system_files(name):
    assert is_system(name)


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "../a.jpg", "thumbs/a.jpg", "_a.jpg", "a/b.c", "desktop.init"])
def test_files_of_ones_own(name):
    assert not is_system(name)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_and_system_files_are_no_examples(kind, tmp_path):
    write(kind, tmp_path)
    before = repr(SOURCES[kind](tmp_path)), values(SOURCES[kind](tmp_path))
    folders = {data_file_of(kind, tmp_path).parent, tmp_path}
    for folder in folders:
        for name in SYSTEM:
            (folder / name).write_bytes(b"junk")
        for name in ("__MACOSX", ".ipynb_checkpoints"):
            (folder / name).mkdir()
            for inner in ("a.jpg", "a.tar", "train-0.parquet"):
                (folder / name / inner).write_bytes(b"junk")
    source = SOURCES[kind](tmp_path)
    assert (repr(source), values(source)) == before and SOURCES[kind].available(tmp_path) == ["train"]
    if kind not in ("lines", "tokens"):  # they read what a listing of their own names
        assert "hidden or of the system (such as " in source.report
        assert "hidden or of the system" in describe_data(source, (), 1, 1)
        assert "hidden or of the system" in describe_split("train", source)


def test_files_that_are_no_examples_are_counted(tmp_path):
    write("classes", tmp_path)
    (tmp_path / "train/cat/notes.txt").write_text("x")
    for name in ("a.heic", "b.HEIC"):
        (tmp_path / "train/cat" / name).write_bytes(b"x")
    for name in ("c.jfif", "d.jpe"):
        (tmp_path / "train/cat" / name).write_bytes(encode("a.png", picture(9)))
    source = Files(tmp_path)
    assert len(source) == 5 and source[4]["image"].shape == (6, 4, 3)
    assert "2 pictures in formats that are not read (such as cat/a.heic)" in source.report
    assert "1 of other kinds (such as cat/notes.txt)" in source.report
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.heic").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"holds no example \(ignored: 1 pictures in formats that are not read .*a.heic"
    ):
        Files(tmp_path)


def test_links_that_lead_back_up_are_left(tmp_path):
    write("classes", tmp_path)
    (tmp_path / "train/cat/up").symlink_to("..")
    (tmp_path / "train/self").symlink_to(".")
    (tmp_path / "train/zebra").symlink_to("cat")
    source = Files(tmp_path)
    assert [source[i]["label"] for i in range(len(source))] == ["cat"] * 3 + ["zebra"] * 3
    assert "links that lead back up (such as cat/up)" in source.report


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_leads_out_is_refused(kind, tmp_path):
    folder = write(kind, tmp_path / "data")
    file = data_file_of(kind, folder)
    want = values(SOURCES[kind](folder))
    file.rename(tmp_path / "away")
    file.symlink_to(tmp_path / "away")
    with pytest.raises(
        ValueError, match=rf"{file.name}.*leads out of .*data: put the file there, or set data.options.out"
    ):
        values(SOURCES[kind](folder))
    assert values(SOURCES[kind](folder, outside=True)) == want
    file.unlink()
    (tmp_path / "away").rename(folder / "near")
    file.symlink_to(folder / "near")
    assert values(SOURCES[kind](folder)) == want


@pytest.mark.parametrize("kind", KINDS)
def test_a_relative_path_is_of_where_one_stands(kind, tmp_path, monkeypatch):
    want = values(SOURCES[kind](write(kind, tmp_path / "data")))
    monkeypatch.chdir(tmp_path)
    assert want and values(SOURCES[kind](Path("data"))) == want
    if kind in ("lines", "classes"):  # links inside, too
        file = next(Path("data").rglob("*.png"))
        file.rename("data/moved.bin")
        file.symlink_to(tmp_path / "data" / "moved.bin")
        assert values(SOURCES[kind](Path("data"))) == want


@pytest.mark.parametrize("name", ["../secret.png", "imgs/../../secret.png", "{absolute}", "link.png"])
def test_lines_do_not_name_files_outside(name, tmp_path):
    folder, secret = write("lines", tmp_path / "data"), tmp_path / "secret.png"
    secret.write_bytes(encode("a.png", picture(5)))
    (folder / "link.png").symlink_to(secret)
    name = name.format(absolute=secret)
    (folder / "train.jsonl").write_text(json.dumps({"image": name}) + "\n")
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: image='.*: leads out of .*data.options.outside=True"):
        Files(folder)[0]
    np.testing.assert_array_equal(Files(folder, outside=True)[0]["image"], picture(5))


def test_rows_do_not_name_files_outside(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data"
    folder.mkdir()
    for file in (folder / "in.png", tmp_path / "out.png"):
        file.write_bytes(encode("a.png", picture(3)))
    rows = [{"image": {"bytes": None, "path": name}} for name in ("in.png", "../out.png", None)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    np.testing.assert_array_equal(Parquet(folder)[0]["image"], picture(3))
    with pytest.raises(ValueError, match=r"train.parquet: row 1 of row group 0: image='../out.png': leads out of"):
        Parquet(folder)[1]
    assert "image" not in Parquet(folder)[2]
    np.testing.assert_array_equal(Parquet(folder, outside=True)[1]["image"], picture(3))


@pytest.mark.parametrize("name", ["../x.array_record", "/etc/passwd"])
def test_manifests_do_not_name_files_outside(name, tmp_path):
    folder = write("tokens", tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["splits"]["train"]["shards"][0]["file"] = name
    manifest["tokenizers"] = {"rgb": {"codes": {"file": name, "sha256": "0"}}}
    (tmp_path / "x.array_record").write_bytes(b"x")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for read in (SOURCES["tokens"], lambda path: read_codes(path, "rgb")):
        with pytest.raises(ValueError, match="leads out of"):
            read(folder)
    assert "leads out of" in check(folder)[0]


@pytest.mark.parametrize("special", ["pipe", "socket", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_and_not_waited_for(kind, special, tmp_path, monkeypatch):
    folder = write(kind, tmp_path)
    file = data_file_of(kind, folder)
    file.unlink()
    if special == "pipe":
        os.mkfifo(file)
    elif special == "folder":
        file.mkdir()
    else:
        monkeypatch.chdir(file.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(file.name)
    if (kind, special) == ("classes", "folder"):  # one more class, and empty
        assert len(Files(folder)) == 2
        return
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"{file.name}.*: a {special}, no file|has neither train/"
    ):
        SOURCES[kind](folder)


def test_a_line_names_no_pipe(tmp_path):
    folder = write("lines", tmp_path)
    (folder / "imgs/train1.png").unlink()
    os.mkfifo(folder / "imgs/train1.png")
    with pytest.raises(ValueError, match=r"line 2: image='imgs/train1.png': a pipe, no file; put a regular file there"):
        Files(folder)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_home_folder_is_meant(kind, tmp_path, monkeypatch):
    write(kind, tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert values(SOURCES[kind]("~/data")) == values(SOURCES[kind](tmp_path / "data"))
    assert SOURCES[kind].available("~/data") == ["train"]


def test_names_that_are_no_utf8(tmp_path):
    folder = write("classes", tmp_path / "files")
    os.rename(folder / "train/cat", os.fsencode(folder) + b"/train/\xff")
    source = Files(folder)
    assert source[0]["label"] == "\ufffd" and repr(source)
    folder = write("webdataset", tmp_path / "tars")
    file = data_file_of("webdataset", folder)
    with tarfile.open(file, "w") as tar:
        add(tar, "\udcff.txt", b"x")
        add(tar, ".\udcff.txt", b"x")
    source = SOURCES["webdataset"](folder)
    assert source[0]["txt"] == "x" and source._index.where(0).endswith("\ufffd")
    source.report.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_which_splits_there_are(kind, tmp_path):
    if kind == "tokens":
        small_sources.store(tmp_path, {s: [{"row": np.int64(0)}] for s in ("val", "train", "extra")})
        assert SOURCES[kind].available(tmp_path) == ["train", "extra", "val"]
        return
    for split in ("validation", "train", "test"):
        write(kind, tmp_path, split)
    assert SOURCES[kind].available(tmp_path) == ["train", "validation", "test"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SOURCES[kind].available(tmp_path / "nowhere")


def test_what_names_of_shards_say_of_splits(tmp_path):
    for name in ("test-of-time-train-0.tar", "my_val.tar", "trainer.tar", "other.tar"):
        (tmp_path / name).touch()
    assert find_splits(tmp_path, ".tar") == ["train", "val"]
    assert find_splits(f"{tmp_path}/{{split}}er.tar", ".tar") == ["train"]
    assert in_order(["test", "b", "val", "a", "train"]) == ["train", "a", "b", "val", "test"]
