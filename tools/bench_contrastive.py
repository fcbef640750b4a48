"""python -m tools.bench_contrastive [--devices=8]: what losses over all pairs cost, whole and in bounded memory.

For growing batches, forward and backward of the softmax (whole, in blocks of rows) and the sigmoid (whole, chunked or
around the ring): the median time of repeats taken in turns, and the peak temporary memory of a device as XLA reports
it. With --devices the CPU plays so many devices, over which the batch is split: their memory is that of real ones,
their time is not, since they share the cores.
"""

import contextlib
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pretrain.ops.pairs import sigmoid_losses, softmax_losses
from pretrain.sharding import BATCH, make_mesh, parse_mesh

DEVICES = flags.DEFINE_integer("devices", 0, "Fake so many CPU devices; 0: one device, the first that there is.")
BATCHES = flags.DEFINE_multi_integer("batch", [512, 1024, 2048, 4096, 8192], "Global batches.")
DIM = flags.DEFINE_integer("dim", 256, "Width of the embeddings.")
BLOCK = flags.DEFINE_integer("block", 128, "Rows at a time of the bounded forms.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats; medians are printed.")


def softmax(block, a, b, scale, bias):
    a_to_b, b_to_a = softmax_losses(a, b, jnp.ones(len(a), bool), scale, block=block)
    return (a_to_b + b_to_a).mean()


def sigmoid(chunk, a, b, scale, bias):
    return sigmoid_losses(a, b, jnp.ones(len(a), bool), scale, bias, chunk=chunk).mean()


def rivals() -> dict:
    bounded = "ring" if DEVICES.value else "chunks"
    return {
        "softmax whole": functools.partial(softmax, 0),
        "softmax blocks": functools.partial(softmax, BLOCK.value),
        "sigmoid whole": functools.partial(sigmoid, 0),
        f"sigmoid {bounded}": functools.partial(sigmoid, BLOCK.value),
    }


def inputs(size, mesh):
    """(a, b, scale, bias) laid out as in a train step."""
    ab = np.random.default_rng(0).normal(size=(2, size, DIM.value)).astype(np.float32)
    ab /= np.linalg.norm(ab, axis=-1, keepdims=True)
    values = (*ab, jnp.float32(10), jnp.float32(-10))
    if mesh is None:
        return jax.device_put(values)
    return tuple(jax.device_put(v, NamedSharding(mesh, P(BATCH) if v.ndim else P())) for v in values)


def measure(size, mesh) -> dict:
    """{rival: (median seconds, bytes of temporaries a device)}."""
    args = inputs(size, mesh)
    steps = {k: jax.jit(jax.value_and_grad(f, (0, 1, 2, 3))).lower(*args).compile() for k, f in rivals().items()}
    times = {k: [] for k in steps}
    for _ in range(1 + REPEATS.value):  # in turns, so that a noisy moment hits all of them; the first warms up
        for k, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*args))
            times[k].append(time.perf_counter() - start)
    memory = {k: step.memory_analysis().temp_size_in_bytes for k, step in steps.items()}
    return {k: (statistics.median(times[k][1:]), memory[k]) for k in steps}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    if DEVICES.value:  # before anything asks for a device
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
    mesh = make_mesh(parse_mesh("ddp")) if DEVICES.value else None
    kind, count = jax.devices()[0].device_kind, DEVICES.value or 1
    print(f"{count} × {kind}, dim {DIM.value}, {BLOCK.value} rows at a time: forward and backward, ms and MiB a device")
    print("batch  " + "  ".join(f"{name:>20}" for name in rivals()))
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        for size in BATCHES.value:
            cells = [f"{1e3 * t:10.1f} {m / 2**20:9.1f}" for t, m in measure(size, mesh).values()]
            print(f"{size:5}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    app.run(main)
