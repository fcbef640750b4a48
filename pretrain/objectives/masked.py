"""Masked multimodal modeling: 4M's objective (arXiv 2312.06647, section 2.3)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.models.passes import Leaf, call
from pretrain.models.tokens import Shown, dense_rows, whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.masking import KEEP, mask_example
from pretrain.schedule import Coefficient
from pretrain.sharding import over_batch

TOKENS = "tokens"  # the term of `token_mean`; those of the modalities are then for the log only


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One component of the mixture of Dirichlets: modality name → alpha. A modality left out gets none.

    weight: how often it is drawn, beside the others that apply to an example.
    keep: how much of a sequence is kept, by name (`masking.KEEP`); `random` if not given.
    sources: the names of the sources of a data mixture to whose examples it applies; () for all.
    """

    inputs: dict
    targets: dict
    weight: float = 1.0
    keep: dict = dataclasses.field(default_factory=dict)
    sources: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Objective:
    """Cross-entropy of the predicted tokens, averaged as `loss` says.

    `modality_mean`: the mean over the target modalities m of CE_m, CE_m the mean over the predicted tokens of m (4M's
    `mod`). Here CE_m is over the global batch; 4M takes it per rank and averages the ranks.
    `token_mean`: the mean over all predicted tokens. (4M's `token` weights a token by the size of its vocabulary.)
    input_tokens, target_tokens: (smallest, largest) token budget; the largest is the static size.
    z_loss, label_smoothing: of the training loss (`ops.cross_entropy`); evaluation reports the plain one.
    fill: `full`, or `4m` to lose the part of a budget that a modality cannot take (`masking.mask_example`).
    head: the part of the network that scores the tokens which a decoder predicts.
    """

    context: Context
    input_tokens: tuple[int, int]
    target_tokens: tuple[int, int]
    mixture: tuple[Mixture, ...]
    loss: str = "modality_mean"
    fill: str = "full"
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    head: str = "head"
    coef: Coefficient = 1.0

    scope = EXAMPLE
    embedded = ()

    def __post_init__(self):
        for key, allowed in (("loss", ("modality_mean", "token_mean")), ("fill", ("full", "4m"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"objectives.masked.{key}={getattr(self, key)!r}: must be one of {', '.join(allowed)}")
        if self.context.network.parts:
            self.context.network.need(self.head, "objectives.masked.head")
        names = {m.name: m for m in self.context.modalities}
        for i, c in enumerate(self.mixture):
            for side, alphas in (("inputs", c.inputs), ("targets", c.targets)):
                for name, alpha in alphas.items():
                    where = f"objectives.masked.mixture[{i}].{side}[{name!r}]={alpha}"
                    if name not in names:
                        raise ValueError(f"{where}: no such modality; the run has {', '.join(names)}")
                    if not isinstance(alpha, (int, float)) or alpha < 0:
                        raise ValueError(f"{where}: a Dirichlet alpha must not be negative, and a number")
                    if not getattr(names[name], side):
                        raise ValueError(f"{where}: the modality's spec says {side}=False")
            for name, scheme in c.keep.items():
                where = f"objectives.masked.mixture[{i}].keep[{name!r}]={scheme!r}"
                if name not in names or not names[name].spans:
                    raise ValueError(f"{where}: no sequence of this run")
                if scheme not in KEEP:
                    raise ValueError(f"{where}: must be one of {', '.join(KEEP)}")
            for side, alphas in (("inputs", c.inputs), ("targets", c.targets)):
                if not any(a > 0 for a in alphas.values()):
                    raise ValueError(f"objectives.masked.mixture[{i}].{side}: needs at least one positive alpha")
        self._check_sentinels()
        if self.z_loss < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"objectives.masked.z_loss={self.z_loss}, label_smoothing={self.label_smoothing}: need z_loss >= 0 and "
                "0 <= label_smoothing < 1"
            )
        if not sum(c.weight for c in self.mixture) > 0:
            raise ValueError("objectives.masked.mixture: needs a component of positive weight")
        self._check_sources()
        for key in ("input_tokens", "target_tokens"):
            low, high = getattr(self, key)
            if not 0 <= low <= high or high < 1:
                raise ValueError(f"objectives.masked.{key}={low, high}: needs 0 <= smallest <= largest, largest >= 1")
            side = key.replace("_tokens", "s")
            room = [sum(names[n].length for n, a in getattr(c, side).items() if a > 0) for c in self.mixture]
            if low > max(room):
                raise ValueError(
                    f"objectives.masked.{key}={low, high}: no component of the mixture can meet {low} tokens, its "
                    f"{side} have at most {max(room)}; lower the smallest budget or give more modalities an alpha"
                )

    def _check_sentinels(self):
        """ValueError for texts that can need more than there are, or whose tokenizer does not have them."""
        given = self.context
        longest = max((m.length for m in given.modalities if m.autoregressive), default=0)
        if longest // 2 + 2 > given.n_sentinels:
            raise ValueError(
                f"objectives.masked: a sequence of {longest} tokens can need {longest // 2 + 2} sentinels, the text "
                f"tokenizer has {given.n_sentinels}; shorten the modality"
            )
        used = {name for c in self.mixture for alphas in (c.inputs, c.targets) for name in alphas}
        for m in given.modalities:
            if m.autoregressive and m.name in used and not m.sentinels:
                raise ValueError(
                    f"objectives.masked: modality {m.name!r}: tokenizer={m.tokenizer!r} has no ids that stand for "
                    "masked spans; take tokenizer='text'"
                )

    def _check_sources(self):
        for i, name in ((i, name) for i, c in enumerate(self.mixture) for name in c.sources):
            if name not in self.context.sources:
                known = ", ".join(filter(None, self.context.sources)) or "none of a name"
                raise ValueError(
                    f"objectives.masked.mixture[{i}].sources: no source {name!r}; config.data.sources has {known}: "
                    "name one of these, or set the `name` of a source"
                )
        for number, odds in enumerate(self.odds):
            if not sum(odds) > 0:
                raise ValueError(
                    f"objectives.masked.mixture: no component of positive weight applies to config.data.sources"
                    f"[{number}] (name={self.context.sources[number]!r}): add one, or take `sources` from one"
                )

    @property
    def odds(self) -> list[list[float]]:
        """Of each source of the run the weights of the components, 0 of one that does not apply to it."""
        return [
            [c.weight if not c.sources or s in c.sources else 0.0 for c in self.mixture] for s in self.context.sources
        ]

    @property
    def targets(self) -> list[str]:
        """The modalities that some component of the mixture can ask for."""
        return [m.name for m in self.context.modalities if any(c.targets.get(m.name, 0) > 0 for c in self.mixture)]

    @property
    def tokens_per_example(self) -> int:
        return self.input_tokens[1] + self.target_tokens[1]

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        """The decoder sees what the encoder makes of the inputs; `nll [B, M]` of the labels of its queries."""
        queries, labels = (Leaf(self._masking, item) for item in ("queries", "labels"))
        network = self.context.network
        (decoder,) = network[self.head].reads
        embed, encoder = network[decoder].reads
        encoded = network.chain(encoder, Leaf(self._masking, "inputs"))
        decoded = call(decoder, call(embed, queries, queries=True), encoded)
        more = dict(z_loss=self.z_loss, smoothing=self.label_smoothing) if train else {}
        return {"queries": queries, "nll": call(self.head, decoded, labels, **more)}

    def weights(self, data):
        queries = data["queries"].tokens
        return self._per_modality(jnp.ones(queries.valid.shape), queries)

    def totals(self, params, outputs, *, train, run):
        return self._per_modality(outputs["nll"], outputs["queries"].tokens)

    def loss_weight(self, name) -> float:
        if self.loss == "token_mean":
            return float(name == TOKENS)
        return 1.0 / len(self.targets)

    def _per_modality(self, values, queries):
        names = [m.name for m in self.context.modalities]
        mine = {t: (queries.modality == names.index(t)) & queries.valid for t in self.targets}
        sums = {t: jnp.where(m, values, 0.0).sum() for t, m in mine.items()}
        return sums | ({TOKENS: sum(sums.values())} if self.loss == "token_mean" else {})

    @functools.cached_property
    def _masking(self):
        return Masking(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """The corruption: {"inputs": Shown `[B, N]`, "queries": Shown `[B, M]`, "labels" `[B, M]`}."""

    objective: Objective

    def __call__(self, batch, keys) -> dict:
        given, o = self.objective.context, self.objective

        def table(side, default):
            return [[getattr(c, side).get(m.name, default) for m in given.modalities] for c in o.mixture]

        alphas = table("inputs", 0.0), table("targets", 0.0)
        # Other data than the run's own, as evaluations may read, do not say it: then all components apply.
        by_source = "source" in batch and any(c.sources for c in o.mixture)
        odds = jnp.asarray(o.odds)[batch["source"]] if by_source else jnp.asarray([c.weight for c in o.mixture])
        keep = np.asarray([[KEEP.index(k) for k in row] for row in table("keep", "random")])

        def one(example, key, odds):
            return mask_example(
                key, example, given.modalities, inputs=o.input_tokens, outputs=o.target_tokens, alphas=(*alphas, odds),
                sentinel=given.sentinel, n_sentinels=given.n_sentinels, keep=keep, fill=o.fill,
            )  # fmt: skip

        sets = {m.name: whole(batch, m.name, given.modalities) for m in given.modalities}
        examples = {n: {"ids": t.ids, "valid": t.valid} for n, t in sets.items()}
        # Every device draws for its own examples: the loops of samplers would else wait for all devices every round.
        draw = over_batch(jax.vmap(one))
        inputs, queries, labels = draw(examples, keys, jnp.broadcast_to(odds, (len(keys), odds.shape[-1])))
        shown = Shown(inputs, dense_rows(batch, given.modalities))
        return {"inputs": shown, "queries": Shown(queries, {}), "labels": labels}
