"""python -m tools.experiments.brain_integration: are only those sites told to integrate that really do?

Encoding models as in arXiv 2406.14481 (`pretrain.evals.encoding`) of simulated sites: each responds to the vision v of
a stimulus, to its language t, to the sum of something of both, or to whether bits of v and t agree (`interaction`),
with as much noise as signal. A network learned from 16,384 other stimuli which of four bits agree; of it, given both, v
alone, t alone, and the latter two side by side, ridge regression predicts the responses. The share of the sites of each
kind that both predict better than any other, for the trained network and for the same untrained, the control without
which a flagged site says nothing of what was learned.
"""

import importlib

import jax
import numpy as np

from pretrain.evals import ridge
from pretrain.evals.encoding import KINDS
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from tools.experiments.common import Experiment, Gate, finish, options, vectors

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
    parts = importlib.import_module("configs.systems.multimodn").parts
    decoders = {f"agree{i}": f"decode_agree{i}" for i in range(BITS)}
    layers = dict(state=64, hidden=(64, 64), decoders=dict.fromkeys(decoders, 2))
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, kind="vectors", shape=(1, WIDTH), field=n, targets=False) for n in NAMES],
        labels=[dict(name=n, kind="labels", shape=(1,), field=n, vocab_size=2) for n in decoders],
        model=dict(model="models.network", parts=parts(NAMES, 32, **layers), dtype="float32"),
        objectives=dict(stepwise=dict(inputs=NAMES, decoders=decoders, absent=0.2, every=False)),
        optim=dict(lr=4e-3, warmup=steps // 10, weight_decay=0.0),
    )  # fmt: skip


def examples(rng, size: int) -> dict:
    """Data of a batch `[n, 1, …]`: of v and t eight numbers each, the first four of them bits under noise."""
    bits = rng.integers(2, size=(2, size, BITS))
    rest = np.zeros((2, size, WIDTH - BITS))
    data = vectors(
        **dict(zip(NAMES, np.concatenate([2.0 * bits - 1, rest], 2) + NOISE * rng.normal(size=(2, size, WIDTH))))
    )
    agree, valid = bits[0] == bits[1], np.ones((size, 1, 1), bool)
    return data | {f"agree{i}": {"ids": agree[:, i, None, None].astype(np.int16), "valid": valid} for i in range(BITS)}


def responses(rng, data, sites: int) -> np.ndarray:
    """`[n, 4 · sites]`, kind by kind: a random direction of what each kind responds to, and as much noise."""
    v, t = (data[n]["vectors"][:, 0, 0] for n in NAMES)
    agree = 2.0 * np.stack([data[f"agree{i}"]["ids"][:, 0, 0] for i in range(BITS)], 1) - 1
    standard = lambda x: (x - x.mean(0)) / x.std(0)
    direction = lambda x: standard(x @ rng.normal(size=(x.shape[1], sites)))
    made = [direction(v), direction(t), standard(direction(v) + direction(t)), direction(agree)]
    signal = np.concatenate(made, 1)
    return signal + rng.normal(size=signal.shape)


class States:
    """(params, data, which modalities are shown) → the last state `[n, dim]`."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.compute = experiment, jax.jit(self._compute)

    def _compute(self, params, batch):
        model = self.experiment.model(params)
        node = model.states.chain("state", Leaf(Whole(NAMES, self.experiment.run.modalities)))
        return compute(model, {"state": node}, batch)["state"].x[:, -1]

    def __call__(self, params, data, shown=NAMES):
        hidden = {n: data[n] | {"valid": np.zeros_like(data[n]["valid"])} for n in NAMES if n not in shown}
        found = self.compute(params, jax.tree.map(lambda x: x[:, 0], data | hidden))
        return np.asarray(found, np.float64)


def flagged(states: States, params, data, wanted, sites: int) -> dict:
    """{kind of site: the share that integrates}, and {"r of …": the mean r of the sites of an interaction}."""
    both, vision, language = states(params, data), states(params, data, ("v",)), states(params, data, ("t",))
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
    states = States(experiment)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train, shown = examples(rng, 16384), examples(rng, stimuli)
        wanted = responses(rng, shown, sites)
        for name, params in (
            (TRAINED, experiment.train(train, seed)[0]),
            (UNTRAINED, experiment.init(jax.random.key(seed))),
        ):
            results[name].append(flagged(states, params, shown, wanted, sites))
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.stimuli, args.sites, args.seeds)
    title = f"simulated, share of {args.sites} sites of each kind that integrate; {args.steps} steps of {args.batch}"
    finish("brain_integration", args, title, results, systems=[65], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
