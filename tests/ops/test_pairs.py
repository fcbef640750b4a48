"""Losses over all pairs against NumPy in float64: values, gradients, missing examples, bounded memory, meshes."""

import contextlib
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pretrain.objectives import triplet
from pretrain.ops import pairs
from pretrain.sharding import BATCH, MeshConfig, make_mesh, parse_mesh

B, D = 16, 6
ORDERS = [np.random.default_rng(7).permutation(B), np.random.default_rng(8).permutation(B)]
PRESENT = {
    "all": np.ones(B, bool),
    "some": np.random.default_rng(3).permutation(np.arange(B) < 11),
    "two": np.isin(np.arange(B), (4, 9)),
    "one": np.arange(B) == 4,
    "none": np.zeros(B, bool),
}


class Inputs(NamedTuple):
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    scale: float = 5.0
    bias: float = -1.5


def inputs(size=B, dim=D, seed=0) -> Inputs:
    abc = np.random.default_rng(seed).normal(size=(3, size, dim))
    return Inputs(*(abc / np.linalg.norm(abc, axis=-1, keepdims=True)))


def rows_of(rows, present):
    """`[B]` with the numbers of the present rows at their places, else 0."""
    out = np.zeros(len(present))
    out[present] = rows
    return out


def numpy_softmax(x, present, smoothing=0.0):
    a, b, out = x.a[present], x.b[present], []
    for p, q in ((a, b), (b, a)):
        wanted = (1 - smoothing) * np.eye(len(p)) + smoothing / max(len(p), 1)
        exp = np.exp(x.scale * p @ q.T)
        out.append(rows_of(-(wanted * np.log(exp / exp.sum(1, keepdims=True))).sum(1), present))
    return np.stack(out)


def numpy_sigmoid(x, present):
    a, b = x.a[present], x.b[present]
    z = 2 * np.eye(len(a)) - 1
    return rows_of(np.log(1 + np.exp(-z * (x.scale * a @ b.T + x.bias))).sum(1), present)


def numpy_triplet(x, present, margin, hardest):
    out = np.zeros((2, B))
    for way, (p, q) in enumerate(((x.a, x.b), (x.b, x.a))):
        for i in np.flatnonzero(present):
            hinges = [max(0.0, margin + p[i] @ q[j] - p[i] @ q[i]) for j in np.flatnonzero(present) if j != i]
            if hinges:
                out[way, i] = max(hinges) if hardest else np.mean(hinges)
    return out


def numpy_distances(x, present, margin):
    """A hinge on the mean distance of the others."""
    out, there = np.zeros((2, B)), np.flatnonzero(present)
    for way, (p, q) in enumerate(((x.a, x.b), (x.b, x.a))):
        distance = np.sqrt(np.maximum(2 - 2 * p @ q.T, 0) + 1e-6)
        for i in there if len(there) > 1 else ():
            mean = np.mean([distance[i, j] for j in there if j != i])
            out[way, i] = max(0.0, margin + distance[i, i] - mean)
    return out


def numpy_potential(a, b, present, t):
    a, b = a[present], b[present]
    if len(a) < 2:
        return np.float64(0)
    square = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.log(np.exp(-t * square)[~np.eye(len(a), dtype=bool)].mean())


def numpy_symile(x, present):
    out = np.zeros(B)
    for i in np.flatnonzero(present):
        logits = [x.scale * (x.a[i] * x.b[i] * x.c[i]).sum()]
        for j, (k, m) in enumerate(zip(*ORDERS)):
            if j != i and present[k] and present[m]:
                logits.append(x.scale * (x.a[i] * x.b[k] * x.c[m]).sum())
        out[i] = np.log(np.exp(logits).sum()) - logits[0]
    return out


def numpy_symile_all(x, present):
    a, b, c = x.a[present], x.b[present], x.c[present]
    logits = x.scale * np.einsum("id,jd,kd->ijk", a, b, c)
    return rows_of(np.log(np.exp(logits).sum((1, 2))) - x.scale * (a * b * c).sum(1), present)


LABELS = np.random.default_rng(9).integers(3, size=B)
X, Y = np.random.default_rng(10).normal(size=(2, B, 4)) / 2


def numpy_target(x, present, matrix, divergence):
    """From softmax(matrix) of rows and of columns, a matrix of all pairs: KL(q ‖ p), or KL(p ‖ q + ε) in reverse."""
    a, b, out = x.a[present], x.b[present], []
    for p, q, given in ((a, b, matrix), (b, a, matrix.T)):
        exp, wanted = np.exp(x.scale * p @ q.T), np.exp(given[np.ix_(present, present)])
        ours, wanted = (e / e.sum(1, keepdims=True) for e in (exp, wanted))
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = np.where(wanted > 0, wanted * (np.log(wanted) - np.log(ours)), 0)
        loss = kl if divergence == "kl" else ours * (np.log(ours) - np.log(wanted + 1e-3))
        out.append(rows_of(loss.sum(1), present))
    return np.stack(out)


