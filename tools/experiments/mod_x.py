"""python -m tools.experiments.mod_x: does what a model was keep it from forgetting, as it learns domain after domain?

Mod-X (arXiv 2305.07437, `configs/systems/mod_x.py`) in small. Five domains, learned one after another: each has two
random nonlinear views of a latent, by networks of whose weights a part is common to all domains. From the second on a
model learns by InfoNCE alone (fine-tuning), or beside it by the divergence of its similarities from those of what it
was when the domain began, of pairs which that finds (Mod-X), or of all (no filter); and by a mean over the batch at a
scale of 14 in the place of the sum of raw cosines. Held out, after the last domain: R@1 of 512, the mean of both
directions, of the first domain, of all, and of the newest, and what was forgotten of all but that since it stood
highest (`metrics.continual`).
"""

import importlib

import jax
import numpy as np

from pretrain.evals.metrics import continual
from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options, pairs, recall_at_1, vectors

PLAIN, MODX, ALL, SCALED = "fine-tuning", "Mod-X", "Mod-X, no filter", "Mod-X, batch mean at scale 14"
CONDITIONS = {
    PLAIN: None,
    MODX: {},
    ALL: dict(target=dict(target="teacher", model="old")),
    SCALED: dict(
        target=dict(target="teacher", model="old", scale=14.0, correct=True), temperature=1 / 14, reduction="mean"
    ),
}
SIZES = dict(
    steps=(200, 4, "of each domain"), batch=(128, 16, "pairs a step"), domains=(5, 2, "how many"),
    seeds=(8, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("Mod-X keeps more of the first domain", "first", MODX, PLAIN),
    Gate("its average is no worse", "average", MODX, PLAIN),
    Gate("without the filter the average is worse", "average", ALL, MODX, sign=-1),
)
LATENT, WIDTH, OWN = 12, 64, 0.4  # OWN: the share of a domain's weights that are its own


def domains(seed: int, count: int, sizes=(4096, 512)) -> list:
    """[(train, held out)] of every domain: views `a` and `b`."""
    rng, found = np.random.default_rng(seed), []
    shapes = {(n, i): s for n in "ab" for i, s in enumerate(((LATENT, WIDTH), (WIDTH, WIDTH)))}
    common = {key: rng.normal(size=shape) / shape[0] ** 0.5 for key, shape in shapes.items()}
    for _ in range(count):
        latent, views = rng.normal(size=(sum(sizes), LATENT)), {}
        own = {key: rng.normal(size=shape) / shape[0] ** 0.5 for key, shape in shapes.items()}
        weights = {key: (1 - OWN**2) ** 0.5 * common[key] + OWN * own[key] for key in shapes}
        for n in "ab":
            views[n] = np.tanh(latent @ weights[n, 0]) @ weights[n, 1]
            views[n] += 0.3 * rng.normal(size=views[n].shape)
        parts = slice(0, sizes[0]), slice(sizes[0], None)
        found.append(tuple(vectors(**{n: x[part] for n, x in views.items()}) for part in parts))
    return found


def config(changes: dict | None, steps: int, batch: int) -> dict:
    """changes: of Mod-X's objective; None for InfoNCE alone."""
    system, edges = importlib.import_module("configs.systems.mod_x"), [dict(a="a", b="b")]
    objectives = system.objectives(edges, distilled=changes is not None)
    if changes is not None:
        objectives["modx"] |= changes
    made = pairs(objectives, steps=steps, batch=batch, depth=1, embed_dim=32, width=WIDTH)
    return made | ({} if changes is None else dict(references=dict(old=dict(reference="snapshot"))))


def scores(matrix: np.ndarray) -> dict:
    """What the last row of R[phase, domain] says."""
    return {"first": matrix[-1, 0]} | continual(matrix)


def measure(steps=200, batch=128, count=5, seeds=8, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in conditions}
    made = {name: Experiment(config(CONDITIONS[name], steps, batch)) for name in {PLAIN: None} | results}
    for seed in range(seeds):
        data = domains(seed, count)
        start, _ = made[PLAIN].train(data[0][0], seed)
        for name in conditions:
            params, rows = start, []
            for i, (train, _) in enumerate(data):
                if i:
                    held = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
                    params, _ = made[name].train(train, seed * len(data) + i, held)
                rows.append([recall_at_1(*made[name].embeddings(params, test).values()) for _, test in data])
            results[name].append(scores(np.asarray(rows)))
            print(seed, name, np.round(rows[0], 3), np.round(rows[-1], 3), flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.domains, args.seeds)
    title = f"R@1 of 512 after {args.domains} domains of {args.steps} steps of {args.batch}"
    finish("mod_x", args, title, results, systems=[2], control=PLAIN, gates=GATES)


if __name__ == "__main__":
    main()
