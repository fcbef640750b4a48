"""Denoising: the loss against NumPy from the drawn noise, and a small DiVAE that learns to use its codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from laws import Built

from configs import emoji_tokenizer
from data_pipeline.spec import Modality
from pretrain import build
from pretrain.objectives import denoising
from pretrain.step import example_keys

SIDE = 16


def config(**changes):
    """A DiVAE of 16 tokens an image that compiles fast."""
    c = emoji_tokenizer.get_config("rgb").to_dict()
    c["model"] = dict(
        model="tokenizers.divae", dtype="float32", encoder=dict(network="patches", patch=4, dim=16, mlps=1),
        quantizer=dict(quantizer="vq", size=32, width=8),
        decoder=dict(network="unet", patch=2, dim=8, channels=8, multipliers=[1, 2], blocks=1, attention=[2], groups=4),
        diffusion=dict(steps=100, sample_steps=10),
    )  # fmt: skip
    c["objectives"] = dict(denoising=dict(terms=dict(l2=1.0, commitment=0.25)))
    c["modalities"] = [m | dict(shape=(SIDE, SIDE, 3)) for m in c["modalities"][:2]]
    c |= dict(batch_size=4, evals={}, steps=100) | changes
    c["optim"] = dict(lr=1e-2, warmup=5, weight_decay=0.0, clip=1.0)
    return c


DIT = dict(network="dit", patch=4, dim=8, width=32, depth=2, heads=2, mlp_ratio=2.0)


@pytest.fixture(scope="module", params=["unet", "dit"])
def made(request):
    c = config()
    if request.param == "dit":
        c["model"]["decoder"] = DIT
    return Built(c)


@pytest.fixture(scope="module")
def data(made):
    return made.batch()


@pytest.mark.slow
def test_the_loss_equals_numpy(made, data):
    """Of what the model gives for noised images, with the noise that the keys draw; an invalid image has no part."""
    objective, keys = made.objectives["denoising"], example_keys(0, 3, 4)
    name = made.run.modalities[0].name
    data = data | {name: {**data[name], "valid": np.array([True, False, True, True])}}
    network = nnx.merge(made.graph, tiny.noisy(made.params["model"], seed=4))
    outputs, model = tiny.outputs(objective, network, data, keys, train=False), network.autoencoder
    got = objective.totals({}, outputs, train=False, run=None)

    raw, valid = (np.stack([data[m.name][k] for m in made.run.modalities], 1) for k in ("pixels", "valid"))
    drawn = denoising.Noise(made.run.modalities)(data, keys)
    t = np.floor(np.asarray(drawn["time"]) * 100).astype(int).reshape(8)
    epsilon = np.asarray(drawn["noise"]).reshape(8, SIDE, SIDE, 3)
    raw, shares = raw.reshape(8, SIDE, SIDE, 3), model.diffusion.alphas_bar[t][:, None, None, None]
    x0 = raw / 127.5 - 1.0
    x_t = np.sqrt(shares) * x0 + np.sqrt(1 - shares) * epsilon
    out = jax.jit(lambda m, raw, x_t: m.predict(x_t, jnp.asarray(t), m.encode(raw)))(model, raw, x_t.astype(np.float32))
    errors = np.square(np.asarray(out) - x0).mean((1, 2, 3))
    np.testing.assert_allclose(got["l2"], errors[valid.reshape(-1)].sum(), rtol=1e-5)
    assert objective.weights(outputs)["l2"] == 7 and len(set(t.tolist())) > 4


def test_noise_is_normal_and_times_are_uniform():
    two = tuple(Modality(name, "pixels", (2, 4, 1), name) for name in "ab")
    drawn = denoising.Noise(two)({}, example_keys(0, 0, 4000))
    noise, time = np.asarray(drawn["noise"]).reshape(4000, 2, 8), np.asarray(drawn["time"])
    for i in range(2):
        t, epsilon = np.floor(10 * time[:, i]).astype(int), noise[:, i]
        assert abs(float(epsilon.mean())) < 0.02 and abs(float(epsilon.std()) - 1) < 0.02
        counts = np.bincount(t, minlength=10)
        assert len(counts) == 10 and counts.min() > 300
        assert abs(np.corrcoef(t, epsilon[:, 0])[0, 1]) < 0.05
    assert abs(np.corrcoef(*time.T)[0, 1]) < 0.05 and abs(np.corrcoef(noise[:, 0, 0], noise[:, 1, 0])[0, 1]) < 0.05


@pytest.mark.slow
def test_it_learns(made, data):
    """The loss falls, the codebook follows the batch, and what is sampled comes close to the images."""
    state, metrics = made.step(data, steps=40)
    raw = jnp.concatenate([data[m.name]["pixels"] for m in made.run.modalities])
    start = np.square(raw / 127.5 - 1).mean()  # of a decoder that gives zeros, as it does at first
    loss = metrics["terms"]["denoising/l2"]
    assert loss.total / loss.weight < 0.5 * start
    assert metrics["terms"]["denoising/usage"].total > 1 / 32
    before, after = (p["model"]["autoencoder"]["quantizer"]["counts"] for p in (made.params, state.params))
    assert (before != after).any()
    model = nnx.merge(made.graph, state.params["model"]).autoencoder
    images = np.asarray(jax.jit(lambda m, raw: m.decode(m.encode(raw)))(model, raw))
    assert images.shape == raw.shape and images.min() >= -1 and images.max() <= 1
    assert np.square(images - model.target(raw)).mean() < 0.5 * start


def test_sampling_is_fixed_by_its_seed_and_each_image_stands_alone(made, data):
    model = nnx.merge(made.graph, tiny.noisy(made.params["model"], seed=4)).autoencoder
    codes = model.encode(data[made.run.modalities[0].name]["pixels"])
    decode = jax.jit(lambda codes, seed: model.decode(codes, seed))
    images = decode(codes, 0)
    np.testing.assert_array_equal(images, decode(codes, 0))
    np.testing.assert_allclose(decode(codes[1:2], 0)[0], images[1], atol=1e-4)
    assert np.abs(np.asarray(images) - np.asarray(decode(codes, 1))).max() > 0.01


@pytest.mark.parametrize(
    "path, value, message",
    [
        (
            "objectives.denoising.terms",
            dict(psnr=1.0),
            "denoising.terms: 'psnr': of .* it may be one of l1, l2, smooth_l1, commitment",
        ),
        (
            "objectives.denoising.terms",
            dict(commitment=1.0),
            "denoising.terms=.*: nothing to reconstruct; name one of l1, l2, smooth_l1",
        ),
        ("model.decoder.dim", 4, "config.model.decoder.dim=4: reads codes, whose width is 8"),
        ("model.decoder.patch", 3, r"unet: patch · 2\^\(levels − 1\) = 6 must divide the image size 16×16"),
        ("model.decoder.groups", 3, "unet.channels=8: must be even and divisible by groups=3"),
        ("model.diffusion.prediction", "eps", "diffusion.prediction='eps'"),
    ],
)
def test_config_errors(path, value, message):
    c = config()
    *parents, last = path.split(".")
    node = c
    for p in parents:
        node = node[p]
    node[last] = value
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        nnx.eval_shape(lambda: build.models(run, build.objectives(run))["online"](nnx.Rngs(0)))


def test_a_decoder_that_does_not_diffuse_is_named():
    c = emoji_tokenizer.get_config("rgb")
    c.objectives = dict(denoising=dict(terms=dict(l2=1.0)))
    with pytest.raises(ValueError, match=r"the decoder is no diffusion: set model.model='tokenizers.divae'"):
        build.objectives(build.parse(c))
