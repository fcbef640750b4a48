"""python -m tools.experiments.prototypes_segmentation: do texts and regions segment better together than each?

Prototypes after arXiv 2307.02003 (`configs/systems/prototypes_segmentation.py`, `pretrain.evals.segmentation`) on
scenes of four silhouettes of emoji, 64 patches each, whose embeddings are planted: a shape has three looks, vectors
about one centre, of which it has one in a scene; a patch is the mean of what it shows by area, under noise. A text
lies between the centres of two shapes, nearer to its own. Given are one text and one example of each shape, whose look
is one of three; or three texts and five examples. mIoU of the six shapes, without the ground, by texts, by regions,
and by both, of the best prototype and of the mean over them.
"""

import importlib

import numpy as np

from pretrain.evals import segmentation
from pretrain.evals.base import Context
from pretrain.evals.features import unit
from tools.experiments.common import Experiment, Gate, finish, options

TEXT, VISUAL, BOTH = segmentation.KINDS
POOR, RICH = "one text, one example", "three texts, five examples"
GIVEN = {POOR: (1, 1), RICH: (3, 5)}
SIZES = dict(seeds=(6, 2, "how many"), scenes=(2000, 200, "of which a tenth is segmented, twice"))
GATES = (
    Gate("both are above texts", POOR, BOTH, TEXT),
    Gate("both are above regions", POOR, BOTH, VISUAL),
    Gate("the best of several regions is above their mean", RICH, VISUAL, "visual, mean"),
    Gate("and so of both", RICH, BOTH, "both, mean"),
)
CLASSES, LOOKS, WIDTH = 7, 3, 32
SPREAD, BETWEEN, NOISE = 1.0, 0.7, 0.5


class Planted(segmentation.Evaluator):
    """Patches and texts whose embeddings are drawn from params, {"looks" `[classes, LOOKS, E]`, "seed"}."""

    def _tokens(self, params, batch):
        share, looks = self._shares(self._truth(batch)), params["looks"]
        out = np.empty((*share.shape[:2], WIDTH), np.float32)
        for i, row in enumerate(np.asarray(batch["row"]).tolist()):
            rng = np.random.default_rng([params["seed"], row + 1])
            x = share[i] @ looks[np.arange(CLASSES), rng.integers(LOOKS, size=CLASSES)]
            out[i] = x + NOISE * rng.normal(size=x.shape) / WIDTH**0.5
        return unit(out)

    def _texts(self, params):
        centres = params["looks"].mean(1)
        rng, found = np.random.default_rng([params["seed"], 0]), []
        for c, texts in enumerate(self.aspects):
            other = 1 + c % (CLASSES - 1)  # the shape that its texts could mean as well
            x = centres[c] + BETWEEN * centres[other]
            found.append(unit(x + NOISE * rng.normal(size=(len(texts), WIDTH)) / WIDTH**0.5))
        return found[1:]


def looks(seed: int) -> np.ndarray:
    """Of the ground and of each shape, unit length `[classes, LOOKS, WIDTH]`."""
    rng = np.random.default_rng([seed, 1])
    return unit(rng.normal(size=(CLASSES, 1, WIDTH)) + SPREAD * rng.normal(size=(CLASSES, LOOKS, WIDTH)))


def scores(context: Context, seed: int) -> dict:
    """{condition: {what was given: mIoU}}."""
    found, c = {}, context.run.final_evals["segmentation"]
    for name, (texts, shots) in GIVEN.items():
        aspects = [[], *(few[:texts] for few in c["aspects"][1:])]
        task = Planted(context, **c | dict(aspects=aspects, shots=shots))
        found[name] = dict(task.run({"looks": looks(seed), "seed": seed}))
    ways = {
        f"{kind}{end}": f"{kind}/{how}" for how, end in (("max", ""), ("mean", ", mean")) for kind in segmentation.KINDS
    }
    return {way: {name: float(f[f"{key}/mIoU"]) for name, f in found.items()} for way, key in ways.items()}


def measure(seeds=6, scenes=2000) -> dict:
    """{condition: [scores of every seed]}."""
    c = importlib.import_module("configs.systems.prototypes_segmentation").get_config("tiny").to_dict()
    c["data"]["options"] = dict(scenes=scenes)
    experiment, results = Experiment(c), {}
    context = Context(experiment.run, experiment.graphs, experiment.objectives)
    for seed in range(seeds):
        for name, values in scores(context, seed).items():
            results.setdefault(name, []).append(values)
        print(seed, {n: [round(v, 3) for v in runs[-1].values()] for n, runs in results.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.seeds, args.scenes)
    title = f"mIoU of six shapes in {args.scenes // 5} scenes of planted patches"
    finish("prototypes_segmentation", args, title, results, systems=[78], control=VISUAL, gates=GATES)


if __name__ == "__main__":
    main()
