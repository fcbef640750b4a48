"""The losses of published systems at the numbers that their code, or a writing from it, gives (tests/golden)."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from pretrain.models.parts.pool import GroupGeneralizedMean
from pretrain.models.stream import Stream
from pretrain.objectives import contrastive, matryoshka, prototypes, symile, triplet, uniformity
from pretrain.objectives.base import Context
from pretrain.objectives.edges import Edge
from pretrain.ops.assignment import sinkhorn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
EDGES, TRIPLE = (Edge("image", "caption"),), ("image", "caption", "depth")


def units(*names):
    rows = [GOLDEN[f"in/{n}"].astype(np.float64) for n in names]
    return [jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in rows]


def outputs(**embeddings):
    """What an objective compares: embeddings of modalities, none of them missing."""
    given = {("z", n): z for n, z in embeddings.items()}
    return given | {("shown", n): tiny.shown(np.ones(len(z), bool)) for n, z in embeddings.items()}


def pair(objective, a, b, own=None):
    own = objective.init(None) if own is None else own
    return objective.totals(own, outputs(image=a, caption=b), train=True, run=None)


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
    one = symile.Objective(Context(MODALITIES), TRIPLE, negatives="n2")
    z = outputs(**dict(zip(TRIPLE, units("symile_x", "symile_y", "symile_z"))))
    z |= {("draw", n): jnp.zeros(6) for n in TRIPLE}
    totals = one.totals({"log_scale": jnp.log(jnp.float32(5.0))}, z, train=True, run=None)
    close(sum(totals.values()) / 3 / 6, "symile_n2")


def test_mgca_prototypes():
    """Of any length: they are brought to length 1."""
    a, b, c = units("a", "b", "prototypes")
    close(sinkhorn(a @ c.T / 0.05, jnp.ones(len(a), bool), 3), "sinkhorn")
    one = prototypes.Objective(Context(MODALITIES), EDGES, prototypes=len(c))
    outputs_of = outputs(image=a, caption=b) | {"begun": jnp.ones(len(a), bool)}
    for scale in (1.0, 3.0):
        totals = one.totals({"prototypes": scale * c}, outputs_of, train=True, run=None)
        close(totals["image~caption"] / len(a), "mgca_prototypes")


def test_uniformity_and_its_cross_term():
    x, y = units("uniform_x", "uniform_y")
    one = uniformity.Objective(Context(MODALITIES), EDGES, cross=1.0)
    close(pair(one, x, x)["uniform image~caption"], "uniformity")
    close(pair(one, x, y)["cross image~caption"], "cross_uniformity")


def test_ggem():
    x = jnp.float32(GOLDEN["in/tokens_positive"])
    pool = GroupGeneralizedMean(2)
    pool.p[...] = jnp.asarray([1.0, 3.0])
    here = jnp.zeros(x.shape[:2], jnp.int32)
    close(pool(Stream(x, here == 0, here, here)), "ggem")


def test_2d_matryoshka_is_the_sum_of_four_losses_and_a_divergence():
    """As in `configs/systems/matryoshka_2d.py`; no golden number: written here from the paper's section 3."""
    base = contrastive.Objective(Context(MODALITIES), EDGES, temperature=0.05, learn="fixed")
    one = matryoshka.Objective(Context(MODALITIES), base, (3,), layers=True, align=1 / 4, coef=4.0)
    last, early, n = units("a", "b"), units("c", "d"), 6
    z = outputs(image=last[0], caption=last[1]) | {"width": jnp.zeros(n)}
    z |= {("early", m): x for m, x in zip(("image", "caption"), early)}
    totals = one.totals({}, z, train=True, run=None)
    counts = {k: 2 * n if k == "align" else n for k in totals}  # of the divergence both modalities' embeddings
    got = one.coef * sum(one.loss_weight(k) * totals[k] / counts[k] for k in totals)

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
