"""What the accelerators that this may run on can do, by the names that JAX gives them.

Sources: TPUs from docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x), memory as libtpu gives it to a program;
v4's links from memory, clocks those with which the matrix units reach the stated peak. GPUs in their SXM forms, dense
bfloat16, from third-party tables, memory and its bandwidth as XLA notes them (openxla/xla,
xla/backends/gpu/target_config/specs); their networks from memory: a 400 Gbit/s adapter each (200 for A100).
"""

import dataclasses

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of one device as JAX counts them.

    flops: bfloat16 with fp32 accumulation, a second; hbm: bytes; bandwidth: of them, bytes a second; link: bytes a
    second that a device sends to its neighbours together; dcn: that its share of the data-centre network carries;
    hertz: the clock of a TPU, by which its compiler counts cycles.
    """

    name: str
    kind: str  # how `device_kind` begins
    flops: float
    hbm: float
    bandwidth: float
    link: float
    dcn: float
    hertz: float = 0.0


CHIPS = (
    Chip("v4", "TPU v4", 275e12, 30.75 * GIB, 1200 * GB, 150 * GB, 3.1 * GB, 1.05e9),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 819 * GB, 200 * GB, 3.1 * GB, 1.5e9),
    Chip("v5p", "TPU v5", 459e12, 95.73 * GIB, 2765 * GB, 600 * GB, 6.25 * GB, 1.75e9),
    Chip("v6e", "TPU v6 lite", 918e12, 31.24 * GIB, 1638 * GB, 400 * GB, 12.5 * GB, 1.75e9),
    Chip("tpu7x", "TPU7x", 1153.5e12, 94.74 * GIB, 3690 * GB, 300 * GB, 6.25 * GB, 2.2e9),  # a chip is two devices
    Chip("a100", "NVIDIA A100", 312e12, 85100068864, 2039.04 * GB, 300 * GB, 25 * GB),
    Chip("h100", "NVIDIA H100", 989e12, 84942979072, 3352.32 * GB, 450 * GB, 50 * GB),
    Chip("h200", "NVIDIA H200", 989e12, 151397597184, 4800 * GB, 450 * GB, 50 * GB),
    Chip("b200", "NVIDIA B200", 2250e12, 191514411008, 7672.32 * GB, 900 * GB, 50 * GB),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, None if unknown (a CPU is)."""
    # The longest name wins: "TPU v5" begins "TPU v5 lite".
    found = [c for c in CHIPS if device_kind.startswith(c.kind)]
    return max(found, key=lambda c: len(c.kind), default=None)
