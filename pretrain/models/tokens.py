"""Token sets, and their embedding from modality specs: select first, embed what was selected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import DENSE, SPANS, Modality
from pretrain.models.layers import Linear
from pretrain.ops.positions import sincos_1d, sincos_2d
from pretrain.parameters import param
from pretrain.sharding import constrain, gather_rows

# How many tables a vocabulary has. `shared`: one; `split`: the decoder has its own, which is also its head, as in 4M's
# training; `untied`: the head is a third, as in the published 4M checkpoints.
TABLES = ("shared", "split", "untied")


class TokenSet(NamedTuple):
    """N tokens of any modalities; every field is `[B, N]`.

    ids: into the modality's vocabulary; for pixels and vectors, which row of the example's own (past the last: zeros);
    modality: index into the run's modalities; position: raster index on a grid, running index in a sequence;
    valid: False for an empty slot.
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


def presence(batch: dict, modality: Modality):
    """Which tokens of a modality each example of a batch has, `[B, L]`."""
    valid = batch[modality.name]["valid"]
    return valid if valid.ndim == 2 else jnp.repeat(valid[:, None], modality.length, axis=1)


def whole(batch: dict, name: str, modalities) -> TokenSet:
    """All the tokens of one modality of a batch, `[B, L]`."""
    index = [m.name for m in modalities].index(name)
    valid = presence(batch, modalities[index])
    position = jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=jnp.int32), valid.shape)
    ids = position if modalities[index].kind in DENSE else batch[name]["ids"].astype(jnp.int32)
    return TokenSet(ids, jnp.full(valid.shape, index, jnp.int32), position, valid)


def dense_rows(batch: dict, modalities) -> dict:
    """{name: `[B, L, width]`} of vectors, and of pixels: normalised, cut into patches (row, column, channel)."""
    rows = {}
    for m in modalities:
        if m.kind == "vectors":
            rows[m.name] = batch[m.name]["vectors"]
        elif m.kind == "pixels":
            x = (batch[m.name]["pixels"] / 255.0 - jnp.asarray(m.mean)) / jnp.asarray(m.std)
            (high, wide), p = m.grid, m.patch
            x = x.reshape(len(x), high, p, wide, p, -1).transpose(0, 1, 3, 2, 4, 5)
            rows[m.name] = x.reshape(len(x), high * wide, -1)
    return rows


