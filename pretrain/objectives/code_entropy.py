"""Entropies that make an encoder sure of its codes and use them all (MAGVIT-v2, arXiv 2310.05737, equation 5).

They come from lookup-free quantization, and serve every quantizer whose codes consist of independent digits. The
entropy of a mean over the batch is no sum over examples: so it is an objective of its own, that compares examples.
"""

import dataclasses

import jax.numpy as jnp

from pretrain.models.passes import Leaf, call
from pretrain.objectives.base import BATCH, Context
from pretrain.objectives.corruptions import Raw
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """sure · E[H(p(code | z))] − spread · H(E[p(code | z)]), in nats, over the tokens of the global batch; the terms
    `token` and `codebook` are the two entropies.

    p is a softmax of −‖z − code‖² / temperature over bits of `lfq` and levels of `fsq`, or of a head's logits /
    temperature over codes of `memcodes`. group: how many codes are counted together in the second, see `entropies`.
    """

    context: Context
    sure: float = 1.0
    spread: float = 1.0
    temperature: float = 1.0
    group: int = 1024
    coef: Coefficient = 0.1

    scope = BATCH
    embedded = ()

    def __post_init__(self):
        if self.temperature <= 0 or not 2 <= self.group <= 2**18:
            raise ValueError(
                f"objectives.code_entropy.temperature={self.temperature}, group={self.group}: must be positive, and "
                "from 2 to 262144: the likelihoods of so many codes are held for every token"
            )

    @property
    def tokens_per_example(self) -> int:
        return 0

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        raw = Leaf(Raw(self.context.modalities))
        return {"raw": raw, "out": call("autoencoder", raw, temperature=self.temperature)}

    def weights(self, data):
        return dict.fromkeys(("token", "codebook"), (data["raw"]["place"].rank >= 0).any().astype(jnp.float32))

    def totals(self, params, outputs, *, train, run):
        logs, rank = outputs["out"]["logs"], outputs["raw"]["place"].rank
        weight = jnp.repeat((rank >= 0).astype(jnp.float32), logs[0].shape[1] // rank.shape[1], axis=1)
        logs = [x.reshape(-1, x.shape[-1]) for x in logs]
        token, codebook = entropies(logs, weight.reshape(-1), self.group)
        return {"token": token, "codebook": codebook}

    def loss_weight(self, name) -> float:
        return self.sure if name == "token" else -self.spread


def entropies(logs, weight, group: int):
    """(mean over vectors of H(p), H of the mean p) in nats.

    logs: log p of each digit of a code, `[n, its values]`; weight `[n]` of each vector. Digits are independent, so that
    the first entropy is exactly a sum over digits. The second is exact over neighbouring digits that have at most
    `group` values together (or one digit that has more), and a sum over such groups: an upper bound, where all codes
    would be too many (as in BSQ, arXiv 2406.07548, section 3.2, with groups of one bit).
    """
    parts = [jnp.exp(x) for x in logs]
    token = -sum((p * x).sum(-1) for p, x in zip(parts, logs))
    total, joint, spread = jnp.maximum(weight.sum(), 1e-9), None, 0.0
    for i, p in enumerate(parts):
        joint = p if joint is None else (joint[:, :, None] * p[:, None]).reshape(len(p), -1)
        if i + 1 == len(parts) or joint.shape[1] * parts[i + 1].shape[1] > group:
            mean, joint = (weight[:, None] * joint).sum(0) / total, None
            spread -= (mean * jnp.log(jnp.maximum(mean, 1e-12))).sum()
    return (weight * token).sum() / total, spread
