"""A tower over one of four small modalities, for the tests of its parts and of what is composed of several."""

import jax
import numpy as np
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models import multimodal, tower
from pretrain.models.network import Network
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole

HALF = (0.5, 0.5, 0.5)
PHOTO = Modality("photo", "pixels", (8, 8, 3), "photo", patch=4, mean=HALF, std=HALF, targets=False)
TEXT = Modality("text", "sequence", (6,), "text", "text", 30, tokenizer="text")
SOUND = Modality("sound", "vectors", (1, 8), "sound", targets=False)
GRID = Modality("grid", "grid", (2, 2), "grid", "grid", 9, tokenizer="fsq")
ALL = (PHOTO, TEXT, SOUND, GRID)
RNG = np.random.default_rng(0)


def batch(size=3):
    lengths = np.arange(size) % 4 + 2
    return {
        "photo": {"pixels": RNG.integers(256, size=(size, 8, 8, 3), dtype=np.uint8), "valid": np.ones(size, bool)},
        "text": {"ids": RNG.integers(4, 30, size=(size, 6)), "valid": np.arange(6) < lengths[:, None]},
        "sound": {"vectors": RNG.normal(size=(size, 1, 8)).astype(np.float32), "valid": np.ones((size, 1), bool)},
        "grid": {"ids": RNG.integers(9, size=(size, 4)), "valid": np.ones((size, 4), bool)},
    }


def make(reads: str, embed_dim=5, **changes) -> Network:
    """A network of one tower `t`, nothing of it trivial."""
    values = dict(name="t", modalities=(reads,), dim=8, heads=2, depth=2, mlp_ratio=2.0) | changes
    config = multimodal.Config((tower.Config(**values),), embed_dim, dtype="float32")
    return tiny.perturbed(Network(config, ALL, (reads,), nnx.Rngs(0)))


def stream(network, data, name):
    """What a network's part before the pooling gives of a modality."""
    node = network.states.stream(name, Leaf(Whole((name,), ALL)))
    return jax.jit(lambda data: compute(network, {"x": node}, data)["x"])({name: data[name]})


def run(network, data, name):
    """(x, valid, pooled) of a modality."""
    made, states = stream(network, data, name), network.states
    pool = states.pools(states.stream(name, Leaf(None)).part)
    # Pooled apart: else XLA may compute x once for each use, and round differently.
    pooled = jax.jit(lambda made: network.run(pool, made))(made)
    return jax.device_get((made.x, made.valid, pooled))
