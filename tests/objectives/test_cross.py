"""Every objective that compares examples: its terms by an independent NumPy writing, exact accumulation, any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import MODALITIES

from pretrain import sharding
from pretrain.models.states import States
from pretrain.objectives import contrastive, matryoshka, sigmoid, symile, triplet, uniformity
from pretrain.objectives.base import Context
from pretrain.objectives.edges import Edge
from pretrain.parameters import Roles, param, values, variables
from pretrain.step import accumulate, evaluate_objectives, example_keys

EDGES = (Edge("image", "caption", 3.0), Edge("image", "depth"))
TRIPLE, B, D = ("image", "depth", "caption"), 16, 8


SPACE = Context(MODALITIES, network=States(embed_dim=D))


def soft(**kw):
    return contrastive.Objective(Context(MODALITIES), edges=EDGES, grid_tokens=5, **kw)


MADE = {
    "contrastive": lambda: soft(),
    "contrastive in blocks": lambda: soft(block=2, label_smoothing=0.1),
    "sigmoid": lambda: sigmoid.Objective(SPACE, edges=EDGES),
    "sigmoid in a ring": lambda: sigmoid.Objective(SPACE, edges=EDGES, chunk=2),
    "triplet": lambda: triplet.Objective(SPACE, edges=EDGES),
    "hardest triplet": lambda: triplet.Objective(SPACE, edges=EDGES, negatives="hardest", block=2),
    "summed triplet": lambda: triplet.Objective(SPACE, EDGES, negatives="sum", directions="backward"),
    "random triplet": lambda: triplet.Objective(SPACE, EDGES, negatives="random", directions="forward"),
    "uniformity": lambda: uniformity.Objective(SPACE, edges=EDGES, cross=0.5),
    "symile": lambda: symile.Objective(SPACE, group=TRIPLE),
    "symile, missing learned": lambda: symile.Objective(SPACE, group=TRIPLE, missing="learn", block=2),
    "symile of all pairs": lambda: symile.Objective(SPACE, group=TRIPLE, negatives="n2"),
    "matryoshka": lambda: matryoshka.Objective(SPACE, base=soft(), widths=(2, 4)),
    "2D matryoshka": lambda: matryoshka.Objective(
        Context(MODALITIES), base=soft(), widths=(2, 4), layers=True, align=1.0
    ),
}


class Bags(nnx.Module):
    """The least that can be embedded: a normalised sum of a modality's token vectors; compiles in no time."""

    def __init__(self, names):
        keys = jax.random.split(jax.random.key(0), 2 * len(names))
        self.tables = nnx.Dict({n: param(jax.random.normal(k, (2, tiny.TEXT, D))) for n, k in zip(names, keys)})

    def embed(self, tokens, dense, *, early=None):
        z = {}
        for name, t in tokens.items():
            sums = [jnp.where(t.valid[..., None], table[t.ids], 0.0).sum(1) for table in self.tables[name][...]]
            units = [x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6) for x in sums]
            z[name] = units[0] if early is None else tuple(units)
        return z


def setup(name, model=None):
    one = MADE[name]()
    graph, model = nnx.split(model or Bags(one.embedded))
    params = {"model": nnx.to_pure_dict(model), "objective": {"c": values(one.init(jax.random.key(3)))}}
    return one, graph, params, tiny.batch(B, missing=0.1), example_keys(0, 5, B)


def loss_and_grads(name, accum=1):
    one, graph, params, batch, keys = setup(name)
    if accum > 1:
        run = jax.jit(lambda p, b, k: accumulate(graph, p, {"c": one}, b, k, accum))
        loss, _, grads = run(params, batch, keys)
        return loss, grads
    run = jax.value_and_grad(lambda p, b, k: evaluate_objectives(graph, p, {"c": one}, b, k, train=True), has_aux=True)
    (loss, _), grads = jax.jit(run)(params, batch, keys)
    return loss, grads


def close(a, b, tolerance):
    a, b = jax.device_get((a, b))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        scale = max(np.abs(x).max(initial=0), 1e-2)
        np.testing.assert_allclose(x, y, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


# Forms of one loss that differ in memory alone pair what they are given in the same order: one of each is enough.
TWINS = ("contrastive in blocks", "sigmoid", "hardest triplet", "summed triplet")


@pytest.mark.parametrize("name", [n for n in MADE if n not in TWINS])
def test_accumulation_changes_nothing(name):
    loss, grads = loss_and_grads(name)
    assert np.isfinite(loss) and loss != 0
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["objective"])), "an objective's scalar learns nothing"
    assert np.asarray(grads["model"]["tables"]["image"]).any()
    close((loss, grads), loss_and_grads(name, accum=4), 1e-5)


