"""Classification of whole examples: pooled encoder outputs, a layer norm and a linear head."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf, call
from pretrain.models.stream import mean
from pretrain.models.tokens import Whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.corruptions import Label
from pretrain.ops.keys import named
from pretrain.parameters import param, undecayed
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """Cross-entropy of softmax(norm(pooled outputs of the encoder) · kernel + bias); beside it the `accuracy`.

    inputs: the modalities that are shown, whole. label: the name of the run's labels.
    pool: `mean` over tokens, or `queries`, those with which the network pools for its contrastive embeddings.
    In training only: label_smoothing ε; drop_path, the rate of the last block (`stack.drop_path`); mixup and cutmix,
    the α of the Beta(α, α) that gives an example's share λ (arXiv 1710.09412; 1905.04899), 0 for none, and where both
    are on each takes half of the examples, as in timm. An example is mixed with the one at the other end of the batch.
    Both mix what the encoder reads of a token: of pixels and vectors that is linear, so mixup is that of the paper, of
    token ids it mixes their embeddings. Cutmix takes a box of a grid from the other example, in whole patches.
    """

    context: Context
    inputs: tuple[str, ...]
    label: str
    pool: str = "mean"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    coef: Coefficient = 1.0

    scope = EXAMPLE
    reads = "pooled"  # the name of the output from which it predicts

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"objectives.classification.{key}={getattr(self, key)!r}: {remedy}")

        specs = {m.name: m for m in self.context.modalities}
        if not self.inputs or [n for n in self.inputs if n not in specs or not specs[n].inputs]:
            fail("inputs", f"must be of the network's inputs, {', '.join(n for n, m in specs.items() if m.inputs)}")
        if not self.encoder:
            raise ValueError(
                "objectives.classification: it reads the outputs of an encoder over all inputs: set "
                "config.model.model='models.encdec', or give the towers a trunk"
            )
        known = [m.name for m in self.context.labels if m.form == "ids"]
        if self.label not in known:
            fail("label", f"no such labels among config.labels; there are: {', '.join(known) or 'none'}")
        queries = self.context.network[self._pooling].pool_queries if self._pooling else 0
        if self.pool not in ("mean", "queries") or (self.pool == "queries" and not queries):
            fail("pool", f"must be mean, or queries of a network that has some; model.pool_queries={queries}")
        for key in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, key) < 1:
                fail(key, "must be at least 0 and below 1")
        for key in ("mixup", "cutmix"):
            if getattr(self, key) < 0:
                fail(key, "must not be negative; 0 is none")
            if getattr(self, key) and not all(specs[n].grid for n in self.inputs):
                fail(key, "mixes grids and pixels alone; take other inputs, or 0")

    @property
    def classes(self) -> int:
        return next(m.vocab_size for m in self.context.labels if m.name == self.label)

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if m.name in self.inputs)

    @property
    def encoder(self) -> str:
        """The part of the network that reads the inputs together."""
        return self.context.network.encodes(self.inputs)

    @property
    def _pooling(self) -> str:
        return self.context.network.pools(self.encoder)

    @property
    def embedded(self) -> tuple[str, ...]:
        """The network keeps its queries for what is embedded."""
        return self.inputs if self.pool == "queries" else ()

    def init(self, key) -> dict:
        """The head; a kernel this small leaves the first predictions near uniform (MAE's code has 2e-5)."""
        width = self.context.network[self._pooling if self.pool == "queries" else self.encoder].dim
        return {
            "norm": {"scale": undecayed(jnp.ones(width)), "bias": undecayed(jnp.zeros(width))},
            "kernel": param(0.01 * jax.random.normal(key, (width, self.classes))),
            "bias": undecayed(jnp.zeros(self.classes)),
        }

    def passes(self, train: bool) -> dict:
        """What the encoder gives of the inputs, and the labels; in training both mixed, if anything is."""
        network, given = self.context.network, Leaf(Whole(self.inputs, self.context.modalities))
        out = {"shown": given, "label": Leaf(Label(self.label))}
        stream = network.chain(self.encoder, given)
        mixes = train and (self.mixup or self.cutmix)
        if mixes or (train and self.drop_path):
            args = stream.args
            if mixes:
                other, share, label = (Leaf(Mixing(self), item) for item in ("other", "share", "label"))
                args = (call(stream.args[0].part, given, other, share),)
                out |= {"share": share, "other label": label}
            stream = call(self.encoder, *args, drop=self.drop_path or None)
        pooled = call(self._pooling, stream) if self.pool == "queries" else stream
        return out | {self.reads: pooled}

    def weights(self, data):
        return dict.fromkeys(("nll", "accuracy"), self._known(data).sum().astype(jnp.float32))

    def _known(self, data):
        return data["label"]["valid"] & data["shown"].tokens.valid.any(1)

    def totals(self, params, outputs, *, train, run):
        known = self._known(outputs)
        target = jax.nn.one_hot(outputs["label"]["ids"], self.classes)
        if "share" in outputs:
            kept = outputs["share"].mean(1, keepdims=True)
            target = kept * target + (1 - kept) * jax.nn.one_hot(outputs["other label"], self.classes)
        logits = self.predict(params, outputs[self.reads])
        hits = logits.argmax(-1) == target.argmax(-1)
        if train:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / self.classes
        nll = -(target * jax.nn.log_softmax(logits)).sum(-1)
        return {k: jnp.where(known, v, 0.0).sum() for k, v in (("nll", nll), ("accuracy", hits))}

    def predict(self, params, pooled):
        """What the network gives (`passes`) → `[B, classes]`."""
        if self.pool != "queries":
            pooled = mean(pooled.x, pooled.counted)
        return normalise(params["norm"], pooled) @ params["kernel"] + params["bias"]

    def loss_weight(self, name) -> float:
        return float(name == "nll")


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The corruption that mixes every example with the one at the other end of the batch: {"other": Shown, "label"
    `[B]`, its class, "share" `[B, N]` of a token that stays}."""

    objective: Objective

    def __call__(self, batch, keys) -> dict:
        o = self.objective
        own, label = Whole(o.inputs, o.context.modalities)(batch), Label(o.label)(batch, keys)
        other, theirs = jax.tree.map(lambda x: x[::-1], (own, label))
        can = theirs["valid"] & other.tokens.valid.any(1)
        can &= (other.tokens.valid == own.tokens.valid).all(1)
        return {
            "other": other,
            "label": theirs["ids"],
            "share": jnp.where(can[:, None], jax.vmap(self._share)(keys), 1.0),
        }

    def _share(self, key):
        """The share of each token `[N]` that an example keeps."""
        o = self.objective
        k_which, k_mix, k_cut, k_box = (named(key, "mix", name) for name in ("which", "mixup", "cutmix", "box"))
        grids = [m.grid for n in o.inputs for m in o.context.modalities if m.name == n]
        mixed, cut = None, None
        if o.mixup:
            mixed = jnp.full(o.tokens_per_example, jax.random.beta(k_mix, o.mixup, o.mixup))
        if o.cutmix:  # a box of the share 1 − λ around a point, cut off at the border; the same box on every grid
            side = jnp.sqrt(1 - jax.random.beta(k_cut, o.cutmix, o.cutmix))
            centre = jax.random.uniform(k_box, (2,))
            cut = jnp.concatenate([(~box(grid, centre, side)).ravel() for grid in grids]).astype(jnp.float32)
        if mixed is None or cut is None:
            return cut if mixed is None else mixed
        return jnp.where(jax.random.bernoulli(k_which), cut, mixed)


def box(grid, centre, side):
    """Which cells of a grid have their middle in the box of a side (a share of the picture's) around a point."""
    inside = [jnp.abs((jnp.arange(n) + 0.5) / n - c) < side / 2 for n, c in zip(grid, centre)]
    return inside[0][:, None] & inside[1][None, :]


def normalise(own, x, eps: float = 1e-6):
    """Layer normalisation of the last axis by the parameters {"scale", "bias"}."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * own["scale"] + own["bias"]
