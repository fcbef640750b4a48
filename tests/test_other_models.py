"""Peers and teachers through the trainer: what learns, what is saved, and what is read again."""

import shutil

import jax
import numpy as np
import pytest
from laws import Built, close_trees, losses
from test_load import flat, resumes
from vector_run import config, write_split

from pretrain import build
from pretrain.checkpoint import load_params
from pretrain.models.passes import compute
from pretrain.restore import restore
from pretrain.step import example_keys, forward
from pretrain.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 32), ("val", 8)):
        write_split(folder, split, count)
        write_split(folder / "renamed", split, count, names=("x", "b"))
    return folder


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A workdir of towers `x` and `b`, of another width."""
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    c = config(data / "renamed", steps=2, seed=5, ema=0.5, model__embed_dim=6)
    c.modalities = [dict(name=n, kind="vectors", shape=(1, 4), field=n, targets=False) for n in ("x", "b")]
    c.model.towers = [dict(name=n, modalities=[n], depth=1, dim=8, heads=2) for n in ("x", "b")]
    c.objectives.contrastive.edges = [dict(a="x", b="b")]
    train(c, workdir)
    return workdir


def three(data, teacher, **changes):
    """What learns, a peer of another depth and a teacher, each with a loss of its own."""
    edge = [dict(a="a", b="b")]
    towers = [dict(name=n, modalities=[n], depth=1, dim=8, heads=2) for n in "abc"]
    return config(
        data, steps=4, batch_size=16, optim__weight_decay=0.5, models=dict(peer=dict(towers=towers)),
        references=dict(teacher=dict(reference="frozen", workdir=str(teacher), reads=dict(x="a"))),
        objectives={
            "contrastive": dict(edges=[dict(a="a", b=n) for n in "bc"]),
            "peers": dict(objective="contrastive", model="peer", edges=[dict(a="a", b=n) for n in "bc"]),
            "teachers": dict(objective="uniformity", model="teacher", edges=edge),
        },
        **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_what_learns_is_saved_and_what_does_not_is_read_again(data, teacher, tmp_path):
    c = three(data, teacher, ema=0.5, evals={})
    state = resumes(c, tmp_path)
    for kept in (state.params, state.references["average"], load_params(tmp_path / "whole")):
        assert set(kept["models"]) == {"peer"}
    assert not any("teacher" in p for p in flat(state.opt_state)) and any("peer" in p for p in flat(state.opt_state))
    held, start = flat(restore(tmp_path / "whole").params), flat(Built(c).params)
    for path, value in flat(restore(teacher).params["model"]).items():
        np.testing.assert_array_equal(held[f"models/teacher/{path}"], value, err_msg=path)
    for name in ("models/peer/a_project/kernel", "model/a_project/kernel"):
        path = next(p for p in held if p.startswith(name.removesuffix("kernel")) and p.endswith("kernel"))
        assert (held[path] != start[path]).any()
    rows = losses(tmp_path / "whole")
    assert rows[4]["peers/a~b"] != rows[4]["contrastive/a~b"]


def test_a_teacher_reads_what_the_run_calls_otherwise(data, teacher):
    """What it says is what it says in its own run, and it gives no gradient."""
    built, alone = Built(three(data, teacher)), restore(teacher)
    batch, params = built.batch(), built.params
    params = params | {"models": params["models"] | {"teacher": alone.params["model"]}}
    nodes = {n: alone.model.states.embedding(n, alone.model.states.shown(n)) for n in ("x", "b")}
    z = compute(alone.model, nodes, batch | {"x": batch["a"]})
    keys = example_keys(0, 0, 16)
    run = lambda p: forward(built.graphs, p, {"teachers": built.objectives["teachers"]}, batch, keys, train=True)
    (_, (terms, _)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    np.testing.assert_allclose(terms["teachers/align a~b"].total, np.square(z["x"] - z["b"]).sum(), rtol=1e-5)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads["model"]))


@pytest.mark.slow
@pytest.mark.parametrize("how", [dict(accum=2), dict(mesh="data=4,fsdp=2")], ids=str)
def test_accumulated_or_on_a_mesh(data, teacher, tmp_path, how):
    for name, more in (("one", {}), ("other", how)):
        train(three(data, teacher, evals={}, **more), tmp_path / name)
    one, other = (load_params(tmp_path / name) for name in ("one", "other"))
    close_trees(one, other, 1e-4)
    one, other = (losses(tmp_path / name) for name in ("one", "other"))
    for step in one:
        for key in ("loss", "peers/a~c", "teachers/align a~b"):
            np.testing.assert_allclose(other[step][key], one[step][key], rtol=1e-5)


def test_another_teacher_is_refused(data, teacher, tmp_path):
    copy = shutil.copytree(teacher, tmp_path / "copy")
    c = three(data, copy, evals={})
    train(c, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "2")
    with pytest.raises((ValueError, FileNotFoundError), match=r"config.references.teacher: workdir=.*copy"):
        train(c, tmp_path / "run")


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(reads=dict(y="a")), r"config.references.teacher.reads={'y': 'a'}: .* has the modalities x, b"),
        (dict(reads=dict(x="d")), r"config.references.teacher.reads={'x': 'd'}: this run has the modalities a, b, c"),
        (dict(store="int8"), r"config.references.teacher: store='int8': must be float32 or bfloat16"),
        (dict(workdir="/no/run"), r"config.references.teacher.workdir='/no/run': .*no config.json"),
        (dict(workdir=""), r"config.references.teacher: workdir='': name the workdir of a run"),
        (dict(reads={}), r"objectives.uniformity: the network gives no embedding of 'a', but of b;"),
    ],
    ids=str,
)
def test_bad_settings_are_named(data, teacher, change, error):
    c = three(data, teacher)
    for key, value in change.items():
        c.references.teacher[key] = value
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        Built(c)
    c = three(data, teacher)
    c.objectives.peers.model = "pear"
    with pytest.raises(
        ValueError, match=r"objectives.contrastive.model='pear': no such model; there are online, peer, t"
    ):
        Built(c)


@pytest.mark.parametrize(
    "peer, error",
    [
        (3, r"config.models.peer=3: give a dict of what differs"),
        (dict(model="models.no"), r"config.models.peer.model='no'"),
    ],
    ids=str,
)
def test_bad_peers_are_named(data, teacher, peer, error):
    """A peer may be of another file, which is looked for like any."""
    with pytest.raises((ValueError, ImportError, FileNotFoundError), match=error):
        build.objectives(build.parse(three(data, teacher).to_dict() | dict(models=dict(peer=peer))))
