"""python -m tools.experiments.snare: does a network of pictures and texts know more of a sentence than its words?

The option tests of SNARE (arXiv 2308.12898, `configs/systems/snare.py`) on scenes of two coloured silhouettes of
emoji, one beside or above the other. Learned by contrast with sentences on colours and places: by CLIP's two small
towers; by the same on batches in which four scenes at a time show the same two things, so that words do not tell them
apart; and by CLIP with a bag of words in the place of the tower of texts. Beside them the untrained network. Of 512
held-out scenes: how often the true sentence is nearer than the one in which attributes or objects are exchanged
(`ownership`, `relation`; chance .5), how often it is nearest of two with and without a "not", of four places, and of
five orders of the words. Of all 800: R@1 of the sentence, of which words alone find much.
"""

import importlib

import jax
import numpy as np

from pretrain import build
from pretrain.evals import options
from pretrain.evals.base import Context
from tools.experiments.common import Experiment, Gate, directed_recall_at_1, encoded, finish
from tools.experiments.common import options as arguments

CLIP, NEAR, BAG, UNTRAINED = "CLIP", "CLIP, scenes of equal words in a batch", "bag of words", "untrained"
CONDITIONS, EQUAL = (CLIP, NEAR, BAG), 4
SIZES = dict(steps=(600, 2, "of training"), batch=(64, 8, "pairs a step"), seeds=(3, 2, "how many"),
             scenes=(4000, 2000, "to learn from"))  # fmt: skip
SHOWN = {
    "ownership": "ownership/true over exchanged", "relation": "relation/true over exchanged",
    "negation": "negation/true", "place": "place/true", "order": "order/true",
}  # fmt: skip
OFF = "off ½"
GATES = (
    Gate("a bag of words is at chance where words are exchanged", OFF, BAG, sign=-1, bound=-1e-6),
    Gate("it finds sentences by their words all the same", "R@1", BAG, UNTRAINED),
    Gate("CLIP is above it in ownership", "ownership", CLIP, BAG),
    Gate("and in relation", "relation", CLIP, BAG),
    Gate("scenes that words do not tell apart teach relation", "relation", NEAR, CLIP),
)


def config(condition: str, steps: int, batch: int, scenes: int) -> dict:
    c = importlib.import_module("configs.systems.snare").get_config("tiny").to_dict()
    if condition == BAG:
        c["model"]["towers"][1].update(positions="none", pool="mean", causal=False)
    c["data"]["options"] = dict(scenes=scenes)
    return c | dict(steps=steps, batch_size=batch, optim=c["optim"] | dict(warmup=steps // 10))


def near(source, steps: int, batch: int, seed: int) -> np.ndarray:
    """Batches `[steps, batch]` in which EQUAL scenes at a time show the same things, of the same colours."""
    rng, groups = np.random.default_rng(seed), {}
    for i in range(len(source)):
        example = source[i]
        groups.setdefault(frozenset(zip(example["objects"], example["attributes"])), []).append(i)
    groups = [group for group in groups.values() if len(group) >= EQUAL]
    drawn = (rng.choice(len(groups), batch // EQUAL, replace=False) for _ in range(steps))
    return np.stack([np.concatenate([rng.choice(groups[g], EQUAL, replace=False) for g in some]) for some in drawn])


def scores(experiment: Experiment, params, held_out) -> dict:
    context = Context(experiment.run, experiment.graphs, experiment.objectives)
    found = dict(options.Evaluator(context, "text", ("image",)).run(params))
    z = experiment.embeddings(params, held_out)
    shown = {name: float(found[f"image/{key}"]) for name, key in SHOWN.items()}
    off = max(abs(shown[test] - 0.5) for test in ("ownership", "relation"))
    return shown | {OFF: off, "R@1": directed_recall_at_1(z["image"], z["text"])[0]}


def measure(steps=600, batch=64, seeds=3, scenes=4000) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in (*CONDITIONS, UNTRAINED)}
    experiment = Experiment(config(CLIP, steps, batch, scenes))
    train, held_out = encoded(experiment, "train", views=4), encoded(experiment, ("val", "test"))
    source = build.source(experiment.run.data, "train")
    for name in CONDITIONS:
        experiment = Experiment(config(name, steps, batch, scenes))
        for seed in range(seeds):
            order = near(source, steps, batch, seed) if name == NEAR else None
            params, losses = experiment.train(train, seed, order=order)
            results[name].append(scores(experiment, params, held_out))
            print(name, seed, round(float(losses[-20:].mean()), 3),
                  {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)  # fmt: skip
            if name == CLIP:
                results[UNTRAINED].append(scores(experiment, experiment.init(jax.random.key(seed)), held_out))
    return results


def main(argv=None):
    args = arguments(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds, args.scenes)
    title = f"Held-out scenes of two silhouettes; {args.steps} steps of {args.batch}"
    finish("snare", args, title, results, systems=[71], control=BAG, gates=GATES)


if __name__ == "__main__":
    main()
