"""Examples of one modality → its arrays in a batch: checked and padded all at once."""

import math

import numpy as np

from data_pipeline.spec import Modality


def pad_ids(parts: list, m: Modality, rows) -> dict:
    """Lists of ids, None for none, → {"ids" `[B, L]`, "valid" `[B, L]`}."""
    shape = (len(parts), m.length)
    try:
        parts = [np.asarray(() if part is None else part) for part in parts]
    except ValueError:  # a list of lists of several lengths
        parts = [np.asarray(() if part is None else part, object) for part in parts]
    sizes = np.array([len(part) for part in parts])
    held = [part for part in parts if len(part)]
    if not held:
        return {"ids": np.zeros(shape, m.dtype), "valid": np.zeros(shape, bool)}
    try:
        flat = np.concatenate(held)
    except ValueError:  # some are lists of ids, some of lists
        flat = np.zeros(())
    whole = flat.dtype.kind in "iu" and flat.ndim == 1
    if not whole or sizes.max() > m.length or flat.min() < 0 or flat.max() >= m.vocab_size:
        _explain_ids(parts, m, rows)
    if flat.size == math.prod(shape):  # grids that all are there, ten times faster
        return {"ids": flat.reshape(shape).astype(m.dtype), "valid": np.ones(shape, bool)}
    if m.kind in ("grid", "set") and ((sizes != 0) & (sizes != m.length)).any():
        _explain_ids(parts, m, rows)
    ids, valid = np.zeros(shape, m.dtype), np.arange(m.length) < sizes[:, None]
    ids[valid] = flat
    return {"ids": ids, "valid": valid}


def _explain_ids(parts, m, rows):
    """ValueError for the first row whose ids do not fit."""
    for part, row in zip(parts, rows):
        if len(part) and (part.dtype.kind not in "iu" or part.ndim != 1):
            raise ValueError(
                f"modality {m.name!r}: row {row} holds {part.dtype} of shape {part.shape}: ids are integers; tokenize "
                "again, or name another field"
            )
        short = m.kind in ("grid", "set") and len(part) < m.length
        if len(part) and (short or len(part) > m.length or not 0 <= part.min() <= part.max() < m.vocab_size):
            raise ValueError(
                f"modality {m.name!r}: {len(part)} ids of {part.min()}…{part.max()} in row {row} do not fit length "
                f"{m.length} and vocab_size {m.vocab_size}; tokenize again with this spec"
            )


def pad_vectors(parts: list, m: Modality, rows) -> dict:
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


def pad_pixels(parts: list, m: Modality, rows) -> dict:
    """Pictures or clips, None for none, → {"pixels" `[B, …, H, W, C]`, "valid" `[B]`}."""
    pixels = np.zeros((len(parts), *m.shape), np.uint8)
    for padded, part in zip(pixels, parts):
        if part is not None:
            padded[...] = part
    return {"pixels": pixels, "valid": np.array([part is not None for part in parts])}
