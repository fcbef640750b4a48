"""Raw examples to a token store: what a record holds, kills at any point, several processes, and what is broken."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_tokenize
from tars import picture, write_tar

from data_pipeline.image import BICUBIC, NEAREST, apply_crop, palette
from data_pipeline.sources.tokens import Source, read_codes, read_manifest
from data_pipeline.transforms.crop import crop_settings
from tools.tokenize import __main__ as program

ROOT = Path(__file__).parents[2]
BROKEN = 11  # of the training examples


def members(count, first=0, broken=()):
    """Pictures of 12 × 16 with a mask, a text and ids; every third lacks the mask."""
    out = {}
    for i in range(first, first + count):
        out[f"{i:04d}.png"] = b"text" if i in broken else picture(i, (12, 16))
        out[f"{i:04d}.flat.png"] = picture(1000 + i, (24, 32))
        out[f"{i:04d}.extra.png"] = picture(i)
        if i % 3:
            out[f"{i:04d}.mask.png"] = picture(i, (12, 16), 1) % 9
        out[f"{i:04d}.json"] = {"caption": f"number {i}"}
        out[f"{i:04d}.npy"] = np.full((2, 3), i, np.float32)
    return out


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    write_tar(folder / "train-0.tar", members(30, broken=[BROKEN]))
    write_tar(folder / "train-1.tar", members(15, 30))
    write_tar(folder / "val-0.tar", members(5, 100))
    return folder


def arguments(tars, out, *more):
    return ["--source=webdataset", f"--path={tars}", "--tokenizers=rgb=w/rgb,grey=w/grey", f"--out={out}",
            "--splits=train,val", "--crops=3", "--min_scale=0.5", "--flip=0.5", "--shard_size=10", *more]  # fmt: skip


def run(monkeypatch, tars, out, *more):
    toy_tokenize.install(monkeypatch.setattr)
    monkeypatch.setattr(sys, "argv", ["tokenize", *arguments(tars, out, *more)])
    program.main()


@pytest.fixture(scope="module")
def made(tars, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "tokens"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, tars, out)
    return out


def test_records(made):
    """Each against its own computation."""
    source = Source(made)
    numbers = [i for i in range(45) if i != BROKEN]
    assert len(source) == 44 and source.fields == {
        "row", "caption", "npy", "rgb", "flat", "mask", "palettes", "crop_settings"
    }  # fmt: skip
    rgb, grey = toy_tokenize.ToyTokenizer("rgb"), toy_tokenize.ToyTokenizer("grey")
    for index, i in enumerate(numbers):
        got = source[index]
        assert got["row"] == i and got["caption"] == f"number {i}" and ("mask" in got) == bool(i % 3)
        np.testing.assert_array_equal(got["npy"], np.full((2, 3), i, np.float32))
        settings = crop_settings(np.random.default_rng(i), 3, (24, 32), min_scale=0.5, flip=0.5)
        np.testing.assert_array_equal(got["crop_settings"], settings)
        crops = lambda image, how, settings=settings: np.stack(
            [apply_crop(image, s, 8, how, (24, 32)) for s in settings]
        )
        np.testing.assert_array_equal(got["rgb"], rgb.encode(crops(picture(i, (12, 16)), BICUBIC)))
        np.testing.assert_array_equal(got["flat"], rgb.encode(crops(picture(1000 + i, (24, 32)), BICUBIC)))
        assert got["rgb"].dtype == np.uint8 and got["rgb"].shape == (3, 4)
        if i % 3:
            np.testing.assert_array_equal(got["mask"], grey.encode(crops(picture(i, (12, 16), 1) % 9, NEAREST)))
            assert got["mask"].dtype == np.uint16
        half = apply_crop(picture(i, (12, 16)), np.array([0, 0, 12, 16, 0]), (6, 8))
        assert [p.tolist() for p in got["palettes"]] == [palette(half, n).tolist() for n in range(1, 8)]
    assert Source(made, "val")[0]["rgb"].shape == (1, 4), "held-out splits get the whole image"


def test_manifest_and_quarantine(made):
    manifest = read_manifest(made)
    assert [s["count"] for s in manifest["splits"]["train"]["shards"]] == [10, 9, 10, 10, 5]
    rgb = manifest["tokenizers"]["rgb"]
    assert rgb["digest"] == "digest of w/rgb" and rgb["modalities"] == ["rgb", "flat"] and rgb["vocab_size"] == 256
    assert rgb["specs"]["rgb"]["shape"] == [8, 8, 3] and manifest["licence"] == "not stated"
    np.testing.assert_array_equal(read_codes(made, "rgb")[:, 0], np.arange(256))
    assert read_codes(made, "grey") is None
    assert manifest["made"]["crop"] == {"min_scale": 0.5, "flip": 0.5}
    assert manifest["made"]["crops"] == 3 and manifest["made"]["source"]["val"].startswith("webdataset.Source(")
    (line,) = (made / "quarantine.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert (failure["split"], failure["index"]) == ("train", BROKEN)
    assert "train-0.tar: 0011.png: not a readable image" in failure["reason"]
    assert not list(made.rglob("*.partial"))


def test_a_finished_store_is_left_alone(made, tars, monkeypatch, capsys):
    before = toy_tokenize.contents(made)
    run(monkeypatch, tars, made)
    said = capsys.readouterr().out
    assert toy_tokenize.contents(made) == before and "\n0 examples in " in said and "train: 44 examples" in said
    assert "1 examples could not be read" in said and "left out, since no tokenizer reads them: extra" in said
    assert "rgb: " in said and "% of 256 codes used" in said


def test_killed_at_any_point_it_ends_the_same(made, tars, tmp_path):
    """SIGKILL at random records and renamings, ten times, then to the end: every byte is as without."""
    kills = [0, 3, *np.random.default_rng(0).integers(0, 25, 8).tolist()]
    done = subprocess.run(
        [sys.executable, "tests/toy_tokenize.py", *map(str, kills), "--", *arguments(tars, tmp_path / "out")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert ends[:2] == [-signal.SIGKILL] * 2 and ends.count(-signal.SIGKILL) >= 6 and ends[-1] == 0
    assert toy_tokenize.contents(tmp_path / "out") == toy_tokenize.contents(made)


def test_processes_share_the_work(made, tars, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tars, tmp_path / "out", "--process=1/3")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert "4 of 6 shards are still to be made by other processes" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no token store"):
        Source(tmp_path / "out")
    for process in ("0/3", "2/3"):
        run(monkeypatch, tars, tmp_path / "out", f"--process={process}")
    assert toy_tokenize.contents(tmp_path / "out") == toy_tokenize.contents(made)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--crops=4"], r"was begun with crops = 3, and this command says 4"),
        (["--shard_size=7"], "was begun with shard_size = 10"),
        (["--tokenizers=rgb=other/rgb,grey=w/grey"], r"tokenizers.rgb.digest = 'digest of w/rgb', and .* other/rgb'"),
        (["--fields=flat=image"], "was begun with tokenizers.rgb.specs.flat.field = 'flat', .* says 'image'"),
        (["--splits=train"], "was begun with splits.val"),
        (["--palette=none"], "was begun with palette = 'image', and this command says ''"),
    ],
    ids=str,
)
def test_another_command_is_refused(made, tars, monkeypatch, more, message):
    before = toy_tokenize.contents(made)
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, tars, made, *more)
    assert toy_tokenize.contents(made) == before


@pytest.mark.parametrize(
    "more, error, message",
    [
        (["--process=3/3"], SystemExit, "write i/n with i of 0 … n - 1"),
        (["--tokenizers=rgb"], SystemExit, "write NAME=VALUE"),
        (["--fields=depth=x"], SystemExit, "no tokenizer has a modality 'depth'; they have rgb, flat, mask"),
        (["--tokenizers=rgb=w/rgb,more=v/rgb"], SystemExit, "two of them have a modality of one name"),
        (["--fields=flat=flatt"], ValueError, "modality 'flat': field='flatt' is unknown: use one of caption, extra"),
        (["--splits=train,test"], ValueError, "split='test'"),
        (["--flip=2"], ValueError, r"flip=2.0 must be in \[0, 1\], a probability"),
    ],
    ids=str,
)
def test_mistakes_are_said_before_anything_is_written(tars, tmp_path, monkeypatch, more, error, message):
    with pytest.raises(error, match=message):
        run(monkeypatch, tars, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_too_many_failures_stop_it_and_it_goes_on(made, tars, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"more than --max_failures=0 .*quarantine.jsonl; the last: .*0011.png"):
        run(monkeypatch, tars, out, "--max_failures=0")
    assert (out / "quarantine.jsonl").read_text() == (made / "quarantine.jsonl").read_text()
    assert sorted(f.name for f in out.glob("*.array_record*")) == ["train-00000.array_record"]
    run(monkeypatch, tars, out)
    assert toy_tokenize.contents(out) == toy_tokenize.contents(made)


def test_a_full_disk_stops_it_and_it_goes_on(made, tars, tmp_path, monkeypatch):
    """The kernel refuses to let a file grow, as a full disk would."""
    out, before = tmp_path / "out", signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"train-00000.* be written .*disk full\?\n0 of 6 .*the same command"):
            run(monkeypatch, tars, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [f.name for f in out.rglob("*")] == ["plan.json"]
    run(monkeypatch, tars, out)
    assert toy_tokenize.contents(out) == toy_tokenize.contents(made)
