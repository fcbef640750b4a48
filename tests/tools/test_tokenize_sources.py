"""Several sources tokenized by one command: a store of each, as if each had been made alone, through any kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_tokenize
from tars import picture, write_tar

from data_pipeline.image import apply_crop
from data_pipeline.sources.tokens import Source, read_manifest
from data_pipeline.transforms.crop import crop_settings
from pretrain import build
from pretrain.frozen import from_dict
from tools.tokenize import __main__ as program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folders of tars, of which the second calls its pictures otherwise and has no others, and the list of them."""
    folder = tmp_path_factory.mktemp("tars")
    for i in range(12):
        one, two = {f"{i:02d}.{k}.png": picture(10 * i + j) for j, k in enumerate(("image", "flat"))}, {}
        two[f"{i:02d}.photo.png"] = picture(i + 500)
        for name, members in (("first", one), ("second", two)):
            (folder / name).mkdir(exist_ok=True)
            write_tar(
                folder / name / f"{'val' if i > 8 else 'train'}-{i:02d}.tar", members | {f"{i:02d}.txt": f"n {i}"}
            )
    both = [
        dict(name="one", source="webdataset", path=str(folder / "first"), weight=3.0,
             modalities=["rgb", "flat", "txt"]),
        dict(name="two", source="webdataset", path=str(folder / "second"), fields={"image": "photo"},
             modalities=["rgb"], splits=["train"]),
    ]  # fmt: skip
    (folder / "sources.json").write_text(json.dumps(both))
    return folder


SHARED = ("--tokenizers=rgb=w/rgb,grey=w/grey", "--splits=train,val", "--crops=2", "--shard_size=4")


def run(monkeypatch, *arguments):
    toy_tokenize.install(monkeypatch.setattr)
    monkeypatch.setattr(sys, "argv", ["tokenize", *SHARED, *arguments])
    program.main()


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "stores"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, f"--sources={folder / 'sources.json'}", f"--out={out}")
    return out


def test_a_store_of_each(made, folder):
    assert sorted(f.name for f in made.iterdir()) == ["one", "two"]
    one, two = (read_manifest(made / name) for name in ("one", "two"))
    assert {s: a["count"] for s, a in one["splits"].items()} == {"train": 9, "val": 3}
    assert {s: a["count"] for s, a in two["splits"].items()} == {"train": 9}
    assert one["tokenizers"]["rgb"]["modalities"] == ["rgb", "flat"] and set(one["tokenizers"]) == {"rgb"}
    assert two["tokenizers"]["rgb"]["modalities"] == ["rgb"]
    tokenizer = toy_tokenize.ToyTokenizer("rgb")
    for i in range(9):
        first, second = Source(made / "one")[i], Source(made / "two")[i]
        assert first["txt"] == second["txt"] == f"n {i}" and set(first) - set(second) == {"flat"}
        # Crop 0 of 24 × 24 pictures is all of it.
        for got, seed in ((first["rgb"], 10 * i), (first["flat"], 10 * i + 1), (second["rgb"], i + 500)):
            assert got.shape == (2, 4)
            size = crop_settings(np.random.default_rng(i), 2, picture(seed).shape[:2], min_scale=0.8)
            whole = apply_crop(picture(seed), size[0], 8)
            np.testing.assert_array_equal(got[0], tokenizer.encode(whole[None])[0])


def test_a_store_is_what_it_would_be_alone(made, folder, tmp_path, monkeypatch):
    path = f"--path={folder / 'second'}"
    listed = json.loads((folder / "sources.json").read_text())[1:]
    (tmp_path / "alone.json").write_text(json.dumps(listed))
    run(monkeypatch, f"--sources={tmp_path / 'alone.json'}", f"--out={tmp_path / 'out'}")
    assert toy_tokenize.contents(tmp_path / "out" / "two") == toy_tokenize.contents(made / "two")
    # By --source, the other flag for one field, and no modality left out.
    with pytest.raises(ValueError, match="modality 'flat': field='flat' is unknown"):
        run(monkeypatch, "--source=webdataset", path, "--fields=rgb=photo", f"--out={tmp_path / 'single'}")


def test_killed_at_any_point_nothing_is_lost_or_doubled(made, folder, tmp_path):
    kills = [0, 2, *np.random.default_rng(1).integers(0, 22, 8).tolist()]
    done = subprocess.run(
        [sys.executable, "tests/toy_tokenize.py", *map(str, kills), "--", *SHARED,
         f"--sources={folder / 'sources.json'}", f"--out={tmp_path / 'out'}"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert ends.count(-signal.SIGKILL) >= 4 and ends[-1] == 0
    assert toy_tokenize.contents(tmp_path / "out") == toy_tokenize.contents(made)


def test_a_run_reads_them_as_a_mixture(made):
    parts = [dict(name=n, source="tokens", path=str(made / n), weight=w) for n, w in (("one", 3.0), ("two", 1.0))]
    data = from_dict(build.Data, dict(sources=parts), "config.data")
    source = build.source(data, "train")
    assert len(source) == 18 and source.shares == [0.75, 0.25] and source.fields >= {"rgb", "flat", "txt"}


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda parts: parts[1].pop("name"), SystemExit, r"their names are \['one', ''\]: each needs its own"),
        (lambda parts: parts[1].update(name="one"), SystemExit, r"their names are \['one', 'one'\]"),
        (lambda parts: parts[1].update(name="../x"), SystemExit, "that of a folder in --out"),
        (lambda parts: parts[1].update(feilds={}), ValueError, r"--sources\[1\].feilds=.*did you mean 'fields'"),
        (lambda parts: parts[1].update(fields={}), SystemExit, "'two': modality 'rgb': field='image' is unknown"),
        (lambda parts: parts[1].update(modalities=["x"]), SystemExit, r"'two': no tokenizer makes any of its modal"),
        (
            lambda parts: parts[1].update(options={"x": 1}),
            SystemExit,
            "'two': config.data.options.x=1: the source 'webdataset' takes outside",
        ),
        (lambda parts: parts.clear(), SystemExit, "must be a list of sources"),
    ],
    ids=["no name", "one twice", "no folder", "key", "field", "modality", "option", "empty"],
)
def test_mistakes_are_said_before_anything_is_written(folder, tmp_path, monkeypatch, change, error, message):
    parts = json.loads((folder / "sources.json").read_text())
    change(parts)
    (tmp_path / "sources.json").write_text(json.dumps(parts))
    with pytest.raises(error, match=message):
        run(monkeypatch, f"--sources={tmp_path / 'sources.json'}", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sources=nowhere.json"], "--sources=nowhere.json: not a file of JSON"),
        ([], "give --source, or --sources for several"),
        (["--source=emoji", "--sources=x.json"], "give --source, or --sources"),
        (["--sources=x.json", "--path=x"], "--path and --fields belong to --source"),
    ],
    ids=str,
)
def test_flags_that_do_not_go_together(tmp_path, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *arguments, f"--out={tmp_path / 'out'}")
