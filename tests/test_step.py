"""The train step on a network of one number a feature, whose losses and gradients are written down by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain import optim
from pretrain.objectives.base import Term
from pretrain.parameters import Roles, param, undecayed, variables
from pretrain.step import accumulate, example_keys, finite_parts, forward, init_state, make_train_step

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
BATCH = {"row": jnp.arange(8), "x": jnp.asarray(X)}


class Line(nnx.Module):
    def __init__(self):
        self.scale, self.bias = param(jnp.asarray([1.0, -2.0, 0.5])), undecayed(jnp.zeros(()))


class Mean:
    """The mean over examples of ⟨scale, x⟩² / 2, and of the step and a draw of every example."""

    coef = 2.0
    init, view = lambda self, key: {}, lambda self, batch, keys: batch
    weights, share = lambda self, view: {"a": jnp.float32(len(view["x"]))}, lambda self, name: 0.5

    def __init__(self):
        self.sizes = set()  # of the batches that pass through the network at a time

    def totals(self, model, own, view, keys, *, train):
        assert train
        self.sizes.add(len(keys))
        y = view["x"] @ model.scale[...]
        statistics = {"drawn": jax.vmap(jax.random.uniform)(keys).sum(), "step": view.get("step", jnp.zeros(1)).sum()}
        return {"a": 0.5 * jnp.square(y).sum(), "statistics": statistics}

    def update(self, model, params, statistics):
        return params | {"bias": statistics["step"] + params["bias"]}

    def summary(self, statistics):
        return {"drawn": statistics["drawn"]}


class Spread:
    """w times the sum of all products of two examples' embeddings, which no microbatch alone can tell."""

    coef, share = 0.3, lambda self, name: 1.0
    init, view = lambda self, key: {"w": jnp.float32(1.5)}, lambda self, batch, keys: batch["x"]
    weights = lambda self, view: {"b": jnp.float32(4.0)}
    embed = lambda self, model, own, view, keys: {"z": own["w"] * view @ model.scale[...]}
    pair = lambda self, own, z: {"b": own["w"] * z["z"].sum() * (z["z"] * jnp.arange(8)).sum()}


OBJECTIVES = {"mean": Mean(), "spread": Spread()}


ROLES = Roles({
    "model": variables(Line()), "objective": {"mean": {}, "spread": {"w": undecayed(jnp.float32(1.5))}}
})  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """(graph, parameters)"""
    graph, model = nnx.split(Line())
    return graph, {"model": nnx.to_pure_dict(model), "objective": {"mean": {}, "spread": {"w": jnp.float32(1.5)}}}


@pytest.mark.parametrize("accum", [1, 2, 8])
def test_the_loss_and_its_gradient_are_the_formulas(made, accum):
    graph, params = made
    keys = example_keys(0, 0, 8)
    if accum > 1:
        loss, (terms, statistics), grads = accumulate(graph, params, OBJECTIVES, BATCH, keys, accum)
    else:
        f = lambda p: forward(graph, p, OBJECTIVES, BATCH, keys, train=True)
        (loss, (terms, statistics)), grads = jax.value_and_grad(f, has_aux=True)(params)
    x, s, w, k = X.astype(np.float64), np.asarray([1.0, -2.0, 0.5]), 1.5, np.arange(8)
    y = x @ s
    a, b = (y**2).sum() / 2, w**3 * y.sum() * (k * y).sum()
    np.testing.assert_allclose(terms["mean/a"], (a, 8), rtol=1e-5)
    np.testing.assert_allclose(terms["spread/b"], (b, 4), rtol=1e-5)
    np.testing.assert_allclose(loss, a / 8 + 0.3 * b / 4, rtol=1e-5)
    by_scale = x.T @ y / 8 + 0.3 / 4 * w**3 * (x.sum(0) * (k * y).sum() + y.sum() * (k @ x))
    np.testing.assert_allclose(grads["model"]["scale"], by_scale, rtol=1e-4)
    np.testing.assert_allclose(grads["objective"]["spread"]["w"], 0.3 * 3 * b / w / 4, rtol=1e-4)
    drawn = sum(float(jax.random.uniform(key)) for key in keys)  # every example under its own key
    np.testing.assert_allclose(statistics["mean"]["drawn"], drawn, rtol=1e-5)


