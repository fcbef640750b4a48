"""The optimizer's chain against optax's own, and its rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pretrain import optim

PARAMS = {
    "model": {"fc1": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
    "objective": {"c": {"scale": jnp.ones(())}},
}
DECAYED = {"model": {"fc1": {"kernel": True, "bias": False}}, "objective": {"c": {"scale": False}}}


@pytest.mark.parametrize("trust_ratio", [False, True])
def test_equals_adamw_and_lamb(trust_ratio):
    config = optim.Config(lr=0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, final_lr=1.0, trust_ratio=trust_ratio)
    ours, make = optim.make_optimizer(config, PARAMS, 10), optax.lamb if trust_ratio else optax.adamw
    theirs = make(0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, mask=DECAYED)
    states, params = [ours.init(PARAMS), theirs.init(PARAMS)], [PARAMS, PARAMS]
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.cos(jnp.arange(p.size) + s).reshape(p.shape), PARAMS)
        for i, chain in enumerate((ours, theirs)):
            updates, states[i] = chain.update(grads, states[i], params[i])
            params[i] = optax.apply_updates(params[i], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *params)
    assert abs(params[0]["model"]["fc1"]["kernel"] - 1).min() > 1e-3


def test_a_rule_scales_the_step_and_a_wrong_one_is_named():
    grads = jax.tree.map(jnp.ones_like, PARAMS)

    def kernel_step(**kw):
        chain = optim.make_optimizer(optim.Config(lr=0.1, **kw), PARAMS, 10)
        return chain.update(grads, chain.init(PARAMS), PARAMS)[0]["model"]["fc1"]["kernel"]

    half = kernel_step(rules=(optim.Rule("fc1/kernel", 0.5), optim.Rule("fc1")))
    np.testing.assert_allclose(half, 0.5 * kernel_step(), rtol=1e-6)
    with pytest.raises(ValueError, match="'fc9' matches no parameter; paths look like 'model/fc1/bias'"):
        kernel_step(rules=(optim.Rule("fc9"),))
