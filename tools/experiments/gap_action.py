"""python -m tools.experiments.gap_action: do texts on parts of a body tell actions apart that were never seen?

GAP (arXiv 2208.05318, `configs/systems/gap_action.py`) in small, on simulated skeletons: four parts of two joints each
move over four steps in one of four ways, under noise; an action says how each part moves. A text on a part is a vector
of its motion; an action's name one that all four motions make together, by a random network. Learned are 40 actions, 32
sequences of each, by names alone, or by texts on parts beside them (as published); and this by cross-entropy from own
pairs in the place of equal labels. Held out: 40 other actions, told apart by the sum of cosines over the branches that
were learned, and by the whole and the name alone.
"""

import importlib

import jax
import numpy as np

from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, finish, options

NAMES, PARTS, OWN = "names alone", "texts on parts", "texts on parts, own pairs"
CONDITIONS = (NAMES, PARTS, OWN)
BODY = {part: (2 * i, 2 * i + 1) for i, part in enumerate(("head", "hand", "hip", "foot"))}
JOINTS, FRAMES, MOTIONS, WIDTH, NOISE = 8, 4, 4, 16, 0.8
SIZES = dict(
    steps=(300, 4, "of training"), batch=(128, 16, "sequences a step"), actions=(40, 6, "to learn, and held out"),
    each=(32, 4, "sequences of each"), seeds=(5, 2, "how many"),
)  # fmt: skip
GATES = (Gate("actions that were never seen: texts on parts above names", "zero-shot", PARTS, NAMES),)


def config(condition: str, steps: int, batch: int, actions: int) -> dict:
    system, places = importlib.import_module("configs.systems.gap_action"), {} if condition == NAMES else BODY
    size, objectives = dict(dim=64, heads=4, depth=1), system.objectives(places)
    if condition == OWN:
        for objective in (o for o in objectives.values() if "target" in o):
            objective.update(target=dict(target="identity"), divergence="cross_entropy")
    vector = dict(kind="vectors", targets=False)
    shapes = {"skeleton": (FRAMES * JOINTS, 3)} | dict.fromkeys(("name", *places), (1, WIDTH))
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, field=n, shape=shape, **vector) for n, shape in shapes.items()],
        labels=[dict(name="action", kind="labels", shape=(1,), field="action", vocab_size=actions)],
        model=dict(model="models.network", parts=system.parts(size, size, places, 32, period=JOINTS), dtype="float32"),
        objectives=objectives, optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def simulated(seed: int, actions: int, each: int) -> tuple:
    """(train, held out), data of sequences, of actions that are not in both."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(rng.permutation(MOTIONS ** len(BODY)), (MOTIONS,) * len(BODY)), 1)
    paths = rng.normal(size=(len(BODY), MOTIONS, FRAMES, 2, 3))
    words = rng.normal(size=(len(BODY), MOTIONS, WIDTH))
    one, two = rng.normal(size=(len(BODY) * WIDTH, 64)) / 8, rng.normal(size=(64, WIDTH)) / 8
    part = np.arange(len(BODY))

    def made(motions):
        who = np.arange(len(motions)).repeat(each)
        moves = paths[part, motions[who]].transpose(0, 2, 1, 3, 4).reshape(len(who), FRAMES * JOINTS, 3)
        said = words[part, motions[who]]
        texts = {name: said[:, i] for i, name in enumerate(BODY)}
        texts["name"] = np.tanh(said.reshape(len(who), -1) @ one) @ two
        rows = {n: x[:, None] for n, x in texts.items()} | {"skeleton": moves + NOISE * rng.normal(size=moves.shape)}
        data = {
            n: {"vectors": x.astype(np.float32)[:, None], "valid": np.ones((len(who), 1, x.shape[1]), bool)}
            for n, x in rows.items()
        }
        labels = who.astype(np.int16)[:, None, None]
        return data | {"row": np.arange(len(who))[:, None], "action": {"ids": labels, "valid": labels >= 0}}

    return made(every[:actions]), made(every[actions : 2 * actions])


def zero_shot(experiment: Experiment, params, data) -> dict:
    """Accuracy among the actions of the data, by the texts of a sequence of each."""
    compared = {name: o for name, o in experiment.objectives.items() if name != "action"}
    nodes = {(name, i): o.passes(False)["z", end] for name, o in compared.items() for i, end in enumerate(o.ends)}
    embed = jax.jit(lambda params, batch: compute(experiment.model(params), nodes, batch))
    z = jax.device_get(embed(params, jax.tree.map(lambda x: x[:, 0], data)))
    who = data["action"]["ids"][:, 0, 0]
    first = np.unique(who, return_index=True)[1]
    cosines = {name: z[name, 0] @ z[name, 1][first].T for name in compared}
    right = lambda scores: float((scores.argmax(1) == who).mean())
    return {"zero-shot": right(sum(cosines.values())), "by names": right(cosines["whole"])}


def measure(steps=300, batch=128, actions=40, each=32, seeds=5) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in CONDITIONS:
        experiment, results[name] = Experiment(config(name, steps, batch, actions)), []
        keys = [m.name for m in experiment.run.modalities] + ["row", "action"]
        for seed in range(seeds):
            train, held_out = ({k: data[k] for k in keys} for data in simulated(seed, actions, each))
            params, _ = experiment.train(train, seed)
            results[name].append(zero_shot(experiment, params, held_out))
            print(seed, name, results[name][-1], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.actions, args.each, args.seeds)
    title = f"accuracy among {args.actions} actions that were not learned; {args.steps} steps of {args.batch}"
    finish("gap_action", args, title, results, systems=[13], control=NAMES, gates=GATES)


if __name__ == "__main__":
    main()
