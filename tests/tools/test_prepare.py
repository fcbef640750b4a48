"""Raw folder → tars: every step on a small folder, the same bytes with any workers, and what is refused."""

import io
import json
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from data_pipeline.duplicates import image_signature, images_near
from data_pipeline.image import edges
from data_pipeline.pseudo_labels import metadata, palettes
from data_pipeline.sources.emoji import Source as Emoji
from data_pipeline.sources.webdataset import Source
from tools.prepare.__main__ import main


def picture(seed, height=64, width=80):
    small = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write(folder, split, lines):
    """lines: (picture or bytes or None, other fields)."""
    out = []
    for number, (image, fields) in enumerate(lines):
        if image is not None:
            fields = fields | {"image": f"imgs/{split}{number}.png"}
            (folder / "imgs").mkdir(parents=True, exist_ok=True)
            file = folder / fields["image"]
            file.write_bytes(image) if isinstance(image, bytes) else Image.fromarray(image).save(file)
        out.append(json.dumps(fields) + "\n")
    (folder / f"{split}.jsonl").write_text("".join(out))
    return folder


def blurred(image):
    """The same picture after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=70)
    return np.asarray(Image.open(stream))


DROPPED = {
    "train": {
        8: ("exact duplicate", "train/000000002"),
        9: ("near duplicate", "train/000000003"),
        10: ("unreadable", None),
        11: ("exact contamination", "val/000000001"),
        12: ("near contamination", "test/000000000"),
        13: ("too small", None),
        14: ("aspect", None),
        15: ("text length", None),
    },
    "val": {3: ("near contamination", "test/000000001")},
    "test": {},
}
SIZES = {"train": 17, "val": 4, "test": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight good training examples; then each that DROPPED names; the last has no picture."""
    path = tmp_path_factory.mktemp("raw")
    train = [(picture(i), {"caption": f"number {i}", "id": i}) for i in range(8)]
    train[1][1]["caption"] = "a\x07 bell&nbsp;&amp;\n\ttab \u200bhttp://a.b/c cafe\u0301 <b>x</b>"
    train[5][1]["caption"] = ["first one", "x" * 300, "", "second  one"]
    train += [
        (picture(2), {"caption": "same"}),
        (blurred(picture(3)), {"caption": "near"}),
        (b"broken", {"caption": "?"}),
    ]
    train += [(picture(101), {}), (blurred(picture(200)), {}), (picture(20, 15, 18), {}), (picture(21, 32, 200), {})]
    train += [(picture(22), {"caption": "http://only.an/address"}), (None, {"caption": "no picture"})]
    val = [(picture(100 + i), {"caption": "val"}) for i in range(3)] + [(blurred(picture(201)), {})]
    write(path, "train", train)
    write(path, "val", val)
    return write(path, "test", [(picture(200), {}), (picture(201), {})])


FLAGS = ["--min_size=16", "--max_aspect=3", "--max_chars=200", "--resize=48", "--shard_size=6"]
LABELS = ["--label=palettes=palettes", "--label=lines=edges", "--label=metadata=metadata"]


def prepare(folder, out, *flags):
    pytest.importorskip("apache_beam")
    main([f"--path={folder}", f"--out={out}", *flags])
    system, path = fsspec.core.url_to_fs(str(out))
    files = [name for name in sorted(system.find(path)) if not name.endswith(".index.npz")]  # a reader's, beside tars
    return {name.removeprefix(path): system.cat(name) for name in files}


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    return out, prepare(folder, out, *FLAGS, *LABELS)


def read_lines(content: bytes):
    return [json.loads(line) for line in content.splitlines()]


def test_each_that_is_left_out_is_named_with_its_reason(made):
    _, files = made
    lines = read_lines(files["/dropped.jsonl"])
    found = {split: {int(d["key"]): (d["step"], d.get("of")) for d in lines if d["split"] == split} for split in SIZES}
    assert found == DROPPED
    reasons = {int(d["key"]): d["reason"] for d in lines if d["split"] == "train"}
    assert "train10.png" in reasons[10] and "not a readable image" in reasons[10]
    assert reasons[13] == "image: 15 pixels, and 16 are asked for" and reasons[14].startswith("image: 200 : 32, and")
    assert reasons[15] == "caption: 0 characters, and 1 … 200 are asked for"
    assert reasons[9] == "image: like that of train/000000003"


def test_the_report_adds_up(made):
    _, files = made
    report = json.loads(files["/report.json"])
    for split, size in SIZES.items():
        about = report["splits"][split]
        steps = [step for step, _ in DROPPED[split].values()]
        assert about["read"] == size and about["kept"] == size - len(steps)
        assert about["dropped"] == {step: steps.count(step) for step in sorted(steps)}
    assert report["splits"]["train"]["texts_removed"] == 2
    tars = {name[1:] for name in files if name.endswith(".tar")}
    assert tars == report["shards"].keys() and sum(name.startswith("train/") for name in tars) == 3
    assert sum(about["examples"] for about in report["shards"].values()) == 9 + 3 + 2
    assert not [name for name in files if "partial" in name] and "/contamination.jsonl" not in files


