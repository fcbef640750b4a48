"""Modality inversion: what one modality says, as an input of the other's encoder (arXiv 2502.04263, section 4)."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from data_pipeline import kinds
from pretrain import build
from pretrain.evals import metrics
from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.intervened import sample
from pretrain.evals.knn import held_out, inputs, labels, labels_of
from pretrain.models.edits import Edited, Replace
from pretrain.models.passes import compute
from pretrain.ops.keys import named

STD = 0.02  # of the vectors that inversion starts from


class Inverted(NamedTuple):
    """values `[n, P, D]`: what was learned for each example; z `[n, E]`: the embeddings of these; cosine `[steps + 1,
    n]`: with the examples' own, before every step and after the last."""

    values: np.ndarray
    z: np.ndarray
    cosine: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of each pair (a, b) of embedded modalities: every example of a becomes an input of b's encoder, the one whose
    embedding has the largest cosine with its own. Retrieval of a by a, by label (mAP), with a's embeddings as queries
    (`native`) and with those of the inputs (`inverted`): between modalities, then, as contrast has trained it.

    Into a text, the input is one vector in the place of a word, behind those of `template` (textual inversion, OTI);
    else `pseudo` vectors in the place of patches or rows, each of an equal share of them in their order (OVI). They
    start from N(0, .02²) and are learned by AdamW; the network stays as it is, and no example knows of others.

    `cosine`: what it came to, from `first cosine`. At 1 the inversion is void: `inverted` is then what `native` is.
    """

    place = 89

    pairs: tuple[tuple[str, str], ...]
    label: str
    template: str = "a photo of"
    pseudo: int = 1
    steps: int = 150
    lr: float = 2e-2
    weight_decay: float = 1e-2
    examples: int = 128
    batch_size: int = 64
    splits: tuple[str, ...] = ("val", "test")
    seed: int = 0

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        for a, b in self.pairs:
            if why := _refused(self.context, a, b):
                self.fail("pairs", f"{a}, {b}: {why}")
            m = self._spec(b)
            if not m.text and not 1 <= self.pseudo <= m.length:
                self.fail("pseudo", f"must be 1 … {m.length}, the tokens of {b!r}")
        for key, least in (("steps", 1), ("examples", 2), ("batch_size", 1), ("weight_decay", 0)):
            if getattr(self, key) < least:
                self.fail(key, f"must be at least {least}")
        if not self.lr > 0:
            self.fail("lr", "must be above 0")

    @staticmethod
    def default(context) -> dict:
        names = [n for n in inputs(context, len(context.modalities)) if n in context.embedded]
        texts = {m.name for m in context.modalities if m.text}
        pairs = [(a, b) for a in names for b in names if a not in texts and b in texts and not _refused(context, a, b)]
        if not pairs:
            raise Unfit("needs a text with a tokenizer here, embedded with another modality")
        return dict(pairs=pairs[:1], label=labels(context, 1)[0], splits=held_out(context))

    def check(self):
        column = self.context.column(self.label, self.splits, f"{self.where}.label")
        if len(set(column.values())) < 2:
            self.fail("label", f"all of {self.splits} have one value: take a field that tells examples apart")
        for _, b in self.pairs:
            self._carrier(b, 1)

    def run(self, params):
        for a, b in self.pairs:
            _, own, found, relevant = self.found(params, a, b)
            yield f"{a}→{b}/first cosine", Score(found.cosine[0].mean(), 0.0)
            yield f"{a}→{b}/cosine", Score(found.cosine[-1].mean(), 0.0)
            chance = metrics.average_precision_chance(relevant)
            for name, queries in (("native", own), ("inverted", found.z)):
                yield f"{a}→{b}/{name}, mAP {self.label}", Score(average_precision(queries, own, relevant), chance)

    def figures(self, params, images):
        """How the cosine rises, of the first pair."""
        from pretrain.evals.pictures import curves

        a, b = self.pairs[0]
        _, _, found, _ = self.found(params, a, b)
        middle, low, high = (np.quantile(found.cosine, q, axis=1) for q in (0.5, 0.1, 0.9))
        lines = {"a tenth is below": low, "half": middle, "a tenth is above": high}
        yield f"{a} as an input of the encoder of {b}: cosine with its own embedding, by step", curves(lines, "step")

    def found(self, params, a: str, b: str):
        """(rows `[n]`, embeddings of a `[n, E]`, Inverted, which other examples have the label `[n, n − 1]`)."""
        batch = sample(self, (a,))
        label = labels_of(self, self.label, batch["row"])
        relevant = others(label[:, None] == label)
        if not relevant.any():
            self.fail("label", f"no two of {len(label)} examples of {self.splits} share it: raise `examples`")
        own = np.asarray(self._embed(params, batch, a))
        return batch["row"], own, self.invert(params, b, own, batch["row"]), relevant

    def invert(self, params, b: str, wanted, rows) -> Inverted:
        """The inputs of b's encoder that come nearest to the embeddings wanted `[n, E]` of examples `rows [n]`."""
        parts, size = [], self.batch_size
        for i in range(0, len(rows), size):
            z, row = (np.resize(x[i : i + size], (size, *x.shape[1:])) for x in (wanted, rows))  # one compilation
            parts.append(jax.tree.map(lambda x: np.asarray(x), self._learn(params, z, row, b)))
        n = len(rows)
        values, z = (np.concatenate([getattr(p, key) for p in parts])[:n] for key in ("values", "z"))
        return Inverted(values, z, np.concatenate([p.cosine for p in parts], axis=1)[:, :n])

    @functools.cached_property
    def _embed(self):
        def embed(params, batch, name):
            network = nnx.merge(self.context.graph, params["model"])
            node = network.states.embedding(name, network.states.shown(name))
            return compute(network, {"z": node}, batch)["z"]

        return jax.jit(embed, static_argnames="name")

    @functools.cached_property
    def _learn(self):
        return jax.jit(self._optimise, static_argnames="b")

    def _optimise(self, params, wanted, rows, b) -> Inverted:
        network, (carrier, at) = nnx.merge(self.context.graph, params["model"]), self._carrier(b, len(rows))
        node = network.states.embedding(b, network.states.shown(b))
        part = _embedding(network.states, b)
        shape = int(at.max()) + 1, network.states[part].dim
        keys = jax.vmap(lambda row: named(jax.random.fold_in(jax.random.key(self.seed), row), "inversion"))(rows)
        values = STD * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        optimizer = optax.adamw(self.lr, weight_decay=self.weight_decay)

        def cosine(values):
            z = compute(Edited(network, {part: Replace(values, at)}), {"z": node}, carrier)["z"]
            return (z * wanted).sum(-1), z

        def step(state, _):
            values, moments = state
            # Of a sum, each example has the gradient of its own cosine.
            (_, now), gradient = jax.value_and_grad(lambda v: (-cosine(v)[0].sum(), cosine(v)[0]), has_aux=True)(values)
            updates, moments = optimizer.update(gradient, moments, values)
            return (optax.apply_updates(values, updates), moments), now

        (values, _), cosines = jax.lax.scan(step, (values, optimizer.init(values)), length=self.steps)
        last, z = cosine(values)
        return Inverted(values, z, jnp.concatenate([cosines, last[None]]))

    def _carrier(self, b: str, n: int):
        """(a batch of n inputs of b, which of the learned vectors stands in each place `[L]`, -1 for none)."""
        m = self._spec(b)
        if not m.text:
            entry = kinds.of(m).synthetic(m, n, np.random.default_rng(0))
            whole = dict(entry, valid=np.ones_like(entry["valid"]))
            return {b: whole, "row": np.arange(n)}, np.arange(m.length) * self.pseudo // m.length
        entry = build.write(self.context.run, b, [self.template])
        ids, valid, count = *(entry[k][0].copy() for k in ("ids", "valid")), int(entry["valid"].sum())
        if not 1 <= count < m.length:
            self.fail("template", f"its {count} tokens leave no room among the {m.length} of {b!r}: shorten it")
        ids[count], valid[count], at = ids[count - 1], True, np.full(m.length, -1)  # the end moves on by one
        at[count - 1] = 0
        held = {"ids": np.repeat(ids[None], n, 0), "valid": np.repeat(valid[None], n, 0)}
        return {b: held, "row": np.arange(n)}, at

    def _spec(self, name: str):
        return next(m for m in self.context.modalities if m.name == name)


def others(x):
    """`[n, n]` → `[n, n − 1]`, without the diagonal: nobody retrieves himself."""
    return x[~np.eye(len(x), dtype=bool)].reshape(len(x), -1)


def average_precision(queries, gallery, relevant) -> float:
    """mAP of queries `[n, E]` among all of the gallery `[n, E]` but the example itself; relevant `[n, n − 1]`."""
    return metrics.average_precision(others(queries @ gallery.T), relevant)


def _embedding(network, name: str) -> str:
    """The part that embeds the tokens of a modality."""
    part = network.stream(name, network.shown(name)).part
    while below := network.below(part):
        part = below[0]
    return part


def _refused(context, a: str, b: str) -> str:
    """Why a cannot become an input of b's encoder; "" where it can."""
    for name in (a, b):
        if name not in context.embedded:
            return f"no objective embeds {name!r}, but {', '.join(context.embedded) or 'none'}"
    if not context.network[_embedding(context.network, b)].edited:
        return f"{_embedding(context.network, b)!r}, which embeds {b!r}, takes no vectors in the place of tokens"
    m = next(m for m in context.modalities if m.name == b)
    if m.text and m.tokenizer not in build.text_tokenizers(context.run):
        return f"no tokenizer here writes {b!r}"
    return ""
