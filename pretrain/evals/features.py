"""Frozen features: what all tasks but the losses are computed from, encoded once and shared by them."""

import collections
import functools
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.evals.base import Context, parts, split_layer, split_made
from pretrain.generate.chain import Generator, Target
from pretrain.models.image_network import blocks
from pretrain.models.passes import Leaf, compute
from pretrain.models.stream import mean
from pretrain.models.tokens import Whole

STEPS = 1  # in which a modality is predicted, as in 4M-21
KEPT = 2 << 30  # bytes of features that are held, of a context
TEXTS = 1024  # that are embedded at a time


class Features(NamedTuple):
    """row `[n]` int64, example numbers; pooled `[n, P]`, the pooled encoder output; z `[n, E]`, the embedding in the
    common space, of unit length (the pooled output where the modality has no projection); layers `[depth, n, D]`, the
    mean of the valid tokens after every block, or None.
    """

    row: np.ndarray
    pooled: np.ndarray
    z: np.ndarray
    layers: np.ndarray | None = None

    def at(self, rows) -> "Features":
        """The features of given examples, in that order."""
        order = np.argsort(self.row)
        index = order[np.searchsorted(self.row, rows, sorter=order)]
        layers = None if self.layers is None else self.layers[:, index]
        return Features(self.row[index], self.pooled[index], self.z[index], layers)


def features(context: Context, params, spec: str, splits, *, layers: bool = False, batch_size: int = 64) -> Features:
    """Encodes one modality alone, or several together (`a+b`), all their tokens, for every example of the splits.

    `a>c`: what the tokenizer of c makes of the tokens that the network predicts of a, one vector an example: retrieval
    by predicted features (4M-21, arXiv 2406.09406). Examples that have none of them are left out.
    The embedding z of several is the mean of their own, at unit length: nothing was trained to project them together.
    """
    memory = _memory(context)
    key = (spec, splits, layers)
    found = memory.get(params, key)
    if found is None:
        make = _predict if split_made(spec)[1] else _encode
        found = make(context, params, spec, splits, layers, batch_size)
        memory.put(params, key, found)
    return found


def represent(context: Context, params, spec: str, splits, kind: str = "pooled") -> tuple[np.ndarray, np.ndarray]:
    """(rows `[n]`, x `[n, D]`) of a representation `a+b`, `a>c` or `a:LAYER`.

    kind: `pooled` or `z`, where it has no layer.
    """
    names, layer = split_layer(spec)
    found = features(context, params, names, splits, layers=layer is not None)
    if layer is None:
        return found.row, getattr(found, kind)
    if not -len(found.layers) <= layer < len(found.layers):
        raise ValueError(f"{spec!r}: {names!r} has layers 0 … {len(found.layers) - 1}")
    return found.row, found.layers[layer]


def together(context: Context, params, specs, splits, kind: str = "pooled") -> tuple[np.ndarray, list[np.ndarray]]:
    """(rows `[n]` that all representations have, their features `[n, D]` in one order)."""
    found = [represent(context, params, spec, splits, kind) for spec in specs]
    rows = functools.reduce(np.intersect1d, (row for row, _ in found))
    if not len(rows):
        raise ValueError(f"no example of {splits} has all of {', '.join(specs)}: compare others, or take another split")
    aligned = []
    for row, x in found:
        order = np.argsort(row)
        aligned.append(x[order[np.searchsorted(row, rows, sorter=order)]])
    return rows, aligned


def embed_texts(context: Context, params, modality: str, texts) -> np.ndarray:
    """Texts as a modality's own tokenizer makes them → their embeddings z `[n, E]`."""
    parts = (texts[first : first + TEXTS] for first in range(0, len(texts), TEXTS))
    return np.concatenate([embed(context, params, {modality: build.write(context.run, modality, p)}) for p in parts])


def embed(context: Context, params, batch: dict) -> np.ndarray:
    """A batch of one modality → its embeddings z `[n, E]`."""
    return jax.device_get(_embedder(context, tuple(batch), False)(params, batch))[1]