@pytest.mark.parametrize("name", ["contrastive in blocks", "sigmoid in a ring", "symile, missing learned"])
def test_a_mesh_changes_nothing(name):
    """The losses alone are tested on three meshes in tests/ops."""
    loss, grads = loss_and_grads(name)
    one, graph, params, batch, keys = setup(name)
    model = variables(Bags(one.embedded))
    roles = Roles({"model": model, "objective": {"c": one.init(jax.random.key(3))}})
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        run = jax.jit(
            jax.value_and_grad(
                lambda p, b, k: evaluate_objectives(graph, p, {"c": one}, b, k, train=True), has_aux=True
            ),
            in_shardings=(sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh), None),
        )
        (sharded, _), theirs = run(params, batch, keys)
    close((loss, grads), (sharded, theirs), 1e-5)


@pytest.mark.parametrize("name", [n for n in MADE if "block" not in n and "ring" not in n])
def test_weights_count_those_who_take_part(name):
    one, batch = MADE[name](), tiny.batch(B, seed=1, missing=0.3)
    weights = one.weights(jax.jit(one.view)(batch, example_keys(0, 5, B)))
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
    """(objective, its own parameters, {modality: {"z", "present", …}}) of random embeddings, some of them missing."""
    one, rng = MADE[name](), np.random.default_rng(seed)
    z = {}
    for m in one.embedded:
        x = rng.normal(size=(B, D))
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        z[m] = {"z": jnp.float32(unit), "present": jnp.float32(rng.random(B) < 0.8), "draw": jnp.float32(rng.random(B))}
    return one, values(one.init(jax.random.key(0))), z


def arrays(z, *names):
    both = np.logical_and.reduce([np.asarray(z[n]["present"]) > 0 for n in names])
    return [np.asarray(z[n]["z"], np.float64)[both] for n in names]


def test_sigmoid_equals_numpy():
    one, own, z = embedded("sigmoid")
    for edge in EDGES:
        a, b = arrays(z, edge.a, edge.b)
        sign = 2 * np.eye(len(a)) - 1
        want = np.log1p(np.exp(-sign * (10 * a @ b.T - 10))).sum()
        np.testing.assert_allclose(one.pair(own, z)[edge.name], want, rtol=1e-5)


@pytest.mark.parametrize("name", ["triplet", "hardest triplet", "summed triplet"])
def test_triplet_equals_numpy(name):
    one, own, z = embedded(name)
    over = {"triplet": np.mean, "hardest triplet": np.max, "summed triplet": np.sum}[name]
    for edge in EDGES:
        a, b = arrays(z, edge.a, edge.b)
        s, total = a @ b.T, 0.0
        for i in range(len(s)):
            for scores in (s[:, i],) if name == "summed triplet" else (s[i], s[:, i]):  # backward: columns alone
                total += over(np.delete(np.maximum(0.2 + scores - s[i, i], 0), i))
        np.testing.assert_allclose(one.pair(own, z)[edge.name], total, rtol=1e-5)


def test_a_random_negative_is_another_present_example_and_every_one_is_used_once():
    one, own, z = embedded("random triplet")
    draw = np.random.default_rng(5).random(B)
    z = {m: v | {"draw": jnp.float32(draw)} for m, v in z.items()}
    for edge in EDGES:
        present = np.asarray(z[edge.a]["present"] * z[edge.b]["present"]) > 0
        assert 2 < present.sum() < B
        ring = [i for i in np.argsort(draw) if present[i]]
        a, b = (np.asarray(z[n]["z"], np.float64) for n in (edge.a, edge.b))
        total = sum(max(0.0, 0.2 + a[i] @ b[j] - a[i] @ b[i]) for i, j in zip(ring, ring[1:] + ring[:1]))
        np.testing.assert_allclose(one.pair(own, z)[edge.name], total, rtol=1e-5)
    alone = {m: v | {"present": jnp.arange(B) == 4} for m, v in z.items()}
    assert not any(one.pair(own, alone).values())
    draws = [one.view(tiny.batch(B), example_keys(0, step, B))["draw"] for step in (0, 1)]
    assert len(np.unique(draws)) == 2 * B


