"""The mesh, the rules that lay parameters out on it, and a report of what is sharded how.

Axes: `data` replicates parameters, `fsdp` shards them, both split the batch; `tensor` splits matrices (Megatron-LM,
arXiv 1909.08053): the first projection of a pair by columns, the second by rows, vocabulary tables by rows.
"""

import dataclasses
import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
TENSOR = "tensor"
MIN_FSDP_SIZE = 2**12  # smaller parameters stay whole: gathering them costs more than holding them

# First match wins. A rule gives the dimension, counted from the last, that `tensor` splits.
TENSOR_RULES = (
    (r"(qkv|q|kv|fc1|fc3)/(kernel|bias)$", -1),
    (r"(proj|fc2)/kernel$", -2),
    (r"(tables|heads)/[^/]+$", -2),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1 and takes what is left of the devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices=None) -> jax.sharding.Mesh:
    """A mesh over all devices; ValueError if the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, a) for a in AXES]
    given = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes))
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f"mesh: {given}: sizes must be positive, and at most one of them -1 (takes what is left)")
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh: {given} does not fit {len(devices)} device(s): the sizes must multiply to {len(devices)}; "
            "set one of them to -1 to take what is left"
        )
    grid = np.asarray(devices).reshape(sizes)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def current_mesh():
    """The mesh entered by `jax.set_mesh`, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def constrain(x):
    """Pins an activation `[B, …]` to the batch axes. A no-op outside a mesh.

    Placed at block boundaries: without it XLA may fall back to full rematerialisation inside the layer scan.
    """
    if current_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def gather_rows(table):
    """A table `[V, D]` whole along D, for looking rows up: `fsdp` is gathered, a vocabulary split over `tensor` stays.

    Rows cut along D would make XLA replicate the whole looked-up activation to lay it out by batch.
    """
    mesh = current_mesh()
    if mesh is None:
        return table
    split = len(table) % mesh.shape["tensor"] == 0
    return jax.lax.with_sharding_constraint(table, P("tensor" if split else None))


def param_spec(path: str, shape: tuple[int, ...], mesh) -> P:
    """The layout of one parameter, or of optimizer or EMA state of the same path and shape."""
    spec = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    for pattern, dim in TENSOR_RULES:
        if tensor > 1 and re.search(pattern, path):
            if shape[dim] % tensor == 0:
                spec[dim] = "tensor"
            break
    if fsdp > 1 and math.prod(shape) >= MIN_FSDP_SIZE:
        free = [d for d in range(len(shape)) if spec[d] is None and shape[d] % fsdp == 0]
        if free:
            spec[max(free, key=lambda d: shape[d])] = "fsdp"
    return P(*spec)


def path_str(path) -> str:
    """`model/encoder/attn/qkv/kernel` of a pytree key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def state_sharding(state, mesh):
    """A tree of NamedSharding for a tree of arrays or shapes: parameters, optimizer state and EMA alike."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, param_spec(path_str(path), leaf.shape, mesh)), state
    )


def batch_sharding(mesh):
    """Batch arrays `[B, …]` are split over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH))


def report(params, mesh) -> str:
    """One line: how many parameters there are, and how many bytes of them each device holds."""
    shardings = jax.tree.leaves(state_sharding(params, mesh))
    leaves = jax.tree.leaves(params)
    held = sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in zip(leaves, shardings))
    count, split = sum(x.size for x in leaves), sum(not s.is_fully_replicated for s in shardings)
    axes = " ".join(f"{a}={n}" for a, n in mesh.shape.items())
    return (
        f"mesh {axes} · {count / 1e6:.2f}M parameters in {len(leaves)} arrays, {split} of them sharded · "
        f"{held / 2**20:.1f} MiB of parameters a device"
    )
