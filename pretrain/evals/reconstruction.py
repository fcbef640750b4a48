"""What a tokenizer loses: the share of its codes in use over a split, and how close its pictures come."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain.checkpoint import steps
from pretrain.evals.base import Task
from pretrain.models.image_network import ImageNetwork
from pretrain.objectives.corruptions import Raw
from pretrain.objectives.reconstruction import NO_LABEL, cosine, pictures, usage
from pretrain.restore import restore
from pretrain.step import example_keys
from pretrain.tokenizers.quantizers.base import code_counts

WINDOW, SIGMA = 11, 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Over all examples of a split: `usage`, the share of the codes that occur, `perplexity`, e to the entropy of their
    frequencies (each a mean over books), and of what is decoded from the ids, means over examples:

    of pictures `psnr`, 10 log₁₀ 255² / mse in dB, and `ssim` (Wang et al. 2004, IEEE TIP 13(4), equation 13: Gaussian
    window of 11 pixels, σ = 1.5, K₁ = 0.01, K₂ = 0.03, a mean over channels and over windows inside the picture);
    of clips these of their frames; of label maps `accuracy`, of vectors `cosine`.

    With a `network`, also `rfid` of pictures: the Fréchet distance (arXiv 1706.08500, equation 6) between Gaussians of
    what that network says of the originals and of what was decoded. It depends on the network and on the number of
    pictures: compare values of one network and split. With fewer pictures than numbers it says of one, the covariances
    are singular and the value is far above that of many.
    """

    split: str = "val"
    batch_size: int = 64
    network: ImageNetwork | None = None

    def __post_init__(self):
        m = self.context.modalities[0]
        if self.network and (not m.pictures or m.vocab_size):
            raise ValueError(f"reconstruction.network: it compares pictures; {m.name!r} holds none")
        if self.network:
            self.network.check(m.shape[-1])
            if not steps(self.network.workdir):
                raise ValueError(
                    f"reconstruction.network.workdir={self.network.workdir!r} has no checkpoint: train it first"
                )
        if m.pictures and not m.vocab_size and min(m.shape[-3:-1]) < WINDOW:
            height, width = m.shape[-3:-1]
            raise ValueError(f"reconstruction: {m.name!r} is {height}×{width}: SSIM needs {WINDOW} × {WINDOW}")

    def run(self, params):
        sums, seen = None, []
        fixed = restore(self.network.workdir).params["model"] if self.network else None
        for batch in self.context.batches(self.split, self.batch_size):
            found, features, weight = jax.device_get(self._step(params, fixed, batch))
            seen.append([x[weight > 0] for x in features])
            sums = found if sums is None else jax.tree.map(np.add, sums, found)
        yield from usage(sums.pop("counts")).items()
        weight = sums.pop("weight")
        yield from ((name, total / weight) for name, total in sums.items())
        if self.network:
            yield "rfid", frechet(*(np.concatenate(x).reshape(-1, x[0].shape[-1]) for x in zip(*seen)))

    @functools.cached_property
    def _step(self):
        graph, modalities = self.context.graph, self.context.modalities

        def step(params, fixed, batch):
            model = nnx.merge(graph, params["model"]).autoencoder
            view = Raw(modalities)(batch, example_keys(0, 0, len(batch["row"])))
            raw, valid = view["raw"], (view["place"].rank >= 0) & (batch["row"] >= 0)[:, None]
            raw, weight = raw.reshape(-1, *raw.shape[2:]), valid.reshape(-1).astype(jnp.float32)
            ids = model.tokenize(raw)
            made = model.detokenize(ids)
            scores = compare(made, raw, model)
            both = (pictures(raw), pictures(made)) if self.network else ()
            features = [self.network.pooled(fixed, x.astype(jnp.float32)) for x in both]
            features = [x.reshape(len(raw), -1, x.shape[-1]) for x in features]  # of a clip a row for each frame
            counts = code_counts(ids, weight, model.quantizer.books, model.quantizer.vocab_size)
            sums = {k: (weight * v).sum() for k, v in scores.items()} | {"weight": weight.sum(), "counts": counts}
            return sums, features, weight

        return jax.jit(step)


def compare(made, raw, model) -> dict:
    """{score: `[B]`} of what was decoded, raw as the inputs are."""
    if model.form == "vectors":
        return {"cosine": cosine(made, raw).mean(1)}
    if model.n_classes:
        known = raw != NO_LABEL
        right = ((made == raw) & known).sum((1, 2, 3))
        return {"accuracy": right / jnp.maximum(known.sum((1, 2, 3)), 1)}
    made, raw, count = *(pictures(x).astype(jnp.float32) for x in (made, raw)), len(raw)
    return {k: v.reshape(count, -1).mean(1) for k, v in (("psnr", psnr(made, raw)), ("ssim", ssim(made, raw)))}


def frechet(a, b) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of rows a `[n, D]` and b `[m, D]`, in fp64.

    (Σ_a Σ_b)^½ has the trace of (Σ_a^½ Σ_b Σ_a^½)^½, which is symmetric: no complex numbers, nothing singular.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def psnr(a, b):
    """a, b `[B, H, W, C]` in 0…255 → dB `[B]`; at most 100, of images that are alike."""
    mse = jnp.square(a - b).mean((1, 2, 3))
    return 10 * jnp.log10(255.0**2 / jnp.maximum(mse, 255.0**2 * 1e-10))


def ssim(a, b):
    """a, b `[B, H, W, C]` in 0…255 → `[B]`."""
    at = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(at**2) / (2 * SIGMA**2))
    window = jnp.asarray(window / window.sum(), jnp.float32)

    def blur(x):
        for axis in (1, 2):
            n = x.shape[axis] - WINDOW + 1
            x = sum(w * jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i, w in enumerate(window))
        return x

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
