"""python -m tools.experiments.ranking: does the side that negatives come from specialise a ranking loss to a direction?

The objective `triplet` (arXiv 1601.03478) at a margin of .2 on two random nonlinear views of one latent, `a` in the
place of images, `b` of texts: negatives of one side alone or of both; and one random negative, their sum, the hardest,
beside softmax InfoNCE. Held out: R@1 of 512 from a to b, from b to a, and their difference.
"""

from tools.experiments.common import Experiment, Gate, directed_recall_at_1, finish, latent_views, options, pairs

CONDITIONS = {
    "negatives of both": dict(triplet=dict(negatives="sum", directions="mean")),
    "text negatives": dict(triplet=dict(negatives="sum", directions="forward")),
    "image negatives": dict(triplet=dict(negatives="sum", directions="backward")),
    "one random negative": dict(triplet=dict(negatives="random", directions="mean")),
    "the hardest negative": dict(triplet=dict(negatives="hardest", directions="mean")),
    "InfoNCE": dict(contrastive=dict()),
}
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("text negatives favour finding texts", "i2t − t2i", "text negatives"),
    Gate("image negatives favour finding images", "i2t − t2i", "image negatives", sign=-1),
)


def measure(steps=400, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        ((objective, values),) = CONDITIONS[name].items()
        objectives = {objective: dict(edges=[dict(a="a", b="b")], **values)}
        experiment = Experiment(pairs(objectives, steps=steps, batch=batch, depth=2, embed_dim=32))
        results[name] = []
        for seed in range(seeds):
            train, held_out = latent_views(seed, noise=0.6)
            params, _ = experiment.train(train, seed)
            i2t, t2i = directed_recall_at_1(*experiment.embeddings(params, held_out).values())
            results[name].append({"i2t": i2t, "t2i": t2i, "i2t − t2i": i2t - t2i, "R@1": (i2t + t2i) / 2})
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"R@1 of 512; {args.steps} steps of {args.batch}"
    finish("ranking", args, title, results, systems=[81], control="negatives of both", gates=GATES)


if __name__ == "__main__":
    main()
