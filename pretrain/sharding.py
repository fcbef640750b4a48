"""The mesh, how parameters lie on it by their roles, and a report of what is sharded how.

Axes: `slice` groups devices that a data-centre network joins; it and `data` replicate parameters, `fsdp` shards them
(ZeRO, arXiv 1910.02054, stage 3), and all three split the batch. `tensor` splits matrices (Megatron-LM, arXiv
1909.08053): the first projection of a pair by columns, the second by rows, vocabulary tables by rows.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pretrain.parameters import Role, Roles, path_str

AXES = ("slice", "data", "fsdp", "tensor")
BATCH = ("slice", "data", "fsdp")
TENSOR = "tensor"
MIN_FSDP_SIZE = 2**12  # smaller parameters stay whole: gathering them costs more than holding them

PRESETS = {
    "ddp": "data=-1",  # every device holds everything: while sixteen bytes a parameter are a small part of its memory
    "fsdp": "fsdp=-1",  # every device of a slice holds its share: the first choice for anything larger
    "hsdp": "data=-1,fsdp=host",  # shares within a host, copies between hosts: where hosts are joined by a slow network
    "tp": "fsdp=-1,tensor=host",  # matrices split within a host: where even one example a device is too much
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. One of them may be -1 and takes what is left of the devices; `host` is a host's devices.

    slice: 0 for the slices that the devices themselves name, else so many groups of whole hosts.
    strict: a large parameter that a rule cannot split is an error, not a line in the report.
    """

    slice: int = 0
    data: int | str = 1
    fsdp: int | str = 1
    tensor: int | str = 1
    strict: bool = False


def parse_mesh(text: str) -> MeshConfig:
    """`fsdp`, `fsdp=64,tensor=4`, `hsdp,strict`: presets and sizes, the later ones win.

    `data` takes what is left where no size says -1.
    """
    sizes, strict = {}, False
    words = [w.strip() for w in text.split(",") if w.strip()]
    for word in words:
        for part in PRESETS.get(word, word).split(","):
            axis, _, size = part.partition("=")
            if part == "strict":
                strict = True
            elif axis in AXES and re.fullmatch(r"-1|[1-9]\d*|host", size) and (axis != "slice" or size.isdigit()):
                sizes[axis] = size if size == "host" else int(size)
            else:
                raise ValueError(
                    f"mesh={text!r}: {part!r} is none of {', '.join(PRESETS)}, strict, or AXIS=SIZE with AXIS one of "
                    f"{', '.join(AXES)} and SIZE a number, -1 (what is left) or host (a host's devices)"
                )
    if -1 not in sizes.values():
        sizes.setdefault("data", -1)
    return MeshConfig(**sizes, strict=strict)


def make_mesh(config: MeshConfig, devices=None) -> jax.sharding.Mesh:
    """A mesh over all devices, laid along their network; ValueError if the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    count, hosts = len(devices), len({d.process_index for d in devices})
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    sizes = [
        config.slice or slices,
        *(count // hosts if s == "host" else s for s in (config.data, config.fsdp, config.tensor)),
    ]
    given = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes))
    if slices > 1 and sizes[0] != slices:
        raise ValueError(f"mesh: {given}: the devices form {slices} slices; leave `slice` out")
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f"mesh: {given}: sizes must be positive, and at most one of them -1 (takes what is left)")
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if math.prod(sizes) != count:
        raise ValueError(
            f"mesh: {given} does not fit {count} device(s): the sizes must multiply to {count}; "
            "set one of them to -1 to take what is left"
        )
    return jax.sharding.Mesh(_arrange(devices, sizes, slices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(devices, sizes, slices):
    """Devices `[slice, data, fsdp, tensor]`: the last axes, which talk most, between nearest neighbours."""
    if devices[0].platform != "tpu":
        return np.asarray(sorted(devices, key=lambda d: (d.process_index, d.id))).reshape(sizes)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def current_mesh():
    """The mesh entered by `jax.set_mesh`, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def device_kind() -> str:
    """Of the mesh's devices, else of those that are here."""
    mesh = current_mesh()
    return ((mesh and mesh.abstract_device) or jax.devices()[0]).device_kind


