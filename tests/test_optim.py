"""The optimizer's chain against optax's own, and its rules."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest

from pretrain import optim, sharding
from pretrain.parameters import Roles, mark, param, undecayed, values


def given(tree):
    """(arrays, roles) of a tree of parameters."""
    return values(tree), Roles(tree)


def kernel(*shape):
    return param(jnp.ones(shape), matrix=True, split=-1)


PARAMS, ROLES = given({
    "model": {"fc1": {"kernel": kernel(2, 3), "bias": undecayed(jnp.ones(3))}},
    "objective": {"c": {"scale": undecayed(jnp.ones(()))}},
})  # fmt: skip
DECAYED = {"model": {"fc1": {"kernel": True, "bias": False}}, "objective": {"c": {"scale": False}}}


@pytest.mark.parametrize("trust_ratio", [False, True])
def test_equals_adamw_and_lamb(trust_ratio):
    config = optim.Config(lr=0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, final_lr=1.0, trust_ratio=trust_ratio)
    ours, make = optim.make_optimizer(config, PARAMS, 10, ROLES), optax.lamb if trust_ratio else optax.adamw
    theirs = make(0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, mask=DECAYED)
    states, params = [ours.init(PARAMS), theirs.init(PARAMS)], [PARAMS, PARAMS]
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.cos(jnp.arange(p.size) + s).reshape(p.shape), PARAMS)
        for i, chain in enumerate((ours, theirs)):
            updates, states[i] = chain.update(grads, states[i], params[i])
            params[i] = optax.apply_updates(params[i], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *params)
    assert abs(params[0]["model"]["fc1"]["kernel"] - 1).min() > 1e-3


def test_sgd_is_gradients_with_momentum():
    config = optim.Config(lr=0.1, b1=0.8, weight_decay=0.3, final_lr=1.0, moments="sgd")
    chain = optim.make_optimizer(config, PARAMS, 10, ROLES)
    state, params, p, m = chain.init(PARAMS), PARAMS, np.ones((2, 3)), 0.0
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.cos(jnp.arange(p.size) + s).reshape(p.shape), PARAMS)
        updates, state = chain.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        m = 0.8 * m + np.cos(np.arange(6.0) + step).reshape(2, 3)
        p = p - 0.1 * (m + 0.3 * p)
    np.testing.assert_allclose(params["model"]["fc1"]["kernel"], p, rtol=1e-6)


def test_adagrad_divides_by_the_root_of_all_squares_so_far():
    config = optim.Config(lr=0.1, eps=1e-10, weight_decay=0.3, final_lr=1.0, moments="adagrad")
    chain = optim.make_optimizer(config, PARAMS, 10, ROLES)
    state, params, p, squares = chain.init(PARAMS), PARAMS, np.ones((2, 3)), 0.0
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.cos(jnp.arange(p.size) + s).reshape(p.shape), PARAMS)
        updates, state = chain.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        g = np.cos(np.arange(6.0) + step).reshape(2, 3)
        squares = squares + g**2
        p = p - 0.1 * (g / np.sqrt(squares) + 0.3 * p)
    np.testing.assert_allclose(params["model"]["fc1"]["kernel"], p, rtol=1e-6)


def test_a_rule_scales_the_step_and_a_wrong_one_is_named():
    grads = jax.tree.map(jnp.ones_like, PARAMS)

    def kernel_step(**kw):
        chain = optim.make_optimizer(optim.Config(lr=0.1, **kw), PARAMS, 10, ROLES)
        return chain.update(grads, chain.init(PARAMS), PARAMS)[0]["model"]["fc1"]["kernel"]

    half = kernel_step(rules=(optim.Rule("fc1/kernel", 0.5), optim.Rule("fc1")))
    np.testing.assert_allclose(half, 0.5 * kernel_step(), rtol=1e-6)
    with pytest.raises(ValueError, match="'fc9' matches no parameter; paths look like 'model/fc1/bias'"):
        kernel_step(rules=(optim.Rule("fc9"),))


MATRIX, MATRIX_ROLES = given({"model": {"fc1": {"kernel": kernel(3, 160, 200), "bias": undecayed(jnp.ones((3, 200)))}}})


def numpy_step(moments, state, g, p, t, c):
    """Step t on one array p, from the formulas: (m, v or (rows, columns)) and the new p, of gradient g and config c."""
    m, v = state
    low = lambda x: np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16)).astype(np.float64)
    if moments == "bfloat16":
        m, v = c.b1 * m + (1 - c.b1) * g, c.b2 * v + (1 - c.b2) * g**2
        u = m / (1 - c.b1**t) / (np.sqrt(v / (1 - c.b2**t)) + c.eps)
    else:
        b2, square = min(c.b2, 1 - t**-0.8), g**2 + c.eps**2
        if isinstance(v, tuple):
            v = tuple(b2 * old + (1 - b2) * square.mean(axis) for old, axis in zip(v, (-1, -2)))
            whole = v[0][..., :, None] * v[1][..., None, :] / v[0].mean(-1)[..., None, None]
        else:
            v = whole = b2 * v + (1 - b2) * square
        u = m = c.b1 * m + (1 - c.b1) * g / np.sqrt(whole)
    return (low(m), v), p - c.lr * (u + c.weight_decay * p * (p.ndim > 2))


@pytest.mark.parametrize("moments", ["bfloat16", "factored"])
def test_moments_equal_their_formulas(moments):
    config = optim.Config(lr=0.1, b1=0.8, b2=0.6, eps=1e-4, weight_decay=0.3, final_lr=1.0, moments=moments)
    chain = optim.make_optimizer(config, MATRIX, 10, MATRIX_ROLES)
    params, state = MATRIX, chain.init(MATRIX)
    ours, theirs = jax.tree.leaves_with_path(MATRIX), {}
    for path, p in ours:
        factors = moments == "factored" and p.ndim == 3
        theirs[path] = (0.0, (0.0, 0.0) if factors else 0.0), np.asarray(p, np.float64)
    for t in range(1, 5):  # b2 is not yet, then is, what bounds Adafactor's decay: 1 − 4^−0.8 = 0.67
        rng = np.random.default_rng(t)
        grads = jax.tree.map(lambda p, r=rng: jnp.asarray(r.normal(size=p.shape) ** 3, jnp.float32), MATRIX)
        updates, state = chain.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for path, g in jax.tree.leaves_with_path(grads):
            theirs[path] = numpy_step(moments, theirs[path][0], np.asarray(g, np.float64), theirs[path][1], t, config)
    for path, p in jax.tree.leaves_with_path(params):
        # A moment beside the middle of two bfloat16 may be rounded to the other one; hardly any lies there.
        np.testing.assert_allclose(p, theirs[path][1], atol=2e-3, rtol=0)
        assert np.median(np.abs(p - theirs[path][1])) < 1e-6


def test_muon_equals_its_formula():
    """Kernels, one a block, against Newton and Schulz in NumPy; the bias and an objective's kernel against Adam."""
    params, roles = given({
        "model": {"kernel": kernel(2, 6, 9), "bias": undecayed(jnp.ones((2, 9)))}, "objective": {"kernel": kernel(6, 9)}
    })  # fmt: skip
    common = dict(lr=0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, final_lr=1.0)
    chains = [optim.make_optimizer(optim.Config(moments=m, **common), params, 10, roles) for m in ("muon", "float32")]
    states, trained = [c.init(params) for c in chains], [params, params]
    m, expected = 0.0, np.ones((2, 6, 9))
    for t in range(1, 4):
        rng = np.random.default_rng(t)
        grads = jax.tree.map(lambda p, r=rng: jnp.asarray(r.normal(size=p.shape), jnp.float32), params)
        for i, chain in enumerate(chains):
            updates, states[i] = chain.update(grads, states[i], trained[i])
            trained[i] = optax.apply_updates(trained[i], updates)
        g = np.asarray(grads["model"]["kernel"], np.float64)
        m = 0.95 * m + 0.05 * g
        nesterov = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
        for block, x in zip(expected, nesterov):
            x = x / np.linalg.norm(x)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            assert np.abs(np.linalg.svd(x)[1] - 1).max() < 0.4  # nearly orthogonal
            block -= 0.1 * (0.2 * 3 * x + 0.3 * block)
    np.testing.assert_allclose(trained[0]["model"]["kernel"], expected, atol=1e-5)
    for rest in (lambda p: p["model"]["bias"], lambda p: p["objective"]["kernel"]):
        np.testing.assert_array_equal(*map(rest, trained))
    with pytest.raises(ValueError, match=r"optim\.muon_rms=0: must be above 0"):
        optim.Config(muon_rms=0)


