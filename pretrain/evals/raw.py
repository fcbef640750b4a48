"""What costs nothing: pictures by their pixels and texts by their tokens, which a network should be ahead of."""

import functools

import cv2
import numpy as np

from pretrain.evals.base import Context
from pretrain.evals.features import unit
from pretrain.evals.pictures import Images

SIDE = 16  # pixels
MOST = 20_000  # examples: of more it would take gigabytes


@functools.lru_cache(maxsize=32)
def _read(context: Context, name: str, splits) -> tuple[np.ndarray, np.ndarray] | None:
    """(rows `[n]`, pixels `[n, SIDE, SIDE, C]` in 0…1 or which tokens a text has `[n, V]`) of the examples that have a
    modality; None of one that is neither, or that cannot be shown here, and of more than MOST."""
    images = Images(context)
    m = images.modalities.get(name)
    try:
        if m is None or not (_ids(m) or images.has(name)) or len(context.source(splits)) > MOST:
            return None
    except (OSError, ValueError):  # a tokenizer is not there
        return None
    rows, found = [], []
    for batch in context.batches(splits, 64):
        keep = (batch["row"] >= 0) & batch[name]["valid"].reshape(len(batch["row"]), -1).any(1)
        mine = {key: np.asarray(value)[keep] for key, value in batch[name].items()}
        rows.append(batch["row"][keep])
        found += _words(m, mine) if _ids(m) else map(_small, images.pictures(name, mine))
    return (np.concatenate(rows), np.stack(found)) if found else None


def _ids(m) -> bool:
    """Whether it is a text of tokens, not one that is drawn."""
    return m.text and m.form == "ids"


def _words(m, given):
    out = np.zeros((len(given["ids"]), m.vocab_size), np.float32)
    out[np.nonzero(given["valid"])[0], given["ids"][given["valid"]]] = 1
    return list(out)


def _small(picture):
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).reshape(SIDE, SIDE, -1) / np.float32(255)


def together(context: Context, names, splits) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """(rows `[n]`, a vector of unit length for each name, `[n, D]` each) of the examples that have all; None where they
    cannot be compared: of a picture and a text, of texts of several vocabularies, of clips of several lengths.

    Of pictures the mean over examples is left out, which says nothing of one; a grey one is compared with a grey one.
    """
    read = [_read(context, name, splits) for name in names]
    if any(found is None for found in read):
        return None
    specs = {m.name: m for m in context.modalities}
    texts = [specs[name] for name in names if _ids(specs[name])]
    if texts and (len(texts) < len(names) or len({m.vocab for m in texts}) > 1):
        return None
    rows = functools.reduce(np.intersect1d, (rows for rows, _ in read))
    values = [_at(rows, *found) for found in read]
    if not texts:
        if len({x.shape[-1] for x in values}) > 1:
            values = [x.mean(-1, keepdims=True) for x in values]
        values = [(x - x.mean(0)).reshape(len(x), -1) for x in values]
    return rows, [unit(x) for x in values]


def vectors(context: Context, name: str, splits) -> tuple[np.ndarray, np.ndarray] | None:
    """(rows `[n]`, vectors `[n, D]`) of one modality, pixels or which tokens; None of one that is neither."""
    found = _read(context, name, splits)
    return None if found is None else (found[0], found[1].reshape(len(found[1]), -1))


def _at(rows, own, x):
    """x `[n, …]` of examples `own [n]`, in the order of `rows`."""
    order = np.argsort(own)
    return x[order[np.searchsorted(own, rows, sorter=order)]]
