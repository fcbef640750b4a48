"""How well each modality is predicted from each other: the matrix of masked negative log-likelihoods."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.text import TextTokenizer
from pretrain.evals.base import Score, Task, Unfit, parts, some
from pretrain.evals.knn import held_out, inputs
from pretrain.models.passes import Call
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, TokenSet, concat, dense_rows, pad, whole


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Mean −log p (nats a token) of every token of a target modality, given all of one input, or of several: `a+b`.

    A grid is predicted in one pass, every token masked; a sequence token by token after `[S_1]`, closed by `[S_2]`, as
    in training. Input `none` shows nothing; `unigram` is the baseline: the token frequencies of the training split,
    with one added to every count.
    """

    place = 90

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    splits: tuple[str, ...] = ("val", "test")
    train: str = "train"
    batch_size: int = 64
    own_baseline: ClassVar[str] = "unigram"

    def __post_init__(self):
        self.check_names("inputs", self.inputs)
        known = [m.name for m in self.context.modalities]
        for name in self.targets:
            if name not in known:
                raise ValueError(f"nll.targets: no modality {name!r}; the run has {', '.join(known)}")
        if not self._predicted(self.context):
            self.fail("targets", "the run trained no masked objective: its network predicts no tokens")

    @staticmethod
    def default(context) -> dict:
        targets = Evaluator._predicted(context)
        if not targets:
            raise Unfit("the run trained no masked objective: its network predicts no tokens")
        names = inputs(context)
        return dict(
            inputs=[*names, "+".join(names)][: len(names) + (len(names) > 1)],
            targets=some(targets, 6, ""),
            splits=held_out(context),
            train=context.run.data.train,
        )

    @staticmethod
    def _predicted(context) -> list[str]:
        """Modalities that the decoder was trained to predict."""
        asked = [node for o in context.objectives.values() for node in o.passes(train=False).values()]
        scored = any(isinstance(n, Call) and n.part == context.network.predicts for n in asked)
        return [m.name for m in context.modalities if m.targets] if scored else []

    def run(self, params):
        shown = {name for a in self.inputs for name in parts(a)}
        frequency = self._log_frequencies()
        sums = dict.fromkeys((*self.inputs, "none"), 0.0)
        baseline = 0.0
        for batch in self.context.batches(self.splits, self.batch_size):
            asked = _, labels, valid = self._queries(batch)
            dense = dense_rows(batch, [m for m in self.context.modalities if m.name in shown])
            for a in sums:
                sums[a] += np.stack(self._score(params, self._given(batch, a), dense, asked, a == "none"))
            labels, valid = jax.device_get((labels, valid))
            baseline += np.stack([[-f[x[v]].sum(), v.sum()] for f, x, v in zip(frequency, labels, valid)], axis=1)
        chance = baseline[0] / np.maximum(baseline[1], 1)
        for a, (total, count) in {**sums, "unigram": baseline}.items():
            for i, b in enumerate(self.targets):
                if b not in parts(a):
                    yield f"{a}→{b}", Score(total[i] / max(count[i], 1), chance[i])

    def _log_frequencies(self) -> list[np.ndarray]:
        """For each target the log frequency of each id among its labels in the training split, `[V]`."""
        sizes = {m.name: m.vocab_size for m in self.context.modalities}
        counts = [np.ones(sizes[b]) for b in self.targets]
        for batch in self.context.batches(self.train, self.batch_size):
            _, labels, valid = jax.device_get(self._queries(batch))
            for count, x, v in zip(counts, labels, valid):
                np.add.at(count, x[v], 1)
        return [np.log(c / c.sum()) for c in counts]

    def _given(self, batch, name) -> TokenSet:
        """All of one input, padded to one length for all of them, so that one compilation serves all."""
        modalities = self.context.modalities
        length = {m.name: m.length for m in modalities}
        longest = max(sum(length[n] for n in parts(a)) for a in self.inputs)
        read = parts(self.inputs[0] if name == "none" else name)
        tokens = concat([whole(batch, n, modalities) for n in read])
        if name == "none":  # nothing shown is an input too: any modality's tokens, none of them valid
            tokens = tokens._replace(valid=np.zeros(tokens.ids.shape, bool))
        return pad(tokens, longest)

    @functools.cached_property
    def _queries(self):
        """batch → (queries, labels, valid) of every target, each `[T, B, M]`, M that of the longest."""

        def queries(batch):
            parts = [full_queries(batch, b, self.context.modalities, self._sentinel) for b in self.targets]
            longest = max(labels.shape[1] for _, labels, _ in parts)
            parts = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, longest - x.shape[1]))), parts)
            return jax.tree.map(lambda *x: jnp.stack(x), *parts)

        return jax.jit(queries)

    @functools.cached_property
    def _score(self):
        """(params, given TokenSet, dense_rows, asked, is nothing shown?) → (Σ −log p, tokens), each per target."""

        def score(params, given, dense, asked, nothing):
            queries, labels, valid = asked
            model = Predictor(nnx.merge(self.context.graph, params["model"]))
            # An example that lacks the input says nothing of how well the input predicts.
            valid = valid & (given.valid.any(1, keepdims=True) | nothing)
            queries = queries._replace(valid=valid)
            # Side by side the targets would attend to each other only to be masked: each is decoded for itself.
            y = jax.vmap(model.decode, (None, 0))(model.encode(Shown(given, dense)), queries)
            y, labels = jax.tree.map(_side_by_side, (y, labels))
            nll = model.nll(y, labels).reshape(len(given.ids), len(self.targets), -1)
            return nll.sum((0, 2)), valid.sum((1, 2))

        return jax.jit(score)

    @property
    def _sentinel(self):
        return TextTokenizer.sentinel_start + 1


def _side_by_side(x):
    """`[T, B, M, …]` → `[B, T·M, …]`."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def full_queries(batch, target: str, modalities, sentinel: int):
    """A modality hidden whole: (queries TokenSet `[B, M]`, labels `[B, M]`, valid `[B, M]`)."""
    tokens = whole(batch, target, modalities)
    if not next(m for m in modalities if m.name == target).autoregressive:
        return tokens, tokens.ids, tokens.valid
    # [S_1] t_1 … t_n predicts t_1 … t_n [S_2].
    count = tokens.valid.sum(1, keepdims=True)
    ids = jnp.pad(tokens.ids, ((0, 0), (1, 0)), constant_values=sentinel)
    at = jnp.arange(ids.shape[1])
    labels = jnp.where(at == count, sentinel + 1, jnp.pad(tokens.ids, ((0, 0), (0, 1))))
    valid = (at <= count) & (count > 0)
    modality = jnp.broadcast_to(tokens.modality[:, :1], ids.shape)
    return TokenSet(ids, modality, jnp.broadcast_to(at, ids.shape), valid), labels, valid
