"""Links of two sides of an example, such as mentions and entities, by what several modalities say of each."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.objectives.edges import Edge, Pairs  # noqa: F401 (an edge is part of this objective's config)
from pretrain.ops.keys import named
from pretrain.ops.layer_norm import layer_norm
from pretrain.ops.pairs import cross_entropy, dot, target_losses
from pretrain.ops.token_pairs import global_to_local
from pretrain.parameters import param, undecayed

LAYERS = ("whole", "query", "key", "value")
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """Σ_e CE(S_e) + CE(mean_e S_e), rows alone: of each edge e, from a, a mention, to b, an entity, and of all together
    (M3EL, arXiv 2412.10440; its release).

    S = ½ (⟨LN z_i, LN z_j⟩ + g2l_ij) of embeddings z before their unit length; g2l (`global_to_local`): the whole of
    b against what its tokens find among those of a, through layers of width `dim` that both sides share.
    Class tokens and padding take no part. An example that lacks a modality of an edge counts for the others alone.
    block: as in `contrastive`.
    """

    dim: int = 96
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.dim < 1 or self.block < 0:
            self.fail("dim" if self.dim < 1 else "block", "dim must be at least 1, block not negative")
        if self.branches:
            self.fail("branches", "leave them out: modalities and their tokens are compared", "given")
        for m in self.embedded if self.network.parts else ():
            if self.network.projected(m, self.shown(m)) is None:
                self.fail("edges", f"the projection of {m!r} fits no single token: pool it by a mean, cls or map", m)

    def init(self, key) -> dict:
        """{edge: {layer: {kernel, bias}, norm: {scale, bias}}}: of the whole, of tokens, and of what they find."""
        width, found = self.network.embed_dim, {}
        norm = lambda d: {"scale": undecayed(jnp.ones(d)), "bias": undecayed(jnp.zeros(d))}
        for e in self.edges:
            made = {"whole_norm": norm(width), "token_norm": norm(width), "norm": norm(self.dim)}
            for layer in LAYERS:
                kernel = jax.nn.initializers.xavier_uniform()(named(key, e.name, layer), (width, self.dim))
                made[layer] = {"kernel": param(kernel, matrix=True)}
                if layer != "key":  # whose bias changes no softmax
                    made[layer]["bias"] = undecayed(jnp.zeros(self.dim))
            found[e.name] = made
        return found

    def embedding(self, name, leaf):
        return self.network.embedding(name, leaf, raw=True)

    def passes(self, train: bool) -> dict:
        tokens = {("tokens", m): self.network.projected(m, self.shown(m), raw=True) for m in self.embedded}
        return super().passes(train) | tokens

    def weights(self, data):
        return super().weights(data) | {"all": self._whole(data).sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        present, pairs = self.present(outputs), self.sides(params, outputs)
        out = {e.name: self._loss(*pairs[e.name], present[e.a] & present[e.b], pair_score) for e in self.edges}
        a, b = zip(*pairs.values())
        return out | {"all": self._loss(a, b, self._whole(outputs), mean_score)}

    def loss_weight(self, name) -> float:
        return next((e.weight for e in self.edges if e.name == name), 1.0)

    def sides(self, params, outputs) -> dict:
        """{edge: what `pair_score` compares of a and of b}."""
        return {e.name: self._pair(params[e.name], outputs, e) for e in self.edges}

    def _pair(self, own, outputs, edge):
        linear = lambda x, layer: jnp.matmul(x, own[layer]["kernel"], precision="highest") + own[layer].get("bias", 0.0)
        normal = lambda x, norm: layer_norm(x, own[norm]["scale"], own[norm]["bias"], EPS)
        (za, zb), tokens = (normal(outputs["z", m], "whole_norm") for m in (edge.a, edge.b)), []
        for m in (edge.a, edge.b):
            valid = outputs["shown", m].tokens.valid
            tokens.append((normal(outputs["tokens", m][:, -valid.shape[1] :], "token_norm"), valid))
        (x, there), (y, here) = tokens
        whole = linear(zb, "whole")
        found = whole * own["norm"]["scale"], (whole * own["norm"]["bias"]).sum(-1)
        return (za, linear(x, "key"), linear(x, "value"), there), (zb, linear(y, "query"), here, *found)

    def _loss(self, a, b, present, score):
        rows, _ = target_losses(a, b, present, 1.0, divergence=cross_entropy, block=self.block, score=score)
        return rows.sum()

    def _whole(self, data):
        """Which examples have all modalities, bool `[B]`."""
        return jnp.stack(list(self.present(data).values())).all(0)


def pair_score(a, b):
    """`[n, m]` of one edge."""
    return (dot(a[0], b[0]) + global_to_local(a[1:], b[1:])) / 2


def mean_score(a, b):
    """`[n, m]` of all edges."""
    return sum(map(pair_score, a, b)) / len(a)
