"""A tiny network over made-up examples whose class can be seen in every modality."""

import dataclasses
import types

import jax
import numpy as np
import tiny
from flax import nnx

from pretrain import build
from pretrain.evals.base import Context
from pretrain.models.passes import call

SIZES = {"train": 48, "val": 24, "test": 24}
CLASSES = ("ant", "bee", "cat")


class Toy(Context):
    """A context without a source; `passes` counts how often its splits were read."""

    def __init__(self, *, missing: float = 0.0, **model):
        made, sizes = tiny.model(noise=0.3, **model), {k: v for k, v in model.items() if k not in ("embedded", "seed")}
        graph, params = nnx.split(made)
        objectives = {
            "contrastive": types.SimpleNamespace(embedded=made.embedded, passes=lambda train: {}),
            "masked": types.SimpleNamespace(embedded=(), passes=lambda train: {"nll": call("head")}),
        }
        run = types.SimpleNamespace(
            data=build.Data("toy"), modalities=tiny.MODALITIES, final_evals={}, labels=(),
            model=dataclasses.asdict(tiny.config(**sizes)) | {"model": "models.encdec"},
        )  # fmt: skip
        super().__init__(run, {"online": graph}, objectives)
        self.__dict__ |= {"params": {"model": nnx.to_pure_dict(params)}, "missing": missing, "passes": []}

    @property
    def held_out(self):
        return ("val", "test")

    def batches(self, split, batch_size):
        self.passes.append(split)
        for part in (split,) if isinstance(split, str) else split:
            yield batch(part, self.missing)

    def source(self, splits):
        return list(self.facts(splits))

    def there(self, splits):
        return (splits,) if isinstance(splits, str) else splits

    def facts(self, splits):
        parts = (splits,) if isinstance(splits, str) else splits
        return {
            int(row): {"label": CLASSES[row % 3], "words": [CLASSES[row % 3], f"w{row}"], "note": f"{row}"}
            for part in parts
            for row in batch(part, 0)["row"]
        }


def batch(split: str, missing: float) -> dict:
    """Image and depth show the class by their ids; captions start with its word."""
    start = list(SIZES).index(split) * 3000
    made = tiny.batch(SIZES[split], seed=start, missing=0.0)
    kinds, rng = np.arange(SIZES[split]) % 3, np.random.default_rng(start)
    for name, low in (("image", 6), ("depth", 4)):
        ids = made[name]["ids"]
        made[name]["ids"] = (kinds[:, None] * low + rng.integers(0, 2, ids.shape)).astype(ids.dtype)
    for name in ("caption", "label"):
        made[name]["ids"][:, 0] = tiny.WORDS[0] + kinds
        if missing:
            made[name]["valid"][rng.random(len(kinds)) < missing] = False
    made["row"] = np.arange(SIZES[split]) + start
    return jax.tree.map(np.asarray, made)
