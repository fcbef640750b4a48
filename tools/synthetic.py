"""Random examples of given specs, for benchmarks and plans: what a batch of the pipeline looks like, without data."""

import numpy as np

from data_pipeline import kinds


def batch(modalities, size: int, seed: int) -> dict:
    """`size` examples with every modality: texts of 10 to 100 % of their greatest length, closed by [EOS]."""
    rng = np.random.default_rng(seed)
    return {"row": np.arange(size)} | {m.name: kinds.of(m).synthetic(m, size, rng) for m in modalities}
