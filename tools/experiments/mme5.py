"""python -m tools.experiments.mme5: do synthetic data of a task that no labelled data have teach an embedder that task?

mmE5 (arXiv 2502.08468, `configs/systems/mme5.py`) in small, on simulated things: latent vectors, of which a picture and
a text are what two random networks make, under noise; a text stands behind the vector of its task's instruction.
Labelled are picture → text, text → picture and picture → picture. Of another task, picture and text → picture, the text
says what is to be added to the thing of the picture. An embedder is trained on labelled tasks alone, or with half of
its examples synthetic: of that task, under more than twice the noise, and of 30 % of them with another one's positive.
At equal steps, R@1 of that task among 512 held-out things, and the mean R@1 of the labelled ones.
"""

import functools
import importlib

import jax
import numpy as np

from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, directed_recall_at_1, finish, options

LABELLED, SYNTHETIC, WRONG = "labelled tasks", "with synthetic data", "with 30 % of these wrong"
CONDITIONS = (LABELLED, SYNTHETIC, WRONG)
SIZES = dict(steps=(400, 4, "of training"), batch=(64, 16, "queries a step"), seeds=(5, 2, "how many"))
METRIC = "R@1"
GATES = (
    Gate("synthetic data of a task are above labelled ones of others", METRIC, SYNTHETIC, LABELLED),
    Gate("they are above those of which 30 % are wrong", METRIC, SYNTHETIC, WRONG),
    Gate("with 30 % wrong they gain less than 2 points", METRIC, WRONG, LABELLED, sign=-1, bound=-0.02),
)
LATENT, WIDTH, NOISE, NOISIER, HELD_OUT, COUNT = 8, 32, 0.3, 0.8, 512, 4096
TASKS = {"picture → text": ("p", "t"), "text → picture": ("t", "p"), "picture → picture": ("p", "p")}
COMPOSED = "picture and text → picture"


def config(objectives: dict, steps: int, batch: int, negatives: int = 0) -> dict:
    """An embedder of the system's parts, one layer deep: a picture is a vector, a text two, the first its task's."""
    embedder, size = importlib.import_module("configs.embedder_common"), dict(dim=32, depth=1, heads=4)
    spec = lambda name, n: dict(name=name, kind="vectors", shape=(n, WIDTH), field=name, targets=False)
    # The transform says what data in memory hold beside queries.
    transforms = [dict(transform="instructed", negatives=negatives)]
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none", transforms=transforms),
        modalities=[spec("image", 1), spec("text", 2)],
        model=dict(model="models.network", parts=embedder.parts(size, size, length=4)),
        objectives=objectives, optim=dict(lr=2e-3, warmup=steps // 10),
    )  # fmt: skip


class World:
    """Pictures and texts of things, from a seed."""

    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        nets = lambda: (1.5 * rng.normal(size=(LATENT, 64)) / LATENT**0.5, rng.normal(size=(64, WIDTH)) / 8)
        self.nets = {"p": nets(), "t": nets()}
        self.instructions = {name: rng.normal(size=WIDTH) for name in (*TASKS, COMPOSED)}

    def shown(self, kind: str, latent, noise: float = NOISE):
        """`[n, WIDTH]`: pictures "p" or texts "t" of things `[n, LATENT]`."""
        inner, outer = self.nets[kind]
        return np.tanh(latent @ inner) @ outer + noise * self.rng.normal(size=(len(latent), WIDTH))

    def things(self, n: int):
        return self.rng.normal(size=(n, LATENT))

    def task(self, name: str, n: int, noise: float = NOISE, wrong: float = 0.0) -> dict:
        """Examples of a task; wrong: of these positives are those of others."""
        latent, added = self.things(n), self.things(n)
        if name == COMPOSED:
            query = dict(p=self.shown("p", latent, noise), t=self.shown("t", added, noise))
            positive = dict(p=self.shown("p", latent + added, noise))
        else:
            a, b = TASKS[name]
            query, positive = {a: self.shown(a, latent, noise)}, {b: self.shown(b, latent, noise)}
        if count := round(wrong * n):
            chosen = self.rng.permutation(n)[:count]
            for x in positive.values():
                x[chosen] = x[np.roll(chosen, 1)]
        return batch(n, self.instructions[name], query) | batch(n, None, positive, "/positive")


def batch(n: int, instruction, shown: dict, variant: str = "") -> dict:
    """Entries of a batch `[n, 1, …]`; instruction: the first vector of a text, None for none."""
    none = np.zeros((n, WIDTH))
    said = np.stack([none if instruction is None else np.tile(instruction, (n, 1)), shown.get("t", none)], 1)
    valid = np.tile([instruction is not None, "t" in shown], (n, 1))
    picture = shown.get("p", none)[:, None]
    entry = lambda x, valid: {"vectors": x.astype(np.float32)[:, None], "valid": valid[:, None]}
    return {
        f"image{variant}": entry(picture, np.full((n, 1), "p" in shown)),
        f"text{variant}": entry(said, valid),
        "row": np.arange(n)[:, None],
    }


def together(*parts) -> dict:
    """Several tasks' examples as one set."""
    data = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return data | {"row": np.arange(len(data["row"]))[:, None]}


def embedded(experiment: Experiment, params, data) -> tuple[np.ndarray, np.ndarray]:
    """(queries, positives) `[n, E]`."""
    return jax.device_get(_embed(experiment, params, jax.tree.map(lambda x: x[:, 0], data)))


@functools.partial(jax.jit, static_argnums=0)
def _embed(experiment, params, data):
    found = experiment.objectives["contrastive"].passes(False)
    out = compute(experiment.model(params), {n: found["z", n] for n in ("query", "positive")}, data)
    return out["query"], out["positive"]


def training(world: World, name: str, count: int = COUNT) -> dict:
    part = count // (6 if name != LABELLED else 3)
    labelled = [world.task(task, part) for task in TASKS]
    if name == LABELLED:
        return together(*labelled, *[jax.tree.map(lambda x: x[: count - 3 * part], labelled[0])])
    return together(*labelled, world.task(COMPOSED, count - 3 * part, NOISIER, 0.3 * (name == WRONG)))


def measure(steps=400, batch=64, seeds=5, conditions=CONDITIONS) -> dict:
    """{condition: [scores of every seed]}."""
    objectives = importlib.import_module("configs.systems.mme5").objectives(0)
    experiment, results = Experiment(config(objectives, steps, batch)), {name: [] for name in conditions}
    for seed in range(seeds):
        for name in conditions:
            world = World(seed)
            held_out = {task: world.task(task, HELD_OUT) for task in (*TASKS, COMPOSED)}
            params, _ = experiment.train(training(world, name), seed)
            found = {t: directed_recall_at_1(*embedded(experiment, params, x))[0] for t, x in held_out.items()}
            own = float(np.mean([found[task] for task in TASKS]))
            results[name].append({METRIC: found[COMPOSED], "labelled R@1": own})
        print(seed, {name: round(runs[-1][METRIC], 3) for name, runs in results.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"of {COMPOSED} among {HELD_OUT} things; {args.steps} steps of {args.batch}"
    finish("mme5", args, title, results, systems=[55], control=LABELLED, gates=GATES)


if __name__ == "__main__":
    main()
