"""How LoRA's two matrices start, and what they add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.adapt import Rule, Split

PARAMS = {"model": {k: {"kernel": jnp.ones((2, d, 30))} for k, d in (("a", 400), ("b", 100))}, "objective": {}}


def test_lora_starts_as_it_says():
    """A uniform in ± d_in^−½, another one for every kernel and seed, and B at zero: the network is the base."""
    params = {**PARAMS, "model": PARAMS["model"] | {"c": PARAMS["model"]["a"]}}
    split = Split((Rule("kernel", "lora", rank=8, alpha=16.0),), params)
    own, other = split.own(params, 3), split.own(params, 4)
    for name, d_in in (("a", 400), ("b", 100)):
        first, second = own["model"][name]["kernel"].values()
        assert first.shape == (2, d_in, 8) and second.shape == (2, 8, 30) and not second.any()
        bound = d_in**-0.5
        # The greatest, least, mean and deviation of so many draws of a uniform one, with five of their own deviations.
        n = first.size
        np.testing.assert_allclose([first.min(), first.max()], [-bound, bound], rtol=20 / n)
        np.testing.assert_allclose(first.std(), bound / 3**0.5, rtol=5 * (0.2 / n) ** 0.5)
        assert abs(first.mean()) < 5 * bound / (3 * n) ** 0.5
    for one in (own["model"]["c"], other["model"]["a"]):
        assert (one["kernel"]["lora_a"] != own["model"]["a"]["kernel"]["lora_a"]).mean() > 0.9
    jax.tree.map(np.testing.assert_array_equal, own, split.own(params, 3))
    jax.tree.map(np.testing.assert_array_equal, split.compose(own, split.base(params)), params)


@pytest.mark.parametrize("where", ["a", "b"])
def test_lora_adds_alpha_over_rank_of_its_product(where):
    split = Split((Rule(f"{where}/kernel", "lora", rank=8, alpha=12.0),), PARAMS)
    own = split.own(PARAMS, 0)
    own["model"][where]["kernel"]["lora_b"] += jnp.linspace(-1, 1, 2 * 8 * 30).reshape(2, 8, 30)
    whole = split.compose(own, split.base(PARAMS))["model"]
    a, b = (np.asarray(x, np.float64) for x in own["model"][where]["kernel"].values())
    np.testing.assert_allclose(whole[where]["kernel"], 1 + 1.5 * a @ b, atol=1e-5)
    other = {"a": "b", "b": "a"}[where]
    np.testing.assert_array_equal(whole[other]["kernel"], 1.0)


def test_the_last_rows_are_trained_and_the_first_stay():
    split = Split((Rule("a/kernel", "last", k=1), Rule("b/kernel")), PARAMS)
    params = jax.tree.map(lambda x: x * jnp.arange(1, 3)[:, None, None], PARAMS)
    own, base = split.own(params, 0), split.base(params)
    np.testing.assert_array_equal(own["model"]["a"]["kernel"], np.full((1, 400, 30), 2.0))
    assert base == {"model": {"a": {"kernel": base["model"]["a"]["kernel"]}}, "objective": {}}
    np.testing.assert_array_equal(base["model"]["a"]["kernel"], np.full((1, 400, 30), 1.0))
    jax.tree.map(np.testing.assert_array_equal, split.compose(own, base), params)
    assert split.fixed == {"model/a/kernel"}
    assert split.describe(params) == "0.018M parameters of its own beside a base (0.01M full, 0.02M last)"


@pytest.mark.parametrize(
    "rule, params, message",
    [
        (dict(how="some"), None, "how='some': must be one of full, last, lora, frozen"),
        (dict(how="last"), None, "k=0: must be positive with how='last'"),
        (dict(how="full", k=1), None, "k=1: how='full' has none"),
        (dict(how="lora", rank=2), None, "alpha=0.0: must be positive with how='lora'"),
        (dict(how="lora", alpha=2.0), None, "rank=0: must be positive with how='lora'"),
        (dict(how="lora", rank=1, alpha=1.0), (5,), r"model/x of shape \(5,\) is no matrix"),
        (dict(how="last", k=2), (2, 3), "k=2: model/x has 2 rows"),
        (dict(how="last", k=1), (), "k=1: model/x has 0 rows"),
    ],
)
def test_a_rule_that_cannot_be_is_named(rule, params, message):
    with pytest.raises(ValueError, match=f"config.adapt: 'x': .*{message}"):
        Split((Rule("x", **rule),), {"model": {"x": jnp.zeros(params)}, "objective": {}})


def test_two_dimensions_are_a_matrix_and_one_row_of_two_may_learn():
    for rule in (Rule("x", "lora", rank=1, alpha=1.0), Rule("x", "last", k=1)):
        Split((rule,), {"model": {"x": jnp.zeros((2, 3))}, "objective": {}})
    with pytest.raises(ValueError, match="'y' matches no parameter of the network"):
        Split((Rule("y"),), {"model": {"x": jnp.zeros(2)}, "objective": {"y": jnp.zeros(2)}})
