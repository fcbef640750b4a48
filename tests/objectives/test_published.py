"""The losses of published systems at the numbers that their code, or a writing from it, gives (tests/golden)."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODALITIES

from pretrain.models.states import States
from pretrain.models.tower import GroupGeneralizedMean
from pretrain.objectives import contrastive, matryoshka, symile, triplet, uniformity
from pretrain.objectives.base import Context
from pretrain.objectives.edges import Edge

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
EDGES, TRIPLE = (Edge("image", "caption"),), ("image", "caption", "depth")


def units(*names):
    rows = [GOLDEN[f"in/{n}"].astype(np.float64) for n in names]
    return [jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in rows]


def pair(objective, a, b, own=None):
    present = jnp.ones(len(a))
    z = {n: {"z": x, "present": present} for n, x in (("image", a), ("caption", b))}
    return objective.pair(objective.init(None) if own is None else own, z)


def close(got, name):
    np.testing.assert_allclose(got, GOLDEN[f"out/{name}"], rtol=1e-5)


def test_clip():
    a, b = units("a", "b")
    close(pair(contrastive.Objective(Context(MODALITIES), EDGES), a, b)["image~caption"] / len(a), "clip")


def test_align():
    a, b = units("a", "b")
    one = contrastive.Objective(
        Context(MODALITIES),
        EDGES,
        temperature=1.0,
        learn="linear",
        max_scale=0.0,
        label_smoothing=0.1,
        directions="sum",
    )
    close(pair(one, a, b)["image~caption"] / len(a), "align")
    # A temperature that training drove below zero still gives a finite loss: T is guarded.
    assert np.isfinite(pair(one, a, b, {"temperature": jnp.float32(-0.1)})["image~caption"])


@pytest.mark.parametrize("negatives, name, over", [("hardest", "vse_pp", 1), ("sum", "merkx", 36)])
def test_ranking(negatives, name, over):
    one = triplet.Objective(Context(MODALITIES), EDGES, negatives=negatives)
    close(pair(one, *units("a", "b"))["image~caption"] / over, name)


def test_symile_of_all_pairs():
    one = symile.Objective(Context(MODALITIES, network=States(embed_dim=8)), TRIPLE, negatives="n2")
    z = {n: {"z": x, "present": jnp.ones(len(x)), "draw": jnp.zeros(len(x))}
         for n, x in zip(TRIPLE, units("symile_x", "symile_y", "symile_z"))}  # fmt: skip
    totals = one.pair({"log_scale": jnp.log(jnp.float32(5.0))}, z)
    close(sum(totals.values()) / 3 / 6, "symile_n2")


def test_uniformity_and_its_cross_term():
    x, y = units("uniform_x", "uniform_y")
    one = uniformity.Objective(Context(MODALITIES), EDGES, cross=1.0)
    close(pair(one, x, x)["uniform image~caption"], "uniformity")
    close(pair(one, x, y)["cross image~caption"], "cross_uniformity")


def test_ggem():
    x = jnp.float32(GOLDEN["in/tokens_positive"])
    pool = GroupGeneralizedMean(2)
    pool.p[...] = jnp.asarray([1.0, 3.0])
    close(pool(x, jnp.ones(x.shape[:2], bool)), "ggem")


def test_2d_matryoshka_is_the_sum_of_four_losses_and_a_divergence():
    """As in `configs/systems/matryoshka_2d.py`; no golden number: written here from the paper's section 3."""
    base = contrastive.Objective(Context(MODALITIES), EDGES, temperature=0.05, learn="fixed")
    one = matryoshka.Objective(Context(MODALITIES), base, (3,), layers=True, align=1 / 4, coef=4.0)
    last, early, n = units("a", "b"), units("c", "d"), 6
    z = {m: {"z": x, "early": y, "present": jnp.ones(n)} for m, x, y in zip(("image", "caption"), last, early)}
    totals = one.pair({}, {"z": z, "width": jnp.full(n, 3.0)})
    counts = {k: 2 * n if k == "align" else n for k in totals}  # of the divergence both modalities' embeddings
    got = one.coef * sum(one.share(k) * totals[k] / counts[k] for k in totals)

    def loss(a, b, width):
        a, b = (x[:, :width] / np.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in (a, b))
        e = np.exp(a @ b.T / 0.05)
        return -np.mean([np.log(np.diag(e) / e.sum(1)), np.log(np.diag(e) / e.sum(0))])

    def divergence(x, y):
        p, q = (np.exp(v / 0.3) / np.exp(v / 0.3).sum(1, keepdims=True) for v in (x, y))
        return (p * np.log(p / q)).sum(1).mean()

    last, early = (np.asarray(x, np.float64) for x in (last, early))
    want = sum(loss(*x, width) for x in (last, early) for width in (8, 3))
    want += 0.3 * np.mean([divergence(x, y) for x, y in zip(last, early)])
    np.testing.assert_allclose(got, want, rtol=1e-5)
