"""Link prediction in a knowledge graph: of a head and a relation, which of all entities is the tail."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.corruptions import Label
from pretrain.ops.algebra import PARTS, PRODUCTS, normalised
from pretrain.ops.keys import named
from pretrain.ops.pairs import dot
from pretrain.parameters import param, undecayed
from pretrain.schedule import Coefficient

SCORES = ("distance", "dot")


@dataclasses.dataclass(frozen=True)
class Objective:
    """−log softmax_t φ(h, r, t), over all entities t. φ = −‖e_h ∘ r̂ − e_t‖² + b_h + b'_t (arXiv 2208.02743).

    An entity is e = [a row of a table, what the network makes of its views], `dim` numbers; ∘ a product of
    `ops.algebra`; r̂ a relation, each of its numbers of four parts at length 1 with `normalise`. score: `dot` for
    φ = ⟨e_h ∘ r̂, e_t⟩ + b_h + b'_t: with product="real" that is DistMult (arXiv 1412.6575).

    head, relation, tail: of `config.labels`. views: modalities of all entities, which the examples of the split
    `entities` are, in the order of their numbers.
    inverse: the head is predicted, too: the tail of its tail under a further relation, half of the loss.
    negatives: 0 for all entities; else so many random ones, and the loss is the mean of −log σ(φ) of the true tail and
    of −log σ(−φ) of those, which may happen to be true.
    n3: the weight of Σ |e_h|³ + |r|³ + |e_t|³ of a triple (arXiv 1806.07297). std: of what tables start with.
    """

    context: Context
    head: str = "head"
    relation: str = "relation"
    tail: str = "tail"
    views: tuple[str, ...] = ()
    entities: str = "entities"
    dim: int = 32
    product: str = "hamilton"
    normalise: bool = True
    score: str = "distance"
    inverse: bool = True
    negatives: int = 0
    n3: float = 0.0
    std: float = 1e-3
    coef: Coefficient = 1.0

    scope, embedded, tokens_per_example = EXAMPLE, (), 1

    def __post_init__(self):
        known = {m.name: m for m in self.context.labels if m.form == "ids"}
        for key in (keys := ("head", "relation", "tail")):
            if (name := getattr(self, key)) not in known:
                self.fail(key, f"no such labels in config.labels; there are {', '.join(known) or 'none'}")
            if [getattr(self, k) for k in keys].count(name) > 1:
                self.fail(key, "head, relation and tail are three labels")
        sizes = [known[name].vocab_size for name in (self.head, self.tail)]
        if sizes[0] != sizes[1] or sizes[0] < 2:
            self.fail("tail", f"heads and tails are the same two entities or more: vocab_size={sizes}")
        if self.product not in PRODUCTS:
            self.fail("product", f"must be one of {', '.join(PRODUCTS)}")
        if self.score not in SCORES:
            self.fail("score", f"must be one of {', '.join(SCORES)}")
        if self.dim < 1 or self.dim % PARTS[self.product]:
            self.fail("dim", f"must be a multiple of {PARTS[self.product]}, the parts of a number")
        if self.normalise and PARTS[self.product] == 1:
            self.fail("normalise", "real numbers of length 1 would be signs; set False")
        for key in ("negatives", "n3", "std"):
            if getattr(self, key) < 0 or (key == "std" and not self.std):
                self.fail(key, "must be positive" if key == "std" else "must not be negative; 0 is none")
        self._check_views()

    def _check_views(self):
        readable = {m.name for m in self.context.modalities}
        for view in self.views:
            if view not in readable or self.views.count(view) > 1:
                self.fail("views", f"name each once, of the modalities {', '.join(sorted(readable))}")
            if self._view(view) is None:
                self.fail("views", f"the network makes no vector of {view!r}: give it a part `pool`")
        if self._of_table < 1:
            self.fail("dim", f"views take {self.dim - self._of_table} of it; leave some to the table of entities")

    def fail(self, key, remedy):
        raise ValueError(f"objectives.links.{key}={getattr(self, key)!r}: {remedy}")

    @property
    def relations(self) -> int:
        """How many there are, without those of the other way."""
        return self._size(self.relation)

    def _size(self, label: str) -> int:
        return next(m.vocab_size for m in self.context.labels if m.name == label)

    def _view(self, name: str):
        """The node of what the network makes of a view of all entities, `[E, d]`; None if it does not."""
        network = self.context.network
        return network.pooled(name, self.context.every(name, self.entities))

    @property
    def _of_table(self) -> int:
        """How many numbers of an entity are learned as such."""
        return self.dim - sum(self.context.network[self._view(name).part].dim for name in self.views)

    def init(self, key) -> dict:
        entities, relations = self._size(self.head), self.relations * (1 + self.inverse)
        shapes = {"entity": (entities, self._of_table), "relation": (relations, self.dim)}
        tables = {n: param(self.std * jax.random.normal(named(key, n), s)) for n, s in shapes.items()}
        return tables | {n: undecayed(jnp.zeros(entities)) for n in ("head_bias", "tail_bias")}

    def passes(self, train: bool) -> dict:
        out = {key: Leaf(Label(getattr(self, key))) for key in ("head", "relation", "tail")}
        out |= {("view", name): self._view(name) for name in self.views}
        if self.negatives:
            directions = ("tail", "head")[: 1 + self.inverse]
            out |= {("random", n): Leaf(Random(n, self.negatives, self._size(self.tail))) for n in directions}
        return out

    def known(self, data):
        """Which examples are triples, bool `[B]`."""
        return data["head"]["valid"] & data["relation"]["valid"] & data["tail"]["valid"]

    def directions(self, data) -> dict:
        """{what is predicted: (head, relation, tail), numbers `[B]`}, of examples that are none zeros."""
        known = self.known(data)
        h, r, t = (jnp.where(known, data[key]["ids"], 0) for key in ("head", "relation", "tail"))
        return {"tail": (h, r, t)} | ({"head": (t, r + self.relations, h)} if self.inverse else {})

    def weights(self, data):
        count = self.known(data).sum().astype(jnp.float32)
        out = dict.fromkeys(("tail", "head")[: 1 + self.inverse], count * (1 + self.negatives))
        return out | ({"n3": count * (1 + self.inverse)} if self.n3 else {})

    def table(self, params, outputs):
        """What all entities are, `[E, dim]`."""
        views = [outputs["view", name] for name in self.views]
        for name, x in zip(self.views, views):
            if len(x) != self._size(self.head):
                self.fail("entities", f"{len(x)} examples have {name!r}; labels know {self._size(self.head)} entities")
        return jnp.concatenate([params["entity"], *views], -1)

    def query(self, params, table, heads, relations):
        """e_h ∘ r̂ `[n, dim]` of numbers `[n]`."""
        r = params["relation"][relations]
        return PRODUCTS[self.product](table[heads], normalised(r) if self.normalise else r)

    def scores(self, params, table, heads, relations, among=slice(None)):
        """φ(h, r, t) of all entities t, `[n, E]`, or of those of some numbers."""
        q, e = self.query(params, table, heads, relations), table[among]
        products = dot(q, e)
        if self.score == "distance":
            products = 2 * products - jnp.square(q).sum(-1)[:, None] - jnp.square(e).sum(-1)
        return products + params["head_bias"][heads][:, None] + params["tail_bias"][among]

    def of_pairs(self, params, table, heads, relations, tails):
        """φ(h, r, t) of numbers `[n]`, `[n]` and `[n, k]`."""
        q, e = self.query(params, table, heads, relations)[:, None], table[tails]
        found = (q * e).sum(-1) if self.score == "dot" else -jnp.square(q - e).sum(-1)
        return found + params["head_bias"][heads][:, None] + params["tail_bias"][tails]

    def totals(self, params, outputs, *, train, run):
        table, known, out = self.table(params, outputs), self.known(outputs), {}
        total = lambda x: jnp.where(known, x, 0.0).sum()
        cubes = 0.0
        for name, (h, r, t) in self.directions(outputs).items():
            if self.negatives:
                tails = jnp.concatenate([t[:, None], outputs["random", name]], 1)
                found = self.of_pairs(params, table, h, r, tails)
                loss = jax.nn.softplus(-found[:, 0]) + jax.nn.softplus(found[:, 1:]).sum(1)
            else:
                found = self.scores(params, table, h, r)
                loss = jax.nn.logsumexp(found, 1) - jnp.take_along_axis(found, t[:, None], 1)[:, 0]
            out[name] = total(loss)
            factors = (table[h], params["relation"][r], table[t])
            cubes += sum(total((jnp.abs(x) ** 3).sum(-1)) for x in factors) if self.n3 else 0.0
        return out | ({"n3": cubes} if self.n3 else {})

    def loss_weight(self, name) -> float:
        return self.n3 if name == "n3" else 1 / (1 + self.inverse)


@dataclasses.dataclass(frozen=True)
class Random:
    """The corruption that draws `count` of `size` numbers for every example, `[B, count]`."""

    name: str
    count: int
    size: int

    def __call__(self, batch, keys):
        return jax.vmap(lambda k: jax.random.randint(named(k, "links", self.name), (self.count,), 0, self.size))(keys)
