"""How well each modality is predicted from each other: the matrix of masked negative log-likelihoods."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.text import TextTokenizer
from pretrain.evals.base import Context
from pretrain.models.tokens import TokenSet, whole


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Mean −log p (nats a token) of every token of a target modality, given all of one input modality.

    A grid is predicted in one pass, every token masked; a sequence token by token after `[S_1]`, closed by `[S_2]`, as
    in training. Input `none` shows nothing; `unigram` is the baseline: the token frequencies of the training split,
    with one added to every count.
    """

    context: Context
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    splits: tuple[str, ...] = ("val", "test")
    train: str = "train"
    batch_size: int = 64
    own_baseline: ClassVar[str] = "unigram"

    def __post_init__(self):
        known = [m.name for m in self.context.modalities]
        for key in ("inputs", "targets"):
            for name in getattr(self, key):
                if name not in known:
                    raise ValueError(f"nll.{key}: no modality {name!r}; the run has {', '.join(known)}")

    def run(self, params):
        sums, baseline = {}, {b: np.zeros(2) for b in self.targets}
        unigram = {b: self._unigram(b) for b in self.targets}
        for batch in self.context.batches(self.splits, self.batch_size):
            given = {a: whole(batch, a, self.context.modalities) for a in self.inputs}
            # Nothing shown is an input too: any modality's tokens, none of them valid.
            given["none"] = given[self.inputs[0]]._replace(valid=np.zeros(given[self.inputs[0]].ids.shape, bool))
            for b in self.targets:
                for a in given:
                    if a != b:
                        found = np.asarray(jax.device_get(self._score(b)(params, given[a], batch, a == "none")))
                        sums[a, b] = sums.get((a, b), 0) + found
                _, labels, valid = jax.device_get(self._queries(b)(batch))
                baseline[b] += (-unigram[b][labels[valid]].sum(), valid.sum())
        for (a, b), (total, count) in sums.items():
            yield f"{a}→{b}", total / max(count, 1)
        for b, (total, count) in baseline.items():
            yield f"unigram→{b}", total / max(count, 1)

    def _unigram(self, target):
        """log frequency of each id among the labels of the training split, `[V]`."""
        modality = next(m for m in self.context.modalities if m.name == target)
        counts = np.ones(modality.vocab_size)
        for batch in self.context.batches(self.train, self.batch_size):
            _, labels, valid = jax.device_get(self._queries(target)(batch))
            np.add.at(counts, labels[valid], 1)
        return np.log(counts / counts.sum())

    @functools.cache  # noqa: B019 - evaluators live as long as the process
    def _queries(self, target):
        return jax.jit(lambda batch: full_queries(batch, target, self.context.modalities, self._sentinel))

    @functools.cache  # noqa: B019
    def _score(self, target):
        """(params, given TokenSet, batch, whether nothing is shown) → (Σ −log p, tokens), compiled for each length."""

        def score(params, given, batch, nothing):
            model = nnx.merge(self.context.graph, params["model"])
            queries, labels, valid = full_queries(batch, target, self.context.modalities, self._sentinel)
            # An example that lacks the input says nothing of how well the input predicts.
            queries = queries._replace(valid=valid & (given.valid.any(1, keepdims=True) | nothing))
            nll = model.nll(model.decode(model.encode(given), queries), queries, labels)
            return nll.sum(), queries.valid.sum()

        return jax.jit(score)

    @property
    def _sentinel(self):
        return TextTokenizer.sentinel_start + 1


def full_queries(batch, target: str, modalities, sentinel: int):
    """A modality hidden whole: (queries TokenSet `[B, M]`, labels `[B, M]`, valid `[B, M]`)."""
    tokens = whole(batch, target, modalities)
    if next(m for m in modalities if m.name == target).kind == "grid":
        return tokens, tokens.ids, tokens.valid
    # [S_1] t_1 … t_n predicts t_1 … t_n [S_2].
    count = tokens.valid.sum(1, keepdims=True)
    ids = jnp.pad(tokens.ids, ((0, 0), (1, 0)), constant_values=sentinel)
    at = jnp.arange(ids.shape[1])
    labels = jnp.where(at == count, sentinel + 1, jnp.pad(tokens.ids, ((0, 0), (0, 1))))
    valid = (at <= count) & (count > 0)
    modality = jnp.broadcast_to(tokens.modality[:, :1], ids.shape)
    return TokenSet(ids, modality, jnp.broadcast_to(at, ids.shape), valid), labels, valid
