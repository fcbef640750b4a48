"""python -m tools.experiments.rerank_rag: does a matching head keep better context than the cosine that found it?

Two stages as in arXiv 2501.04695 (`configs/systems/rerank_rag.py`, `pretrain.evals.reranking`) on simulated topics: a
text names two of 64 things, and of each held-out topic one to four pictures show both, beside two things that no text
names. A thing is a token of a picture and one of a text, random nonlinear views of it, a picture's under noise. Other
topics name one of the same things, so that many pictures are near. Trained by contrast and, on the same encoders, by a
head over both sides. The first 20 by cosine of 8 numbers; kept are at most 5 by the head or by the cosine, above a
threshold that kept .9 of the relevant on other topics. Precision at equal recall: the cosine's where its recall is the
head's; and how many are kept a query, beside a fixed 5. Beside it the untrained network.
"""

import importlib

import jax
import numpy as np

from pretrain.evals.base import Context
from pretrain.evals.reranking import Evaluator
from tools.experiments.common import Experiment, Gate, finish, options

HEAD, COSINE, FIXED, UNTRAINED = "matching head", "cosine", "cosine, fixed 5", "untrained"
SIZES = dict(steps=(800, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(4, 2, "how many"))
PRECISION, KEPT, MOST = "precision", "kept", 5
GATES = (
    Gate("the head's precision is above the cosine's at equal recall", PRECISION, HEAD, COSINE),
    Gate("it keeps fewer than a fixed number", KEPT, HEAD, FIXED, sign=-1),
    Gate("and its AUROC among the first is above the cosine's", "AUROC", HEAD, COSINE),
)
THINGS, SHOWN, TOPICS, VIEWS = 64, 4, (1024, 128, 128), 8
LATENT, WIDTH, NOISE, EMBED = 12, 32, 0.8, 8
SIZE = dict(dim=64, heads=4, depth=1)


def topics(seed: int) -> dict:
    """{split: data of pictures `a` and texts `b`, `[topics, VIEWS, …]` of training, else a picture each}; the topic of
    each is its `topic`."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(2 * THINGS, LATENT))  # of things that are named, and of others
    seen = {}
    for name in "ab":
        first, last = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH)))
        seen[name] = np.tanh(2 * latent @ first) @ last
    pairs = np.array([(u, v) for u in range(THINGS) for v in range(u)])
    pairs, out = pairs[rng.permutation(len(pairs))[: sum(TOPICS)]], {}
    for split, named in zip(("train", "val", "test"), np.split(pairs, np.cumsum(TOPICS)[:-1])):
        count = np.full(len(named), VIEWS) if split == "train" else rng.integers(1, SHOWN + 1, len(named))
        topic = np.arange(len(named)).repeat(count)
        others = THINGS + np.argsort(rng.random((len(topic), THINGS)), 1)[:, : SHOWN - 2]
        things = rng.permuted(np.concatenate([named[topic], others], 1), axis=1)
        picture = seen["a"][things]
        picture = picture + NOISE * picture.std() * rng.normal(size=picture.shape)
        data = {"a": picture, "b": seen["b"][named[topic]], "row": np.arange(len(topic)), "topic": topic}
        shape = (len(named), VIEWS) if split == "train" else (len(topic), 1)
        data = {k: x.reshape(*shape, *x.shape[1:]) for k, x in data.items()}
        for name in "ab":
            x = data[name].astype(np.float32)
            data[name] = dict(vectors=x, valid=np.ones(x.shape[:-1], bool))
        out[split] = data
    return out


def config(steps: int, batch: int) -> dict:
    system, edges = importlib.import_module("configs.systems.rerank_rag"), [dict(a="a", b="b")]
    spec = dict(kind="vectors", targets=False)
    parts = system.parts(
        SIZE, SIZE, SIZE, embed_dim=EMBED, names=("a", "b"), how=("mean", "mean"), positions="none"
    )  # fmt: skip
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, field=n, shape=(s, WIDTH), **spec) for n, s in (("a", SHOWN), ("b", 2))],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=system.objectives(edges), optim=dict(lr=2e-3, warmup=steps // 10),
    )  # fmt: skip


class Held(Context):
    """Data in memory as the splits of a run."""

    def __init__(self, experiment: Experiment, data: dict):
        super().__init__(experiment.run, experiment.graphs, experiment.objectives)
        self.__dict__["data"] = data

    def batches(self, split, batch_size):
        (name,) = (split,) if isinstance(split, str) else split
        yield jax.tree.map(lambda x: x[:, 0], {k: self.data[name][k] for k in ("a", "b", "row")})

    def column(self, field, splits, key):
        (name,) = (splits,) if isinstance(splits, str) else splits
        return dict(enumerate(self.data[name][field][:, 0].tolist()))


def scores(experiment: Experiment, params, data) -> dict:
    """{condition: scores}."""
    found = dict(Evaluator(Held(experiment, data), relevant="topic", most=MOST).run(params))
    of = lambda name, kept: {
        **{key: float(found[f"{kept}/{key}"]) for key in (PRECISION, "recall", KEPT)},
        "AUROC": float(found[f"{name}/AUROC"]), "first stage's recall": float(found["first/recall"]),
    }  # fmt: skip
    return {
        HEAD: of("match", "match"),
        COSINE: of("cosine", "cosine/at that recall"),
        FIXED: of("cosine", "cosine/fixed"),
    }


def measure(steps=800, batch=128, seeds=4) -> dict:
    """{condition: [scores of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {}
    for seed in range(seeds):
        data = topics(seed)
        train = {k: v for k, v in data["train"].items() if k != "topic"}
        params, losses = experiment.train(train, seed)
        found = scores(experiment, params, data)
        found[UNTRAINED] = scores(experiment, experiment.init(jax.random.key(seed)), data)[HEAD]
        for name, values in found.items():
            results.setdefault(name, []).append(values)
        print(seed, round(float(losses[-20:].mean()), 3),
              {k: {m: round(x, 3) for m, x in v.items()} for k, v in found.items()}, flush=True)  # fmt: skip
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Pictures of {TOPICS[2]} held-out topics, the first 20 by cosine; {args.steps} steps of {args.batch}"
    finish("rerank_rag", args, title, results, systems=[48], control=COSINE, gates=GATES)


if __name__ == "__main__":
    main()
