"""4M's encoder-decoder over token sets (arXiv 2312.06647, section 2), with pooled embeddings per modality."""

import dataclasses

from data_pipeline.spec import Modality
from pretrain.models.parts import decoder, embed, encoder, head, pool, project
from pretrain.models.parts.base import Numerics
from pretrain.models.stack import check_numerics
from pretrain.ops.fused_attention import check as check_attention
from pretrain.ops.positions import WAVES


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the trunk. `dtype` is that of products and inside of stacks (`Numerics`); `embed_dim` the width of the
    pooled embeddings.

    qk_norm, registers, adapter, slopes: see `parts.encoder`; tables, table_std, waves: `parts.embed`.
    mimetic: start attention so that it looks at the same place and copies what it finds (`layers.Attention`).
    pool_queries: learned ones that pool the encoder output by attention (`parts.pool`); 0 takes its mean.
    attention: `xla`; `auto`: the device's fused kernel wherever it can honour the mask, else XLA; or a kernel by name,
    which then must honour every mask (`ops.fused_attention`).
    """

    dim: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    mlp_ratio: float = 4.0
    gated: bool = True
    bias: bool = False
    qk_norm: bool = False
    registers: int = 0
    adapter: int = 0
    slopes: tuple[float, ...] = ()
    tables: str = "shared"
    embed_dim: int = 512
    table_std: float = 0.02
    mimetic: bool = False
    pool_queries: int = 0
    waves: tuple[float, float] = WAVES
    attention: str = "xla"
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: int | bool = 1

    def __post_init__(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"model.dim={self.dim}: must be divisible by model.heads={self.heads} and by 4")
        if self.pool_queries < 0:
            raise ValueError(f"model.pool_queries={self.pool_queries}: 0 pools by the mean, else a number of queries")
        check_numerics(self.remat, self.dtype, self.unroll)
        self.compose((), ())
        width = self.dim // self.heads
        check_attention(self.attention, dtype=self.dtype, width=width, biased=bool(self.slopes), varied=True)

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.dtype, self.attention, self.remat, self.unroll)

    def compose(self, modalities: tuple[Modality, ...], embedded: tuple[str, ...]) -> dict:
        """{name: Config} of the parts (`network.Network`); embedded: the modalities that get a projection."""
        c = self
        blocks = dict(
            dim=c.dim, heads=c.heads, mlp_ratio=c.mlp_ratio, gated=c.gated, bias=c.bias, qk_norm=c.qk_norm,
            slopes=c.slopes, mimetic=c.mimetic,
        )  # fmt: skip
        queries = c.pool_queries if embedded else 0
        parts = {
            "embed": embed.Config((), c.dim, c.tables, c.table_std, c.waves),
            "encoder": encoder.Config(
                ("embed",), depth=c.encoder_depth, registers=c.registers, adapter=c.adapter, **blocks
            ),
            "decoder": decoder.Config(("embed", "encoder"), depth=c.decoder_depth, **blocks),
            "head": head.Config(("decoder",), "embed"),
            "pool": pool.Config(("encoder",), c.dim, "queries" if queries else "mean", queries),
        }
        if embedded:
            parts["project"] = project.Config(("pool",), c.embed_dim, of=embedded)
        return parts
