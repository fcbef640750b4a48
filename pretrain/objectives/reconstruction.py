"""Autoencoding through a quantizer: the objective that trains tokenizers."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.image_network import ImageNetwork
from pretrain.models.passes import Leaf, call
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.corruptions import Raw
from pretrain.objectives.dense import NO_LABEL
from pretrain.schedule import Coefficient

# {term: what it is of}: means over the numbers of an example, and then over examples
DISTANCES = {
    "l1": jnp.abs,
    "l2": jnp.square,
    "smooth_l1": lambda e: jnp.where(jnp.abs(e) < 1, 0.5 * e**2, jnp.abs(e) - 0.5),  # Huber's with δ = 1
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """terms: {term: its weight}, of

    `l1`, `l2`, `smooth_l1`: |e|, e² and Huber's function of e = x̂ − x, pixels scaled to [-1, 1];
    `cosine`: 1 − cos(x̂, x) of each vector, for features;
    `cross_entropy`: of the classes of label maps, a mean over the pixels that have a label (255: none);
    `perceptual`: how far pictures are from what they should be for `network`, which keeps its parameters
      (`ImageNetwork.distance`);
    `commitment`: of z to its codes, of quantizers that have it.

    Beside them the metrics `psnr` of pictures (10 log₁₀ 4 / mse, in dB, a mean over pictures) or `accuracy` of label
    maps, and in training `usage`, the share of the codes that occur in a batch, and `perplexity`, e to the entropy of
    their frequencies, each a mean over books.
    """

    context: Context
    terms: dict = dataclasses.field(default_factory=lambda: {"l1": 1.0})
    network: ImageNetwork | None = None
    coef: Coefficient = 1.0

    scope = EXAMPLE
    embedded = ()

    def __post_init__(self):
        for name, weight in self.terms.items():
            if name not in (*self.known, "commitment"):
                raise ValueError(
                    f"{self.where}.terms: {name!r}: of {self.context.modalities[0].name!r} it may be one of "
                    f"{', '.join(self.known)}, commitment"
                )
            if not isinstance(weight, (int, float)) or weight < 0:
                raise ValueError(f"{self.where}.terms: {name}={weight!r}: must be a number, 0 or more")
        if ("perceptual" in self.terms) != (self.network is not None):
            raise ValueError(
                f"{self.where}: the term `perceptual` and the key network=dict(workdir=…) go together: give both"
            )
        if not set(self.terms) - {"commitment"}:
            raise ValueError(
                f"{self.where}.terms={dict(self.terms)}: nothing to reconstruct; name one of {', '.join(self.known)}"
            )

    @property
    def where(self) -> str:
        return f"objectives.{type(self).__module__.rpartition('.')[2]}"

    @property
    def known(self) -> tuple[str, ...]:
        """The terms that compare what was made with what was given."""
        if self.maps:
            return ("cross_entropy",)
        return (*DISTANCES, "cosine") if self.vectors else (*DISTANCES, "perceptual")

    @property
    def vectors(self) -> bool:
        return self.context.modalities[0].form == "vectors"

    @property
    def maps(self) -> bool:
        return not self.vectors and self.context.modalities[0].vocab_size > 0

    @property
    def tokens_per_example(self) -> int:
        return 0  # it trains on pixels

    def init(self, key) -> dict:
        if not self.network:
            return {}
        self.network.check(self.context.modalities[0].shape[-1])
        return {"network": self.network.fresh(key)}

    def passes(self, train: bool) -> dict:
        raw = Leaf(Raw(self.context.modalities))
        return {"raw": raw, "out": call("autoencoder", raw, learns=train)}

    def weights(self, data):
        valid = data["raw"]["place"].rank >= 0
        counts = dict.fromkeys(self.terms, valid.sum().astype(jnp.float32))
        if self.maps:
            labelled = (data["raw"]["raw"] != NO_LABEL) & valid[..., None, None, None]
            return counts | dict.fromkeys(("cross_entropy", "accuracy"), labelled.sum().astype(jnp.float32))
        return counts if self.vectors else counts | {"psnr": counts[next(iter(counts))]}

    def totals(self, params, outputs, *, train, run):
        out, valid = outputs["out"], outputs["raw"]["place"].rank.reshape(-1) >= 0
        found = out["losses"] | self.distances(params, out["made"], out["target"])
        names = self.weights(outputs)
        if lacking := sorted(set(names) - set(found)):
            raise ValueError(f"{self.where}.terms: the quantizer has no {', '.join(lacking)}: take it out")
        totals = {n: jnp.where(valid, found[n], 0.0).sum() for n in names}
        return totals | ({"statistics": out["statistics"]} if train else {})

    def distances(self, params, made, target) -> dict:
        """{term or metric: `[B]`} of what was made and what it should be: of label maps sums over pixels, or means."""
        if self.maps:
            known = target != NO_LABEL
            at = jnp.where(known, target, 0)[..., None]  # a number beyond the classes reads NaN, and so does the loss
            loss = -jnp.take_along_axis(jax.nn.log_softmax(made), at, axis=-1)[..., 0]
            good = made.argmax(-1) == target
            return {k: jnp.where(known, v, 0.0).sum((1, 2)) for k, v in (("cross_entropy", loss), ("accuracy", good))}
        axes = tuple(range(1, made.ndim))
        out = {name: distance(made - target).mean(axes) for name, distance in DISTANCES.items() if name in self.terms}
        if self.vectors:
            return out | ({"cosine": (1 - cosine(made, target)).mean(1)} if "cosine" in self.terms else {})
        if self.network:
            fixed = jax.lax.stop_gradient(params["network"])
            apart = self.network.distance(fixed, *(127.5 * pictures(x) + 127.5 for x in (made, target)))
            out["perceptual"] = apart.reshape(len(made), -1).mean(1)
        mse = jnp.square(jax.lax.stop_gradient(jnp.clip(made, -1, 1)) - target).mean(axes)
        return out | {"psnr": 10 * jnp.log10(4 / jnp.maximum(mse, 1e-10))}

    def loss_weight(self, name) -> float:
        return float(self.terms.get(name, 0.0))

    def update(self, model, params, statistics):
        new = model.autoencoder.quantizer.update(statistics)
        if not new:
            return params
        mine = params["autoencoder"]
        return params | {"autoencoder": mine | {"quantizer": mine["quantizer"] | new}}

    def summary(self, statistics) -> dict:
        return usage(statistics["counts"])


def pictures(x):
    """Pictures `[B, H, W, C]` as they are, of clips `[B, T, H, W, C]` the frames: `[B · T, H, W, C]`."""
    return x.reshape(-1, *x.shape[-3:])


def cosine(a, b):
    """Of vectors `[…, D]`; 0 where one is zero."""
    norms = jnp.sqrt(jnp.maximum(jnp.square(a).sum(-1) * jnp.square(b).sum(-1), 1e-16))
    return (a * b).sum(-1) / norms


def usage(counts) -> dict:
    """counts `[books, K]` → {usage, perplexity}."""
    p = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1.0)
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)
    return {"usage": (counts > 0).mean(), "perplexity": jnp.exp(entropy).mean()}
