"""python -m tools.experiments.jm3d: what pictures, their weights and the parent category do for points.

JM3D (arXiv 2310.09503, `configs/systems/jm3d.py`) in small, on emoji: clouds of points drawn from silhouettes, names,
and four small pictures by other designers, of which half show another emoji. Trained as the system is; without the
classifier of the group; with the mean of views in the place of weights by the name; with one view at random; and by
names alone, with the classifier. On held-out emoji: R@1 of points→text and of points→picture, a picture the mean of
four views that all show it; how many have their group told by the nearest mean of training points; and by how much the
weight of own views exceeds their share among held-out views of which half are wrong.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sources import emoji_points
from pretrain.models.passes import compute
from pretrain.models.stream import unit
from tools.experiments.common import Experiment, Gate, directed_recall_at_1, encoded, finish, options

JM3D, PLAIN, MEAN, ONE, TEXT = "JM3D", "without the parent", "mean of views", "one view", "names alone"
CONDITIONS = {JM3D: "query", PLAIN: "query", MEAN: "mean", ONE: "first", TEXT: "query"}
SIZES = dict(steps=(200, 4, "of training"), batch=(64, 16, "emoji a step"), seeds=(4, 2, "how many"))
GATES = (
    Gate("the classifier of the group lets the points tell it better", "group", JM3D, PLAIN),
    Gate("views of the emoji weigh more than their share", "weight of own views", JM3D),
)
ORDERS, WIDTH, WRONG = 4, 48, 0.5
FEW = dict(groups=24, neighbours=12, hidden=16)


def config(condition: str, steps: int, batch: int, wrong=WRONG) -> dict:
    system, sizes = importlib.import_module("configs.systems.jm3d"), dict(dim=WIDTH, heads=4, depth=1)
    c = system.get_config("tiny").to_dict()
    parts = system.points_tower(sizes, WIDTH, **FEW) | system.text_tower(sizes, WIDTH)
    parts |= system.views(770, WIDTH, degrees=4, how=CONDITIONS[condition])
    losses = system.objectives("parent")
    if condition == PLAIN:
        del losses["parent"]
    if condition == TEXT:
        losses["contrastive"].update(edges=system.EDGES[:1], branches=[], coef=1.0)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="emoji_points", options=dict(wrong=wrong)),
        modalities=c["modalities"], labels=c["labels"], objectives=losses,
        model=dict(model="models.network", dtype="float32", parts=parts),
        optim=dict(lr=2e-3, warmup=steps // 10, weight_decay=0.1, clip=1.0),
    )  # fmt: skip


def data() -> dict:
    """{"train", of which views stand in several orders, "wrong" and "right" of the held-out emoji}."""
    half, clean = (Experiment(config(JM3D, 2, 16, wrong)) for wrong in (WRONG, 0.0))
    train, rng = encoded(half, "train"), np.random.default_rng(0)
    count = len(train["row"])
    order = np.argsort(rng.random((count, ORDERS, len(emoji_points.STYLES))), -1)
    views = np.take_along_axis(train["views"]["vectors"], order[..., None], 2)
    train = jax.tree.map(lambda x: np.repeat(x, ORDERS, 1), train)
    train["views"]["vectors"] = views
    return {"train": train} | {n: encoded(e, ("val", "test")) for n, e in (("wrong", half), ("right", clean))}


def scores(experiment: Experiment, params, given: dict) -> dict:
    model, states = experiment.model(params), experiment.objectives["contrastive"].network
    first = {name: jax.tree.map(lambda x: jnp.asarray(x[:, 0]), part) for name, part in given.items()}
    shown = {m: states.shown(m) for m in ("points", "text", "views")}
    z = {m: states.embedding(m, shown[m]) for m in ("points", "text")}
    found = jax.device_get(compute(model, z, first["right"]))
    mixed = compute(model, {"views": states.chain("views_embed", shown["views"]), "text": z["text"]}, first["wrong"])
    x = model.view_pool.linear(mixed["views"].x[..., 2:])
    weights = np.asarray(model.view_pool.weights(unit(x), mixed["text"], mixed["views"].valid))
    own = (first["wrong"]["views"]["vectors"] == first["right"]["views"]["vectors"]).all(-1)
    model.view_pool.how = "mean"
    together = {"picture": states.over("view_pool", {m: shown[m] for m in ("views", "text")})}
    pictures = np.asarray(compute(model, together, first["right"])["picture"])
    means, known = prototypes(model, z["points"], first["train"])
    nearest = known[(found["points"] @ means.T).argmax(1)]
    return {
        "points→text": directed_recall_at_1(found["points"], found["text"])[0],
        "points→picture": directed_recall_at_1(found["points"], pictures)[0],
        "group": float((nearest == np.asarray(first["right"]["parent"]["ids"])[:, 0]).mean()),
        "weight of own views": float((weights * own).sum(1).mean() - own.mean()),
    }


def prototypes(model, node, batch):
    """(mean embeddings of the groups at length 1 `[groups, D]`, their numbers)."""
    found = np.concatenate([
        np.asarray(compute(model, {"z": node}, jax.tree.map(lambda x, i=i: x[i : i + 325], batch))["z"])
        for i in range(0, len(batch["row"]), 325)
    ])  # fmt: skip
    labels = np.asarray(batch["parent"]["ids"])[:, 0]
    known = np.unique(labels)
    means = np.stack([found[labels == k].mean(0) for k in known])
    return means / np.linalg.norm(means, axis=1, keepdims=True), known


def measure(steps=200, batch=64, seeds=4, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results, given = {}, data()
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            params, _ = experiment.train(given["train"], seed)
            results[name].append(scores(experiment, params, given))
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Points of held-out emoji (270) after {args.steps} steps of {args.batch}, half of whose views were wrong"
    finish("jm3d", args, title, results, systems=[8], control=PLAIN, gates=GATES)


if __name__ == "__main__":
    main()
