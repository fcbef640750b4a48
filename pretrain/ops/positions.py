"""Fixed sine-cosine position tables, as in MAE and 4M."""

import numpy as np


def sincos_1d(length: int, dim: int, base: float = 10000.0) -> np.ndarray:
    """`[length, dim]`: sin | cos of position · base^(-k / (dim/2)) (arXiv 1706.03762, section 3.5)."""
    return _sincos(np.arange(length), dim, base)


def sincos_2d(rows: int, columns: int, dim: int, base: float = 10000.0) -> np.ndarray:
    """`[rows * columns, dim]`, raster order: sin | cos of the row, then of the column (arXiv 2312.06647)."""
    if dim % 4:
        raise ValueError(f"dim={dim}: a 2-D sine-cosine table needs a multiple of 4")
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.concatenate([_sincos(row, dim // 2, base), _sincos(column, dim // 2, base)], axis=1)


def _sincos(position, dim, base):
    omega = base ** (-np.arange(dim // 2) / (dim / 2))
    angle = position[:, None] * omega[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
