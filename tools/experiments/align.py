"""python -m tools.experiments.align: does the size of the data compensate for noise in it?

ALIGN's loss (arXiv 2102.05918: linear learned temperature, label smoothing .1, both directions) on two random nonlinear
views of one latent, at equal steps: 8192 pairs of which 30 % (or 60 %) have the other view of another example, against
clean small data; and with the temperature fixed at 1. R@1 of 300 held-out pairs.
"""

import numpy as np

from tools.experiments.common import Experiment, Gate, finish, latent_views, options, pairs, recall_at_1

SMALL, LARGE, HELD_OUT = 1024, 8192, 300
LEARNED = dict(temperature=1.0, learn="linear", max_scale=0.0, label_smoothing=0.1, directions="sum")
CONDITIONS = {  # pairs, the share of them that is shuffled, the objective
    "256 clean": (SMALL // 4, 0.0, LEARNED),
    "1024 clean": (SMALL, 0.0, LEARNED),
    "8192, 30 % shuffled": (LARGE, 0.3, LEARNED),
    "8192, 60 % shuffled": (LARGE, 0.6, LEARNED),
    "8192 clean": (LARGE, 0.0, LEARNED),
    "1024 clean, fixed T = 1": (SMALL, 0.0, LEARNED | dict(learn="fixed")),
    "1024 clean, no smoothing": (SMALL, 0.0, LEARNED | dict(label_smoothing=0.0)),
}
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("8 times the data, 30 % of it shuffled, beat few clean ones", "R@1", "8192, 30 % shuffled", "1024 clean"),
    Gate("a learned temperature beats one fixed at 1", "R@1", "1024 clean", "1024 clean, fixed T = 1"),
)


def shuffled(data: dict, share: float, rng) -> dict:
    """That share of the examples exchange their b among themselves."""
    rows = rng.permutation(len(data["row"]))[: round(share * len(data["row"]))]
    b = data["b"]["vectors"].copy()
    b[rows] = b[np.roll(rows, 1)]
    return data | {"b": data["b"] | {"vectors": b}}


def measure(steps=400, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [{"R@1": of every seed}]}."""
    results = {}
    for name in conditions:
        size, share, loss = CONDITIONS[name]
        objectives = dict(contrastive=dict(edges=[dict(a="a", b="b")], **loss))
        experiment = Experiment(pairs(objectives, steps=steps, batch=batch, depth=2, embed_dim=32))
        results[name] = []
        for seed in range(seeds):
            # The small data are a part of the large ones.
            train, held_out = latent_views(seed, noise=0.6, sizes=(LARGE, HELD_OUT))
            train = shuffled(first(train, size), share, np.random.default_rng([seed, 1]))
            params, _ = experiment.train(train, seed)
            results[name].append({"R@1": recall_at_1(*experiment.embeddings(params, held_out).values())})
    return results


def first(data: dict, size: int) -> dict:
    """The first so many examples."""
    return {k: first(v, size) if isinstance(v, dict) else v[:size] for k, v in data.items()}


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"R@1 of {HELD_OUT}; {args.steps} steps of {args.batch}"
    finish("align", args, title, results, systems=[35], control="1024 clean", gates=GATES)


if __name__ == "__main__":
    main()
