"""What the accelerators that this may run on can do, by the names that JAX gives them.

Sources: TPUs from docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x), memory as libtpu gives it to a program;
v4's links from memory. GPUs in their SXM forms, dense bfloat16, from third-party tables; their networks from memory: a
400 Gbit/s adapter each (200 for A100).
"""

import dataclasses

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of one device as JAX counts them.

    flops: bfloat16 with fp32 accumulation, a second; hbm: bytes; bandwidth: of them, bytes a second; link: bytes a
    second that a device sends to its neighbours together; dcn: that its share of the data-centre network carries.
    """

    name: str
    kind: str  # how `device_kind` begins
    flops: float
    hbm: float
    bandwidth: float
    link: float
    dcn: float


CHIPS = (
    Chip("v4", "TPU v4", 275e12, 30.75 * GIB, 1200 * GB, 150 * GB, 3.1 * GB),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 819 * GB, 200 * GB, 3.1 * GB),
    Chip("v5p", "TPU v5", 459e12, 95.73 * GIB, 2765 * GB, 600 * GB, 6.25 * GB),
    Chip("v6e", "TPU v6 lite", 918e12, 31.24 * GIB, 1638 * GB, 400 * GB, 12.5 * GB),
    Chip("tpu7x", "TPU7x", 1153.5e12, 94.74 * GIB, 3690 * GB, 300 * GB, 6.25 * GB),  # a chip is two devices
    Chip("a100", "NVIDIA A100", 312e12, 80 * GB, 2039 * GB, 300 * GB, 25 * GB),
    Chip("h100", "NVIDIA H100", 989e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB),
    Chip("h200", "NVIDIA H200", 989e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB),
    Chip("b200", "NVIDIA B200", 2250e12, 180 * GB, 8000 * GB, 900 * GB, 50 * GB),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, None if unknown (a CPU is)."""
    # The longest name wins: "TPU v5" begins "TPU v5 lite".
    found = [c for c in CHIPS if device_kind.startswith(c.kind)]
    return max(found, key=lambda c: len(c.kind), default=None)
