"""Multinomial logistic regression by L-BFGS, on one layer or on a learned mixture of layers."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

DECAYS = tuple(float(d) for d in np.logspace(1, -4, 6))


class Linear(NamedTuple):
    """mean, std `[L, 1, D]` of the training features; mix `[L]`, logits of the layers; kernel `[D, C]`; bias `[C]`."""

    mean: np.ndarray
    std: np.ndarray
    mix: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, x):
        """x `[L, n, D]` → `[n, C]`."""
        return np.einsum("l,lnd->nd", _softmax(self.mix), (x - self.mean) / self.std) @ self.kernel + self.bias

    def accuracy(self, x, labels) -> float:
        return float((self.logits(x).argmax(1) == labels).mean())


def fit(x, labels, classes: int, decay: float, *, start: Linear | None = None, iterations: int = 100) -> Linear:
    """Minimises mean cross-entropy + decay/2 ‖kernel‖² on standardised features.

    x `[L, n, D]`: the layers are mixed by softmax weights that are learned too (ELMo, arXiv 1802.05365, equation 1;
    its scale γ is the kernel's). labels int `[n]`. Without `decay` separable features have no minimum.
    """
    mean, std = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    std = np.where(std > 1e-6, std, 1.0)  # a feature that never changes says nothing
    shapes = ((len(x),), (x.shape[2], classes), (classes,))
    x, labels = jnp.asarray((x - mean) / std, jnp.float32), jnp.asarray(labels)

    def objective(flat):
        loss, grad = _value_and_grad(jnp.asarray(flat, jnp.float32), x, labels, jnp.float32(decay), shapes)
        return float(loss), np.asarray(grad, np.float64)

    first = np.zeros(sum(math.prod(s) for s in shapes))
    if start is not None:
        first = np.concatenate([p.ravel() for p in (start.mix, start.kernel, start.bias)]).astype(np.float64)
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=dict(maxiter=iterations, ftol=1e-6))
    return Linear(mean, std, *(p.astype(np.float32) for p in _unflatten(found.x, shapes)))


def choose(x, labels, validation, wanted, classes: int, decays=DECAYS) -> tuple[Linear, float]:
    """The fit with the best accuracy on validation features, and its weight decay; the strongest of equals.

    CLIP's protocol (arXiv 2103.00020, appendix A.3) on a coarser grid. Each fit starts from the one before.
    """
    best, fitted = None, None
    for decay in sorted(decays, reverse=True):
        fitted = fit(x, labels, classes, decay, start=fitted)
        score = fitted.accuracy(validation, wanted)
        if best is None or score > best[0]:
            best = score, fitted, decay
    return best[1:]


@functools.partial(jax.jit, static_argnums=4)
@jax.value_and_grad
def _value_and_grad(flat, x, labels, decay, shapes):
    mix, kernel, bias = _unflatten(flat, shapes)
    mixed = x[0] if len(x) == 1 else jnp.einsum("l,lnd->nd", jax.nn.softmax(mix), x)
    logits = mixed @ kernel + bias
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return decay / 2 * jnp.square(kernel).sum() - own.mean()


def _unflatten(flat, shapes):
    parts, at = [], 0
    for shape in shapes:
        parts.append(flat[at : at + math.prod(shape)].reshape(shape))
        at += math.prod(shape)
    return parts


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()
