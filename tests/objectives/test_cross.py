"""Every objective that compares examples: its terms by an independent NumPy writing, exact accumulation, any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import MODALITIES

from pretrain import sharding
from pretrain.models import network
from pretrain.models.parts import base, pool, project
from pretrain.models.passes import draw, evaluate, leaves
from pretrain.models.stream import Stream
from pretrain.objectives import contrastive, matryoshka, sigmoid, symile, triplet, uniformity
from pretrain.objectives.base import Context
from pretrain.objectives.corruptions import Numbers
from pretrain.objectives.edges import Edge
from pretrain.parameters import Roles, param, values, variables
from pretrain.step import accumulate, evaluate_objectives, example_keys

EDGES = (Edge("image", "caption", 3.0), Edge("image", "depth"))
TRIPLE, B, D = ("image", "depth", "caption"), 16, 8


class Bag(nnx.Module):
    """The least that can be embedded: vectors of tokens, and others that pass for an earlier layer."""

    def __init__(self):
        self.tables = param(jax.random.normal(jax.random.key(0), (2, len(MODALITIES), tiny.TEXT, D)))

    def __call__(self, given, *early, asked):
        if early:
            return given._replace(x=given.layers[:, 0])
        t = given.tokens
        last, first = (table[t.modality, t.ids] for table in self.tables[...])
        return Stream(last, t.valid, t.modality, t.position, layers=jnp.stack([first, last], 1))


@dataclasses.dataclass(frozen=True)
class BagConfig(base.Config):
    reads: tuple[str, ...] = ()
    dim: int = D

    depth = 2

    def make(self, build, rngs):
        return Bag()


BAGS = network.Config({
    "bags": BagConfig(), "pool": pool.Config(("bags",), D), "project": project.Config(("pool",), D, identity=True)
}, dtype="float32")  # fmt: skip
SPACE = Context(MODALITIES, network=network.describe(BAGS.parts, MODALITIES))


def bags():
    """A network that compiles in no time."""
    return network.Network(BAGS, MODALITIES, (), nnx.Rngs(0))


def soft(space=SPACE, **kw):
    return contrastive.Objective(space, edges=EDGES, grid_tokens=5, **kw)


MADE = {
    "contrastive": lambda: soft(),
    "contrastive in blocks": lambda: soft(block=2, label_smoothing=0.1),
    "sigmoid": lambda: sigmoid.Objective(SPACE, edges=EDGES),
    "sigmoid in a ring": lambda: sigmoid.Objective(SPACE, edges=EDGES, chunk=2),
    "triplet": lambda: triplet.Objective(SPACE, edges=EDGES),
    "hardest triplet": lambda: triplet.Objective(SPACE, edges=EDGES, negatives="hardest", block=2),
    "summed triplet": lambda: triplet.Objective(SPACE, EDGES, negatives="sum", directions="backward"),
    "random triplet": lambda: triplet.Objective(SPACE, EDGES, negatives="random", directions="forward"),
    "triplet of distances": lambda: triplet.Objective(SPACE, EDGES, negatives="others", distance=True, block=2),
    "uniformity": lambda: uniformity.Objective(SPACE, edges=EDGES, cross=0.5),
    "symile": lambda: symile.Objective(SPACE, group=TRIPLE),
    "symile, missing learned": lambda: symile.Objective(SPACE, group=TRIPLE, missing="learn", block=2),
    "symile of all pairs": lambda: symile.Objective(SPACE, group=TRIPLE, negatives="n2"),
    "matryoshka": lambda: matryoshka.Objective(SPACE, base=soft(), widths=(2, 4)),
    "2D matryoshka": lambda: nested(SPACE),
}


def nested(space):
    return matryoshka.Objective(space, base=soft(space), widths=(2, 4), layers=True, align=1.0)


def setup(name):
    one = MADE[name]()
    graph, model = nnx.split(bags())
    params = {"model": nnx.to_pure_dict(model), "objective": {"c": values(one.init(jax.random.key(3)))}}
    return one, graph, params, tiny.batch(B, missing=0.1), example_keys(0, 5, B)


def loss_and_grads(name, accum=1):
    one, graph, params, batch, keys = setup(name)
    if accum > 1:
        run = jax.jit(lambda p, b, k: accumulate({"online": graph}, p, {"c": one}, b, k, accum))
        loss, _, grads = run(params, batch, keys)
        return loss, grads
    run = jax.value_and_grad(
        lambda p, b, k: evaluate_objectives({"online": graph}, p, {"c": one}, b, k, train=True), has_aux=True
    )
    (loss, _), grads = jax.jit(run)(params, batch, keys)
    return loss, grads


def close(a, b, tolerance):
    a, b = jax.device_get((a, b))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        scale = max(np.abs(x).max(initial=0), 1e-2)
        np.testing.assert_allclose(x, y, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


# Forms of one loss that differ in memory alone pair what they are given in the same order: one of each is enough.
TWINS = ("contrastive in blocks", "sigmoid", "hardest triplet", "summed triplet")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MADE if n not in TWINS])
def test_accumulation_changes_nothing(name):
    loss, grads = loss_and_grads(name)
    assert np.isfinite(loss) and loss != 0
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["objective"])), "an objective's scalar learns nothing"
    assert np.asarray(grads["model"]["bags"]["tables"][0, 0]).any()
    close((loss, grads), loss_and_grads(name, accum=4), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive in blocks", "sigmoid in a ring", "symile, missing learned"])
def test_a_mesh_changes_nothing(name):
    """The losses alone are tested on three meshes in tests/ops."""
    loss, grads = loss_and_grads(name)
    one, graph, params, batch, keys = setup(name)
    model = variables(bags())
    roles = Roles({"model": model, "objective": {"c": one.init(jax.random.key(3))}})
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        run = jax.jit(
            jax.value_and_grad(
                lambda p, b, k: evaluate_objectives({"online": graph}, p, {"c": one}, b, k, train=True), has_aux=True
            ),
            in_shardings=(sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh), None),
        )
        (sharded, _), theirs = run(params, batch, keys)
    close((loss, grads), (sharded, theirs), 1e-5)


@pytest.mark.parametrize("name", [n for n in MADE if "block" not in n and "ring" not in n])
def test_weights_count_those_who_take_part(name):
    one, batch = MADE[name](), tiny.batch(B, seed=1, missing=0.3)
    weights = one.weights(tiny.data(one, batch, example_keys(0, 5, B)))
    has = {m: batch[m]["valid"].any(1) for m in TRIPLE}
    assert all(2 < h.sum() < B for h in has.values())
    if "symile" in name:
        count = (sum(has.values()) >= (2 if "learned" in name else 3)).sum()
        want = dict.fromkeys(TRIPLE, count)
    else:
        both = {e.name: (has[e.a] & has[e.b]).sum() for e in EDGES}
        variants = {"matryoshka": ("full", 2, 4), "2D matryoshka": ("full", "width", "layer", "both")}.get(name)
        want = {f"{e}@{v}": n for e, n in both.items() for v in variants} if variants else both
        if name == "uniformity":
            want = {
                f"{k} {e}": n if k == "align" else 1 for e, n in both.items() for k in ("align", "uniform", "cross")
            }
        if name == "2D matryoshka":
            want["align"] = sum(h.sum() for h in has.values())
    assert {k: float(w) for k, w in weights.items()} == want


def embedded(name, seed=0):
    """(objective, its own parameters, outputs) of random embeddings, some of them missing."""
    one, rng = MADE[name](), np.random.default_rng(seed)
    outputs = {}
    for m in one.embedded:
        x = rng.normal(size=(B, D))
        outputs["z", m] = jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
        outputs["shown", m] = tiny.shown(rng.random(B) < 0.8)
        outputs["draw", m] = jnp.float32(rng.random(B))
    return one, values(one.init(jax.random.key(0))), outputs


def totals(one, own, outputs):
    return one.totals(own, outputs, train=True, run=None)


def present(outputs, *names):
    return np.logical_and.reduce([np.asarray(outputs["shown", n].tokens.valid[:, 0]) for n in names])


def arrays(outputs, *names):
    return [np.asarray(outputs["z", n], np.float64)[present(outputs, *names)] for n in names]


def test_sigmoid_equals_numpy():
    one, own, outputs = embedded("sigmoid")
    for edge in EDGES:
        a, b = arrays(outputs, edge.a, edge.b)
        sign = 2 * np.eye(len(a)) - 1
        want = np.log1p(np.exp(-sign * (10 * a @ b.T - 10))).sum()
        np.testing.assert_allclose(totals(one, own, outputs)[edge.name], want, rtol=1e-5)


@pytest.mark.parametrize("name", ["triplet", "hardest triplet", "summed triplet"])
def test_triplet_equals_numpy(name):
    one, own, outputs = embedded(name)
    over = {"triplet": np.mean, "hardest triplet": np.max, "summed triplet": np.sum}[name]
    for edge in EDGES:
        a, b = arrays(outputs, edge.a, edge.b)
        s, total = a @ b.T, 0.0
        for i in range(len(s)):
            for scores in (s[:, i],) if name == "summed triplet" else (s[i], s[:, i]):  # backward: columns alone
                total += over(np.delete(np.maximum(0.2 + scores - s[i, i], 0), i))
        np.testing.assert_allclose(totals(one, own, outputs)[edge.name], total, rtol=1e-5)


@pytest.mark.parametrize("negatives, over", [("others", np.mean), ("hardest", np.min)])
def test_a_triplet_of_distances_equals_numpy(negatives, over):
    """M3PT's: of distances the mean of the others, or the nearest."""
    _, own, outputs = embedded("triplet")
    one = triplet.Objective(SPACE, EDGES, negatives=negatives, distance=True, margin=0.1)
    for edge in EDGES:
        a, b = arrays(outputs, edge.a, edge.b)
        d = np.linalg.norm(a[:, None] - b, axis=-1)
        total = sum(max(0.0, 0.1 + d[i, i] - over(np.delete(x, i))) for i in range(len(d)) for x in (d[i], d[:, i]))
        np.testing.assert_allclose(totals(one, own, outputs)[edge.name], total, rtol=1e-5)


