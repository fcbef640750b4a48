"""Autoencoding through a quantizer: the objective that trains tokenizers."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.image_network import ImageNetwork
from pretrain.objectives.base import Context
from pretrain.objectives.dense import NO_LABEL
from pretrain.ops.keys import named
from pretrain.tokenizers.quantizers.base import Place

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
    coef: float = 1.0

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
        return self.context.modalities[0].kind == "vectors"

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

    def view(self, batch, keys):
        return raw_view(self.context.modalities, batch, keys)

    def weights(self, view):
        valid = view["place"].rank >= 0
        counts = dict.fromkeys(self.terms, valid.sum().astype(jnp.float32))
        if self.maps:
            labelled = (view["raw"] != NO_LABEL) & valid[..., None, None, None]
            return counts | dict.fromkeys(("cross_entropy", "accuracy"), labelled.sum().astype(jnp.float32))
        return counts if self.vectors else counts | {"psnr": counts[next(iter(counts))]}

    def totals(self, model, own, view, keys, *, train):
        raw, place, each = alone(view, keys)
        z = model.latents(raw)
        quantized = model.quantizer(z, each if train else None)
        found = quantized.losses | self.compare(model, own, raw, quantized.codes, each)
        lacking = sorted(set(self.terms) - set(found))
        if lacking:
            raise ValueError(f"{self.where}.terms: the quantizer has no {', '.join(lacking)}: take it out")
        out = {n: jnp.where(place.rank >= 0, found[n], 0.0).sum() for n in self.weights(view)}
        return out | ({"statistics": model.quantizer.statistics(z, quantized.ids, place)} if train else {})

    def compare(self, model, own, raw, codes, keys) -> dict:
        """{term or metric: `[B]`} of what is decoded from the codes: of label maps sums over pixels, else means."""
        return self.distances(own, model.decode(codes), model.target(raw))

    def distances(self, own, made, target) -> dict:
        """`compare` of what was made and what it should be."""
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
            fixed = jax.lax.stop_gradient(own["network"])
            apart = self.network.distance(fixed, *(127.5 * pictures(x) + 127.5 for x in (made, target)))
            out["perceptual"] = apart.reshape(len(made), -1).mean(1)
        mse = jnp.square(jax.lax.stop_gradient(jnp.clip(made, -1, 1)) - target).mean(axes)
        return out | {"psnr": 10 * jnp.log10(4 / jnp.maximum(mse, 1e-10))}

    def share(self, name) -> float:
        return float(self.terms.get(name, 0.0))

    def update(self, model, params, statistics):
        new = model.quantizer.update(statistics)
        return params | {"quantizer": params["quantizer"] | new} if new else params

    def summary(self, statistics) -> dict:
        return usage(statistics["counts"])


def pictures(x):
    """Pictures `[B, H, W, C]` as they are, of clips `[B, T, H, W, C]` the frames: `[B · T, H, W, C]`."""
    return x.reshape(-1, *x.shape[-3:])


def raw_view(modalities, batch, keys) -> dict:
    """raw `[B, modalities, …]`: what one example holds stays together. place, leaves `[B, …]`: the rank of each
    `[B, modalities]`, how many there are and one key for the batch (`quantizers.base.Place`).

    Vectors of which some are lacking are left out.
    """
    own, vectors = [batch[m.name] for m in modalities], modalities[0].kind == "vectors"
    valid = jnp.stack([x["valid"].all(-1) if vectors else x["valid"] for x in own], 1)
    order = jnp.cumsum(valid.ravel().astype(jnp.int32)).reshape(valid.shape)
    place = Place(
        jnp.where(valid, order - 1, -1),
        jnp.broadcast_to(valid.sum(dtype=jnp.int32), len(keys)),
        jnp.broadcast_to(named(keys[0], "batch"), keys.shape),
    )
    return {"raw": jnp.stack([x["vectors" if vectors else "pixels"] for x in own], 1), "place": place}


def alone(view, keys):
    """A view as a batch of modalities alone: (raw `[B · modalities, …]`, their Place, a key for each)."""
    raw, (rank, count, key) = view["raw"], view["place"]
    each = jax.vmap(lambda k: jax.random.split(k, raw.shape[1]))(keys).reshape(-1)
    return raw.reshape(-1, *raw.shape[2:]), Place(rank.reshape(-1), count[0], key[0]), each


def cosine(a, b):
    """Of vectors `[…, D]`; 0 where one is zero."""
    norms = jnp.sqrt(jnp.maximum(jnp.square(a).sum(-1) * jnp.square(b).sum(-1), 1e-16))
    return (a * b).sum(-1) / norms


def usage(counts) -> dict:
    """counts `[books, K]` → {usage, perplexity}."""
    p = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1.0)
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)
    return {"usage": (counts > 0).mean(), "perplexity": jnp.exp(entropy).mean()}
