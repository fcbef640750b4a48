"""python -m tools.experiments.structure_clip: does a text with two words exchanged teach which word belongs to what?

Structure-CLIP (arXiv 2305.06152, `configs/systems/structure_clip.py`) in small, on simulated scenes: two things of 16,
each of a colour of 8; a picture is the sum of what a random network makes of each thing with its colour, under noise, a
text the four words side by side, and the exchanged text has the colours in each other's place. No batch is likely to
hold the scene that this would be true of, so that a bag of words finds the picture all the same. Learned is by contrast
alone (CLIP); with the exchanged text as a hinge of weight 5 or as a further logit; with a random text in its place; and
by the published ranking loss on the hardest negatives after a warm-up, without and with the hinge. Of 512 scenes that
were held out: how often a text is told from its exchanged form (2AFC; chance .5), and R@1.
"""

import importlib

import numpy as np

from tools.experiments.common import Experiment, Gate, finish, options, pairs, recall_at_1, vectors

ALONE, RANKING, PUBLISHED = "contrast alone", "ranking", "ranking, exchanged text as a hinge"
LOGIT, HINGE = "exchanged text as a logit", "exchanged text as a hinge"
RANDOM_LOGIT, RANDOM_HINGE = "random text as a logit", "random text as a hinge"
CONDITIONS = (ALONE, LOGIT, RANDOM_LOGIT, HINGE, RANDOM_HINGE, RANKING, PUBLISHED)
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(8, 2, "how many"))
METRIC, EDGES = "2AFC", [dict(a="a", b="b")]
GATES = (
    *(Gate(f"{name} is above contrast alone", METRIC, name, ALONE) for name in (LOGIT, HINGE)),
    Gate("as a logit it is above a random text", METRIC, LOGIT, RANDOM_LOGIT),
    Gate("as a hinge it is above a random text", METRIC, HINGE, RANDOM_HINGE),
    *(
        Gate(f"{name} gains less than 2 points on contrast alone", METRIC, name, ALONE, sign=-1, bound=-0.02)
        for name in (RANDOM_LOGIT, RANDOM_HINGE)
    ),
)
THINGS, COLOURS, WIDTH, SEEN, NOISE, HELD_OUT = 16, 8, 16, 64, 0.5, 512


def config(condition: str, steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.structure_clip")
    warmup, swapped = max(steps // 4, 1), 5.0 if condition == PUBLISHED else 0.0
    ranking = system.objectives(EDGES, warmup=warmup, swapped=swapped)
    pair = {"swapped": system.objectives(EDGES)["swapped"]}
    contrast = dict(contrastive=dict(edges=EDGES))
    chosen = {RANKING: ranking, PUBLISHED: ranking, ALONE: contrast}
    chosen |= dict.fromkeys((LOGIT, RANDOM_LOGIT), system.objectives(EDGES, logit=True))
    chosen |= dict.fromkeys((HINGE, RANDOM_HINGE), contrast | pair)
    made = pairs(chosen[condition], steps=steps, batch=batch, depth=1, embed_dim=32, width=SEEN)
    # The transform says what data in memory hold beside the texts.
    return made | dict(data=dict(source="none", transforms=[dict(transform="swapped_text", field="b")]))


def scenes(seed: int, count: int = 4096, *, random: bool = False) -> tuple:
    """(train, held out): data of pictures `a`, texts `b` and `b/swapped`; random: of training the latter is the text of
    another scene."""
    rng = np.random.default_rng(seed)
    total = count + HELD_OUT
    two = lambda n: np.argsort(rng.random((total, n)), 1)[:, :2]  # different ones
    things, colours = two(THINGS), two(COLOURS)
    words = [rng.normal(size=(n, WIDTH)) for n in (COLOURS, THINGS)]
    one, last = rng.normal(size=(2 * WIDTH, 256)) / (2 * WIDTH) ** 0.5, rng.normal(size=(256, SEEN)) / 16

    said = lambda colours: np.stack([words[0][colours], words[1][things]], 2)  # [n, 2, (colour, thing), WIDTH]
    text, swapped = said(colours), said(colours[:, ::-1])
    image = (np.tanh(2 * text.reshape(total, 2, -1) @ one) @ last).sum(1)
    image += NOISE * rng.normal(size=image.shape)
    if random:
        swapped = np.concatenate([text[rng.permutation(count)], swapped[count:]])
    rows = {"a": image, "b": text.reshape(total, -1), "b/swapped": swapped.reshape(total, -1)}
    return tuple(vectors(**{n: x[part] for n, x in rows.items()}) for part in (slice(count), slice(count, None)))


def scores(experiment: Experiment, params, held_out) -> dict:
    z = experiment.embeddings(params, held_out)
    other = experiment.embeddings(params, held_out | {"b": held_out["b/swapped"]})["b"]
    right = (z["a"] * (z["b"] - other)).sum(1) > 0
    return {METRIC: float(right.mean()), "R@1": recall_at_1(z["a"], z["b"])}


def measure(steps=400, batch=128, seeds=8, conditions=CONDITIONS) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            train, held_out = scenes(seed, random=name in (RANDOM_LOGIT, RANDOM_HINGE))
            params, _ = experiment.train(train, seed)
            results[name].append(scores(experiment, params, held_out))
        print(name, [{k: round(v, 3) for k, v in run.items()} for run in results[name]], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"of {HELD_OUT} scenes; {args.steps} steps of {args.batch}"
    finish("structure_clip", args, title, results, systems=[5], control=RANDOM_LOGIT, gates=GATES)


if __name__ == "__main__":
    main()
