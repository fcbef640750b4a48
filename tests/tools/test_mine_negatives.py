"""From an embedder to a folder of its hard negatives, which a run reads; what is refused."""

import json

import numpy as np
import pytest
from toy_run import write_run

from configs import embedder_common as embedder
from configs.common import image, text
from configs.systems import mm_embed
from data_pipeline.sources import files
from pretrain import build
from tools import mine_negatives


def config(arg="tiny"):
    c = mm_embed.get_config(arg)
    size = dict(dim=8, heads=2, depth=1)
    c.modalities = [image(32, 16, field="image"), text(12, field="text")]
    c.model.parts = embedder.parts(size, size, length=16)
    return c


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """(the folder, what was printed) of the held-out emoji."""
    workdir, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("mined")
    write_run(config(), workdir)
    args = [f"--checkpoint={workdir}", f"--path={folder}", "--split=val", "--top=30", "--below=20"]
    mine_negatives.main(args)
    return workdir, folder, args


def test_a_line_holds_an_example_and_its_negatives(mined):
    _, folder, _ = mined
    source = build.source(build.parse(config()).data, "val")
    lines = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    assert len(lines) == len(source)
    for number in (0, 200, 300, len(lines) - 1):
        line, example = lines[number], source[number]
        assert line["instruction"] == example["instruction"] and line.get("text") == example.get("text")
        assert line.get("text/positive") == example.get("text/positive")
        assert ("image" in line, "image/positive" in line) == ("image" in example, "image/positive" in example)


def test_negatives_are_of_either_kind_and_never_the_answer(mined):
    lines, kinds = [json.loads(line) for line in (mined[1] / "val.jsonl").read_text().splitlines()], set()
    for line in lines:
        for i in (1, 2):
            found = {f for f in ("text", "image") if f"{f}/negative{i}" in line}
            assert len(found) <= 1, "what is asked for is a text or a picture"
            for f in found:
                assert line[f"{f}/negative{i}"] != line.get(f"{f}/positive")
                kinds.add(f"{f}/positive" in line)
    assert kinds == {True, False}


def test_what_was_mined_is_read_as_it_was(mined, tmp_path):
    _, folder, _ = mined
    held, source = files.Source(folder, "val"), build.source(build.parse(config()).data, "val")
    for number in (0, 200, 300):
        want = source[number]
        for field in ("image", "image/positive"):
            if field in want:
                np.testing.assert_array_equal(held[number][field], want[field])
    c = config("tiny_hard")
    c.data.sources = [dict(source="files", path=str(folder), weight=1.0)]
    run = build.parse(c)
    encode = build.encoder(run, train=True)
    source = build.source(run.data, "val")
    batch = [encode(encode.read(source, i), np.random.default_rng(0)) for i in range(0, 500, 25)]
    assert (
        {bool(b["image"]["valid"]) for b in batch}
        == {bool(b["image/positive"]["valid"]) for b in batch}
        == {True, False}
    )
    there = [b["image/negative1"]["valid"].any() or b["text/negative1"]["valid"].any() for b in batch]
    assert all(b["text"]["valid"].any() for b in batch) and np.mean(there) > 0.8


def test_what_it_cannot_mine_is_named(mined, tmp_path):
    workdir, _, args = mined
    with pytest.raises(ValueError, match=r"--path=.*val.jsonl is there already; name another folder"):
        mine_negatives.main(args)
    other = [f"--checkpoint={workdir}", f"--path={tmp_path}", "--split=val"]
    with pytest.raises(ValueError, match=r"mine_negatives.part='last': name a part that embeds"):
        mine_negatives.main([*other, "--part=last"])
    with pytest.raises(ValueError, match="below=50, top=50: must be 0 ≤ below < top"):
        mine_negatives.main([*other, "--below=50"])
    c = config()
    c.data = dict(source="emoji")
    c.objectives = dict(contrastive=dict(edges=[dict(a="image", b="text")]))
    c.modalities = [image(32, 16, field="noto"), text(12, field="name:en")]
    c.final_evals = dict()
    (plain := tmp_path / "plain").mkdir()
    write_run(c, plain)
    with pytest.raises(ValueError, match=r"its data are no tasks: no transform"):
        mine_negatives.main([f"--checkpoint={plain}", f"--path={tmp_path}"])
