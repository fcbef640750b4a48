"""Tasks on data that are neither the run's nor tokens: webdataset tars and a TFDS builder of the same emoji."""

import dataclasses

import builders
import laws
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny
from tars import write_tar

from data_pipeline.sources.emoji import Source
from data_pipeline.spec import Modality
from pretrain import build
from pretrain.checkpoint import Checkpointer
from pretrain.evals import __main__ as program
from pretrain.evals import harness
from pretrain.step import TrainState

PICTURE = Modality(
    "render3d", "pixels", (32, 32, 3), "image", patch=16, targets=False, mean=(0.5,) * 3, std=(0.5,) * 3
)  # fmt: skip
FEATURES = {
    "image": tfds.features.Image(shape=(64, 64, 3)),
    "caption": tfds.features.Text(),
    "group": tfds.features.ClassLabel(names=["smileys & emotion", "people & body", "animals & nature", "flags"]),
}


class NoData:
    def get_state(self):
        return {}


def examples(split, count):
    source, names = Source(split), FEATURES["group"].names
    found = (source[i] for i in range(len(source)))
    held = [{"image": e["render3d"], "caption": e["name"]["en"], "group": e["group"]}
            for e in found if e["group"] in names]  # fmt: skip
    return held[:: len(held) // count][:count]


@pytest.fixture(scope="module")
def splits():
    return {"train": examples("train", 24), "test": examples("test", 12)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, token_store):
    """A tower for pictures and one for captions, untrained."""
    folder = tmp_path_factory.mktemp("run")
    c = tiny.emoji_run(token_store, terms=("contrastive",))
    caption = next(m for m in c.modalities if m["name"] == "caption") | {"field": "caption"}
    c.modalities = [dataclasses.asdict(PICTURE), caption]
    c.final_evals = dict(
        retrieval=dict(pairs=[("render3d", "caption")], splits=("test",)),
        knn=dict(modalities=["render3d"], labels=["group"], splits=("test",)),
    )
    (folder / "config.json").write_text(build.to_json(c))
    with Checkpointer(folder, last=1) as checkpointer:
        checkpointer.save(TrainState(np.asarray(1, np.int32), laws.Built(c).params, (), {}), NoData())
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, splits):
    folder = tmp_path_factory.mktemp("data")
    for split, held in splits.items():
        members = {}
        for i, e in enumerate(held):
            members |= {f"{i:04d}.png": e["image"], f"{i:04d}.json": {"caption": e["caption"], "group": e["group"]}}
        write_tar(folder / "tars" / f"{split}-000000.tar", members)
    builders.write(folder, "emoji", FEATURES, splits)
    return {"webdataset": folder / "tars", "tfds": folder / "emoji"}


@pytest.mark.parametrize("source", ["webdataset", "tfds"])
def test_a_source_holds_the_examples(source, workdir, data, splits):
    _, context = harness.open_run(workdir, data=dict(source=source, path=str(data[source])))
    want = {e["caption"]: e for e in splits["test"]}
    facts, (batch,) = context.facts("test"), context.batches("test", 12)
    assert {f["caption"] for f in facts.values()} == set(want) and batch["render3d"]["valid"].all()
    encode = build.encoder(context.run, train=False)
    for b, row in enumerate(batch["row"].tolist()):
        e = want[facts[row]["caption"]]
        assert facts[row]["group"] == e["group"]
        np.testing.assert_array_equal(
            batch["render3d"]["pixels"][b], encode(e | {"row": 0}, None)["render3d"]["pixels"]
        )


@pytest.mark.slow
def test_tasks_find_the_same_on_both(workdir, data, tmp_path):
    scores = []
    for source, path in data.items():
        found = program.run([workdir], ("retrieval", "knn"), data=dict(source=source, path=str(path)), out=tmp_path)
        scores.append({k: v["value"] for k, v in found["checkpoints"][0]["scores"].items()})
    assert scores[0].keys() == scores[1].keys() and any("group" in k for k in scores[0])
    for key, value in scores[0].items():
        assert scores[1][key] == pytest.approx(value, abs=1e-6), key