def numpy_mean(x, present, margin):
    out = []
    for p, q in ((x.a[present], x.b[present]), (x.b[present], x.a[present])):
        out.append(rows_of([max(0.0, margin + (q @ row).mean() - row @ own) for row, own in zip(p, q)], present))
    return np.stack(out)


FURTHER = {
    "cosines": np.random.default_rng(11).uniform(-1, 1, (B, 2)),
    "counted": np.arange(2 * B).reshape(B, 2) % 3 > 0,
}


def numpy_beside(x, present):
    """Rows of a have logits of their own behind the others."""
    out = numpy_softmax(x, present)
    for i in np.flatnonzero(present):
        logits = x.scale * np.append(x.b[present] @ x.a[i], FURTHER["cosines"][i][FURTHER["counted"][i]])
        out[0, i] = np.log(np.exp(logits).sum()) - x.scale * x.a[i] @ x.b[i]
    return out


def beside(candidates, scale, rows, columns):
    return candidates.beside(scale * rows["cosines"], rows["counted"]) if rows else candidates


def labelled(candidates, scale, rows, columns):
    return candidates.toward(jnp.where(rows[:, None] == columns, 2.0, 0.0))


def alike(candidates, scale, rows, columns):
    return candidates.toward(jnp.where(rows[:, None] == columns, 0.0, -jnp.inf))


def taught(candidates, scale, rows, columns):
    return candidates.toward(3 * pairs.dot(rows, columns))


def targeted(x, p, n, target, sides, divergence=pairs.kl):
    sides = jax.tree.map(jnp.asarray, sides)
    return jnp.stack(pairs.target_losses(x.a, x.b, p, x.scale, target, sides, divergence=divergence, block=n))


SAME, REVERSE = LABELS[:, None] == LABELS, functools.partial(pairs.reverse_kl, epsilon=1e-3)

# {loss: (in NumPy, in JAX with at most n rows at a time or n = 0)}, of inputs and present.
LOSSES = {
    "softmax": (
        numpy_softmax,
        lambda x, p, n: jnp.stack(pairs.softmax_losses(x.a, x.b, p, x.scale, block=n)),
    ),
    "smoothed": (
        lambda x, p: numpy_softmax(x, p, 0.3),
        lambda x, p, n: jnp.stack(pairs.softmax_losses(x.a, x.b, p, x.scale, smoothing=0.3, block=n)),
    ),
    "labels": (
        lambda x, p: numpy_target(x, p, 2.0 * SAME, "kl"),
        lambda x, p, n: targeted(x, p, n, labelled, (LABELS, LABELS)),
    ),
    "reverse": (
        lambda x, p: numpy_target(x, p, np.where(SAME, 0.0, -np.inf), "reverse_kl"),
        lambda x, p, n: targeted(x, p, n, alike, (LABELS, LABELS), REVERSE),
    ),
    "taught": (
        lambda x, p: numpy_target(x, p, 3 * X @ Y.T, "kl"),
        lambda x, p, n: targeted(x, p, n, taught, (X.astype(np.float32), Y.astype(np.float32))),
    ),
    "sigmoid": (
        numpy_sigmoid,
        lambda x, p, n: pairs.sigmoid_losses(x.a, x.b, p, x.scale, x.bias, chunk=n),
    ),
    "triplet": (
        lambda x, p: numpy_triplet(x, p, 0.2, False),
        lambda x, p, n: jnp.stack(pairs.triplet_losses(x.a, x.b, p, 0.2, block=n)),
    ),
    "hardest": (
        lambda x, p: numpy_triplet(x, p, 0.2, True),
        lambda x, p, n: jnp.stack(pairs.triplet_losses(x.a, x.b, p, 0.2, hardest=True, block=n)),
    ),
    "mean": (
        lambda x, p: numpy_mean(x, p, 0.2),
        lambda x, p, n: jnp.stack(pairs.mean_losses(x.a, x.b, p, 0.2, block=n)),
    ),
    "distances": (
        lambda x, p: numpy_distances(x, p, 0.2),
        lambda x, p, n: jnp.stack(pairs.mean_losses(x.a, x.b, p, 0.2, own=False, block=n, score=triplet.near)),
    ),
    "beside": (
        numpy_beside,
        lambda x, p, n: targeted(x, p, n, beside, (FURTHER, {})),
    ),
    "potential": (
        lambda x, p: numpy_potential(x.a, x.b, p, 2.0),
        lambda x, p, n: pairs.log_mean_potential(x.a, x.b, p, block=n),
    ),
    "uniformity": (
        lambda x, p: numpy_potential(x.a, x.a, p, 0.5),
        lambda x, p, n: pairs.log_mean_potential(x.a, x.a, p, t=0.5, block=n),
    ),
    "symile": (
        numpy_symile,
        lambda x, p, n: pairs.symile_losses(x.a, [x.b, x.c], ORDERS, p, x.scale, block=n),
    ),
    "symile_all": (
        numpy_symile_all,
        lambda x, p, n: pairs.symile_losses_all(x.a, x.b, x.c, p, x.scale, block=n),
    ),
}
of_loss = pytest.mark.parametrize("name", LOSSES)
of_present = pytest.mark.parametrize("present", PRESENT.values(), ids=PRESENT)


