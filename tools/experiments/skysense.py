"""python -m tools.experiments.skysense: what do places, beside whole squares, and prototypes of regions add?

SkySense (arXiv 2312.10115, `configs/systems/skysense.py:tiny`) in small, on simulated squares of land (source
`revisited`), which three sensors saw: 600 of eight regions, whose five covers look a little different in each. Trained
with contrast of wholes alone, and of places, clusters and wholes (all levels); before training, too. Held out are 120
squares: what covers a place, by a linear layer on the fused features, of 100 other squares (`cover`); in each region,
by the nearest mean of three places of each cover (`few-shot`), and so with its prototypes read back (`own prototypes`),
or those of another region (`another's`).
"""

import importlib

import jax
import numpy as np

from pretrain import build
from pretrain.evals.few_shot import accuracy
from pretrain.evals.linear import fit
from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, encoded, finish, options

FRESH, WHOLE, ALL = "untrained", "wholes alone", "all levels"
LEVELS = {WHOLE: ("whole",), ALL: ("places", "clusters", "whole")}
SIZES = dict(steps=(200, 4, "of training"), batch=(32, 16, "squares a step"), seeds=(3, 2, "how many"))
GATES = (Gate("contrast at all levels tells covers better than the network before training", "cover", ALL, FRESH),)
SQUARES, LABELLED, SHOTS, DRAWS, REGIONS, COVERS = 600, 100, 3, 5, 8, 5


def config(condition: str, steps: int, batch: int) -> dict:
    c = importlib.import_module("configs.systems.skysense").get_config("tiny").to_dict()
    c["data"]["options"] = dict(squares=SQUARES)
    c["objectives"]["granularity"]["levels"] = LEVELS[condition]
    return c | dict(
        steps=steps,
        batch_size=batch,
        evals={},
        final_evals={},
        optim=dict(lr=2e-3, clip=1.0, warmup=min(20, steps // 2)),
    )


def features(experiment, params, data, part: str, shift: int = 0) -> np.ndarray:
    """`[n, places, D]` of what a part makes of all sensors; shift: to the prototypes of so many regions further."""
    model, batch = experiment.model(params), jax.tree.map(lambda x: x[:, 0], data)
    region = batch["region"]
    batch |= {"region": region | {"vectors": (region["vectors"] + shift) % REGIONS}}
    leaves = {m: model.states.shown(m) for m in model.states.read_by(part)}
    return np.asarray(compute(model, {part: model.states.over(part, leaves)}, batch)[part].x)


def covers(source) -> np.ndarray:
    """`[n, places]`."""
    return np.stack([source[i]["cover"].ravel() for i in range(len(source))]).astype(int)


def few_shot(x, cover, region, others, known, places) -> float:
    """The mean over regions. x, others: features to learn from and to tell, with what covers them and their regions."""
    found = []
    for r in range(REGIONS):
        bank, labels = x[region == r].reshape(-1, x.shape[-1]), cover[region == r].ravel()
        queries, wanted = others[places == r].reshape(-1, x.shape[-1]), known[places == r].ravel()
        unit = lambda a, bank=bank: (a - bank.mean(0)) / np.linalg.norm(a - bank.mean(0), axis=1, keepdims=True)
        found += [accuracy(unit(bank), labels, unit(queries), wanted, SHOTS, seed) for seed in range(DRAWS)]
    return float(np.mean(found))


def scores(experiment, params, train, held_out, cover, known) -> dict:
    first = jax.tree.map(lambda x: x[: 4 * LABELLED], train)
    region, places = (data["region"]["vectors"][:, 0, 0, 0].astype(int) for data in (first, held_out))
    both = lambda part, shift=0: [features(experiment, params, data, part, shift) for data in (first, held_out)]
    told = lambda x, others: few_shot(x, cover[: len(x)], region, others, known, places)
    x, others = both("fused")
    flat = lambda a: a.reshape(1, -1, a.shape[-1])
    linear = fit(flat(x[:LABELLED]), cover[:LABELLED].ravel(), COVERS, 1e-3)
    return {
        "cover": linear.accuracy(flat(others), known.ravel()), "few-shot": told(x, others),
        "own prototypes": told(*both("regions")), "another's": told(*both("regions", 1)),
    }  # fmt: skip


def measure(steps=200, batch=32, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in (FRESH, *LEVELS)}
    for name in LEVELS:
        experiment = Experiment(config(name, steps, batch))
        run = experiment.run
        train, held_out = encoded(experiment, "train", views=4), encoded(experiment, ("val", "test"))
        sources = (build.source(run.data, s) for s in ("train", ("val", "test")))
        cover, known = map(covers, sources)
        for seed in range(seeds):
            learned = {name: experiment.train(train, seed)[0]}
            if name == WHOLE:
                learned[FRESH] = jax.jit(experiment.init)(jax.random.key(seed))
            for condition, params in learned.items():
                results[condition].append(scores(experiment, params, train, held_out, cover, known))
                print(condition, seed, {k: round(v, 3) for k, v in results[condition][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Places of 120 held-out squares after {args.steps} steps of {args.batch}; of {COVERS} covers"
    finish("skysense", args, title, results, systems=[24], control=WHOLE, gates=GATES)


if __name__ == "__main__":
    main()
