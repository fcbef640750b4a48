"""Data-dependent initialization: what fresh parameters take from the training data before the first step.

The codes of a tokenizer may start as the k-means of what its encoder makes of training examples (`kmeans` of its
quantizer), and its decoder then reads them standardised; the tables of a vocabulary may start as images of the codes of
its tokenizer (`Modality.code_std`).
"""

import re
import zlib

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from pretrain.sharding import path_str

EXAMPLES = 2048  # at most, whose vectors k-means sees
CHUNK = 32  # examples that are encoded together
TABLE = re.compile(r"^model/(?:.*/)?tokens/(?:tables|decoder_tables|heads)/(.*)$")


def data_init(program, codes: dict, source, encode):
    """The fresh parameters of a run, host arrays, with what they take from its data; None if that is nothing.

    program: a `Program`; codes: of `read_codes`; source, encode: the examples that it is trained on. Every process gets
    the parameters of the first. ValueError if they are too few for k-means.
    """
    run = program.run
    kmeans = getattr(nnx.merge(program.graph, program.params["model"]), "kmeans", 0)
    if not codes and not kmeans:
        return None
    params = jax.device_get(jax.jit(program.init)())
    if kmeans:
        model = nnx.merge(program.graph, params["model"])
        z, tokens = latents(model, run, source, encode)
        if len(z) < model.quantizer.vocab_size:
            raise ValueError(
                f"config.model.quantizer.kmeans={kmeans}: {len(source)} examples give {len(z)} vectors, too few for "
                f"the k-means of {model.quantizer.vocab_size} codes: set kmeans=0, or fewer codes"
            )
        chosen = np.random.default_rng(run.seed).permutation(len(z))[:kmeans]
        start = model.quantizer.start(z[chosen], run.batch_size * len(run.modalities) * tokens)
        params["model"]["quantizer"] |= jax.device_get(start)
        params["model"]["from_code"] = standardised(params["model"]["from_code"], z[chosen] * model.code_scale)

    def start_table(path, leaf):
        path = path_str(path)
        found = TABLE.match(path)
        if not found or found[1] not in codes:
            return leaf
        std, rows = codes[found[1]]
        key = jax.random.fold_in(jax.random.key(run.seed), zlib.crc32(path.encode()))
        return jax.device_get(std * image(rows, leaf.shape[1], key))

    params = jax.tree_util.tree_map_with_path(start_table, params)
    return multihost_utils.broadcast_one_to_all(params) if jax.process_count() > 1 else params


def latents(model, run, source, encode):
    """(what a tokenizer's encoder makes of examples drawn from a source, `[n, d]`; how many of them are of one)."""
    graph, params = nnx.split(model)
    function = jax.jit(lambda params, raw: nnx.merge(graph, params).latents(raw))
    rng = np.random.default_rng(run.seed)
    chosen = rng.choice(len(source), min(len(source), EXAMPLES), replace=False)
    rows = []
    for start in range(0, len(chosen), CHUNK):
        examples = [encode(source[int(i)], rng) for i in chosen[start : start + CHUNK]]
        for m in run.modalities:
            own = [e[m.name] for e in examples]
            raw = np.stack([x["vectors" if m.kind == "vectors" else "pixels"] for x in own])
            z = np.asarray(function(params, raw), np.float32)
            rows.append(z[[np.all(x["valid"]) for x in own]])
    rows = np.concatenate(rows)
    return rows.reshape(-1, rows.shape[-1]), rows.shape[1]


def standardised(linear: dict, x) -> dict:
    """A linear layer whose outputs for x `[n, d]` have mean 0 and deviation 1, each (arXiv 1602.07868, section 3)."""
    y = x @ linear["kernel"]
    deviation = y.std(0)
    return {"kernel": linear["kernel"] / deviation, "bias": -y.mean(0) / deviation}


def image(codes, dim: int, key):
    """A random linear image `[V, dim]` of codes `[V, d]`, about of norm dim^½, plus a tenth of noise.

    Tokens whose codes are alike start out with like embeddings.
    """
    centred = codes - codes.mean(0)
    centred = centred / np.sqrt(np.square(centred).sum(1).mean())
    linear, noise = jax.random.split(key)
    made = centred @ jax.random.normal(linear, (codes.shape[1], dim))
    return made + 0.1 * jax.random.normal(noise, made.shape)