def weighted(values):
    """A number to differentiate, in which no two examples weigh the same."""
    return (values * np.cos(np.arange(1, values.size + 1)).reshape(values.shape)).sum()


def differentiate(name, n, x, present):
    """(values, gradients as Inputs)."""

    def loss(x):
        values = LOSSES[name][1](x, present, n)
        return weighted(values), values

    grads, values = jax.grad(loss, has_aux=True)(x)
    return values, grads


@functools.cache
def compiled(name, n):
    return jax.jit(functools.partial(differentiate, name, n))


def run(name, n, x, present):
    return jax.device_get(compiled(name, n)(Inputs(*map(jnp.float32, x)), jnp.asarray(present)))


def assert_close(got, want, **kw):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, **kw)


@of_present
@of_loss
def test_values_equal_numpy(name, present):
    x = inputs()
    values, grads = run(name, 0, x, present)
    np.testing.assert_allclose(values, LOSSES[name][0](x, present), rtol=1e-6, atol=1e-6)
    assert all(np.isfinite(g).all() for g in grads)
    assert not any(g[~present].any() for g in grads[:3]), "an absent example gets no gradient"
    if present.sum() > 2:
        assert np.abs(values).max() > 0.1
    if not present.any():
        assert not np.any(values) and not any(np.any(g) for g in grads)


@of_loss
def test_no_nan_arises_even_where_it_would_be_dropped(name):
    """Op by op, so that `debug_nans` sees every number: a run that looks for a NaN must not stop here."""
    x = Inputs(*map(jnp.float32, inputs()))
    with jax.debug_nans(True):
        for kind in ("one", "none"):
            differentiate(name, 0, x, jnp.asarray(PRESENT[kind]))


@pytest.mark.parametrize("present", [PRESENT["all"], PRESENT["some"]], ids=["all", "some"])
@of_loss
def test_gradients_equal_finite_differences(name, present):
    x, step, reference = inputs(seed=1), 1e-6, LOSSES[name][0]
    _, grads = run(name, 0, x, present)
    for field, got in zip(x._fields, grads):
        at, want = np.asarray(getattr(x, field), np.float64), np.zeros(got.shape)
        for i in np.ndindex(at.shape):
            nudge = np.zeros(at.shape)
            nudge[i] = step
            up, down = (weighted(reference(x._replace(**{field: at + s * nudge}), present)) for s in (1, -1))
            want[i] = (up - down) / (2 * step)
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=field)


@of_loss
def test_every_input_that_a_loss_names_has_a_gradient(name):
    _, grads = run(name, 4, inputs(), PRESENT["some"])
    used = {"sigmoid": "a b scale bias", "triplet": "a b", "hardest": "a b", "potential": "a b", "uniformity": "a"}
    used |= dict.fromkeys(("labels", "reverse", "taught", "beside"), "a b scale") | {"mean": "a b", "distances": "a b"}
    used |= {"softmax": "a b scale", "smoothed": "a b scale", "symile": "a b c scale", "symile_all": "a b c scale"}
    assert [field for field, g in zip(grads._fields, grads) if np.any(g)] == used[name].split()


@of_present
@of_loss
def test_blocks_equal_the_whole(name, present):
    x = inputs(seed=2)
    assert_close(run(name, 4, x, present), run(name, 0, x, present), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("n", [0, 4])
@of_loss
def test_what_an_absent_example_holds_does_not_matter(name, n):
    x, present = inputs(), PRESENT["some"]
    values, grads = run(name, n, x, present)
    garbage = Inputs(*(np.where(present[:, None], e, np.nan) for e in x[:3]))
    other, other_grads = run(name, n, garbage, present)
    np.testing.assert_array_equal(values, other)
    assert_close(grads, other_grads, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "symile", "symile_all"])
def test_extreme_scales_stay_finite(name):
    values, grads = run(name, 0, inputs()._replace(scale=1e4), PRESENT["some"])
    assert np.isfinite(values).all() and all(np.isfinite(g).all() for g in grads) and values.max() > 100


