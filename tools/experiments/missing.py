"""python -m tools.experiments.missing: does a sequential state learn from what is missing, and what keeps it from that?

MultiModN (arXiv 2309.14118) on two simulated modalities of eight numbers, A and B, whose means differ between two
classes: A alone allows an AUC of .807, both of .890. In training B lacks for 80 % of the positives and for nobody else,
so that its absence says more of the class than its numbers do. A state encodes A, then B, and leaves out what lacks:
per example, for a whole batch as the release does, or per example with A and B taken at random beside, whatever the
class (`absent`). One model never had B. The same with a decoder on the last state alone was added after a first run had
shown that of A a decoder on every state learns from everyone, whoever lacks B.

Held out, AUC of the last state where B lacks for all, for nobody, as in training, and for 80 % of the negatives
instead; where all have B also after A, and how much it rises from the first state, a constant of .5, and from A.
"""

import functools

import numpy as np
from scipy.stats import norm, rankdata

from tools.experiments.common import (
    Experiment,
    Gate,
    classes,
    finish,
    lacking,
    options,
    sequential,
    vectors,
)

NAMES, WIDTH = ("a", "b"), 8
SEPARATION = 1.5**0.5  # of the classes' means in one modality, in standard deviations
LACKING = 0.8  # of one class, in what is missing not at random
CONDITIONS = {  # keys of the objective
    "per-example mask": {},
    "batch skip": dict(skip="batch"),
    "dropout .5": dict(absent=0.5),
    "never B": {},
    "last state alone, per-example mask": dict(every=False),
    "last state alone, batch skip": dict(every=False, skip="batch"),
    "last state alone, dropout .5": dict(every=False, absent=0.5),
}
SIZES = dict(
    steps=(1500, 3, "of training"), batch=(16, 8, "examples a step"), examples=(4096, 64, "to train on"),
    held_out=(8192, 64, "to evaluate on"), seeds=(6, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("without B, dropout is within .02 of never having had it", "B absent", "dropout .5", "never B", 1, -0.02),
    Gate("with B, dropout loses at most .01", "B present", "dropout .5", "per-example mask", 1, -0.01),
    Gate("with dropout AUC rises with A", "rise by A", "dropout .5"),
    Gate("with dropout AUC rises with B", "rise by B", "dropout .5"),
)


def config(objective: dict, steps: int, batch: int) -> dict:
    optim = dict(lr=1e-3, b2=0.999)
    return sequential(NAMES, ["label"], objective, optim, steps=steps, batch=batch, state=50, hidden=(32, 32))


def examples(rng, size: int) -> dict:
    """Data of a batch `[n, 1, …]`, with all of both modalities."""
    y = rng.integers(2, size=size)
    shift = SEPARATION * WIDTH**-0.5 * (y[:, None] - 0.5)
    data = vectors(**{name: rng.normal(size=(size, WIDTH)) + shift for name in NAMES})
    return data | classes(label=y)


def at_random(data: dict, positive: bool, rng):
    """Which examples lack B: `LACKING` of one class, bool `[n]`."""
    return (data["label"]["ids"][:, 0, 0] == positive) & (rng.random(len(data["row"])) < LACKING)


def auc(scores, y) -> float:
    """The area under the ROC curve, ties at half (Mann and Whitney's U)."""
    ranks, positives = rankdata(scores), y.sum()
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))


def ceiling(modalities: int) -> float:
    """The best AUC from so many modalities: Φ(d / √2) of normal scores whose means lie d apart."""
    return float(norm.cdf(SEPARATION * (modalities / 2) ** 0.5))


def log_odds(experiment: Experiment, params, data):
    """Of every state `[n, 3]`."""
    x = experiment.outputs(params, data, "decode_label")["decode_label"]
    return x[..., 1] - x[..., 0]


def measure(steps=1500, batch=16, size=4096, held_out=8192, seeds=6) -> dict:
    """{condition: [{metric: AUC} of every seed]}."""
    results = {}
    for name, objective in CONDITIONS.items():
        experiment, rows = Experiment(config(objective, steps, batch)), []
        score = functools.partial(log_odds, experiment)
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            train, test = examples(rng, size), examples(rng, held_out)
            everyone = np.ones(size, bool)
            train = lacking(train, "b", everyone if name == "never B" else at_random(train, True, rng))
            params, _ = experiment.train(train, seed)
            rows.append(evaluate(score, params, test, rng))
        results[name] = rows
    return results


def evaluate(score, params, test, rng) -> dict:
    y = test["label"]["ids"][:, 0, 0]
    last = lambda data: auc(score(params, data)[:, -1], y)
    start, after_a, present = (auc(column, y) for column in score(params, test).T)
    return {
        "B absent": last(lacking(test, "b", np.ones(len(y), bool))),
        "B present": present,
        "same pattern": last(lacking(test, "b", at_random(test, True, rng))),
        "flipped pattern": last(lacking(test, "b", at_random(test, False, rng))),
        "after A": after_a,
        "rise by A": after_a - start,
        "rise by B": present - after_a,
    }


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.examples, args.held_out, args.seeds)
    print(f"ceilings: A alone {ceiling(1):.3f}, both {ceiling(2):.3f}")
    title = f"AUC; simulated, B lacks for 80 % of the positives in training; {args.steps} steps of {args.batch}"
    finish("missing", args, title, results, systems=[46], control="per-example mask", gates=GATES)


if __name__ == "__main__":
    main()
