"""Stacked blocks: however they are rematerialised and unrolled, and on any mesh, they compute the same gradients."""

import re

import jax
import jax.numpy as jnp
import laws
import pytest
from flax import nnx

from pretrain import sharding
from pretrain.models.layers import EncoderBlock
from pretrain.models.stack import REMAT, check_numerics, make_stack, run_stack
from pretrain.parameters import Roles, values, variables

DEPTH = 5
args = dict(mlp_ratio=2.0, gated=True, bias=True, dtype=jnp.float32)
BLOCKS = make_stack(lambda r: EncoderBlock(16, 2, rngs=r, **args), DEPTH, nnx.Rngs(0))
GRAPH, PARAMS, ROLES = nnx.split(BLOCKS)[0], values(variables(BLOCKS)), Roles(variables(BLOCKS))
X = jax.random.normal(jax.random.key(1), (8, 6, 16))
MASK = (jnp.arange(6) < jnp.arange(1, 9)[:, None].clip(max=6))[:, None, None]


def gradient(**how):
    def loss(params, x, mask):
        y, hidden = run_stack(nnx.merge(GRAPH, params), x, mask, layers=True, **how)
        return jnp.square(y).sum() + jnp.sin(hidden).sum()

    return jax.grad(loss, argnums=(0, 1))


PLAIN = jax.jit(gradient())(PARAMS, X, MASK)


@pytest.mark.parametrize("unroll", [False, 2, DEPTH, 100, True])
def test_unroll(unroll):
    laws.close_trees(PLAIN, jax.jit(gradient(unroll=unroll))(PARAMS, X, MASK), 1e-5)


def test_unroll_writes_out_so_many_blocks():
    """Products of the compiled forward pass: seven a block (q·k·v, two of attention, its output, three of the MLP)."""

    def products(unroll):
        run = lambda p: run_stack(nnx.merge(GRAPH, p), X, MASK, unroll=unroll)[0]
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
        _, pull = jax.vjp(lambda p: run_stack(nnx.merge(GRAPH, p), X, MASK, remat=remat)[0], PARAMS)
        return sum(x.size for x in jax.tree.leaves(pull))

    none, dots, block = (residuals(r) for r in ("none", "dots", "block"))
    assert none > dots > block
    assert "host" in text("offload") and "host" not in text("dots")


def test_settings_that_no_stack_has_are_named():
    with pytest.raises(ValueError, match=r"model\.remat='disk': must be one of none, dots, block, offload"):
        check_numerics("disk", "float32")
    for unroll in (0, -2):
        with pytest.raises(ValueError, match=f"model.unroll={unroll}: must be a positive number of blocks"):
            check_numerics("none", "float32", unroll)
    for unroll in (True, False, 1, 7):
        check_numerics("none", "float32", unroll)
