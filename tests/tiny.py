"""What several test files share: four small modalities, a random batch of them, a model, and a small run on emoji."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import emoji
from data_pipeline.spec import DENSE, PICTURES, Modality
from pretrain.models import encdec
from pretrain.objectives.base import Context
from pretrain.tokenizers.quantizers.base import Place

# Text ids of the tests: 3 is [EOS], 4..33 are sentinels, 40..79 are words.
TEXT, EOS, SENTINEL, N_SENTINELS, WORDS = 80, 3, 4, 30, range(40, 80)
MODALITIES = (
    Modality("image", "grid", (4, 4), "image", "image", 20, tokenizer="fsq"),
    Modality("depth", "grid", (2, 3), "depth", "depth", 12, tokenizer="fsq"),
    Modality("caption", "sequence", (10,), "caption", "text", TEXT, tokenizer="text"),
    Modality("label", "sequence", (5,), "label", "text", TEXT, tokenizer="text"),
)


def batch(size: int, seed: int = 0, modalities=MODALITIES, missing: float = 0.25) -> dict:
    """Random examples as the pipeline makes them; words of one sequence all differ, so masking can be traced."""
    rng = np.random.default_rng(seed)
    out = {"row": np.arange(size)}
    for m in modalities:
        if m.kind in DENSE:
            valid = rng.random(size) >= missing
            if m.kind in PICTURES:
                out[m.name] = {"pixels": rng.integers(256, size=(size, *m.shape), dtype=np.uint8), "valid": valid}
            else:
                vectors = rng.normal(size=(size, *m.shape)).astype(np.float32)
                out[m.name] = {"vectors": vectors, "valid": np.repeat(valid[:, None], m.length, 1)}
            continue
        ids, valid = np.zeros((size, m.length), m.dtype), np.zeros((size, m.length), bool)
        for b in range(size):
            if rng.random() < missing:
                continue
            if m.kind in ("grid", "set"):
                ids[b], valid[b] = rng.integers(m.vocab_size, size=m.length), True
            else:
                n = rng.integers(1, m.length + 1)
                ids[b, :n] = [*rng.choice(WORDS, n - 1, replace=False), EOS]
                valid[b, :n] = True
        out[m.name] = {"ids": ids, "valid": valid}
    return out


def model(embedded=("image", "caption"), modalities=MODALITIES, seed: int = 0, noise: float = 0.1, **config):
    """A model of two encoder layers and one decoder layer in fp32, its biases, norms and tables no longer trivial."""
    values = dict(dim=16, heads=2, encoder_depth=2, decoder_depth=1, embed_dim=8, dtype="float32", mlp_ratio=2.0)
    made = encdec.Model(encdec.Config(**values | config), modalities, embedded, nnx.Rngs(seed))
    graph, params = nnx.split(made)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [x + noise * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves))


def context(modalities=MODALITIES) -> Context:
    """What objectives are given, with the sentinels of these texts."""
    return Context(modalities, sentinel=SENTINEL, n_sentinels=N_SENTINELS)


def place(valid, key: int = 0) -> Place:
    """Where the examples of a batch stand, for the statistics of a quantizer."""
    rank = np.where(valid, np.cumsum(valid) - 1, -1)
    return Place(jnp.asarray(rank), jnp.int32(np.sum(valid)), jax.random.key(key))


def is_sentinel(ids):
    """Which text ids are sentinels."""
    return (ids >= SENTINEL) & (ids < SENTINEL + N_SENTINELS)


def only(data: dict, **changes) -> dict:
    """A copy of a batch with some of its modalities replaced."""
    return {**data, **changes}


def without(data: dict, name: str) -> dict:
    """A copy of a batch that lacks one modality altogether."""
    return {**data, name: {"ids": data[name]["ids"], "valid": np.zeros_like(data[name]["valid"])}}


def replace(modality: Modality, **changes) -> Modality:
    return dataclasses.replace(modality, **changes)


def emoji_run(store, terms=("masked", "contrastive")):
    """The tiny emoji run on a picture and a text with some of its objectives: it compiles fast."""
    c = emoji.get_config("tiny")
    names = ("render3d", "caption")
    c.modalities = [m for m in c.modalities if m["name"] in names]
    every = dict.fromkeys(names, 1.0)
    c.objectives.masked.mixture = [dict(inputs=every, targets=every)]
    c.objectives.contrastive.edges = [dict(a="render3d", b="caption")]
    for name in set(c.objectives) - set(terms):
        del c.objectives[name]
    c.data.path, c.evals, c.final_evals, c.checkpoint.best = str(store), {}, {}, ""
    c.steps, c.optim.warmup, c.model.encoder_depth = 20, 1, 1
    c.checkpoint.every, c.log.every = 100, 1
    return c