class TokenEmbedding(nnx.Module):
    """Tables of the vocabularies, projections of what has none, one vector per modality, and positions.

    tables: {vocab: `[V, D]`}, read by the encoder, and unless `decoder_tables` and `heads` hold others (`TABLES`) by
    the decoder and as the head; learned: {name: `[L, D]`}, positions of the `set`s, others have fixed ones, and
    `decoder_learned` the decoder's own; dense: {name: Linear(width → D)}; modality: `[modalities, D]`; mask_token:
    `[D]`, what the decoder sees where it sees no ids.
    """

    def __init__(self, modalities: tuple[Modality, ...], dim: int, tables: str, std: float, waves: tuple, dtype, rngs):
        for m in modalities:
            if m.kind in DENSE and not m.readable:
                raise ValueError(
                    f"modality {m.name!r}: patch=0: give pixels that a trunk reads the side of their patches; clips "
                    "need tokens"
                )
        normal = jax.nn.initializers.normal(0.02)
        first = {m.vocab: m for m in reversed(modalities) if m.kind not in DENSE}
        shared = tables == "shared"
        vocabs = dict.fromkeys(m.vocab for m in modalities if m.vocab and (m.inputs or shared))
        targets = dict.fromkeys(m.vocab for m in modalities if m.vocab and m.targets)

        def make(vocabs):
            shapes = {v: (first[v].vocab_size, dim) for v in vocabs}
            return nnx.Dict(
                {v: param(std * jax.random.normal(rngs.params(), s), split=-2, vocab=v) for v, s in shapes.items()}
            )

        self.tables = make(vocabs)
        self.modality = param(normal(rngs.params(), (len(modalities), dim)), rows=tuple(m.name for m in modalities))
        self.mask_token = param(normal(rngs.params(), (dim,)))
        self.dense = nnx.Dict({
            m.name: Linear(m.width, dim, bias=m.kind == "vectors", dtype=dtype, rngs=rngs)
            for m in modalities if m.kind in DENSE
        })  # fmt: skip

        def positions(side):
            sets = [m for m in modalities if m.kind == "set" and getattr(m, side)]
            return nnx.Dict({m.name: param(normal(rngs.params(), (m.length, dim)), resize="linear") for m in sets})

        self.learned = positions("kind" if shared else "inputs")
        self.decoder_learned = None if shared else positions("targets")
        self.decoder_tables = None if shared else make(targets)
        self.heads = make(targets) if tables == "untied" else None
        self.modalities, self.dim, self.waves = modalities, dim, waves
        self.targets = tuple(targets)

    def head(self, vocab: str):
        """The table `[V, D]` that turns decoder outputs into logits."""
        owner = (
            self.tables if self.decoder_tables is None else self.decoder_tables if self.heads is None else self.heads
        )
        return owner[vocab][...]

    def target_of(self, modality):
        """Index into `targets` of the vocabulary of each token, from its modality index; any shape."""
        index = [self.targets.index(m.vocab) if m.vocab in self.targets else -1 for m in self.modalities]
        return jnp.asarray(index)[modality]

    def place(self, tokens: TokenSet, *, queries: bool = False):
        """Position plus modality embedding of encoder inputs or of decoder queries, `[B, N, D]`."""
        learned = self.decoder_learned if queries and self.decoder_learned is not None else self.learned
        # Equal grids and all sequences share their rows. What masking makes of a sequence, sentinels included, can be
        # twice as long and two more.
        longest = max((2 * m.length + 2 for m in self.modalities if m.kind in SPANS), default=0)
        parts, start, size = {}, [], 0
        for m in self.modalities:
            key = (m.grid, m.trained_grid) if m.grid else m.name if m.kind == "set" else "sequence"
            if key not in parts:
                if m.grid:
                    rows = sincos_2d(*m.grid, self.dim, self.waves, m.trained_grid)
                elif m.kind == "set":
                    rows = gather_rows(learned[m.name][...]) if m.name in learned else jnp.zeros((1, self.dim))
                else:
                    rows = sincos_1d(longest, self.dim, self.waves)
                parts[key], size = (size, rows), size + len(rows)
            start.append(parts[key][0])
        table = jnp.concatenate([rows for _, rows in parts.values()])
        at = jnp.asarray(start)[tokens.modality] + tokens.position
        return table[at] + gather_rows(self.modality[...])[tokens.modality]

    def where(self, tokens: TokenSet):
        """(row, column, 1) of each token in its picture, as fractions of its sides; zeros off grids: `[B, N, 3]`."""
        grids = [m.grid or (1, 1) for m in self.modalities]
        rows, columns = (jnp.asarray(n)[tokens.modality] for n in zip(*grids))
        on_grid = jnp.asarray([float(bool(m.grid)) for m in self.modalities])[tokens.modality]
        row, column = (tokens.position // columns + 0.5) / rows, (tokens.position % columns + 0.5) / columns
        return jnp.stack([row, column, jnp.ones_like(row)], axis=-1) * on_grid[..., None]

    def content(self, tokens: TokenSet, dense: dict):
        """What the encoder reads of the tokens, `[B, N, D]`; dense as from `dense_rows`."""
        x = self._look_up(self.tables, tokens)
        for i, m in enumerate(self.modalities):
            if m.kind not in DENSE:
                continue
            if m.name not in dense:  # nobody gave them: a token of them must not pass for a zero
                x = jnp.where((tokens.modality == i)[..., None], jnp.nan, x)
                continue
            # Project all rows, then pick: an example has about as many as slots.
            rows = self.dense[m.name](dense[m.name])
            at = jnp.where(tokens.modality == i, tokens.ids, rows.shape[1])
            x = x + jax.vmap(lambda r, a: r.at[a].get(mode="fill", fill_value=0))(rows, at)
        return x

    def queries(self, tokens: TokenSet):
        """What the decoder starts from, `[B, M, D]`: the previous token in sequences, elsewhere the mask token."""
        is_sequence = jnp.asarray([m.kind == "sequence" for m in self.modalities])[tokens.modality]
        previous = self._look_up(
            self.tables if self.decoder_tables is None else self.decoder_tables, tokens, {"sequence"}
        )
        return jnp.where(is_sequence[..., None], previous, self.mask_token[...])

    def _look_up(self, tables, tokens: TokenSet, kinds=None):
        x = 0.0
        for vocab, table in tables.items():
            mine = [m.vocab == vocab and (kinds is None or m.kind in kinds) for m in self.modalities]
            if not any(mine):
                continue
            # Tokens of other vocabularies fall off the table's end and read zeros.
            at = jnp.where(jnp.asarray(mine)[tokens.modality], tokens.ids, len(table))
            x = x + constrain(gather_rows(table[...]).at[at].get(mode="fill", fill_value=0))
        return x
