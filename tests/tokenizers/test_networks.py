"""Networks of tokenizers: shapes on both sides, what depends on what, and what does not fit. Numbers: tests/interop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.tokenizers.networks import mlp, unet, vit

SMALL = vit.Config(patch=4, dim=16, depth=1, heads=2, mlp_ratio=2.0)
UNET = unet.Config(patch=2, dim=3, channels=8, multipliers=(1, 2), blocks=1, attention=(2,), groups=4)


def make(network, side, config, *shapes):
    return getattr(network, side)(config, *shapes, dtype=jnp.float32, rngs=nnx.Rngs(0))


def values(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "network, config, shape, grid",
    [
        (vit, SMALL, (8, 12, 3), (2, 3)),
        (vit, vit.Config(patch=1, dim=16, depth=1, heads=2, convs=1), (9, 5), (3, 3)),
        (mlp, mlp.Config(dim=8, depth=2), (3, 5), (1, 3)),
    ],
)
def test_both_sides(network, config, shape, grid):
    encoder = make(network, "Encoder", config, shape)
    decoder = make(network, "Decoder", config, grid, shape)
    x = values(2, *shape)
    y = encoder(x)
    assert encoder.grid == grid and y.shape == (2, grid[0] * grid[1], encoder.dim) and decoder(y).shape == x.shape

    @jax.jit
    def gradient(models):
        return jax.grad(lambda models: jnp.square(models[1](models[0](x)) - 1).mean())(models)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient((encoder, decoder))):
        assert np.asarray(leaf).any(), path


def test_an_mlp_reads_each_vector_alone():
    encoder, x = make(mlp, "Encoder", mlp.Config(dim=8, depth=2), (3, 5)), values(1, 3, 5)
    changed = x.copy()
    changed[0, 1] += 1
    difference = np.abs(np.asarray(encoder(x) - encoder(changed)))[0].max(-1)
    assert difference[1] > 0 and not difference[[0, 2]].any()


def noisy(model, scale=0.1):
    """With no weight at its start, where much is zero."""
    return tiny.perturbed(model, noise=scale)


def test_a_unet_sees_image_time_and_codes():
    start = make(unet, "Decoder", UNET, (2, 4), (8, 16, 3))
    run = jax.jit(lambda model, x, t, codes: model(x, t, codes))
    x, t, codes = values(2, 8, 16, 3), np.array([0, 50]), values(2, 8, 3)
    assert not np.asarray(run(start, x, t, codes)).any()  # its last layer starts at zero
    model = noisy(start)
    out = np.asarray(run(model, x, t, codes))
    assert out.shape == x.shape
    for other in ((x + 0.1, t, codes), (x, t + 1, codes), (x, t, codes + 0.1)):
        assert np.abs(np.asarray(run(model, *other)) - out).max() > 1e-4
    # An image is denoised alone.
    np.testing.assert_allclose(run(model, x[1:], t[1:], codes[1:])[0], out[1], atol=1e-5)


def test_time_is_embedded_as_cosines_and_sines():
    t = np.array([0, 3, 999])
    waves = [t[:, None] / 10000 ** (k / 4) for k in range(4)]
    want = np.concatenate([f(w) for f in (np.cos, np.sin) for w in waves], 1)
    np.testing.assert_allclose(unet.embed_time(jnp.asarray(t), 8), want, atol=1e-4)  # fp32 of an angle of 999


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: make(vit, "Encoder", SMALL, (9, 12, 3)), "vit.patch=4: must divide the image size 9×12"),
        (lambda: make(vit, "Encoder", SMALL, (8, 5)), "a vit needs images, or a square number of vectors, not 8"),
        (lambda: make(vit, "Decoder", SMALL, (2, 2), (8, 12, 3)), "2×2 of them do not make 8×12"),
        (lambda: vit.Config(dim=18, heads=3), "vit.dim=18: must be divisible by vit.heads=3 and by 4"),
        (lambda: vit.Config(span=(3,)), r"vit.span=\(3,\): must be \(rows, columns\)"),
        (lambda: make(mlp, "Encoder", mlp.Config(), (8, 8, 3)), r"an mlp needs vectors of shape \(N, width\)"),
        (lambda: make(mlp, "Decoder", mlp.Config(), (1, 2), (3, 5)), "a vector for each token, not 3 for 1×2"),
        (lambda: unet.Config(channels=12), "unet.channels=12: must be even and divisible by groups=32"),
        (lambda: unet.Config(blocks=0), r"blocks=0: at least one of each"),
        (lambda: make(unet, "Decoder", UNET, (2, 2), (6, 8, 3)), r"= 4 must divide the image size 6×8"),
    ],
)
def test_what_does_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()
