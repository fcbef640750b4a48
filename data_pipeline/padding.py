"""Ids of many examples of one modality → its arrays in a batch: checked and padded all at once."""

import math

import numpy as np


def pad_ids(parts: list, m, rows) -> dict:
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
    if m.fixed_length and ((sizes != 0) & (sizes != m.length)).any():
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
        short = m.fixed_length and len(part) < m.length
        if len(part) and (short or len(part) > m.length or not 0 <= part.min() <= part.max() < m.vocab_size):
            raise ValueError(
                f"modality {m.name!r}: {len(part)} ids of {part.min()}…{part.max()} in row {row} do not fit length "
                f"{m.length} and vocab_size {m.vocab_size}; tokenize again with this spec"
            )
