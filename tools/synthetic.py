"""Random examples of given specs, for benchmarks and plans: what a batch of the pipeline looks like, without data."""

import numpy as np

from data_pipeline.spec import PICTURES
from data_pipeline.text import N_SENTINELS, TextTokenizer

WORDS = TextTokenizer.sentinel_start + N_SENTINELS  # the first id of a text vocabulary that is no special token


def batch(modalities, size: int, seed: int) -> dict:
    """`size` examples with every modality: texts of 10 to 100 % of their greatest length, closed by [EOS]."""
    rng = np.random.default_rng(seed)
    out = {"row": np.arange(size)}
    for m in modalities:
        if m.kind in PICTURES:
            pixels = rng.integers(256, size=(size, *m.shape), dtype=np.uint8)
            out[m.name] = {"pixels": pixels, "valid": np.ones(size, bool)}
            continue
        shortest = m.length if m.kind in ("grid", "set") else max(m.length // 10, 1)
        length = rng.integers(shortest, m.length + 1, size)
        valid = np.arange(m.length) < length[:, None]
        if m.kind == "vectors":
            out[m.name] = {"vectors": rng.normal(size=(size, *m.shape)).astype(np.float32), "valid": valid}
            continue
        low = min(WORDS, m.vocab_size - 1) if m.kind == "sequence" else 0
        ids = rng.integers(low, m.vocab_size, size=(size, m.length)).astype(m.dtype)
        if m.kind == "sequence":
            ids[np.arange(size), length - 1] = TextTokenizer.eos_id
        out[m.name] = {"ids": np.where(valid, ids, 0).astype(m.dtype), "valid": valid}
    return out