@pytest.mark.parametrize("accum", [1, 2])
def test_a_run_of_steps(made, accum):
    """The average, the number of the step that objectives see, what statistics set, and the norm of the gradient."""
    graph, params = made
    optimizer, mean = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES), Mean()
    objectives = {**OBJECTIVES, "mean": mean}
    step = jax.jit(make_train_step(graph, objectives, optimizer, seed=7, accum=accum, ema=0.25))
    state = init_state(params, optimizer, ema=True)
    jax.tree.map(np.testing.assert_array_equal, state.ema, params)
    average, bias = params, 0.0
    for i in range(6):
        _, _, grads = accumulate(graph, state.params, OBJECTIVES, BATCH, example_keys(7, i, 8), 2)
        state, metrics = step(state, BATCH)
        norm = sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(grads)) ** 0.5
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        drawn = sum(float(jax.random.uniform(key)) for key in example_keys(7, i, 8))
        np.testing.assert_allclose(metrics["terms"]["mean/drawn"], (drawn, 1), rtol=1e-5)
        bias += 8 * i
        np.testing.assert_array_equal(state.params["model"]["bias"], bias)
        decay = min(0.25, (1 + i) / (10 + i))  # 0.1, 0.18, 0.25, …
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, average)
        assert mean.sizes == {8 // accum} and state.step == i + 1
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == 0


def test_a_bad_step_changes_nothing_and_bad_ones_in_a_row_are_counted(made):
    graph, params = made
    optimizer = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES)
    step = jax.jit(make_train_step(graph, OBJECTIVES, optimizer, seed=7))
    state, counted = init_state(params, optimizer, ema=False), []
    for i, bad in enumerate((False, True, True, True, False, True)):
        batch = {**BATCH, "x": BATCH["x"].at[5, 1].set(np.inf if bad else 1.0)}
        after, metrics = step(state, batch)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params, state.params)
        assert same["model"]["scale"] == same["objective"]["spread"]["w"] == bad
        assert same["model"]["bias"] == (bad or not i) and after.step == i + 1 and after.ema is None
        counted.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
        state = after
    assert counted == [(0, 0), (1, 1), (2, 2), (3, 3), (3, 0), (4, 1)]


class Root(Mean):
    def totals(self, model, own, view, keys, *, train):
        return {"a": view["offset"].sum() + jnp.sqrt(view["root"].sum() * model.scale[0])}


@pytest.mark.parametrize("offset, root, good", [(0.0, 1.0, True), (np.inf, 1.0, False), (0.0, 0.0, False)])
def test_a_loss_or_a_gradient_alone_that_is_not_finite_is_enough(made, offset, root, good):
    graph, params = made
    optimizer = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES)
    step = make_train_step(graph, {"mean": Root(), "spread": OBJECTIVES["spread"]}, optimizer, seed=0)
    batch = {**BATCH, "offset": jnp.full(8, offset), "root": jnp.full(8, root)}
    after, metrics = step(init_state(params, optimizer, ema=False), batch)
    assert np.isfinite(metrics["loss"]) == (offset == 0) and np.isfinite(metrics["grad_norm"]) == (root == 1)
    assert metrics["skipped"] == (not good) and (after.params["model"]["scale"][0] != 1) == good


def test_keys_are_of_seed_step_and_place():
    draw = lambda *a: np.asarray(jax.vmap(jax.random.bits)(example_keys(*a)))
    every = np.concatenate([draw(0, 0, 8), draw(0, 1, 8), draw(1, 0, 8), draw(1, 1, 8)])
    assert len(np.unique(every)) == 32
    np.testing.assert_array_equal(draw(0, 3, 8)[:4], draw(0, 3, 4))


def test_what_is_not_finite_is_named():
    terms = {f"m/{name}": Term(jnp.float32(x), jnp.float32(1)) for name, x in (("a", 1), ("b", np.nan))}
    model = {"x": {"k": jnp.float32(1), "b": jnp.float32(np.inf)}, "y": jnp.float32(2)}
    squares = {"model": model, "objective": {"m": {}}}
    parts = {k: bool(v) for k, v in finite_parts(terms, squares).items()}
    assert parts == {"loss m/a": True, "loss m/b": False, "gradient of model/x": False, "gradient of model/y": True}
