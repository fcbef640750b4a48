"""What several test files share: four small modalities, a random batch of them, a model, and a small run on emoji."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import emoji
from data_pipeline.spec import Modality
from pretrain.models import encdec
from pretrain.models.network import Network, describe
from pretrain.models.passes import Leaf, draw, evaluate, read
from pretrain.models.states import States
from pretrain.models.tokens import Shown, TokenSet
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
        if m.dense:
            valid = rng.random(size) >= missing
            if m.pictures:
                out[m.name] = {"pixels": rng.integers(256, size=(size, *m.shape), dtype=np.uint8), "valid": valid}
            else:
                vectors = rng.normal(size=(size, *m.shape)).astype(np.float32)
                out[m.name] = {"vectors": vectors, "valid": np.repeat(valid[:, None], m.length, 1)}
            continue
        ids, valid = np.zeros((size, m.length), m.dtype), np.zeros((size, m.length), bool)
        for b in range(size):
            if rng.random() < missing:
                continue
            if m.fixed_length:
                ids[b], valid[b] = rng.integers(m.vocab_size, size=m.length), True
            else:
                n = rng.integers(1, m.length + 1)
                ids[b, :n] = [*rng.choice(WORDS, n - 1, replace=False), EOS]
                valid[b, :n] = True
        out[m.name] = {"ids": ids, "valid": valid}
    return out


def config(**changes) -> encdec.Config:
    """Two encoder layers and one decoder layer in fp32."""
    values = dict(dim=16, heads=2, encoder_depth=2, decoder_depth=1, embed_dim=8, dtype="float32", mlp_ratio=2.0)
    return encdec.Config(**values | changes)


def model(embedded=("image", "caption"), modalities=MODALITIES, seed: int = 0, noise: float = 0.1, **changes):
    """The network of `config`, its biases, norms and tables no longer trivial."""
    return perturbed(Network(config(**changes), modalities, embedded, nnx.Rngs(seed)), seed, noise)


def noisy(params, seed: int = 0, noise: float = 0.1):
    """A tree of arrays with noise on every one: nothing of a start is trivial any more."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(tree, [x + noise * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def perturbed(module, seed: int = 0, noise: float = 0.1):
    """A module with noise on every parameter."""
    graph, params = nnx.split(module)
    return nnx.merge(graph, noisy(params, seed, noise))


def states(modalities=MODALITIES, **changes) -> States:
    """What the network of `config` can do, if objectives embed all that it reads."""
    readable = tuple(m.name for m in modalities if m.readable)
    return describe(config(**changes).compose(modalities, readable), modalities)


def context(modalities=MODALITIES, labels=(), **changes) -> Context:
    """What objectives of the network of `config` are given, with the sentinels of these texts."""
    network = states(modalities, **changes)
    return Context(modalities, labels, network=network, sentinel=SENTINEL, n_sentinels=N_SENTINELS)


def data(objective, batch, keys, train: bool = True) -> dict:
    """{name: value} of what an objective asks for that no network is needed for."""
    nodes = {name: node for name, node in objective.passes(train).items() if isinstance(node, Leaf)}
    made = draw(nodes.values(), batch, keys)
    return {name: read(leaf, made) for name, leaf in nodes.items()}


def outputs(objective, network, batch, keys, train: bool = True) -> dict:
    """{name: value} of all that an objective asks for, of a network."""
    nodes, (graph, params) = objective.passes(train), nnx.split(network)

    @jax.jit
    def run(params, batch, keys):
        made = draw(nodes.values(), batch, keys)
        values = evaluate(nodes.values(), {"online": nnx.merge(graph, params)}, made, keys)
        return [values[node] for node in nodes.values()]

    return dict(zip(nodes, run(params, jax.tree.map(jnp.asarray, batch), keys)))


def shown(present) -> Shown:
    """One token of those examples that are present `[B]`."""
    valid = jnp.asarray(present)[:, None]
    none = jnp.zeros(valid.shape, jnp.int32)
    return Shown(TokenSet(none, none, none, valid), {})


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
