"""NVIDIA GPUs that are not here, for XLA's own GPU compiler: what it has to be told of each, and where it is installed.

The facts are those that XLA keeps of them (openxla/xla, xla/backends/gpu/target_config/specs: a100_sxm_80, h100_sxm,
h200, b200), the limits of a block and a core those of CUDA's programming guide, table of technical specifications.
"""

import dataclasses
from importlib import metadata

from pretrain.chips import Chip

PER_HOST = 8  # GPUs that NVLink joins
WHEELS = ("jax-cuda13-plugin", "nvidia-cuda-nvcc")
CUDNN = (9, 12)  # the version to compile for
FLAGS = " ".join(
    (
        # Products by cuBLAS, which chooses how at run time: without a device to try them XLA 0.10 takes tiles of Triton
        # that may not compile ("Couldn't find output tile sizes").
        "--xla_gpu_enable_triton_gemm=false",
        # JAX 0.12 ends in an error of LLVM where 64 devices reduce booleans by this kernel.
        "--xla_gpu_unsupported_use_all_reduce_one_shot_kernel=false",
    )
)


@dataclasses.dataclass(frozen=True)
class Target:
    """What XLA has to know of a GPU beside its `Chip`.

    major: of its compute capability; cores: multiprocessors, with fpus FP32 units each, at clock GHz; l2, shared: bytes
    of the cache, and of a multiprocessor's shared memory, of which a kilobyte is the system's.
    """

    name: str
    major: int
    cores: int
    fpus: int
    clock: float
    l2: int
    shared: int


TARGETS = {
    "a100": Target("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, l2=40 << 20, shared=164 << 10),
    "h100": Target("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, l2=50 << 20, shared=228 << 10),
    "h200": Target("NVIDIA H200", 9, 132, 128, 1.98, l2=50 << 20, shared=228 << 10),
    "b200": Target("NVIDIA B200", 10, 148, 128, 1.965, l2=132644864, shared=228 << 10),
}


def describe(chip: Chip) -> str:
    """XLA's `GpuTargetConfigProto` of a GPU, as text."""
    t = TARGETS[chip.name]
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152 shared_memory_per_core: {t.shared}
          shared_memory_per_block_optin: {t.shared - 1024}
          core_count: {t.cores} fpus_per_core: {t.fpus} clock_rate_ghz: {t.clock}
          l2_cache_size: {t.l2} device_memory_size: {chip.hbm:.0f} memory_bandwidth: {chip.bandwidth:.0f}
          cuda_compute_capability {{
            major: {t.major} feature_extension: {"ACCELERATED_FEATURES" if t.major >= 9 else "NONE"}
          }}
        }}
        platform_name: "CUDA" dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} }}
        device_description_str: "{t.name}"
    """


def missing() -> list[str]:
    """What is not installed of XLA's compiler for GPUs; [] if all is, which takes neither a GPU nor a driver."""
    found = {wheel: _version(wheel) for wheel in WHEELS}
    wrong = found[WHEELS[0]] not in ("", jaxlib := _version("jaxlib"))
    return [f"{WHEELS[0]}=={jaxlib}"] * wrong + [wheel for wheel in WHEELS if not found[wheel]]


def _version(wheel: str) -> str:
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return ""


def devices(chip: Chip, count: int):
    """Devices to compile for, whole hosts of them or fewer than one holds, numbered host by host."""
    from jax._src.cudnn import fused_attention_stablehlo as attention
    from jax.experimental import topologies

    # While it traces attention JAX asks the library that is here, if one is, and it need not be.
    attention.check_cudnn_version = lambda: CUDNN[0] * 10000 + CUDNN[1] * 100
    shape = f"1x{max(count // PER_HOST, 1)}x{min(count, PER_HOST)}"
    return topologies.get_topology_desc(platform="cuda", target_config=describe(chip), topology=shape).devices
