"""python -m tools.experiments.lexvla: does a penalty on overuse leave pictures the words that name what they show?

LexVLA (arXiv 2407.17827, `configs/systems/lexvla.py`) in small, on a simulated language of 200 words. A picture has six
patches, each one of 100 things, some often, some rarely: a random nonlinear view of its latent vector, with noise. Its
caption names four of them, has each of five words that say nothing with probability .8, and two words at random, in any
order. The language model is a table of random rows, frozen, under one block; the table of pictures starts as its copy
and learns. Trained without a penalty, with the overuse penalty, with L1 at about as many active words, and densely:
means, projected to 64 numbers, where the weight of a word is its cosine as a caption of its own, none below 0. Held
out, 512 pairs: how much of the weight is on the five words that pictures use most, where they name nothing shown
(`overused`); how many of a picture's five heaviest words name what it shows (`precision`); R@1, the mean of both
directions; of patches, how often the heaviest word of a thing is its own (`patches`); and how many words have a weight
(`active`).
"""

import importlib

import jax
import numpy as np

from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, finish, options, recall_at_1

PLAIN, LEX, L1, DENSE = "no penalty", "LexVLA", "L1", "dense"
CONDITIONS = {PLAIN: dict(coef=0.0), LEX: dict(coef=0.02), L1: dict(penalty="l1", coef=0.005), DENSE: dict(coef=0.0)}
SIZES = dict(steps=(200, 4, "of training"), batch=(64, 16, "pairs a step"), seeds=(3, 2, "how many"))
GATES = (
    Gate("the penalty takes weight from the most used words", "overused", LEX, PLAIN, sign=-1),
    Gate("and more of the first words name what a picture shows", "precision", LEX, PLAIN),
    Gate("also more than under L1, at about as many words", "precision", LEX, L1),
    Gate("R@1 loses no 2 points", "R@1", LEX, PLAIN, bound=-0.02),
)
WORDS, USED, THINGS, PATCHES, NAMED, RANDOM, OFTEN, FEW = 200, 5, 100, 6, 4, 2, 0.8, 3
LATENT, WIDTH, NOISE, DIM, FIRST, HELD_OUT = 16, 64, 0.6, 64, 5, 512
LENGTH = NAMED + USED + RANDOM


def scenes(seed: int, count: int = 4096) -> tuple:
    """(train, held out: data; which things the pictures of the latter show `[n, PATCHES]`). Words 0 … 4 say nothing,
    the next 100 name things."""
    rng, total = np.random.default_rng(seed), count + HELD_OUT
    things, maps = rng.normal(size=(THINGS, LATENT)), [rng.normal(size=s) for s in ((LATENT, WIDTH), (WIDTH, WIDTH))]
    often = np.log(1 / (np.arange(THINGS) + FEW))
    shown = np.argsort(-often - rng.gumbel(size=(total, THINGS)), 1)[:, :PATCHES]
    patches = np.tanh(things[shown] @ maps[0] / LATENT**0.5) @ maps[1] / WIDTH**0.5
    patches += NOISE * rng.normal(size=patches.shape)
    named = np.take_along_axis(shown, np.argsort(rng.random(shown.shape), 1)[:, :NAMED], 1) + USED
    said = np.concatenate([named, np.tile(np.arange(USED), (total, 1)), rng.integers(WORDS, size=(total, RANDOM))], 1)
    there = np.ones(said.shape, bool)
    there[:, NAMED : NAMED + USED] = rng.random((total, USED)) < OFTEN
    order = np.argsort(np.where(there, rng.random(said.shape), 2.0), 1)  # words that are not there come last
    said, there = (np.take_along_axis(x, order, 1) for x in (said, there))
    data = {
        "image": {"vectors": patches.astype(np.float32)[:, None], "valid": np.ones((total, 1, PATCHES), bool)},
        "text": {"ids": said[:, None].astype(np.uint8), "valid": there[:, None]},
        "row": np.arange(total)[:, None],
    }
    train, held_out = (jax.tree.map(lambda x, p=p: x[p], data) for p in (slice(count), slice(count, None)))
    return train, held_out, shown[count:]


