"""A run on a folder of vectors whose step compiles in a second, and such folders."""

import json

import numpy as np
from ml_collections import ConfigDict

NAMES = ("a", "b", "c")


def write_split(folder, split: str, count: int, *, seed: int = 0, names=NAMES, changed=None):
    """`count` lines of vectors that share a part; changed: {row: what replaces some fields of it}."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{split}.jsonl", "w") as f:
        for row in range(count):
            same = rng.normal(size=4)
            line = {name: (same + rng.normal(size=4)).round(3).tolist() for name in names}
            f.write(json.dumps(line | {"note": f"{split} {row}"} | (changed or {}).get(row, {})) + "\n")


def config(folder, /, **changes) -> ConfigDict:
    """Linear towers that contrast a with b and a with c; changes as `key__key`, also of keys that it does not list."""
    c = dict(
        steps=4, batch_size=8, data=dict(source="files", path=str(folder)),
        modalities=[dict(name=n, kind="vectors", shape=(1, 4), field=n, targets=False) for n in NAMES],
        model=dict(
            model="models.multimodal", embed_dim=8, dtype="float32",
            towers=[dict(name=n, modalities=[n], depth=0, dim=4, heads=1) for n in NAMES],
        ),
        objectives=dict(contrastive=dict(edges=[dict(a="a", b=n) for n in NAMES[1:]])),
        optim=dict(lr=1e-2),
        log=dict(every=1, tensorboard=False),
        checkpoint=dict(every=2, keep=2),
        evals=dict(val=dict(evaluator="losses", split="val", batch_size=8, repeats=1, every=2)),
    )  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = c
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = value
    return ConfigDict(c)
