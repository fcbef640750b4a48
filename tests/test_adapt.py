"""What of a network is trained: which parameters a rule takes, how each way starts, and what it adds up to."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain import optim
from pretrain.adapt import Rule, Split
from pretrain.parameters import Role, Roles, param, undecayed, values


def kernel(*shape, **role):
    x = jax.random.normal(jax.random.key(len(shape)), shape)
    return param(x, matrix=True, stacked=len(shape) == 3, **role)


TREE = {
    "model": {
        "a_encoder": {"kernel": kernel(2, 400, 30), "norm": undecayed(jnp.ones((2, 5)), stacked=True)},
        "a_embed": {"modality": param(jnp.arange(6.0).reshape(3, 2), rows=("x", "y", "z"))},
        "b": {"kernel": kernel(100, 30), "table": param(jnp.arange(8.0).reshape(4, 2), vocab="text")},
    },
    "objective": {"head": {"bias": undecayed(jnp.ones(2))}, "none": {}},
}
PARAMS, ROLES = values(TREE), Roles(TREE)
LORA = dict(rank=8, alpha=12.0)


def split(*rules, **more):
    return Split(tuple(Rule(**r) for r in rules), PARAMS, ROLES, **more)


def ways(made):
    return {path: way.rule.how for path, way in made.ways.items()}


def test_the_first_rule_that_can_takes_a_parameter_and_what_none_takes_stays():
    made = split(
        dict(parts=("a",), how="lora", **LORA), dict(parts=("a_encoder",), how="last", k=1),
        dict(parts=("b",), only="table", pattern="tab"),
    )  # fmt: skip
    assert ways(made) == {
        "model/a_encoder/kernel": "lora", "model/a_encoder/norm": "last", "model/a_embed/modality": "nothing",
        "model/b/kernel": "nothing", "model/b/table": "full", "objective/head/bias": "full",
    }  # fmt: skip
    assert set(ways(split(dict(only="kernel"), dict(how="nothing"))).items()) >= {
        ("model/b/kernel", "full"), ("model/b/table", "nothing"),
    }  # fmt: skip
    assert [p for p, how in ways(split(dict(only="undecayed"))).items() if how == "full"] == [
        "model/a_encoder/norm", "objective/head/bias",
    ]  # fmt: skip


def test_without_rules_all_is_trained():
    made = split()
    own, base = made.trained(PARAMS, 0), made.base(PARAMS)
    assert made.all and own is PARAMS and base == {} and made.compose(own) is PARAMS and made.put(own, PARAMS) is PARAMS
    assert dict(made.roles.items()) == dict(ROLES.items())


def test_a_frozen_part_is_a_rule():
    made = split(frozen={"model/a_encoder/"})
    assert {p for p, way in made.ways.items() if way.stays()} == {"model/a_encoder/kernel", "model/a_encoder/norm"}
    made = split(dict(parts=("a",), how="nothing", store="bfloat16"), dict(), frozen={"model/a_encoder/"})
    assert made.ways["model/a_encoder/kernel"].rule.store == "bfloat16"
    with pytest.raises(ValueError, match=r"rule parts=.*first rule for no parameter .*frozen=True stays as it is"):
        split(dict(parts=("a_encoder",), how="lora", **LORA), dict(), frozen={"model/a_encoder/"})


def test_what_never_learns_is_of_the_base_where_it_is_given():
    tree = {"model": {"a": {"w": param(jnp.ones(2), fixed=True)}, "b": {"w": param(jnp.ones(2))}}, "objective": {}}
    stays = lambda *given: {p for p, w in Split((), values(tree), Roles(tree), given=given).ways.items() if w.stays()}
    assert stays() == stays("model/b/") == set() and stays("model/a/") == {"model/a/w"}


@pytest.mark.parametrize("how", ["last", "lora", "dora", "rows", "nothing"])
def test_every_way_starts_as_the_base(how):
    more = {"last": dict(k=1), "lora": LORA, "dora": LORA, "rows": dict(rows=("y",), parts=("a",)), "nothing": {}}[how]
    made = split(dict(how=how, **more))
    own, base = jax.jit(lambda p: (made.trained(p, 3), made.base(p)))(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(made.compose)(own, base), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, own, jax.jit(lambda p: made.trained(p, 3))(PARAMS))
    assert own["objective"] == {"head": own["objective"]["head"], "none": {}}
    assert not made.all and {p for p, way in made.ways.items() if not way.stays()} == {"objective/head/bias"}


def test_low_rank_updates_start_as_they_say():
    """A uniform in ± d_in^−½, another one for every kernel and seed, and B at zero."""
    made = split(dict(how="lora", **LORA))
    own, other = made.trained(PARAMS, 3), made.trained(PARAMS, 4)
    for part, d_in in (("a_encoder", 400), ("b", 100)):
        first, second = own["model"][part]["kernel"].values()
        shape = PARAMS["model"][part]["kernel"].shape
        assert first.shape == (*shape[:-1], 8) and second.shape == (*shape[:-2], 8, 30) and not second.any()
        bound, n = d_in**-0.5, first.size
        # The greatest, least, mean and deviation of so many draws of a uniform one, with five of their own deviations.
        np.testing.assert_allclose([first.min(), first.max()], [-bound, bound], rtol=20 / n)
        np.testing.assert_allclose(first.std(), bound / 3**0.5, rtol=5 * (0.2 / n) ** 0.5)
        assert abs(first.mean()) < 5 * bound / (3 * n) ** 0.5
        assert (other["model"][part]["kernel"]["lora_a"] != first).mean() > 0.9


@pytest.mark.parametrize("how", ["lora", "dora"])
@pytest.mark.parametrize("part", ["a_encoder", "b"])
def test_low_rank_updates_equal_numpy(how, part):
    made = split(dict(parts=(part,), how=how, **LORA))
    own, base = made.trained(PARAMS, 0), made.base(PARAMS)
    mine = own["model"][part]["kernel"]
    mine["lora_b"] = jax.random.normal(jax.random.key(1), mine["lora_b"].shape)
    if how == "dora":
        mine["magnitude"] += jnp.linspace(-1, 2, 30)
    got = made.compose(own, base)["model"]
    w = np.asarray(PARAMS["model"][part]["kernel"], np.float64)
    v = w + 1.5 * np.asarray(mine["lora_a"], np.float64) @ np.asarray(mine["lora_b"], np.float64)
    if how == "dora":
        norm = lambda x: np.sqrt((x**2).sum(-2, keepdims=True))
        v = (norm(w) + np.linspace(-1, 2, 30)) * v / norm(v)
    np.testing.assert_allclose(got[part]["kernel"], v, rtol=2e-4, atol=2e-5)
    rest = {name: got[name] for name in got if name != part}
    jax.tree.map(np.testing.assert_array_equal, rest, {name: PARAMS["model"][name] for name in rest})


def test_no_gradient_passes_through_the_norm():
    """DoRA, section 4.3: of m · V / c with c a constant."""
    made = split(dict(parts=("b",), how="dora", **LORA))
    own, base = made.trained(PARAMS, 0), made.base(PARAMS)
    mine, weight = own["model"]["b"]["kernel"], jax.random.normal(jax.random.key(2), (100, 30))
    loss = lambda own: (weight * made.compose(own, base)["model"]["b"]["kernel"]).sum()
    grads = jax.grad(loss)(own)["model"]["b"]["kernel"]
    np.testing.assert_allclose(grads["lora_b"], 1.5 * mine["lora_a"].T @ weight, rtol=1e-4, atol=1e-5)
    w = np.asarray(PARAMS["model"]["b"]["kernel"])
    want = (weight * w).sum(0, keepdims=True) / np.linalg.norm(w, axis=0)
    np.testing.assert_allclose(grads["magnitude"], want, rtol=1e-4, atol=1e-5)


def test_only_the_named_rows_change():
    made = split(dict(how="rows", rows=("z", "x")), dict(how="nothing"))
    own = made.trained(PARAMS, 0)
    assert jax.tree.leaves(own["model"]) and own["model"].keys() == {"a_embed"}
    own["model"]["a_embed"]["modality"] += 10
    got = made.compose(own, made.base(PARAMS))["model"]["a_embed"]["modality"]
    np.testing.assert_array_equal(got, [[10, 11], [2, 3], [14, 15]])
    assert made.stays("model/a_embed/modality/y") and not made.stays("model/a_embed/modality/x")
    made = split(dict(parts=("b",), how="rows", rows=(3, 1)))
    own = made.trained(PARAMS, 0)
    own["model"]["b"]["table"] -= 1
    got = made.compose(own, made.base(PARAMS))["model"]["b"]["table"]
    np.testing.assert_array_equal(got, [[0, 1], [1, 2], [4, 5], [5, 6]])


def test_what_stays_must_be_loaded_unless_its_rule_says_otherwise():
    made = split(
        dict(parts=("a_embed",), how="rows", rows=("x",), fresh=True), dict(parts=("b",), how="nothing", fresh=True),
        dict(how="nothing"),
    )  # fmt: skip
    assert not any(map(made.stays, ("model/a_embed/modality", "model/a_embed/modality/y", "model/b/kernel")))
    assert made.stays("model/a_encoder/kernel") and made.ways["model/b/kernel"].stays()


def test_the_last_blocks_are_trained_and_the_first_stay():
    made = split(dict(parts=("a_encoder",), how="last", k=1), dict(parts=("b",)))
    own, base = made.trained(PARAMS, 0), made.base(PARAMS)
    np.testing.assert_array_equal(own["model"]["a_encoder"]["kernel"], PARAMS["model"]["a_encoder"]["kernel"][1:])
    np.testing.assert_array_equal(base["model"]["a_encoder"]["kernel"], PARAMS["model"]["a_encoder"]["kernel"][:1])
    assert "b" not in base["model"] and "a_embed" not in own["model"]
    assert made.describe(PARAMS) == (
        "0.015M parameters that learn beside a base (0.00M full, 0.02M last, 0.00M nothing)"
    )


def test_what_stays_may_be_stored_in_bfloat16():
    made = split(dict(parts=("a",), how="nothing", store="bfloat16"), dict())
    own, base = made.trained(PARAMS, 0), made.base(PARAMS)
    assert {x.dtype.name for x in jax.tree.leaves(base)} == {"bfloat16"}
    step, whole = made.compose(own, base)["model"], made.whole(own, base)["model"]
    assert step["a_encoder"]["kernel"].dtype == jnp.bfloat16 and step["a_embed"]["modality"].dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves(whole)} == {"float32"}
    rounded = PARAMS["model"]["a_encoder"]["kernel"].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(whole["a_encoder"]["kernel"], rounded)
    np.testing.assert_array_equal(whole["b"]["kernel"], PARAMS["model"]["b"]["kernel"])


def test_what_follows_from_statistics_is_put_into_what_is_trained():
    """Whole, rows or last blocks; of a low-rank update nobody could say it."""
    made = split(
        dict(parts=("a",), how="lora", **LORA), dict(parts=("a_encoder",), how="last", k=1), dict(parts=("a_embed",)),
        dict(parts=("b",), how="rows", rows=(3, 1)),
    )  # fmt: skip
    own, moved = made.trained(PARAMS, 0), jax.tree.map(lambda x: x + 1, PARAMS)
    new = made.put(own, moved)
    np.testing.assert_array_equal(new["model"]["a_embed"]["modality"], moved["model"]["a_embed"]["modality"])
    np.testing.assert_array_equal(new["model"]["a_encoder"]["norm"], moved["model"]["a_encoder"]["norm"][1:])
    np.testing.assert_array_equal(new["model"]["b"]["table"], moved["model"]["b"]["table"][jnp.asarray([3, 1])])
    np.testing.assert_array_equal(new["objective"]["head"]["bias"], moved["objective"]["head"]["bias"])
    assert new["model"]["a_encoder"]["kernel"] is own["model"]["a_encoder"]["kernel"]
    assert jax.tree.structure(new) == jax.tree.structure(own)
    jax.tree.map(np.testing.assert_array_equal, made.put(own, made.compose(own, made.base(PARAMS))), own)


@pytest.mark.parametrize("moments", optim.MOMENTS)
def test_what_learns_has_roles_of_its_own(moments):
    """No low-rank update is a matrix for Muon, no magnitude decays, and the optimizer keeps nothing of the base."""
    tree = {"model": {"a": {"kernel": kernel(2, 16, 8, split=-2, depth=2)}}, "objective": {}}
    made = Split((Rule(how="dora", rank=2, alpha=2.0),), values(tree), Roles(tree))
    roles = dict(made.roles.items())
    common = dict(stacked=True, depth=2)
    assert roles == {
        "model/a/kernel/lora_a": Role(split=-2, **common), "model/a/kernel/lora_b": Role(**common),
        "model/a/kernel/magnitude": Role(decay=False, **common),
    }  # fmt: skip
    own = made.trained(values(tree), 0)
    config = optim.Config(lr=0.1, weight_decay=0.5, moments=moments, layer_decay=0.5)
    chain = optim.make_optimizer(config, own, 10, made.roles)
    state = chain.init(own)
    updates, _ = chain.update(jax.tree.map(jnp.zeros_like, own), state, own)
    assert updates["model"]["a"]["kernel"]["lora_a"].any(), "decayed"
    assert not updates["model"]["a"]["kernel"]["magnitude"].any()


@pytest.mark.parametrize(
    "rule, message",
    [
        (dict(how="some"), "how='some': must be one of full, last, lora, dora, rows, nothing"),
        (dict(only="some"), "only='some': must be one of kernel, table, undecayed"),
        (dict(how="nothing", store="int8"), "store='int8': must be one of float32, bfloat16"),
        (dict(store="bfloat16"), "how='full': store='bfloat16': what learns is float32; take how='nothing'"),
        (dict(pattern="(", how="nothing"), r"pattern='\(', how='nothing': no regular expression: "),
        (dict(how="last"), "k=0: must be positive"),
        (dict(k=1), "k=1: such a rule has none"),
        (dict(fresh=True), "how='full': fresh=True: nothing of it stays"),
        (dict(how="lora", rank=2), "alpha=0.0: must be positive"),
        (dict(how="dora", alpha=2.0), "rank=0: must be positive"),
        (dict(how="rows"), r"rows=\(\): name at least one"),
        (dict(how="lora", rows=("x",), **LORA), r"rows=\('x',\): such a rule has none"),
        (dict(parts=("c",)), "the network has no part or tower 'c'; its parts are a_embed, a_encoder, b"),
        (dict(pattern="objective/head"), "it is the first rule for no parameter of the network"),
        (dict(pattern="norm", how="lora", **LORA), "it is the first rule for no parameter of the network"),
        (dict(how="last", k=2), "model/a_encoder/kernel: k=2: it has 2 blocks; take how='full'"),
        (dict(parts=("a",), how="rows", rows=("w",)), "a_embed/modality: rows=.*: it has no row 'w', but x, y, z"),
        (dict(parts=("b",), how="rows", rows=(4,)), "b/table: rows=.*: it has no row 4, but those of the ids 0…3"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_named(rule, message):
    with pytest.raises(ValueError, match=f"config.train: .*{message}") as found:
        split(rule)
    assert "\n" not in str(found.value) and not re.search("object at 0x", str(found.value))
