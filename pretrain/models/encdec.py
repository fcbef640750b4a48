"""4M's encoder-decoder over token sets (arXiv 2312.06647, section 2), with pooled embeddings per modality."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Linear, Seen
from pretrain.models.stack import LAYERS, PerLayer, check_numerics, make_stack, open_cache, run_stack
from pretrain.models.states import States
from pretrain.models.tokens import TABLES, TokenEmbedding, TokenSet, dense_rows, whole
from pretrain.ops.cross_entropy import grouped_nll
from pretrain.ops.fused_attention import check as check_attention
from pretrain.ops.matmul import matmul
from pretrain.ops.positions import WAVES, distances
from pretrain.parameters import mark, param


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the trunk. `dtype` is that of the matmul operands; `embed_dim` the width of the pooled embeddings.

    qk_norm: normalise queries and keys; registers: learned tokens before the encoder's (arXiv 2309.16588).
    adapter: width of the bottlenecks behind attention and MLP of every encoder block (`layers.Adapter`), 0 for none: to
    fine-tune by.
    slopes: one a head, in 1 / side of a picture: attention prefers what lies near (`Attention`); () for none, as in 4M.
    tables: how many a vocabulary has (`tokens.TABLES`).
    table_std: initial standard deviation of the token tables, as in 4M (but see `Modality.code_std`). Beside position
    embeddings of about 0.7 a deviation of 0.02 hides what a token says, and a contrastive objective hardly starts; a
    word that training never shows should stay as quiet as that.
    waves: the shortest and longest wave of the position tables (`ops.positions`). On a small grid 4M's hardly tell
    neighbours apart, and the decoder is slow to find what lies where its query stands.
    mimetic: start attention so that it looks at the same place and copies what it finds (`Attention`).
    probes: learned queries that pool the encoder output by attention; 0 takes its mean.
    attention: `xla`; `auto`: the device's fused kernel wherever it can honour the mask, else XLA; or a kernel by name,
    which then must honour every mask (`ops.fused_attention`).
    """

    dim: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    mlp_ratio: float = 4.0
    gated: bool = True
    bias: bool = False
    qk_norm: bool = False
    registers: int = 0
    adapter: int = 0
    slopes: tuple[float, ...] = ()
    tables: str = "shared"
    embed_dim: int = 512
    table_std: float = 0.02
    mimetic: bool = False
    probes: int = 0
    waves: tuple[float, float] = WAVES
    attention: str = "xla"
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: int | bool = 1

    def __post_init__(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"model.dim={self.dim}: must be divisible by model.heads={self.heads} and by 4")
        if not 0 < self.waves[0] < self.waves[1]:
            raise ValueError(f"model.waves={self.waves}: needs 0 < shortest < longest wave")
        if self.tables not in TABLES:
            raise ValueError(f"model.tables={self.tables!r}: must be one of {', '.join(TABLES)}")
        if self.slopes and len(self.slopes) != self.heads:
            raise ValueError(f"model.slopes={self.slopes}: needs one for each of model.heads={self.heads}, or none")
        for key in ("registers", "adapter"):
            if getattr(self, key) < 0:
                raise ValueError(f"model.{key}={getattr(self, key)}: must not be negative")
        if self.probes < 0:
            raise ValueError(f"model.probes={self.probes}: 0 pools by the mean, else a number of probes")
        check_numerics(self.remat, self.dtype, self.unroll)
        width = self.dim // self.heads
        check_attention(self.attention, dtype=self.dtype, width=width, biased=bool(self.slopes), varied=True)

    @property
    def states(self) -> States:
        return States(self.embed_dim, self.dim, self.encoder_depth, self.probes)


class Encoded(NamedTuple):
    """Encoder output x `[B, N, D]`, which of it is `valid [B, N]`, its position and modality embedding `placed`, and
    where it lies in its picture, `where [B, N, 3]` (`TokenEmbedding.where`).

    `layers [depth, B, N, D]`: what every block gave, if asked for. Register tokens come first in all of them.
    """

    x: jax.Array
    valid: jax.Array
    placed: jax.Array
    where: jax.Array
    layers: jax.Array | None