def constrain(x):
    """Pins an activation `[B, …]` to the batch axes. A no-op outside a mesh.

    Placed at block boundaries: without it XLA may fall back to full rematerialisation inside the layer scan.
    """
    if current_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def over_batch(fn):
    """fn, of arrays `[B, …]` to such arrays, one example at a time: on a mesh each device runs it on its own examples.

    Left to itself XLA runs a `while` over all examples in step, with a word from every device in every round.
    """
    mesh = current_mesh()
    if mesh is None:
        return fn
    return jax.shard_map(fn, mesh=mesh, in_specs=P(BATCH), out_specs=P(BATCH), check_vma=False)


def gather_rows(table, split: int = 0):
    """A table `[V, D]` whole along D, for looking rows up: `fsdp` is gathered, a vocabulary split over `tensor` stays.

    Rows cut along D would make XLA replicate the whole looked-up activation to lay it out by batch. split: as the
    parameter's role says.
    """
    mesh = current_mesh()
    if mesh is None:
        return table
    fits = len(table) % mesh.shape[TENSOR] == 0
    return jax.lax.with_sharding_constraint(scattered(table, split), P(TENSOR if fits else None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scattered(w, split: int):
    """A parameter, whose gradient is split as it lies from where it is computed: what several places add to it would
    else be summed, and its norm computed, whole on every device."""
    return w


scattered.defvjp(lambda w, split: (w, None), lambda split, _, dw: (scatter_matrix(dw, split),))


def gather_matrix(w, split: int):
    """A kernel `[d_in, d_out]` whole over `fsdp`, for a product; the dimension `split` stays split over `tensor`.

    Left to itself XLA may turn a product with a part of a kernel into a ring of small ones, which costs a TPU more than
    it hides.
    """
    mesh = current_mesh()
    if mesh is None:
        return w
    spec = [None] * w.ndim
    if split and w.shape[split] % mesh.shape[TENSOR] == 0:
        spec[split] = TENSOR
    return jax.lax.with_sharding_constraint(w, P(*spec))


def scatter_matrix(dw, split: int):
    """The gradient of such a kernel, split as the kernel lies."""
    mesh = current_mesh()
    if mesh is None:
        return dw
    return jax.lax.with_sharding_constraint(dw, param_layout(Role(split=split), dw.shape, mesh).spec)


# TPUs lay out the last two dimensions in tiles: a last one cut elsewhere is copied whenever its pieces are gathered.
SUBLANES, LANES = 8, 128


class Layout(NamedTuple):
    """How one array lies on the mesh, and what could not be split as its rule says ("" if all could)."""

    spec: P
    problem: str


def param_layout(role: Role | None, shape: tuple[int, ...], mesh) -> Layout:
    """The layout of one parameter, or of what optimizer or average keep of it; whole without a role."""
    spec, problems = [None] * len(shape), []
    tensor, fsdp = mesh.shape[TENSOR], mesh.shape["fsdp"]
    large = role is not None and math.prod(shape) >= MIN_FSDP_SIZE
    dim = role.split if role and len(shape) >= -role.split else 0
    if tensor > 1 and dim:
        if shape[dim] % tensor == 0:
            spec[dim] = TENSOR
        elif large:
            problems.append(
                f"dimension {dim} is not divisible by tensor={tensor}; {_fits([shape[dim]], TENSOR, tensor)}"
            )
    if fsdp > 1 and large:
        free = [d for d in range(len(shape)) if spec[d] is None]
        fitting = [d for d in free if shape[d] % fsdp == 0]
        if fitting:
            largest, last = max(fitting, key=lambda d: shape[d]), len(shape) - 1
            rows = last - 1 in fitting and shape[last - 1] // fsdp >= SUBLANES
            uneven = largest == last and shape[last] // fsdp % LANES != 0
            spec[last - 1 if uneven and rows else largest] = "fsdp"
        else:
            problems.append(
                f"no dimension is divisible by fsdp={fsdp}; {_fits([shape[d] for d in free], 'fsdp', fsdp)}"
            )
    return Layout(P(*spec), "; ".join(problems))


def _fits(lengths, axis, ways) -> str:
    best = max((math.gcd(n, ways) for n in lengths), default=1)
    return f"{axis}={best} would fit" if best > 1 else f"no {axis} > 1 that divides {ways} fits"


def state_sharding(state, roles: Roles, mesh):
    """A tree of NamedSharding for a tree of arrays or shapes: parameters, optimizer state and EMA alike."""

    def layout(path, leaf):
        return NamedSharding(mesh, param_layout(roles.of(path_str(path), leaf.shape), leaf.shape, mesh).spec)

    return jax.tree_util.tree_map_with_path(layout, state)


def batch_sharding(mesh):
    """Batch arrays `[B, …]` are split over `slice`, `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH))


def local_rows(mesh, batch_size: int) -> np.ndarray:
    """Which rows of a global batch this process's devices hold, ascending; processes may share rows."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def batch_shapes(example, batch_size: int, mesh):
    """What `place_batch` will give, from one example of the pipeline."""

    def shape(x):
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((batch_size, *x.shape), dtype, sharding=batch_sharding(mesh))

    return jax.tree.map(shape, example)


def place_batch(batch, rows, batch_size: int, mesh):
    """Host arrays of the global batch's `rows` → global arrays `[batch_size, …]` split over the devices."""
    sharding = batch_sharding(mesh)

    def place(x):
        def shard(index):
            start, stop, _ = index[0].indices(batch_size)
            at = np.searchsorted(rows, start)
            return x[at : at + stop - start]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, shard)

    return jax.tree.map(place, batch)


def place(tree, shardings):
    """Host arrays, the same on every process, → global arrays; what is on devices already stays as it is."""

    def put(x, sharding):
        return x if isinstance(x, jax.Array) else jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

    return jax.tree.map(put, tree, shardings)


def report(state, roles: Roles, mesh, *, strict: bool = False) -> str:
    """What of a tree of arrays or shapes is split how, how many bytes a device holds, and what stays whole by default.

    ValueError instead of a warning if `strict`.
    """
    kinds, problems, total, held = {}, {}, 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        path = path_str(path)
        layout = param_layout(roles.of(path, leaf.shape), leaf.shape, mesh)
        size = leaf.size * leaf.dtype.itemsize
        share = math.prod(NamedSharding(mesh, layout.spec).shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total, held = total + size, held + share
        axes = " and ".join(sorted({a for a in layout.spec if a}))
        count, bytes_ = kinds.get(axes, (0, 0))
        kinds[axes] = count + 1, bytes_ + share
        if layout.problem:
            name = roles.owner(path) or path
            size, _ = problems.get(name, (0, ""))  # with the state that the optimizer and the average keep of it
            problems[name] = size + share, f"{list(leaf.shape)}: {layout.problem}"
    mesh_text = " ".join(f"{a}={n}" for a, n in mesh.shape.items())
    parts = ", ".join(
        f"{gib(b)} of {n} arrays {f'split over {axes}' if axes else 'whole on every device'}"
        for axes, (n, b) in sorted(kinds.items(), reverse=True)
    )
    count = sum(x.size for x in jax.tree.leaves(getattr(state, "params", state)))
    line = f"mesh {mesh_text} · {count / 1e6:.2f}M parameters · {gib(total)} of state, {gib(held)} a device: {parts}"
    if not problems:
        return line
    worst = sorted(problems.items(), key=lambda item: -item[1][0])
    lines = [f"{name} {text} ({gib(size)} a device)" for name, (size, text) in worst[:5]]
    lines += ["…"] if len(worst) > 5 else []
    told = f"{gib(sum(size for size, _ in problems.values()))} a device are not split as this mesh asks:"
    told = "\n  ".join([told, *lines])
    if strict:
        raise ValueError(f"mesh: {mesh_text}, strict: {told}")
    return f"{line}\nWARNING: {told}"


def gib(n: float) -> str:
    """Bytes for people."""
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"
