"""Softmax InfoNCE between listed pairs of modalities (CLIP, arXiv 2103.00020)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from data_pipeline.spec import DENSE, Modality
from pretrain.models.tokens import TokenSet, whole


@dataclasses.dataclass(frozen=True)
class Edge:
    """A pair of modalities whose embeddings of one example should agree."""

    a: str
    b: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """Per edge ½ (CE of rows + CE of columns) of exp(s)·z_a z_bᵀ over the global batch; weighted mean over edges.

    grid_tokens: how many random tokens of a grid modality are embedded (0: all), as in FLIP (arXiv 2212.00794).
    s starts at log(1 / temperature) and is clamped to log 100. An example that lacks a modality of an edge is neither
    row nor column of it.
    """

    modalities: tuple[Modality, ...]
    edges: tuple[Edge, ...]
    temperature: float = 0.07
    grid_tokens: int = 0
    coef: float = 1.0

    def __post_init__(self):
        names = [m.name for m in self.modalities if m.kind not in DENSE]
        if not self.edges:
            raise ValueError("objectives.contrastive.edges=(): list at least one pair of modalities")
        for i, edge in enumerate(self.edges):
            where = f"objectives.contrastive.edges[{i}]={edge.a, edge.b, edge.weight}"
            for end in (edge.a, edge.b):
                if end not in names:
                    raise ValueError(f"{where}: no tokenized modality {end!r}; the run has {', '.join(names)}")
            if edge.a == edge.b or not edge.weight > 0:
                raise ValueError(f"{where}: an edge joins two modalities with a positive weight")
        if len({_name(e) for e in self.edges}) < len(self.edges):
            raise ValueError("objectives.contrastive.edges: the same pair occurs twice; give it one weight")
        if self.grid_tokens < 0:
            raise ValueError(f"objectives.contrastive.grid_tokens={self.grid_tokens}: 0 takes all, else a number")
        if self.temperature <= 0:
            raise ValueError(f"objectives.contrastive.temperature={self.temperature}: must be positive")

    @property
    def embedded(self) -> tuple[str, ...]:
        """The modalities that occur in an edge, in the run's order."""
        ends = {e for edge in self.edges for e in (edge.a, edge.b)}
        return tuple(m.name for m in self.modalities if m.name in ends)

    @property
    def tokens_per_example(self) -> int:
        lengths = [m.length for m in self.modalities if m.name in self.embedded and m.kind == "sequence"]
        grids = [m.length for m in self.modalities if m.name in self.embedded and m.kind == "grid"]
        return sum(lengths) + sum(min(n, self.grid_tokens or n) for n in grids)

    def init(self, key) -> dict:
        return {"log_scale": jnp.float32(math.log(1 / self.temperature))}

    def view(self, batch, keys) -> dict[str, TokenSet]:
        """{modality: TokenSet `[B, n]`}, sequences whole, grids thinned to `grid_tokens`."""
        views = {}
        for i, m in enumerate(self.modalities):
            if m.name not in self.embedded:
                continue
            tokens = whole(batch, m.name, self.modalities)
            if m.kind == "grid" and 0 < self.grid_tokens < m.length:
                thin = jax.vmap(lambda key, t: _thin(key, t, self.grid_tokens))
                tokens = thin(jax.vmap(jax.random.fold_in, (0, None))(keys, i), tokens)
            views[m.name] = tokens
        return views

    def weights(self, view):
        present = {m: t.valid.any(1) for m, t in view.items()}
        return {_name(e): (present[e.a] & present[e.b]).sum().astype(jnp.float32) for e in self.edges}

    def embed(self, model, own, view, keys):
        """{modality: {"z" `[B, embed_dim]` of unit length, "present" `[B]` 1.0 or 0.0}}.

        Modalities of equal length share one encoder call.
        """
        by_length = {}
        for name, tokens in view.items():
            by_length.setdefault(tokens.ids.shape[1], []).append(name)
        z = {}
        for names in by_length.values():
            # Interleaved [B, k] → [B·k], so that a sharded batch axis stays where it is.
            joined = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, x[0].shape[1]), *(view[n] for n in names))
            pooled = model.pool(model.encode(joined))
            pooled = pooled.reshape(-1, len(names), pooled.shape[-1])
            for i, name in enumerate(names):
                z[name] = {
                    "z": model.project_pooled(pooled[:, i], name),
                    "present": view[name].valid.any(1).astype(jnp.float32),
                }
        return z

    def pair(self, own, z):
        scale = jnp.exp(jnp.minimum(own["log_scale"], math.log(100.0)))

        def one(a, b):
            return info_nce(a["z"], b["z"], (a["present"] * b["present"]) > 0, scale)

        return {_name(e): one(z[e.a], z[e.b]) for e in self.edges}

    def share(self, name) -> float:
        total = sum(e.weight for e in self.edges)
        return sum(e.weight for e in self.edges if _name(e) == name) / total


def info_nce(a, b, present, scale):
    """Σ over present examples of ½ (CE of the row + CE of the column); a, b `[B, D]` of unit length, present `[B]`."""
    logits = scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    own = jnp.diagonal(logits)
    # Absent examples leave the comparison by -inf, never by a factor of zero; their own rows are dropped below.
    # (Where nobody is present the sums would be log 0: the diagonal is kept so that no NaN reaches the gradient.)
    compared = jnp.eye(len(a), dtype=bool)
    row = jax.nn.logsumexp(jnp.where(present[None, :] | compared, logits, -jnp.inf), axis=1)
    column = jax.nn.logsumexp(jnp.where(present[:, None] | compared, logits, -jnp.inf), axis=0)
    return jnp.where(present, 0.5 * (row + column) - own, 0.0).sum()


def _name(edge):
    return f"{edge.a}~{edge.b}"


def _thin(key, tokens: TokenSet, size: int) -> TokenSet:
    """A random subset of `size` tokens of one example's `[L]` tokens."""
    kept = jax.random.permutation(key, len(tokens.ids))[:size]
    return TokenSet(*(field[jnp.sort(kept)] for field in tokens))