class Model(nnx.Module):
    """Encoder-decoder; `embedded` names the modalities that get a projection for contrastive objectives."""

    def __init__(self, config: Config, modalities: tuple[Modality, ...], embedded: tuple[str, ...], rngs: nnx.Rngs):
        c, dtype = config, jnp.dtype(config.dtype)
        block = blocks.Config(
            c.dim, c.heads, mlp_ratio=c.mlp_ratio, gated=c.gated, bias=c.bias, qk_norm=c.qk_norm, slopes=c.slopes,
            mimetic=c.mimetic, attention=c.attention, dtype=dtype,
        )  # fmt: skip
        self.config, self.modalities, self.embedded = c, modalities, embedded
        self.tokens = TokenEmbedding(
            modalities, c.dim, c.tables, c.table_std, c.waves, dtype=dtype, rngs=rngs
        )  # fmt: skip
        normal = jax.nn.initializers.normal(0.02)
        self.registers = param(normal(rngs.params(), (c.registers, c.dim))) if c.registers else None
        adapted = dataclasses.replace(block, adapter=c.adapter)
        self.encoder = make_stack(lambda r: Block(adapted, blocks.ENCODER, rngs=r), c.encoder_depth, rngs)
        self.encoder_norm = LayerNorm(c.dim, bias=c.bias)
        self.context = Linear(c.dim, c.dim, bias=True, dtype=dtype, rngs=rngs)
        if c.mimetic:
            self.context.kernel[...] = jnp.eye(c.dim)
        self.decoder = make_stack(lambda r: Block(block, blocks.DECODER, rngs=r), c.decoder_depth, rngs)
        self.decoder_norm = LayerNorm(c.dim, bias=c.bias)
        probes = c.probes if embedded else 0
        self.probes = param(0.2 * jax.random.normal(rngs.params(), (probes, c.dim))) if probes else None
        for before in filter(None, (self.tokens, self.registers)):
            mark(before, depth=c.encoder_depth + 1)
        if self.decoder is not None:
            mark(self.decoder, depth=0)  # `optim.layer_decay` is for encoders
        pooled = max(probes, 1) * c.dim
        self.project = nnx.Dict(
            {name: Linear(pooled, c.embed_dim, bias=False, dtype=dtype, rngs=rngs) for name in embedded}
        )

    def encode(
        self, tokens: TokenSet, dense=None, *, inserted=None, bias=None, layers: bool = False, keep=None
    ) -> Encoded:
        """tokens `[B, N]` → Encoded. `dense`: what pixels and vectors hold (`tokens.dense_rows`).

        `inserted [B, N, D]` replaces token embeddings; `bias` adds to attention; `keep`: from `stack.drop_path`.
        """
        valid = tokens.valid
        placed = jnp.where(valid[..., None], self.tokens.place(tokens), 0.0)
        content = self.tokens.content(tokens, dense or {}) if inserted is None else inserted
        x, where = jnp.where(valid[..., None], content + placed, 0.0), self.tokens.where(tokens)
        if self.registers is not None:
            own = jnp.broadcast_to(self.registers[...], (len(x), *self.registers.shape))
            x = jnp.concatenate([own, x], axis=1)
            placed, where = (jnp.pad(a, ((0, 0), (own.shape[1], 0), (0, 0))) for a in (placed, where))
            valid = jnp.pad(valid, ((0, 0), (own.shape[1], 0)), constant_values=True)
        distance = distances(where, where) if self.config.slopes else None
        given = Given(Seen(valid[:, None, None, :], bias, distance))
        x, outputs = run_stack(self.encoder, x, given, PerLayer(keep), layers=layers, **self._run)
        return Encoded(self.encoder_norm(x), valid, placed, where, outputs.get(LAYERS))

    def encode_images(self, pixels, *, layers: bool = False) -> Encoded:
        """The encoder as a plain ViT over images alone (4M's FMViT): uint8 `[B, H, W, C]` → Encoded of all patches."""
        found = [m for m in self.modalities if m.kind == "pixels" and m.shape == pixels.shape[1:]]
        if not found:
            known = {m.name: m.shape for m in self.modalities if m.kind == "pixels"}
            raise ValueError(f"images of shape {pixels.shape[1:]}: this model reads pixels of {known}")
        batch = {found[0].name: {"pixels": pixels, "valid": jnp.ones(len(pixels), bool)}}
        return self.encode(whole(batch, found[0].name, self.modalities), dense_rows(batch, found[:1]), layers=layers)

    def decode(self, encoded: Encoded, queries: TokenSet):
        """queries `[B, M]` → `[B, M, D]`. A modality's queries never see another modality's (4M, section 2.2)."""
        y = self.tokens.queries(queries) + self.tokens.place(queries, queries=True)
        y = jnp.where(queries.valid[..., None], y, 0.0)
        given = self._given(encoded)._replace(seen=Seen(self_mask(queries, self.modalities)))
        if self.config.slopes:
            here = self.tokens.where(queries)
            given = given._replace(
                seen=given.seen._replace(distance=distances(here, here)),
                context_seen=given.context_seen._replace(distance=distances(here, encoded.where)),
            )
        y, _ = run_stack(self.decoder, y, given, **self._run)
        return self.decoder_norm(y)

    def open_cache(self, encoded: Encoded, length: int):
        """What decoding token by token remembers of a sequence of up to `length` tokens, and of the context."""
        return open_cache(self.decoder, self._given(encoded), length)

    def extend(self, encoded: Encoded, token: TokenSet, at, cache):
        """Decodes one token `[B, 1]` of a sequence at index `at`: (y `[B, 1, D]`, the cache with it).

        Equals the last row of `decode` on the whole prefix.
        """
        y = self.tokens.queries(token) + self.tokens.place(token, queries=True)
        y, outputs = run_stack(self.decoder, y, self._given(encoded)._replace(at=at), PerLayer(cache=cache))
        return self.decoder_norm(y), outputs.get("cache", cache)

    def _given(self, encoded: Encoded) -> Given:
        """What the decoder's blocks read of an encoder's output."""
        context = self.context(encoded.x) + encoded.placed
        return Given(context=context, context_seen=Seen(encoded.valid[:, None, None, :]))

    def nll(self, y, queries: TokenSet, labels, **more):
        """−log p of each label under its own modality's vocabulary, `[B, M]`; 0 in empty slots; more: `grouped_nll`."""
        tables = [self.tokens.head(v) for v in self.tokens.targets]
        vocab = self.tokens.target_of(queries.modality)
        return grouped_nll(y, tables, vocab, labels, queries.valid, dtype=jnp.dtype(self.config.dtype), **more)

    def logits(self, y, vocab: str):
        """`[…, D]` → `[…, V]` over one vocabulary; the head is a transposed table."""
        return matmul(y, self.tokens.head(vocab).T, jnp.dtype(self.config.dtype))

    def pool(self, encoded: Encoded):
        """The encoder output of the valid tokens in one vector, `[B, D]` or `[B, probes·D]`; zeros where there is none.

        Without probes their mean. Each probe takes a mean weighted by how it likes what a token says and where it
        stands: a plain mean forgets the layout of a picture, which tells two pictures of one thing apart.
        """
        valid = encoded.valid[:, None]
        if self.probes is None:
            weights = valid / jnp.maximum(valid.sum(-1, keepdims=True), 1)
        else:
            scores = jnp.einsum("pd,bnd->bpn", self.probes[...], encoded.x + encoded.placed)
            weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(scores.dtype).min)) * valid
        pooled = jnp.einsum("bpn,bnd->bpd", weights, encoded.x)
        return pooled.reshape(len(pooled), -1)

    def project_pooled(self, pooled, modality: str):
        """The output of `pool` → the L2-normalised embedding of one modality, `[B, embed_dim]`."""
        return unit(self.project[modality](pooled))

    def pooled(self, tokens: TokenSet, dense: dict, name: str):
        """One modality alone → (pooled encoder output `[B, P]`, its embedding; without a projection the output)."""
        pooled = self.pool(self.encode(tokens, dense))
        return pooled, self.project_pooled(pooled, name) if name in self.embedded else pooled

    def embed(self, tokens: dict, dense: dict, *, early=None) -> dict:
        """{name: TokenSet `[B, n]`}, {name: rows} of `tokens.dense_rows` → {name: `[B, embed_dim]` of unit length}.

        Every modality is encoded alone; those of equal length share one encoder call.
        early: a number in 0…1; gives (embedding, that of an earlier layer) instead: of layer 1 + ⌊early · (depth − 1)⌋.
        """
        groups = {}
        for name, t in tokens.items():
            groups.setdefault(name if name in dense else t.ids.shape[1], []).append(name)
        z = {}
        for names in groups.values():
            # Interleaved [B, k] → [B·k], so that a sharded batch axis stays where it is.
            joined = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, x[0].shape[1]), *(tokens[n] for n in names))
            encoded = self.encode(joined, {n: dense[n] for n in names if n in dense}, layers=early is not None)
            versions = [encoded]
            if early is not None:
                versions.append(encoded._replace(x=self.encoder_norm(layer_of(encoded.layers, early))))
            pooled = [self.pool(v) for v in versions]
            pooled = [p.reshape(-1, len(names), p.shape[-1]) for p in pooled]
            for i, name in enumerate(names):
                made = tuple(self.project_pooled(p[:, i], name) for p in pooled)
                z[name] = made if early is not None else made[0]
        return z

    @property
    def _run(self):
        return dict(remat=self.config.remat, unroll=self.config.unroll)


def unit(z):
    """L2-normalised rows; zeros stay zeros."""
    return z * jax.lax.rsqrt(jnp.square(z).sum(-1, keepdims=True) + 1e-12)


def layer_of(hidden, early):
    """Layer 1 + ⌊early · (depth − 1)⌋ of `[depth, B, N, D]`: any but the last, if there is more than one."""
    return hidden[jnp.minimum((early * (len(hidden) - 1)).astype(jnp.int32), max(len(hidden) - 2, 0))]


def self_mask(queries: TokenSet, modalities) -> jax.Array:
    """Decoder self-attention mask `[B, 1, M, M]`: own modality only; sequences see their past, the others all."""
    is_free = jnp.asarray([m.kind != "sequence" for m in modalities])[queries.modality]
    same = queries.modality[:, :, None] == queries.modality[:, None, :]
    past = queries.position[:, None, :] <= queries.position[:, :, None]
    return (same & (past | is_free[:, :, None]) & queries.valid[:, None, :])[:, None]
