"""What objectives over pairs of modalities share: edges, the view they embed, and the sum over edges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pretrain.models.tokens import TokenSet, dense_rows, whole
from pretrain.objectives.base import Context
from pretrain.ops.keys import named


@dataclasses.dataclass(frozen=True)
class Edge:
    """A pair of modalities whose embeddings of one example should agree."""

    a: str
    b: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.a}~{self.b}"


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The part of a cross-example objective that embeds modalities, each alone: those that its `embedded` names.

    grid_tokens: how many random tokens of a picture are embedded (0: all), as in FLIP (arXiv 2212.00794).
    """

    context: Context
    grid_tokens: int = dataclasses.field(default=0, kw_only=True)
    coef: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self):
        if self.grid_tokens < 0:
            self.fail("grid_tokens", "0 embeds all tokens, else a number of them")
        known = {m.name: m for m in self.context.modalities}
        for name in self.embedded:
            if name not in known:
                raise ValueError(f"{self.where}: no modality {name!r}; the run has {', '.join(known)}")
            if not known[name].readable:
                raise ValueError(
                    f"{self.where}: modality {name!r}: patch=0: give pixels the side of a patch; clips need tokens"
                )

    @property
    def where(self) -> str:
        return f"objectives.{type(self).__module__.rpartition('.')[2]}"

    def fail(self, key, remedy):
        raise ValueError(f"{self.where}.{key}={getattr(self, key)!r}: {remedy}")

    @property
    def tokens_per_example(self) -> int:
        return sum(self._size(m) for m in self.context.modalities if m.name in self.embedded)

    def _size(self, m) -> int:
        return min(m.length, self.grid_tokens or m.length) if m.grid else m.length

    def view(self, batch, keys) -> dict:
        """{"tokens": {modality: TokenSet `[B, n]`}, "dense": `dense_rows`}: texts whole, pictures thinned."""
        tokens = {}
        for m in self.context.modalities:
            if m.name not in self.embedded:
                continue
            tokens[m.name] = whole(batch, m.name, self.context.modalities)
            if self._size(m) < m.length:
                thin = jax.vmap(functools.partial(_thin, size=self._size(m)))
                tokens[m.name] = thin(named(keys, "thin", m.name), tokens[m.name])
        mine = [m for m in self.context.modalities if m.name in self.embedded]
        return {"tokens": tokens, "dense": dense_rows(batch, mine)}

    def embed(self, model, own, view, keys, early=None):
        """{modality: {"z" `[B, embed_dim]` of unit length, "present" `[B]` 1.0 or 0.0}}; "early" too, if asked for."""
        z = model.embed(view["tokens"], view["dense"], early=early)
        out = {}
        for name, t in view["tokens"].items():
            last = {"z": z[name]} if early is None else dict(zip(("z", "early"), z[name]))
            out[name] = last | {"present": t.valid.any(1).astype(jnp.float32)}
        return out


@dataclasses.dataclass(frozen=True)
class Pairs(Embedding):
    """A loss of every edge, averaged over edges by weight.

    A file's Objective has `compare(own, a, b, present)` → the sum over present examples of the loss of one edge, a and
    b `[B, D]` of unit length, present bool `[B]`; or a `pair` of its own.
    An example that lacks a modality of an edge is neither row nor column of it.
    """

    edges: tuple[Edge, ...]

    def __post_init__(self):
        if not self.edges:
            self.fail("edges", "list at least one pair of modalities")
        for i, edge in enumerate(self.edges):
            if edge.a == edge.b or not edge.weight > 0:
                raise ValueError(
                    f"{self.where}.edges[{i}]={edge.a, edge.b, edge.weight}: an edge joins two modalities with a "
                    "positive weight"
                )
        if len({e.name for e in self.edges}) < len(self.edges):
            self.fail("edges", "the same pair occurs twice; give it one weight")
        super().__post_init__()

    @property
    def embedded(self):
        return tuple(dict.fromkeys(n for e in self.edges for n in (e.a, e.b)))

    def init(self, key) -> dict:
        return {}

    def weights(self, view):
        present = {m: t.valid.any(1) for m, t in view["tokens"].items()}
        return {e.name: (present[e.a] & present[e.b]).sum().astype(jnp.float32) for e in self.edges}

    def pair(self, own, z):
        return {e.name: self.compare(own, z[e.a]["z"], z[e.b]["z"], together(z[e.a], z[e.b])) for e in self.edges}

    def share(self, name) -> float:
        return next(e.weight for e in self.edges if e.name == name) / sum(e.weight for e in self.edges)


def together(a: dict, b: dict):
    """Which examples have both modalities, bool `[B]`."""
    return (a["present"] * b["present"]) > 0


def _thin(key, tokens: TokenSet, size: int) -> TokenSet:
    """A random subset of `size` tokens of one example's `[L]` tokens."""
    kept = jax.random.permutation(key, len(tokens.ids))[:size]
    return TokenSet(*(field[jnp.sort(kept)] for field in tokens))
