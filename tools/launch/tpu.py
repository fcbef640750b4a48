"""The TPU slices that the launchers know, from names like `v5p-512` and `v5e-256`.

Sources: cloud.google.com/tpu/docs (v4, v5p, v5e, v6e, runtimes), AI-Hypercomputer/xpk for the shapes that GKE offers.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Generation:
    """What GKE and the Cloud TPU API call one generation, and how its slices are named."""

    gke: str  # node label cloud.google.com/gke-tpu-accelerator
    prefix: str  # of gcloud's --accelerator-type
    runtime: str  # gcloud's --runtime-version; empty where the Cloud TPU API does not offer it
    cores: int  # what a name counts, per chip: v5p-512 is 256 chips of two TensorCores, v5e-256 is 256 chips
    shapes: tuple[str, ...]  # one for every size


CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16")
SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "v4", "tpu-ubuntu2204-base", 2, CUBES),
    "v5e": Generation("tpu-v5-lite-podslice", "v5litepod", "v2-alpha-tpuv5-lite", 1, SQUARES),
    "v5p": Generation(
        "tpu-v5p-slice", "v5p", "v2-alpha-tpuv5", 2,
        (*CUBES, "4x4x12", "4x8x12", "8x12x12", "8x12x16", "12x12x12", "12x16x16", "16x16x16", "16x16x24"),
    ),
    "v6e": Generation("tpu-v6e-slice", "v6e", "v2-alpha-tpuv6e", 1, SQUARES),
    "tpu7x": Generation("tpu7x", "tpu7x", "", 2, ("1x1x1", *CUBES, "12x12x12", "12x16x16", "16x16x16", "16x16x24")),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """One TPU slice: its generation, its shape in chips, and its size as the name gives it."""

    generation: Generation
    shape: str
    size: int

    @property
    def chips(self) -> int:
        return math.prod(int(n) for n in self.shape.split("x"))

    @property
    def chips_per_host(self) -> int:
        """Machines of four chips make up every larger slice."""
        return min(self.chips, 4)

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        return f"{self.generation.prefix}-{self.size}"


def parse(name: str) -> Slice:
    """`v5p-512` → its slice. ValueError that names the known ones."""
    generation, _, size = name.rpartition("-")
    if generation not in GENERATIONS:
        raise ValueError(
            f"tpu={name!r}: unknown generation; write GENERATION-SIZE with one of {', '.join(GENERATIONS)}"
        )
    g = GENERATIONS[generation]
    slices = {s.size: s for s in (Slice(g, shape, _size(g, shape)) for shape in g.shapes)}
    if not size.isdecimal() or int(size) not in slices:
        known = ", ".join(f"{generation}-{n}" for n in sorted(slices))
        raise ValueError(f"tpu={name!r}: no such slice; known are {known}")
    return slices[int(size)]


def _size(generation: Generation, shape: str) -> int:
    return math.prod(int(n) for n in shape.split("x")) * generation.cores
