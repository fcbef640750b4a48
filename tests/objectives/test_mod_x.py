"""Mod-X over phases: what a phase began with holds it, also when it is continued (formula: `test_targets.py`)."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import Built, losses
from vector_run import config, write_split

from configs.systems import mod_x
from pretrain import build
from pretrain.checkpoint import load_params
from pretrain.phases import split, stages, train_phases
from pretrain.step import example_keys, forward


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("one", "two")):
        for part, count in (("train", 32), ("val", 8)):
            write_split(folder / name, part, count, seed=i)
    return folder


def continual(data):
    """The system's objectives on vectors: a first domain, and one that is held to it."""
    edges = [dict(a="a", b="b")]
    c = config(data / "one", evals={}, batch_size=16, objectives=mod_x.objectives(edges, distilled=False))
    later = dict(
        objectives=mod_x.objectives(edges, distilled=True), references=dict(old=dict(reference="snapshot")),
        data=dict(path=str(data / "two")),
    )  # fmt: skip
    c.phases = [dict(name="first"), dict(name="second", **later)]
    return c


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert train_phases(continual(data), workdir)
    return workdir


def test_a_continued_phase_is_held_to_what_it_began_with(data, whole, tmp_path):
    """Trap: a snapshot that is taken anew where a run goes on is of another model."""
    copy = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(copy / "1_second" / "checkpoints" / "4")
    assert train_phases(continual(data), copy)
    found = [load_params(workdir / "1_second") for workdir in (whole, copy)]
    jax.tree.map(np.testing.assert_array_equal, *found)
    steps = losses(whole / "1_second")
    assert steps[4]["modx/a~b"] > steps[2]["modx/a~b"] > abs(steps[1]["modx/a~b"])


def test_what_has_not_changed_is_not_pulled(data, whole):
    """Where the model is its own snapshot the loss is 0, and so is its gradient."""
    _, (_, second) = split(continual(data))
    built = Built(second)
    params = load_params(whole / "0_first") | {"objective": {"modx": {}}}
    only = {"modx": built.objectives["modx"]}
    run = lambda p, old: forward(
        built.graphs, p, only, built.batch(), example_keys(0, 0, 16), train=True, references={"old": old}
    )[0]
    loss, grads = jax.value_and_grad(run)(params, params)
    assert abs(loss) < 1e-4 and max(np.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-4
    other = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    loss, grads = jax.value_and_grad(run)(params, other)
    assert loss > 1e-2 and max(np.abs(g).max() for g in jax.tree.leaves(grads)) > 1e-2
    still = jax.grad(run, argnums=1)(params, other)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(still)), "what was does not learn"


@pytest.mark.parametrize("arg", ["", "tiny"])
def test_every_phase_but_the_first_is_held(arg):
    c = mod_x.get_config(arg)
    every = [build.parse(phase) for _, phase in stages(c)]
    assert [bool(run.references) for run in every] == [False] + [True] * (2 if arg else 5)
    held = build.objectives(every[-1])["modx"]
    assert (held.coef, held.reduction, held.divergence, held.directions) == (20.0, "sum", "kl", "mean")
    assert held.target.scale == 1.0 and held.target.correct and held.scale({}) == jnp.float32(1)
    assert "modx" not in build.objectives(every[0])


def test_a_phase_without_a_snapshot_is_named(data):
    c = continual(data)
    del c.phases[1]["references"]
    with pytest.raises(ValueError, match=r"1_second: .*contrastive.target.model='old': no such model; there are on"):
        train_phases(c, data / "none")
