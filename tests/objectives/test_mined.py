"""An objective that runs a part on rows that it makes of the outputs: a head that tells which pairs belong together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from laws import close_trees
from tiny import MODALITIES

from pretrain import sharding
from pretrain.models import network
from pretrain.models.parts import base
from pretrain.models.stream import mean
from pretrain.objectives.base import BATCH, weighted_sum
from pretrain.objectives.edges import Embedding
from pretrain.parameters import Roles, param, variables
from pretrain.step import accumulate, example_keys, forward

A, B, SIZE = "image", "caption", 16


class Match(nnx.Module):
    """⟨mean a, W mean b⟩ of the tokens of two streams."""

    def __init__(self, dim, rngs):
        self.kernel = param(jax.random.normal(rngs.params(), (dim, dim)))

    def __call__(self, a, b, asked):
        return jnp.einsum("bi,ij,bj->b", mean(a.x, a.counted), self.kernel[...], mean(b.x, b.counted))


@dataclasses.dataclass(frozen=True)
class MatchConfig(base.Config):
    gives = "logit"

    def make(self, build, rngs):
        return Match(build.width(self.reads[0]), rngs)


@dataclasses.dataclass(frozen=True)
class Matching(Embedding):
    """Whether two streams are of one example, for every pair and for the caption that looks most like it and is not:
    one whose embedding of the whole batch is the nearest."""

    embedded = (A, B)

    def init(self, key):
        return {}

    def passes(self, train):
        return super().passes(train) | {("stream", m): self.context.network.stream(m, self.shown(m)) for m in (A, B)}

    def weights(self, data):
        return {"match": self._both(data).sum().astype(jnp.float32)}

    def _both(self, data):
        present = self.present(data)
        return present[A] & present[B]

    def totals(self, params, outputs, *, train, run):
        both = self._both(outputs)
        likeness = jnp.where(both & ~jnp.eye(len(both), dtype=bool), outputs["z", A] @ outputs["z", B].T, -jnp.inf)
        negative = likeness.argmax(1)
        a = jax.tree.map(lambda x: jnp.concatenate([x, x]), outputs["stream", A])
        b = jax.tree.map(lambda x: jnp.concatenate([x, x[negative]]), outputs["stream", B])
        own, other = run("match", a, b).reshape(2, -1)
        return {"match": jnp.where(both, jax.nn.softplus(-own) + jax.nn.softplus(other), 0.0).sum()}

    def loss_weight(self, name):
        return 1.0


PARTS = tiny.config().compose(MODALITIES, (A, B)) | {"match": MatchConfig(("encoder", "encoder"))}
OBJECTIVES = {"m": Matching(dataclasses.replace(tiny.context(), network=network.describe(PARTS, MODALITIES)), coef=0.5)}
BATCH_OF, KEYS = tiny.batch(SIZE, missing=0.1), example_keys(0, 5, SIZE)


@pytest.fixture(scope="module")
def made():
    """(network, parameters)"""
    model = network.Network(network.Config(PARTS, dtype="float32"), MODALITIES, (), nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.split(tiny.perturbed(model))[1])
    return model, {"model": params, "objective": {"m": {}}}


@pytest.fixture(scope="module")
def whole(made):
    """(loss, gradient) of the undivided batch."""
    graph, _ = nnx.split(made[0])
    run = jax.value_and_grad(
        lambda p: forward({"online": graph}, p, OBJECTIVES, BATCH_OF, KEYS, train=True), has_aux=True
    )
    (loss, _), grads = jax.jit(run)(made[1])
    return loss, grads


def test_the_loss_equals_numpy(made, whole):
    """Row by row, from what the parts give of each example."""
    model = nnx.merge(nnx.split(made[0])[0], made[1]["model"])
    outputs = tiny.outputs(OBJECTIVES["m"], model, BATCH_OF, KEYS)
    z, x = (
        [np.asarray(outputs[k, m] if k == "z" else outputs[k, m].x, np.float64) for m in (A, B)]
        for k in ("z", "stream")
    )
    valid = [BATCH_OF[m]["valid"] for m in (A, B)]
    there = [i for i in range(SIZE) if valid[0][i].any() and valid[1][i].any()]
    assert 4 < len(there) < SIZE
    kernel, total = np.asarray(model.match.kernel[...]), 0.0
    score = lambda i, j: x[0][i][valid[0][i]].mean(0) @ kernel @ x[1][j][valid[1][j]].mean(0)
    for i in there:
        nearest = max((j for j in there if j != i), key=lambda j: z[0][i] @ z[1][j])
        total += np.log1p(np.exp(-score(i, i))) + np.log1p(np.exp(score(i, nearest)))
    np.testing.assert_allclose(whole[0], 0.5 * total / len(there), rtol=1e-5)
    for part in ("match", "encoder", "embed"):
        assert any(np.asarray(g).any() for g in jax.tree.leaves(whole[1]["model"][part])), part


@pytest.mark.slow
@pytest.mark.parametrize("accum", [2, 4])
def test_accumulation_changes_nothing(made, whole, accum):
    """The head sees a microbatch's worth of rows at a time, and mines among all of them."""
    graph, _ = nnx.split(made[0])
    loss, _, grads = jax.jit(lambda p: accumulate({"online": graph}, p, OBJECTIVES, BATCH_OF, KEYS, accum))(made[1])
    np.testing.assert_allclose(loss, whole[0], rtol=1e-5)
    close_trees(whole[1], grads, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("accum", [1, 4])
def test_eight_devices_equal_one(made, whole, accum):
    graph, params = nnx.split(made[0])[0], made[1]
    roles = Roles({"model": variables(made[0]), "objective": {"m": {}}})
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))

    def run(p, batch, keys):
        if accum > 1:
            loss, _, grads = accumulate({"online": graph}, p, OBJECTIVES, batch, keys, accum)
            return loss, grads
        (loss, _), grads = jax.value_and_grad(
            lambda p: forward({"online": graph}, p, OBJECTIVES, batch, keys, train=True), has_aux=True
        )(p)
        return loss, grads

    with jax.set_mesh(mesh):
        shardings = sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh), None
        loss, grads = jax.jit(run, in_shardings=shardings)(params, BATCH_OF, KEYS)
    np.testing.assert_allclose(loss, whole[0], rtol=1e-5)
    close_trees(whole[1], grads, 1e-5)


def test_it_compares_examples():
    one = OBJECTIVES["m"]
    assert one.scope == BATCH and weighted_sum(one, {"match": 6.0}, {"match": 3.0}) == 1.0
