"""References through the trainer: saved and restored with what learns, to the bit, and on a mesh as it is."""

import shutil

import jax
import numpy as np
import vector_run

from configs import emoji
from pretrain import build
from pretrain.program import Program
from pretrain.train import train

REFERENCES = dict(
    teacher=dict(reference="ema", momentum=0.5, schedule="cosine"), anchor=dict(reference="snapshot")
)  # fmt: skip


def config(tmp_path):
    for split, count in (("train", 32), ("val", 8)):
        vector_run.write_split(tmp_path / "data", split, count)
    return vector_run.config(tmp_path / "data", references=REFERENCES, ema=0.9)


def test_resumed_equals_uninterrupted(tmp_path):
    c = config(tmp_path)
    whole = train(c, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    resumed = train(c, tmp_path / "run")
    assert set(whole.references) == {"teacher", "anchor", "average"}
    jax.tree.map(np.testing.assert_array_equal, resumed._asdict(), whole._asdict())
    start = jax.jit(Program(build.parse(c)).init)()
    jax.tree.map(np.testing.assert_array_equal, whole.references["anchor"], start)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), whole.references["teacher"], whole.params)
    assert any(jax.tree.leaves(moved))


def test_a_reference_is_split_over_a_mesh_as_what_it_follows():
    c = emoji.get_config("tiny")
    with c.unlocked():
        c.mesh, c.references = "data=4,fsdp=2", REFERENCES
    layout = Program(build.parse(c)).layout
    for name in ("teacher", "anchor", "average"):
        assert jax.tree.leaves(layout.references[name]) == jax.tree.leaves(layout.params)
    assert any(any(s.spec) for s in jax.tree.leaves(layout.params))