def test_what_is_kept_reads_as_webdataset(made, folder):
    out, _ = made
    source = Source(out, "train")
    examples = {e.get("id", "none"): e for e in (source[i] for i in range(len(source)))}
    assert len(source) == 9 and examples.keys() == {*range(8), "none"} and source.report == ""
    assert {"image", "caption", "id", "palettes", "lines", "metadata"} <= source.fields
    assert examples[1]["caption"] == "a bell & tab caf\u00e9 x" and examples["none"]["caption"] == "no picture"
    assert examples[5]["caption"] == ["first one", "second one"]
    for i in range(8):
        small = np.asarray(Image.fromarray(picture(i)).resize((60, 48), Image.Resampling.BICUBIC))
        assert examples[i]["image"].shape == (48, 60, 3)
        assert np.abs(examples[i]["image"].astype(int) - small).mean() < 4
        np.testing.assert_array_equal(examples[i]["lines"], edges(small))
        assert examples[i]["palettes"] == palettes(small)
        caption = examples[i]["caption"]
        expected = metadata(picture(i), caption if isinstance(caption, str) else caption[0])
        assert examples[i]["metadata"] == expected and expected["original_width"] == 80
    assert "metadata" not in examples["none"] and len(Source(out, ("val", "test"))) == 5


def test_a_second_run_writes_the_same_bytes(made, folder, tmp_path):
    again = prepare(folder, tmp_path / "again", *FLAGS, *LABELS)
    assert again == made[1]


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_four_workers_write_the_same_bytes(made, folder, tmp_path, mode, monkeypatch):
    # Beam starts its processes with the path of this one, which pytest has put together.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    workers = ["--direct_num_workers=4", f"--direct_running_mode={mode}"]
    assert prepare(folder, tmp_path / "four", *FLAGS, *LABELS, *workers) == made[1]


def test_what_is_made_is_not_made_again_nor_overwritten(made, folder, tmp_path, capsys):
    out, files = made
    assert prepare(folder, out, *FLAGS, *LABELS) == files and "is made already" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="was made with quality = 95, and this command says 90"):
        prepare(folder, out, *FLAGS, *LABELS, "--quality=90")
    with pytest.raises(SystemExit, match=r"tools.prepare did not make it"):
        prepare(folder, tmp_path)
    assert prepare(folder, out, *FLAGS, *LABELS) == files


def test_contamination_can_be_reported_only(folder, tmp_path, capsys):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "rest").write_text("of a run that was killed")
    flags = ["--contamination=report", "--format=png", "--splits=train,test"]
    flags += ["--direct_num_workers", "2", "--", "--known_to_my_runner=1"]
    files = prepare(folder, f"{tmp_path}/out/", *flags)
    assert "out.partial, which an earlier run did not finish" in capsys.readouterr().err
    found = {d["key"]: (d["step"], d["of"]) for d in read_lines(files["/contamination.jsonl"])}
    assert found == {"000000012": ("near contamination", "test/000000000")}
    assert json.loads(files["/report.json"])["splits"]["train"]["contamination_kept"] == {"near contamination": 1}
    dropped = {int(d["key"]) for d in read_lines(files["/dropped.jsonl"])}
    assert dropped == {8, 9, 10, 15} and len(Source(tmp_path / "out", "train")) == 13
    kept = Source(tmp_path / "out", "test")[0]["image"]
    np.testing.assert_array_equal(kept, picture(200))  # PNG, not resized
    assert "/rest" not in files and not (tmp_path / "out.partial").exists()


def test_texts_of_any_form_and_an_output_that_is_no_disk(tmp_path):
    text = "the quick brown fox jumps over the lazy dog while nobody in the whole wide village is looking at the sheep"
    lines = [{"caption": text}, {"caption": "other words"}, {"caption": f"{text}!"}, {"caption": f" {text}"}]
    lines += [{"caption": {"en": "other", "fr": "autre"}}, {"caption": 3}, {"caption": ["other", "autre"]}]
    lines += [{"caption": []}, {"caption": ""}, {"caption": []}, {"note": 3}]
    folder = write(tmp_path, "train", [(None, line) for line in lines])
    flags = ["--splits=train", "--exact=caption,note", "--near=caption"]
    files = prepare(folder, "memory://prepared/out", *flags)
    found = {int(d["key"]): (d["step"], d.get("of")) for d in read_lines(files["/dropped.jsonl"])}
    assert found == {
        2: ("near duplicate", "train/000000000"),
        3: ("exact duplicate", "train/000000000"),
        5: ("unreadable", None),
        6: ("exact duplicate", "train/000000004"),
        8: ("text length", None),
        10: ("unreadable", None),
    }
    assert list(files) == ["/dropped.jsonl", "/report.json", "/train/00000.tar"]
    assert files == prepare(folder, tmp_path / "disk", *flags)


def read_all(source):
    return [source[i] for i in range(len(source))]


