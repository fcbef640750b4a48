"""python -m tools.experiments.m3pt: does a matching head learn more of negatives that are drawn by similarity?

M3PT (arXiv 2306.10079, `configs/systems/m3pt.py`) in small. 64 families of 8 tags, near duplicates: latent vectors that
share a centre. A tag is four tokens, a content four of a picture and four of a text: random nonlinear views of parts of
the tag's latent, a content's under noise. Trained on eight contents of each tag by the whole loss, the negatives of its
matching head drawn evenly, with the softmax of cosines (as published), or of 20 times them. Held out is another
content of each: the head's loss on pairs that are drawn as in training, how often the own tag is first of all 512 by
cosine, and how often of the ten first by the head. How many of these ten are of the same family says what is left to
tell apart.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.evals.metrics import ranks
from pretrain.models.passes import draw, evaluate
from pretrain.step import Models, example_keys
from tools.experiments.common import Experiment, Gate, finish, options

EVEN, M3PT, SHARP = "drawn evenly", "drawn by similarity", "by 20 times it"
SCALES = {EVEN: 0.0, M3PT: 1.0, SHARP: 20.0}
SIZES = dict(steps=(300, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(6, 2, "how many"))
LOSS, RERANKED = "matching loss", "R@1 of ten reranked"
GATES = (
    Gate("the loss on negatives drawn by similarity is above that on even ones", LOSS, M3PT, EVEN),
    Gate("drawn by similarity the head finds the own tag more often", RERANKED, M3PT, EVEN),
)
FAMILIES, EACH, CONTENTS, TOKENS, FIRST = 64, 8, 8, 4, 10
LATENT, WIDTH, APART, NOISE = 12, 64, 0.25, 0.6
NAMES = ("image", "text", "tag")


def places(seed: int) -> tuple:
    """(data to train with, `[tags, contents, …]`, data of one more content of each)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(FAMILIES, 1, LATENT))
    latent = (centres + APART * rng.normal(size=(FAMILIES, EACH, LATENT))).reshape(-1, LATENT)
    valid, data = np.ones((len(latent), CONTENTS + 1, TOKENS), bool), {}
    for name in NAMES:
        masks = rng.random((TOKENS, LATENT)) < 0.5  # of each token: what of the latent it says
        first, last = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH)))
        x = np.tanh((latent[:, None] * masks) @ first) @ last
        x = np.repeat(x[:, None], CONTENTS + 1, 1)
        noise = 0.0 if name == "tag" else NOISE * x.std() * rng.normal(size=x.shape)
        data[name] = {"vectors": (x + noise).astype(np.float32), "valid": valid}
    data["row"] = np.arange(len(latent))[:, None].repeat(CONTENTS + 1, 1)
    return jax.tree.map(lambda x: x[:, :CONTENTS], data), jax.tree.map(lambda x: x[:, CONTENTS], data)


def config(condition: str, steps: int, batch: int) -> dict:
    system, size = importlib.import_module("configs.systems.m3pt"), dict(dim=64, heads=4, depth=1)
    spec = dict(kind="vectors", shape=(TOKENS, WIDTH), targets=False)
    parts = system.parts(size, size, embed_dim=32, pair=1, clusters=8, groups=4, reduction=8)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, field=n, **spec) for n in NAMES],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=system.objectives(SCALES[condition]), optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def scores(experiment: Experiment, params, held_out) -> dict:
    """The head's loss, and R@1 by cosine and of the first ten by the head."""
    one, n = experiment.objectives["match"], len(held_out["row"])
    nodes, keys = one.passes(False), example_keys(0, 0, n)

    def given(params, batch):
        values = evaluate(
            nodes.values(), models := Models(experiment.graphs, params), draw(nodes.values(), batch, keys)
        )
        outputs = {key: values[node] for key, node in nodes.items()}
        run = models["online"].run
        totals = one.totals({}, outputs, train=False, run=run)
        cosine = outputs["z", "content"] @ outputs["z", "tag"].T
        near = jnp.argsort(-cosine, axis=1)[:, :FIRST]
        rows = jnp.repeat(jnp.arange(n), FIRST), near.ravel()
        logits = one.matched(outputs, rows, run)
        return totals["nll"] / (3 * n), cosine, near, (logits[:, 1] - logits[:, 0]).reshape(n, FIRST)

    loss, cosine, near, matched = jax.device_get(jax.jit(given)(params, held_out))
    best = near[np.arange(n), matched.argmax(1)]
    kin = (near // EACH == np.arange(n)[:, None] // EACH).sum(1).mean()
    return {
        LOSS: float(loss), RERANKED: float((best == np.arange(n)).mean()), "R@1": float((ranks(cosine) == 1).mean()),
        "kin among ten": float(kin),
    }  # fmt: skip


def measure(steps=300, batch=128, seeds=6, conditions=tuple(SCALES)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            train, held_out = places(seed)
            params, _ = experiment.train(train, seed)
            results[name].append(scores(experiment, params, held_out))
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Contents beside {FAMILIES * EACH} tags after {args.steps} steps of {args.batch}"
    finish("m3pt", args, title, results, systems=[25], control=EVEN, gates=GATES)


if __name__ == "__main__":
    main()
