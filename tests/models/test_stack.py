"""Stacked blocks: however they are rematerialised and unrolled, and on any mesh, they compute the same gradients."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from flax import nnx

from pretrain import sharding
from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import Seen
from pretrain.models.stack import LAYERS, REMAT, PerLayer, check_numerics, drop_path, make_stack, open_cache, run_stack
from pretrain.parameters import Roles, values, variables

DEPTH = 5
CONFIG = blocks.Config(16, 2, mlp_ratio=2.0, gated=True, dtype=jnp.dtype("float32"))
BLOCKS = make_stack(lambda r: Block(CONFIG, blocks.ENCODER, rngs=r), DEPTH, nnx.Rngs(0))
GRAPH, PARAMS, ROLES = nnx.split(BLOCKS)[0], values(variables(BLOCKS)), Roles(variables(BLOCKS))
X = jax.random.normal(jax.random.key(1), (8, 6, 16))
MASK = (jnp.arange(6) < jnp.arange(1, 9)[:, None].clip(max=6))[:, None, None]


def gradient(**how):
    def loss(params, x, mask):
        y, outputs = run_stack(nnx.merge(GRAPH, params), x, Given(Seen(mask)), layers=True, **how)
        return jnp.square(y).sum() + jnp.sin(outputs[LAYERS]).sum()

    return jax.grad(loss, argnums=(0, 1))


PLAIN = jax.jit(gradient())(PARAMS, X, MASK)


@pytest.mark.parametrize("unroll", [False, 2, DEPTH, 100, True])
def test_unroll(unroll):
    laws.close_trees(PLAIN, jax.jit(gradient(unroll=unroll))(PARAMS, X, MASK), 1e-5)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("remat", ["none", "dots", "block"])
def test_in_bfloat16_all_that_flows_inside_is_and_what_comes_out_is_not(remat, gated):
    """Near the fp32 gradient; of every token no vector is kept in fp32 for the backward pass, in any block."""
    config = dataclasses.replace(CONFIG, dtype=jnp.dtype("bfloat16"), gated=gated)
    low = make_stack(lambda r: Block(config, blocks.ENCODER, rngs=r), DEPTH, nnx.Rngs(0))

    def loss(x):
        y, outputs = run_stack(low, x, Given(Seen(MASK)), layers=True, dtype=jnp.dtype("bfloat16"), remat=remat)
        assert y.dtype == outputs[LAYERS].dtype == jnp.float32
        return jnp.square(y).sum() + jnp.sin(outputs[LAYERS]).sum()

    got = jax.jit(jax.grad(loss))(X)
    assert got.dtype == jnp.float32
    if gated:  # as `PLAIN` is
        assert jnp.linalg.norm(got - PLAIN[1]) < 0.05 * jnp.linalg.norm(PLAIN[1])
    run = lambda x: run_stack(low, x, Given(Seen(MASK)), dtype=jnp.dtype("bfloat16"), remat=remat)[0]
    stacked = [
        x for x in jax.tree.leaves(jax.vjp(run, X)[1]) if x.shape[:2] == (DEPTH, len(X))
    ]  # of tokens, no kernels
    numbers = lambda x: x.size // (DEPTH * X.shape[0] * X.shape[1])  # a token's; two heads have a number each
    assert stacked and all(numbers(x) <= 2 for x in stacked if x.dtype == jnp.float32), stacked


def test_unroll_writes_out_so_many_blocks():
    """Products of the compiled forward pass: seven a block (q·k·v, two of attention, its output, three of the MLP)."""

    def products(unroll):
        run = lambda p: run_stack(nnx.merge(GRAPH, p), X, Given(Seen(MASK)), unroll=unroll)[0]
        return len(re.findall(r" dot\(", jax.jit(run).lower(PARAMS).compile().as_text()))

    assert [products(u) for u in (1, 2, True)] == [7, 3 * 7, 5 * 7]  # twice two blocks, and the fifth


@pytest.mark.parametrize("remat", [r for r in REMAT if r != "none"])
def test_remat(remat):
    laws.close_trees(PLAIN, jax.jit(gradient(remat=remat, unroll=2))(PARAMS, X, MASK), 1e-5)


@pytest.mark.parametrize("remat", ["dots", "offload"])
def test_remat_on_a_mesh(remat):
    mesh = sharding.make_mesh(sharding.parse_mesh("data=2,fsdp=2,tensor=2"))
    params = jax.device_put(PARAMS, sharding.state_sharding(PARAMS, ROLES, mesh))
    with jax.set_mesh(mesh):
        x, mask = jax.device_put((X, MASK), sharding.batch_sharding(mesh))
        found = jax.jit(gradient(remat=remat))(params, x, mask)
    laws.close_trees(PLAIN, jax.device_get(found), 1e-5)


def test_what_is_kept_between_the_passes():
    """Residuals of a scan over the blocks: `none` ⊃ `dots` ⊃ `block`; `offload` moves those of `dots` to the host."""

    def text(remat):
        return str(jax.make_jaxpr(gradient(remat=remat))(PARAMS, X, MASK))

    def residuals(remat):
        _, pull = jax.vjp(lambda p: run_stack(nnx.merge(GRAPH, p), X, Given(Seen(MASK)), remat=remat)[0], PARAMS)
        return sum(x.size for x in jax.tree.leaves(pull))

    none, dots, block = (residuals(r) for r in ("none", "dots", "block"))
    assert none > dots > block
    assert "host" in text("offload") and "host" not in text("dots")


def one_by_one(blocks, x, given, each, slot=0):
    """What the scan computes, as a loop over single blocks in which every input of a block is put in by hand."""
    hidden = []
    for i in range(DEPTH):
        block = jax.tree.map(lambda a, i=i: a[i], blocks)
        if each.prompts is not None and (each.prompted is None or each.prompted[i]):
            x = x.at[:, jnp.asarray([slot, slot + 1])].set(each.prompts[i])
        bias = given.seen.bias if each.biased is None or each.biased[i] else None
        here = given._replace(seen=given.seen._replace(bias=bias), keep=None if each.keep is None else each.keep[i])
        x, _ = block(x, here)
        hidden.append(x)
    return x, jnp.stack(hidden)


ON = np.asarray([True, False, False, True, True])
PROMPTS = jax.random.normal(jax.random.key(2), (DEPTH, 2, 16))
BIAS = jnp.where(jnp.eye(6, dtype=bool), 0.0, -3.0)[None, None]  # everyone looks mostly at himself


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize(
    "each",
    [
        PerLayer(prompts=PROMPTS), PerLayer(prompts=PROMPTS, prompted=ON), PerLayer(biased=ON), PerLayer(),
        PerLayer(keep=drop_path(jax.random.split(jax.random.key(3), 8), 0.7, DEPTH), prompts=PROMPTS, biased=ON),
    ],
    ids=["prompts", "prompts of some blocks", "bias of some blocks", "bias of all", "everything"],
)  # fmt: skip
def test_what_each_block_is_given_alone(each, remat):
    """Values, and gradients by parameters, x and prompts, equal those of a loop."""
    given = Given(Seen(MASK, BIAS))

    def loss(run):
        def value(params, x, prompts):
            y, hidden = run(nnx.merge(GRAPH, params), x, given, each._replace(prompts=prompts))
            hidden = hidden[LAYERS] if isinstance(hidden, dict) else hidden
            return jnp.square(y).sum() + jnp.sin(hidden).sum(), (y, hidden)

        grad = jax.value_and_grad(value, argnums=(0, 1, 2) if each.prompts is not None else (0, 1), has_aux=True)
        return jax.jit(grad)(PARAMS, X, each.prompts)

    scanned = loss(lambda *args: run_stack(*args, layers=True, remat=remat))
    laws.close_trees(loss(one_by_one), scanned, 1e-5)


@pytest.mark.parametrize("unroll", [1, True])
@pytest.mark.parametrize("slot", [1, 4, -2])
def test_prompts_stand_in_their_slots(slot, unroll):
    """Before the blocks that have some, instead of what the block before gave there, scanned and written out alike."""
    given, each = Given(Seen(MASK)), PerLayer(prompts=PROMPTS, prompted=ON)

    def grad(run, **how):
        value = lambda params, x, prompts: jnp.square(
            run(nnx.merge(GRAPH, params), x, given, each._replace(prompts=prompts), slot=slot, **how)[0]
        ).sum()
        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(PARAMS, X, PROMPTS)

    (loss, grads), wanted = grad(run_stack, unroll=unroll), grad(one_by_one)
    laws.close_trees((loss, grads), wanted, 1e-5)
    assert all((jnp.abs(grads[2][i]).max() > 0) == ON[i] for i in range(DEPTH))
    at = jnp.asarray([slot, slot + 1])
    assert jnp.abs(grads[1][:, at]).max() == 0, "the first block has prompts: what stood there is not read"
    assert jnp.abs(grads[1].at[:, at].set(0)).max() > 0


def test_prompts_without_room_are_named():
    for slot in (5, -1, -7):
        with pytest.raises(ValueError, match=f"slot={slot}: 2 prompts have no room there among 6 tokens"):
            run_stack(BLOCKS, X, each=PerLayer(prompts=PROMPTS), slot=slot)


@pytest.mark.parametrize("branches", [blocks.ENCODER, blocks.DECODER], ids=["encoder", "decoder"])
def test_a_cached_sequence_is_a_causal_one(branches):
    """Token by token with what was written before remembered, every kind of block gives the rows of the whole."""
    made = make_stack(lambda r: Block(CONFIG, branches, rngs=r), 2, nnx.Rngs(4))
    context, causal = jax.random.normal(jax.random.key(5), (8, 3, 16)), jnp.tril(jnp.ones((6, 6), bool))[None, None]
    given = Given(context=context, context_seen=Seen(jnp.ones((8, 1, 1, 3), bool)))
    wanted, _ = run_stack(made, X, given._replace(seen=Seen(causal)))
    cache = open_cache(made, given, 6)
    for i in range(6):
        y, outputs = run_stack(made, X[:, i : i + 1], given._replace(at=jnp.int32(i)), PerLayer(cache=cache))
        cache = outputs["cache"]
        assert jnp.abs(y[:, 0] - wanted[:, i]).max() < 1e-5


def test_settings_that_no_stack_has_are_named():
    with pytest.raises(ValueError, match=r"model\.remat='disk': must be one of none, dots, block, offload"):
        check_numerics("disk", "float32")
    for unroll in (0, -2):
        with pytest.raises(ValueError, match=f"model.unroll={unroll}: must be a positive number of blocks"):
            check_numerics("none", "float32", unroll)
    for unroll in (True, False, 1, 7):
        check_numerics("none", "float32", unroll)
