"""Products of vectors that are read as numbers of an algebra: a vector `[…, D]` is D/4 of four parts, s, x, y and z,
its quarters one behind another."""

import functools

import jax.numpy as jnp


def real(a, b):
    """Number by number."""
    return a * b


def hamilton(a, b):
    """Quaternions: i² = j² = k² = ijk = −1 (arXiv 1904.10281). Norms multiply: s² + x² + y² + z²."""
    (s, x, y, z), (t, u, v, w) = (jnp.split(n, 4, -1) for n in (a, b))
    return jnp.concatenate(
        [
            s * t - x * u - y * v - z * w,
            s * u + x * t + y * w - z * v,
            s * v - x * w + y * t + z * u,
            s * w + x * v - y * u + z * t,
        ],
        -1,
    )


def dihedron(a, b):
    """Dihedra: i² = −1, j² = k² = 1, ij = k = −ji. What multiplies is s² + x² − y² − z², no Euclidean norm."""
    (s, x, y, z), (t, u, v, w) = (jnp.split(n, 4, -1) for n in (a, b))
    return jnp.concatenate(
        [
            s * t - x * u + y * v + z * w,
            s * u + x * t - y * w + z * v,
            s * v - x * w + y * t + z * u,
            s * w + x * v - y * u + z * t,
        ],
        -1,
    )


PRODUCTS = {"real": real, "hamilton": hamilton, "dihedron": dihedron}
PARTS = {"real": 1, "hamilton": 4, "dihedron": 4}  # of one number


def normalised(x):
    """Each number of four parts at Euclidean length 1; zeros stay zeros."""
    squares = functools.reduce(jnp.add, map(jnp.square, jnp.split(x, 4, -1)))
    return x / jnp.tile(jnp.sqrt(squares + 1e-15), 4)
