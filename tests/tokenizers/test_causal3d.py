"""Causal networks over clips: convolutions against XLA's own, no look into the future, a first frame as a picture."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import video_tokenizer
from data_pipeline.spec import Modality
from pretrain import build
from pretrain.evals import reconstruction
from pretrain.evals.base import Context
from pretrain.tokenizers.networks import causal3d
from pretrain.tokenizers.networks.causal3d import CausalConv, Config, Decoder, Encoder

CONFIG = Config(widths=(8, 16, 24), blocks=1, groups=4, halvings=1)
SHAPE = (5, 8, 12, 3)
TIMES, PLACES = 3, 6  # of its tokens


def config(**changes):
    c = video_tokenizer.get_config("tiny")
    c.modalities = [dict(name="clip", kind="video", shape=(5, 16, 16, 3), field="clip")]
    for part in ("encoder", "decoder"):
        c.model[part].update(dict(widths=(8, 16, 24)))
    c.data.options = dict(frames=7, size=24)
    c.batch_size, c.evals = 4, {}
    c.update(changes)
    return c


def noisy(module, scale=0.05):
    """Not at its start, where blocks are the identity."""
    return tiny.perturbed(module, noise=scale)


def pair():
    encoder = Encoder(CONFIG, SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0))
    return noisy(encoder), noisy(Decoder(CONFIG, encoder.grid, SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(1)))


def clips(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 2)])
def test_the_convolution_is_three_dimensional(stride):
    conv = CausalConv(4, 6, stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(6.0)
    x = clips(2, 5, 8, 6, 4)

    def other(kernel, x):
        kernel = kernel.reshape(3, 3, 3, 4, 6).transpose(2, 0, 1, 3, 4)  # [time, row, column, …]
        return jax.lax.conv_general_dilated(
            x, kernel, (stride[0], stride[1], stride[1]), ((2, 0), (1, 1), (1, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        ) + jnp.arange(6.0)  # fmt: skip

    want = other(conv.kernel[...], x)
    np.testing.assert_allclose(conv(x), want, atol=1e-5)
    weight = clips(*want.shape, seed=1)
    graph, params = nnx.split(conv)
    ours = jax.grad(lambda p, x: (nnx.merge(graph, p)(x) * weight).sum(), argnums=(0, 1))(params, x)
    theirs = jax.grad(lambda k, x: (other(k, x) * weight).sum(), argnums=(0, 1))(conv.kernel[...], x)
    np.testing.assert_allclose(ours[0]["kernel"][...], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)


def test_shapes():
    encoder, decoder = pair()
    assert encoder.grid == (TIMES * 2, 3) and encoder.dim == decoder.dim == 24
    for frames, times in ((5, TIMES), (9, 5), (1, 1)):
        x = jax.ShapeDtypeStruct((2, frames, *SHAPE[1:]), jnp.float32)
        z = jax.eval_shape(encoder, x)
        assert z.shape == (2, times * PLACES, 24) and jax.eval_shape(decoder, z) == x


@pytest.mark.parametrize("frame", range(5))
def test_what_a_frame_shows_changes_nothing_before_it(frame):
    encoder, decoder = (jax.jit(part) for part in pair())
    x = clips(1, *SHAPE)
    changed = x.copy()
    changed[:, frame] += 1.0
    time = (frame + 1) // 2  # frame 0; 1 and 2; 3 and 4
    split = lambda z: np.asarray(z).reshape(TIMES, PLACES, -1)
    before, after = split(encoder(x)), split(encoder(changed))
    np.testing.assert_array_equal(before[:time], after[:time])
    assert np.abs(before[time] - after[time]).max() > 1e-3
    # Nor do codes what was painted from earlier ones.
    z = np.asarray(encoder(x))
    other = z.copy().reshape(1, TIMES, PLACES, -1)
    other[:, time] += 1.0
    made, remade = (np.asarray(decoder(v.reshape(z.shape)))[0] for v in (z, other))
    first = max(2 * time - 1, 0)
    np.testing.assert_array_equal(made[:first], remade[:first])
    assert (np.abs(made[first:] - remade[first:]).max((1, 2, 3)) > 1e-3)[: 2 if time else 1].all()


def test_a_first_frame_alone_has_its_codes_in_a_clip():
    run = build.parse(config())
    model = noisy(build.models(run, build.objectives(run))["online"](nnx.Rngs(0)).autoencoder)
    clip = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    latents, detokenize = (jax.jit(lambda m, x, n=n: getattr(m, n)(x)) for n in ("latents", "detokenize"))
    z, first = latents(model, clip), latents(model, clip[:, :1])
    np.testing.assert_allclose(first, z[:, :16], atol=1e-5)
    whole, alone = (np.asarray(model.quantizer(x).ids) for x in (z, first))
    assert model.grid == (TIMES * 4, 4) and whole.shape == (2, TIMES * 16) and alone.shape == (2, 16)
    np.testing.assert_array_equal(alone, whole[:, :16])
    assert len(np.unique(alone)) > 4
    made, first = detokenize(model, whole), detokenize(model, alone)
    assert made.shape == clip.shape and made.dtype == np.uint8 and first.shape == (2, 1, 16, 16, 3)
    assert np.abs(np.asarray(made[:, :1], int) - np.asarray(first, int)).max() <= 1  # rounding


def test_the_gradient_reaches_every_parameter():
    encoder, decoder = pair()
    (graph, params), (other, more) = nnx.split(encoder), nnx.split(decoder)
    x = clips(1, *SHAPE)
    loss = lambda p, q: jnp.square(nnx.merge(other, q)(nnx.merge(graph, p)(x)) - 0.3).mean()
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, more)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_a_small_run_learns():
    built = laws.Built(config())
    batch = built.batch()
    assert batch["clip"]["pixels"].shape == (4, 5, 16, 16, 3)
    start = built.step(batch)[1]["terms"]["reconstruction/l2"]
    end = built.step(batch, steps=30)[1]["terms"]["reconstruction/l2"]
    assert end.total / end.weight < 0.3 * start.total / start.weight


def test_clips_are_scored_frame_by_frame():
    built = laws.Built(config())
    batch = tiny.batch(4, 0, built.run.modalities)
    context = Context(built.run, built.graphs, built.objectives)
    context.__dict__["batches"] = lambda split, size: iter((batch,))
    found = dict(reconstruction.Evaluator(context).run(built.params))
    raw = batch["clip"]["pixels"][batch["clip"]["valid"]]
    model = nnx.merge(built.graph, built.params["model"]).autoencoder
    out = np.asarray(jax.jit(lambda m, x: m.detokenize(m.tokenize(x)))(model, raw)).astype(np.float64)
    frames = ((out - raw) ** 2).mean((2, 3, 4))
    np.testing.assert_allclose(found["psnr"], (10 * np.log10(255**2 / frames)).mean(), atol=1e-2)
    assert set(found) == {"usage", "perplexity", "psnr", "ssim"}


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        (dict(widths=(8, 10)), SHAPE, r"causal3d.widths=\(8, 10\): must be divisible by causal3d.groups=4"),
        (dict(halvings=3), SHAPE, "causal3d.halvings=3: must be 0 … 2"),
        (dict(), (4, 8, 8, 3), r"clips of 1 \+ k · 2 frames whose sides are divisible by 4, not 4 frames of 8×8"),
        (dict(), (5, 8, 10, 3), "not 5 frames of 8×10"),
        (dict(), (8, 8, 3), r"needs clips of shape \(frames, height, width, channels\), not \(8, 8, 3\)"),
    ],
    ids=str,
)
def test_errors(changes, shape, message):
    with pytest.raises(ValueError, match=message):
        config = Config(**dict(widths=(8, 16, 24), groups=4, halvings=1) | changes)
        Encoder(config, shape, dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_a_decoder_must_fit_its_grid():
    with pytest.raises(ValueError, match="a grid of 4×3 does not become"):
        causal3d.Decoder(CONFIG, (4, 3), SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("network, message", [("conv", "needs images, not clips"), ("vit", "needs images, not clips")])
def test_networks_of_pictures_read_no_clips(network, message):
    c = config()
    c.model.encoder = dict(network=network)
    run = build.parse(c)
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: build.models(run, build.objectives(run))["online"](nnx.Rngs(0)))


def test_a_trunk_reads_no_clips():
    with pytest.raises(ValueError, match=r"modality 'clip': patch=0: .*clips need tokens"):
        tiny.model((), (*tiny.MODALITIES, Modality("clip", "video", SHAPE, "clip")))
    with pytest.raises(ValueError, match="must be 0: only tokenizers read clips"):
        Modality("clip", "video", SHAPE, "clip", vocab_size=4)
