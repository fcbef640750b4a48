"""What the text of a compiled program tells: its collectives, how often each runs, and over which network."""

import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
WIDTH = {"pred": 8, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f8e5m2": 8}


class Collective(NamedTuple):
    """One kind over groups of one size: how many run a step, the bytes that a device sends in them.

    longest: bytes of the largest result; network: `ICI`, or `DCN` between slices.
    """

    kind: str
    group: int
    network: str
    count: float
    sent: float
    longest: float


def collectives(text: str) -> list[Collective]:
    """All that a program runs in a step, the largest first.

    A ring is taken: gathering n parts of a whole of b bytes sends b·(n − 1)/n, reducing to all twice that. What a loop
    of unknown length holds counts once.
    """
    computations, entry = _computations(text)
    found: dict[tuple, list[float]] = {}

    def visit(name, times):
        for line in computations.get(name, ()):
            made = _collective(line, computations)
            if made:
                key, sent, size = made
                row = found.setdefault(key, [0.0, 0.0, 0.0])
                row[0] += times
                row[1] += times * sent
                row[2] = max(row[2], size)
                continue
            called = re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line)
            if called:
                visit(called[2], times * _trips(computations.get(called[1], ())))
                continue
            for inner in re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", line):
                visit(inner, times)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            for inner in re.findall(r"[\w.-]+", branches[1]) if branches else ():
                visit(inner, times)

    visit(entry, 1)
    rows = [Collective(*key, *row) for key, row in found.items()]
    return sorted(rows, key=lambda c: -c.sent)


def _computations(text: str):
    """{name: instruction lines} and the entry's name."""
    out, entry, name = {}, "", None
    for line in text.splitlines():
        start = re.match(r"(ENTRY )?%?([\w.-]+)(?: \(.*\) -> .*)? \{$", line)
        if start and not line.startswith(" "):
            name = start[2]
            out[name] = []
            entry = name if start[1] else entry
        elif line.startswith("}"):
            name = None
        elif name:
            out[name].append(line)
    return out, entry


def _trips(condition) -> int:
    """Of a loop that counts up to a constant; 1 if it does not."""
    text = "\n".join(condition)
    bounds = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", text)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in text else 1


def _collective(line, computations):
    """((kind, group, network), bytes sent, bytes of the result) of an instruction, or None."""
    if "xla_megascale_transfer_type" in line and re.search(r" send\(", line):
        kind = re.search(r'megascale_transfer_type="(\w+)"', line)[1].lower().replace("_", "-")
        size = _bytes(_first(line.split(" send(")[0]))  # the rest of the tuple are handles
        return (kind, 0, "DCN"), size, size
    scattered = re.search(r"calls=%?(all-reduce-scatter[\w.-]*)", line)
    if scattered:
        inner = next(x for x in computations[scattered[1]] if " all-reduce(" in x)
        size, group = _bytes(inner.split(" all-reduce(")[0]), _group(inner)
        return ("reduce-scatter", group, "ICI"), size * (group - 1) / group, size
    for kind in KINDS:
        at = re.search(rf" {kind}(-start)?\(", line)
        if at:
            break
    else:
        return None
    size, group = _bytes(line[: at.start()]), _group(line)
    if at[1] and kind == "collective-permute":  # its start gives operand, result and handles
        size = _bytes(_first(line[: at.start()]))
    if at[1] and kind == "all-gather":  # its start gives the part and the whole
        size *= group / (group + 1)
    if kind == "reduce-scatter":  # the result is a part
        size *= group
    share = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}.get(kind, (group - 1) / group)
    return (kind, group, "ICI"), size * share, size


def _group(line) -> int:
    """How many devices take part together."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}", line)
    if mesh:
        sizes = dict(re.findall(r"'([\w.]+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([\w.]+)'", mesh[2])) or 1
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(listed[1].split(",")) if listed else 2


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
