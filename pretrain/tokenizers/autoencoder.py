"""An image tokenizer: patches, residual MLPs, finite scalar quantization, residual MLPs, ViT blocks.

The encoder is local: a token says what is in its own patch. Only the decoder looks around, to join the patches.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data_pipeline.spec import Modality
from pretrain.models.layers import EncoderBlock, LayerNorm, Linear, Mlp
from pretrain.models.stack import make_stack, run_stack
from pretrain.ops.positions import sincos_2d
from pretrain.tokenizers import fsq

# So that the decoder starts out seeing codes rather than positions: four numbers against a whole vector.
CODE_SCALE, POSITION_SCALE = 3.0, 0.1


class ResidualMlp(nnx.Module):
    """x += mlp(norm x), on each patch alone."""

    def __init__(self, dim, ratio, *, gated, bias, dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(dim, bias=bias)
        self.mlp = Mlp(dim, ratio, gated=gated, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return x + self.mlp(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Config:
    """patch: pixels a token covers in each direction; levels: of the quantizer, their product is the vocabulary."""

    patch: int = 8
    levels: tuple[int, ...] = (8, 5, 5, 5)
    dim: int = 128
    heads: int = 2
    encoder_mlps: int = 2
    decoder_mlps: int = 1
    decoder_blocks: int = 1
    mlp_ratio: float = 2.0
    dtype: str = "bfloat16"

    def __post_init__(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"model.dim={self.dim}: must be divisible by model.heads={self.heads} and by 4")
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"model.levels={self.levels}: every channel needs at least 3 levels")


class Model(nnx.Module):
    """Every modality it is trained on has the same image shape, and shares the one vocabulary."""

    def __init__(self, config: Config, modalities: tuple[Modality, ...], embedded: tuple[str, ...], rngs: nnx.Rngs):
        shapes = {m.shape for m in modalities}
        if embedded or len(shapes) != 1 or modalities[0].kind != "pixels":
            raise ValueError("an autoencoder needs pixel modalities of one shape and no contrastive objective")
        c, dtype = config, jnp.dtype(config.dtype)
        height, width, self.channels = modalities[0].shape
        if height % c.patch or width % c.patch:
            raise ValueError(f"model.patch={c.patch}: must divide the image size {height}×{width}")
        self.config, self.grid = c, (height // c.patch, width // c.patch)
        pixels = c.patch**2 * self.channels
        linear = functools.partial(Linear, bias=True, dtype=dtype, rngs=rngs)

        args = dict(gated=False, bias=True, dtype=dtype)

        def mlp(rngs):
            return ResidualMlp(c.dim, c.mlp_ratio, rngs=rngs, **args)

        def block(rngs):
            return EncoderBlock(c.dim, c.heads, mlp_ratio=c.mlp_ratio, rngs=rngs, **args)

        self.patch_in, self.patch_out = linear(pixels, c.dim), linear(c.dim, pixels)
        self.encoder = make_stack(mlp, c.encoder_mlps, rngs)
        self.encoder_norm = LayerNorm(c.dim, bias=True)
        self.to_code, self.from_code = linear(c.dim, len(c.levels)), linear(len(c.levels), c.dim)
        self.decoder_local = make_stack(mlp, c.decoder_mlps, rngs)
        self.decoder = make_stack(block, c.decoder_blocks, rngs)
        self.decoder_norm = LayerNorm(c.dim, bias=True)

    def encode(self, pixels):
        """uint8 `[B, H, W, C]` → codes `[B, N, d]` in [-1, 1]."""
        x = patchify(pixels.astype(jnp.float32) / 127.5 - 1.0, self.config.patch)
        x, _ = run_stack(self.encoder, self.patch_in(x), unroll=True)
        return fsq.quantize(self.to_code(self.encoder_norm(x)), self.config.levels)

    def decode(self, codes):
        """codes `[B, N, d]` → float `[B, H, W, C]`, about [-1, 1]."""
        x, _ = run_stack(self.decoder_local, self.from_code(codes * CODE_SCALE), unroll=True)
        x, _ = run_stack(self.decoder, x + POSITION_SCALE * self._positions, unroll=True)
        return unpatchify(self.patch_out(self.decoder_norm(x)), self.config.patch, self.grid)

    def tokenize(self, pixels):
        """uint8 `[B, H, W, C]` → ids int32 `[B, N]`."""
        return fsq.to_ids(self.encode(pixels), self.config.levels)

    def detokenize(self, ids):
        """ids `[B, N]` → uint8 `[B, H, W, C]`."""
        x = self.decode(fsq.to_codes(ids, self.config.levels))
        return jnp.round(jnp.clip(x * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)

    @property
    def _positions(self):
        return jnp.asarray(sincos_2d(*self.grid, self.config.dim))


def patchify(images, patch: int):
    """`[B, H, W, C]` → `[B, H/p · W/p, p·p·C]`, raster order."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(patches, patch: int, grid):
    """The inverse of `patchify`."""
    b, _, n = patches.shape
    x = patches.reshape(b, *grid, patch, patch, n // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, grid[0] * patch, grid[1] * patch, -1)


class Tokenizer:
    """A trained autoencoder as host functions, jit-compiled once: NumPy in, NumPy out, any number of images."""

    def __init__(self, model: Model, digest: str, chunk: int = 64):
        graph, params = nnx.split(model)
        self.digest, self.vocab_size, self.chunk = digest, fsq.codebook_size(model.config.levels), chunk
        self.grid, self.channels = model.grid, model.channels
        self._encode = jax.jit(lambda x: nnx.merge(graph, params).tokenize(x))
        self._decode = jax.jit(lambda x: nnx.merge(graph, params).detokenize(x))

    def encode(self, images):
        """uint8 `[n, H, W, C]` → int `[n, N]`."""
        return self._chunked(self._encode, images)

    def decode(self, ids):
        """int `[n, N]` → uint8 `[n, H, W, C]`."""
        return self._chunked(self._decode, ids)

    def _chunked(self, function, x):
        x = np.asarray(x)
        out = []
        for start in range(0, len(x), self.chunk):
            part = x[start : start + self.chunk]
            padded = np.concatenate([part, np.repeat(part[-1:], self.chunk - len(part), axis=0)])
            out.append(np.asarray(function(over_devices(padded)))[: len(part)])
        return np.concatenate(out)


def over_devices(x):
    """An array of this process, its leading axis split over the local devices if they divide it."""
    devices = jax.local_devices()
    split = P("batch") if len(x) % len(devices) == 0 else P()
    return jax.device_put(x, NamedSharding(Mesh(np.asarray(devices), ("batch",)), split))