def test_a_random_negative_is_another_present_example_and_every_one_is_used_once():
    one, own, outputs = embedded("random triplet")
    drawn = np.random.default_rng(5).random(B)
    outputs["draw"] = jnp.float32(drawn)
    for edge in EDGES:
        there = present(outputs, edge.a, edge.b)
        assert 2 < there.sum() < B
        ring = [i for i in np.argsort(drawn) if there[i]]
        a, b = (np.asarray(outputs["z", n], np.float64) for n in (edge.a, edge.b))
        pairs = list(zip(ring, ring[1:] + ring[:1]))
        total = sum(max(0.0, 0.2 + a[i] @ b[j] - a[i] @ b[i]) for i, j in pairs)
        np.testing.assert_allclose(totals(one, own, outputs)[edge.name], total, rtol=1e-5)
        far, d = dataclasses.replace(one, distance=True), lambda i, j, a=a, b=b: np.linalg.norm(a[i] - b[j])
        total = sum(max(0.0, 0.2 + d(i, i) - d(i, j)) for i, j in pairs)
        np.testing.assert_allclose(totals(far, own, outputs)[edge.name], total, rtol=1e-5)
    alone = outputs | {("shown", m): tiny.shown(np.arange(B) == 4) for m in one.embedded}
    assert not any(totals(one, own, alone).values())
    draws = [tiny.data(one, tiny.batch(B), example_keys(0, step, B))["draw"] for step in (0, 1)]
    assert len(np.unique(draws)) == 2 * B