def state_bytes(moments, params, roles):
    chain = optim.make_optimizer(optim.Config(moments=moments), params, 10, roles)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(chain.init, params)))


def test_bytes_of_state():
    """A stack of 24 SwiGLU matrices and norms: never a factor over the depth."""
    made = jax.eval_shape(
        lambda: {"model": {"kernel": kernel(24, 2048, 5461), "norm": undecayed(jnp.ones((24, 2048)))}}
    )
    params, roles = jax.eval_shape(values, made), Roles(made)
    large, small = 24 * 2048 * 5461, 24 * 2048
    for moments, expected in (
        ("float32", 8 * (large + small)),
        ("bfloat16", 6 * (large + small)),
        ("factored", 2 * (large + small) + 4 * (24 * (2048 + 5461) + small)),
        ("muon", 4 * large + 8 * small),
    ):
        assert 0 <= state_bytes(moments, params, roles) - expected < 100  # counters, and where nothing is factored


def test_a_second_moment_falls_under_small_gradients():
    """One large gradient, then none: v falls by b2 a step. In bfloat16 it would stay where it is."""
    params, roles = given({"model": param(jnp.zeros(3))})
    chain = optim.make_optimizer(optim.Config(b2=0.999, moments="bfloat16"), params, 400, roles)
    step, state = jax.jit(chain.update), chain.init(params)
    for i in range(300):
        _, state = step({"model": jnp.full(3, float(i == 0))}, state, params)
    (adam,) = (s for s in state if isinstance(s, optax.ScaleByAdamState))
    np.testing.assert_allclose(adam.nu["model"], 0.001 * 0.999**299, rtol=1e-4)
    stays = jnp.bfloat16(0.001)
    assert (stays * 0.999).astype(jnp.bfloat16) == stays and adam.mu["model"].dtype == jnp.bfloat16


