"""What a compiled program sends: its collectives, how often each runs, and over which network."""

import math
import re
from typing import NamedTuple

from tools.plan.groups import way
from tools.plan.hlo import Hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
WIDTH = {"pred": 8, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f8e5m2": 8}


class Collective(NamedTuple):
    """One kind over groups of one size: how many run a step, the bytes that a device sends in them.

    longest: bytes of the largest result; network: `ICI`, `DCN` between slices, `NVLink`, `network` between hosts of
    GPUs.
    """

    kind: str
    group: int
    network: str
    count: float
    sent: float
    longest: float


def collectives(program: Hlo, per_host: int = 0) -> list[Collective]:
    """All that a program runs in a step, the largest first; per_host: GPUs of a host, 0 for TPUs.

    A ring is taken: gathering n parts of a whole of b bytes sends b·(n − 1)/n, reducing to all twice that. What a loop
    of unknown length holds counts once.
    """
    found: dict[tuple, list[float]] = {}
    for line, times in program.executed():
        for key, sent, size in _all(line, program, per_host):
            row = found.setdefault(key, [0.0, 0.0, 0.0])
            row[0] += times
            row[1] += times * sent
            row[2] = max(row[2], size)
    rows = [Collective(*key, *row) for key, row in found.items()]
    return sorted(rows, key=lambda c: -c.sent)


def _all(line, program: Hlo, per_host):
    """Those that an instruction is or calls: one that is a fusion has it once more inside."""
    made = _collective(line, program.computations, per_host)
    return [made] if made else [more for inner in program.called(line) for more in _all(inner, program, per_host)]


def _collective(line, computations, per_host):
    """((kind, group, network), bytes sent, bytes of the result) of an instruction, or None."""
    if "xla_megascale_transfer_type" in line and re.search(r" send\(", line):
        kind = re.search(r'megascale_transfer_type="(\w+)"', line)[1].lower().replace("_", "-")
        size = _bytes(_first(line.split(" send(")[0]))  # the rest of the tuple are handles
        return (kind, 0, "DCN"), size, size
    scattered = re.search(r"calls=%?(all-reduce-scatter[\w.-]*)", line)
    if scattered:
        line = next(x for x in computations[scattered[1]] if " all-reduce(" in x)
        kind, size = "reduce-scatter", _bytes(line.split(" all-reduce(")[0])
        group, network, share = way(kind, line, per_host)
    else:
        at = re.search(rf" ({'|'.join(KINDS)})(-start)?\(", line)
        if not at:
            return None
        kind = at[1]
        group, network, share = way(kind, line, per_host)
        size = _whole(kind, line[: at.start()], group, bool(at[2]))
    times = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}.get(kind, (group - 1) / group)
    return (kind, group, network), size * times * share, size


def _whole(kind, result, group, start) -> float:
    """Bytes of what is whole on one side of a collective, from the type of its result; start: of a `-start`."""
    if kind == "collective-permute" and start and "((" not in result:  # operand, result and, on TPUs, handles
        return _bytes(_first(result))
    size = _bytes(result)
    if start and kind in ("all-gather", "reduce-scatter"):  # the parts and the wholes
        return size * group / (group + 1)
    if start and "((" in result:  # operands and results
        return size / 2
    return size * group if kind == "reduce-scatter" else size  # the result of which is a part


def _first(result: str) -> str:
    """The first array of a tuple's type."""
    return re.search(r"[a-z]\w*\[[\d,]*\]", result.split("=", 1)[-1])[0]


def _bytes(text: str) -> float:
    """Of all array shapes that occur in the text of a result type."""
    total = 0.0
    for kind, dims in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text.split("=", 1)[-1]):
        bits = WIDTH.get(kind) or int(re.sub(r"\D", "", kind) or 32)
        total += bits / 8 * math.prod(int(n) for n in dims.split(",") if n)
    return total
