"""Whether two sides belong together, for a network that reads them as a pair: own pairs against likely others."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.parts.base import VECTOR
from pretrain.models.parts.predict import NUMBERS
from pretrain.models.passes import ONLINE, Call, Leaf, constant, leaves
from pretrain.objectives.corruptions import Numbers
from pretrain.objectives.edges import Pairs
from pretrain.objectives.paired import cross_entropy
from pretrain.ops.pairs import dot


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """Cross-entropy of two classes, 1 of each example's own pair, 0 of its a beside another's b and of its b beside
    another's a (ALBEF, arXiv 2107.07651, section 3.2). Beside it the `accuracy`.

    The other one is drawn with softmax(scale · cosine) over the global batch without the own, so that likely ones come
    more often; no gradient passes the draw. An example without another has its own pair alone.
    edges: the one whose embeddings are compared. head: a `parts.predict` of dim=2, of a vector that is made of both
    sides. What it reads of one side alone is computed once an example, what lies above for the pairs.
    scale: 0 draws evenly.
    """

    head: str = dataclasses.field(kw_only=True)
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.edges) != 1:
            self.fail("edges", "name one edge: a head reads the two sides of it", len(self.edges))
        if self.model != ONLINE:
            self.fail("model", f"a head is run of {ONLINE!r} alone: leave it out")
        if self._variants:
            self.fail("branches", "leave `variant` out: a head is shown what an example holds itself", self._variants)
        if not self.scale >= 0:
            self.fail("scale", "must not be negative; 0 draws evenly")
        if self.network.parts:
            self._check_head()

    def _check_head(self):
        network, sides = self.network, [self.ends[end] for end in (self.edges[0].a, self.edges[0].b)]
        head = network.need(self.head, f"{self.where}.head")
        if (head.gives, head.dim) != (NUMBERS, 2) or network[head.reads[0]].gives != VECTOR:
            self.fail("head", "name a part that gives 2 numbers of a vector")
        if set(sides[0]) & set(sides[1]):
            self.fail("edges", "its sides have a modality in common; pairs are made of two apart", self.edges[0].name)
        if set(network.read_by(self.head)) != {*sides[0], *sides[1]} or not network.joins(self.head):
            names = " and ".join("+".join(side) for side in sides)
            self.fail("head", f"it must read {names}, each with parts of its own")
        if any(constant(node) for nodes in self._sides for node in nodes):
            self.fail("head", "what it reads of no example, such as prompts, must lie below one side alone")

    @property
    def _match(self) -> Call:
        return self.network.over(self.head, {m: self.shown(m) for of in self.ends.values() for m in of})

    @property
    def _sides(self) -> list[list[Call]]:
        """The nodes at which the match begins, of a and of b."""
        edge = self.edges[0]
        of = {self.shown(m): side for side, end in enumerate((edge.a, edge.b)) for m in self.ends[end]}
        found = [], []

        def visit(node):
            below = {of[leaf] for leaf in leaves([node])}
            if len(below) > 1:
                for n in node.args:
                    visit(n)
            elif node not in (own := found[min(below, default=0)]):
                own.append(node)

        visit(self._match)
        return list(found)

    def apart(self) -> dict:
        """{name: node} of what is computed of each example by itself: the embeddings, and all that `matched` reads."""
        own = {("side", side, i): node for side, nodes in enumerate(self._sides) for i, node in enumerate(nodes)}
        return super().passes(False) | own

    def matched(self, outputs, rows, run):
        """What the head gives of pairs, `[n, 2]`. outputs: of `apart`, or of `passes`; rows: which examples they are
        made of, those of a `[n]` and those of b `[n]`."""
        given = {}
        for side, nodes in enumerate(self._sides):
            for i, node in enumerate(nodes):
                given[node] = jax.tree.map(lambda x, side=side: x[rows[side]], outputs["side", side, i])
        return above(self._match, given, run)

    def passes(self, train: bool) -> dict:
        drawn = {("draw", side): Leaf(Numbers(("sampled_matching", "ab"[side]))) for side in range(2)}
        return self.apart() | drawn

    def weights(self, data):
        (own,) = super().weights(data).values()
        return dict.fromkeys(("nll", "accuracy"), own + 2 * jnp.where(own > 1, own, 0.0))

    def totals(self, params, outputs, *, train, run):
        edge, present = self.edges[0], self.present(outputs)
        both = present[edge.a] & present[edge.b]
        a, b = (jnp.where(both[:, None], outputs["z", end], 0.0) for end in (edge.a, edge.b))
        likely = self.scale * jax.lax.stop_gradient(dot(a, b))
        other = both & ~jnp.eye(len(both), dtype=bool)
        own = jnp.arange(len(both))
        # Of the pairs (own, own), (another a, own b), (own a, another b).
        rows = (
            jnp.concatenate([own, draw(likely.T, other, outputs["draw", 0]), own]),
            jnp.concatenate([own, own, draw(likely, other, outputs["draw", 1])]),
        )
        matched = jnp.arange(3 * len(both)) < len(both)
        counted = jnp.concatenate([both, *[both & (both.sum() > 1)] * 2])
        found = cross_entropy(self.matched(outputs, rows, run), matched.astype(jnp.int32))
        return {k: jnp.where(counted, v, 0.0).sum() for k, v in found.items()}

    def loss_weight(self, name) -> float:
        return float(name != "accuracy")


def draw(logits, candidates, numbers):
    """int `[n]`: of each row one of its candidates, bool `[n, B]`, with their softmax, by numbers `[n]` in [0, 1), and
    never another one; of a row without any, any."""
    most = jnp.where(candidates, logits, -jnp.inf).max(1, keepdims=True, initial=jnp.finfo(jnp.float32).min)
    upto = jnp.cumsum(jnp.where(candidates, jnp.exp(logits - most), 0.0), 1)
    # The first whose sum exceeds the number: one that adds nothing to the sum is never that.
    return jnp.minimum((upto <= numbers[:, None] * upto[:, -1:]).sum(1), upto.shape[1] - 1)


def above(node: Call, given: dict, run):
    """The output of a node for rows, of which `given` has what lies at its beginning."""
    if node in given:
        return given[node]
    return run(node.part, *(above(n, given, run) for n in node.args), **dict(node.options))
