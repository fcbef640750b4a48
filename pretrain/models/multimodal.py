"""Towers beside each other, and beside 4M's trunk where a run has one: any modality → one embedding space."""

import dataclasses

from data_pipeline.spec import Modality
from pretrain.models import encdec, tower
from pretrain.models.parts.base import Numerics
from pretrain.models.stack import check_numerics
from pretrain.ops.fused_attention import check as check_attention


@dataclasses.dataclass(frozen=True)
class Config:
    """towers: each reads its own modalities; those that no tower reads go to `trunk`, 4M's encoder-decoder.

    trunk: None where the towers read everything; its `embed_dim` must be this one.
    dtype: of the matmul operands of towers and inside of their stacks; attention: what computes theirs, as in
    `encdec.Config`.
    """

    towers: tuple[tower.Config, ...]
    embed_dim: int = 512
    trunk: encdec.Config | None = None
    attention: str = "xla"
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: int | bool = 1

    def __post_init__(self):
        if not self.towers:
            raise ValueError("model.towers=(): list at least one tower, or take model=models.encdec")
        names, read = [t.name for t in self.towers], [m for t in self.towers for m in t.modalities]
        for key, values in (("towers", names), ("towers.modalities", read)):
            if len(set(values)) < len(values):
                raise ValueError(
                    f"model.{key}: {sorted(values)} has a name twice; each tower and modality is one's own"
                )
        check_numerics(self.remat, self.dtype, self.unroll)
        for t in self.towers:
            if not t.project and t.dim != self.embed_dim:
                raise ValueError(
                    f"model.towers: {t.name!r}: project=False leaves embeddings of dim={t.dim}, but embed_dim="
                    f"{self.embed_dim}; make them equal, or project"
                )
        for t in (t for t in self.towers if t.depth):
            check_attention(self.attention, dtype=self.dtype, width=t.dim // t.heads, biased=False, varied=t.causal)
        if self.trunk and self.trunk.embed_dim != self.embed_dim:
            raise ValueError(
                f"model.trunk.embed_dim={self.trunk.embed_dim}: must be model.embed_dim={self.embed_dim}: one space"
            )

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.dtype, self.attention, self.remat, self.unroll)

    def compose(self, modalities: tuple[Modality, ...], embedded: tuple[str, ...]) -> dict:
        """{name: Config} of the parts (`network.Network`): those of every tower, and those of the trunk."""
        parts = {name: part for t in self.towers for name, part in t.compose(self.embed_dim).items()}
        left = tuple(name for name in embedded if not any(name in t.modalities for t in self.towers))
        more = self.trunk.compose(modalities, left) if self.trunk else {}
        more = {name: dataclasses.replace(part, numerics=self.trunk.numerics) for name, part in more.items()}
        if twice := parts.keys() & more.keys():
            raise ValueError(f"model.towers: the trunk has a part {min(twice)!r} too: name the tower otherwise")
        return parts | more
