"""python -m tools.experiments.mm_embed: do negatives that know modalities teach a retriever which one is asked for?

MM-Embed (arXiv 2411.02571, `configs/systems/mm_embed.py`) in small, on simulated things, of each of which there is a
picture and a text to be found, and queries that are another picture and another text of it; the instruction alone tells
which of the two is asked for. An embedder is trained on batches of one task, which never show it the other modality, or
of all tasks; without further negatives, with a random one of the wrong modality and one of the right, or with those
that `data_pipeline.mined` finds by what the same batches taught without. Among all pictures and texts of 256 held-out
things: R@1, how often the nearest is of the right modality, and R@1 among those of the right modality alone.
"""

import importlib

import numpy as np

from data_pipeline.mined import hard_negatives
from pretrain.evals import mixed_pool
from tools.experiments import mme5
from tools.experiments.common import Experiment, Gate, finish, options
from tools.experiments.mme5 import LATENT, WIDTH

ONE, ONE_RANDOM = "one task a batch", "one task a batch, random negatives"
ONE_MINED = "one task a batch, mined negatives"
ALL, ALL_MINED = "all tasks a batch", "all tasks a batch, mined negatives"
CONDITIONS = (ONE, ONE_RANDOM, ONE_MINED, ALL, ALL_MINED)
SIZES = dict(steps=(400, 4, "of training"), batch=(64, 16, "queries a step"), seeds=(5, 2, "how many"))
POOLED, KIND, OWN = "R@1", "right modality", "R@1 in the right modality"
GATES = (
    Gate("mined negatives are above random ones", POOLED, ONE_MINED, ONE_RANDOM),
    Gate("they find the right modality more often", KIND, ONE_MINED, ONE_RANDOM),
    Gate("batches of all tasks are above those of one", POOLED, ALL, ONE),
    Gate("mined negatives help beside all tasks, too", POOLED, ALL_MINED, ALL),
    *(
        Gate(f"{name}: in the right modality alone it loses less than 2 points", OWN, name, ONE, bound=-0.02)
        for name in CONDITIONS[1:]
    ),
)
TASKS, THINGS, HELD_OUT = ("pp", "pt", "tp", "tt"), 1024, 256


def config(steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.mm_embed")
    return mme5.config(system.objectives(2), steps, batch, negatives=2)


class World(mme5.World):
    """Things of which everything is asked for in two modalities."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.instructions = {task: self.rng.normal(size=WIDTH) for task in TASKS}

    def asked(self, n: int) -> tuple[dict, dict]:
        """({modality: queries `[n, WIDTH]`}, {modality: what is to be found}) of n things."""
        latent = self.rng.normal(size=(n, LATENT))
        return tuple({kind: self.shown(kind, latent) for kind in "pt"} for _ in range(2))


def data_of(world: World, queries: dict, found: dict, negatives=None) -> dict:
    """Examples of all tasks, one after another; negatives: `[4 n, 2]` of the candidates, −1 for none."""
    n = len(queries["p"])
    tasks = [
        mme5.batch(n, world.instructions[a + b], {a: queries[a]}) | mme5.batch(n, None, {b: found[b]}, "/positive")
        for a, b in TASKS
    ]
    data = mme5.together(*tasks)
    negatives = np.full((4 * n, 2), -1) if negatives is None else negatives
    for i, numbers in enumerate(negatives.T):
        data |= negative(found, numbers, f"/negative{i + 1}")
    return data | {"row": np.arange(4 * n)[:, None]}


def negative(found: dict, numbers, variant: str) -> dict:
    """Entries of candidates, pictures before texts, by their numbers."""
    n = len(found["p"])
    vectors = np.concatenate([found["p"], found["t"]])[numbers]
    data = mme5.batch(len(numbers), None, {"p": vectors, "t": vectors}, variant)
    data[f"image{variant}"]["valid"][:, 0, 0] = (0 <= numbers) & (numbers < n)
    data[f"text{variant}"]["valid"][:, 0, 1] = numbers >= n
    return data


def pool(experiment: Experiment, params, data, n: int) -> mixed_pool.Pool:
    """Of the candidates of n things: their embeddings are those of positives, of which every task has n."""
    queries, positives = mme5.embedded(experiment, params, data)
    candidates = np.concatenate([positives[:n], positives[n : 2 * n]])  # of pp the pictures, of pt the texts
    own = np.concatenate([np.arange(n) + n * (task[1] == "t") for task in TASKS])
    kind, rows = np.arange(2 * n) >= n, np.arange(4 * n)
    return mixed_pool.Pool(rows, rows // n, queries, candidates, own, kind.astype(int), ["p", "t"], np.arange(2 * n))


def scores(experiment: Experiment, params, data, n: int) -> dict:
    ranks, alike, kinds = mixed_pool.ranks(pool(experiment, params, data, n))
    return {POOLED: float((ranks <= 1).mean()), KIND: float(kinds.mean()), OWN: float((alike <= 1).mean())}


def random_negatives(rng, own, kind) -> np.ndarray:
    """`[n, 2]`: any candidate of the wrong kind, and any other one of the right kind."""
    out = []
    for wanted in own:
        right = np.flatnonzero(kind == kind[wanted])
        out.append([rng.choice(np.flatnonzero(kind != kind[wanted])), rng.choice(right[right != wanted])])
    return np.asarray(out)


def one_task(rng, n: int, steps: int, batch: int) -> np.ndarray:
    """`[steps, batch]` examples, of one task each step, tasks in turns."""
    return np.stack([n * (step % len(TASKS)) + rng.choice(n, batch, replace=False) for step in range(steps)])


def measure(steps=400, batch=64, seeds=5) -> dict:
    """{condition: [scores of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {name: [] for name in CONDITIONS}
    for seed in range(seeds):
        world, rng = World(seed), np.random.default_rng([seed, 1])
        asked, held = world.asked(THINGS), world.asked(HELD_OUT)
        held_out, plain = data_of(world, *held), data_of(world, *asked)
        orders = {ONE: one_task(rng, THINGS, steps, batch), ALL: rng.integers(4 * THINGS, size=(steps, batch))}
        for of, names in ((ONE, (ONE_RANDOM, ONE_MINED)), (ALL, (ALL_MINED,))):
            first, _ = experiment.train(plain, seed, None, orders[of])
            results[of].append(scores(experiment, first, held_out, HELD_OUT))
            found = pool(experiment, first, plain, THINGS)
            for name in names:
                negatives = random_negatives(rng, found.own, found.kind)
                if name != ONE_RANDOM:
                    negatives = hard_negatives(found.queries @ found.candidates.T, found.own, found.kind)
                params, _ = experiment.train(data_of(world, *asked, negatives), seed, None, orders[of])
                results[name].append(scores(experiment, params, held_out, HELD_OUT))
        print(seed, {name: round(runs[-1][POOLED], 3) for name, runs in results.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"4 tasks among {2 * HELD_OUT} pictures and texts; {args.steps} steps of {args.batch}"
    finish("mm_embed", args, title, results, systems=[56], control=ONE_RANDOM, gates=GATES)


if __name__ == "__main__":
    main()
