"""Vector quantization (arXiv 1711.00937): the nearest of K codes, which follow the mean of what they are chosen for.

Nearest by the cosine (arXiv 2110.04627, section 3.2), as in 4M (arXiv 2312.06647, appendix C), or by the distance.
Codes are moving averages (arXiv 1711.00937, appendix A.1): no gradient and no optimizer changes them. Codes that are
hardly chosen are renewed: vectors of the batch take their places. They may start as the k-means of training examples.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.parameters import param
from pretrain.tokenizers.kmeans import kmeans
from pretrain.tokenizers.quantizers.base import (
    Place,
    Quantized,
    code_counts,
    commitment,
    nearest,
    straight_through,
    unit,
)  # fmt: skip

EPS = 1e-5  # counts that codes without any are given (Laplace smoothing), Euclidean codes only


@dataclasses.dataclass(frozen=True)
class Config:
    """size: codes K, of `width` numbers; decay: of the averages.

    renew: a code is dead whose average count a step is below this share of the mean, (tokens of the batch) / K; 0
    renews none. 1/32 in 4M.
    kmeans: vectors of the training split whose k-means the codes are at first; 0 for random codes.
    """

    size: int = 1024
    width: int = 32
    cosine: bool = True
    decay: float = 0.99
    renew: float = 1 / 32
    kmeans: int = 0

    def __post_init__(self):
        check(self, "vq")


class Quantizer(nnx.Module):
    """The codes as they are stored: with `cosine` about, but not exactly, of norm 1, as in 4M."""

    books = 1
    log_likelihoods = None

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config, self.width, self.vocab_size = config, config.width, config.size
        start = init(config, rngs.params())
        self.codebook, self.counts = (param(start[n], statistics=True) for n in ("codebook", "counts"))
        self.sums = None if config.cosine else param(start["sums"], statistics=True)

    def __call__(self, z, keys=None) -> Quantized:
        z = z.astype(jnp.float32)
        ids = self.to_ids(z)
        codes = self.to_codes(ids)
        return Quantized(straight_through(codes, z), ids, {"commitment": commitment(codes, z)})

    def to_ids(self, codes):
        """Codes or any vectors `[…, d]` → ids of the nearest codes `[…]`."""
        return nearest(codes, self.codebook[...], self.config.cosine)

    def to_codes(self, ids):
        return self.codebook[...][ids]

    def start(self, z, tokens: int) -> dict:
        return start(self.config, z, tokens)

    def statistics(self, z, ids, place: Place) -> dict:
        sums = gather(self.config, z, ids, place)
        return {name: x[None] for name, x in sums.items()}

    def update(self, statistics) -> dict:
        held = {"codebook": self.codebook[...], "counts": self.counts[...]}
        held |= {} if self.sums is None else {"sums": self.sums[...]}
        return follow(self.config, held, {name: x[0] for name, x in statistics.items()})


def check(config, where: str):
    """ValueError for settings that make no codebook."""
    if config.size < 2 or config.width < 1:
        raise ValueError(f"{where}.size={config.size}, {where}.width={config.width}: at least 2 codes of 1 number")
    if config.kmeans and config.kmeans < config.size:
        raise ValueError(f"{where}.kmeans={config.kmeans}: {where}.size={config.size} codes need as many vectors, or 0")
    if not 0 <= config.decay < 1:
        raise ValueError(f"{where}.decay={config.decay}: must be at least 0 and below 1")
    if not 0 <= config.renew < 1:
        raise ValueError(f"{where}.renew={config.renew}: must be at least 0 (never) and below 1")


def init(config, key) -> dict:
    """Codes uniform in ± (6 / d)^½, of norm 1 with `cosine`, and what is averaged for them."""
    codes = jax.random.uniform(key, (config.size, config.width), minval=-1.0) * (6 / config.width) ** 0.5
    if config.cosine:
        return {"codebook": unit(codes), "counts": jnp.zeros(config.size)}
    return {"codebook": codes, "counts": jnp.ones(config.size), "sums": codes}


def start(config, z, tokens: int) -> dict:
    """Codes that are the k-means of z `[n, d]`, and averages as if they had always been: `tokens` vectors a step."""
    codes, shares = kmeans(unit(z) if config.cosine else z, config.size)
    codes, counts = unit(codes) if config.cosine else codes, shares * tokens
    return {"codebook": codes, "counts": counts} | ({} if config.cosine else {"sums": codes * counts[:, None]})


def gather(config, z, ids, place: Place) -> dict:
    """Sums over valid examples: counts `[K]`, sums `[K, d]` of the vectors that chose a code, renewals `[K, d]`."""
    x = jax.lax.stop_gradient(z.astype(jnp.float32))
    x, valid = unit(x) if config.cosine else x, place.rank >= 0
    weight = valid.astype(jnp.float32)[:, None, None]
    out = {
        "counts": code_counts(ids, valid, 1, config.size)[0],
        "sums": jnp.zeros((config.size, config.width)).at[ids].add(x * weight),
    }
    return out | ({"renewals": renewals(x, place, config.size)} if config.renew else {})


def renewals(x, place: Place, size: int):
    """A vector of the valid examples of the global batch for each code, `[size, d]`, no vector twice if they suffice.

    Systematic sampling: (π(k) + u) T / size for the code k, T vectors in all, π a permutation and u in [0, 1). Those of
    other devices and microbatches are zeros here, so that sums are the vectors.
    """
    n, total = x.shape[1], place.count * x.shape[1]
    order, start = jax.random.permutation(place.key, size), jax.random.uniform(jax.random.fold_in(place.key, 1))
    at = jnp.minimum(((order + start) * (total / size)).astype(jnp.int32), total - 1)
    here = place.rank[:, None] == at // n
    chosen = x[here.argmax(0), at % n]
    return jnp.where(here.any(0)[:, None], chosen, 0.0)


def follow(config, held: dict, sums: dict) -> dict:
    """The averages one step on.

    Cosine: counts ← γ counts + (1 − γ) n;  e ← γ e + (1 − γ) m / ‖m‖ with m the mean of what chose e, e itself if
    nothing did. Euclidean: counts as above, s ← γ s + (1 − γ) Σ z, e = s / counts, the counts smoothed.
    """
    n, keep = sums["counts"], config.decay
    out = {"counts": keep * held["counts"] + (1 - keep) * n}
    if config.cosine:
        mean = unit(sums["sums"] / jnp.maximum(n, 1.0)[:, None])
        target = jnp.where(n[:, None] > 0, mean, unit(held["codebook"]))
        out["codebook"] = keep * held["codebook"] + (1 - keep) * target
    else:
        out["sums"] = keep * held["sums"] + (1 - keep) * sums["sums"]
        total = out["counts"].sum()
        smooth = (out["counts"] + EPS) / (total + config.size * EPS) * total
        out["codebook"] = out["sums"] / smooth[:, None]
    if config.renew:
        least = config.renew * n.sum() / config.size
        dead = out["counts"] < least
        out["codebook"] = jnp.where(dead[:, None], sums["renewals"], out["codebook"])
        if not config.cosine:  # else the average would undo it
            out["counts"] = jnp.where(dead, least, out["counts"])
            out["sums"] = jnp.where(dead[:, None], least * sums["renewals"], out["sums"])
    return out
