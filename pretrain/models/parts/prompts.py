"""Learned vectors among the tokens of a stream, others before each of its first blocks: deep prompts.

VPT (arXiv 2203.12119, section 3.1) has them in a tower of pictures, MaPLe (arXiv 2210.03117, section 3.2) in both of
CLIP's, those of pictures made of those of texts.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stack import make_stack
from pretrain.parameters import param

PROMPTS = "prompts"


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: () for vectors of its own; or other prompts, of which each block's are made by a linear map of its own.

    dim: of the vectors. length, layers: how many, before each of how many blocks; as of those that it reads.
    at: the first of their places in the stream, where they stand instead of what is shown there, such as the words
    before a class name; -1: behind all tokens. The embedding puts in the first block's, if it reads them, else the
    encoder, as they are; before a later block they stand in the place of what the block before gave there.
    words: ids of as many words of the embedding `table` at the most, from which the first block's start; the others
    start normal with a deviation of .02. `words` may be longer than `length`: the rest of them stays a text.
    """

    reads: tuple[str, ...] = ()
    dim: int = 512
    length: int = 2
    layers: int = 9
    at: int = -1
    words: tuple[int, ...] = ()
    table: str = ""

    gives = PROMPTS
    constant = True

    def make(self, build, rngs):
        for key, least in (("length", 1), ("layers", 1), ("at", -1)):
            if getattr(self, key) < least:
                build.fail(key, getattr(self, key), f"must be at least {least}")
        if self.words and len(self.words) < self.length:
            build.fail("words", self.words, f"start from as many words as length={self.length}, or from none")
        if self.reads:
            read = build.parts[self.reads[0]]
            if len(self.reads) > 1 or read.gives != PROMPTS:
                build.fail("reads", self.reads, "name other prompts that these are made of, or nothing")
            if (read.length, read.layers) != (self.length, self.layers):
                sizes = f"length={read.length}, layers={read.layers}"
                build.fail("length", (self.length, self.layers), f"{self.reads[0]!r} has {sizes}: take the same")
            if self.words:
                build.fail("words", self.words, "these start as what is made of others: leave words=()")
        elif self.words:
            table = build.parts.get(self.table)
            embeds = table is not None and table.gives == base.STREAM and not table.joint and table.reads
            if not embeds or table.reads[0] in build.parts or table.dim != self.dim or build.spec(table.reads[0]).dense:
                build.fail("table", self.table, f"name the embedding of a text of width dim={self.dim}")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """() or (prompts `[layers, n, D]`) → `[layers, n, dim]`.

    Parameters: `vectors`, of which those of the first block are what is added to the embeddings of `words`, and start
    at zero, if there are words; or `linears`, one a block.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        d_in = build.width(c.reads[0]) if c.reads else 0
        linear = lambda r: Linear(d_in, c.dim, bias=True, dtype=build.dtype, rngs=r)
        self.linears = make_stack(linear, c.layers, rngs) if c.reads else None
        vectors = 0.02 * jax.random.normal(rngs.params(), (c.layers, c.length, c.dim))
        self.vectors = None if c.reads else param(vectors.at[0].set(0.0) if c.words else vectors)

    def __call__(self, *others, asked: Asked):
        if self.linears is not None:
            return jax.vmap(lambda linear, x: linear(x))(self.linears, others[0])
        c, vectors = self.config, self.vectors[...]
        if not c.words:
            return vectors
        table = getattr(asked.network, c.table).table[...]
        return vectors.at[0].add(table[jnp.asarray(c.words[: c.length])])


def read(config: base.Config, build: base.Build) -> Config | None:
    """The prompts that a part reads behind what else it reads; None if it reads none."""
    found = [build.parts[n] for n in config.reads if n in build.parts and build.parts[n].constant]
    if not found:
        return None
    if len(found) > 1 or found[0].gives != PROMPTS or build.parts.get(config.reads[-1]) is not found[0]:
        build.fail("reads", config.reads, "of what depends on no example it takes one part `prompts`, named last")
    if found[0].dim != config.dim:
        build.fail("dim", config.dim, f"{config.reads[-1]!r}, which it reads, gives prompts of width {found[0].dim}")
    return found[0]
