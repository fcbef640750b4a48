"""Vector quantization: three training steps of 4M's cosine codebook, Euclidean codes and renewal against NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import place

from pretrain.tokenizers.quantizers import vq
from pretrain.tokenizers.quantizers.base import Place

GOLDEN = Path(__file__).parents[1] / "golden/fourm/quantizers.npz"
COUNT, TOKENS, WIDTH, SIZE = 6, 5, 4, 8


def quantizer(**changes):
    config = vq.Config(**dict(size=SIZE, width=WIDTH) | changes)
    return vq.Quantizer(config, rngs=nnx.Rngs(0))


def put(q, new):
    for name, value in new.items():
        getattr(q, name)[...] = jnp.asarray(value)


def vectors(seed=0, count=COUNT):
    return np.random.default_rng(seed).normal(size=(count, TOKENS, WIDTH)).astype(np.float32)


def test_three_steps_of_4m():
    golden = np.load(GOLDEN)
    size, width = golden["embed0"].shape
    q = quantizer(size=size, width=width, decay=0.99, renew=0.0)
    put(q, {"codebook": golden["embed0"]})
    step = jax.jit(lambda z, q: (q(z), q.statistics(z, q(z).ids, place([True, True]))))
    for t in range(3):
        z = golden[f"x{t}"].transpose(0, 2, 3, 1).reshape(2, 49, width)
        out, sums = step(jnp.asarray(z), q)
        np.testing.assert_array_equal(out.ids, golden[f"ind{t}"].reshape(2, 49))
        want = golden[f"quant{t}"].transpose(0, 2, 3, 1).reshape(2, 49, width)
        np.testing.assert_allclose(out.codes, want, atol=1e-6)
        np.testing.assert_allclose(out.losses["commitment"].mean(), golden[f"loss{t}"][0], rtol=1e-6)
        put(q, q.update(sums))
        np.testing.assert_allclose(q.codebook[...], golden[f"embed{t + 1}"], atol=1e-6)
        np.testing.assert_allclose(q.counts[...], golden[f"cluster{t + 1}"], atol=1e-7)


@pytest.mark.parametrize("cosine", [True, False])
def test_codes_find_themselves(cosine):
    q = quantizer(cosine=cosine, size=40)
    out = q(jnp.asarray(3 * vectors()))
    assert len(np.unique(out.ids)) > 5
    np.testing.assert_array_equal(q.to_codes(out.ids), out.codes)
    np.testing.assert_array_equal(q.to_ids(q.to_codes(jnp.arange(40))), np.arange(40))


@pytest.mark.parametrize("cosine", [True, False])
def test_gradient_passes_straight_through_and_never_reaches_the_codebook(cosine):
    q, z, weight = quantizer(cosine=cosine), jnp.asarray(vectors()), vectors(1)
    graph, params = nnx.split(q)

    def loss(z, params):
        out = nnx.merge(graph, params)(z)
        return (weight * out.codes).sum() + 0.5 * out.losses["commitment"].sum()

    d_z, d_params = jax.grad(loss, argnums=(0, 1))(z, params)
    codes = np.asarray(q.to_codes(q(z).ids))
    np.testing.assert_allclose(d_z, weight + (np.asarray(z) - codes) / (TOKENS * WIDTH), atol=1e-6)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(d_params))


def numpy_euclidean(codebook, counts, sums, z, valid, decay, renew):
    """Scalar by scalar: (codebook, counts, sums, dead) one step on, before what is dead is renewed."""
    n, total = np.zeros(SIZE), np.zeros((SIZE, WIDTH))
    for b in range(COUNT):
        for vector in z[b] if valid[b] else ():
            k = int(((codebook - vector) ** 2).sum(1).argmin())
            n[k] += 1
            total[k] += vector
    counts, sums = decay * counts + (1 - decay) * n, decay * sums + (1 - decay) * total
    smooth = (counts + 1e-5) / (counts.sum() + SIZE * 1e-5) * counts.sum()
    return sums / smooth[:, None], counts, sums, counts < renew * n.sum() / SIZE


def test_euclidean_codes_equal_numpy():
    q, valid = quantizer(cosine=False, decay=0.5, renew=0.3), [True, False, True, True, True, False]
    held = [np.asarray(x[...], np.float64) for x in (q.codebook, q.counts, q.sums)]
    seen = np.zeros(SIZE)
    for t in range(4):
        z = vectors(t) * [1, 2, 0.5, 1]
        *want, dead = numpy_euclidean(*held, z, valid, 0.5, 0.3)
        out = q(jnp.asarray(z, jnp.float32))
        sums = q.statistics(jnp.asarray(z, jnp.float32), out.ids, place(valid, t))
        new, renewed = q.update(sums), np.asarray(sums["renewals"][0])
        least = 0.3 * 4 * TOKENS / SIZE
        want[0][dead], want[1][dead], want[2][dead] = renewed[dead], least, least * renewed[dead]
        for name, value in zip(("codebook", "counts", "sums"), want):
            np.testing.assert_allclose(new[name], value, atol=1e-5, err_msg=name)
        put(q, new)
        held, seen = want, seen + dead
    assert 0 < seen.sum() < 4 * SIZE


def test_dead_codes_become_vectors_of_valid_examples():
    valid, z = np.array([True, False, True, True, False, True]), vectors()
    q = quantizer(renew=0.5, decay=0.0)
    out = q(jnp.asarray(z))
    sums = q.statistics(jnp.asarray(z), out.ids, place(valid))
    n = np.bincount(np.asarray(out.ids)[valid].ravel(), minlength=SIZE)
    np.testing.assert_array_equal(sums["counts"][0], n)
    new = np.asarray(q.update(sums)["codebook"])
    dead, rows = n < 0.5 * n.sum() / SIZE, z[valid].reshape(-1, WIDTH)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = [np.abs(rows - code).max(1) < 1e-6 for code in new]
    assert dead.any() and all(f.any() for f, d in zip(found, dead) if d)
    assert len({f.argmax() for f, d in zip(found, dead) if d}) == dead.sum(), "no vector twice"


def test_every_vector_is_drawn_alike():
    x = jnp.asarray(vectors(count=4))
    drawn = jax.jit(jax.vmap(lambda key: vq.renewals(x, Place(jnp.arange(4), jnp.int32(4), key), SIZE)))(
        jax.random.split(jax.random.key(1), 3000)
    )
    hits = (np.abs(np.asarray(drawn)[:, :, None] - np.asarray(x).reshape(-1, WIDTH)).max(-1) < 1e-7).sum((0, 1))
    assert hits.sum() == 3000 * SIZE and hits.max() <= 3000
    np.testing.assert_allclose(hits / 3000, SIZE / (4 * TOKENS), atol=0.04)


def test_renewals_of_parts_add_up_to_those_of_the_whole():
    z, valid = jnp.asarray(vectors()), [True, False, True, True, True, True]
    whole = place(valid, 3)
    want = vq.renewals(z, whole, 50)  # more codes than vectors
    parts = [vq.renewals(z[i::3], whole._replace(rank=whole.rank[i::3]), 50) for i in range(3)]
    np.testing.assert_array_equal(sum(parts), want)
    assert np.abs(np.asarray(want)).max(1).all()


@pytest.mark.parametrize(
    "changes, message", [(dict(size=1), "vq.size=1"), (dict(decay=1.0), "vq.decay=1.0"), (dict(renew=-1.0), "vq.renew")]
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        vq.Config(**changes)
