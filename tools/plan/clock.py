"""The compiler's own clock: what it reckons that each operation of a TPU program takes, and where a step's time goes.

libtpu writes `estimated_cycles` beside every operation of a compiled program. They are its cost model's, by which it
chooses layouts and fusions: never compared with hardware here, without waiting for the network, and without what is
copied ahead of its use. On a TPU `python -m tools.bench_step` prints the time that a step really takes beside it.
"""

import re
from typing import NamedTuple

from pretrain.chips import Chip
from tools.plan.hlo import Executed, Hlo, estimate

# What JAX writes among the scopes of an operation beside names.
CONTROL = re.compile(
    r"jit|jvp|transpose|vmap|vjp|while|body|cond|closed_call|checkpoint|rematted_computation|custom_\w+|shard_map|scan"
    r"|branch_\d+_fun|rounds_\d+|body_fun|cond_fun|remat\d*"
)


class Operation(NamedTuple):
    """Cycles of all its runs in a step; part: the part of the network, or what else of the step, and the branch of a
    block; kind: as `_kind` says; again: whether it computes once more what the forward pass did not keep."""

    name: str
    cycles: float
    times: float
    part: str
    kind: str
    again: bool
    source: str
    result: str


class Clock(NamedTuple):
    """A step by the compiler's clock. hertz: of the chip."""

    operations: tuple[Operation, ...]
    hertz: float

    @property
    def cycles(self) -> float:
        return sum(o.cycles for o in self.operations)

    @property
    def seconds(self) -> float:
        return self.cycles / self.hertz

    def by(self, what: str) -> dict[str, float]:
        """{value of a field of `Operation`: cycles}, the dearest first."""
        sums = {}
        for o in self.operations:
            sums[getattr(o, what)] = sums.get(getattr(o, what), 0.0) + o.cycles
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def dearest(self, count: int = 10) -> list[Operation]:
        """Those that are alike but for their names, such as of blocks that are written out, count as one."""
        alike = {}
        for o in self.operations:
            key = o._replace(name="", cycles=0.0, times=0.0)
            one = alike.get(key, o._replace(cycles=0.0, times=0.0))
            alike[key] = one._replace(cycles=one.cycles + o.cycles, times=one.times + o.times)
        return sorted(alike.values(), key=lambda o: -o.cycles)[:count]


def clock(program: Hlo, chip: Chip, parts) -> Clock | None:
    """parts: the names that the run's parts, objectives and steps have as scopes. None where nothing is estimated."""
    found = []
    for executed in program.executed():
        cycles = estimate(executed.line) or _declared(executed.line, chip)
        if not cycles:
            continue
        name, result = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\(?[a-z]\w*\[[\d,]*\])", executed.line).groups()
        where, kind, again = _part(executed, parts), _kind(executed, program), "rematted_computation" in executed.line
        source, total = program.source(executed.line), cycles * executed.times
        found.append(Operation(name, total, executed.times, where, kind, again, source, result.strip("(")))
    return Clock(tuple(found), chip.hertz) if found else None


def _part(executed: Executed, parts) -> str:
    scopes = executed.scopes
    at = next((i for i, s in enumerate(scopes) if s in parts), None)
    if at is None:
        return "between parts" if scopes else "unnamed"
    inner = next((s for s in scopes[at + 1 : -1] if not CONTROL.fullmatch(s)), "")
    return f"{scopes[at]} {inner}".strip()


def _kind(executed: Executed, program: Hlo) -> str:
    opcode = executed.opcode
    inside = [opcode] if opcode != "fusion" else [Executed(x, 1).opcode for x in program.called(executed.line)]
    work = {o for o in inside if o not in ("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "iota")}
    if opcode == "custom-call":
        return "kernels"
    if work & {"convolution", "dot"}:
        return "products"
    if work == {"broadcast"}:
        return "zeros"
    if work & {"dynamic-update-slice", "dynamic-slice"} and not work & {"exponential", "reduce", "divide", "rsqrt"}:
        return "stacking"
    if work <= {"copy", "transpose", "reshape", "convert", "slice", "pad", "concatenate", "broadcast"}:
        return "copies"
    return "the rest"


def _declared(line: str, chip: Chip) -> float:
    """Cycles of a kernel by the cost that it declares, as if it reached the chip's peaks; 0 of what declares none."""
    if "custom-call" not in line or "cost_estimate" not in line:
        return 0.0
    told = dict(re.findall(r'"(flops|bytes_accessed)":"?(\d+)', line))
    seconds = max(float(told.get("flops", 0)) / chip.flops, float(told.get("bytes_accessed", 0)) / chip.bandwidth)
    return seconds * chip.hertz
