"""python -m tools.experiments.modalities: do more modalities cost what fewer would have learned?

4M-21 (arXiv 2406.09406) in small, `configs/systems/fourm21.py`: from one picture of an emoji, as patches, to its
caption and its group; the same beside two more pictures and three more texts, with budgets of tokens twice as large, as
the paper has them, or as they were. Equal steps, batches and networks. Held out, 270 emoji: −log p, nats a token, of
caption and group given the picture, and their mean.
"""

import importlib

from pretrain.evals import nll
from pretrain.evals.base import Context
from tools.experiments.common import Experiment, Gate, encoded, finish, options

PICTURE, TEXTS = "render3d", ("caption", "group")
ALL = dict(
    pictures=("render3d", "flat", "noto"), texts=("caption", "name", "keywords", "group", "subgroup")
)  # fmt: skip
CONDITIONS = {
    "2 targets": dict(pictures=(PICTURE,), texts=TEXTS, budget=32),
    "5 targets": dict(budget=64, **ALL),
    "5 targets, same budgets": dict(budget=32, **ALL),
}
SIZES = dict(steps=(300, 2, "of training"), seeds=(3, 1, "how many"))
GATES = (
    Gate("more modalities cost at most .02 nats of what both predict", "mean", "5 targets", "2 targets", -1, -0.02),
)  # fmt: skip


def config(condition: str, steps: int) -> dict:
    make = importlib.import_module("configs.systems.fourm").text_to_text
    c = make(**CONDITIONS[condition])
    c.steps, c.optim.warmup = steps, steps // 10
    return c.to_dict()


def scores(experiment, params) -> dict:
    context = Context(experiment.run, experiment.graphs, experiment.objectives)
    found = dict(nll.Evaluator(context, inputs=(PICTURE,), targets=TEXTS).run(params))
    out = {name: float(found[f"{PICTURE}→{name}"]) for name in TEXTS}
    return out | {"mean": sum(out.values()) / len(out)}


def measure(steps=300, seeds=3, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment = Experiment(config(name, steps))
        data = encoded(experiment, "train", views=4)
        results[name] = [scores(experiment, experiment.train(data, seed)[0]) for seed in range(seeds)]
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.seeds)
    title = f"−log p given {PICTURE}, nats a token; {args.steps} steps of 64"
    finish("modalities", args, title, results, systems=[39], control="2 targets", gates=GATES)


if __name__ == "__main__":
    main()
