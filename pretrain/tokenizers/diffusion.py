"""Gaussian diffusion in discrete time: x_t = √ᾱ_t · x0 + √(1 − ᾱ_t) · ε, for t = 0 … T − 1 (arXiv 2006.11239).

Noise schedules, what a network may predict, and DDIM sampling.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

SCHEDULES = ("linear", "cosine", "shifted_cosine")
PREDICTIONS = ("x0", "epsilon", "v")


@dataclasses.dataclass(frozen=True)
class Config:
    """steps: T; schedule: how ᾱ falls over them; prediction: what the network gives.

    schedule: `linear` in β from 1e-4 to 0.02 (arXiv 2006.11239, section 4), `cosine` (arXiv 2102.09672, equation 17),
      `shifted_cosine`: log SNR_t = −2 log(shift · tan(πt / 2)) (arXiv 2305.18231), noisier with a greater shift.
    zero_terminal_snr: rescaled so that the last step is pure noise, as sampling begins (arXiv 2305.08891, algorithm 1);
      a shifted cosine ends so anyway.
    prediction: `x0`, `epsilon`, or `v` = √ᾱ · ε − √(1 − ᾱ) · x0 (arXiv 2202.00512, appendix D).
    clip: predicted images are cut to [-1, 1] at each step of sampling.
    sample_steps: of sampling.
    """

    steps: int = 1000
    schedule: str = "linear"
    shift: float = 1.0
    zero_terminal_snr: bool = True
    prediction: str = "x0"
    clip: bool = True
    sample_steps: int = 50

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"diffusion.{key}={getattr(self, key)!r}: {remedy}")

        if self.schedule not in SCHEDULES:
            fail("schedule", f"must be one of {', '.join(SCHEDULES)}")
        if self.prediction not in PREDICTIONS:
            fail("prediction", f"must be one of {', '.join(PREDICTIONS)}")
        if self.shift <= 0 or (self.shift != 1 and self.schedule != "shifted_cosine"):
            fail("shift", "must be positive, and 1 but for a shifted_cosine")
        if not 2 <= self.steps or not 1 <= self.sample_steps <= self.steps:
            fail("sample_steps", f"must be 1 … steps={self.steps}, of which there are at least 2")
        if self.prediction == "epsilon" and (self.zero_terminal_snr or self.schedule == "shifted_cosine"):
            fail("prediction", "pure noise, which the last step is, tells nothing of x0; predict x0 or v")

    @property
    def alphas_bar(self) -> np.ndarray:
        """float64 `[T]`: the share ᾱ_t of the image in the variance of x_t."""
        if self.schedule == "shifted_cosine":
            with np.errstate(divide="ignore"):
                log_snr = -2 * np.log(self.shift * np.tan(np.pi / 2 * np.linspace(0, 1, self.steps)))
            shares = 1 / (1 + np.exp(-np.clip(log_snr, -15, 15)))
            shares[-1] = 0.0
            return shares
        if self.schedule == "linear":
            betas = np.linspace(1e-4, 0.02, self.steps)
        else:
            f = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        shares = np.cumprod(1 - betas)
        if self.zero_terminal_snr:
            root = np.sqrt(shares)
            shares = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return shares

    def scales(self, t):
        """√ᾱ and √(1 − ᾱ) at t `[B]`, each `[B, 1, 1, 1]`; of an image itself, without noise, at t = −1."""
        shares = np.append(self.alphas_bar, 1.0)  # index −1
        signal, noise = (jnp.asarray(np.sqrt(a), jnp.float32) for a in (shares, 1 - shares))
        return signal[t][:, None, None, None], noise[t][:, None, None, None]

    def add_noise(self, x0, epsilon, t):
        """x_t of images `[B, H, W, C]` at t `[B]`."""
        a, s = self.scales(t)
        return a * x0 + s * epsilon

    def target(self, x0, epsilon, t):
        """What the network is to predict."""
        a, s = self.scales(t)
        return {"x0": x0, "epsilon": epsilon, "v": a * epsilon - s * x0}[self.prediction]

    def split(self, x_t, output, t):
        """(x0, ε) that an output of the network means, the inverse of `add_noise` and `target`."""
        a, s = self.scales(t)
        if self.prediction == "x0":
            return output, (x_t - a * output) / s
        if self.prediction == "epsilon":
            return (x_t - s * output) / a, output
        return a * x_t - s * output, a * output + s * x_t


def ddim(predict, config: Config, noise):
    """Images from noise `[B, H, W, C]`, without further randomness: DDIM with η = 0 (arXiv 2010.02502, equation 12).

    predict(x_t, t) is the network. Steps are spaced from the last backwards (arXiv 2305.08891, section 3.4). ε keeps
    to what the network said where x0 is clipped, as in 4M.
    """
    times = np.round(np.arange(config.steps, 0, -config.steps / config.sample_steps)).astype(np.int32) - 1

    def step(x, pair):
        t, earlier = jnp.broadcast_to(pair[:, None], (2, len(x)))
        x0, epsilon = config.split(x, predict(x, t), t)
        x0 = jnp.clip(x0, -1, 1) if config.clip else x0
        return config.add_noise(x0, epsilon, earlier), None

    pairs = jnp.asarray(np.stack([times, np.append(times[1:], -1)], 1))
    return jax.lax.scan(step, noise, pairs)[0]
