"""What objectives over pairs of modalities share: edges, the embeddings that they compare, and the sum over edges."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts.base import EMBEDDING
from pretrain.models.passes import ONLINE, Leaf
from pretrain.models.states import States
from pretrain.models.tokens import alike
from pretrain.objectives.base import BATCH, Context
from pretrain.objectives.corruptions import Thinned
from pretrain.schedule import Coefficient


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
class Branch:
    """An embedding beside those of modalities by themselves, such as of a part of what one shows, or of several read
    as one: edges join it by its `name`. part: of the network, which gives it of whatever of them an example has, or,
    if it cannot be made of one alone (of a picture what a text asks for), where it has them all; variant: NAME/VARIANT
    of the batch is shown in the place of each modality NAME."""

    name: str
    part: str
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The part of an objective that embeds modalities, each alone, and compares examples: those of its `embedded`.

    grid_tokens: how many random tokens of a picture are embedded (0: all), as in FLIP (arXiv 2212.00794).
    model: which of the run's models embeds (`config.models`, `config.references`).
    """

    context: Context
    grid_tokens: int = dataclasses.field(default=0, kw_only=True)
    coef: Coefficient = dataclasses.field(default=1.0, kw_only=True)
    model: str = dataclasses.field(default=ONLINE, kw_only=True)

    scope = BATCH

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
            if self.network.parts and name not in self.network.embeds:
                raise ValueError(
                    f"{self.where}: the network gives no embedding of {name!r}, but of "
                    f"{', '.join(self.network.embeds) or 'nothing'}; add it to a tower"
                )

    @property
    def ends(self) -> dict[str, tuple[str, ...]]:
        """{name of what is compared: its modalities}."""
        return {m: (m,) for m in self.embedded}

    @property
    def where(self) -> str:
        return f"objectives.{type(self).__module__.rpartition('.')[2]}"

    @property
    def network(self) -> States:
        """What the model that embeds can do."""
        return self.context.model(self.model, f"{self.where}.model")

    def fail(self, key, remedy, *value):
        """value: of the key, where it is not a field of this."""
        (value,) = value or (getattr(self, key),)
        raise ValueError(f"{self.where}.{key}={value!r}: {remedy}")

    @property
    def tokens_per_example(self) -> int:
        return sum(self._size(m) for m in self.context.modalities if m.name in self.embedded)

    def _size(self, m) -> int:
        return min(m.length, self.grid_tokens or m.length) if m.grid else m.length

    def shown(self, modality: str) -> Leaf:
        """What is embedded of a modality: texts whole, pictures thinned."""
        m, network = next(m for m in self.context.modalities if m.name == modality), self.network
        if self._size(m) < m.length:
            return network.leaf(Thinned(network.called(modality), self._size(m), network.specs))
        return network.shown(modality)

    def passes(self, train: bool) -> dict:
        """{("shown", name): leaf, ("z", name): embedding `[B, embed_dim]` of unit length}, by the names of `ends`."""
        leaves = {name: self.shown(m) for name, (m,) in self.ends.items()}
        return {("shown", name): leaf for name, leaf in leaves.items()} | {
            ("z", name): self.embedding(name, leaf) for name, leaf in leaves.items()
        }

    def embedding(self, name: str, leaf: Leaf):
        """The node of what is compared of a leaf."""
        return self.network.embedding(name, leaf)

    def present(self, data: dict) -> dict:
        """{name of `ends`: which examples have it, bool `[B]`}."""
        return {name: data["shown", name].tokens.valid.any(1) for name in self.ends}


