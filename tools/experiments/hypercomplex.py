"""python -m tools.experiments.hypercomplex: do quaternions tell direction, and does text find what was never linked?

Hypercomplex link prediction (arXiv 2208.02743, `configs/systems/hypercomplex.py`) in small. Directed, simulated: 128
entities on a ring, eight relations, each a number of steps in one direction, 30 % of the triples held out. DistMult,
whose score is the same both ways, against the system's with quaternions or dihedra, with neither, and quaternions under
DistMult's score. Unseen, real: the graph of emoji, keywords and groups, whose held-out emoji are in no triple of
training: of each the keywords and the subgroup are asked for among all entities, and it of those, by structure alone,
with hashed texts beside it, or with those of other entities. Filtered MRR and Hits@k; seeds draw the ring, its split
and what parameters start from.
"""

import dataclasses
import importlib

import numpy as np

from data_pipeline.sources.emoji_graph import RELATIONS, graph
from pretrain.evals.base import Context
from pretrain.evals.links import Evaluator, inverse
from tools.experiments.common import Experiment, Gate, finish, options

DISTMULT, HAMILTON = "directed: DistMult", "directed: quaternions"
STRUCTURE, TEXT, OTHERS = "unseen: structure alone", "unseen: with text", "unseen: text of others"
PLAIN = dict(product="real", normalise=False)
CONDITIONS = {
    DISTMULT: PLAIN | dict(score="dot"),
    "directed: real, distances": PLAIN,
    "directed: quaternions, products": dict(score="dot"),
    HAMILTON: {},
    "directed: dihedra": dict(product="dihedron"),
    STRUCTURE: {},
    OTHERS: {},
    TEXT: {},
}
SIZES = dict(steps=(600, 4, "of training"), batch=(128, 16, "triples a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("quaternions rank better than DistMult where relations have a direction", "MRR", HAMILTON, DISTMULT),
    Gate("of unseen entities text beside structure ranks better than structure alone", "MRR", TEXT, STRUCTURE),
    Gate("and better than the text of other entities", "MRR", TEXT, OTHERS),
)
ENTITIES, STEPS, HELD, DIM = 128, (1, 2, 3, 5, 8, 13, 21, 34), 0.3, 32
VIEWS = dict(words=256, letters=256, stems=256)


def ring(seed: int) -> dict:
    """{split: triples `[n, 3]`}."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(ENTITIES)  # of the entity with each number
    heads, relations = (x.ravel() for x in np.meshgrid(np.arange(ENTITIES), np.arange(len(STEPS)), indexing="ij"))
    tails = np.argsort(place)[(place[heads] + np.asarray(STEPS)[relations]) % ENTITIES]
    triples = rng.permutation(np.stack([heads, relations, tails], 1))
    held = int(HELD * len(triples))
    return {"train": triples[held:], "test": triples[:held]}


def data_of(triples) -> dict:
    """`[n, 3]` → data of one view."""
    out = {
        name: {"ids": triples[:, i, None, None].astype(np.int32), "valid": np.ones((len(triples), 1, 1), bool)}
        for i, name in enumerate(("head", "relation", "tail"))
    }
    return out | {"row": np.arange(len(triples))[:, None]}


def config(condition: str, steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.hypercomplex")
    directed, views = condition.startswith("directed"), {} if condition == STRUCTURE else VIEWS
    sizes = (ENTITIES, len(STEPS)) if directed else (len(graph().entities), len(RELATIONS))
    views = {} if directed else views
    return dict(
        steps=steps, batch_size=batch, data=dict(source="emoji_graph", options=dict(unseen=True)),
        modalities=[system.view(n, width) for n, width in VIEWS.items()], labels=system.labels(*sizes),
        model=dict(model="models.network", dtype="float32", parts=system.parts(VIEWS, DIM // 4)),
        objectives=dict(links=dict(views=list(views), dim=DIM) | CONDITIONS[condition]),
        optim=dict(lr=0.1, final_lr=1.0, moments="adagrad", eps=1e-10, weight_decay=0.0),
    )  # fmt: skip


def shuffled(one, seed=0):
    """The objective with the views of every entity given to another."""

    def read(split):
        batch = one.context.read(split)
        order = np.random.default_rng(seed).permutation(len(batch["row"]))
        return {name: {k: x[order] for k, x in batch[name].items()} for name in VIEWS}

    return dataclasses.replace(one, context=dataclasses.replace(one.context, read=read))


def scores(experiment: Experiment, params, triples: dict) -> dict:
    """Of the split `test`, tails and heads alike."""
    task = Evaluator(Context(experiment.run, experiment.graphs, experiment.objectives), at=(1, 10))
    every, count = np.concatenate(list(triples.values())), experiment.objectives["links"].relations
    turns = (lambda x: x), (lambda x: inverse(x, count))
    rank = np.concatenate([task.ranks(params, turn(triples["test"]), turn(every))[0] for turn in turns])
    return {"MRR": (1 / rank).mean(), "Hits@1": (rank == 1).mean(), "Hits@10": (rank <= 10).mean()}


def measure(steps=600, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        if name == OTHERS:
            experiment.objectives["links"] = shuffled(experiment.objectives["links"])
        for seed in range(seeds):
            triples = ring(seed) if name.startswith("directed") else graph(True).triples
            params, _ = experiment.train(data_of(triples["train"]), seed)
            results[name].append(scores(experiment, params, triples))
            print(name, seed, {k: round(float(v), 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Links found after {args.steps} steps of {args.batch}: of a ring, and of emoji that training never saw"
    finish("hypercomplex", args, title, results, systems=[45], control=DISTMULT, gates=GATES)


if __name__ == "__main__":
    main()
