"""Streams one behind another: of several any are enough, and what is absent takes no place."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.models.parts import base, embed_one, pool, sequence
from pretrain.models.stream import Stream

GIVEN = {
    "a": embed_one.Config(("x",), dim=4), "b": embed_one.Config(("y",), dim=4), "wide": embed_one.Config(("y",), dim=8),
    "vector": pool.Config(("a",), width=4),
}  # fmt: skip


def made(*reads):
    config = sequence.Config(reads, dim=4, length=6)
    return config, config.make(base.Build("join", GIVEN, (), base.Numerics()), nnx.Rngs(0))


def stream(modality, lengths, slots):
    valid = np.arange(slots) < np.asarray(lengths)[:, None]
    x = np.random.default_rng(modality).normal(size=(len(lengths), slots, 4))
    of = jnp.full(valid.shape, modality, jnp.int32)
    return Stream(jnp.float32(x), jnp.asarray(valid), of, jnp.zeros(valid.shape, jnp.int32))


def test_several_stand_one_behind_another_in_their_order():
    config, part = made("a", "b")
    a, b = stream(0, (2, 0, 1), 2), stream(1, (3, 2, 0), 4)
    found = part(a, b, asked=None)
    table = np.asarray(part.positions[...])
    for i, (m, n) in enumerate(((2, 3), (0, 2), (1, 0))):
        valid = np.asarray(found.valid[i])
        want = np.concatenate([a.x[i, :m], b.x[i, :n]]) + table[: m + n]
        np.testing.assert_allclose(np.asarray(found.x[i])[valid], want, rtol=1e-6)
    alone = part(b, asked=None, given=("b",))
    np.testing.assert_allclose(alone.x[1][:2], found.x[1][2:4], rtol=1e-6)
    assert config.fills and not made("a")[0].fills


@pytest.mark.parametrize(
    "reads, message",
    [
        (("a", "vector"), "'join': reads='vector': it gives no stream; name an embedding or an encoder"),
        (("a", "nobody"), "'join': reads='nobody': it gives no stream"),
        (("a", "wide"), "'join': dim=4: 'wide' gives tokens of width 8"),
    ],
)
def test_what_it_cannot_join_is_named(reads, message):
    with pytest.raises(ValueError, match=message):
        made(*reads)