@pytest.mark.parametrize("moments", optim.MOMENTS)
def test_a_quadratic_is_minimised_and_a_bad_step_skipped(moments):
    """Rows and columns of very different curvature, with clipping, decay, a rule and LAMB's ratio in the chain."""
    scale = jnp.exp(jnp.linspace(-3, 3, 160))[:, None] * jnp.exp(jnp.linspace(-2, 2, 200))
    start = param(jax.random.normal(jax.random.key(0), (2, 160, 200)), matrix=True)
    params, roles = given({"model": {"kernel": start, "still": param(jnp.ones(2))}})
    loss = lambda p: (scale * jnp.square(p["model"]["kernel"])).mean() + jnp.square(p["model"]["still"]).sum()
    rules = (optim.Rule("still", 0.0),)
    config = optim.Config(lr=0.03, clip=10.0, weight_decay=0.01, trust_ratio=True, rules=rules, moments=moments)
    chain = optim.make_optimizer(config, params, 200, roles)

    @jax.jit
    def step(params, state, factor):
        grads = jax.tree.map(lambda g: g * factor, jax.grad(loss)(params))
        return optim.apply(chain, grads, state, params, jnp.isfinite(factor))

    first, state = params, optim.init(chain, params)
    for _ in range(150):
        params, state = step(params, state, 1.0)
    assert loss(params) - 2 < 0.05 * (loss(first) - 2)
    np.testing.assert_array_equal(params["model"]["still"], 1.0)
    same, after = step(params, state, jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, (same, after.inner_state), (params, state.inner_state))
    assert after.total_notfinite == 1 and state.total_notfinite == 0
    counts = []
    for factor in (jnp.nan, jnp.nan, 1.0, jnp.inf, 1.0):
        params, state = step(params, state, factor)
        counts.append((int(state.notfinite_count), bool(state.last_finite), int(state.total_notfinite)))
    assert counts == [(1, False, 1), (2, False, 2), (0, True, 2), (1, False, 3), (0, True, 3)]  # the first: in a row


