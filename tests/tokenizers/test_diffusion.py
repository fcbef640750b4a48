"""Noise schedules against their formulas, predictions that invert each other, and DDIM where the answer is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.tokenizers.diffusion import PREDICTIONS, SCHEDULES, Config, ddim

PLAIN = Config(zero_terminal_snr=False)


def of(schedule, **changes):
    return dataclasses.replace(PLAIN, schedule=schedule, **changes)


def test_schedules_follow_their_formulas():
    """Written again, step by step."""
    share, linear = 1.0, []
    for t in range(1000):
        share *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        linear.append(share)
    np.testing.assert_allclose(of("linear").alphas_bar, linear, rtol=1e-12)

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    # ᾱ_t = f(t + 1) / f(0), as long as no β reaches 0.999.
    np.testing.assert_allclose(of("cosine").alphas_bar[:998], [f(t + 1) / f(0) for t in range(998)], rtol=1e-9)
    for shift in (1.0, 0.5):
        ours = of("shifted_cosine", shift=shift).alphas_bar
        snr = [(shift * math.tan(math.pi / 2 * t / 999)) ** -2 for t in range(100, 900)]
        np.testing.assert_allclose(ours[100:900] / (1 - ours[100:900]), snr, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_last_step_is_pure_noise_and_every_step_noisier(schedule):
    c = of(schedule, zero_terminal_snr=True)
    shares = c.alphas_bar
    assert shares[-1] == 0 and (np.diff(shares) < 0).all() and shares[0] > 0.99
    x, noise = jnp.ones((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 3.0)
    np.testing.assert_array_equal(c.add_noise(x, noise, jnp.array([c.steps - 1])), noise)
    if schedule != "shifted_cosine":
        # Algorithm 1 of arXiv 2305.08891 leaves the first step as it was; √ᾱ moves by an affine map.
        plain = np.sqrt(of(schedule).alphas_bar)
        assert plain[-1] > 0 and np.isclose(shares[0], plain[0] ** 2, rtol=1e-12)
        moved = np.interp(plain[500], plain[[-1, 0]], [0, plain[0]])
        np.testing.assert_allclose(np.sqrt(shares[500]), moved, rtol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_invert_each_other(prediction):
    c = of("linear", prediction=prediction)
    rng = np.random.default_rng(0)
    x0, epsilon = (jnp.asarray(rng.normal(size=(5, 4, 4, 2)), jnp.float32) for _ in range(2))
    t = jnp.asarray([0, 10, 300, 700, 999])
    x_t = c.add_noise(x0, epsilon, t)
    a = np.sqrt(c.alphas_bar[t])[:, None, None, None]
    np.testing.assert_allclose(x_t, a * x0 + np.sqrt(1 - a**2) * epsilon, atol=1e-6)
    found = c.split(x_t, c.target(x0, epsilon, t), t)
    # Where one of the two is a hundredth of x_t, fp32 leaves it four digits.
    for ours, true in zip(found, (x0, epsilon)):
        np.testing.assert_allclose(ours, true, atol=1e-4)
    np.testing.assert_allclose(c.add_noise(*found, t), x_t, atol=2e-6)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_the_exact_denoiser_of_a_gaussian(prediction, schedule):
    """Data of mean μ and deviation d: E[x0 | x_t] is linear in x_t, and noise of z ends where the flow takes it."""
    mean, deviation = 0.3, 0.05
    c = Config(schedule=schedule, prediction=prediction, clip=False, sample_steps=500)

    def predict(x, t):
        a, s = c.scales(t)
        x0 = mean + a * deviation**2 / (a**2 * deviation**2 + s**2) * (x - a * mean)
        return c.target(x0, (x - a * x0) / s, t)

    noise = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
    out = jax.jit(lambda n: ddim(predict, c, n))(noise)
    assert abs(float(out.mean()) - mean) < 2e-3
    np.testing.assert_allclose(out.std(), deviation, rtol=0.1)
    # The probability flow of a Gaussian keeps every point at its number of deviations.
    np.testing.assert_allclose(out, mean + deviation * noise, atol=0.03)
    np.testing.assert_array_equal(out, jax.jit(lambda n: ddim(predict, c, n))(noise))


def test_ddim_reaches_what_it_is_told_in_any_number_of_steps():
    image = jax.random.uniform(jax.random.key(1), (2, 4, 4, 3), minval=-2, maxval=2)
    noise = jax.random.normal(jax.random.key(2), image.shape)
    seen = []

    def predict(x, t):
        jax.debug.callback(lambda t: seen.append(int(t[0])), t, ordered=True)
        return image

    out = ddim(predict, Config(sample_steps=3), noise)
    jax.effects_barrier()
    assert seen == [999, 666, 332]  # from the last step, a third of all apart
    np.testing.assert_array_equal(out, jnp.clip(image, -1, 1))
    np.testing.assert_array_equal(ddim(predict, Config(sample_steps=1, clip=False), noise), image)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(schedule="sqrt"), "diffusion.schedule='sqrt': must be one of linear, cosine"),
        (dict(prediction="noise"), "diffusion.prediction='noise': must be one of x0"),
        (dict(prediction="epsilon"), "tells nothing of x0"),
        (dict(shift=0.5), "diffusion.shift=0.5: must be positive, and 1 but for"),
        (dict(sample_steps=1001), "sample_steps=1001: must be 1 … steps=1000"),
    ],
    ids=str,
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
