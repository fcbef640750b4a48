"""A tokenizer: an encoder, a quantizer and a decoder, each a file that the config names, with linear layers between.

Images are `pixels` and clips are `video`, their values scaled to [-1, 1]; label maps are `pixels` with a `vocab_size`,
of whose classes the encoder reads learned vectors and the decoder gives logits; feature vectors are `vectors`, taken as
they are.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data_pipeline.spec import Modality
from pretrain.frozen import Files
from pretrain.models.layers import Linear
from pretrain.models.parts import autoencoder
from pretrain.models.parts.base import Numerics
from pretrain.models.passes import Asked
from pretrain.parameters import mark, param
from pretrain.tokenizers.quantizers.base import Place


@dataclasses.dataclass(frozen=True)
class Config:
    """encoder, quantizer, decoder: in a config `dict(network=FILE, …)` or `dict(quantizer=FILE, …)`; here what makes
    them.

    code_scale: what codes are multiplied by before the decoder: small ones drown in its positions at first.
    class_dim: width of the vectors that stand for the classes of label maps.
    fixed_encoder: it keeps its random values, and only what reads the codes learns.
    """

    encoder: Annotated[Callable, Files("pretrain.tokenizers.networks", "Encoder", "network")]
    quantizer: Annotated[Callable, Files("pretrain.tokenizers.quantizers", "Quantizer", "quantizer")]
    decoder: Annotated[Callable, Files("pretrain.tokenizers.networks", "Decoder", "network")]
    code_scale: float = 1.0
    class_dim: int = 64
    fixed_encoder: bool = False
    dtype: str = "bfloat16"

    denoises: ClassVar[bool] = False  # whether the decoder is a diffusion model

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.dtype)

    def compose(self, modalities: tuple[Modality, ...], embedded: tuple[str, ...]) -> dict:
        """{"autoencoder": its Config}: a tokenizer is one part (`network.Network`)."""
        return {"autoencoder": autoencoder.Config(network=self)}

    def make(self, modalities: tuple[Modality, ...], rngs: nnx.Rngs) -> nnx.Module:
        return Model(self, modalities, rngs)


class Model(nnx.Module):
    """Every modality it is trained on has the same kind and shape, and shares the one vocabulary."""

    def __init__(self, config: Config, modalities: tuple[Modality, ...], rngs: nnx.Rngs):
        c, m, dtype = config, modalities[0], jnp.dtype(config.dtype)
        if len({(m.kind, m.shape, m.vocab_size) for m in modalities}) != 1:
            raise ValueError("an autoencoder needs modalities of one kind and shape")
        if not m.dense:
            raise ValueError(f"an autoencoder needs pixels, a video or vectors, not ids; {m.name!r} is a {m.kind}")
        self.form, self.shape, self.n_classes, self.code_scale = m.kind, m.shape, m.vocab_size, c.code_scale
        maps = m.pictures and m.vocab_size
        inside = (*m.shape[:2], c.class_dim) if maps else m.shape
        outside = (*m.shape[:2], m.vocab_size) if maps else m.shape
        self.classes = param(0.02 * jax.random.normal(rngs.params(), (m.vocab_size, c.class_dim))) if maps else None
        self.encoder = c.encoder(inside, dtype=dtype, rngs=rngs)
        self.quantizer = c.quantizer(rngs=rngs)
        self.decoder = c.decoder(self.encoder.grid, outside, dtype=dtype, rngs=rngs)
        self.to_code = Linear(self.encoder.dim, self.quantizer.width, bias=True, dtype=dtype, rngs=rngs)
        for part in filter(None, (self.encoder, self.to_code, self.classes) if c.fixed_encoder else ()):
            mark(part, fixed=True)
        self.from_code = Linear(self.quantizer.width, self.decoder.dim, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, given: dict, *noise, asked: Asked, learns: bool = False, temperature: float = 0.0) -> dict:
        """given: of `corruptions.Raw`, an example's modalities side by side → of every one of them alone, `[B · m, …]`,

        made: what is decoded; target: what it should be; losses: the quantizer's; with `learns`, which is for training,
        also its statistics. noise: what a diffusion decoder is given (`divae`).
        With a temperature nothing is decoded, and `logs` are of each digit log p(digit | z) `[B, tokens, values]`.
        """
        raw, place, keys = alone(given, asked.keys)
        z = self.latents(raw)
        if temperature:
            if self.quantizer.log_likelihoods is None:
                raise ValueError("objectives.code_entropy: needs quantizer='lfq', 'fsq' or 'memcodes': take it out")
            logs = self.quantizer.log_likelihoods(z.reshape(-1, z.shape[-1]), temperature)
            return {"logs": [x.reshape(len(given["raw"]), -1, x.shape[-1]) for x in logs]}
        quantized = self.quantizer(z, keys if learns else None)
        made, target = self.reconstruct(raw, quantized.codes, *noise)
        out = {"made": made, "target": target, "losses": quantized.losses}
        return out | ({"statistics": self.quantizer.statistics(z, quantized.ids, place)} if learns else {})

    def reconstruct(self, raw, codes):
        """(what is decoded from the codes, what it should be)."""
        return self.decode(codes), self.target(raw)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the ids; the ids of one token stand side by side; of clips all times' rows."""
        rows, columns = self.encoder.grid
        return rows, columns * self.quantizer.books

    @property
    def kmeans(self) -> int:
        """How many vectors the codes are to start as the k-means of (`data_init`); 0 if they start at random."""
        return getattr(getattr(self.quantizer, "config", None), "kmeans", 0)

    @property
    def codes(self):
        """What the decoder reads for each id, `[vocab_size, d]`; None of quantizers with several books."""
        return self.quantizer.to_codes(jnp.arange(self.quantizer.vocab_size)) if self.quantizer.books == 1 else None

    def target(self, raw):
        """What the decoder should give for raw inputs: the inputs scaled, class numbers int32 `[B, H, W]` of maps."""
        if self.form == "vectors":
            return raw.astype(jnp.float32)
        return raw[..., 0].astype(jnp.int32) if self.n_classes else raw.astype(jnp.float32) / 127.5 - 1.0

    def latents(self, raw):
        """uint8 `[B, H, W, C]` or `[B, T, H, W, C]`, or float `[B, N, C]` → z `[B, N, d]`, what is quantized."""
        x = self.target(raw)
        if self.classes is not None:  # what has no label reads zeros
            x = self.classes[...].at[x].get(mode="fill", fill_value=0)
        return self.to_code(self.encoder(x))

    def encode(self, raw):
        """Raw inputs → codes `[B, N, d]`."""
        return self.quantizer(self.latents(raw)).codes

    def decode(self, codes):
        """codes `[B, N, d]` → float as `target`, about [-1, 1]; of label maps logits of classes."""
        return self.decoder(self.from_code(codes * self.code_scale))

    def tokenize(self, raw):
        """Raw inputs → ids int32 `[B, L]`, L the product of `grid`."""
        return self.quantizer(self.latents(raw)).ids

    def detokenize(self, ids):
        """ids `[B, L]` → what the raw inputs were."""
        return self.finish(self.decode(self.quantizer.to_codes(ids)))

    def finish(self, x):
        """What the decoder gave → as the raw inputs were."""
        if self.form == "vectors":
            return x
        if self.n_classes:
            return x.argmax(-1, keepdims=True).astype(jnp.uint8)
        return jnp.round(jnp.clip(x * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)


def alone(given: dict, keys):
    """Of `corruptions.Raw`, as examples of one modality each: (raw `[B · modalities, …]`, their Place, a key for each).

    keys `[B]`, or None where nothing is drawn.
    """
    raw, (rank, count, key) = given["raw"], given["place"]
    each = None
    if keys is not None:
        each = jax.vmap(lambda k: jax.random.split(k, raw.shape[1]))(keys).reshape(-1)
    return raw.reshape(-1, *raw.shape[2:]), Place(rank.reshape(-1), count[0], key[0]), each


class Tokenizer:
    """A trained autoencoder as host functions, jit-compiled once: NumPy in, NumPy out, any number of inputs.

    codes: float32 `[vocab_size, d]`, or None (`Model.codes`).
    """

    def __init__(self, model: Model, digest: str, chunk: int = 64):
        graph, params = nnx.split(model)
        self.digest, self.vocab_size, self.chunk = digest, model.quantizer.vocab_size, chunk
        self.grid, codes = model.grid, model.codes
        self.codes = None if codes is None else np.asarray(codes, np.float32)
        self._encode = jax.jit(lambda x: nnx.merge(graph, params).tokenize(x))
        self._decode = jax.jit(lambda x: nnx.merge(graph, params).detokenize(x))

    def encode(self, images):
        """Raw inputs, uint8 `[n, H, W, C]`, … → int `[n, L]`."""
        return self._chunked(self._encode, images)

    def decode(self, ids):
        """int `[n, L]` → what the raw inputs were."""
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
