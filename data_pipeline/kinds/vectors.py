"""Continuous embeddings, a row each token; `shape` is (max_len, width). Input only."""

import numpy as np

from data_pipeline.kinds import base


class Kind(base.Kind):
    """A field holds rows of numbers, or one row."""

    rank, form = 2, "vectors"
    dense = spans = True

    def check(self, m, fail):
        base.no_range(m, fail)
        if m.targets:
            fail("targets", True, "vectors can only be input: set targets=False")
        if m.patch:
            fail("patch", m.patch, f"must divide the height and width of pixels of shape {m.shape}")

    def width(self, m):
        return m.shape[1]

    def dtype(self, m):
        return "float32"

    def read(self, m, example, rng, encode):
        if example.get(m.field) is None:
            return None
        try:
            rows = np.atleast_2d(np.asarray(example[m.field], np.float32))[: m.length]
        except (ValueError, TypeError) as e:
            raise base.misfit(m, example, f"rows of {m.width} numbers") from e
        if rows.ndim != 2 or rows.shape[1] != m.width:
            raise ValueError(
                f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {rows.shape}; mend the data, or "
                "set the shape"
            )
        return rows

    def pad(self, m, parts, rows):
        """Rows `[n, width]`, None for none, → {"vectors" `[B, L, width]`, "valid" `[B, L]`}."""
        vectors = np.zeros((len(parts), *m.shape), np.float32)
        for padded, part in zip(vectors, parts):
            if part is not None:
                padded[: len(part)] = part
        bad = ~np.isfinite(vectors).reshape(len(parts), -1).all(1)
        if bad.any():
            raise ValueError(
                f"modality {m.name!r}: row {rows[bad.argmax()]} holds {m.field} that is not finite (NaN or infinite in "
                "float32): mend it or leave the example out"
            )
        sizes = np.array([0 if part is None else len(part) for part in parts])
        return {"vectors": vectors, "valid": np.arange(m.length) < sizes[:, None]}

    def rows(self, m, values):
        return values

    def synthetic(self, m, size, rng):
        valid = self.lengths(m, size, rng)
        return {"vectors": rng.normal(size=(size, *m.shape)).astype(np.float32), "valid": valid}
