"""Token sets, and their embedding from modality specs: select first, embed what was selected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.ops.positions import sincos_1d, sincos_2d
from pretrain.sharding import constrain, gather_rows


class TokenSet(NamedTuple):
    """N tokens of any modalities; every field is `[B, N]`.

    ids: into the modality's vocabulary; modality: index into the run's modalities; position: raster index on a grid,
    running index in a sequence; valid: False for an empty slot.
    """

    ids: jax.Array
    modality: jax.Array
    position: jax.Array
    valid: jax.Array


def concat(sets: list[TokenSet]) -> TokenSet:
    """Joins token sets along N."""
    return TokenSet(*(jnp.concatenate(parts, axis=1) for parts in zip(*sets)))


def pad(tokens: TokenSet, length: int) -> TokenSet:
    """Adds empty slots up to `[B, length]`, so that sets of several lengths share one compilation."""
    return TokenSet(*(jnp.pad(f, ((0, 0), (0, length - f.shape[1]))) for f in tokens))


def whole(batch: dict, name: str, modalities) -> TokenSet:
    """All the tokens of one modality of a batch, `[B, L]`."""
    index = [m.name for m in modalities].index(name)
    ids, valid = batch[name]["ids"], batch[name]["valid"]
    position = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    return TokenSet(ids.astype(jnp.int32), jnp.full(ids.shape, index, jnp.int32), position, valid)


class TokenEmbedding(nnx.Module):
    """One table per vocabulary, shared by modalities and by both sides; one vector per modality; fixed positions.

    tables: {vocab: `[V, D]`}; modality: `[modalities, D]`; mask_token: `[D]`, what the decoder sees of a grid token.
    """

    def __init__(self, modalities: tuple[Modality, ...], dim: int, stds: tuple, waves: tuple, rngs: nnx.Rngs):
        normal = jax.nn.initializers.normal(0.02)
        first = {m.vocab: m for m in reversed(modalities)}
        vocabs = dict.fromkeys(m.vocab for m in modalities)
        self.tables = nnx.Dict({v: nnx.Param(init_table(first[v], dim, *stds, rngs)) for v in vocabs})
        self.modality = nnx.Param(normal(rngs.params(), (len(modalities), dim)))
        self.mask_token = nnx.Param(normal(rngs.params(), (dim,)))
        self.modalities, self.dim, self.waves = modalities, dim, waves

    def vocab_of(self, modality):
        """Index of the vocabulary of each token, from its modality index; any shape."""
        vocabs = list(self.tables)
        return jnp.asarray([vocabs.index(m.vocab) for m in self.modalities])[modality]

    def place(self, tokens: TokenSet):
        """Position plus modality embedding, `[B, N, D]`."""
        # A masked sequence and its sentinels can outgrow the sequence, at most to twice its length and two.
        span = [m.length if m.kind == "grid" else 2 * m.length + 2 for m in self.modalities]
        longest = max(span)
        table = np.zeros((len(span), longest, self.dim), np.float32)
        for i, m in enumerate(self.modalities):
            if m.kind == "grid":
                table[i, : span[i]] = sincos_2d(*m.shape, self.dim, self.waves)
            else:
                table[i, : span[i]] = sincos_1d(span[i], self.dim, self.waves)
        flat = tokens.modality * longest + tokens.position
        return jnp.asarray(table).reshape(-1, self.dim)[flat] + self.modality[...][tokens.modality]

    def content(self, tokens: TokenSet):
        """The rows of the tokens' tables, `[B, N, D]`."""
        which = self.vocab_of(tokens.modality)
        rows = 0.0
        for i, table in enumerate(self.tables.values()):
            # Out-of-vocabulary lookups are clipped and then masked: each token reads from its own table only.
            row = constrain(gather_rows(table[...]).at[tokens.ids].get(mode="clip"))
            rows = rows + jnp.where((which == i)[..., None], row, 0.0)
        return rows

    def queries(self, tokens: TokenSet):
        """What the decoder starts from, `[B, M, D]`: the mask token on grids, the previous token in sequences."""
        is_grid = jnp.asarray([m.kind == "grid" for m in self.modalities])[tokens.modality]
        return jnp.where(is_grid[..., None], self.mask_token[...], self.content(tokens))


def init_table(modality: Modality, dim: int, table_std: float, code_std: float, rngs: nnx.Rngs):
    """Initial table `[V, dim]`: normal, or for an FSQ vocabulary a random linear image of its codes plus noise.

    The codes are what the quantizer's channels say, so that patches which look alike start out with like embeddings.
    """
    if not modality.levels:
        return table_std * jax.random.normal(rngs.params(), (modality.vocab_size, dim))
    digits = np.unravel_index(np.arange(modality.vocab_size), modality.levels, order="F")
    codes = np.stack([(d - d.mean()) / d.std() for d in digits], axis=1) / np.sqrt(len(digits))
    image = codes.astype(np.float32) @ jax.random.normal(rngs.params(), (len(digits), dim))
    return code_std * (image + 0.1 * jax.random.normal(rngs.params(), image.shape))
