"""python -m tools.experiments.cross_the_gap: what does a picture say as a word, and does it find its like better so?

Modality inversion (arXiv 2502.04263, the task `inversion`) in CLIP's two small towers (`configs/clip_b16.py:tiny`) that
learn 3D pictures and English names of 1,300 emoji. Of held-out ones every picture becomes a word behind "a photo of"
(OTI), every name patches of a picture (OVI), as near as AdamW brings them to its own embedding. Mechanics: the cosine
before and after; whether an example alone gives what it does among others, and whether the network kept every bit. As
it came out: mAP of its group, of pictures among pictures and of names among names, with their own embeddings as queries
(`native`) and with inverted ones.
"""

import importlib

import jax
import numpy as np

from pretrain.evals import inversion
from pretrain.evals.base import Context
from tools.experiments.common import Experiment, Gate, encoded, finish, options

OTI, OVI = "OTI", "OVI"
PAIRS = {OTI: ("image", "text"), OVI: ("text", "image")}
UNTRAINED = "untrained"
COSINE, ROSE, MOVED, KEPT = "cosine", "cosine rose by", "moved by others", "network moved"
SIZES = dict(
    steps=(300, 2, "of training"), batch=(64, 8, "examples a step"), inner=(150, 3, "of inversion"),
    held_out=(128, 16, "to invert"), seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = tuple(
    gate
    for kind in PAIRS
    for gate in (
        Gate(f"{kind} comes nearer", ROSE, kind),
        Gate(f"{kind} ends above .5", COSINE, kind, bound=0.5),
        Gate(f"{kind} ends below .99, where it would say the embedding again", COSINE, kind, sign=-1, bound=-0.99),
        Gate(f"{kind} of an example does not know of others", MOVED, kind, sign=-1, bound=-1e-4),
        Gate(f"{kind} leaves the network as it is", KEPT, kind, sign=-1, bound=-1e-30),
    )
)


def scores(context: Context, params, kind: str, inner: int, held_out: int) -> dict:
    pair = PAIRS[kind]
    task = inversion.Evaluator(context, (pair,), "group", steps=inner, examples=held_out)
    before = jax.tree.map(np.array, params)
    rows, own, found, relevant = task.found(params, *pair)
    alone = task.invert(params, pair[1], own[1:2], rows[1:2])
    moved = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(params)))
    native, inverted = (inversion.average_precision(z, own, relevant) for z in (own, found.z))
    return {
        "native mAP": native, "inverted mAP": inverted, "gain": inverted - native,
        COSINE: float(found.cosine[-1].mean()), ROSE: float((found.cosine[-1] - found.cosine[0]).mean()),
        MOVED: float(np.abs(alone.z - found.z[1:2]).max()), KEPT: float(moved),
    }  # fmt: skip


def measure(steps=300, batch=64, inner=150, held_out=128, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    config = importlib.import_module("configs.clip_b16").get_config("tiny").to_dict()
    optimizer = config["optim"] | dict(warmup=steps // 10)
    experiment = Experiment(config | dict(steps=steps, batch_size=batch, optim=optimizer))
    context = Context(experiment.run, experiment.graphs, experiment.objectives)
    train = encoded(experiment, "train", views=4)
    results = {OTI: [], OVI: [], UNTRAINED: []}
    for seed in range(seeds):
        params, _ = experiment.train(train, seed)
        start = experiment.init(jax.random.key(seed))
        for name, p, kind in ((OTI, params, OTI), (OVI, params, OVI), (UNTRAINED, start, OTI)):
            results[name].append(scores(context, p, kind, inner, held_out))
            print(name, seed, results[name][-1], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.inner, args.held_out, args.seeds)
    title = f"emoji, {args.held_out} held out, by group; {args.steps} steps of {args.batch}, {args.inner} of inversion"
    finish("cross_the_gap", args, title, results, systems=[52], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
