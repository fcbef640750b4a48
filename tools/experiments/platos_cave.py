"""python -m tools.experiments.platos_cave: do two spaces that share some directions match there, and not as a whole?

The maps of `pretrain.evals.subspace` (arXiv 2503.05283) between two simulated spaces of 128 numbers: each a non-linear
function of its own of 12 latent numbers, among 40 numbers of its own with more variance, and noise. 300 anchors, 300
partners held out, R@1 of partners. CCA in 5 … 50 directions, and in as many as one half of the anchors prefers for the
other (`chosen`); PCA in as many; the whole spaces; local CKA in them, and in CCA's 10 directions.
"""

import numpy as np

from pretrain.evals import metrics
from pretrain.evals.subspace import choose, maps
from tools.experiments.common import Gate, finish, options

SHARED, OWN, WIDTH, NOISE, RIDGE = 12, 40, 128, 0.25, 1e-2
DIRECTIONS = (5, 10, 20, 50)
SIZES = dict(
    anchors=(300, 104, "partners to learn a map from"), held_out=(300, 50, "to match"), seeds=(5, 2, "how many")
)
CHOSEN = "CCA, chosen"
GATES = (
    Gate("CCA is above the affine map of the whole spaces", "R@1", CHOSEN, "affine"),
    Gate("CCA is above PCA", "R@1", CHOSEN, "PCA 10"),
    Gate("local CKA is better in CCA's directions", "R@1", "local CKA in CCA 10", "local CKA"),
    Gate("10 directions are better than 5", "R@1", "CCA 10", "CCA 5"),
    Gate("10 directions are better than 50", "R@1", "CCA 10", "CCA 50"),
)


def spaces(rng, size: int) -> list[np.ndarray]:
    """Two spaces `[size, WIDTH]` of partners in one order."""
    latent, views = rng.normal(size=(size, SHARED)), []
    for _ in range(2):
        shown = np.tanh(latent @ rng.normal(size=(SHARED, 64)) / SHARED**0.5) @ rng.normal(size=(64, WIDTH)) / 8
        own = 1.5 * rng.normal(size=(size, OWN)) @ rng.normal(size=(OWN, WIDTH)) / OWN**0.5
        views.append(shown + own + NOISE * rng.normal(size=(size, WIDTH)))
    return views


def measure(anchors=300, held_out=300, seeds=5) -> dict:
    """{map: [{"R@1": …} of every seed]}."""
    results = {}
    for seed in range(seeds):
        a, b = spaces(np.random.default_rng(seed), anchors + held_out)
        known, rest = (a[:anchors], b[:anchors]), (a[anchors:], b[anchors:])
        found = {k: maps(*known, *rest, k, RIDGE) for k in DIRECTIONS}
        similarity = {name: found[10][name] for name in ("affine", "local CKA")}
        similarity |= {f"{name} {k}": found[k][name] for name in ("PCA", "CCA") for k in DIRECTIONS}
        similarity["local CKA in CCA 10"] = found[10]["local CKA in CCA"]
        similarity[CHOSEN] = found[choose(*known, DIRECTIONS, RIDGE)]["CCA"]
        for name, s in similarity.items():
            results.setdefault(name, []).append({"R@1": metrics.recall(s, 1)})
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.anchors, args.held_out, args.seeds)
    title = f"simulated, R@1 of {args.held_out} by {args.anchors} anchors"
    finish("platos_cave", args, title, results, systems=[82], control="affine", gates=GATES)


if __name__ == "__main__":
    main()