def test_uniformity_equals_numpy():
    one, own, outputs = embedded("uniformity")
    got = totals(one, own, outputs)

    def potential(x, y):
        n = len(x)
        return np.log(np.mean([np.exp(-2 * np.sum((x[j] - y[k]) ** 2)) for j in range(n) for k in range(n) if j != k]))

    for edge in EDGES:
        a, b = arrays(outputs, edge.a, edge.b)
        np.testing.assert_allclose(got[f"align {edge.name}"], np.square(a - b).sum(), rtol=1e-5)
        uniform = (potential(a, a) + potential(b, b)) / 2
        np.testing.assert_allclose(got[f"uniform {edge.name}"], uniform, rtol=1e-5)
        np.testing.assert_allclose(got[f"cross {edge.name}"], potential(a, b), rtol=1e-5)
    assert [one.loss_weight(f"{k} image~caption") for k in ("align", "uniform", "cross")] == [0.75, 0.75, 0.375]


@pytest.mark.parametrize("name", ["symile", "symile of all pairs", "symile, missing learned"])
def test_symile_equals_numpy(name):
    one, own, outputs = embedded(name)
    scale = np.exp(float(own["log_scale"]))
    np.testing.assert_allclose(scale, D**0.5 / 0.07, rtol=1e-6)
    x, has = {}, {}
    for m in TRIPLE:
        x[m], has[m] = np.asarray(outputs["z", m], np.float64), present(outputs, m)
        if "learned" in name:
            v = np.asarray(own["missing"][m], np.float64)
            x[m] = np.where(has[m][:, None], x[m], v / np.linalg.norm(v))
    counted = sum(has.values()) >= (2 if "learned" in name else 3)
    rows = np.flatnonzero(counted)
    assert 3 < len(rows) < B or "learned" in name
    order = {m: np.argsort(np.asarray(outputs["draw", m])) for m in TRIPLE}
    for m in TRIPLE:
        p, q = (k for k in TRIPLE if k != m)
        total = 0.0
        for i in rows:
            own_score = scale * np.sum(x[m][i] * x[p][i] * x[q][i])
            if "pairs" in name:
                scores = [scale * np.sum(x[m][i] * x[p][j] * x[q][k]) for j in rows for k in rows]
            else:
                scores = [own_score]
                for j in range(B):
                    jp, jq = order[p][j], order[q][j]
                    if j != i and counted[jp] and counted[jq]:
                        scores.append(scale * np.sum(x[m][i] * x[p][jp] * x[q][jq]))
            total += np.log(np.exp(scores).sum()) - own_score
        np.testing.assert_allclose(totals(one, own, outputs)[m], total, rtol=2e-5)


