"""Pixel-Linguist's loss: against an independent NumPy writing; its traps; accumulation, any mesh; means of its runs."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from toy_run import write_run

from configs.systems import pixel_linguist
from pretrain.models.passes import draw, evaluate
from pretrain.phases import stages
from pretrain.restore import restore
from pretrain.step import Models, example_keys, forward
from tools import average

B, KEYS = 16, example_keys(0, 3, 16)


def config(seed=0):
    c = stages(pixel_linguist.get_config("tiny"))[0][1]
    c.model.parts, c.batch_size, c.seed = pixel_linguist.parts(dim=16, heads=2, depth=1), B, seed
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a text)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["other"]["valid"][3] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def test_the_loss_equals_numpy():
    objectives, graphs, params, batch = made()
    network, z = objectives["contrastive"].network, {}
    nodes = [network.stream(m, network.shown(m)) for m in ("text", "other")]
    run = lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes))
    norm = params["model"]["text_norm"]["norm"]
    for m, stream in zip(("text", "other"), jax.device_get(jax.jit(run)(params, batch))):
        rows = [np.float64(x)[there].mean(0) if there.any() else np.zeros(16) for x, there in zip(*stream[:2])]
        x = np.stack(rows)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        x = x * np.float64(norm["scale"]) + np.float64(norm["bias"])
        z[m] = (x / np.linalg.norm(x, axis=1, keepdims=True))[[i for i in range(B) if i != 3]]
    e = np.exp(z["text"] @ z["other"].T / 0.05)
    want = -np.mean(np.log(np.diag(e) / e.sum(0)) + np.log(np.diag(e) / e.sum(1))) / 2
    (loss, _), _ = undivided()
    np.testing.assert_allclose(loss, want, rtol=2e-5)


def test_no_scale_is_learned_and_every_part_has_a_gradient():
    assert made()[2]["objective"] == {"contrastive": {}}
    for part, tree in undivided()[1]["model"].items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


def test_patches_behind_a_text_are_no_part_of_its_mean():
    """Trap: padding that is averaged makes short texts alike."""
    objectives, graphs, params, batch = made()
    loss = jax.jit(lambda b: forward(graphs, params, objectives, b, KEYS, train=True)[0])
    text = batch["text"]
    other = text | {"vectors": jnp.where(text["valid"][..., None], text["vectors"], 0.7)}
    assert not text["valid"].all()
    np.testing.assert_array_equal(loss(batch | {"text": other}), loss(batch))


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    laws.same_gradients(laws.gradients(*made(), KEYS, **divided), undivided(), 2e-4)


def test_the_stages_take_turns_and_end_with_english():
    phases = [name for name, _ in stages(pixel_linguist.get_config())]
    assert [p.split("_")[1] for p in phases] == ["spans", "nli", "parallel", "nli", "parallel", "nli"]
    c = pixel_linguist.get_config("both")
    assert (c.steps, c.batch_size, c.optim.lr) == (1300, 768, 3e-6)
    assert c.load == pixel_linguist.get_config("typos").load, "a mean is of runs from one start"


def runs(folder, **seeds):
    """Workdirs of runs, each moved from where it started by a step of its own."""
    made = []
    for i, (name, seed) in enumerate(seeds.items()):
        (folder / name).mkdir()
        write_run(config(seed), folder / name, moved=0.25 * i)
        made.append(folder / name)
    return made


def test_the_mean_of_runs_is_a_run_to_start_from(tmp_path, capsys):
    given = runs(tmp_path, a=0, b=0, c=0)
    average.main([*map(str, given), f"--workdir={tmp_path / 'mean'}"])
    found, first = restore(tmp_path / "mean"), restore(given[0])
    assert found.step == 0 and "the mean of" in capsys.readouterr().out
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y + 0.25, rtol=1e-6, atol=1e-7), found.params, first.params)
    with pytest.raises(FileExistsError, match="mean is not empty"):
        average.average(tmp_path / "mean", given)


def test_only_runs_from_one_start_are_averaged(tmp_path):
    a, b = runs(tmp_path, a=0, b=1)
    with pytest.raises(ValueError, match=r"b: its seed differs from that of .*a: only runs of one network"):
        average.average(tmp_path / "mean", [a, b])
    with pytest.raises(ValueError, match="name at least two runs"):
        average.average(tmp_path / "mean", [a])
