"""python -m tools.experiments.joint --tokens=DIR: do masked modeling and contrastive learning help each other?

The quickstart's run (configs/emoji.py) with both objectives, and with each alone, at equal steps from the same seeds.
Held out: R@1 of 270 between the 3D and the Noto pictures of an emoji (where no contrastive objective made a projection,
of the pooled encoder output); the masked objective's mean −log p of a token, over its target modalities; and −log p of
Noto and caption given the 3D picture whole. DIR: a token store of `tools.tokenize`.
"""

import copy

from absl import app, flags
from ml_collections import config_flags

from pretrain.evals import losses, nll, retrieval
from pretrain.evals.base import Context
from tools.experiments.common import Experiment, encoded, report

CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji.py", "A run with objectives masked and contrastive.")
TOKENS = flags.DEFINE_string("tokens", None, "The token store.")
STEPS = flags.DEFINE_integer("steps", 150, "Of training.")
BATCH = flags.DEFINE_integer("batch", 64, "Examples a step.")
SEEDS = flags.DEFINE_integer("seeds", 1, "How many.")
CONDITIONS = {
    "joint": ("masked", "contrastive"),
    "masked alone": ("masked",),
    "contrastive alone": ("contrastive",),
}
ONLY = flags.DEFINE_multi_enum("condition", list(CONDITIONS), list(CONDITIONS), "Which of them.")
flags.mark_flags_as_required(["tokens"])
PICTURE, OTHER = "render3d", "noto"


def scores(experiment, params, masked) -> dict:
    """masked: the masked objective, with which runs that train without it are evaluated as well."""
    context = Context(experiment.run, experiment.graph, experiment.objectives)
    found = dict(retrieval.Evaluator(context, pairs=((PICTURE, OTHER),)).run(params))
    out = {f"R@1 {name}": found[f"{name}/R@1"] for name in (f"{PICTURE}→{OTHER}", f"{OTHER}→{PICTURE}")}
    context = Context(experiment.run, experiment.graph, {"masked": masked})
    own = {"model": params["model"], "objective": {"masked": {}}}
    out["masked NLL"] = dict(losses.Evaluator(context, batch_size=32).run(own))["loss"] / masked.coef
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


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    CONFIG.value.data.path = TOKENS.value
    title = f"emoji tokens, {STEPS.value} steps of {BATCH.value}"
    report(title, measure(CONFIG.value.to_dict(), STEPS.value, BATCH.value, SEEDS.value, ONLY.value))


if __name__ == "__main__":
    app.run(main)