def test_other_sources_and_fields(tmp_path):
    flags = ["--source=emoji", "--path=", "--splits=val,test", "--image=render3d", "--texts=name,keywords"]
    flags += ["--exact=line", "--near=render3d", "--bits=8", "--levels=20", "--resize=32", "--maps=mask"]
    files = prepare("", tmp_path / "out", *flags)
    source = Source(tmp_path / "out", "test")
    example = source[0]
    assert example["render3d"].shape == (32, 32, 3) and example["name"]["en"] and example["keywords"]
    assert example["mask"].shape == (32, 32, 1)
    originals = [(split, row, e) for split in ("val", "test") for row, e in enumerate(read_all(Emoji(split)))]
    same = next(e for _, _, e in originals if e["id"] == example["id"])
    values = np.asarray(Image.fromarray(same["mask"][..., 0]).resize((32, 32), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(example["mask"][..., 0], values)

    # Of near duplicates, all against all.
    signatures = np.stack([image_signature(e["render3d"]) for _, _, e in originals])
    like = images_near(signatures, signatures, 8, 20)
    near = {}
    for number, (split, row, _) in enumerate(originals):
        others = [originals[j][:2] for j in np.flatnonzero(like[number])]
        own = [f"{s}/{r:09d}" for s, r in others if s == split and r < row]
        later = [f"{s}/{r:09d}" for s, r in others if (split, s) == ("val", "test")]
        if own or later:
            near[split, f"{row:09d}"] = min(later or own)
    lines = read_lines(files["/dropped.jsonl"])
    exact = {(d["split"], d["key"]) for d in lines if d["step"].startswith("exact")}
    found = {(d["split"], d["key"]): d["of"] for d in lines if d["step"].startswith("near")}
    assert len(near) >= 15 and exact | near.keys() == exact | found.keys()
    assert found == {k: v for k, v in near.items() if k not in exact}


def test_pseudo_labels_of_a_network_that_fails_on_one_picture(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, shape = onnx.helper, (1, 3, 8, 8)
    nodes = [helper.make_node("Log", ["x"], ["l"]), helper.make_node("ReduceMean", ["l"], ["y"], axes=[1], keepdims=1)]
    value = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", (1, 1, 8, 8)))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "log.onnx")
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 256, size=(8, 8, 3), dtype=np.uint8) for _ in range(3)]
    images[1][2, 3] = 0  # log 0
    write(tmp_path, "train", [(image, {}) for image in images])
    flags = ["--splits=train", f"--label=depth=onnx:{tmp_path}/log.onnx?kind=map16&mean=0&std=1"]
    files = prepare(tmp_path, tmp_path / "out", *flags)
    (line,) = read_lines(files["/dropped.jsonl"])
    assert (line["key"], line["step"]) == ("000000001", "pseudo-label") and "no map of finite numbers" in line["reason"]
    source = Source(tmp_path / "out", "train")
    values = np.log(images[0] / 255).mean(-1)
    scaled = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(source[0]["depth"][..., 0], scaled * 255, atol=0.6)
    digest = json.loads(files["/report.json"])["plan"]["labels"]["depth"]["onnx"]
    assert len(digest) == 12 and len(source) == 2


def test_names_that_a_tar_cannot_hold(tmp_path):
    write(tmp_path, "train", [(picture(0), {"Other": "imgs/train0.png"})])
    with pytest.raises(Exception, match="'Other': a member of a tar is named in lower case"):
        prepare(tmp_path, tmp_path / "out", "--splits=train")


def test_what_a_killed_worker_left_is_not_kept(folder, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    from tools.prepare import pipeline

    run = pipeline.run

    def run_and_leave(*args):
        run(*args)
        (tmp_path / "out.partial" / "test" / "00000.tar.1f.partial").write_text("half")

    monkeypatch.setattr(pipeline, "run", run_and_leave)
    files = prepare(folder, tmp_path / "out", "--splits=test")
    assert list(files) == ["/dropped.jsonl", "/report.json", "/test/00000.tar"]


def test_nothing_left_is_no_output(folder, tmp_path):
    with pytest.raises(SystemExit, match=r"test: nothing is left; .*dropped.jsonl says why"):
        prepare(folder, tmp_path / "out", "--splits=test", "--min_size=1000")
    assert not (tmp_path / "out").exists()
    assert len((tmp_path / "out.partial" / "dropped.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--min_sise=3"], "--min_sise=3: no flag of tools.prepare or of Beam"),
        (["--near=picture"], "--near=picture: the source has caption, id, image"),
        (["--label=image=edges"], "--label=image=…: there is a field of this name already"),
        (["--label=edges"], "--label=edges: write FIELD=HOW"),
        (["--image=photo", "--label=e=edges"], "--image=photo: the source has"),
    ],
)
def test_flags_that_do_not_fit(folder, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        prepare(folder, tmp_path / "out", *flags)


def test_without_beam(tmp_path, monkeypatch, capsys):
    for name in ("apache_beam", "apache_beam.options.pipeline_options"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"needs Apache Beam .*pip install 'tokenloom\[beam\]'"):
        main([f"--out={tmp_path / 'out'}", f"--path={tmp_path}"])
    with pytest.raises(SystemExit) as e:
        main(["--help"])
    assert e.value.code == 0 and "--contamination" in capsys.readouterr().out
