"""Clouds of points, turned about their vertical axis, a little displaced, sometimes without their colours."""

import dataclasses

import numpy as np

from data_pipeline.transforms import base


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """field: of rows x, y, z, and, for `grey`, red, green and blue behind them. axis: 0, 1 or 2, what they turn about,
    by any angle; −1 for none. jitter: deviation of what each place is moved by, at most five times that. grey: how
    often all colours are .4 (OpenShape, arXiv 2305.10764: axis z, .5 grey). In evaluation nothing is done.
    """

    field: str = "points"
    axis: int = 2
    jitter: float = 0.01
    grey: float = 0.5

    def __post_init__(self):
        if self.axis not in (-1, 0, 1, 2):
            raise ValueError(f"turned_points.axis={self.axis}: must be 0, 1 or 2, or -1 for none")
        if self.jitter < 0 or not 0 <= self.grey <= 1:
            raise ValueError(
                f"turned_points.jitter={self.jitter}, grey={self.grey}: need a deviation, and a share of 0 to 1"
            )

    @property
    def reads(self):
        return (self.field,)

    @property
    def writes(self):
        return (self.field,)

    def __call__(self, example, rng):
        if rng is None or example.get(self.field) is None:
            return example
        points = np.array(example[self.field], np.float32)
        width = 6 if self.grey else 3
        if points.ndim != 2 or points.shape[1] < width:
            raise ValueError(
                f"turned_points.field={self.field!r}: row {example['row']} has {points.shape}; it needs rows of "
                f"{width} numbers and more"
            )
        angle = rng.uniform(0, 2 * np.pi)
        if self.axis >= 0:
            i, j = (k for k in range(3) if k != self.axis)
            a, b = points[:, i].copy(), points[:, j].copy()
            points[:, i], points[:, j] = np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b
        moved = rng.normal(size=(len(points), 3)) * self.jitter
        points[:, :3] += np.clip(moved, -5 * self.jitter, 5 * self.jitter)
        if self.grey and rng.random() < self.grey:
            points[:, 3:6] = 0.4
        return example | {self.field: points}
