"""Blocks stacked along a leading layer axis and run by `lax.scan`, rematerialised by policy."""

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.ops.keys import named
from pretrain.parameters import mark
from pretrain.sharding import constrain

# What the backward pass finds of a block's inside; the rest is computed again.
REMAT = {
    "none": None,  # everything
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with weights
    "block": jax.checkpoint_policies.nothing_saveable,  # nothing: only what enters a block is kept
    # The products again, in the host's memory until they are needed: less on the device, as much as it can be copied.
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


def check_numerics(remat: str, dtype: str, unroll: int | bool = 1):
    """ValueError for settings of a network that no stack has; dtype: of the matmul operands."""
    if remat not in REMAT:
        raise ValueError(f"model.remat={remat!r}: must be one of {', '.join(REMAT)}")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype={dtype!r}: must be float32 or bfloat16")
    if unroll is not False and unroll < 1:
        raise ValueError(f"model.unroll={unroll!r}: must be a positive number of blocks, or true for all")


def make_stack(make_block, depth: int, rngs: nnx.Rngs):
    """One module whose parameters carry a leading axis `[depth, …]`; `make_block(rngs)` builds one block.

    None of depth 0: such a stack hands on what it gets.
    """
    if not depth:
        return None
    keys = jax.random.split(rngs.params(), depth)
    return mark(jax.vmap(lambda key: make_block(nnx.Rngs(key)))(keys), stacked=True, depth=depth)


def drop_path(keys, rate: float, depth: int):
    """Multipliers of residual branches `[depth, B, 2]`: 0 with a probability p, else 1 / (1 − p).

    p rises linearly over the blocks from 0 to `rate` (stochastic depth, arXiv 1603.09382, section 3; from 0 as in timm
    and 4M), and each of a block's two branches is dropped alone. keys `[B]`, one an example.
    """
    p = jnp.linspace(0.0, rate, depth)[:, None]
    draw = jax.vmap(lambda key: jax.random.uniform(named(key, "drop_path"), (depth, 2)), out_axes=1)(keys)
    return jnp.where(draw < p[..., None], 0.0, 1 / (1 - p[..., None]))


def run_stack(blocks, x, *args, remat: str = "none", layers: bool = False, unroll: int | bool = 1, keep=None):
    """Runs stacked blocks on x `[B, N, D]`; every block gets the same further arguments.

    keep `[depth, B, 2]`: from `drop_path`; None drops nothing.

    Returns (x, hidden): hidden is `[depth, B, N, D]`, the output of every block, if `layers`, else None.
    unroll: how many blocks one round of the scan writes out, True for all (False for one). More of them compile longer,
    and let XLA work across blocks.
    """

    def body(x, layer):
        block, keep = layer
        x = constrain(block(x, *args) if keep is None else block(x, *args, keep=keep))
        return x, x if layers else None

    if blocks is None:
        return x, x[None][:0] if layers else None

    if REMAT[remat] is not None:
        body = jax.checkpoint(body, policy=REMAT[remat])
    return jax.lax.scan(body, constrain(x), (blocks, keep), unroll=unroll)
