"""Starting a run from others' parameters: what fits is taken over exactly, and everything else is reported.

Modalities may have been added or removed (their tables are new, or left behind), and learned positions resized; a head
of other classes is new. Fixed positions are no parameters: they follow from the spec.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrain.parameters import Roles, parts_called, path_str


@dataclasses.dataclass(frozen=True)
class Load:
    """What a run takes of another's newest parameters (their moving average, if it has one).

    workdir: the other's.
    parts: names of its parts, or of towers, for all of their parts; () for the whole network and what objectives own.
    into: what those are called here, one name each; () for the same. `parts=["image"], into=["photo"]`: this tower
      `photo` starts from that tower `image`.
    """

    workdir: str
    parts: tuple[str, ...] = ()
    into: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.workdir:
            raise ValueError("config.load: workdir='': name the workdir of a run")
        if self.into and len(self.into) != len(self.parts):
            raise ValueError(
                f"config.load: {self.workdir!r}: into={self.into}: one name for each of parts={self.parts}"
            )

    def names(self, theirs, ours) -> dict[str, str]:
        """{where paths begin there: where they begin here}, of networks of these parts."""
        if not self.parts:
            return {"model": "model", "objective": "objective", "models": "models"}
        out = {}
        for name, here in zip(self.parts, self.into or self.parts):
            found, key = parts_called(name, theirs), f"config.load: {self.workdir!r}: "
            if not found:
                raise ValueError(f"{key}parts: it has no part or tower {name!r}, but {', '.join(theirs)}")
            if not parts_called(here, ours):
                raise ValueError(f"{key}this network has no part or tower {here!r}, but {', '.join(ours)}; see `into`")
            out |= {f"model/{part}": f"model/{here}{part.removeprefix(name)}" for part in found}
        return out

    def gives(self, ours) -> tuple[str, ...]:
        """Where the paths begin, in a network of these parts, whose values it is to give."""
        if not self.parts:
            return ("model/", "objective/", "models/")
        return tuple(f"model/{part}/" for name in self.into or self.parts for part in parts_called(name, ours))


def as_loads(value):
    """`config.load` as a list of dicts: where it names workdirs alone, `--config.load=WORKDIR`, they are keys."""
    if isinstance(value, str):
        value = [value] if value else []
    listed = isinstance(value, (list, tuple))
    return [{"workdir": v} if isinstance(v, str) else v for v in value] if listed else value


class Source(NamedTuple):
    """Parameters of another run: said how the config names them, a `Restored`, and {where paths begin there: here}."""

    said: str
    held: Any
    names: dict[str, str]

    def arrays(self) -> tuple[dict, dict]:
        """({path here: array}, {path here: its Role there}) of what is to be taken."""
        arrays, roles = {}, {}
        for path, value in jax.tree_util.tree_leaves_with_path(self.held.params):
            path = path_str(path)
            begins = next((n for n in self.names if path.startswith(f"{n}/")), None)
            if begins is not None:
                here = self.names[begins] + path.removeprefix(begins)
                arrays[here], roles[here] = np.asarray(value), self.held.roles[path]
        return arrays, roles


@dataclasses.dataclass(frozen=True)
class Report:
    """Paths of parameters: taken over, freshly initialised, left behind, and resized; others: fresh too, but of parts
    that no source was to give."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    resized: tuple[str, ...]
    others: tuple[str, ...] = ()

    def __str__(self):
        lines = [f"{len(self.loaded)} arrays of parameters loaded"]
        for name in ("new", "dropped", "resized"):
            paths = getattr(self, name)
            lines.append(f"{len(paths)} {name}" + (f": {', '.join(paths)}" if paths else ""))
        return "\n  ".join(lines)