@pytest.mark.parametrize("moments", ["factored", "muon"])
def test_state_on_a_mesh(moments):
    """`param_layout` lays out every array of the state, and eight devices step as one does."""
    bias = undecayed(jnp.ones((3, 200)), split=-1)
    params, roles = given({
        "model": {"fc1": {"kernel": kernel(3, 160, 201), "bias": bias}, "norm": undecayed(jnp.ones(5))}
    })  # fmt: skip
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=jnp.float32) * 1.7).reshape(p.shape), params)
    chain = optim.make_optimizer(optim.Config(lr=0.1, moments=moments), params, 10, roles)
    mesh = sharding.make_mesh(sharding.parse_mesh("data=2,fsdp=2,tensor=2"))

    def two_steps(params, grads):
        state = chain.init(params)
        for factor in (1.0, -0.3):
            updates, state = chain.update(jax.tree.map(lambda g, f=factor: f * g, grads), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    layout = sharding.state_sharding(jax.eval_shape(two_steps, params, grads), roles, mesh)
    own = sharding.state_sharding(params, roles, mesh)
    one = jax.jit(two_steps)(params, grads)
    eight = jax.jit(two_steps, in_shardings=(own, own), out_shardings=layout)(params, grads)

    # A bfloat16 beside the middle of two may be rounded to the other one, and moves its parameter by lr times that.
    laws.close_trees(one[0], eight[0], 2e-4)
    one, eight = (jax.tree.map(np.float32, state) for _, state in (one, eight))
    laws.close_trees(one, eight, 2**-7)
    split = {str(s.spec) for s in jax.tree.leaves(layout)}
    assert any("fsdp" in s for s in split) and any("tensor" in s for s in split)


def test_an_unknown_kind_of_moments_is_named():
    with pytest.raises(ValueError, match=r"optim\.moments='int8': must be one of float32, bfloat16, factored"):
        optim.Config(moments="int8")


def test_layer_decay_is_counted_from_the_last_block():

    def stack(depth):
        kernel, bias = param(jnp.ones((3, 4, 4)), stacked=True), param(jnp.ones((3, 4)), stacked=True)
        return {"fc1": {"kernel": mark(kernel, depth=depth), "bias": mark(bias, depth=depth)}}

    model = {
        "encoder": {"blocks": stack(3), "norm": {"scale": undecayed(jnp.ones(4))}},
        "decoder": {"blocks": stack(0)},
        "embed": {"modality": param(jnp.ones(4), depth=4)},
        "a_encoder": {"blocks": {"fc1": param(jnp.ones((2, 4)), stacked=True, depth=2)}},
        "a_embed": {"positions": param(jnp.ones(4), depth=3)},
    }
    params, roles = given({"model": model})
    rules = (optim.Rule("fc1/bias", 0.5),)
    steps = []
    for more in (dict(), dict(layer_decay=0.5, rules=rules)):
        chain = optim.make_optimizer(optim.Config(lr=0.1, **more), params, 10, roles)
        steps.append(chain.update(jax.tree.map(jnp.ones_like, params), chain.init(params), params)[0]["model"])
    plain, ours = steps
    share = jax.tree.map(lambda a, b: np.asarray(a / b).reshape(len(a), -1)[:, 0], ours, plain)
    np.testing.assert_allclose(share["encoder"]["blocks"]["fc1"]["kernel"], [0.5**3, 0.5**2, 0.5], rtol=1e-5)
    np.testing.assert_allclose(share["encoder"]["blocks"]["fc1"]["bias"], [0.5**4, 0.5**3, 0.5**2], rtol=1e-5)
    np.testing.assert_allclose(share["embed"]["modality"], 0.5**4, rtol=1e-5)
    np.testing.assert_allclose(share["a_encoder"]["blocks"]["fc1"], [0.25, 0.5], rtol=1e-5)
    np.testing.assert_allclose(share["a_embed"]["positions"], 0.5**3, rtol=1e-5)
    for path in (("encoder", "norm", "scale"), ("decoder", "blocks", "fc1", "kernel")):
        value = share
        for key in path:
            value = value[key]
        np.testing.assert_allclose(value, 1.0, rtol=1e-5)


def test_what_is_frozen_has_no_moments_and_clips_nothing():
    config = optim.Config(lr=0.1, clip=1.0, rules=(optim.Rule("bias", 0.0),))
    chain, state = (c := optim.make_optimizer(config, PARAMS, 10, ROLES)), c.init(PARAMS)
    assert sorted(x.size for x in jax.tree.leaves(state) if x.shape) == [6, 6]  # of the kernel alone
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    grads["model"]["fc1"]["bias"] *= 1e6
    updates, _ = chain.update(grads, state, PARAMS)
    assert not updates["model"]["fc1"]["bias"].any() and (updates["model"]["fc1"]["kernel"] < -0.09).all()
