"""python -m tools.experiments.gist: do captions of a class that are matched to each picture teach more than its name?

GIST (arXiv 2307.11315, `configs/systems/gist.py`) in small, on simulated classes: each is a latent vector and a name
that says nothing of it; six properties of two values, each a latent vector, add to it in every picture, of which a
class fixes three and leaves three open, so that its pictures differ among each other. A picture is what a random
network makes of the sum, under noise. A caption of a class names it, and the values of all properties in one of its
forms. A base is learned by contrast on 200 other classes with captions of each picture. It chooses 4 of 24 captions of
the class for each of 20 pictures of 24 new classes, and is trained on by names, by random captions of the class, by the
matched ones, and by these with equal labels as the target. 5-shot accuracy among the new classes (nearest class mean,
10 draws) on 50 further pictures of each, and the share of properties that the chosen captions say rightly.
"""

import importlib

import jax
import numpy as np

from data_pipeline.matched import match
from pretrain.evals.features import unit
from pretrain.evals.few_shot import accuracy
from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options, pairs, vectors

BASE, NAME, RANDOM = "the base", "name", "random caption of the class"
MATCHED, LABELS = "matched caption", "matched caption, equal labels"
CONDITIONS = (NAME, RANDOM, MATCHED, LABELS)
SIZES = dict(
    steps=(200, 4, "of training on"), base=(600, 4, "steps of the base"), batch=(64, 16, "pairs a step"),
    seeds=(6, 2, "how many"),
)  # fmt: skip
METRIC = "5-shot"
GATES = (
    Gate("matched captions are above random ones of the class", METRIC, MATCHED, RANDOM),
    Gate("random captions of the class are above its name", METRIC, RANDOM, NAME),
)
CLASSES, OTHERS, LATENT, WIDTH, NOISE = 24, 200, 8, 64, 0.6
PROPERTIES, FIXED, EACH, TESTED, WRITTEN, K = 6, 3, 20, 50, 24, 4


def config(condition: str, steps: int, batch: int, classes: int) -> dict:
    system = importlib.import_module("configs.systems.gist")
    objectives = system.objectives(labels="class" if condition == LABELS else "", a="a", b="b")
    made = pairs(objectives, steps=steps, batch=batch, depth=1, embed_dim=32, width=WIDTH)
    label = dict(name="class", kind="labels", shape=(1,), field="class", vocab_size=classes)
    return made | dict(labels=[label])


class World:
    """Classes, their pictures and captions, from a seed."""

    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        self.names, self.classes = rng.normal(size=(2, CLASSES + OTHERS, LATENT))
        self.values = 0.7 * rng.normal(size=(PROPERTIES, 2, LATENT))
        self.words = rng.normal(size=(PROPERTIES, 2, LATENT))
        self.fixed = np.argsort(rng.random((CLASSES + OTHERS, PROPERTIES)), 1) < FIXED
        self.typical = rng.integers(2, size=(CLASSES + OTHERS, PROPERTIES))
        self.nets = [(rng.normal(size=(LATENT, 128)) / 3, rng.normal(size=(128, WIDTH)) / 128**0.5) for _ in range(2)]

    def forms(self, who):
        """The values of the properties of one of the forms of each class, `[n, PROPERTIES]`."""
        return np.where(self.fixed[who], self.typical[who], self.rng.integers(2, size=(len(who), PROPERTIES)))

    def _sum(self, table, form):
        return table[np.arange(PROPERTIES), form].sum(1)

    def _through(self, net, x):
        return np.tanh(x @ net[0]) @ net[1]

    def pictures(self, who, form):
        clean = self._through(self.nets[0], self.classes[who] + self._sum(self.values, form))
        return clean + NOISE * self.rng.normal(size=clean.shape)

    def captions(self, who, form=None):
        """form: None for the name alone."""
        return self._through(self.nets[1], self.names[who] + (0 if form is None else self._sum(self.words, form)))


def data_of(pictures, texts, who) -> dict:
    """texts: `[n, WIDTH]`, or some of each `[n, k, WIDTH]`, of which one is drawn each time."""
    made = [vectors(a=pictures, b=texts[:, i]) for i in range(texts.shape[1])] if texts.ndim == 3 else []
    made = jax.tree.map(lambda *x: np.concatenate(x, 1), *made) if made else vectors(a=pictures, b=texts)
    ids = np.repeat(who.astype(np.int16)[:, None, None], made["row"].shape[1], 1)
    return made | {"class": {"ids": ids, "valid": np.ones(ids.shape, bool)}}


def five_shot(experiment, params, bank, held_out, who, wanted) -> float:
    z = [experiment.embeddings(params, data)["a"] for data in (bank, held_out)]
    mean = z[0].mean(0)
    bank, queries = (unit(x - mean) for x in z)
    return float(np.mean([accuracy(bank, who, queries, wanted, 5, draw) for draw in range(10)]))


def measure(steps=200, base=600, batch=64, seeds=6) -> dict:
    """{condition: [scores of every seed]}."""
    first = Experiment(config(NAME, base, batch, CLASSES + OTHERS))
    made = {name: Experiment(config(name, steps, batch, CLASSES)) for name in CONDITIONS}
    results = {name: [] for name in (BASE, *CONDITIONS)}
    for seed in range(seeds):
        world = World(seed)
        others = CLASSES + np.arange(OTHERS).repeat(EACH)
        form = world.forms(others)
        params, _ = first.train(data_of(world.pictures(others, form), world.captions(others, form), others), seed)
        held = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
        who, wanted, of = (np.arange(CLASSES).repeat(n) for n in (EACH, TESTED, WRITTEN))
        form, written = world.forms(who), world.forms(of)
        pictures, tested = world.pictures(who, form), world.pictures(wanted, world.forms(wanted))
        captions = world.captions(of, written)
        z, t = first.embeddings(params, vectors(a=pictures, b=pictures)), vectors(a=captions, b=captions)
        near = match(z["a"] @ first.embeddings(params, t)["b"].T, who, of, K)
        drawn = match(world.rng.random((len(who), len(of))), who, of, K)
        chosen = {RANDOM: drawn, MATCHED: near, LABELS: near}
        texts = {name: captions[numbers] for name, numbers in chosen.items()} | {NAME: world.captions(who)}
        said = {n: float((written[i] == form[:, None]).mean()) for n, i in chosen.items()}
        bank, held_out = (vectors(a=x, b=x) for x in (pictures, tested))
        for name in results:
            found = params if name == BASE else made[name].train(data_of(pictures, texts[name], who), seed, held)[0]
            score = five_shot(first, found, bank, held_out, who, wanted)
            results[name].append({METRIC: score, "properties said": said.get(name, 0.0)})
        print(seed, {name: round(runs[-1][METRIC], 3) for name, runs in results.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.base, args.batch, args.seeds)
    title = f"accuracy among {CLASSES} classes; {args.steps} steps of {args.batch}, from a base of {args.base}"
    finish("gist", args, title, results, systems=[58], control=RANDOM, gates=GATES)


if __name__ == "__main__":
    main()
