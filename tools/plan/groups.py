"""Which devices take part in a collective together, and over which network they reach each other."""

import re
from typing import NamedTuple

import numpy as np

RINGS = ("all-gather", "all-reduce", "reduce-scatter")
TILES = r"\[([\d,]*)\](?:T\(([\d,]*)\))?"  # [8,4]T(1,0): numbers from 0 in this shape, its axes in another order


class Way(NamedTuple):
    """How a collective travels: `group` devices together, over `network`, which takes `share` of what each sends."""

    group: int
    network: str
    share: float = 1.0


def way(kind: str, line: str, per_host: int = 0) -> Way:
    """Of an instruction. per_host: GPUs that NVLink joins, numbered host by host; 0 of a TPU slice, which `ICI` joins.

    `network` joins hosts. Of the devices that a host has in one ring, one alone sends to the next host, and as many
    rings as it has adapters share the work: a device's adapter carries one part in so many. Where each device writes to
    each other, what goes to other hosts counts. The hops inside a host of a larger group are left out: NVLink takes
    them in less time than the adapters the rest.
    """
    together = groups(line)
    near = "NVLink" if per_host else "ICI"
    if not together:
        return Way(2, near)
    size = len(together[0])
    if not per_host:
        return Way(size, near)
    inside = min(np.unique(devices // per_host, return_counts=True)[1].min() for devices in together)
    if inside == size:
        return Way(size, near)
    return Way(size, "network", float(1 / inside if kind in RINGS else (size - inside) / (size - 1)))


def groups(line: str) -> list[np.ndarray]:
    """The numbers of the devices of every group, or pair, in any of XLA's ways to write them; [] if none are said."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}", line)
    if mesh:
        return _of_mesh(*mesh.groups())
    tiles = re.search(rf"replica_groups=\[(\d+),(\d+)\]<={TILES}", line)
    if tiles:
        return list(_iota(tiles[3], tiles[4]).reshape(int(tiles[1]), int(tiles[2])))
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line)
    return [_numbers(devices) for devices in re.findall(r"\{([\d,]+)\}", listed[1])] if listed else []


def _of_mesh(sizes, device_ids, axes) -> list[np.ndarray]:
    """Groups along some axes of a mesh; an axis may be split, 'x':(2)4 being its part of 4 behind one of 2."""
    shape, taken = [], []
    parts = {name: (int(before), int(size)) for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", axes)}
    for name, size in re.findall(r"'([^']+)'=(\d+)", sizes):
        before, own = parts.get(name, (1, int(size)))
        if f"'{name}'" in axes:
            taken.append(len(shape) + 1)
        shape += [before, own, int(size) // before // own]
    tiles = re.fullmatch(TILES, device_ids or "")
    ids = np.arange(np.prod(shape)) if not device_ids else _iota(*tiles.groups()) if tiles else _numbers(device_ids)
    last = range(len(shape) - len(taken), len(shape))
    grouped = np.moveaxis(ids.reshape(shape), taken, last)
    return list(grouped.reshape(-1, np.prod([shape[i] for i in taken], dtype=int)))


def _iota(shape: str, order: str | None) -> np.ndarray:
    numbers = np.arange(np.prod(_numbers(shape))).reshape(_numbers(shape))
    return numbers.transpose(_numbers(order)) if order else numbers


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(","), int)
