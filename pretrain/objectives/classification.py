"""Classification of whole examples: pooled encoder outputs, a layer norm and a linear head."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.stack import drop_path
from pretrain.models.tokens import concat, dense_rows, whole
from pretrain.objectives.base import Context
from pretrain.ops.keys import named
from pretrain.parameters import param, undecayed

POOLED = ("x", "valid", "placed")  # what pooling reads of an encoder's output


@dataclasses.dataclass(frozen=True)
class Objective:
    """Cross-entropy of softmax(norm(pooled outputs of the encoder) · kernel + bias); beside it the `accuracy`.

    inputs: the modalities that are shown, whole. label: the name of the run's labels.
    pool: `mean` over tokens, or `probes`, those with which the network pools for its contrastive embeddings.
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
    coef: float = 1.0

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"objectives.classification.{key}={getattr(self, key)!r}: {remedy}")

        if not self.context.network.dim:
            raise ValueError(
                "objectives.classification: it reads the outputs of an encoder over all inputs: set "
                "config.model.model='models.encdec', or give the towers a trunk"
            )
        specs = {m.name: m for m in self.context.modalities}
        if not self.inputs or [n for n in self.inputs if n not in specs or not specs[n].inputs]:
            fail("inputs", f"must be of the network's inputs, {', '.join(n for n, m in specs.items() if m.inputs)}")
        known = [m.name for m in self.context.labels if m.kind == "labels"]
        if self.label not in known:
            fail("label", f"no such labels among config.labels; there are: {', '.join(known) or 'none'}")
        if self.pool not in ("mean", "probes") or (self.pool == "probes" and not self.context.network.probes):
            fail(
                "pool",
                f"must be mean, or probes of a network that has some; model.probes={self.context.network.probes}",
            )
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
    def embedded(self) -> tuple[str, ...]:
        """The network keeps its probes for what is embedded."""
        return self.inputs if self.pool == "probes" else ()

    def init(self, key) -> dict:
        """The head; a kernel this small leaves the first predictions near uniform (MAE's code has 2e-5)."""
        width = self.context.network.dim * (self.context.network.probes if self.pool == "probes" else 1)
        return {
            "norm": {"scale": undecayed(jnp.ones(width)), "bias": undecayed(jnp.zeros(width))},
            "kernel": param(0.01 * jax.random.normal(key, (width, self.classes))),
            "bias": undecayed(jnp.zeros(self.classes)),
        }

    def view(self, batch, keys):
        """tokens `[B, N]` and dense rows of the inputs, labels and whether there is one `[B]`.

        If anything is mixed also the other example's, and `own [B, N]`, the share of a token that stays.
        """
        tokens = concat([whole(batch, name, self.context.modalities) for name in self.inputs])
        label = batch[self.label]
        shown = [m for m in self.context.modalities if m.name in self.inputs]
        out = {
            "tokens": tokens, "dense": dense_rows(batch, shown),
            "label": label["ids"][:, 0].astype(jnp.int32), "known": label["valid"][:, 0] & tokens.valid.any(1),
        }  # fmt: skip
        if not (self.mixup or self.cutmix):
            return out
        other = jax.tree.map(lambda x: x[::-1], {k: out[k] for k in ("tokens", "dense", "label", "known")})
        can = other["known"][:, None] & (other["tokens"].valid == tokens.valid).all(1, keepdims=True)
        return out | {"other": other, "own": jnp.where(can, jax.vmap(self._own)(keys), 1.0)}

    def weights(self, view):
        return dict.fromkeys(("nll", "accuracy"), view["known"].sum().astype(jnp.float32))

    def totals(self, model, own, view, keys, *, train):
        target = jax.nn.one_hot(view["label"], self.classes)
        how = {}
        if train and "own" in view:
            share, other = view["own"][..., None], view["other"]
            how["inserted"] = sum(
                w * model.tokens.content(v["tokens"], v["dense"]) for w, v in ((share, view), (1 - share, other))
            )
            kept = view["own"].mean(1, keepdims=True)
            target = kept * target + (1 - kept) * jax.nn.one_hot(other["label"], self.classes)
        if train and self.drop_path:
            how["keep"] = drop_path(keys, self.drop_path, self.context.network.depth)
        logits = self.logits(model, own, model.encode(view["tokens"], view["dense"], **how))
        hits = logits.argmax(-1) == target.argmax(-1)
        if train:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / self.classes
        nll = -(target * jax.nn.log_softmax(logits)).sum(-1)
        return {k: jnp.where(view["known"], v, 0.0).sum() for k, v in (("nll", nll), ("accuracy", hits))}

    def logits(self, model, own, encoded):
        """Encoder output → `[B, classes]`; learned tokens before the inputs (registers, prompts) are not pooled."""
        encoded = encoded._replace(**{f: getattr(encoded, f)[:, -self.tokens_per_example :] for f in POOLED})
        if self.pool == "probes":
            pooled = model.pool(encoded)
        else:
            weights = encoded.valid / jnp.maximum(encoded.valid.sum(1, keepdims=True), 1)
            pooled = jnp.einsum("bn,bnd->bd", weights, encoded.x)
        return normalise(own["norm"], pooled) @ own["kernel"] + own["bias"]

    def share(self, name) -> float:
        return float(name == "nll")

    def _own(self, key):
        """The share of each token `[N]` that an example keeps."""
        k_which, k_mix, k_cut, k_box = (named(key, "mix", name) for name in ("which", "mixup", "cutmix", "box"))
        grids = [m.grid for n in self.inputs for m in self.context.modalities if m.name == n]
        mixed, cut = None, None
        if self.mixup:
            mixed = jnp.full(self.tokens_per_example, jax.random.beta(k_mix, self.mixup, self.mixup))
        if self.cutmix:  # a box of the share 1 − λ around a point, cut off at the border; the same box on every grid
            side = jnp.sqrt(1 - jax.random.beta(k_cut, self.cutmix, self.cutmix))
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
