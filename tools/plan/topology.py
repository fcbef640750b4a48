"""The devices to plan for: TPU slices through libtpu, GPUs through XLA's compiler for them or, where that is not
installed, fake devices of the CPU, or those of this machine."""

import importlib.util
import os
import re
from typing import NamedTuple

from pretrain.chips import CHIPS, Chip, chip_of
from tools.launch.tpu import GENERATIONS, Slice, parse
from tools.plan import gpu

FAKE = "--xla_force_host_platform_device_count"


class Topology(NamedTuple):
    """A machine's devices and what each can do; tpu: what the TPU slice is, None of others; here: of this machine.

    lacks: what is not installed of the compiler for these GPUs: then the CPU's takes its place.
    """

    name: str
    chip: Chip
    count: int
    slices: int
    tpu: Slice | None
    here: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def per_host(self) -> int:
        """GPUs that NVLink joins; 0 of TPUs."""
        import jax

        if self.chip.name not in gpu.TARGETS:
            return 0
        return jax.local_device_count() if self.here else gpu.PER_HOST

    def devices(self):
        """Devices to compile for. RuntimeError if libtpu is not installed."""
        import jax

        if self.here or self.lacks:
            return jax.devices()[: self.count]
        if self.tpu is None:
            return gpu.devices(self.chip, self.count)
        from jax.experimental import topologies

        if importlib.util.find_spec("libtpu") is None:
            raise RuntimeError(
                f"topology={self.name!r}: compiling for TPUs needs libtpu, which is not installed: pip install "
                "--constraint constraints.txt -e '.[tpu]'"
            )
        options = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
        if self.slices > 1:
            options["num_slices"] = self.slices
        name = f"{self.chip.name}:{self.tpu.shape}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def find(name: str, slices: int = 1) -> Topology:
    """`v5p-512`, `v6e-256`, `h100-64`, or `local` for what is here. ValueError that names what is known."""
    if name == "local":
        return _local()
    kind, _, size = name.rpartition("-")
    chip = next((c for c in CHIPS if c.name == kind), None)
    if slices < 1:
        raise ValueError(f"slices={slices}: must be at least 1")
    if kind in GENERATIONS:
        tpu = parse(name)
        per_chip = 2 if kind == "tpu7x" else 1
        return Topology(name, chip, slices * tpu.chips * per_chip, slices, tpu)
    if chip is None or not re.fullmatch(r"[1-9]\d*", size):
        raise ValueError(
            f"topology={name!r}: write KIND-SIZE with KIND one of {_names()}; a TPU's size is "
            "that of its name, v5p-512, a GPU's the number of them, h100-64; `local` is what is here"
        )
    if slices > 1:
        raise ValueError(f"slices={slices}: are of TPUs; for GPUs give the number of all, and slice=N in the mesh")
    if int(size) > gpu.PER_HOST and int(size) % gpu.PER_HOST:
        raise ValueError(f"topology={name!r}: more than {gpu.PER_HOST} GPUs are whole hosts: take a multiple of that")
    return Topology(name, chip, int(size), 1, None, lacks=tuple(gpu.missing()))


def _local() -> Topology:
    import jax

    kind = jax.devices()[0].device_kind
    chip = chip_of(kind)
    if chip is None:
        raise ValueError(f"topology='local': of {kind!r} it is not known what it can do; there are {_names()}")
    return Topology("local", chip, len(jax.devices()), 1, None, here=True)


def _names() -> str:
    return ", ".join(c.name for c in CHIPS)


def prepare(topology: Topology):
    """Sets what has to be set before JAX starts."""
    if topology.here:
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.tpu is None:
        flags = f"{FAKE}={topology.count}" if topology.lacks else gpu.FLAGS
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
        return
    silent = dict(
        TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        # Warnings of the partitioner to standard error, where `compiled` looks for them, and no log files.
        TPU_STDERR_LOG_LEVEL="1", TPU_MIN_LOG_LEVEL="0", TPU_LOG_DIR="disabled",
    )  # fmt: skip
    for key, value in silent.items():
        os.environ.setdefault(key, value)
