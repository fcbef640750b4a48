"""python -m tools.experiments.rtm: does contrast of places find forgeries from few labels?

ASC-Former's losses (arXiv 2312.06934, `configs/systems/rtm.py`) in small, on simulated forgeries: the middle of an
emoji, compressed as JPEG, with a rectangle of another one, which was not (`sources/tampered_emoji.py`). 256 labelled
pictures a seed; 76 of other emoji are held out. An encoder of one layer over patches of 8 pixels learns from the
picture alone, or from it and its error levels, cosine coefficients and residuals, by cross-entropy alone or with
contrast at its published weight. Average precision of tampered patches, those most of whose pixels are, by the mean of
the head's logits over their pixels; and the share of pixels that are told right.
"""

import importlib

import jax
import numpy as np

from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, encoded, finish, options

PICTURE, ALONE, RTM = "picture alone", "cross-entropy alone", "with contrast"
CONDITIONS = {PICTURE: ((), False), ALONE: (None, False), RTM: (None, True)}
SIZES = dict(steps=(200, 4, "of training"), batch=(16, 8, "pictures a step"), seeds=(3, 2, "how many"))
METRIC = "patch AP"
GATES = (Gate("contrast finds more of the tampered patches", METRIC, RTM, ALONE),)
LABELLED, SETS, PATCH = 256, 3, 8


def config(condition: str, steps: int, batch: int) -> dict:
    system, (traces, contrast) = importlib.import_module("configs.systems.rtm"), CONDITIONS[condition]
    traces = tuple(system.TRACES) if traces is None else traces
    contrast = contrast and dict(points=256, least=32, hidden=64, dim=32)
    return dict(
        steps=steps, batch_size=batch,
        data=dict(source="tampered_emoji", options=dict(pictures=SETS * LABELLED), transforms=[]),
        modalities=system.modalities(64, PATCH, "picture", traces), labels=system.labels(64),
        model=system.model(48, 4, 1, mimetic=True) | dict(dtype="float32"),
        objectives=system.objectives(traces, contrast=contrast, width=16, up=1, blocks=1),
        optim=dict(lr=2e-3, warmup=steps // 10, weight_decay=0.01, clip=1.0),
    )  # fmt: skip


def precision(scores, relevant) -> float:
    """The mean, over what is relevant, of the share of relevant ones among those that score as high."""
    hits = relevant[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def patches(x):
    """Means over patches `[n, rows, columns]` of x `[n, H, W]`."""
    n, high, wide = x.shape
    return x.reshape(n, high // PATCH, PATCH, wide // PATCH, PATCH).mean((2, 4))


def scores(experiment: Experiment, params, held_out) -> dict:
    one, batch = experiment.objectives["dense"], jax.tree.map(lambda x: x[:, 0], held_out)

    def logits(params, batch):
        outputs = compute(experiment.model(params), one.passes(False), batch)
        y = one.predict(params["objective"]["dense"], outputs[one.reads])
        return y[..., 1] - y[..., 0]

    found, true = np.asarray(jax.jit(logits)(params, batch)), batch["tampered"]["pixels"][..., 0]
    relevant = patches(true) > 0.5
    return {METRIC: precision(patches(found).ravel(), relevant.ravel()), "pixels": float(((found > 0) == true).mean())}


def measure(steps=200, batch=16, seeds=3, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}; seeds have pictures of their own to learn from, up to `SETS` of them."""
    results, made = {}, {name: Experiment(config(name, steps, batch)) for name in {RTM: 0} | dict.fromkeys(conditions)}
    data = [encoded(made[RTM], split) for split in ("train", "val")]  # of which the picture alone is a part
    for name in conditions:
        experiment, results[name] = made[name], []
        own = {m.name for m in (*experiment.run.modalities, *experiment.run.labels)} | {"row"}
        train, held_out = ({k: v for k, v in part.items() if k in own} for part in data)
        for seed in range(seeds):
            mine = jax.tree.map(lambda x, at=seed % SETS * LABELLED: x[at : at + LABELLED], train)
            params, _ = experiment.train(mine, seed)
            results[name].append(scores(experiment, params, held_out))
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"{LABELLED} labelled pictures, {args.steps} steps of {args.batch}; {SETS * LABELLED // 10} held out"
    finish("rtm", args, title, results, systems=[30], control=ALONE, gates=GATES)


if __name__ == "__main__":
    main()
