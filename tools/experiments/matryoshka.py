"""python -m tools.experiments.matryoshka [--data=synthetic|emoji]: what nested training leaves of numbers and layers.

CLIP alone; within `matryoshka` over widths of an eighth, a quarter and a half (arXiv 2205.13147); and within its 2D
form, which draws one width and one layer a step (arXiv 2402.14776). Towers of 4 layers; held-out R@1 of the first
numbers, normalised again, and of the first layers under the same norm, pool and projection.
`synthetic`: two random nonlinear views of a shared latent of 12 numbers, embeddings of 64, 512 candidates. `emoji`: the
pictures of two designers (3D, Noto), pixels under one tower, embeddings of 128, 270 candidates.
"""

from tools.experiments.common import (
    Experiment,
    Gate,
    cut,
    finish,
    latent_views,
    options,
    pairs,
    pictures,
    recall_at_1,
    split,
)

DEPTH, EMBED_DIM = 4, dict(synthetic=64, emoji=128)
CONDITIONS = ("CLIP", "Matryoshka", "2D Matryoshka")


def config(data, condition, steps, batch) -> dict:
    size, a, b = EMBED_DIM[data], *(("a", "b") if data == "synthetic" else ("render3d", "noto"))
    clip = dict(edges=[dict(a=a, b=b)], temperature=0.07, grid_tokens=24)
    nested = dict(base=dict(objective="contrastive", **clip), widths=(size // 8, size // 4, size // 2))
    if condition == "CLIP":
        objectives = dict(contrastive=clip)
    else:
        objectives = dict(matryoshka=nested | dict(layers=condition.startswith("2D")))
    make = pairs if data == "synthetic" else pictures
    return make(objectives, steps=steps, batch=batch, depth=DEPTH, embed_dim=size)


def scores(experiment, params, data) -> dict:
    z = {layer: experiment.embeddings(params, data, layer).values() for layer in range(1, DEPTH + 1)}
    first = lambda layer, part: recall_at_1(*(cut(x, x.shape[1] // part) for x in z[layer]))
    out = {"all numbers": first(DEPTH, 1), "1/2": first(DEPTH, 2), "1/4": first(DEPTH, 4), "1/8": first(DEPTH, 8)}
    out["1/8 over all"] = out["1/8"] / max(out["all numbers"], 1e-9)
    out |= {f"layer {layer}": first(layer, 1) for layer in range(1, DEPTH)}
    return out | {"layer 1, 1/8": first(1, 8)}


def measure(data="synthetic", steps=400, batch=128, seeds=3, conditions=CONDITIONS) -> dict:
    """{condition: [R@1 of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(data, name, steps, batch)), []
        for seed in range(seeds):
            train, held_out = latent_views(seed, noise=0.3) if data == "synthetic" else split(experiment)
            results[name].append(scores(experiment, experiment.train(train, seed)[0], held_out))
    return results


SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(3, 2, "how many"))
GATES = (
    Gate("the first layer gains at least 20 points of R@1", "layer 1", "2D Matryoshka", "CLIP", bound=0.2),
    Gate("the last layer loses at most 3", "all numbers", "2D Matryoshka", "CLIP", bound=-0.03),
)


def main(argv=None):
    args = options(
        __doc__, argv, SIZES,
        data=dict(choices=tuple(EMBED_DIM), default="synthetic"),
        conditions=dict(nargs="+", choices=CONDITIONS, default=CONDITIONS),
    )  # fmt: skip
    results = measure(args.data, args.steps, args.batch, args.seeds, args.conditions)
    title = f"R@1, {args.data}, {args.steps} steps of {args.batch}"
    variant = "" if args.data == "synthetic" else args.data
    finish("matryoshka", args, title, results, systems=[43], control="CLIP", gates=GATES, variant=variant)


if __name__ == "__main__":
    main()
