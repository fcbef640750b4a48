"""python -m tools.experiments.ggem: does one exponent a channel group pool better than one for all?

Examples of 32 tokens in two groups of channels: in the first the evidence of one of 8 classes is a peak in a single
token, in the second that of one of 8 others is a little more in all tokens, both amid exponential noise. The mean,
`GroupGeneralizedMean` of one group (GeM) and of two (GGeM, arXiv 2212.04114), each under a linear classifier of the
groups' classes. Held-out accuracy in each group, their mean, and the learned exponents.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from pretrain.models.parts.pool import GroupGeneralizedMean
from pretrain.models.stream import Stream
from tools.experiments.common import Gate, finish, options

TOKENS, CLASSES, PEAK, SPREAD = 32, 8, 6.0, 0.4
CONDITIONS = {"mean": 0, "GeM, one p": 1, "GGeM": 2}  # groups
SIZES = dict(steps=(1000, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("GGeM beats one exponent for all", "accuracy", "GGeM", "GeM, one p"),
    Gate("one exponent for all beats the mean", "accuracy", "GeM, one p", "mean"),
    Gate("the exponent of peaks is greater than that of what is spread", "p of peaks − p of spread", "GGeM"),
)


def examples(rng, count: int):
    """x `[count, TOKENS, 2 · CLASSES]`, positive; y `[count, 2]`, the class in each group."""
    x = rng.exponential(size=(count, TOKENS, 2 * CLASSES))
    y = rng.integers(CLASSES, size=(count, 2))
    row = np.arange(count)
    x[row, rng.integers(TOKENS, size=count), y[:, 0]] += PEAK
    x[row, :, CLASSES + y[:, 1]] += SPREAD
    return jnp.float32(x), jnp.asarray(y)


class Classifier(nnx.Module):
    def __init__(self, groups: int):
        self.pool = GroupGeneralizedMean(groups) if groups else None
        self.kernel = nnx.Param(jnp.zeros((2, CLASSES, CLASSES)))
        self.bias = nnx.Param(jnp.zeros((2, CLASSES)))

    def __call__(self, x):
        """x `[B, N, 2 · CLASSES]` → logits `[B, 2, CLASSES]`."""
        every = jnp.ones(x.shape[:2], bool)
        pooled = x.mean(1) if self.pool is None else self.pool(Stream(x, every, every * 0, every * 0))
        return jnp.einsum("bgc,gcd->bgd", pooled.reshape(-1, 2, CLASSES), self.kernel[...]) + self.bias[...]


def train(groups: int, data, steps: int, batch: int, seed: int):
    graph, params = nnx.split(Classifier(groups))
    optimizer, (x, y) = optax.adam(optax.cosine_decay_schedule(0.03, steps)), data

    def loss(params, rows):
        logits = nnx.merge(graph, params)(x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def body(state, key):
        params, moments = state
        grads = jax.grad(loss)(params, jax.random.randint(key, (batch,), 0, len(x)))
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(jax.random.key(seed), steps)
    (params, _), _ = jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), keys))(params)
    return nnx.merge(graph, params)


def measure(steps=1000, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in conditions}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        data, (x, y) = examples(rng, 4096), examples(rng, 2048)
        for name in conditions:
            model = train(CONDITIONS[name], data, steps, batch, seed)
            right = np.asarray(model(x).argmax(-1) == y).mean(0)
            p = np.ones(1) if model.pool is None else np.maximum(model.pool.p[...], 1e-2)  # as the pooling bounds it
            results[name].append({
                "accuracy": right.mean(), "of peaks": right[0], "of spread": right[1], "p of peaks": p[0],
                "p of spread": p[-1], "p of peaks − p of spread": p[0] - p[-1],
            })  # fmt: skip
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"accuracy among {CLASSES}; {args.steps} steps of {args.batch}"
    finish("ggem", args, title, results, systems=[4], control="mean", gates=GATES)


if __name__ == "__main__":
    main()
