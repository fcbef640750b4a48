"""Softmax InfoNCE against an independent NumPy writing, missing examples included; and the objective around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.objectives.contrastive import Edge, Objective
from pretrain.parameters import values
from pretrain.step import evaluate_objectives

B, D = 7, 5


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def numpy_info_nce(a, b, present, scale):
    """Drops the absent examples, then CLIP's two cross-entropies, summed over the examples that are left."""
    a, b = a[present], b[present]
    total = 0.0
    for i in range(len(a)):
        row, column = np.exp(scale * (b @ a[i])), np.exp(scale * (a @ b[i]))
        total += 0.5 * (-np.log(row[i] / row.sum()) - np.log(column[i] / column.sum()))
    return total


def objective(**changes):
    edges = (Edge("image", "caption", 3.0), Edge("image", "depth", 1.0))
    return Objective(**dict(context=tiny.context(), edges=edges, grid_tokens=5) | changes)


def test_loss_is_the_weighted_mean_over_edges():
    one, batch, keys = objective(coef=0.5), tiny.batch(8), jax.random.split(jax.random.key(0), 8)
    graph, params = nnx.split(tiny.model(embedded=one.embedded))
    own = values(one.init(jax.random.key(0)))
    np.testing.assert_allclose(own["log_scale"], np.log(1 / 0.07), rtol=1e-6)

    @jax.jit
    def run(p):
        return evaluate_objectives(
            {"online": graph}, {"model": p, "objective": {"c": own}}, {"c": one}, batch, keys, train=True
        )

    loss, terms = run(params)
    z = tiny.outputs(one, nnx.merge(graph, params), batch, keys)
    want = 0.0
    for edge in one.edges:
        present = batch[edge.a]["valid"].any(1) & batch[edge.b]["valid"].any(1)
        total = numpy_info_nce(*(np.asarray(z["z", e], np.float64) for e in (edge.a, edge.b)), present, 1 / 0.07)
        term = terms[f"c/{edge.a}~{edge.b}"]
        assert term.weight == present.sum() and 1 < present.sum() < 8
        np.testing.assert_allclose(term.total, total, rtol=1e-4)
        want += 0.5 * total / present.sum() * edge.weight / 4
    np.testing.assert_allclose(loss, want, rtol=1e-4)


def test_embeddings_are_unit_and_those_of_one_modality_alone():
    """Modalities that share an encoder call do not mix, and what an absent modality holds does not matter."""
    one, batch, keys = objective(grid_tokens=0), tiny.batch(8), jax.random.split(jax.random.key(0), 8)
    model = tiny.model(embedded=one.embedded)
    z = tiny.outputs(one, model, batch, keys)
    other = tiny.outputs(one, model, tiny.only(batch, depth=tiny.batch(8, seed=9)["depth"]), keys)
    for name in one.embedded:
        present = np.asarray(one.present(z)[name])
        assert (present == batch[name]["valid"].any(1)).all()
        np.testing.assert_allclose(np.linalg.norm(z["z", name], axis=1)[present], 1, atol=1e-4)
        assert np.allclose(z["z", name], other["z", name], atol=1e-6) == (name != "depth")


def test_thinned_grids_are_random_tokens_of_their_own_example():
    one, batch = objective(), tiny.batch(8, missing=0.0)
    views = [tiny.data(one, batch, jax.random.split(jax.random.key(seed), 8)) for seed in (0, 1)]
    position = [np.asarray(view["shown", "image"].tokens.position) for view in views]
    for view in views:
        tokens = jax.device_get(view["shown", "image"].tokens)
        assert tokens.ids.shape == (8, 5) and tokens.valid.all() and (np.diff(tokens.position) > 0).all()
        assert (tokens.ids == np.take_along_axis(batch["image"]["ids"], tokens.position, 1)).all()
    assert not np.array_equal(*position)
    assert len(np.unique(position[0], axis=0)) > 1
    assert view["shown", "caption"].tokens.ids.shape == (8, 10)


def compared(one, own, seed=0):
    rng = np.random.default_rng(seed)
    names = ("image", "caption")
    outputs = {("z", n): jnp.float32(unit(rng, B, D)) for n in names}
    outputs |= {("shown", n): tiny.shown(np.ones(B, bool)) for n in names}
    return float(one.totals(own, outputs, train=True, run=None)["image~caption"])


def test_temperatures_directions_and_smoothing():
    one = lambda **kw: objective(edges=(Edge("image", "caption"),), **kw)
    learned = one(temperature=0.5)
    assert compared(learned, values(learned.init(None))) == compared(one(temperature=0.5, learn="fixed"), {})
    linear = one(temperature=0.5, learn="linear", max_scale=0.0)
    assert values(linear.init(None)) == {"temperature": 0.5}
    np.testing.assert_allclose(
        compared(linear, values(linear.init(None))), compared(learned, values(learned.init(None))), rtol=1e-6
    )
    forward, backward, mean, both = (
        compared(one(learn="fixed", directions=d), {}) for d in ("forward", "backward", "mean", "sum")
    )
    assert forward != backward
    np.testing.assert_allclose([mean, both], [(forward + backward) / 2, forward + backward], rtol=1e-6)
    assert compared(one(learn="fixed", label_smoothing=0.1), {}) != mean
    np.testing.assert_allclose(compared(one(learn="fixed", block=7), {}), mean, rtol=1e-6)


def test_scale_is_clamped_at_100():
    one = objective(edges=(Edge("image", "caption"),))
    at, above, below = (compared(one, {"log_scale": jnp.float32(np.log(s))}) for s in (100.0, 5000.0, 50.0))
    assert at == above != below


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(edges=()), "list at least one pair"),
        (dict(edges=(Edge("image", "sound"),)), r"no modality 'sound'; the run has image"),
        (dict(edges=(Edge("image", "image"),)), "joins two modalities"),
        (dict(edges=(Edge("image", "depth", 0.0),)), "with a positive weight"),
        (dict(edges=(Edge("image", "depth"), Edge("image", "depth"))), "the same pair occurs twice"),
        (dict(temperature=0.0), "temperature=0.0: must be positive"),
        (dict(learn="yes"), "learn='yes': must be one of log, linear, raw, fixed"),
        (dict(directions="up"), "directions='up': must be one of mean"),
        (dict(label_smoothing=1.0), "label_smoothing=1.0"),
    ],
    ids=["no edge", "unknown", "loop", "weight", "twice", "temperature", "learn", "directions", "smoothing"],
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        objective(**changes)
