"""The devices of a machine that is not here: TPU slices through libtpu, GPUs by fake devices of the CPU."""

import importlib.util
import os
import re
from typing import NamedTuple

from pretrain.chips import CHIPS, Chip
from tools.launch.tpu import GENERATIONS, Slice, parse

PER_HOST = 8  # GPUs that NVLink joins
FAKE = "--xla_force_host_platform_device_count"


class Topology(NamedTuple):
    """A machine's devices and what each can do; tpu: what the TPU slice is, None of GPUs."""

    name: str
    chip: Chip
    count: int
    slices: int
    tpu: Slice | None

    def devices(self):
        """Devices to compile for. RuntimeError if libtpu is not installed."""
        import jax

        if self.tpu is None:
            return jax.devices()[: self.count]
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
    """`v5p-512`, `v6e-256`, `h100-64`. ValueError that names what is known."""
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
            f"topology={name!r}: write KIND-SIZE with KIND one of {', '.join(c.name for c in CHIPS)}; a TPU's size is "
            "that of its name, v5p-512, a GPU's the number of them, h100-64"
        )
    if slices > 1:
        raise ValueError(f"slices={slices}: are of TPUs; for GPUs give the number of all, and slice=N in the mesh")
    return Topology(name, chip, int(size), 1, None)


def prepare(topology: Topology):
    """Sets what has to be set before JAX starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.tpu is None:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAKE}={topology.count}"
        return
    silent = dict(
        TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        # Warnings of the partitioner to standard error, where `compiled` looks for them, and no log files.
        TPU_STDERR_LOG_LEVEL="1", TPU_MIN_LOG_LEVEL="0", TPU_LOG_DIR="disabled",
    )  # fmt: skip
    for key, value in silent.items():
        os.environ.setdefault(key, value)