def start(sources, fresh: dict, roles: Roles) -> tuple[dict, Report]:
    """Parameters like `fresh` (`{"model", "objective"}`) with the values of the sources wherever they fit, the later
    ones' before the earlier's.

    Raises ValueError where parts differ: blocks of another width, depth or kind.
    """
    params = {path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(fresh)}
    given, dropped, resized = {}, [], []  # given: {path: the names of its rows that are}
    for source in sources:
        old, theirs = source.arrays()
        for path, value in sorted(old.items()):
            role, shape = roles[path] if path in params else None, params[path].shape if path in params else ()
            if role is None or role.vocab != theirs[path].vocab:
                dropped.append(path)
            elif role.rows and value.shape[1:] == shape[1:]:
                rows = dict(zip(theirs[path].rows, value))
                params[path] = np.stack([rows.get(name, row) for name, row in zip(role.rows, np.asarray(params[path]))])
                dropped += [f"{path}/{name}" for name in rows if name not in role.rows]
                given[path] = given.get(path, set()) | rows.keys()
            elif value.shape != shape and (role.anew or path.startswith("objective/")):
                dropped.append(path)  # of another space, or of other classes: it says nothing of ours
            else:
                params[path] = fit(source.said, path, value, shape, role.resize)
                given[path] = set(role.rows)
                if value.shape != shape:
                    resized.append(f"{path} {len(value)} → {shape[0]}")
        _check_kind(source, old, params, roles)
    absent = [p for p in params if p not in given]
    absent += [f"{p}/{row}" for p in given for row in roles[p].rows if row not in given[p]]
    asked = tuple(f"{here}/" for source in sources for here in source.names.values())
    new, others = ([p for p in absent if p.startswith(asked) == wanted] for wanted in (True, False))
    params = jax.tree_util.tree_map_with_path(lambda path, _: params[path_str(path)], fresh)
    return params, Report(tuple(given), tuple(new), tuple(dropped), tuple(resized), tuple(others))


def _check_kind(source: Source, old: dict, params: dict, roles: Roles):
    """ValueError if nothing is the same, or if blocks of ours have what those of the same part there have not."""
    if not old.keys() & params.keys():
        raise ValueError(f"{source.said}: it has nothing that this network has; see `parts` and `into`")
    part_of = lambda path: path.split("/")[1]
    there = {part_of(path) for path in old if path.startswith("model/")}
    if source.names.get("model") == "model" and not any(roles[p].stacked for p in old.keys() & params.keys()):
        there = {part_of(path) for path in params}  # a network without any block of ours is another
    ours = [p for p in params if p.startswith("model/") and p not in old and part_of(p) in there]
    blocks = [p for p in ours if roles[p].stacked and not roles[p].anew]
    if blocks:
        raise ValueError(f"{source.said}: it has no {', '.join(blocks[:3])}; give this config its kind of blocks")


def check_start(sources, shapes, roles: Roles, stays) -> str:
    """What `start` will do, from the shapes of the fresh parameters alone; its errors come before compilation.

    stays: path, or `path/row` → whether it never learns (`adapt.Split.stays`): ValueError if nothing gives it.
    """
    fresh = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    _, report = start(sources, fresh, roles)
    for path in (*report.new, *report.others):
        if stays(path):
            raise ValueError(
                f"config.load: nothing there gives {path}, which this run does not train: name a workdir that has it, "
                "or train it (a rule of config.train with how='full', frozen=False of its part)"
            )
    return str(report)


def fit(said: str, path: str, old, shape, how: str) -> np.ndarray:
    """A parameter in the shape that is asked for: as it is, or resized as its role says. said: whose, for an error."""
    if old.shape == shape:
        return old
    if how and old.shape[1:] == shape[1:]:
        return {"linear": resize, "grid": resize_grid}[how](old, shape[0])
    raise ValueError(
        f"{said}: {path} has shape {old.shape} there and {shape} here; give this config the sizes of that model, "
        "or start from another"
    )


def resize_grid(rows: np.ndarray, length: int) -> np.ndarray:
    """Bilinear interpolation of positions of a square grid, `[n², D]` or `[1 + n², D]` (the first a class token's)."""
    extra = next((e for e in (0, 1) if all(math.isqrt(n - e) ** 2 == n - e for n in (len(rows), length))), None)
    if extra is None:
        raise ValueError(f"config.load: {len(rows)} positions there, {length} here: only square grids can be resized")
    old, new = (math.isqrt(n - extra) for n in (len(rows), length))
    grid = np.asarray(jax.image.resize(rows[extra:].reshape(old, old, -1), (new, new, rows.shape[1]), "bilinear"))
    return np.concatenate([rows[:extra], grid.reshape(new * new, -1)])


def resize(rows: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation of positions `[L, D]` to `[length, D]`, the ends aligned."""
    at = np.linspace(0, len(rows) - 1, length)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(rows) - 1)
    weight = (at - low)[:, None].astype(rows.dtype)
    return rows[low] * (1 - weight) + rows[high] * weight
