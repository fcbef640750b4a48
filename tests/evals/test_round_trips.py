"""Boxes, label maps and depth of real emoji through the whole command: written as tokens, made, read and scored.

Boxes and maps come from silhouettes, depth is a blurred silhouette. Their tokens say exactly what they stand for, so an
oracle that makes the true ones must score as well as can be, and a network that hardly trained must not.
"""

import json

import cv2
import numpy as np
import pytest
import tiny
from conftest import toy_tokens
from toy_run import Toy

from configs import emoji
from data_pipeline.pictures import read_image
from data_pipeline.sources.emoji import Source
from data_pipeline.sources.tokens import Writer
from data_pipeline.structured import decode_detections, encode_detections
from data_pipeline.text import TextTokenizer
from pretrain.evals import __main__ as program
from pretrain.evals import generation
from pretrain.evals.base import Context
from pretrain.evals.page import as_text
from pretrain.train import train

pytest.importorskip("pycocotools", reason="pip install 'tokenloom[coco]'")

GROUPS = tuple(emoji.GROUPS)
GRIDS = {"noto": 1024, "tok_semseg": 10, "tok_depth": 256}
DET = dict(name="det", kind="sequence", shape=(40,), field="det", vocab="text", vocab_size=8000, tokenizer="text")


class Blocks:
    """Each id as a block of 8 × 8 pixels of its value."""

    def decode(self, ids):
        grey = np.asarray(ids).reshape(-1, 8, 8).clip(0, 255).astype(np.uint8)
        return grey.repeat(8, 1).repeat(8, 2)[..., None]


def annotate(example) -> dict:
    """Picture tokens, the boxes of the parts of the silhouette, and maps of classes and of depth as tokens."""
    inside = (read_image(example, "mask", None, 64) < 128).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside[..., 0])
    parts = sorted((s for s in stats[1:] if s[4] >= 9), key=lambda s: -s[4])[:3]
    boxes = [[x / 64, y / 64, (x + w) / 64, (y + h) / 64] for x, y, w, h, _ in np.asarray(parts).tolist()]
    small = cv2.resize(inside * 255, (8, 8), interpolation=cv2.INTER_AREA)
    segments = np.where(small > 127, 1 + GROUPS.index(example["group"]), 0)
    depth = cv2.GaussianBlur(small, (3, 3), 0).astype(int).clip(1, 255)
    return {
        "row": example["row"], "group": example["group"],
        "noto": toy_tokens(read_image(example, "noto", None, 64))[None],
        "tok_semseg": segments.astype(np.int16).reshape(1, 64), "tok_depth": depth.astype(np.int16).reshape(1, 64),
        "det": {"boxes": boxes, "classes": [example["group"]] * len(boxes)},
        "segments": Blocks().decode(segments)[0],
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("annotated")
    about = {n: dict(workdir="none", digest=n, vocab_size=v, shape=[8, 8], modalities=[n]) for n, v in GRIDS.items()}
    writer = Writer(path, tokenizers=about, licence="see data_pipeline/emoji_corpus/LICENSES")
    for split, count in (("train", 64), ("val", 8), ("test", 16)):
        source = Source(split)
        every = len(source) // count
        writer.write_split(split, (annotate(source[i * every]) for i in range(count)))
    writer.close()
    return path


@pytest.fixture(scope="module")
def workdir(store, tmp_path_factory):
    """Three steps on them."""
    c = tiny.emoji_run(store, terms=("masked",))
    c.modalities = [
        dict(name=n, kind="grid", shape=(8, 8), field=n, vocab=n, vocab_size=v, tokenizer=n) for n, v in GRIDS.items()
    ] + [DET]
    every = dict.fromkeys([*GRIDS, "det"], 1.0)
    c.objectives.masked.mixture = [dict(inputs=every, targets=every)]
    c.steps, c.batch_size, c.final_evals = 3, 8, {}
    path = tmp_path_factory.mktemp("runs") / "run"
    train(c, path)
    return path


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch):
    monkeypatch.setattr(Context, "tokenizers", dict.fromkeys(GRIDS, Blocks()) | {"noto": Toy()})


class Oracle:
    """Makes what is true."""

    def __init__(self, *_):
        pass

    def __call__(self, batch, given, targets, **_):
        return {t.name: batch[t.name] for t in targets}


def evaluate(workdir, out) -> dict:
    """{name: {"value", "chance", "untrained"}} of the generation task, and what the command prints."""
    found = program.run([workdir], ("generation",), out=out)
    written = json.loads((out / "eval.json").read_text())["checkpoints"][0]["scores"]
    return {n.removeprefix("generation/"): s for n, s in written.items()}, as_text(found)


def test_boxes_survive_the_tokenizer(store):
    """Through the text of `structured`, ids and words back to boxes, to half a bin."""
    source, tokenizer, several = Source("train"), TextTokenizer(), 0
    for i in range(0, 1300, 50):
        det = annotate(source[i])["det"]
        text = encode_detections(det["boxes"], det["classes"])
        ids = tokenizer.encode(text, DET["shape"][0])
        boxes, names = decode_detections(tokenizer.decode(ids, sentinels=False))
        assert names == det["classes"] and len(ids) < DET["shape"][0]
        order = np.argsort(np.square(np.asarray(det["boxes"])[:, :2]).sum(1), kind="stable")
        np.testing.assert_allclose(boxes, np.asarray(det["boxes"])[order], atol=0.51 / 999)
        several += len(boxes) > 1
    assert several > 2


@pytest.mark.slow
def test_an_oracle_scores_as_well_as_can_be_and_a_beginner_does_not(workdir, tmp_path, monkeypatch):
    beginner, _ = evaluate(workdir, tmp_path / "beginner")
    monkeypatch.setattr(generation, "Generator", Oracle)
    oracle, said = evaluate(workdir, tmp_path / "oracle")
    best = {"noto→tok_semseg/miou", "noto→tok_depth/delta1", "noto→det/ap"}
    assert best <= oracle.keys() and oracle.keys() == beginner.keys()
    for name in best:
        assert oracle[name]["value"] == pytest.approx(1.0, abs=1e-9), name
        assert 0 <= oracle[name]["chance"] < 0.9 and 0 <= beginner[name]["value"] < 0.9, name
        assert f"generation/{name}" in said


@pytest.mark.slow
def test_against_the_fields_that_the_tokens_were_made_of(workdir, tmp_path, monkeypatch):
    """The label map itself instead of its tokens, and both metrics of depth that fall to 0."""
    monkeypatch.setattr(generation, "Generator", Oracle)
    pairs = [("noto", "tok_semseg", "miou@segments"), ("noto", "tok_depth", "rmse"), ("noto", "tok_depth", "absrel")]
    monkeypatch.setattr(generation.Evaluator, "default", staticmethod(lambda _: dict(pairs=pairs, splits=("test",))))
    oracle, said = evaluate(workdir, tmp_path / "out")
    assert {n: s["value"] for n, s in oracle.items()} == {
        "noto→tok_semseg/miou@segments": 1.0, "noto→tok_depth/rmse": 0.0, "noto→tok_depth/absrel": 0.0,
    }  # fmt: skip
    assert all(0 < s["chance"] != s["value"] for s in oracle.values()) and "miou@segments" in said
