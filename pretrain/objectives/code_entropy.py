"""The entropy terms of lookup-free quantization (MAGVIT-v2, arXiv 2310.05737, equation 5): sure codes, and all of them.

The entropy of a mean over the batch is no sum over examples: so it is an objective of its own, that compares examples.
"""

import dataclasses

import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.objectives.reconstruction import raw_view
from pretrain.tokenizers.quantizers.lfq import Quantizer, entropies


@dataclasses.dataclass(frozen=True)
class Objective:
    """sure · E[H(p(code | z))] − spread · H(E[p(code | z)]), in nats, over the tokens of the global batch; the terms
    `token` and `codebook` are the two entropies.

    p is a softmax of −‖z − code‖² / temperature over codes of ± 1, as `lfq` has them. group: bits whose codes are
    counted together in the second, see `lfq.entropies`.
    """

    modalities: tuple[Modality, ...]
    sure: float = 1.0
    spread: float = 1.0
    temperature: float = 1.0
    group: int = 10
    coef: float = 0.1

    def __post_init__(self):
        if self.temperature <= 0 or not 1 <= self.group <= 18:
            raise ValueError(
                f"objectives.code_entropy.temperature={self.temperature}, group={self.group}: must be positive, and "
                "from 1 to 18: 2^group codes are held for every token"
            )

    @property
    def tokens_per_example(self) -> int:
        return 0

    def init(self, key) -> dict:
        return {}

    def view(self, batch, keys):
        return raw_view(self.modalities, batch, keys)

    def weights(self, view):
        return {"token": jnp.float32(1), "codebook": jnp.float32(1)}

    def embed(self, model, own, view, keys):
        """z `[B, tokens, d]` of all modalities of an example, and which tokens are valid, 0 or 1."""
        raw, rank = view["raw"], view["place"].rank
        if not isinstance(model.quantizer, Quantizer):
            raise ValueError("objectives.code_entropy: needs quantizer='lfq', whose codes are signs")
        z = model.latents(raw.reshape(-1, *raw.shape[2:]))
        valid = jnp.repeat((rank >= 0).astype(jnp.float32), z.shape[1], axis=1)
        return {"z": z.reshape(len(raw), -1, z.shape[-1]), "valid": valid}

    def pair(self, own, z):
        token, codebook = entropies(
            z["z"].reshape(-1, z["z"].shape[-1]), z["valid"].reshape(-1), self.temperature, self.group
        )
        return {"token": token, "codebook": codebook}

    def share(self, name) -> float:
        return self.sure if name == "token" else -self.spread
