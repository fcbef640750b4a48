"""Training tokenizers: losses against NumPy, and codebooks that follow the batch alike on any mesh and accumulation."""

import jax
import laws
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import emoji_tokenizer
from pretrain import build, sharding
from pretrain.program import Program
from pretrain.step import accumulate, example_keys, forward, make_train_step

QUANTIZERS = ("vq", "residual", "lfq", "memcodes")


def config(name, **changes):
    """The emoji tokenizer at a sixteenth of the pixels, most codes dead at first."""
    c = emoji_tokenizer.get_config(f"rgb-{name}")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities]
    c.batch_size, c.optim.warmup, c.ema = 8, 1, 0.0
    for part in ("encoder", "decoder"):
        c.model[part].dim, c.model[part].patch = 16, 4
    if "size" in c.model.quantizer:
        c.model.quantizer.size = 24
    c.update(changes)
    return c


def pixels(c, seed=0):
    """A batch in which some images are missing, as different from each other as can be."""
    modalities = build.parse(c).modalities
    return tiny.batch(c.batch_size, seed, modalities)


def value_and_grad(built, batch, keys):
    return jax.jit(
        jax.value_and_grad(lambda p: forward(built.graph, p, built.objectives, batch, keys, train=True), has_aux=True)
    )


def held(params):
    return params["model"].get("quantizer", {})


@pytest.mark.parametrize("name", QUANTIZERS)
def test_accumulation_equals_the_undivided_batch(name):
    built, batch, keys = laws.Built(config(name)), pixels(config(name)), example_keys(0, 0, 8)
    run = value_and_grad(built, batch, keys)
    split = jax.jit(lambda p: accumulate(built.graph, p, built.objectives, batch, keys, 4))
    (loss, aux), grads = run(built.params)
    loss_4, aux_4, grads_4 = split(built.params)
    np.testing.assert_allclose(loss_4, loss, rtol=1e-5)
    laws.close_trees(aux, aux_4, 1e-5)  # terms, and the statistics that codebooks follow, renewals among them
    laws.close_trees(grads, grads_4, 1e-4)


@pytest.mark.parametrize("name", ["vq", "residual"])
def test_eight_devices_equal_one(name):
    made = {}
    for count, mesh in ((1, "ddp"), (8, "data=4,fsdp=2")):
        program = Program(build.parse(config(name, mesh=mesh)), jax.devices()[:count])
        with jax.set_mesh(program.mesh):
            state = program.place(program.fresh)
            for step in range(2):
                batch = sharding.place_batch(pixels(config(name), step), np.arange(8), 8, program.mesh)
                state, metrics = program.step(state, batch)
        made[count] = jax.device_get((state.params, metrics["terms"]))
    laws.close_trees(made[1][1], made[8][1], 1e-5)
    for name in held(made[1][0]):
        np.testing.assert_allclose(held(made[1][0])[name], held(made[8][0])[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["vq", "residual"])
def test_a_codebook_follows_its_statistics_and_nothing_else(name):
    c = config(name)
    c.optim.weight_decay = 0.5
    built, batch, keys = laws.Built(c), pixels(c), example_keys(0, 0, 8)
    before, quantizer = held(built.params), nnx.merge(built.graph, built.params["model"]).quantizer
    (_, (terms, statistics)), grads = value_and_grad(built, batch, keys)(built.params)
    still = {p for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.asarray(g).any()}
    assert {sharding.path_str(p) for p in still} == {f"model/quantizer/{n}" for n in before}
    assert set(statistics) == {"reconstruction"} and "reconstruction/commitment" in terms
    after = held(built.step(batch)[0].params)
    want = quantizer.update(statistics["reconstruction"])
    assert set(want) == set(before) == set(after)
    for key, value in want.items():
        np.testing.assert_allclose(after[key], value, atol=1e-5, err_msg=key)
        assert np.abs(np.asarray(after[key]) - np.asarray(before[key])).max() > 1e-3
    # The optimizer keeps nothing of them.
    program = Program(build.parse(c), jax.devices()[:1])
    shapes = {s.shape for s in jax.tree.leaves(program.state.opt_state)}
    assert not shapes & {np.shape(before["codebook"]), np.shape(before["counts"])}


def test_a_skipped_step_leaves_the_codebook():
    c = config("vq")
    built, batch = laws.Built(c), pixels(c)
    bad = jax.tree.map(np.copy, built.params)
    bad["model"]["encoder"]["patch_in"]["bias"][0] = np.nan
    step = jax.jit(make_train_step(built.graph, built.objectives, built.optimizer, seed=0))
    state, metrics = step(laws.init_state(bad, built.optimizer, ema=False), batch)
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, held(state.params), held(bad))


@pytest.mark.parametrize("name", ["lfq", "memcodes"])
def test_every_parameter_has_a_gradient(name):
    built, batch, keys = laws.Built(config(name)), pixels(config(name)), example_keys(0, 0, 8)
    _, grads = value_and_grad(built, batch, keys)(built.params)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads))
