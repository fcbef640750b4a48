"""Any modalities from any others: targets made one after another, each seeing what was given and what was made."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.text import TextTokenizer
from pretrain.generate.parallel import METHODS, Conditions, fill
from pretrain.generate.schedule import temperatures, token_schedule
from pretrain.generate.sequence import write
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import TokenSet, concat, dense_rows, pad, presence, whole

ROUND = 64  # conditions are padded to a multiple of it, so that few lengths are compiled


@dataclasses.dataclass(frozen=True)
class Target:
    """How one modality is made; the file `parallel` says what the keys of grids and sets mean.

    method, steps, schedule, noise: of grids and sets alone; sequences are written token by token.
    temperature: that of the first step; last_temperature: that of the last one, None for the same.
    guidance: the scale of classifier-free guidance by all that is given, 1 for none; or {modality: scale}: each named
    one guides by itself, and the others are seen throughout.
    """

    name: str
    method: str = "roar"
    steps: int = 16
    schedule: str = "cosine"
    temperature: float = 1.0
    last_temperature: float | None = None
    noise: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float | dict = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"target {self.name!r}: method={self.method!r}: must be one of {', '.join(METHODS)}")
        if self.steps < 1:
            raise ValueError(f"target {self.name!r}: steps={self.steps}: must be at least 1")

    @property
    def heat(self) -> tuple[float, float]:
        return self.temperature, self.temperature if self.last_temperature is None else self.last_temperature


class Generator:
    """A network that samples. graph, params: as of `restore` (`params["model"]`)."""

    text = TextTokenizer  # 4M's WordPiece vocabulary has [EOS] and the sentinels at the same ids

    def __init__(self, graph, params, modalities):
        self.graph, self.params, self.modalities = graph, params, tuple(modalities)
        self._index = {m.name: i for i, m in enumerate(modalities)}
        Predictor(nnx.merge(graph, params))

    def __call__(self, batch: dict, given: Sequence[str], targets: Sequence[Target], *, seed=0, sample=0) -> dict:
        """{name: {"ids" `[B, L]`, "valid" `[B, L]`}} of the targets, in the form of a batch.

        batch: as of the pipeline; of it the given modalities are seen, and every target by those after it. A grid or
        set that is both given and a target keeps its valid tokens and gets the others. The same seed and sample give
        an example of the same `row` the same, whatever else is in the batch; another sample is another draw.
        """
        self.check(batch, given, targets)
        batch, made, given = dict(batch), {}, list(given)
        rows, base = jnp.asarray(batch["row"]), jax.random.fold_in(jax.random.key(seed), sample)
        size = len(rows)
        for target in targets:
            index = self._index[target.name]
            keys = jax.vmap(lambda r, i=index: jax.random.fold_in(jax.random.fold_in(base, i), r))(rows)
            seen = [n for n in given if n != target.name]
            conditions = self._conditions(batch, seen, target, size)
            in_turn = self.modalities[index].autoregressive
            ids, valid = (self._write if in_turn else self._fill)(
                batch if target.name in given else {}, conditions, keys, target, size
            )
            made[target.name] = batch[target.name] = {"ids": ids, "valid": valid}
            given = [*seen, target.name]
        return made

    def check(self, batch, given: Sequence[str], targets: Sequence[Target]):
        """ValueError for what this model or batch does not have."""
        known = ", ".join(self._index)
        for name in (*given, *(t.name for t in targets)):
            if name not in self._index:
                raise ValueError(f"no modality {name!r}: the model has {known}")
        made = set()
        for t in targets:
            m = self.modalities[self._index[t.name]]
            if not m.targets:
                raise ValueError(f"target {t.name!r}: this model only reads it (targets=False)")
            if t.name in made or (m.autoregressive and t.name in given):
                raise ValueError(f"target {t.name!r}: is there already; a sequence is written whole, and once")
            unseen = [n for n in t.guidance if n not in (*given, *made)] if isinstance(t.guidance, dict) else []
            if unseen:
                raise ValueError(
                    f"target {t.name!r}: guidance by {unseen[0]!r}, which is neither given nor made before"
                )
            made.add(t.name)
        for name in given:
            if name not in batch:
                held = ", ".join(n for n in batch if n in self._index)
                raise ValueError(f"given {name!r}: the batch has only {held}")
            if not self.modalities[self._index[name]].inputs and name not in made:
                raise ValueError(f"given {name!r}: this model only predicts it (inputs=False)")

    def _conditions(self, batch, seen, target: Target, size: int) -> Conditions:
        scales = target.guidance
        if not isinstance(scales, dict):
            groups, scales = [seen], [scales]
        else:
            scales = {n: w for n, w in scales.items() if n in seen}
            groups, scales = [[n] for n in scales], list(scales.values())
        always = [n for n in seen if not any(n in g for g in groups)]
        views = [[*always, *g] for g in groups]
        if sum(scales) != 1 or not views:
            views, scales = [*views, always], [*scales, 1 - sum(scales)]
        own = [self.modalities[self._index[n]] for n in seen]
        # A token of vectors or pixels needs rows to be read from, in whatever view it is valid.
        dense = dense_rows(batch, [m for m in self.modalities if m.dense and m in own])
        sets = [self._tokens(batch, names, size) for names in views]
        longest = -(-max(s.ids.shape[1] for s in sets) // ROUND) * ROUND
        tokens = jax.tree.map(lambda *x: jnp.stack(x, 1), *(pad(s, longest) for s in sets))
        return Conditions(tokens, dense, jnp.asarray(scales, jnp.float32))

    def _tokens(self, batch, names, size) -> TokenSet:
        if not names:
            nothing = jnp.zeros((size, 1), jnp.int32)
            return TokenSet(nothing, nothing, nothing, nothing > 0)
        return concat([whole(batch, n, self.modalities) for n in names])

    def _fill(self, before, conditions, keys, target: Target, size: int):
        index = self._index[target.name]
        length = self.modalities[index].length
        if before:
            start = jnp.asarray(before[target.name]["ids"]), jnp.asarray(presence(before, self.modalities[index]))
        else:
            start = jnp.zeros((size, length), jnp.int32), jnp.zeros((size, length), bool)
        known_after = token_schedule(length, target.steps, target.schedule)
        ids = fill(
            self.graph, self.params, conditions, start, keys, jnp.asarray(known_after),
            jnp.asarray(temperatures(len(known_after), *target.heat)), target.noise, target=index,
            method=target.method, top_k=target.top_k, top_p=target.top_p,
            most=int(np.diff(known_after, prepend=0).max()),
        )  # fmt: skip
        return ids, jnp.ones(ids.shape, bool)

    def _write(self, _, conditions, keys, target: Target, size: int):
        return write(
            self.graph, self.params, conditions, keys, target.temperature, target=self._index[target.name],
            sentinel=self.text.sentinel_start + 1, eos=self.text.eos_id, top_k=target.top_k,
            top_p=target.top_p,
        )  # fmt: skip
