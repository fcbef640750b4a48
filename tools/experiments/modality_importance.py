"""python -m tools.experiments.modality_importance: does the score tell which modality a task needs?

The modality importance score (arXiv 2408.12763) of a network that learned four planted tasks of two modalities, v and
t, one that v alone answers, one that t alone does, one that either does, and one that needs both, the XOR of a bit of
each; in training an example loses a modality by chance. A task that cannot be answered is guessed right half of the
time, so the scores of v and t should be ½, −¼; −¼, ½; 0, 0; and ¼, ¼. Held out, and of the same network untrained: how
far scores are from these at most, and how far accuracy with another example's t is at most from that without t.
"""

import jax
import numpy as np

from pretrain.evals.metrics import modality_importance
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

NAMES, WIDTH, NOISE = ("v", "t"), 8, 0.3
PLANTED = {"v alone": (0.5, -0.25), "t alone": (-0.25, 0.5), "either": (0.0, 0.0), "both": (0.25, 0.25)}
SUBSETS = (("v",), ("t",), ("v", "t"))
TRAINED, UNTRAINED = "trained", "untrained"
SIZES = dict(
    steps=(4000, 3, "of training"), batch=(128, 8, "examples a step"), examples=(16384, 64, "to train on"),
    held_out=(4096, 64, "to evaluate on"), seeds=(5, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("every score is within .05 of what was planted", "off by", TRAINED, sign=-1, bound=-0.05),
    Gate("and nearer than the untrained network's", "off by", TRAINED, UNTRAINED, sign=-1),
    Gate("t of another example is worth no more than none, within .05", "another's t", TRAINED, sign=-1, bound=-0.05),
)


def label(task: str) -> str:
    return task.replace(" ", "_")


def config(steps: int, batch: int) -> dict:
    labels, objective = [label(task) for task in PLANTED], dict(absent=0.2, every=False)
    return sequential(NAMES, labels, objective, dict(lr=1e-3), steps=steps, batch=batch, state=64, hidden=(64, 64))


def examples(rng, size: int) -> dict:
    """Data of a batch `[n, 1, …]`: three bits of each modality, of which one is the same in both."""
    own, either, half = rng.integers(2, size=(2, size)), rng.integers(2, size=size), rng.integers(2, size=(2, size))
    data = {}
    for i, name in enumerate(NAMES):
        x = NOISE * rng.normal(size=(size, WIDTH))
        x[:, :3] += 2.0 * np.stack([own[i], either, half[i]], 1) - 1
        data[name] = x
    right = (own[0], own[1], either, half[0] ^ half[1])
    return vectors(**data) | classes(**dict(zip(map(label, PLANTED), right)))


def accuracies(experiment: Experiment, params, data) -> dict:
    """{task: accuracy}, by the last state."""
    found = experiment.outputs(params, data, *(f"decode_{label(task)}" for task in PLANTED))
    right = lambda task, x: x[:, -1].argmax(-1) == data[label(task)]["ids"][:, 0, 0]
    return {task: float(right(task, found[f"decode_{label(task)}"]).mean()) for task in PLANTED}


def evaluate(experiment: Experiment, params, data, rng) -> dict:
    shown = (lacking(data, "t"), lacking(data, "v"), data)
    accuracy = {subset: accuracies(experiment, params, part) for subset, part in zip(SUBSETS, shown)}
    order = rng.permutation(len(data["row"]))
    another = accuracies(experiment, params, data | {"t": jax.tree.map(lambda x: x[order], data["t"])})
    scores = {task: modality_importance({s: a[task] for s, a in accuracy.items()}) for task in PLANTED}
    found = {f"{task}: {name}": scores[task][name] for task in PLANTED for name in NAMES}
    off = max(abs(scores[task][name] - value) for task, two in PLANTED.items() for name, value in zip(NAMES, two))
    # Where t alone answers, another's t answers wrongly half of the time, as none does; where either does it misleads.
    gained = max(another[task] - accuracy[("v",)][task] for task in PLANTED)
    return found | {"off by": off, "another's t": gained}


def measure(steps=4000, batch=128, size=16384, held_out=4096, seeds=5) -> dict:
    """{trained, untrained: [{metric: value} of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {TRAINED: [], UNTRAINED: []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train, test = examples(rng, size), examples(rng, held_out)
        for name, params in (
            (TRAINED, experiment.train(train, seed)[0]),
            (UNTRAINED, experiment.init(jax.random.key(seed))),
        ):
            results[name].append(evaluate(experiment, params, test, np.random.default_rng(seed)))
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.examples, args.held_out, args.seeds)
    title = f"simulated; importance by task and modality; {args.steps} steps of {args.batch}"
    finish("modality_importance", args, title, results, systems=[75], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