def unit(x):
    """Rows of unit length; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _encode(context, params, spec, splits, layers, batch_size) -> Features:
    names = parts(spec)
    embed, rows, found = _embedder(context, tuple(names), layers), [], []
    for batch in context.batches(splits, batch_size):
        *made, present = jax.device_get(embed(params, {k: batch[k] for k in names}))
        keep = present & (batch["row"] >= 0)
        rows.append(batch["row"][keep])
        found.append([x if x is None else np.asarray(x, np.float32)[..., keep, :] for x in made])
    if not sum(map(len, rows)):
        raise ValueError(f"features of {spec!r}: no example of {splits} has it; leave it out of the evals")
    pooled, z, hidden = (None if p[0] is None else np.concatenate(p, axis=-2) for p in zip(*found))
    row = np.concatenate(rows)
    if len(names) > 1 and set(names) <= set(context.embedded):
        z = np.zeros((len(row), 1), np.float32)
        place = {r: i for i, r in enumerate(row.tolist())}
        for name in names:
            own, total = features(context, params, name, splits), z
            z = np.broadcast_to(total, (len(row), own.z.shape[1])).copy()
            z[[place[r] for r in own.row.tolist()]] += own.z
        z = unit(z)
    return Features(row, z if pooled is None else pooled, z, hidden)


def _predict(context, params, spec, splits, layers, batch_size) -> Features:
    """Centred: what all examples have in common, such as the ground of pictures, says nothing about one."""
    if layers:
        raise ValueError(f"{spec!r}: what is made has no layers; leave the number out")
    names, (_, made) = parts(spec), split_made(spec)
    generator = Generator(context.graph, params["model"], context.modalities)
    decoder = context.tokenizers[next(m.tokenizer for m in context.modalities if m.name == made)]
    rows, found = [], []
    for batch in context.batches(splits, batch_size):
        shown = {k: batch[k] for k in ("row", *names)}
        ids = generator(shown, names, [Target(made, steps=STEPS, temperature=0.0)])[made]["ids"]
        present = [batch[n]["valid"].reshape(len(batch["row"]), -1).any(1) for n in names]
        keep = np.any(present, axis=0) & (batch["row"] >= 0)
        if keep.any():
            rows.append(batch["row"][keep])
            found.append(decoder.decode(np.asarray(ids)[keep]).reshape(keep.sum(), -1).astype(np.float32))
    if not rows:
        raise ValueError(f"features of {spec!r}: no example of {splits} has it; leave it out of the evals")
    x = np.concatenate(found)
    x -= x.mean(0)
    return Features(np.concatenate(rows), x, unit(x))


@functools.lru_cache(maxsize=64)
def _embedder(context: Context, names: tuple[str, ...], layers: bool):
    """jitted (params, batch) → (pooled, z, layers or None, which examples have any of it)."""
    leaf = Leaf(Whole(names, context.modalities))

    def embed(params, batch):
        network = nnx.merge(context.graph, params["model"])
        states, hidden = network.states, None
        if layers:
            every, counted = blocks(network, batch, names)
            hidden = jnp.stack([mean(every[:, i], counted) for i in range(every.shape[1])])
        nodes = {"shown": leaf}
        if pooled := states.together(names):
            z = states.embedding(names[0], leaf) if len(names) == 1 else None
            nodes |= dict(pooled=pooled, z=z or pooled)
        found = compute(network, nodes, batch)
        # Of several that no encoder reads together only their embeddings can be joined.
        return found.get("pooled"), found.get("z"), hidden, found["shown"].tokens.valid.any(1)

    return jax.jit(embed)


class _Memory:
    """Features by (parameters, key). It holds no parameters: those that are gone are forgotten."""

    def __init__(self, limit: int):
        self._limit, self._held = limit, collections.OrderedDict()

    def get(self, params, key):
        leaf = jax.tree.leaves(params)[0]
        owner, found = self._held.get((id(leaf), key), (None, None))
        return found if owner is not None and owner() is leaf else None

    def put(self, params, key, value):
        leaf = jax.tree.leaves(params)[0]
        for k in [k for k, (owner, _) in self._held.items() if owner() is None]:
            del self._held[k]
        self._held[id(leaf), key] = (weakref.ref(leaf), value)
        while len(self._held) > 1 and sum(_size(v) for _, v in self._held.values()) > self._limit:
            self._held.popitem(last=False)


def _size(found: Features) -> int:
    return sum(x.nbytes for x in found if x is not None)


@functools.lru_cache(maxsize=8)
def _memory(context: Context) -> _Memory:
    return _Memory(KEPT)
