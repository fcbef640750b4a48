"""python -m tools.experiments.gap [--data=synthetic|emoji]: do alignment and uniformity close the gap at no loss?

Softmax InfoNCE at a temperature fixed at 0.01, alone and with the terms of arXiv 2405.18570 (L_U, L_A, L_X,
coefficients 1), by the objective `uniformity`. Held-out pairs: the distance between the means of the two modalities;
how often a linear classifier, fitted to half of the pairs, tells the modality of the others (0.5: it cannot); their
uniformity; the mean cosine of pairs; R@1, and what each seed gained over the first condition.
`synthetic`: two random nonlinear views of a shared latent, with noise, under towers of their own. `emoji`: the pictures
of two designers, pixels under towers of their own, which see 24 random patches of 64 in training and all in retrieval.
"""

import numpy as np

from tools.experiments.common import (
    Experiment,
    Gate,
    finish,
    latent_views,
    options,
    pairs,
    pictures,
    recall_at_1,
    split,
)

CONDITIONS = {
    "CLIP": None,
    "CLIP + U": dict(uniform=1.0, align=0.0),
    "CLIP + A": dict(uniform=0.0, align=1.0),
    "CLIP + U + A": dict(uniform=1.0, align=1.0),
    "CLIP + U + A + X": dict(uniform=1.0, align=1.0, cross=1.0),
}


def objectives(terms, edges, temperature=0.01, **more) -> dict:
    clip = dict(contrastive=dict(edges=edges, temperature=temperature, learn="fixed", **more))
    return clip if terms is None else clip | dict(uniformity=dict(edges=edges, **terms, **more))


def config(data, terms, steps, batch, temperature) -> dict:
    if data == "synthetic":
        made = objectives(terms, [dict(a="a", b="b")], temperature)
        return pairs(made, steps=steps, batch=batch, depth=2, embed_dim=32)
    made = objectives(terms, [dict(a="render3d", b="noto")], temperature, grid_tokens=24)
    return pictures(made, steps=steps, batch=batch, depth=2, shared=False)


def separability(a, b) -> float:
    """Accuracy of a ridge classifier of the modality: fitted to every other pair, asked about the rest."""
    x = np.concatenate([a, b])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = np.repeat([1.0, -1.0], len(a))
    fit = np.tile(np.arange(len(a)) % 2 == 0, 2)
    w = np.linalg.solve(x[fit].T @ x[fit] + 1e-3 * np.eye(x.shape[1]), x[fit].T @ y[fit])
    return float((np.sign(x[~fit] @ w) == y[~fit]).mean())


def uniformity(z) -> float:
    """log mean_{j≠k} exp(−2 ‖z_j − z_k‖²): 0 if all are one, −4 and less far apart."""
    square = 2 - 2 * z @ z.T
    return float(np.log(np.exp(-2 * square[~np.eye(len(z), dtype=bool)]).mean()))


def diagnostics(a, b) -> dict:
    return {
        "gap": float(np.linalg.norm(a.mean(0) - b.mean(0))),
        "separability": separability(a, b),
        "uniformity": uniformity(a) / 2 + uniformity(b) / 2,
        "cosine of pairs": float((a * b).sum(1).mean()),
        "R@1": recall_at_1(a, b),
    }


def measure(data="synthetic", steps=400, batch=128, seeds=5, temperature=0.01, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [diagnostics of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(data, CONDITIONS[name], steps, batch, temperature)), []
        for seed in range(seeds):
            train, held_out = latent_views(seed, noise=0.6) if data == "synthetic" else split(experiment)
            params, _ = experiment.train(train, seed)
            results[name].append(diagnostics(*experiment.embeddings(params, held_out).values()))
            results[name][-1]["R@1 gained"] = results[name][-1]["R@1"] - results[conditions[0]][seed]["R@1"]
    return results


SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(5, 2, "how many"))
GATES = (
    Gate("U + A bring the means of the modalities nearer", "gap", "CLIP + U + A", "CLIP", sign=-1),
    Gate("U + A lose at most a point of R@1", "R@1", "CLIP + U + A", "CLIP", bound=-0.01),
)


def main(argv=None):
    args = options(
        __doc__, argv, SIZES,
        data=dict(choices=("synthetic", "emoji"), default="synthetic"),
        temperature=dict(type=float, default=0.01, help="of the softmax, fixed (default 0.01)"),
        conditions=dict(nargs="+", choices=tuple(CONDITIONS), default=tuple(CONDITIONS)),
    )  # fmt: skip
    results = measure(args.data, args.steps, args.batch, args.seeds, args.temperature, args.conditions)
    title = f"{args.data}, {args.steps} steps of {args.batch}, temperature {args.temperature}"
    variant = "" if args.data == "synthetic" else args.data
    finish("gap", args, title, results, systems=[42], control="CLIP", gates=GATES, variant=variant)


if __name__ == "__main__":
    main()
