"""python -m tools.experiments.openshape: do more shapes, better texts and near duplicates make points tell classes?

OpenShape (arXiv 2305.10764, `configs/systems/openshape.py`) in small, simulated. 40 kinds of 8 classes each, near
duplicates: latent vectors that share a centre; of a shape, its own latent near its class's, points see a random
nonlinear view; frozen embeddings of its picture and of its texts are noisy images of its latent and of its class. Its
raw name is another class's in half of the cases; filtered, those are gone; enriched, it is drawn from the name, two
captions, of which one may lack, and a retrieved text, which may lack or be that of a class nearby. Trained on an
eighth, half or all of the shapes, all with filtered and enriched texts, on all with raw names alone, and on all with
batches of near duplicates, all counted or those left out that may be true. Held-out shapes: is the nearest of all 320
class texts, and of the 8 of their kind, their own?
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.orders.neighbours import Order
from tools.experiments.common import Experiment, Gate, finish, options

EIGHTH, HALF, ALL = "an eighth", "half", "all shapes"
RAW, NEAR, FILTER = "all shapes, raw names", "all, near duplicates", "all, near duplicates, filtered"
CONDITIONS = {EIGHTH: 8, HALF: 2, ALL: 1, RAW: 1, NEAR: 1, FILTER: 1}
SIZES = dict(steps=(400, 4, "of training"), batch=(160, 16, "shapes a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("half of the shapes are better than an eighth", "of 320", HALF, EIGHTH),
    Gate("all are better than half", "of 320", ALL, HALF),
    Gate("filtered and enriched texts are better than raw names", "of 320", ALL, RAW),
)
KINDS, EACH, SHAPES, HELD = 40, 8, 16, 8  # kinds, classes of one, shapes of a class to train on and held out
LATENT, WIDTH, FORMS, GROUP, AMONG = 24, 64, 6, 8, 31
APART, SPREAD = 0.3, 0.3  # of classes of a kind, of shapes of a class: deviations of latent vectors


def world(seed: int) -> dict:
    """points, image: `[n, WIDTH]`; raw, enriched: texts `[n, FORMS, WIDTH]`, NaN where there is none; class: `[n]`;
    classes: their texts."""
    rng = np.random.default_rng(seed)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    noisy = lambda x, much: unit(x + much * rng.normal(size=x.shape) / x.shape[-1] ** 0.5)
    centres = rng.normal(size=(KINDS, 1, LATENT)) + APART * rng.normal(size=(KINDS, EACH, LATENT))
    classes = centres.reshape(-1, LATENT)
    of = np.arange(KINDS * EACH).repeat(SHAPES + HELD)
    latent = classes[of] + SPREAD * rng.normal(size=(len(of), LATENT))
    first, last, common = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH), (LATENT, WIDTH)))
    points = np.tanh(latent @ first) @ last
    points += 0.3 * points.std() * rng.normal(size=points.shape)
    texts, count = unit(classes @ common), (len(of), FORMS)
    wrong = rng.random(len(of)) < 0.5
    names = np.where(wrong, rng.integers(len(classes), size=len(of)), of)
    near = of // EACH * EACH + rng.integers(EACH, size=len(of))
    lacks = lambda share: rng.random(len(of))[:, None] < share
    sources = [
        np.where(wrong[:, None], np.nan, texts[of]),
        noisy(latent @ common, 0.8),
        np.where(lacks(0.3), np.nan, noisy(latent @ common, 0.8)),
        np.where(lacks(0.3), np.nan, noisy(texts[np.where(rng.random(len(of)) < 0.3, near, of)], 0.5)),
    ]
    return {
        "points": points, "image": noisy(latent @ common, 0.5), "class": of, "classes": texts,
        "raw": np.repeat(texts[names][:, None], FORMS, 1),
        "enriched": np.stack([drawn(sources, rng) for _ in range(count[1])], 1),
    }  # fmt: skip


def drawn(sources, rng):
    """Of each shape one of its texts, as transform `one_row` draws them: name, one of two captions, retrieved."""
    name, one, other, found = sources
    caption = np.where((rng.random(len(name)) < 0.5)[:, None], one, other)
    groups = np.stack([name, caption, found], 1)
    order = np.where(np.isnan(groups).any(-1), -1.0, rng.random(groups.shape[:2]))
    return groups[np.arange(len(groups)), order.argmax(1)]


def split_of(world: dict, share: int, texts: str):
    """(training data, {name: array} of the held-out shapes)."""
    at = np.arange(len(world["class"])) % (SHAPES + HELD)
    train, held = np.flatnonzero(at < SHAPES // share), np.flatnonzero(at >= SHAPES)
    several = {n: np.repeat(world[n][train][:, None], FORMS, 1) for n in ("points", "image")}
    several["text"] = world[texts][train]
    data = {
        name: {"vectors": np.nan_to_num(x)[:, :, None].astype(np.float32), "valid": ~np.isnan(x).any(-1, keepdims=True)}
        for name, x in several.items()
    }
    return data | {"row": np.arange(len(train))[:, None].repeat(FORMS, 1)}, {
        n: world[n][held] for n in ("points", "class")
    }


def near_duplicates(experiment: Experiment, nearest, seed: int):
    """Batches `[steps, batch]` of near duplicates, as order `neighbours` makes them. nearest: `[n, AMONG]`."""
    key, batch = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))[0], experiment.run.batch_size
    k_seed, k_near = jax.random.split(key)
    seeds = experiment.order(k_seed, len(nearest), batch // GROUP)
    keys = jax.random.split(k_near, seeds.size)
    others = jax.vmap(lambda k: jax.random.permutation(k, AMONG)[: GROUP - 1])(keys)
    near = jnp.asarray(nearest)[seeds.ravel()[:, None], others]
    return jnp.concatenate([seeds.ravel()[:, None], near], 1).reshape(experiment.run.steps, batch)


def config(condition: str, steps: int, batch: int) -> dict:
    parts = {}
    for name in ("text", "image", "points"):
        parts[f"{name}_embed"] = dict(part="embed_one", reads=[name], dim=WIDTH, raw=True)
        tower = f"{name}_embed"
        if name == "points":
            parts["points_mlp"] = dict(part="mlp", reads=[tower], dim=WIDTH, hidden=[256, 256])
            tower = "points_mlp"
        parts[f"{name}_pool"] = dict(part="pool", reads=[tower], width=WIDTH)
        parts[f"{name}_project"] = dict(part="project", reads=[f"{name}_pool"], dim=WIDTH, identity=True)
    spec = dict(kind="vectors", shape=(1, WIDTH), targets=False)
    objectives = importlib.import_module("configs.systems.openshape").objectives
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, field=n, **spec) for n in ("points", "text", "image")],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=objectives(GROUP if condition == FILTER else 0),
        optim=dict(lr=1e-3, warmup=steps // 10, weight_decay=0.01),
    )  # fmt: skip


def scores(experiment: Experiment, params, held: dict, texts) -> dict:
    """Zero-shot, by the texts of classes."""
    one = {
        "vectors": held["points"].astype(np.float32)[:, None, None],
        "valid": np.ones((len(held["points"]), 1, 1), bool),
    }
    filler = dict.fromkeys(("text", "image"), one)
    z = experiment.embeddings(params, {"points": one, "row": np.zeros((len(one["valid"]), 1))} | filler)["points"]
    similar, own = z @ texts.T, held["class"]
    fine = np.take_along_axis(similar, own[:, None] // EACH * EACH + np.arange(EACH), 1)
    return {"of 320": float((similar.argmax(1) == own).mean()), "of 8": float((fine.argmax(1) == own % EACH).mean())}


def nearest(points):
    """Of every shape the numbers of the AMONG that look most alike `[n, AMONG]`."""
    return Order(GROUP, AMONG, field="points").nearest([{"points": x} for x in points])


def measure(steps=400, batch=160, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            made = world(seed)
            train, held = split_of(made, CONDITIONS[name], "raw" if name == RAW else "enriched")
            order = None
            if name in (NEAR, FILTER):
                order = near_duplicates(experiment, nearest(train["points"]["vectors"][:, 0, 0]), seed)
            params, _ = experiment.train(train, seed, None, order)
            results[name].append(scores(experiment, params, held, made["classes"]))
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Classes of held-out shapes after {args.steps} steps of {args.batch}; chance .003 and .125"
    finish("openshape", args, title, results, systems=[14], control=RAW, gates=GATES)


if __name__ == "__main__":
    main()
