"""python -m tools.experiments.modality_importance: does the score tell which modality a task needs?

The modality importance score (arXiv 2408.12763) of a network that learned four planted tasks of two modalities, v and
t, one that v alone answers, one that t alone does, one that either does, and one that needs both, the XOR of a bit of
each; in training an example loses a modality by chance. A task that cannot be answered is guessed right half of the
time, so the scores of v and t should be ½, −¼; −¼, ½; 0, 0; and ¼, ¼. Held out, and of the same network untrained: how
far scores are from these at most, and how far accuracy with another example's t is at most from that without t.
"""

import importlib

import jax
import numpy as np

from pretrain.evals.metrics import modality_importance
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from tools.experiments.common import Experiment, Gate, finish, options, vectors

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
    parts = importlib.import_module("configs.systems.multimodn").parts
    decoders = {label(task): f"decode_{label(task)}" for task in PLANTED}
    layers = dict(state=64, hidden=(64, 64), decoders=dict.fromkeys(decoders, 2))
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, kind="vectors", shape=(1, WIDTH), field=n, targets=False) for n in NAMES],
        labels=[dict(name=n, kind="labels", shape=(1,), field=n, vocab_size=2) for n in decoders],
        model=dict(model="models.network", parts=parts(NAMES, 32, **layers), dtype="float32"),
        objectives=dict(stepwise=dict(inputs=NAMES, decoders=decoders, absent=0.2, every=False)),
        optim=dict(lr=1e-3, warmup=steps // 10, weight_decay=0.0),
    )  # fmt: skip


def examples(rng, size: int) -> dict:
    """Data of a batch `[n, 1, …]`: three bits of each modality, of which one is the same in both."""
    own, either, half = rng.integers(2, size=(2, size)), rng.integers(2, size=size), rng.integers(2, size=(2, size))
    data = {}
    for i, name in enumerate(NAMES):
        x = NOISE * rng.normal(size=(size, WIDTH))
        x[:, :3] += 2.0 * np.stack([own[i], either, half[i]], 1) - 1
        data[name] = x
    classes = dict(zip(PLANTED, (own[0], own[1], either, half[0] ^ half[1])))
    valid = np.ones((size, 1, 1), bool)
    return vectors(**data) | {
        label(task): {"ids": y[:, None, None].astype(np.int16), "valid": valid} for task, y in classes.items()
    }


class Right:
    """(params, data, which modalities are shown) → {task: accuracy}, by the last state."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.compute = experiment, jax.jit(self._compute)

    def _compute(self, params, batch):
        model = self.experiment.model(params)
        given = Leaf(Whole(NAMES, self.experiment.run.modalities))
        nodes = {task: model.states.chain(f"decode_{label(task)}", given) for task in PLANTED}
        return {task: stream.x[:, -1].argmax(-1) for task, stream in compute(model, nodes, batch).items()}

    def __call__(self, params, data, shown=NAMES):
        hidden = {n: data[n] | {"valid": np.zeros_like(data[n]["valid"])} for n in NAMES if n not in shown}
        guesses = self.compute(params, jax.tree.map(lambda x: x[:, 0], data | hidden))
        return {task: float((np.asarray(g) == data[label(task)]["ids"][:, 0, 0]).mean()) for task, g in guesses.items()}


def evaluate(right: Right, params, data, rng) -> dict:
    accuracy = {subset: right(params, data, subset) for subset in SUBSETS}
    order = rng.permutation(len(data["row"]))
    another = right(params, data | {"t": jax.tree.map(lambda x: x[order], data["t"])})
    scores = {task: modality_importance({s: a[task] for s, a in accuracy.items()}) for task in PLANTED}
    found = {f"{task}: {name}": scores[task][name] for task in PLANTED for name in NAMES}
    off = max(abs(scores[task][name] - value) for task, two in PLANTED.items() for name, value in zip(NAMES, two))
    # Where t alone answers, another's t answers wrongly half of the time, as none does; where either does it misleads.
    gained = max(another[task] - accuracy[("v",)][task] for task in PLANTED)
    return found | {"off by": off, "another's t": gained}


def measure(steps=4000, batch=128, size=16384, held_out=4096, seeds=5) -> dict:
    """{trained, untrained: [{metric: value} of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {TRAINED: [], UNTRAINED: []}
    right = Right(experiment)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train, test = examples(rng, size), examples(rng, held_out)
        for name, params in (
            (TRAINED, experiment.train(train, seed)[0]),
            (UNTRAINED, experiment.init(jax.random.key(seed))),
        ):
            results[name].append(evaluate(right, params, test, np.random.default_rng(seed)))
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.examples, args.held_out, args.seeds)
    title = f"simulated; importance by task and modality; {args.steps} steps of {args.batch}"
    finish("modality_importance", args, title, results, systems=[75], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
