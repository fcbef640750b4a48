"""Data-dependent initialization: what fresh parameters take from the training data before the first step.

The codes of a tokenizer may start as the k-means of what its encoder makes of training examples (`kmeans` of its
quantizer), and its decoder then reads them standardised; the tables of a vocabulary may start as images of the codes of
its tokenizer (`Modality.code_std`).
"""

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from pretrain.models.passes import ONLINE
from pretrain.ops.keys import named
from pretrain.parameters import path_str

EXAMPLES = 2048  # at most, whose vectors k-means sees
CHUNK = 32  # examples that are encoded together


def data_init(program, codes: dict, source, encode):
    """The fresh parameters of a run, those that start from its data as host arrays; None if none does.

    program: a `Program`; codes: of `read_codes`; source, encode: the examples that it is trained on. What the first
    process found is taken by all. ValueError if there are too few examples for k-means.
    """
    run = program.run
    network = nnx.merge(program.graphs[ONLINE], program.params["model"])
    kmeans = network.autoencoder.kmeans if "autoencoder" in network.states else 0
    if not codes and not kmeans:
        return None
    found = {}
    if kmeans:
        model = nnx.merge(program.graphs[ONLINE], jax.device_get(jax.jit(program.init)())["model"]).autoencoder
        z, tokens = latents(model, run, source, encode)
        if len(z) < model.quantizer.vocab_size:
            raise ValueError(
                f"config.model.quantizer.kmeans={kmeans}: {len(source)} examples give {len(z)} vectors, too few for "
                f"the k-means of {model.quantizer.vocab_size} codes: set kmeans=0, or fewer codes"
            )
        chosen = np.random.default_rng(run.seed).permutation(len(z))[:kmeans]
        start = model.quantizer.start(z[chosen], run.batch_size * len(run.modalities) * tokens)
        kernel, bias = standardised(model.from_code.kernel[...], z[chosen] * model.code_scale)
        found |= {f"model/autoencoder/quantizer/{name}": value for name, value in jax.device_get(start).items()}
        found |= {"model/autoencoder/from_code/kernel": kernel, "model/autoencoder/from_code/bias": bias}
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.params):
        path = path_str(path)
        if (vocab := program.roles[path].vocab) in codes:
            std, rows = codes[vocab]
            found[path] = jax.device_get(std * image(rows, leaf.shape[1], named(jax.random.key(run.seed), path)))
    if jax.process_count() > 1:
        found = multihost_utils.broadcast_one_to_all(found)
    params = program.place_params()
    return jax.tree_util.tree_map_with_path(lambda path, leaf: found.get(path_str(path), leaf), params)


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
            raw = np.stack([x[m.form] for x in own])
            z = np.asarray(function(params, raw), np.float32)
            rows.append(z[[np.all(x["valid"]) for x in own]])
    rows = np.concatenate(rows)
    return rows.reshape(-1, rows.shape[-1]), rows.shape[1]


def standardised(kernel, x):
    """(kernel, bias) of a linear layer whose outputs for x `[n, d]` have mean 0 and deviation 1 each, as data-dependent
    initialization has it (arXiv 1602.07868)."""
    y = x @ kernel
    deviation = np.maximum(y.std(0), 1e-6)  # of pictures that are all alike
    return np.asarray(kernel / deviation), np.asarray(-y.mean(0) / deviation)


def image(codes, dim: int, key):
    """A random linear image `[V, dim]` of codes `[V, d]`, about of norm dim^½, plus a tenth of noise.

    Tokens whose codes are alike start out with like embeddings.
    """
    centred = codes - codes.mean(0)
    centred = centred / np.sqrt(np.square(centred).sum(1).mean())
    linear, noise = jax.random.split(key)
    made = centred @ jax.random.normal(linear, (codes.shape[1], dim))
    return made + 0.1 * jax.random.normal(noise, made.shape)
