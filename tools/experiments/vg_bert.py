"""python -m tools.experiments.vg_bert: does a caption find one thing of four, and do its words learn how things look?

VG-BERT (arXiv 2111.07180, `configs/systems/vg_bert.py`) in small. Each of 160 things has a look and a use, latent
vectors of six numbers. A picture has six patches in any order: four things, nonlinear views of their looks with noise,
and two of noise alone. A caption has four words in any order: the name of one of the things, and three of sixteen that
name none. The vector of a name is one nonlinear view of the use and, at a third of its size, of the look, with noise of
its own: as of a model that has read, and seen nothing. Late interaction, as it is and of tokens of unit length, against
InfoNCE of pooled embeddings, at the same temperature. Held out, 512 pairs: how often the picture nearest to a caption
has the thing that is named, of which chance is 1 in 40; and r² of ridge regression, over words that it was not fitted
to, of look and of use from what the text encoder makes of a name alone, trained or not (untrained), or from its vector
as it was (text alone).
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.models.passes import compute
from pretrain.ops.token_pairs import late_similarity
from tools.experiments.common import Experiment, Gate, finish, options

LATE, UNIT, POOLED, TEXT, FRESH = "late", "late, unit length", "pooled", "text alone", "untrained"
EDGES = [dict(a="a", b="b")]
CONDITIONS = {
    LATE: {},
    UNIT: dict(normalise=True),
    POOLED: dict(contrastive=dict(edges=EDGES, temperature=0.1, learn="fixed", directions="sum")),
    TEXT: {},  # by which nothing is trained, nor
    FRESH: {},
}
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("late interaction finds the thing that is named more often than pooled embeddings", "found", LATE, POOLED),
    Gate("grounded words tell how things look better than words as they were", "look", LATE, TEXT),
    Gate("and what they are for no worse, by .05 of r² at most", "use", LATE, TEXT, bound=-0.05),
)
THINGS, FILLERS, LATENT, WIDTH, NOISE, NAMES = 160, 16, 6, 64, 0.5, 0.7
SHOWN, PATCHES, WORDS = 4, 6, 4
PENALTIES = 10.0 ** np.arange(-2, 4)


def view(rng, latent, hidden=64):
    """A random two-layer network of latent vectors `[…, n]`, `[…, WIDTH]`."""
    y = np.tanh(latent @ rng.normal(size=(latent.shape[-1], hidden)) / latent.shape[-1] ** 0.5 * 1.5)
    return y @ rng.normal(size=(hidden, WIDTH)) / hidden**0.5


def world(seed: int, sizes=(4096, 512)) -> dict:
    """train, held_out: data of pictures `a` and captions `b`; shown `[n, 4]`, named `[n]`: the things of the held-out
    ones; look, use `[things, 6]`; names `[things, width]`."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    look, use = rng.normal(size=(2, THINGS, LATENT))
    names = view(rng, np.concatenate([use, look / 3], 1))
    names += NAMES * names.std() * rng.normal(size=names.shape)
    fillers = rng.normal(size=(FILLERS, WIDTH)) * names.std()
    seen = view(rng, look)
    shown = np.argsort(rng.random((n, THINGS)), axis=1)[:, :SHOWN]
    patches = np.concatenate([seen[shown], np.zeros((n, PATCHES - SHOWN, WIDTH))], 1)
    patches += NOISE * seen.std() * rng.normal(size=patches.shape)
    patches[:, SHOWN:] *= 2
    words = fillers[rng.integers(FILLERS, size=(n, WORDS))]
    words[:, 0] = names[shown[:, 0]]  # who is shown is in no order
    mixed = lambda x: np.take_along_axis(x, np.argsort(rng.random(x.shape[:2]), axis=1)[..., None], axis=1)
    views = {"a": mixed(patches), "b": mixed(words)}
    train, held_out = (data({m: x[part] for m, x in views.items()}) for part in (slice(sizes[0]), slice(sizes[0], n)))
    shown = shown[sizes[0] :]
    return dict(train=train, held_out=held_out, shown=shown, named=shown[:, 0], look=look, use=use, names=names)


