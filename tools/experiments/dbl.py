"""python -m tools.experiments.dbl: does a model gain from margins that a peer sets, and what else gives as much?

Deep Boosting Learning (arXiv 2404.18114, `configs/systems/dbl.py`) on two random nonlinear views of one latent. A
target and an anchor of the same size learn side by side by VSE++'s loss; the target also by the boost, absolute or
relative. Beside it the same target unboosted, that is of margin .2; under mutual learning with its anchor; alone under
other margins; and boosted by a moving average of itself. Target and anchor are also an ensemble, whose similarities are
added. Held out: R@1 of 512, the mean of both directions.
"""

import importlib

import numpy as np

from tools.experiments.common import Experiment, Gate, finish, latent_views, options, pairs, recall_at_1

EDGES = [dict(a="a", b="b")]
TARGET, BOOSTED = "unboosted", ("boosted, rel", "boosted, abs")
MARGINS = {f"margin {m}": m for m in (0.1, 0.3, 0.4, 0.5, 0.6)}  # unboosted is that of .2
MOVING = "boosted, rel, by its moving average"
MUTUAL = {  # the divergence as the release weighs it, a mean beside a loss that is a sum; and heavier
    "mutual learning": dict(reduction="mean"),
    "mutual learning, weight .1": dict(reduction="sum", coef=0.1),
}
CONDITIONS = (TARGET, *BOOSTED, *MUTUAL, *MARGINS, MOVING)
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(6, 2, "how many"))
GATES = tuple(
    Gate(f"{form} is above {control}", "R@1", form, control)
    for form in BOOSTED
    for control in (TARGET, *MUTUAL, *MARGINS)
)


def config(condition: str, steps: int, batch: int) -> dict:
    system, peer = importlib.import_module("configs.systems.dbl"), condition not in (*MARGINS, MOVING)
    boost = dict(form="abs" if condition == "boosted, abs" else "rel") if condition.startswith("boosted") else None
    objectives = system.objectives(
        max(steps // 4, 1), peer=peer, boost=boost, edges=EDGES, margin=MARGINS.get(condition, 0.2)
    )
    if condition in MUTUAL:
        for name, other in (("online", "anchor"), ("anchor", "online")):
            mutual = dict(objective="mutual", edges=EDGES, model=name, anchors=[other])
            objectives[f"mutual_{name}"] = mutual | MUTUAL[condition]
    c = pairs(objectives, steps=steps, batch=batch, depth=1, embed_dim=32)
    if condition == MOVING:
        c["references"] = dict(anchor=dict(reference="ema", momentum=0.99, schedule="cosine"))
    return c | (dict(models=dict(anchor={})) if peer else {})


def measure(steps=400, batch=128, seeds=6, conditions=CONDITIONS) -> dict:
    """{condition: [scores of every seed]}; of peers also the anchor's and the ensemble's."""
    results = {}
    for name in conditions:
        experiment = Experiment(config(name, steps, batch))
        for seed in range(seeds):
            train, held_out = latent_views(seed, noise=0.6)
            params, _ = experiment.train(train, seed)
            models = {name: params} | {f"{name}: {k}": {"model": p} for k, p in params.get("models", {}).items()}
            z = {k: tuple(experiment.embeddings(p, held_out).values()) for k, p in models.items()}
            if len(z) > 1:
                z[f"{name}: ensemble"] = tuple(np.concatenate(x, 1) for x in zip(*z.values()))
            for k, (a, b) in z.items():
                results.setdefault(k, []).append({"R@1": recall_at_1(a, b)})
            print(seed, {k: round(results[k][-1]["R@1"], 3) for k in z}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"R@1 of 512; {args.steps} steps of {args.batch}"
    finish("dbl", args, title, results, systems=[12], control=TARGET, gates=GATES)


if __name__ == "__main__":
    main()
