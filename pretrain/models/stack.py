"""Blocks stacked along a leading layer axis and run by `lax.scan`, rematerialised by policy: one stack for all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.blocks.base import Given
from pretrain.ops.keys import named
from pretrain.ops.matmul import PRODUCT
from pretrain.parameters import mark
from pretrain.sharding import constrain

_policies = jax.checkpoint_policies
# What the backward pass finds of a block's inside; the rest is computed again.
REMAT = {
    "none": None,  # everything
    "dots": _policies.save_only_these_names(PRODUCT),  # products with weights
    "block": _policies.nothing_saveable,  # nothing: only what enters a block is kept
    # The products again, in the host's memory until they are needed: less on the device, as much as it can be copied.
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[PRODUCT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
DTYPES = ("float32", "bfloat16")
LAYERS = "layers"  # the auxiliary output that holds what every block gave


class PerLayer(NamedTuple):
    """What a stack gives to each of its blocks alone, every leaf with a leading axis `[depth, …]`.

    keep `[depth, B, branches]`: multipliers of the residual branches, from `drop_path`; of each token
      `[depth, B, N, branches]`.
    prompts `[depth, n, D]` or `[depth, B, n, D]`: what stands in n slots before a block, whatever the block before gave
      there, where `prompted` `[depth]` says so (all blocks without it): deep prompts (arXiv 2203.12119, section 3.1).
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
    if dtype not in DTYPES:
        auto = "; auto is for a training, which measures what is faster" if dtype == "auto" else ""
        raise ValueError(f"model.dtype={dtype!r}: must be {' or '.join(DTYPES)}{auto}")
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
    blocks, x, given: Given = NOTHING, each: PerLayer = ALIKE, *, dtype=None, remat: str = "none",
    layers: bool = False, unroll: int | bool = 1, slot: int = 0,
):  # fmt: skip
    """Runs stacked blocks on x `[B, N, D]`; block(x, given) → (x, {name: auxiliary output}).

    Of blocks over several streams x is a tuple of theirs, `[B, N_i, D_i]` each, and so is every entry of `layers`.

    Returns (x, outputs): the auxiliary outputs of all blocks, `[depth, …]` each, among them if `layers` what every
    block gave, `layers [depth, B, N, D]`, and of a cached sequence the new `cache`.
    dtype: of the residual stream and all else that flows between layers, None for that of x; what comes out has the
    type of x again.
    unroll: how many blocks one round of the scan writes out, True for all (False for one). More of them compile longer,
    and let XLA work across blocks.
    slot: the first of those of `PerLayer.prompts`, from the end if it is negative. ValueError where they have no room.
    """

    def body(x, layer):
        block, each = layer
        x, outputs = block(_insert(x, each, slot), _given(given, each))
        x = jax.tree.map(constrain, x)
        return x, outputs | ({LAYERS: x} if layers else {})

    if blocks is None:
        return x, {LAYERS: jax.tree.map(lambda x: x[None][:0], x)} if layers else {}
    if REMAT[remat] is not None:
        body = jax.checkpoint(body, policy=REMAT[remat])
    outside = jax.tree.map(lambda x: x.dtype, x)
    x, given = jax.tree.map(lambda x: constrain(_as(dtype, x)), x), given._replace(context=_as(dtype, given.context))
    x, outputs = jax.lax.scan(body, x, (blocks, each), unroll=unroll)
    back = lambda x: jax.tree.map(lambda x, dtype: x.astype(dtype), x, outside)
    return back(x), outputs | ({LAYERS: back(outputs[LAYERS])} if layers else {})


def open_cache(blocks, given: Given, length: int, dtype=None):
    """`PerLayer.cache` of a sequence of up to `length` tokens, which every call of `run_stack` extends by one."""
    given = given._replace(context=_as(dtype, given.context))
    return None if blocks is None else jax.vmap(lambda block: block.open(given, length))(blocks)


def _as(dtype, x):
    return x if dtype is None or x is None else x.astype(dtype)


def _insert(x, each: PerLayer, slot: int):
    """x with a block's prompts in their slots."""
    if each.prompts is None:
        return x
    length, n = x.shape[1], each.prompts.shape[-2]
    first = slot + length if slot < 0 else slot
    if not 0 <= first <= length - n:
        raise ValueError(f"slot={slot}: {n} prompts have no room there among {length} tokens")
    prompts = jnp.broadcast_to(each.prompts, (len(x), *each.prompts.shape[-2:])).astype(x.dtype)
    with_prompts = jnp.concatenate([x[:, :first], prompts, x[:, first + n :]], axis=1)
    return with_prompts if each.prompted is None else jnp.where(each.prompted, with_prompts, x)


def _given(given: Given, each: PerLayer) -> Given:
    """What all blocks are given, with what this one is."""
    given = given._replace(keep=each.keep, cache=each.cache)
    if each.biased is None:
        return given
    return given._replace(seen=given.seen._replace(bias=jnp.where(each.biased, given.seen.bias, 0.0)))
