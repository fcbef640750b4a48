"""Towers beside each other, and beside 4M's trunk where a run has one: any modality → one embedding space."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models import encdec, tower
from pretrain.models.stack import check_numerics
from pretrain.models.states import States
from pretrain.ops.fused_attention import check as check_attention


@dataclasses.dataclass(frozen=True)
class Config:
    """towers: each reads its own modalities; those that no tower reads go to `trunk`, 4M's encoder-decoder.

    trunk: None where the towers read everything; its `embed_dim` must be this one.
    dtype: of the matmul operands of towers; attention: what computes theirs, as in `encdec.Config`.
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
        for t in (t for t in self.towers if t.depth):
            check_attention(self.attention, dtype=self.dtype, width=t.dim // t.heads, biased=False, varied=t.causal)
        if self.trunk and self.trunk.embed_dim != self.embed_dim:
            raise ValueError(
                f"model.trunk.embed_dim={self.trunk.embed_dim}: must be model.embed_dim={self.embed_dim}: one space"
            )

    @property
    def states(self) -> States:
        own = self.trunk.states if self.trunk else States()
        return dataclasses.replace(own, embed_dim=self.embed_dim)


class Model(nnx.Module):
    """towers: {name: Tower}; trunk: encdec.Model or None. `embedded` are the modalities that objectives embed.

    With a trunk it encodes, decodes and scores tokens as that does, so that a masked objective trains the trunk beside
    the contrastive one, which trains all.
    """

    def __init__(self, config: Config, modalities: tuple[Modality, ...], embedded: tuple[str, ...], rngs: nnx.Rngs):
        self.config, self.modalities, self.embedded = config, modalities, embedded
        self.owner = {name: t.name for t in config.towers for name in t.modalities}
        specs = {m.name: m for m in modalities}
        made = {}
        for t in config.towers:
            unknown = [name for name in t.modalities if name not in specs]
            if unknown or not t.modalities:
                raise ValueError(
                    f"model.towers: {t.name!r}: modalities={t.modalities}: must be of the run's, {', '.join(specs)}"
                )
            forms = {_form(specs[name]) for name in t.modalities}
            if len(forms) > 1:
                raise ValueError(
                    f"model.towers: {t.name!r}: modalities={t.modalities}: they differ in kind, shape or vocabulary; "
                    "give each form a tower"
                )
            args = dict(attention=config.attention, dtype=jnp.dtype(config.dtype), rngs=rngs)
            made[t.name] = tower.Tower(t, specs[t.modalities[0]], config.embed_dim, **args)
        self.towers = nnx.Dict(made)
        left = tuple(name for name in embedded if name not in self.owner)
        if left and config.trunk is None:
            raise ValueError(
                f"model.towers: none reads {', '.join(left)}, which the objectives embed; add them to a tower"
            )
        self.trunk = encdec.Model(config.trunk, modalities, left, rngs) if config.trunk else None

    def embed(self, tokens: dict, dense: dict, *, early=None) -> dict:
        """{name: TokenSet `[B, n]`}, {name: rows} of `tokens.dense_rows` → {name: `[B, embed_dim]` of unit length}.

        early: a number in 0…1; gives (embedding, that of an earlier layer) instead: of layer 1 + ⌊early · (depth − 1)⌋.
        """
        z = {}
        for name, mine in tokens.items():
            if name in self.owner:
                z[name] = self._tower(name, mine, dense.get(name), early)
        rest = {name: t for name, t in tokens.items() if name not in self.owner}
        return z | (self.trunk.embed(rest, dense, early=early) if rest else {})

    def pooled(self, tokens, dense: dict, name: str):
        """One modality alone → (what the projection reads `[B, P]`, embedding `[B, embed_dim]`)."""
        if name not in self.owner:
            return self.trunk.pooled(tokens, dense, name)
        x, valid, _ = self._encode(name, tokens, dense.get(name))
        pooled = self.towers[self.owner[name]].pool(x, valid)
        return pooled, self._project(name, pooled)

    def encode(self, *args, **kw):
        return self._trunk().encode(*args, **kw)

    def decode(self, *args, **kw):
        return self._trunk().decode(*args, **kw)

    def nll(self, *args, **kw):
        return self._trunk().nll(*args, **kw)

    def logits(self, *args, **kw):
        return self._trunk().logits(*args, **kw)

    def _trunk(self):
        if self.trunk is None:
            raise ValueError("model.trunk=None: towers alone predict no tokens; give the model a trunk")
        return self.trunk

    def _encode(self, name, tokens, rows, layers=False):
        c = self.config
        return self.towers[self.owner[name]].encode(tokens, rows, layers=layers, remat=c.remat, unroll=c.unroll)

    def _project(self, name, pooled):
        made = self.towers[self.owner[name]]
        if made.config.frozen:  # no backward pass through what does not learn
            pooled = jax.lax.stop_gradient(pooled)
        return encdec.unit(pooled if made.project is None else made.project(pooled))

    def _tower(self, name, tokens, rows, early):
        made = self.towers[self.owner[name]]
        x, valid, hidden = self._encode(name, tokens, rows, layers=early is not None)
        z = self._project(name, made.pool(x, valid))
        if early is None:
            return z
        if hidden is None:  # no layers: the only one is the last
            return z, z
        return z, self._project(name, made.pool(made.norm(encdec.layer_of(hidden, early)), valid))


def _form(m: Modality):
    return m.kind, m.shape, m.patch, m.mean, m.std, m.vocab, m.vocab_size
