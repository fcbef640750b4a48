"""Blocks stacked along a leading layer axis and run by `lax.scan`, rematerialised by policy: one stack for all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.blocks.base import Given
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
LAYERS = "layers"  # the auxiliary output that holds what every block gave


class PerLayer(NamedTuple):
    """What a stack gives to each of its blocks alone, every leaf with a leading axis `[depth, …]`.

    keep `[depth, B, branches]`: multipliers of the residual branches, from `drop_path`.
    prompts `[depth, n, D]` or `[depth, B, n, D]`: what stands in the first n slots before a block, where `prompted`
      `[depth]` says so (all blocks without it): deep prompts (arXiv 2203.12119, section 3.1).
    biased `[depth]`: which blocks' self-attention the bias of `Given.seen` is for; all without it.
    cache: {branch: memory}, from `open_cache`.
    """

    keep: jax.Array | None = None
    prompts: jax.Array | None = None
    prompted: jax.Array | None = None
    biased: jax.Array | None = None
    cache: dict | None = None


NOTHING, ALIKE = Given(), PerLayer()


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


def drop_path(keys, rate: float, depth: int, branches: int = 2):
    """Multipliers of residual branches `[depth, B, branches]`: 0 with a probability p, else 1 / (1 − p).

    p rises linearly over the blocks from 0 to `rate` (stochastic depth, arXiv 1603.09382, section 3; from 0 as in timm
    and 4M), and each of a block's branches is dropped alone. keys `[B]`, one an example.
    """
    p = jnp.linspace(0.0, rate, depth)[:, None]
    keys, shape = named(keys, "drop_path"), (depth, branches)
    draw = jax.vmap(lambda key: jax.random.uniform(key, shape), out_axes=1)(keys)
    return jnp.where(draw < p[..., None], 0.0, 1 / (1 - p[..., None]))


def run_stack(
    blocks, x, given: Given = NOTHING, each: PerLayer = ALIKE, *, remat: str = "none", layers: bool = False,
    unroll: int | bool = 1,
):  # fmt: skip
    """Runs stacked blocks on x `[B, N, D]`; block(x, given) → (x, {name: auxiliary output}).

    Returns (x, outputs): the auxiliary outputs of all blocks, `[depth, …]` each, among them if `layers` what every
    block gave, `layers [depth, B, N, D]`, and of a cached sequence the new `cache`.
    unroll: how many blocks one round of the scan writes out, True for all (False for one). More of them compile longer,
    and let XLA work across blocks.
    """

    def body(x, layer):
        block, each = layer
        x, outputs = block(_insert(x, each), _given(given, each))
        x = constrain(x)
        return x, outputs | ({LAYERS: x} if layers else {})

    if blocks is None:
        return x, {LAYERS: x[None][:0]} if layers else {}
    if REMAT[remat] is not None:
        body = jax.checkpoint(body, policy=REMAT[remat])
    return jax.lax.scan(body, constrain(x), (blocks, each), unroll=unroll)


def open_cache(blocks, given: Given, length: int):
    """`PerLayer.cache` of a sequence of up to `length` tokens, which every call of `run_stack` extends by one."""
    return None if blocks is None else jax.vmap(lambda block: block.open(given, length))(blocks)


def _insert(x, each: PerLayer):
    """x with a block's prompts in its first slots."""
    if each.prompts is None:
        return x
    prompts = jnp.broadcast_to(each.prompts, (len(x), *each.prompts.shape[-2:])).astype(x.dtype)
    with_prompts = jnp.concatenate([prompts, x[:, prompts.shape[1] :]], axis=1)
    return with_prompts if each.prompted is None else jnp.where(each.prompted, with_prompts, x)


def _given(given: Given, each: PerLayer) -> Given:
    """What all blocks are given, with what this one is."""
    given = given._replace(keep=each.keep, cache=each.cache)
    if each.biased is None:
        return given
    return given._replace(seen=given.seen._replace(bias=jnp.where(each.biased, given.seen.bias, 0.0)))
