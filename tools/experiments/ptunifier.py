"""python -m tools.experiments.ptunifier: what should stand in the place of a modality that is not there?

PTUnifier (arXiv 2302.08958, `configs/systems/ptunifier.py`) in small on the emoji corpus: pictures and their names. In
the place of the one that is not there, in contrastive training and in the tests: nothing but its class token, zeros,
one static prompt, a pool of prompts that learns by gradient, and one that does not, as the release has it. Contrast
counts 1, not .1: here nobody lacks anything, and it is the only loss that sees what is filled in. Tests of one modality
alone, on the 270 held-out emoji: how well a logistic regression tells their nine groups from the network's
vector of a picture alone, or of a name alone, and their mean; R@1 between both; and the entropy of how often each entry
of a pool is taken, in nats, the mean over both pools. Of a static prompt it is that of its tokens; a pool that always
gives the same entries has no more.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sources import emoji
from pretrain.evals.linear import fit
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from tools.experiments.common import Experiment, Gate, encoded, finish, options, recall_at_1, split

CONDITIONS = {  # settings of both `prompt_pool`s
    "drop": dict(how="drop"),
    "zeros": dict(how="zeros"),
    "one static prompt": dict(how="static"),
    "pool with gradient": dict(),
    "frozen pool": dict(learn=False),
}
STATIC, POOL, FROZEN = "one static prompt", "pool with gradient", "frozen pool"
DECAY = 0.1  # of the regression, the same for all
SIZES = dict(steps=(300, 2, "of training"), batch=(64, 8, "examples a step"), seeds=(3, 2, "how many"))
GATES = (
    Gate("a pool that learns is no worse than a static prompt (.01)", "alone", POOL, STATIC, bound=-0.01),
    Gate("a static prompt is better than zeros", "alone", STATIC, "zeros"),
    Gate("a frozen pool is at most .02 worse than a static prompt", "alone", FROZEN, STATIC, bound=-0.02),
    Gate("a frozen pool is at most .02 better than a static prompt", "alone", FROZEN, STATIC, sign=-1, bound=-0.02),
)


def config(fill: dict, steps: int, batch: int) -> dict:
    """The tiny run with another filling."""
    system = importlib.import_module("configs.systems.ptunifier")
    c = system.get_config("tiny").to_dict()
    c["model"] = system.model(**system.SIZES["tiny"] | dict(image=1), end=3, **fill) | dict(dtype="float32")
    c["objectives"]["contrast"]["coef"] = 1.0
    c["data"] = c["data"] | dict(transforms=[dict(transform="crop", min_scale=0.6)])
    return c | dict(steps=steps, batch_size=batch, optim=c["optim"] | dict(warmup=steps // 10))


class Reader:
    """(params, data) → ({modality: (vector, embedding)} of each alone, {modality: the rows of prompts that stand for
    it, `[n, k]` or `[k]`, where some do}).
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self._read = experiment, jax.jit(self._read)

    def __call__(self, params, data):
        return jax.device_get(self._read(params, jax.tree.map(lambda x: x[:, 0], data)))

    def _read(self, params, batch):
        model, modalities = self.experiment.model(params), self.experiment.run.modalities
        leaves, states = {m.name: Leaf(Whole((m.name,), modalities)) for m in modalities}, model.states
        nodes = {(n, "vector"): states.pooled(n, leaf) for n, leaf in leaves.items()}
        nodes |= {(n, "z"): states.embedding(n, leaf) for n, leaf in leaves.items()}
        nodes |= {(n, "tokens"): states.chain(f"{n}_embed", leaf) for n, leaf in leaves.items()}
        found, taken = compute(model, nodes, batch), {}
        for name, other in (("text", "image"), ("image", "text")):
            part = getattr(model, f"{name}_fill")
            if part.config.how == "pool":
                taken[name] = part.choose([found[other, "tokens"]])
            elif part.config.how == "static":
                taken[name] = jnp.arange(part.config.tokens)
        return {n: (found[n, "vector"], found[n, "z"]) for n in leaves}, taken


def entropy(taken) -> float:
    """Of how often each entry is taken, in nats; taken: int, of any shape."""
    share = np.unique(taken, return_counts=True)[1] / np.size(taken)
    return float(-(share * np.log(share)).sum())


def tests(reader: Reader, params, data, labels) -> dict:
    """data, labels: of what the regression learns from, and of the held-out examples."""
    (train, _), (held, taken) = (reader(params, part) for part in data)
    classes = np.unique(labels[0])
    known, wanted = (np.searchsorted(classes, part) for part in labels)
    accuracy = {
        n: fit(train[n][0][None], known, len(classes), DECAY).accuracy(held[n][0][None], wanted) for n in held
    }  # fmt: skip
    return {
        "picture alone": accuracy["image"],
        "name alone": accuracy["text"],
        "alone": (accuracy["image"] + accuracy["text"]) / 2,
        "R@1": recall_at_1(held["image"][1], held["text"][1]),
        "usage entropy": float(np.mean([entropy(t) for t in taken.values()] or 0)),
    }


def groups(splits) -> list[str]:
    source = emoji.Source(splits)
    return [source[i]["group"] for i in range(len(source))]


def measure(steps=300, batch=64, seeds=3, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results, labels = {}, None
    for name in conditions:
        experiment = Experiment(config(CONDITIONS[name], steps, batch))
        if labels is None:
            train, held = split(experiment)
            still = encoded(experiment, "train")
            labels = [groups(s) for s in ("train", ("val", "test"))]
        reader, results[name] = Reader(experiment), []
        for seed in range(seeds):
            params, _ = experiment.train(train, seed)
            results[name].append(tests(reader, params, (still, held), labels))
            print(name, seed, results[name][-1], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"accuracy of groups and R@1 of 270 held-out emoji; {args.steps} steps of {args.batch}"
    finish("ptunifier", args, title, results, systems=[60], control=STATIC, gates=GATES)


if __name__ == "__main__":
    main()
