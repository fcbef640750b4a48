"""python -m tools.experiments.joint --tokens=DIR: do masked modeling and contrastive learning help each other?

The quickstart's run (configs/emoji.py) with both objectives, and with each alone, at equal steps from the same seeds.
Held out: R@1 of 270 between the 3D and the Noto pictures of an emoji (where no contrastive objective made a projection,
of the pooled encoder output); the masked objective's mean −log p of a token, over its target modalities; and −log p of
Noto and caption given the 3D picture whole. DIR: a token store of `tools.tokenize`.
"""

import copy
import importlib

from pretrain.evals import losses, nll, retrieval
from pretrain.evals.base import Context
from pretrain.schedule import at
from tools.experiments.common import Experiment, encoded, finish, options

CONDITIONS = {
    "joint": ("masked", "contrastive"),
    "masked alone": ("masked",),
    "contrastive alone": ("contrastive",),
}
SIZES = dict(steps=(150, 2, "of training"), batch=(64, 8, "examples a step"), seeds=(1, 1, "how many"))
PICTURE, OTHER = "render3d", "noto"


def scores(experiment, params, masked) -> dict:
    """masked: the masked objective, with which runs that train without it are evaluated as well."""
    context = Context(experiment.run, experiment.graphs, experiment.objectives)
    found = dict(retrieval.Evaluator(context, pairs=((PICTURE, OTHER),)).run(params))
    out = {f"R@1 {name}": found[f"{name}/R@1"] for name in (f"{PICTURE}→{OTHER}", f"{OTHER}→{PICTURE}")}
    context = Context(experiment.run, experiment.graphs, {"masked": masked})
    own = {"model": params["model"], "objective": {"masked": {}}}
    out["masked NLL"] = dict(losses.Evaluator(context, batch_size=32).run(own))["loss"] / at(masked.coef)
    for name, value in nll.Evaluator(context, inputs=(PICTURE,), targets=(OTHER, "caption")).run(own):
        out[f"NLL {name}"] = value
    return out


def measure(config, steps=150, batch=64, seeds=1, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}; config: a plain dict."""
    config = copy.deepcopy(config) | dict(steps=steps, batch_size=batch)
    masked = Experiment(config).objectives["masked"]
    results = {}
    for condition in conditions:
        kept = {name: config["objectives"][name] for name in CONDITIONS[condition]}
        experiment = Experiment(config | dict(objectives=kept))
        data = encoded(experiment, "train", views=4)
        results[condition] = [scores(experiment, experiment.train(data, s)[0], masked) for s in range(seeds)]
    return results


def main(argv=None):
    args = options(
        __doc__, argv, SIZES,
        tokens=dict(required=True, help="the token store"),
        conditions=dict(nargs="+", choices=tuple(CONDITIONS), default=tuple(CONDITIONS)),
    )  # fmt: skip
    config = importlib.import_module("configs.emoji").get_config()
    config.data.path = args.tokens
    results = measure(config.to_dict(), args.steps, args.batch, args.seeds, args.conditions)
    title = f"emoji tokens, {args.steps} steps of {args.batch}"
    finish("joint", args, title, results, systems=[], control=args.conditions[-1], gates=())


if __name__ == "__main__":
    main()
