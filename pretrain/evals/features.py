"""Frozen features of whole modalities: what retrieval, k-NN and probes are computed from."""

import functools

import jax
import numpy as np
from flax import nnx

from pretrain.evals.base import Context
from pretrain.models.tokens import dense_rows, whole


@functools.lru_cache(maxsize=32)
def _embedder(context: Context, modality: str):
    def embed(params, batch):
        model = nnx.merge(context.graph, params["model"])
        tokens = whole(batch, modality, context.modalities)
        own = [m for m in context.modalities if m.name == modality]
        pooled, z = model.pooled(tokens, dense_rows(batch, own), modality)
        return pooled, z, tokens.valid.any(1)

    return jax.jit(embed)


def features(context: Context, params, modality: str, splits, batch_size: int = 64) -> dict:
    """Encodes one modality alone, all its tokens, for every example of the splits.

    Returns {"row" `[n]`, "pooled" `[n, P]` (the pooled encoder output), "z" `[n, embed_dim]` (the contrastive
    embedding; the pooled output where the modality has no projection)}; examples that lack it are left out.
    """
    embed, rows, parts = _embedder(context, modality), [], []
    for batch in context.batches(splits, batch_size):
        pooled, z, present = jax.device_get(embed(params, batch))
        keep = present & (batch["row"] >= 0)
        rows.append(batch["row"][keep])
        parts.append((pooled[keep], z[keep]))
    if not sum(map(len, rows)):
        raise ValueError(f"features of {modality!r}: no example of {splits} has it; leave it out of the evals")
    pooled, z = (np.concatenate(p) for p in zip(*parts))
    return {"row": np.concatenate(rows), "pooled": pooled, "z": z}