def test_matryoshka_is_the_base_on_truncated_embeddings():
    one, own, outputs = embedded("matryoshka")
    got = totals(one, own, outputs)
    assert set(got) == {f"{e.name}@{v}" for e in EDGES for v in ("full", 2, 4)}
    for width in (2, 4):
        z = {m: outputs["z", m][:, :width] for m in one.embedded}
        cut = outputs | {("z", m): x / jnp.linalg.norm(x, axis=1, keepdims=True) for m, x in z.items()}
        for k, v in totals(soft(), own, cut).items():
            np.testing.assert_allclose(got[f"{k}@{width}"], v, rtol=1e-5)
    np.testing.assert_allclose(sum(one.loss_weight(k) for k in got), 1)


def test_2d_matryoshka_draws_one_width_and_one_layer_a_step():
    graph, params = nnx.split(tiny.model(embedded=("image", "caption", "depth"), encoder_depth=3))
    one, batch, seen = nested(tiny.context(encoder_depth=3)), tiny.batch(B, missing=0.1), set()
    nodes = one.passes(True)
    width, layer = (Numbers(("matryoshka", name), shared=True) for name in ("width", "layer"))
    assert {width, layer} == {n.make for n in leaves(nodes.values()) if isinstance(n.make, Numbers)}
    run = jax.jit(lambda k: (width(batch, k), layer(batch, k)))
    for step in range(40):
        u, v = run(example_keys(0, step, B))
        assert len(np.unique(u)) == len(np.unique(v)) == 1
        seen.add(((2, 4)[int(u[0] * 2)], int(1 + v[0] * 2)))
    assert seen == {(w, layer) for w in (2, 4) for layer in (1, 2)}
    # The early embedding is the one that a model of as many layers gives.
    keys = example_keys(0, 0, B)
    made = draw(nodes.values(), batch, keys) | {layer: jnp.zeros(B)}

    @jax.jit
    def embed(params):
        values = evaluate(nodes.values(), {"online": nnx.merge(graph, params)}, made, keys)
        return {m: (values[nodes["z", m]], values[nodes["early", m]]) for m in one.embedded}

    z, short = embed(params), nnx.to_pure_dict(params)
    short["encoder"]["blocks"] = jax.tree.map(lambda x: x[:1], short["encoder"]["blocks"])
    want = tiny.outputs(one.base, nnx.merge(graph, short), batch, keys)
    for name in one.embedded:
        np.testing.assert_allclose(z[name][1], want["z", name], atol=1e-5)
    # An example that lacks the modality has no part, whatever its embedding.
    present = batch["image"]["valid"].any(1)
    present = present & (np.arange(B) != np.argmax(present))
    last, early = (np.asarray(x, np.float64)[present] for x in z["image"])
    p, q = (np.exp(x / 0.3) / np.exp(x / 0.3).sum(1, keepdims=True) for x in (last, early))
    got = one._align(*z["image"], jnp.asarray(present))
    np.testing.assert_allclose(got, 0.3 * (p * np.log(p / q)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sigmoid.Objective(SPACE, EDGES, temperature=0.0), "objectives.sigmoid.temperature=0.0"),
        (lambda: sigmoid.Objective(SPACE, EDGES, chunk=-1), "objectives.sigmoid.chunk=-1"),
        (lambda: triplet.Objective(SPACE, EDGES, negatives="some"), "must be one of all, sum, hardest, mean, others"),
        (lambda: triplet.Objective(SPACE, EDGES, directions="up"), "directions='up': must be one of mean, sum"),
        (lambda: triplet.Objective(SPACE, EDGES, margin=0.0), "objectives.triplet.margin=0.0"),
        (lambda: uniformity.Objective(SPACE, EDGES, align=0.0, uniform=0.0), "all three coefficients are 0"),
        (lambda: symile.Objective(SPACE, TRIPLE[:1]), "at least two modalities"),
        (lambda: symile.Objective(SPACE, (*TRIPLE, "sound")), "no modality 'sound'"),
        (lambda: symile.Objective(SPACE, TRIPLE[:2], negatives="n2"), "n2 needs a group of three"),
        (lambda: symile.Objective(SPACE, TRIPLE, missing="zero"), "must be one of drop, learn"),
        (lambda: matryoshka.Objective(SPACE, soft(), ()), "list positive widths"),
        (lambda: matryoshka.Objective(SPACE, MADE["matryoshka"](), (2,)), "and not nested"),
        (lambda: matryoshka.Objective(SPACE, soft(), (2,), align=1.0), "needs layers=True"),
    ],
)  # fmt: skip
def test_config_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
