"""Starting a run from another's parameters: what fits is taken over exactly, and everything else is reported.

Modalities may have been added or removed (their tables are new, or left behind), and learned positions resized; a head
of other classes is new. Fixed positions are no parameters: they follow from the spec.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrain.parameters import Roles, path_str


class Origin(NamedTuple):
    """What a run starts from (`restore.read_origin`): a whole model, a `Restored`, or None, and towers of others by
    their names, {name: Restored}."""

    whole: Any
    towers: dict


def start(origin: Origin, fresh: dict, roles: Roles, frozen: frozenset = frozenset()) -> tuple[dict, str]:
    """Parameters like `fresh` (`{"model", "objective"}`) with what `origin` holds of them, and a report.

    roles: of the fresh ones. frozen: paths of those that will never learn: ValueError if nothing gives their values.
    """
    lines = []
    if origin.whole:
        fresh, report = start_from(origin.whole, fresh, roles)
        lines.append(str(report))
        given = tuple(f"model/towers/{name}/" for name in origin.towers)
        for path in report.new:
            if path in frozen and not path.startswith(given):
                raise ValueError(
                    f"config.init: that model has no {path}, which this one does not train: train it whole (a rule "
                    "with how='full' in config.adapt, or frozen=False of a tower), or name a workdir in a tower's load"
                )
    for name, held in origin.towers.items():
        theirs, where = held.params["model"].get("towers", {}), f"model.towers: {name!r}: load"
        if name not in theirs:
            raise ValueError(f"{where}: that workdir has no such tower, but {list(theirs)}; give this one its name")
        mine = fresh["model"]["towers"][name]
        old, new = ({path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(t)} for t in (theirs[name], mine))
        # The projection may be of another width, or new: it learns even in a frozen tower.
        own = {p for p in new if p.startswith("project/") and (p not in old or old[p].shape != new[p].shape)}
        unlike = [p for p in old.keys() ^ new.keys() if not p.startswith("project/")]
        if unlike:
            raise ValueError(
                f"{where}: the two differ in {sorted(unlike)[:3]}; give this tower the settings of that one"
            )

        def take(path, leaf, old=old, own=own, name=name):
            path = path_str(path)
            resize = roles[f"model/towers/{name}/{path}"].resize
            return np.asarray(leaf) if path in own else fit(path, old[path], leaf.shape, resize)

        taken = jax.tree_util.tree_map_with_path(take, mine)
        fresh = fresh | {"model": fresh["model"] | {"towers": fresh["model"]["towers"] | {name: taken}}}
        lines.append(f"tower {name}: {len(new) - len(own)} arrays of parameters loaded, {len(own)} new")
    return fresh, "\n  ".join(lines)


def check_start(origin: Origin, shapes, roles: Roles, frozen: frozenset = frozenset()) -> str:
    """What `start` will do, from the shapes of the fresh parameters alone; its errors come before compilation."""
    fresh = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    return start(origin, fresh, roles, frozen)[1]


@dataclasses.dataclass(frozen=True)
class Report:
    """Paths of parameters: taken over, freshly initialised, left behind, and resized."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    resized: tuple[str, ...]

    def __str__(self):
        lines = [f"{len(self.loaded)} arrays of parameters loaded"]
        for name in ("new", "dropped", "resized"):
            paths = getattr(self, name)
            lines.append(f"{len(paths)} {name}" + (f": {', '.join(paths)}" if paths else ""))
        return "\n  ".join(lines)


def start_from(held, fresh: dict, roles: Roles) -> tuple[dict, Report]:
    """Parameters like `fresh` (`{"model", "objective"}`) with the values of `held`, a `Restored`, wherever they fit.

    Raises ValueError where the trunks differ: blocks of another width, depth or kind.
    """
    old = {path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(held.params)}
    loaded, new, dropped, resized, replaced = [], [], [], [], []

    def take(path, leaf):
        path = path_str(path)
        if roles[path].rows and path in old:
            mine, theirs = roles[path].rows, held.roles[path].rows
            new.extend(f"{path}/{name}" for name in mine if name not in theirs)
            dropped.extend(f"{path}/{name}" for name in theirs if name not in mine)
            loaded.append(path)
            return np.stack([old[path][theirs.index(n)] if n in theirs else row for n, row in zip(mine, leaf)])
        if path not in old:
            new.append(path)
            return np.asarray(leaf)
        if old[path].shape == leaf.shape:
            loaded.append(path)
            return old[path]
        if path.startswith("objective/"):  # a head of other classes, which the old one says nothing of
            new.append(path)
            replaced.append(path)
            return np.asarray(leaf)
        rows = fit(path, old[path], leaf.shape, roles[path].resize)
        resized.append(f"{path} {len(old[path])} → {len(leaf)}")
        return rows

    params = jax.tree_util.tree_map_with_path(take, fresh)
    taken = {path_str(k) for k, _ in jax.tree_util.tree_leaves_with_path(fresh)}
    blocks = [p for p in new if p.startswith(("model/encoder/", "model/decoder/")) and "/adapter" not in p]
    if blocks:
        raise ValueError(f"config.init: that model has no {', '.join(blocks[:3])}; give this config its kind of blocks")
    dropped = [*sorted({*set(old) - taken, *replaced}), *dropped]
    return params, Report(tuple(loaded), tuple(new), tuple(dropped), tuple(resized))


def fit(path: str, old, shape, how: str) -> np.ndarray:
    """A parameter in the shape that is asked for: as it is, or resized as its role says."""
    old = np.asarray(old)
    if old.shape == shape:
        return old
    if how and old.shape[1:] == shape[1:]:
        return {"linear": resize, "grid": resize_grid}[how](old, shape[0])
    raise ValueError(
        f"config.init: {path} has shape {old.shape} there and {shape} here; give this config the sizes of that model, "
        "or start from another"
    )


def resize_grid(rows: np.ndarray, length: int) -> np.ndarray:
    """Bilinear interpolation of positions of a square grid, `[n², D]` or `[1 + n², D]` (the first a class token's)."""
    extra = next((e for e in (0, 1) if all(math.isqrt(n - e) ** 2 == n - e for n in (len(rows), length))), None)
    if extra is None:
        raise ValueError(f"config.init: {len(rows)} positions there, {length} here: only square grids can be resized")
    old, new = (math.isqrt(n - extra) for n in (len(rows), length))
    grid = np.asarray(jax.image.resize(rows[extra:].reshape(old, old, -1), (new, new, rows.shape[1]), "bilinear"))
    return np.concatenate([rows[:extra], grid.reshape(new * new, -1)])


def resize(rows: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation of positions `[L, D]` to `[length, D]`, the ends aligned."""
    at = np.linspace(0, len(rows) - 1, length)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (at - low)[:, None].astype(rows.dtype)
    return rows[low] * (1 - share) + rows[high] * share
