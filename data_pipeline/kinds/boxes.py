"""Where objects lie in a picture, which only objectives read; `shape` is (boxes, 4)."""

import numpy as np

from data_pipeline.kinds import base, vectors
from data_pipeline.transforms.crop import crop_settings
from data_pipeline.view import VIEW


class Kind(vectors.Kind):
    """A field holds a row a box, left, top, right and bottom in shares of the whole picture; the first of too many.

    A batch holds them in shares of the crop that is shown, mirrored where it is. A box keeps its row, and is not valid
    where nothing of it is shown; of what is cut the part inside is left.
    """

    lists = ("labels",)

    def check(self, m, fail):
        base.no_range(m, fail)
        if m.shape[1] != 4:
            fail("shape", m.shape, "must be (boxes, 4)")

    def read(self, m, example, rng, encode):
        if isinstance(example.get(m.field), list | tuple) and not example[m.field]:
            return np.zeros((0, 4), np.float32)  # there is nothing, and that is known
        rows = super().read(m, example, rng, encode)
        if rows is None:
            return None
        if not ((rows[:, :2] < rows[:, 2:]).all() and ((rows >= 0) & (rows <= 1)).all()):
            raise base.misfit(m, example, "rows of left < right and top < bottom (l, t, r, b), in 0…1")
        view = example.get(VIEW)
        return rows if view is None or view.frame is None else shown(rows, view)

    def pad(self, m, parts, rows):
        """What lies outside of the crop is zeros, and not valid."""
        found = super().pad(m, parts, rows)
        return found | {"valid": found["valid"] & (found["vectors"][..., :2] < found["vectors"][..., 2:]).all(-1)}

    def synthetic(self, m, size, rng):
        found = super().synthetic(m, size, rng)
        low, high = rng.uniform(0, 0.5, (2, size, m.length, 2))
        rows = np.concatenate([low, low + 0.05 + 0.9 * high], -1).astype(np.float32)
        return found | {"vectors": rows * found["valid"][..., None]}


def shown(rows, view) -> np.ndarray:
    """Boxes `[n, 4]` of the whole picture → of the crop of a View; zeros for those outside."""
    height, width = view.frame
    crop = view.crop
    if crop is None:  # the centre, as of pictures
        (crop,) = crop_settings(np.random.default_rng(0), 1, view.frame, aspect=view.aspect)
    top, left, high, wide, flip = (float(x) for x in crop)
    corners = rows.reshape(-1, 2, 2) * (width, height)
    corners = ((corners - (left, top)) / (wide, high)).clip(0, 1)
    if flip:
        corners = np.stack([1 - corners[:, ::-1, 0], corners[..., 1]], -1)
    inside = (corners[:, 0] < corners[:, 1]).all(-1)
    return np.where(inside[:, None], corners.reshape(-1, 4), 0).astype(np.float32)