def test_potential_of_far_points_and_of_one():
    """exp(−t‖a − b‖²) is no fp32 number here, its logarithm is."""
    far = jnp.float32([[1, 0], [-1, 0]])
    np.testing.assert_allclose(pairs.log_mean_potential(far, far, jnp.ones(2, bool), t=100.0), -400.0)
    assert pairs.log_mean_potential(far[:1], far[:1], jnp.ones(1, bool)) == 0


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_under_a_mesh_it_is_the_same(mesh, n):
    x, present = inputs(seed=5), PRESENT["some"]
    alone = {name: run(name, 0, x, present) for name in LOSSES}
    mesh = make_mesh(MeshConfig(0, *mesh))
    with jax.set_mesh(mesh):
        batch, all_of_it = NamedSharding(mesh, P(BATCH)), NamedSharding(mesh, P())
        x = Inputs(*(jax.device_put(jnp.float32(v), batch if np.ndim(v) else all_of_it) for v in x))
        together = jax.jit(lambda x, p: {name: differentiate(name, n, x, p) for name in LOSSES})
        meshed = jax.device_get(together(x, jax.device_put(present, batch)))
    for name in LOSSES:
        assert_close(meshed[name], alone[name], rtol=1e-5, atol=1e-5, err_msg=name)


def program(name, n, size, mesh=None, dim=24):
    """The compiled gradient of a loss of a and b at a batch of `size`, never run."""
    sharding = NamedSharding(mesh, P(BATCH)) if mesh else None
    shape = lambda *s, dtype=jnp.float32: jax.ShapeDtypeStruct(s, dtype, sharding=sharding if s else None)
    x = Inputs(*[shape(size, dim)] * 3, shape(), shape())
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        grads = jax.jit(lambda x, p: differentiate(name, n, x, p)[1]._replace(c=None))
        return grads.lower(x, shape(size, dtype=bool)).compile()


def holds(program, *shape):
    return re.search(rf"f32\[{','.join(map(str, shape))}\]", program.as_text()) is not None


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_memory_grows_as_the_batch_not_as_its_square(name, devices):
    mesh = make_mesh(parse_mesh("ddp")) if devices > 1 else None
    growth = {}
    for n in (0, 32):
        small, big = program(name, n, 1024, mesh), program(name, n, 2048, mesh)
        growth[n] = big.memory_analysis().temp_size_in_bytes / small.memory_analysis().temp_size_in_bytes
        assert holds(big, 2048 // devices, 2048) == (n == 0)
    assert growth[32] < 2.5 and growth[0] > 3.4, growth


def test_a_ring_never_holds_all_columns_nor_all_pairs_of_two_devices():
    mesh, size, local = make_mesh(parse_mesh("ddp")), 1024, 128
    ring, gather = program("sigmoid", 32, size, mesh), program("softmax", 32, size, mesh)
    assert holds(ring, 32, local) and not holds(ring, local, local) and not holds(ring, size, 24)
    assert holds(gather, size, 24) and holds(gather, 32, size), "so the shapes are written as here"
    whole = program("sigmoid", local, size, mesh)
    assert holds(whole, local, local)


@pytest.mark.parametrize("n", [0, 8])
def test_products_of_three_are_never_held_at_once(n):
    built = program("symile_all", n, 64)
    assert holds(built, n or 64, 64)
    assert not re.search(r"f32\[64,\d+,64\]", built.as_text()), "[B, n, B]"


@of_loss
def test_matmuls_are_full_fp32_forward_and_backward(name):
    x = Inputs(*map(jnp.float32, inputs()))
    jaxpr = str(jax.make_jaxpr(functools.partial(differentiate, name, 4))(x, PRESENT["all"]))
    full = jaxpr.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert full == jaxpr.count("dot_general[") >= 3


@pytest.mark.parametrize("name, key", [("softmax", "block"), ("sigmoid", "chunk")])
def test_a_block_that_does_not_divide_the_batch_names_itself(name, key):
    with pytest.raises(ValueError, match=f"{key}=6: does not divide the 16 examples that a device holds; 4 would"):
        run(name, 6, inputs(), PRESENT["all"])


def test_equal_vectors_have_a_distance_with_a_slope():
    """Trap: √ has none at 0, where a pair has come together."""
    slope = jax.grad(lambda s: pairs.nearness(s))
    assert np.isfinite([float(slope(jnp.float32(s))) for s in (1.0, 1.0000001, -1.0)]).all()
    assert 400 < slope(jnp.float32(1.0)) <= 1000
    np.testing.assert_allclose(pairs.nearness(jnp.float32([0.5, -1.0])), [-1.0, -2.0], rtol=1e-6)