def data(views: dict) -> dict:
    """{modality: `[n, tokens, width]`} → data of one view."""
    found = {
        m: {"vectors": x.astype(np.float32)[:, None], "valid": np.ones((len(x), 1, x.shape[1]), bool)}
        for m, x in views.items()
    }
    return found | {"row": np.arange(len(views["b"]))[:, None]}


def config(condition: str, steps: int, batch: int) -> dict:
    system, sizes = importlib.import_module("configs.systems.vg_bert"), dict(dim=64, heads=4, depth=1)
    parts, changes = system.parts(dict(a=sizes, b=sizes), 32), CONDITIONS[condition]
    for name in "ab":  # in any order: a token says what it is, not where
        parts[f"{name}_embed"]["positions"] = "none"
    lengths = dict(a=PATCHES, b=WORDS)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=m, kind="vectors", shape=(n, WIDTH), field=m, targets=False) for m, n in lengths.items()],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=changes if condition == POOLED else system.objectives(EDGES, **changes),
        optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def similarities(experiment: Experiment, params, held_out, condition: str):
    """`[captions, pictures]`, as the objective compares them."""
    if condition == POOLED:
        z = experiment.embeddings(params, held_out)
        return z["b"] @ z["a"].T
    model = experiment.model(params)
    nodes = {m: model.states.projected(m, model.states.shown(m), raw=condition != UNIT or None) for m in "ab"}
    found = compute(model, nodes, jax.tree.map(lambda x: x[:, 0], held_out))
    sides = ((found[m], jnp.ones(found[m].shape[:2], bool)) for m in "ab")
    return np.asarray(late_similarity(*sides)).T


def grounded(experiment: Experiment, params, names) -> np.ndarray:
    """What the text encoder makes of each name alone, `[things, 64]`."""
    model = experiment.model(params)
    words = np.zeros((len(names), WORDS, WIDTH), np.float32)
    words[:, 0] = names
    valid = np.arange(WORDS) == np.zeros((len(names), 1))
    batch = {"b": {"vectors": words, "valid": valid}, "row": np.arange(len(names))}
    stream = compute(model, {"x": model.states.stream("b", model.states.shown("b"))}, batch)["x"]
    return np.asarray(stream.x)[:, 0]


def ridge(x, y, folds: int = 5) -> float:
    """r² over words that it was not fitted to, the mean of what is told; the penalty is chosen among the others."""
    order, told = np.random.default_rng(0).permutation(len(x)), np.zeros_like(y)
    for i in range(folds):
        left = order[i::folds]
        rest = np.setdiff1d(order, left, assume_unique=True)
        inner, outer = rest[::4], np.delete(rest, np.s_[::4])
        errors = [np.square(fit(x[outer], y[outer], p)(x[inner]) - y[inner]).sum() for p in PENALTIES]
        told[left] = fit(x[rest], y[rest], PENALTIES[np.argmin(errors)])(x[left])
    return float(np.mean(1 - np.square(told - y).sum(0) / np.square(y - y.mean(0)).sum(0)))


def fit(x, y, penalty: float):
    mean, spread, middle = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    z = (x - mean) / spread
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - middle))
    return lambda new: (new - mean) / spread @ weights + middle


def measure(steps=400, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            w = world(seed)
            if name in (TEXT, FRESH):
                params = experiment.init(jax.random.key(seed))
            else:
                params, _ = experiment.train(w["train"], seed)
            words = w["names"] if name == TEXT else grounded(experiment, params, w["names"])
            best = similarities(experiment, params, w["held_out"], name).argmax(1)
            found = (w["shown"][best] == w["named"][:, None]).any(1).mean()
            scores = {"found": float(found)} | {key: ridge(np.float64(words), w[key]) for key in ("look", "use")}
            results[name].append(scores)
            print(name, seed, {k: round(v, 3) for k, v in scores.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Pictures found of 512, and r² of look and use, after {args.steps} steps of {args.batch}"
    finish("vg_bert", args, title, results, systems=[63], control=POOLED, gates=GATES)


if __name__ == "__main__":
    main()
