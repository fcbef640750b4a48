"""A transformer tower: one or more modalities of one form → one embedding an example (CLIP, SigLIP, ALIGN, …)."""

import dataclasses

from pretrain.models.layers import ACTIVATIONS
from pretrain.models.parts import embed_one, encoder, pool, project

POOLS = ("cls", "mean", "last", "map", "ggem")


@dataclasses.dataclass(frozen=True)
class Config:
    """A pre-LN transformer of its own for `modalities`, which share kind, shape and vocabulary.

    depth: 0 for no transformer: the rows of a `vectors` modality, precomputed elsewhere, are pooled and projected.
    activation: of the MLP, `gelu`, `gelu_tanh`, `quick_gelu` (CLIP's), or `swiglu`.
    causal: a token sees only its past, as in CLIP's text tower.
    pool: `cls` a learned class token, or one of `mean`, `last`, `map`, `ggem` (`parts.pool`).
    positions: `learned`, fixed `sincos`, or `none`.
    pad_id: -1: nobody sees the padding of a text; else it is seen, as tokens of this id, as in SigLIP.
    patch_bias, pre_norm, project, project_bias: a bias of the patch projection, a norm before the first block (CLIP's
      image tower), the projection to `embed_dim`, and its bias.
    frozen: everything but the projection keeps the values that it is loaded with (`config.load`).
    """

    name: str
    modalities: tuple[str, ...]
    dim: int = 768
    heads: int = 12
    depth: int = 12
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    causal: bool = False
    bias: bool = True
    eps: float = 1e-6
    pool: str = "mean"
    positions: str = "learned"
    pad_id: int = -1
    patch_bias: bool = True
    pre_norm: bool = False
    project: bool = True
    project_bias: bool = False
    frozen: bool = False

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"model.towers: {self.name!r}: {key}={getattr(self, key)!r}: {remedy}")

        if self.depth < 0:
            fail("depth", "must not be negative")
        if self.dim % self.heads or self.dim % 4:
            fail("dim", f"must be divisible by heads={self.heads} and by 4")
        for key, allowed in (
            ("activation", (*ACTIVATIONS, "swiglu")), ("pool", POOLS), ("positions", embed_one.POSITIONS),
        ):  # fmt: skip
            if getattr(self, key) not in allowed:
                fail(key, f"must be one of {', '.join(allowed)}")
        if self.causal and self.pool == "cls":
            fail("pool", "a class token comes first and would see nothing of a causal tower: take `last`")
        if not self.depth and self.pool != "mean":
            fail("pool", "a tower of depth 0 has nothing but its rows: take `mean`")

    def compose(self, embed_dim: int) -> dict:
        """{name: Config} of its parts, NAME_embed, NAME_encoder, NAME_pool and NAME_project."""
        c, at = self, f"{self.name}_"
        gated = c.activation == "swiglu"
        activation = "gelu" if gated else c.activation
        parts = {
            at + "embed": embed_one.Config(
                c.modalities, c.dim, cls=c.pool == "cls", positions=c.positions, pad_id=c.pad_id, norm=c.pre_norm,
                patch_bias=c.patch_bias, norm_bias=c.bias, eps=c.eps, raw=not c.depth, frozen=c.frozen,
            )
        }  # fmt: skip
        if c.depth:
            parts[at + "encoder"] = encoder.Config(
                (at + "embed",), c.dim, c.depth, c.heads, c.mlp_ratio, gated, activation, c.bias, c.eps,
                causal=c.causal, frozen=c.frozen,
            )  # fmt: skip
        parts[at + "pool"] = pool.Config(
            (at + ("encoder" if c.depth else "embed"),), c.dim, c.pool, heads=c.heads, mlp_ratio=c.mlp_ratio,
            activation=c.activation, bias=c.bias, eps=c.eps, frozen=c.frozen,
        )  # fmt: skip
        parts[at + "project"] = project.Config(
            (at + "pool",), embed_dim, bias=c.project_bias, identity=not c.project
        )  # fmt: skip
        return parts