def test_uniformity_equals_numpy():
    one, own, z = embedded("uniformity")
    got = one.pair(own, z)

    def potential(x, y):
        n = len(x)
        return np.log(np.mean([np.exp(-2 * np.sum((x[j] - y[k]) ** 2)) for j in range(n) for k in range(n) if j != k]))

    for edge in EDGES:
        a, b = arrays(z, edge.a, edge.b)
        np.testing.assert_allclose(got[f"align {edge.name}"], np.square(a - b).sum(), rtol=1e-5)
        uniform = (potential(a, a) + potential(b, b)) / 2
        np.testing.assert_allclose(got[f"uniform {edge.name}"], uniform, rtol=1e-5)
        np.testing.assert_allclose(got[f"cross {edge.name}"], potential(a, b), rtol=1e-5)
    assert [one.share(f"{k} image~caption") for k in ("align", "uniform", "cross")] == [0.75, 0.75, 0.375]


@pytest.mark.parametrize("name", ["symile", "symile of all pairs", "symile, missing learned"])
def test_symile_equals_numpy(name):
    one, own, z = embedded(name)
    scale = np.exp(float(own["log_scale"]))
    np.testing.assert_allclose(scale, D**0.5 / 0.07, rtol=1e-6)
    x, has = {}, {}
    for m in TRIPLE:
        x[m], has[m] = np.asarray(z[m]["z"], np.float64), np.asarray(z[m]["present"]) > 0
        if "learned" in name:
            v = np.asarray(own["missing"][m], np.float64)
            x[m] = np.where(has[m][:, None], x[m], v / np.linalg.norm(v))
    counted = sum(has.values()) >= (2 if "learned" in name else 3)
    rows = np.flatnonzero(counted)
    assert 3 < len(rows) < B or "learned" in name
    order = {m: np.argsort(np.asarray(z[m]["draw"])) for m in TRIPLE}
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
        np.testing.assert_allclose(one.pair(own, z)[m], total, rtol=2e-5)


def test_matryoshka_is_the_base_on_truncated_embeddings():
    one, own, z = embedded("matryoshka")
    got = one.pair(own, {"z": z})
    assert set(got) == {f"{e.name}@{v}" for e in EDGES for v in ("full", 2, 4)}
    for width in (2, 4):
        cut = {n: v | {"z": v["z"][:, :width] / jnp.linalg.norm(v["z"][:, :width], axis=1, keepdims=True)}
               for n, v in z.items()}  # fmt: skip
        for k, v in soft().pair(own, cut).items():
            np.testing.assert_allclose(got[f"{k}@{width}"], v, rtol=1e-5)
    np.testing.assert_allclose(sum(one.share(k) for k in got), 1)


def test_2d_matryoshka_draws_one_width_and_one_layer_a_step():
    model = tiny.model(embedded=("image", "caption", "depth"), encoder_depth=3)
    one, graph, params, batch, _ = setup("2D matryoshka", model)
    own, seen = params["objective"]["c"], set()
    run = jax.jit(lambda k: one.view(batch, k))
    for step in range(40):
        view = run(example_keys(0, step, B))
        assert len(np.unique(view["width"])) == len(np.unique(view["early"])) == 1
        seen.add((int(view["width"][0]), int(1 + view["early"][0] * 2)))
    assert seen == {(w, layer) for w in (2, 4) for layer in (1, 2)}
    # The early embedding is the one that a model of as many layers gives.
    keys = example_keys(0, 0, B)
    view = run(keys) | {"early": jnp.zeros(B)}
    z = jax.jit(lambda p: one.embed(nnx.merge(graph, p), own, view, keys))(params["model"])["z"]
    short = jax.tree.map(lambda x: x, params["model"])
    short["encoder"] = jax.tree.map(lambda x: x[:1], short["encoder"])
    want = jax.jit(lambda p: soft().embed(nnx.merge(graph, p), own, view["base"], keys))(short)
    for name in one.embedded:
        np.testing.assert_allclose(z[name]["early"], want[name]["z"], atol=1e-5)
    # An example that lacks the modality has no part, whatever its embedding.
    present = np.asarray(z["image"]["present"]) * (np.arange(B) != np.argmax(z["image"]["present"]))
    last, early = (np.asarray(z["image"][k], np.float64)[present > 0] for k in ("z", "early"))
    p, q = (np.exp(x / 0.3) / np.exp(x / 0.3).sum(1, keepdims=True) for x in (last, early))
    got = one._align(z["image"] | {"present": jnp.asarray(present)})
    np.testing.assert_allclose(got, 0.3 * (p * np.log(p / q)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sigmoid.Objective(SPACE, EDGES, temperature=0.0), "objectives.sigmoid.temperature=0.0"),
        (lambda: sigmoid.Objective(SPACE, EDGES, chunk=-1), "objectives.sigmoid.chunk=-1"),
        (lambda: triplet.Objective(SPACE, EDGES, negatives="some"), "must be one of all, sum, hardest, random"),
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
