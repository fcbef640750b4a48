"""Fixed sine-cosine position tables, as in MAE and 4M, and distances between places of pictures.

`waves` are the lengths of the shortest and (nearly) the longest wave, in tokens over 2π; the others lie between them in
geometric progression.
"""

import jax.numpy as jnp
import numpy as np

WAVES = (1.0, 10000.0)


def sincos_1d(length: int, dim: int, waves=WAVES) -> np.ndarray:
    """`[length, dim]`: sin | cos of position / wave_k, in 4M 10000^(k / (dim/2)) (arXiv 1706.03762, 3.5)."""
    return _sincos(np.arange(length), dim, waves)


def sincos_2d(rows: int, columns: int, dim: int, waves=WAVES, span=()) -> np.ndarray:
    """`[rows * columns, dim]`, raster order: sin | cos of the row, then of the column (arXiv 2312.06647).

    span: (rows, columns) of the grid whose places the table covers, (): its own. A finer grid then has places between
    those of the coarser one, cell centres aligned as in the resizing of images, so that a model can read both.
    """
    if dim % 4:
        raise ValueError(f"dim={dim}: a 2-D sine-cosine table needs a multiple of 4")
    at = np.divmod(np.arange(rows * columns), columns)
    row, column = (((a + 0.5) * s / n - 0.5) if span else a for a, s, n in zip(at, span or at, (rows, columns)))
    return np.concatenate([_sincos(row, dim // 2, waves), _sincos(column, dim // 2, waves)], axis=1)


def resize(table, grid, new) -> np.ndarray:
    """A table `[rows · columns, dim]` of a grid on another one, bicubically as `torch.nn.functional.interpolate` does.

    Cubic convolution with a = −0.75 (Keys 1981), cell centres aligned, borders repeated, no antialiasing.
    """
    rows, columns = (_bicubic(n, m) for n, m in zip(grid, new))
    out = np.einsum("ir,jc,rcd->ijd", rows, columns, np.asarray(table, np.float64).reshape(*grid, -1))
    return out.reshape(new[0] * new[1], -1).astype(np.float32)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Weights `[new, old]` of the old places in each new one."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(at)[:, None] + np.arange(-1, 3)  # the four places around each
    d = np.abs(at[:, None] - taps)
    weight = np.where(d <= 1, 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4))
    out = np.zeros((new, old))
    np.add.at(out, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), weight)
    return out


def distances(a, b):
    """Between places a `[B, N, 3]` and b `[B, M, 3]`, each (row, column, 1), or zeros for what has none: `[B, N, M]`.

    Euclidean, in the places' own units; 0 where one of the two has no place.
    """
    square = jnp.square(a[:, :, None, :2] - b[:, None, :, :2]).sum(-1)
    both = a[:, :, None, 2] * b[:, None, :, 2] > 0
    return jnp.where(both, jnp.sqrt(jnp.maximum(square, 1e-12)), 0.0)


def _sincos(position, dim, waves):
    # 4M's own waves in fp32 throughout, as it computes them: exact tables differ from its by 1e-5 at position 500.
    real = np.float32 if tuple(waves) == WAVES else np.float64
    shortest, longest = np.asarray(waves, real)
    omega = 1 / (shortest * np.power(longest / shortest, np.arange(dim // 2, dtype=real) / real(dim / 2)))
    angle = position.astype(real)[:, None] * omega[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
