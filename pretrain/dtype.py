"""`model.dtype="auto"`: the type of products in which this machine trains faster, by a short measurement."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from pretrain import runtime
from pretrain.models import blocks
from pretrain.models.blocks.base import Block
from pretrain.models.stack import DTYPES, make_stack, run_stack
from pretrain.phases import stages
from pretrain.storage import locate, read_config

AUTO = "auto"
WIDTH, SHAPE, REPEATS = 512, (8, 256), 5  # of the block that is measured, and `[B, N]` of its tokens


def settle(config, workdir):
    """The ConfigDict with the type in the place of `auto`: what the workdir began with, else the faster one here."""
    if config.get("model", {}).get("dtype") != AUTO:
        return config
    config = type(config)(config.to_dict())
    first = locate(workdir) / stages(config)[0][0]
    if (first / "config.json").exists():
        del config.model["dtype"]  # what does not say it began with the model's default
        if "dtype" in (then := read_config(first).get("model", {})):
            config.model.dtype = then["dtype"]
        return config
    seconds = measure()
    # One answer for all processes, the first one's.
    chosen = int(multihost_utils.broadcast_one_to_all(np.int32(np.argmin([*seconds.values()]))))
    config.model.dtype = DTYPES[chosen]
    told = ", ".join(f"{value * 1e3:.3g} ms in {dtype}" for dtype, value in seconds.items())
    runtime.say(f"model.dtype=auto: {DTYPES[chosen]}; a block forward and backward takes {told}")
    return config


def measure() -> dict[str, float]:
    """{type: seconds of a block of `WIDTH`, forward and backward, on one device}: medians, taken in turns."""
    x = jax.random.normal(jax.random.key(0), (*SHAPE, WIDTH))
    steps = {dtype: _step(jnp.dtype(dtype), x) for dtype in DTYPES}
    for step in steps.values():
        step()  # compiles
    taken = {dtype: [] for dtype in steps}
    for _ in range(REPEATS):
        for dtype, step in steps.items():
            taken[dtype].append(_timed(step))
    return {dtype: statistics.median(times) for dtype, times in taken.items()}


def _step(dtype, x):
    config = blocks.Config(WIDTH, WIDTH // 64, dtype=dtype)
    graph, params = nnx.split(make_stack(lambda r: Block(config, blocks.ENCODER, rngs=r), 1, nnx.Rngs(0)))
    loss = lambda params, x: jnp.square(run_stack(nnx.merge(graph, params), x, dtype=dtype)[0]).sum()
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: compiled(params, x)


def _timed(step) -> float:
    started = time.perf_counter()
    jax.block_until_ready(step())
    return time.perf_counter() - started
