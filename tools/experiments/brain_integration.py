"""python -m tools.experiments.brain_integration: are only those sites told to integrate that really do?

Encoding models as in arXiv 2406.14481 (`pretrain.evals.encoding`) of simulated sites: each responds to the vision v of
a stimulus, to its language t, to the sum of something of both, or to whether bits of v and t agree (`interaction`),
with as much noise as signal. A network learned from 16,384 other stimuli which of four bits agree; of it, given both, v
alone, t alone, and the latter two side by side, ridge regression predicts the responses. The share of the sites of each
kind that both predict better than any other, for the trained network and for the same untrained, the control without
which a flagged site says nothing of what was learned.
"""

import jax
import numpy as np

from pretrain.evals import ridge
from pretrain.evals.encoding import KINDS
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

NAMES, WIDTH, BITS, NOISE = ("v", "t"), 8, 4, 0.3
SITES = ("vision", "language", "additive", "interaction")
TRAINED, UNTRAINED = "trained", "untrained"
SIZES = dict(
    steps=(4000, 3, "of training"), batch=(128, 8, "examples a step"), stimuli=(540, 90, "that sites respond to"),
    sites=(25, 3, "of each kind"), seeds=(5, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("sites that respond to an interaction are flagged for the trained network", "interaction", TRAINED, bound=0.5),
    Gate("more than for the untrained", "interaction", TRAINED, UNTRAINED),
    *(Gate(f"of {kind} sites at most a twentieth", kind, TRAINED, sign=-1, bound=-0.05) for kind in SITES[:3]),
)  # fmt: skip


def config(steps: int, batch: int) -> dict:
    labels, objective = [f"agree{i}" for i in range(BITS)], dict(absent=0.2, every=False)
    return sequential(NAMES, labels, objective, dict(lr=4e-3), steps=steps, batch=batch, state=64, hidden=(64, 64))


def examples(rng, size: int) -> dict:
    """Data of a batch `[n, 1, …]`: of v and t eight numbers each, the first four of them bits under noise."""
    bits = rng.integers(2, size=(2, size, BITS))
    rest = np.zeros((2, size, WIDTH - BITS))
    data = vectors(
        **dict(zip(NAMES, np.concatenate([2.0 * bits - 1, rest], 2) + NOISE * rng.normal(size=(2, size, WIDTH))))
    )
    return data | classes(**{f"agree{i}": bits[0, :, i] == bits[1, :, i] for i in range(BITS)})


def responses(rng, data, sites: int) -> np.ndarray:
    """`[n, 4 · sites]`, kind by kind: a random direction of what each kind responds to, and as much noise."""
    v, t = (data[n]["vectors"][:, 0, 0] for n in NAMES)
    agree = 2.0 * np.stack([data[f"agree{i}"]["ids"][:, 0, 0] for i in range(BITS)], 1) - 1
    standard = lambda x: (x - x.mean(0)) / x.std(0)
    direction = lambda x: standard(x @ rng.normal(size=(x.shape[1], sites)))
    made = [direction(v), direction(t), standard(direction(v) + direction(t)), direction(agree)]
    signal = np.concatenate(made, 1)
    return signal + rng.normal(size=signal.shape)


def states(experiment: Experiment, params, data):
    """The last state `[n, dim]`."""
    return experiment.outputs(params, data, "state")["state"][:, -1].astype(np.float64)


def flagged(experiment: Experiment, params, data, wanted, sites: int) -> dict:
    """{kind of site: the share that integrates}, and {"r of …": the mean r of the sites of an interaction}."""
    shown = (data, lacking(data, "t"), lacking(data, "v"))
    both, vision, language = (states(experiment, params, part) for part in shown)
    spaces = dict(zip(KINDS, (both, vision, language, np.concatenate([vision, language], 1))))
    predictions = {}
    for name, x in spaces.items():
        predictions[name], scored = ridge.encode(x, wanted, folds=9)
    integrate = ridge.best_of(predictions, scored, "both", draws=1000, level=0.05).reshape(len(SITES), sites)
    r = {f"r of {name}": ridge.pearson(p, scored)[-sites:].mean() for name, p in predictions.items()}
    return dict(zip(SITES, integrate.mean(1))) | r


def measure(steps=4000, batch=128, stimuli=540, sites=25, seeds=5) -> dict:
    """{trained, untrained: [{metric: value} of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {TRAINED: [], UNTRAINED: []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train, shown = examples(rng, 16384), examples(rng, stimuli)
        wanted = responses(rng, shown, sites)
        for name, params in (
            (TRAINED, experiment.train(train, seed)[0]),
            (UNTRAINED, experiment.init(jax.random.key(seed))),
        ):
            results[name].append(flagged(experiment, params, shown, wanted, sites))
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.stimuli, args.sites, args.seeds)
    title = f"simulated, share of {args.sites} sites of each kind that integrate; {args.steps} steps of {args.batch}"
    finish("brain_integration", args, title, results, systems=[65], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
