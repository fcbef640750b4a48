"""python -m tools.experiments.turing_rsa: do pictures come to be alike as those who name them would have them?

Representational similarity as in Turing RSA (arXiv 2412.00577, `pretrain.evals.rsa`) with languages in the place of
people: to each of 26 two emoji are as alike as their names share groups of three letters (Jaccard). CLIP's two small
towers (`configs/clip_b16.py:tiny`) learn 3D pictures and English names of 1,300 emoji; of the pictures of the 270 held
out, Spearman's correlation with the mean of all languages, its p-value, and with a single language; of the languages
among each other, the noise ceiling (upper as `group`, lower as `a rater`). Controls: the untrained
network, and the pixels themselves.
"""

import importlib

import jax
import numpy as np

from data_pipeline.sources.emoji import Source
from pretrain.evals import metrics
from pretrain.evals.reference import jaccard
from tools.experiments.common import Experiment, Gate, encoded, finish, options

TRAINED, UNTRAINED, PIXELS = "trained", "untrained", "pixels"
LANGUAGES, GROUP, ONE = "languages themselves", "group", "a rater"
SIZES = dict(steps=(300, 2, "of training"), batch=(64, 8, "examples a step"), seeds=(3, 2, "how many"),
             permutations=(999, 9, "of the examples"))  # fmt: skip
GATES = (
    Gate("pictures agree with the group after training more than before", GROUP, TRAINED, UNTRAINED),
    Gate("and more than pixels do", GROUP, TRAINED, PIXELS),
    Gate("and more with the group than with one rater", "group less a rater", TRAINED),
)


def raters(names: list[dict]) -> np.ndarray:
    """Similarities `[languages, n, n]` of examples by their names, {language: name} each."""
    return np.stack([jaccard([letters(name[language]) for name in names]) for language in sorted(names[0])])


def letters(name: str) -> set:
    padded = f" {name.lower()} "
    return {padded[i : i + 3] for i in range(max(len(padded) - 2, 1))}


def scores(x, given, permutations: int) -> dict:
    group = metrics.representational_similarity(x, given.mean(0))
    each = float(np.mean([metrics.representational_similarity(x, rater) for rater in given]))
    p = metrics.permutation_p(x, given.mean(0), permutations)
    return {GROUP: group, "p": p, ONE: each, "group less a rater": group - each}


def measure(steps=300, batch=64, seeds=3, permutations=999) -> dict:
    """{condition: [scores of every seed]}."""
    config = importlib.import_module("configs.clip_b16").get_config("tiny").to_dict()
    optimizer = config["optim"] | dict(warmup=steps // 10)
    experiment = Experiment(config | dict(steps=steps, batch_size=batch, optim=optimizer))
    train, held_out = encoded(experiment, "train", views=4), encoded(experiment, ("val", "test"))
    source = Source(("val", "test"))
    given = raters([source[i]["name"] for i in range(len(source))])
    pixels = np.asarray(held_out["image"]["pixels"], np.float32).reshape(len(source), -1)
    lower, upper = metrics.noise_ceiling(given)
    each = {GROUP: upper, "p": 0.0, ONE: lower, "group less a rater": upper - lower}
    results = {TRAINED: [], UNTRAINED: [], PIXELS: [], LANGUAGES: [each] * seeds}
    for seed in range(seeds):
        params, _ = experiment.train(train, seed)
        for name, p in ((TRAINED, params), (UNTRAINED, experiment.init(jax.random.key(seed)))):
            found = experiment.embeddings(p, held_out)["image"]
            results[name].append(scores(found, given, permutations))
        results[PIXELS].append(scores(pixels - pixels.mean(0), given, permutations))
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds, args.permutations)
    title = f"emoji, similarity of 270 held-out pictures to names in 26 languages; {args.steps} steps of {args.batch}"
    finish("turing_rsa", args, title, results, systems=[77], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
