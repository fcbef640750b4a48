"""The embedding of any tokens side by side (4M, arXiv 2312.06647, section 2): select first, embed what was selected."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.models.tokens import Shown, TokenSet
from pretrain.ops.positions import WAVES, sincos_1d, sincos_2d
from pretrain.parameters import param
from pretrain.sharding import constrain, gather_rows

# How many tables a vocabulary has. `shared`: one; `split`: the decoder has its own, which is also its head, as in 4M's
# training; `untied`: the head is a third, as in the published 4M checkpoints.
TABLES = ("shared", "split", "untied")


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the modalities; () for all of the run.

    tables: how many a vocabulary has (`TABLES`).
    table_std: initial standard deviation of the token tables, as in 4M (but see `Modality.code_std`). Beside position
    embeddings of about 0.7 a deviation of 0.02 hides what a token says, and a contrastive objective hardly starts; a
    word that training never shows should stay as quiet as that.
    waves: the shortest and longest wave of the position tables (`ops.positions`). On a small grid 4M's hardly tell
    neighbours apart, and the decoder is slow to find what lies where its query stands.
    """

    reads: tuple[str, ...] = ()
    dim: int = 768
    tables: str = "shared"
    table_std: float = 0.02
    waves: tuple[float, float] = WAVES

    joint = edited = True

    def __post_init__(self):
        if self.dim % 4:
            raise ValueError(f"model.dim={self.dim}: must be divisible by 4, for the position tables")
        if not 0 < self.waves[0] < self.waves[1]:
            raise ValueError(f"model.waves={self.waves}: needs 0 < shortest < longest wave")
        if self.tables not in TABLES:
            raise ValueError(f"model.tables={self.tables!r}: must be one of {', '.join(TABLES)}")

    def make(self, build, rngs):
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Shown → Stream; with queries=True what a decoder starts from: the previous token in sequences, elsewhere the mask
    token. Tables of the vocabularies, projections of what has none, one vector per modality, and positions.

    tables: {vocab: `[V, D]`}, read by the encoder, and unless `decoder_tables` and `heads` hold others (`TABLES`) by
    the decoder and as the head; learned: {name: `[L, D]`}, positions of the `set`s, others have fixed ones, and
    `decoder_learned` the decoder's own; dense: {name: Linear(width → D)}; modality: `[modalities, D]`; mask_token:
    `[D]`, what the decoder sees where it sees no ids.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        modalities, dim, tables, std = build.modalities, config.dim, config.tables, config.table_std
        mine = [build.spec(n) for n in config.reads] or modalities
        for m in mine:
            if m.dense and not m.readable:
                raise ValueError(
                    f"modality {m.name!r}: patch=0: give pixels that a trunk reads the side of their patches; clips "
                    "need tokens"
                )
        normal = jax.nn.initializers.normal(0.02)
        first = {m.vocab: m for m in reversed(mine) if not m.dense}
        shared = tables == "shared"
        vocabs = dict.fromkeys(m.vocab for m in mine if m.vocab and (m.inputs or shared))
        targets = dict.fromkeys(m.vocab for m in mine if m.vocab and m.targets)

        def make(vocabs):
            shapes = {v: (first[v].vocab_size, dim) for v in vocabs}
            return nnx.Dict(
                {v: param(std * jax.random.normal(rngs.params(), s), split=-2, vocab=v) for v, s in shapes.items()}
            )

        self.tables = make(vocabs)
        self.modality = param(normal(rngs.params(), (len(modalities), dim)), rows=tuple(m.name for m in modalities))
        self.mask_token = param(normal(rngs.params(), (dim,)))
        self.dense = nnx.Dict({
            m.name: Linear(m.width, dim, bias=not m.pictures, dtype=build.dtype, rngs=rngs)
            for m in mine if m.dense
        })  # fmt: skip

        def positions(side):
            sets = [m for m in mine if m.learned_positions and getattr(m, side)]
            return nnx.Dict({m.name: param(normal(rngs.params(), (m.length, dim)), resize="linear") for m in sets})

        self.learned = positions("learned_positions" if shared else "inputs")
        self.decoder_learned = None if shared else positions("targets")
        self.decoder_tables = None if shared else make(targets)
        self.heads = make(targets) if tables == "untied" else None
        self.modalities, self.dim, self.waves = modalities, dim, config.waves
        self.targets = tuple(targets)

    def __call__(self, shown: Shown, *others, asked: Asked, queries: bool = False) -> Stream:
        """shown: tokens `[B, N]`. others: (Shown, share `[B, N]`): tokens at the same places whose content is mixed in,
        where the share of an example's own is not 1 (mixup and cutmix of what the encoder reads)."""
        tokens = shown.tokens
        placed = self.place(tokens, queries=queries)
        if queries:
            x = self.queries(tokens) + placed
        else:
            content = self.content(*shown)
            if others:
                other, share = others
                content = share[..., None] * content + (1 - share[..., None]) * self.content(*other)
            if asked.edit is not None:
                content = asked.edit(content)
            placed = jnp.where(tokens.valid[..., None], placed, 0.0)
            x = content + placed
        x = jnp.where(tokens.valid[..., None], x, 0.0)
        return Stream(x, tokens.valid, tokens.modality, tokens.position, placed, self.where(tokens))

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
        longest = max((2 * m.length + 2 for m in self.modalities if m.spans), default=0)
        parts, start, size = {}, [], 0
        for m in self.modalities:
            key = (m.grid, m.trained_grid) if m.grid else m.name if m.learned_positions else "sequence"
            if key not in parts:
                if m.grid:
                    rows = sincos_2d(*m.grid, self.dim, self.waves, m.trained_grid)
                elif m.learned_positions:
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
            if not m.dense:
                continue
            if m.name not in dense or m.name not in self.dense:  # nobody gave them: they must not pass for zeros
                x = jnp.where((tokens.modality == i)[..., None], jnp.nan, x)
                continue
            # Project all rows, then pick: an example has about as many as slots.
            rows = self.dense[m.name](dense[m.name])
            at = jnp.where(tokens.modality == i, tokens.ids, rows.shape[1])
            x = x + jax.vmap(lambda r, a: r.at[a].get(mode="fill", fill_value=0))(rows, at)
        return x

    def queries(self, tokens: TokenSet):
        """What the decoder starts from, `[B, M, D]`: the previous token in sequences, elsewhere the mask token."""
        is_sequence = jnp.asarray([m.autoregressive for m in self.modalities])[tokens.modality]
        tables = self.tables if self.decoder_tables is None else self.decoder_tables
        previous = self._look_up(tables, tokens, lambda m: m.autoregressive)
        return jnp.where(is_sequence[..., None], previous, self.mask_token[...])

    def _look_up(self, tables, tokens: TokenSet, which=lambda m: True):
        x = 0.0
        for vocab, table in tables.items():
            mine = [m.vocab == vocab and which(m) for m in self.modalities]
            if not any(mine):
                continue
            # Tokens of other vocabularies fall off the table's end and read zeros.
            at = jnp.where(jnp.asarray(mine)[tokens.modality], tokens.ids, len(table))
            x = x + constrain(gather_rows(table[...], -2).at[at].get(mode="fill", fill_value=0))
        return x