@dataclasses.dataclass(frozen=True)
class Pairs(Embedding):
    """A loss of every edge, averaged over edges by weight.

    A file's Objective has `compare(params, a, b, present)` → the sum over present examples of the loss of one edge, a
    and b `[B, D]` of unit length, present bool `[B]`; or `totals` of its own.
    An example that lacks a modality of an edge is neither row nor column of it.
    branches: what edges may join beside modalities.
    """

    edges: tuple[Edge, ...]
    branches: tuple[Branch, ...] = dataclasses.field(default=(), kw_only=True)

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
        self._check_branches()
        super().__post_init__()

    def _check_branches(self):
        names, known = [b.name for b in self.branches], {m.name for m in self.context.modalities}
        if len({*names, *known}) < len(names) + len(known):
            self.fail("branches", "give each a name that no other and no modality has", names)
        for i, branch in enumerate(self.branches):
            where = f"branches[{i}].part"
            part = self.network.need(branch.part, f"{self.where}.{where}")
            if part.gives != EMBEDDING or not self.network.joins(branch.part):
                remedy = "name a part that gives an embedding of one modality, or of several that are embedded apart"
                self.fail(where, remedy, branch.part)

    @property
    def ends(self):
        parts = {b.name: b.part for b in self.branches}
        names = dict.fromkeys(n for e in self.edges for n in (e.a, e.b))
        return {n: self.network.read_by(parts[n]) if n in parts else (n,) for n in names}

    @property
    def embedded(self):
        """Those that are compared by themselves, or as whatever an example has of several."""
        return tuple(dict.fromkeys(m for n, ms in self.ends.items() if not self._together(n) for m in ms))

    def _together(self, name: str) -> tuple[str, ...]:
        """The modalities of an end that an example needs all; () where any are enough."""
        part = next((b.part for b in self.branches if b.name == name), "")
        needs = self.network.needs(part) if part else ()
        return needs if len(needs) > 1 else ()

    def present(self, data):
        out, numbers = super().present(data), {m.name: i for i, m in enumerate(self.context.modalities)}
        for name in self.ends:
            tokens = data["shown", name].tokens
            for m in self._together(name):
                out[name] &= (tokens.valid & (tokens.modality == numbers[m])).any(1)
        return out

    @property
    def tokens_per_example(self):
        sizes, variants = {m.name: self._size(m) for m in self.context.modalities}, self._variants
        return sum(sizes[m] for m, _ in {(m, variants.get(n)) for n, ms in self.ends.items() for m in ms})

    @property
    def _variants(self) -> dict[str, str]:
        return {b.name: b.variant for b in self.branches if b.variant}

    def passes(self, train):
        out = {}
        for name in self.ends:
            shown, z = self._end(name, self._variants.get(name, ""), "branches.variant")
            out |= {("shown", name): shown, ("z", name): z}
        return out

    def embedding(self, name, leaf):
        part = next((b.part for b in self.branches if b.name == name), "")
        return self.network.chain(part, leaf) if part else super().embedding(name, leaf)

    def form(self, name: str, variant: str, key: str) -> dict:
        """As `passes`, of another form of what an edge joins, which a transform writes: {("shown", NAME/VARIANT): leaf,
        ("z", NAME/VARIANT): embedding}. key: of the config, that names the variant."""
        shown, z = self._end(name, variant, key)
        return {("shown", f"{name}/{variant}"): shown, ("z", f"{name}/{variant}"): z}

    def _end(self, name: str, variant: str, key: str):
        """(the leaf of all that is shown of an end, the node of its embedding). key: of the config, that names the
        variant; "" is what the example itself holds."""
        names, network = self.ends[name], self.network
        form = lambda of: self.context.variant(of, variant, f"{self.where}.{key}", network)
        leaves = {m: form(m) if variant else self.shown(m) for m in names}
        if len(names) == 1:
            (leaf,) = leaves.values()
            return leaf, self.embedding(name, leaf)
        part = next(b.part for b in self.branches if b.name == name)
        return form(names) if variant else network.shown(*names), network.over(part, leaves)

    def differs(self, data: dict, name: str, variant: str):
        """Which examples have that form, and it says something else, bool `[B]`."""
        own, form = data["shown", name], data["shown", f"{name}/{variant}"]
        same = own.tokens.ids.shape == form.tokens.ids.shape and alike(own, form)  # or it is thinned
        return form.tokens.valid.any(1) & jnp.logical_not(same)

    def init(self, key) -> dict:
        return {}

    def weights(self, data):
        present = self.present(data)
        return {e.name: (present[e.a] & present[e.b]).sum().astype(jnp.float32) for e in self.edges}

    def totals(self, params, outputs, *, train, run):
        present = self.present(outputs)
        return {
            e.name: self.compare(params, outputs["z", e.a], outputs["z", e.b], present[e.a] & present[e.b])
            for e in self.edges
        }

    def loss_weight(self, name) -> float:
        return next(e.weight for e in self.edges if e.name == name) / sum(e.weight for e in self.edges)


def embeddings_of(model: str, objective: Pairs, key: str) -> dict:
    """{modality: node} of what another model of the run makes of all that an objective embeds, `[B, E]` of unit length.

    ValueError that names the key for a model that is not there, is the objective's own, or embeds less.
    """
    if objective.branches:
        objective.fail("branches", f"leave them out beside `{key}`: another model has none of them", "given")
    if model == objective.model:
        objective.fail(key, f"name another model than the one that learns by this, {model!r}", model)
    network = objective.context.model(model, f"{objective.where}.{key}")
    for modality in (m for m in objective.embedded if network.parts and m not in network.embeds):
        gives = ", ".join(network.embeds) or "nothing"
        objective.fail(key, f"{model!r} gives no embedding of {modality!r}, but of {gives}", model)
    theirs = Pairs(objective.context, objective.edges, model=model, grid_tokens=objective.grid_tokens).passes(True)
    return {m: theirs["z", m] for m in objective.embedded}


@dataclasses.dataclass(frozen=True)
class Reduced(Pairs):
    """Pairs whose loss may be the sum over the examples of the global batch.

    reduction: `mean` over the examples, or their `sum`, which ties the learning rate to the batch's size; where a file
    says so, the mean over all `pairs` of examples, n² of n.
    """

    reduction: str = dataclasses.field(default="mean", kw_only=True)

    reductions = ("mean", "sum")  # that there are

    def __post_init__(self):
        super().__post_init__()
        if self.reduction not in self.reductions:
            self.fail("reduction", f"must be one of {', '.join(self.reductions)}")

    def weights(self, data):
        divide = {"mean": lambda n: n, "sum": lambda n: jnp.minimum(n, 1.0), "pairs": jnp.square}[self.reduction]
        return {e: divide(n) for e, n in super().weights(data).items()}
