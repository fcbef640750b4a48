"""Maps between spaces against independent writings, and what they find in spaces that share some directions."""

import numpy as np
import pytest
from scipy import linalg

from pretrain.evals import alignment, metrics
from pretrain.evals.subspace import choose, maps
from tools.experiments.platos_cave import spaces


@pytest.fixture(scope="module")
def partners():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 3))
    return [np.concatenate([shared, rng.normal(size=(60, w))], 1) @ rng.normal(size=(w + 3, w + 3)) for w in (4, 2)]


def test_canonical_correlations_are_those_of_the_generalized_eigenproblem(partners):
    a, b = partners
    ridge = 0.05
    of_a, of_b = alignment.cca(a, b, 4, ridge)
    joint = np.cov(np.concatenate([a, b], 1).T)
    aa, ab, bb = joint[:7, :7], joint[:7, 7:], joint[7:, 7:]
    aa, bb = (m + ridge * np.trace(m) / len(m) * np.eye(len(m)) for m in (aa, bb))
    zero = np.zeros_like(ab)
    values = linalg.eigh(
        np.block([[zero @ zero.T, ab], [ab.T, zero.T @ zero]]), linalg.block_diag(aa, bb), eigvals_only=True
    )
    values = values[::-1][:4]
    found = of_a(a).T @ of_b(b) / 59
    # Each direction is weighed by the root of its correlation, on both sides.
    np.testing.assert_allclose(found, np.diag(values**2), atol=1e-9)
    np.testing.assert_allclose(of_a.kernel.T @ aa @ of_a.kernel, np.diag(values), atol=1e-9)


def test_directions_that_are_shared_correlate_wholly(partners):
    of_a, of_b = alignment.cca(*partners, 5, 1e-9)
    x, y = of_a(partners[0]), of_b(partners[1])
    r = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(5)]
    np.testing.assert_allclose(r[:3], 1, atol=1e-6)
    assert max(r[3:]) < 0.5, "the rank of what is shared is 3"
    with pytest.raises(ValueError, match=r"k=6 directions of 60 anchors with 7 and 5 numbers: 1 … 5"):
        alignment.cca(*partners, 6)


def test_the_affine_map_is_least_squares(partners):
    a, b = partners
    design = np.concatenate([a, np.ones((60, 1))], 1)
    wanted = design @ np.linalg.lstsq(design, b, rcond=None)[0] - b.mean(0)
    np.testing.assert_allclose(alignment.affine(a, b, 0.0)(a), wanted, atol=1e-9)
    assert alignment.pca(a, 2)(a).shape == (60, 2)
    variances = alignment.pca(a, 7)(a).var(0)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(a.T, bias=True))[::-1], rtol=1e-9)


def test_local_cka_is_the_cka_of_the_anchors_and_the_pair(partners):
    known, (a, b) = [x[:20] for x in partners], (partners[0][20:26], partners[1][20:24])

    def direct(x, y):
        center = np.eye(21) - 1 / 21
        k, m = (center @ z @ z.T @ center for z in (np.vstack([known[0], x]), np.vstack([known[1], y])))
        return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())

    wanted = [[direct(x, y) for y in b] for x in a]
    np.testing.assert_allclose(alignment.local_cka(a, b, *known), wanted, rtol=1e-9)


@pytest.mark.slow
def test_what_is_shared_is_found_in_its_directions_alone():
    a, b = spaces(np.random.default_rng(0), 360)
    known, rest = (a[:240], b[:240]), (a[240:], b[240:])
    k = choose(*known, (2, 10, 60), 1e-2)
    found = {name: metrics.recall(s, 1) for name, s in maps(*known, *rest, k, 1e-2).items()}
    assert k == 10 and found["CCA"] > 0.6 > 0.3 > found["affine"] and found["PCA"] < 0.1
    assert found["local CKA in CCA"] > found["local CKA"] + 0.3