def config(condition: str, steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.lexvla")
    size = dict(dim=DIM, heads=4, depth=1)
    parts, objectives = system.parts(size, size, WORDS), system.objectives(**CONDITIONS[condition])
    parts["image_embed"].update(cls=False, positions="none")  # in any order: what a token is, not where
    parts["text_embed"]["positions"] = "none"
    parts["text_encoder"]["causal"] = False
    if condition == DENSE:
        for name in system.MODALITIES:
            tokens = parts.pop(f"{name}_words")["reads"]
            parts[f"{name}_pool"] = dict(part="pool", reads=tokens, width=DIM)
            parts[f"{name}_project"] = dict(part="project", reads=[f"{name}_pool"], dim=64)
    if not CONDITIONS[condition]["coef"]:
        del objectives["sparsity"]
    still = dict(pattern="model/text_(embed|words)/table", how="nothing", fresh=True)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"), train=[still, dict()],
        modalities=[
            dict(name="image", kind="vectors", shape=(PATCHES, WIDTH), field="image", targets=False),
            dict(name="text", kind="sequence", shape=(LENGTH,), field="text", vocab="words", vocab_size=WORDS,
                 tokenizer="none"),
        ],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=objectives, optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def language(seed: int) -> dict:
    """{path: array}: the tables of a language model, whose outputs find their own rows."""
    table = np.random.default_rng([seed, 1]).normal(size=(WORDS, DIM)).astype(np.float32)
    return {"model/text_embed/table": table} | {f"model/{m}_words/table": table / 32 for m in ("text", "image")}


def weights(experiment, params, held_out) -> tuple:
    """(weights of words in pictures `[n, WORDS]`, and in their patches `[n, PATCHES, WORDS]`), none below 0."""
    model = experiment.model(params)
    states, batch = model.states, jax.tree.map(lambda x: x[:, 0], held_out)
    stream, leaf = states.stream("image", states.shown("image")), states.shown("image")
    if "image_words" in states:
        found = {"pictures": states.pooled("image", leaf), "patches": states.call("image_words", stream, tokens=True)}
        return tuple(np.asarray(compute(model, found, batch)[name]) for name in ("pictures", "patches"))
    every = {"text": {"ids": np.zeros((WORDS, LENGTH), np.uint8), "valid": np.zeros((WORDS, LENGTH), bool)}}
    every["text"]["ids"][:, 0], every["text"]["valid"][:, 0] = np.arange(WORDS), True
    said = np.asarray(compute(model, {"z": states.embedding("text", states.shown("text"))}, every)["z"])
    found = compute(model, {"z": states.embedding("image", leaf), "of": states.projected("image", leaf)}, batch)
    return tuple(np.maximum(np.asarray(found[name]) @ said.T, 0) for name in ("z", "of"))


def scores(experiment, params, held_out, shown) -> dict:
    pictures, patches = weights(experiment, params, held_out)
    z = experiment.embeddings(params, held_out)
    first, used = np.argsort(-pictures, 1)[:, :FIRST] - USED, np.argsort(-pictures.mean(0))[:USED]
    false = pictures[:, used] * (used - USED != shown[..., None]).all(1)
    return {
        "overused": float(false.sum() / pictures.sum()),
        "precision": float((first[..., None] == shown[:, None]).any(-1).mean()),
        "R@1": recall_at_1(z["image"], z["text"]),
        "patches": float((patches[..., USED : USED + THINGS].argmax(-1) == shown).mean()),
        "active": float((pictures > 0).sum(1).mean()),
    }


def measure(steps=200, batch=64, seeds=3, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            train, held_out, shown = scenes(seed)
            params, _ = experiment.train(train, seed, language(seed))
            results[name].append(scores(experiment, params, held_out, shown))
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Words of {HELD_OUT} held-out pictures after {args.steps} steps of {args.batch}"
    finish("lexvla", args, title, results, systems=[47], control=PLAIN, gates=GATES)


if __name__ == "__main__":
    main()
