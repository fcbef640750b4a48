"""Streams side by side: projected, normalised, and placed where they lie on a grid."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models.network import Config, Network
from pretrain.models.parts import embed_one, encoder, join, predict
from pretrain.models.passes import Leaf, compute
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole
from pretrain.ops.positions import sincos_2d
from pretrain.parameters import Roles, variables

MODALITIES = (
    Modality("text", "sequence", (5,), "text", "words", 9, tokenizer="none"),
    Modality("image", "pixels", (8, 12, 3), "image", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False),
)
WAVES = (1.0, 20.0)


def network(parts=None, **changes) -> Network:
    values = dict(reads=("embed_image", "embed_text"), dim=8, waves=WAVES) | changes
    parts = parts or dict(
        embed_image=embed_one.Config(("image",), 12), embed_text=embed_one.Config(("text",), 6, cls=True)
    )  # fmt: skip
    parts = parts | dict(both=join.Config(**values), trunk=encoder.Config(("both",), 8, 2, 2))
    return Network(Config(parts, dtype="float32"), MODALITIES, (), nnx.Rngs(0))


def batch(size=4) -> dict:
    rng = np.random.default_rng(0)
    valid = np.arange(5) < rng.integers(1, 6, (size, 1))
    pixels = rng.integers(256, size=(size, 8, 12, 3), dtype=np.uint8)
    return {
        "row": np.arange(size), "text": {"ids": rng.integers(9, size=(size, 5)) * valid, "valid": valid},
        "image": {"pixels": pixels, "valid": np.arange(size) != 2},
    }  # fmt: skip


def found(net, part, batch):
    leaves = {m.name: Leaf(Whole((m.name,), MODALITIES)) for m in MODALITIES}
    return compute(net, {n: net.states.over(n, leaves) for n in ("embed_image", "embed_text", part)}, batch)


def test_it_equals_numpy():
    net, data = network(), batch()
    for name in net.both.norm:
        net.both.norm[name].scale[...] = 1 + jnp.arange(8.0) / 8
    out = found(net, "both", data)
    stream, want = out["both"], []
    assert stream.x.shape == stream.placed.shape == (4, 6 + 1 + 5, 8)
    for name in ("embed_image", "embed_text"):
        linear, norm = net.both.linear[name], net.both.norm[name]
        x = np.asarray(out[name].x, np.float64) @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        want.append(x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...]))
    places = np.zeros((4, 12, 8))
    places[:, :6] = sincos_2d(2, 3, 8, WAVES)
    places *= np.asarray(stream.valid)[..., None]
    np.testing.assert_allclose(stream.placed, places, atol=1e-6)
    np.testing.assert_allclose(stream.x, np.concatenate(want, 1) + places, atol=2e-5)
    np.testing.assert_array_equal(stream.modality[0], [1] * 6 + [NO_MODALITY] + [0] * 5)
    np.testing.assert_array_equal(stream.valid[2, :6], False)


def test_what_an_encoder_reads_of_it_ignores_what_lacks():
    net, data = network(), batch()
    data["text"]["valid"][1, 2:] = False
    other = data | {"text": data["text"] | {"ids": np.where(data["text"]["valid"], data["text"]["ids"], 7)}}
    a, b = (found(net, "trunk", d)["trunk"] for d in (data, other))
    np.testing.assert_allclose(a.x * a.valid[..., None], b.x * b.valid[..., None], atol=1e-6)
    assert Roles(variables(net))["both/linear/embed_text/kernel"].depth == 3, "what lies before the blocks of the trunk"


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(reads=("embed_image",)), r"'both': reads=\('embed_image',\): name two parts or more"),
        (dict(dim=6), "'both': dim=6: must be divisible by 4"),
        (dict(waves=(3.0, 2.0)), r"'both': waves=\(3.0, 2.0\): needs 0 < shortest < longest"),
        (dict(reads=("embed_image", "text")), "'both': reads='text': it gives no stream"),
        (dict(reads=("embed_image", "head")), "'both': reads='head': it gives no stream"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    parts = dict(
        embed_image=embed_one.Config(("image",), 12), embed_text=embed_one.Config(("text",), 6),
        head=predict.Config(("embed_text",), 3),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"model.parts: {error}"):
        network(parts, **changes)
