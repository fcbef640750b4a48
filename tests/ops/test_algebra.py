"""Products of algebras against products of the matrices that stand for their numbers."""

import numpy as np
import pytest

from pretrain.ops import algebra

A, B = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
ONE = np.eye(2)
# i² = −1 of both, j² = −1 of quaternions and 1 of dihedra; k = ij.
I_, J_ = np.diag([1j, -1j]), np.array([[0, 1], [-1, 0]])
BASES = {"hamilton": (I_, J_), "dihedron": (np.array([[0, -1], [1, 0]]), np.diag([1, -1]))}


def matrices(x, name):
    """`[…, D]` → complex `[…, D/4, 2, 2]`."""
    i, j = BASES[name]
    return np.einsum("...pd,pmn->...dmn", x.reshape(*x.shape[:-1], 4, -1), np.stack([ONE, i, j, i @ j]))


@pytest.mark.parametrize("name", list(BASES))
def test_products_are_those_of_matrices(name):
    found = algebra.PRODUCTS[name](A, B)
    np.testing.assert_allclose(matrices(found, name), matrices(A, name) @ matrices(B, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, signs", [("hamilton", (1, 1, 1, 1)), ("dihedron", (1, 1, -1, -1))])
def test_which_norm_multiplies(name, signs):
    norm = lambda x: np.tensordot(np.square(np.reshape(x, (7, 4, 6))), signs, (1, 0))
    np.testing.assert_allclose(norm(algebra.PRODUCTS[name](A, B)), norm(A) * norm(B), rtol=1e-3, atol=1e-3)


def test_euclidean_length_one_is_an_isometry_of_quaternions_alone():
    """Trap: right multiplication by a dihedron of Euclidean length 1 stretches."""
    one = np.asarray(algebra.normalised(B[0, :4]))
    np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-6)
    stretches = {name: np.linalg.svd(np.asarray(algebra.PRODUCTS[name](np.eye(4), one)))[1] for name in BASES}
    np.testing.assert_allclose(stretches["hamilton"], 1, rtol=1e-5)
    assert stretches["dihedron"].max() > 1.05 and stretches["dihedron"].min() < 0.95


def test_zeros_stay_zeros():
    assert not np.asarray(algebra.normalised(np.zeros(8, np.float32))).any()
