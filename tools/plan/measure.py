"""Compiles a run's step for a topology and takes down what that shows."""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
import time

import jax
import numpy as np

from pretrain import build, sharding
from pretrain.chips import Chip
from pretrain.executable import compile_afresh
from pretrain.flops import model_flops
from pretrain.program import Program
from tools.plan.clock import Clock, clock
from tools.plan.collectives import Collective, collectives
from tools.plan.hlo import Hlo
from tools.plan.topology import Topology
from tools.synthetic import batch

OUT_OF_MEMORY = r"\(([\d.]+)([KMGT]?)\) exceeds available HBM"
# What is told to standard error: by the partitioner, and by XLA for GPUs where it could not save as much as it wanted.
# Products that the partitioner only weighs are of a `fake_parameter`, which is in no program.
TOLD = r"[Ii]nvoluntary full rematerialization(?!.*%fake_parameter).*|Can't reduce memory use below.*"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one compilation showed. Bytes are a device's; state: parameters, optimizer and average; sent: by network.

    used: bytes in all, with room for nothing else; None where the compiler gave up, `needed` then being its figure.
    clock: of TPUs, what the compiler reckons.
    """

    run: build.Run
    topology: Topology
    report: str
    state: int
    used: int | None
    needed: float
    temporaries: int
    flops: float
    collectives: tuple[Collective, ...]
    clock: Clock | None
    warnings: tuple[str, ...]
    seconds: float
    lowered: object
    compiled: object | None

    @property
    def chip(self) -> Chip:
        return self.topology.chip

    @property
    def fits(self) -> bool:
        return self.used is not None and self.used <= self.chip.hbm

    def bounds(self) -> dict[str, float]:
        """{what: seconds a step takes at least} of arithmetic, memory and each network."""
        near, far = ("NVLink", "network") if self.topology.per_host else ("ICI", "DCN")
        sent = {n: sum(c.sent for c in self.collectives if c.network == n) for n in (near, far)}
        # The state is read and written once at least, every temporary written and read.
        moved = 2 * self.state + 2 * self.temporaries
        return {
            "arithmetic": self.flops / self.topology.count / self.chip.flops,
            "memory": moved / self.chip.bandwidth,
            near: sent[near] / self.chip.link,
            **({far: sent[far] / self.chip.dcn} if sent[far] else {}),
        }

    @property
    def step_seconds(self) -> float:
        """If everything overlaps: the greatest of the bounds, and of what the compiler reckons."""
        return max(*self.bounds().values(), self.clock.seconds if self.clock else 0.0)

    @property
    def mfu(self) -> float:
        return self.bounds()["arithmetic"] / self.step_seconds


def example(run: build.Run):
    """Shapes of one example."""
    made = batch((*run.modalities, *run.labels), 1, 0)
    made |= {variant: made[variant.partition("/")[0]] for variant in build.variants(run)}
    made |= {"source": np.zeros(1, np.int32)} if run.data.sources else {}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), made)


def measure(run: build.Run, topology: Topology) -> Plan:
    """Compiles the step that training would run. ValueError for a mesh or batch that does not fit the topology."""
    config = sharding.parse_mesh(run.mesh)
    if topology.lacks and "host" in (config.data, config.fsdp, config.tensor):
        raise ValueError(
            f"mesh={run.mesh!r}: without their compiler a host of these GPUs is not known: write the number, fsdp=8, "
            f"or install {', '.join(topology.lacks)}"
        )
    program = Program(run, topology.devices())
    shape = example(run)
    flops = model_flops(run, shape)
    lowered = program.lower(shape)
    shards = [s.shard_shape(x.shape) for s, x in zip(jax.tree.leaves(program.layout), jax.tree.leaves(program.state))]
    state = sum(math.prod(s) * x.dtype.itemsize for s, x in zip(shards, jax.tree.leaves(program.state)))
    made = dict(run=run, topology=topology, report=program.report, state=state, flops=flops, lowered=lowered)
    started = time.perf_counter()
    compiled = needed = None
    with _stderr() as told:
        try:
            compiled = compile_afresh(lowered)
        except jax.errors.JaxRuntimeError as e:
            found = re.search(OUT_OF_MEMORY, str(e))
            if not found:
                raise
            needed = float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")
    made |= dict(warnings=_warnings(told), seconds=time.perf_counter() - started, compiled=compiled)
    if compiled is None:
        return Plan(**made, used=None, needed=needed, temporaries=0, collectives=(), clock=None)
    m = compiled.memory_analysis()
    used = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    text = Hlo(compiled.as_text())
    return Plan(
        **made, used=used, needed=used, temporaries=m.temp_size_in_bytes,
        collectives=tuple(collectives(text, topology.per_host)), clock=clock(text, topology.chip, scopes(run)),
    )  # fmt: skip


def scopes(run: build.Run) -> set[str]:
    """The names under which a step's work is traced."""
    models = [build.states(run), *build.other_states(run)]
    parts = {name for states in models for name, _ in states.parts}
    return parts | {*run.objectives, "corruption", "optimizer"}


def _warnings(told: list[str]) -> tuple[str, ...]:
    return tuple(sorted({m for text in told for m in re.findall(TOLD, text)}))


@contextlib.contextmanager
def _stderr():
    """Takes down what is written to standard error by C++ too: gives a list that holds it afterwards."""
    told, kept = [], os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            told.append(file.read().decode(errors="replace"))
