"""Contrast of places: tokens of a grid by the class that a map has there."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.models.stream import unit
from pretrain.models.tokens import Whole, whole
from pretrain.objectives.base import BATCH, Context
from pretrain.objectives.classification import normalise
from pretrain.objectives.dense import NO_LABEL, on_grid
from pretrain.ops.keys import named
from pretrain.ops.same_class import same_class_losses
from pretrain.parameters import param, undecayed
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """temperature / base times `same_class_losses` of tokens of the global batch, projected by `relu(norm(W x)) V` to
    unit length, their mean (ASC-Former, arXiv 2312.06934, section 4.3, and its release).

    inputs, grid: as in `dense`. label: one of the run's labels, a map of two classes, 255 of no label; a token's class
    is that of the first pixel of its patch.
    points: how many tokens of either class are drawn; where one has fewer, more of the other, up to twice as many in
    all. least: of fewer tokens of a class among these nothing is learned in that step.
    hidden, dim: of the projection. base: by which the temperature is divided.
    """

    context: Context
    inputs: tuple[str, ...]
    grid: str
    label: str
    temperature: float = 0.07
    base: float = 0.07
    points: int = 1024
    least: int = 512
    hidden: int = 512
    dim: int = 128
    coef: Coefficient = 1.0

    scope, embedded = BATCH, ()
    where = "objectives.map_contrast"

    def __post_init__(self):
        specs = {m.name: m for m in self.context.modalities}
        maps = {m.name: m for m in self.context.labels if m.pictures}
        if self.grid not in self.inputs or not specs.get(self.grid) or not specs[self.grid].grid:
            self.fail("grid", "must be one of `inputs`, and a grid or pixels")
        if self.label not in maps:
            self.fail("label", f"no such map among config.labels; there are: {', '.join(maps) or 'none'}")
        target = maps[self.label]
        if (target.vocab_size, target.shape[2], target.resample) != (2, 1, "nearest"):
            self.fail("label", "needs one channel, vocab_size=2 and resample='nearest'")
        if any(n % m for n, m in zip(target.shape, specs[self.grid].grid)):
            self.fail("label", f"its {target.shape[:2]} pixels are no multiple of the grid, {specs[self.grid].grid}")
        if not self.context.network.encodes(self.inputs):
            self.fail("inputs", "no part encodes them together: let an `embed` read them, and an `encoder` that")
        if not self.temperature > 0 or not self.base > 0:
            self.fail("temperature", f"must be positive, and base={self.base}, too")
        if min(self.points, self.hidden, self.dim) < 1:
            self.fail("points", f"must be at least 1, and hidden={self.hidden} and dim={self.dim}, too")
        if not 2 <= self.least <= self.points:
            self.fail("least", f"must be at least 2, for a token beside each, and at most points={self.points}")

    def fail(self, key, remedy):
        raise ValueError(f"{self.where}.{key}={getattr(self, key)!r}: {remedy}")

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if m.name in self.inputs)

    def init(self, key) -> dict:
        first, last = jax.random.split(key)
        kernel = lambda k, *shape: param(jax.nn.initializers.xavier_uniform()(k, shape), matrix=True)
        network = self.context.network
        return {
            "first": kernel(first, network[network.encodes(self.inputs)].dim, self.hidden),
            "norm": {"scale": undecayed(jnp.ones(self.hidden)), "bias": undecayed(jnp.zeros(self.hidden))},
            "last": kernel(last, self.hidden, self.dim),
        }

    def passes(self, train: bool) -> dict:
        network = self.context.network
        given = Leaf(Whole(self.inputs, self.context.modalities))
        return {"places": Leaf(Places(self)), "stream": network.chain(network.encodes(self.inputs), given)}

    def weights(self, data):
        return {"nll": self.chosen(data["places"]).sum().astype(jnp.float32)}

    def chosen(self, places):
        """bool `[B, N]`: the tokens that are compared; none where a class has too few of them."""
        rank, tampered, known = places["rank"].ravel(), places["class"].ravel() == 1, places["known"].ravel()
        of = [known & ~tampered, known & tampered]
        counts, out = [own.sum() for own in of], jnp.zeros(rank.shape, bool)
        taken = [jnp.minimum(n, jnp.maximum(self.points, 2 * self.points - m)) for n, m in zip(counts, counts[::-1])]
        for own, n in zip(of, taken):
            order = jnp.argsort(jnp.argsort(jnp.where(own, rank, jnp.inf)))
            out |= own & (order < n)
        return (out & (jnp.minimum(*taken) >= self.least)).reshape(places["known"].shape)

    def totals(self, params, outputs, *, train, run):
        places, x = outputs["places"], on_grid(self, outputs["stream"].x)
        chosen = self.chosen(places).ravel()
        size = min(2 * self.points, len(chosen))
        rows = jnp.argsort(~chosen)[:size]  # those that are chosen first
        x = x.reshape(len(chosen), -1)[rows]
        z = unit(jax.nn.relu(normalise(params["norm"], x @ params["first"])) @ params["last"])
        losses = same_class_losses(z, places["class"].ravel()[rows], chosen[rows], self.temperature)
        return {"nll": self.temperature / self.base * losses.sum()}

    def loss_weight(self, name) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Places:
    """The tokens of an objective's grid: {"class" int32, "known" bool, "rank", a random number in [0, 1): `[B, N]`}."""

    objective: Objective

    def __call__(self, batch, keys) -> dict:
        o = self.objective
        rows, columns = next(m.grid for m in o.context.modalities if m.name == o.grid)
        pixels = batch[o.label]["pixels"]
        at = pixels[:, :: pixels.shape[1] // rows, :: pixels.shape[2] // columns, 0].reshape(len(pixels), -1)
        known = (at != NO_LABEL) & batch[o.label]["valid"][:, None] & whole(batch, o.grid, o.context.modalities).valid
        rank = jax.vmap(lambda key: jax.random.uniform(key, (rows * columns,)))(named(keys, "map_contrast", o.label))
        return {"class": at.astype(jnp.int32), "known": known, "rank": rank}
