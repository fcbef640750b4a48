"""The diffusion transformer against torch; that it learns and samples: tests/objectives/test_denoising.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.ops.positions import sincos_2d
from pretrain.tokenizers.networks.dit import Config, Decoder

CONFIG = Config(patch=2, dim=5, width=16, depth=2, heads=4, mlp_ratio=2.0)
GRID, SHAPE = (2, 3), (8, 12, 3)


def inputs():
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(2, *SHAPE)).astype(np.float32), rng.normal(size=(2, 6, 5)).astype(np.float32)
    return x, np.array([3, 700]), codes


def noisy(decoder):
    return tiny.perturbed(decoder, noise=0.2)


def make():
    return Decoder(CONFIG, GRID, SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_it_equals_torch():
    """Written with PyTorch's own functions, a patch at a time where the order of patches matters."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    decoder = noisy(make())
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), nnx.to_pure_dict(nnx.split(decoder)[1]))
    x, t, codes = (torch.tensor(a) for a in inputs())
    linear = lambda p, x: x @ p["kernel"] + p["bias"]
    norm = lambda p, x: functional.layer_norm(x, (16,), p["scale"], eps=1e-6)
    silu, gelu = functional.silu, functional.gelu

    waves = 10000.0 ** (-torch.arange(8) / 8)
    angle = t[:, None] * waves
    time = linear(p["time1"], torch.cat([angle.cos(), angle.sin()], 1).float())
    time = silu(linear(p["time2"], silu(time)))
    tokens = [
        torch.cat([x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(2, -1), codes[:, (r // 2) * 3 + c // 2]], 1)
        for r in range(4) for c in range(6)
    ]  # fmt: skip
    y = linear(p["patch_in"], torch.stack(tokens, 1)) + torch.tensor(np.asarray(sincos_2d(4, 6, 16)))
    for i in range(2):
        b = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        a1, b1, g1, a2, b2, g2 = linear(b["time"], time)[:, None].chunk(6, -1)
        q, k, v = linear(b["attn"]["qkv"], norm(b["norm1"], y) * (1 + a1) + b1).chunk(3, -1)
        heads = lambda a: a.reshape(2, 24, 4, 4).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).reshape(2, 24, 16)
        y = y + g1 * linear(b["attn"]["proj"], mixed)
        y = y + g2 * linear(b["mlp"]["fc2"], gelu(linear(b["mlp"]["fc1"], norm(b["norm2"], y) * (1 + a2) + b2)))
    a, b = linear(p["time"], time)[:, None].chunk(2, -1)
    patches = linear(p["patch_out"], norm(p["norm"], y) * (1 + a) + b)
    want = torch.zeros(2, *SHAPE)
    for n in range(24):
        r, c = divmod(n, 6)
        want[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = patches[:, n].reshape(2, 2, 2, 3)
    np.testing.assert_allclose(jax.jit(decoder)(*inputs()), want.numpy(), atol=1e-4)


def test_it_starts_with_zeros_and_every_parameter_has_a_gradient():
    x, t, codes = inputs()
    np.testing.assert_array_equal(make()(x, t, codes), 0)
    graph, params = nnx.split(noisy(make()))
    loss = lambda p, codes: jnp.square(nnx.merge(graph, p)(x, t, codes) - x).mean()
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, codes)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_errors():
    with pytest.raises(ValueError, match=r"dit.width=18: must be divisible by dit.heads=12 and by 4"):
        Config(width=18)
    with pytest.raises(ValueError, match=r"dit.patch=5: must divide the image size 8×12"):
        Decoder(Config(patch=5), GRID, SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0))
