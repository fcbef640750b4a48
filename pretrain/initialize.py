"""Starting a run from another's parameters: what fits is taken over exactly, and everything else is reported.

Modalities may have been added or removed (their tables are new, or left behind) and learned positions resized. Fixed
positions are no parameters: they follow from the spec.
"""

import dataclasses

import jax
import numpy as np

from pretrain.restore import Restored
from pretrain.sharding import path_str

MODALITY = "model/tokens/modality"


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


def start_from(held: Restored, fresh: dict, modalities) -> tuple[dict, Report]:
    """Parameters like `fresh` (`{"model", "objective"}`) with the values of `held` wherever they fit.

    Raises ValueError where the trunks differ: blocks of another width, depth or kind.
    """
    old = {path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(held.params)}
    index = {m.name: i for i, m in enumerate(held.run.modalities)}
    loaded, new, resized = [], [], []

    def take(path, leaf):
        path = path_str(path)
        if path == MODALITY and path in old:
            rows = np.array(leaf)
            for i, m in enumerate(modalities):
                if m.name in index:
                    rows[i] = old[path][index[m.name]]
                else:
                    new.append(f"{path}/{m.name}")
            loaded.append(path)
            return rows
        if path not in old:
            new.append(path)
            return np.asarray(leaf)
        if old[path].shape == leaf.shape:
            loaded.append(path)
            return old[path]
        if "learned/" in path and old[path].shape[1:] == leaf.shape[1:]:
            resized.append(f"{path} {len(old[path])} → {len(leaf)}")
            return resize(old[path], len(leaf))
        raise ValueError(
            f"config.init: {path} has shape {old[path].shape} there and {leaf.shape} here; give this config the sizes "
            "of that model, or start from another"
        )

    params = jax.tree_util.tree_map_with_path(take, fresh)
    taken = {path_str(k) for k, _ in jax.tree_util.tree_leaves_with_path(fresh)}
    blocks = [p for p in new if p.startswith(("model/encoder/", "model/decoder/"))]
    if blocks:
        raise ValueError(f"config.init: that model has no {', '.join(blocks[:3])}; give this config its kind of blocks")
    dropped = sorted(set(old) - taken) + [f"{MODALITY}/{n}" for n in index if n not in {m.name for m in modalities}]
    return params, Report(tuple(loaded), tuple(new), tuple(dropped), tuple(resized))


def check_start(held: Restored, shapes, modalities) -> Report:
    """What `start_from` will do, from the shapes of the fresh parameters alone; its errors come before compilation."""
    return start_from(held, jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes), modalities)[1]


def resize(rows: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation of positions `[L, D]` to `[length, D]`, the ends aligned."""
    at = np.linspace(0, len(rows) - 1, length)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (at - low)[:, None].astype(rows.dtype)
    return rows[low] * (1 - share) + rows[high] * share
