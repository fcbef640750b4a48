"""python -m tools.experiments.mgca: does contrast inside an example find which patch a word names?

MGCA (arXiv 2210.06044, `configs/systems/mgca.py`) in small. A picture has eight patches, each a thing, a latent vector;
a text has four words, each of which names another of these things: the word and the patch are two random nonlinear
views of it, with noise, and in any order. All things of a picture lie about the centre of its class, one of four. By
global contrast alone, with contrast of tokens, with prototypes, or with both (MGCA); and the first and the last of
these where the whole is the mean of what the head of the tokens gives (one head). Held out, 512 pairs: how often the
patch that is most like a word is the one that it names, of which chance is an eighth, among tokens as the objective
compares them (without one: as the whole is projected); R@1 of pairs, the mean of both directions; and of a picture's
ten nearest, how many are of its class.
"""

import importlib

import jax
import numpy as np

from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, finish, options, recall_at_1

GLOBAL, LOCAL, SWAPPED, ALL = "global alone", "with tokens", "with prototypes", "MGCA"
ONE_GLOBAL, ONE = "one head, global alone", "one head, MGCA"
CONDITIONS = {
    GLOBAL: ("contrastive",),
    LOCAL: ("contrastive", "token_contrast"),
    SWAPPED: ("contrastive", "prototypes"),
    ALL: ("contrastive", "token_contrast", "prototypes"),
}
CONDITIONS |= {ONE_GLOBAL: CONDITIONS[GLOBAL], ONE: CONDITIONS[ALL]}
SIZES = dict(steps=(400, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(4, 2, "how many"))
PATCHES, WORDS, CLASSES = 8, 4, 4
GATES = (
    Gate("MGCA finds the patch that a word names more often than chance", "hits", ALL, bound=1 / PATCHES),
    Gate("and more often than global contrast alone", "hits", ALL, GLOBAL),
    Gate("so it does with one head for the whole and its tokens", "hits", ONE, ONE_GLOBAL),
)
LATENT, WIDTH, NOISE, SPREAD = 12, 64, 0.3, 0.3
NEAREST = 10


def scenes(seed: int, sizes=(4096, 512)) -> list:
    """[(data of pictures `a` and texts `b`, which patch each word names `[n, words]`, classes `[n]`)], to train with
    and held out."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    classes = rng.integers(CLASSES, size=n)
    centres = SPREAD * rng.normal(size=(CLASSES, LATENT))
    things = centres[classes][:, None] + rng.normal(size=(n, PATCHES, LATENT))
    named = np.argsort(rng.random((n, PATCHES)), axis=1)[:, :WORDS]
    views, shown = {}, {"a": things, "b": np.take_along_axis(things, named[..., None], axis=1)}
    for name, latent in shown.items():
        hidden = np.tanh(latent @ rng.normal(size=(LATENT, WIDTH)) / LATENT**0.5)
        views[name] = hidden @ rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
        views[name] += NOISE * rng.normal(size=views[name].shape)
    cut = [np.arange(sizes[0]), np.arange(sizes[0], n)]
    return [(data({m: x[rows] for m, x in views.items()}), named[rows], classes[rows]) for rows in cut]


def data(views: dict) -> dict:
    """{modality: `[n, tokens, width]`} → data of one view."""
    found = {
        m: {"vectors": x.astype(np.float32)[:, None], "valid": np.ones((len(x), 1, x.shape[1]), bool)}
        for m, x in views.items()
    }
    return found | {"row": np.arange(len(views["a"]))[:, None]}


def config(condition: str, steps: int, batch: int) -> dict:
    system, sizes = importlib.import_module("configs.systems.mgca"), dict(dim=64, heads=4, depth=2)
    losses = system.objectives(dict(a="a", b="b"), prototypes=32, frozen_steps=steps // 10)
    parts = system.parts(dict(a=sizes, b=sizes), 32, 64)
    for name in "ab":  # in any order: a token says what it is, not where; the whole is what its tokens are
        parts[f"{name}_embed"]["positions"] = "none"
        parts[f"{name}_pool"]["how"] = "mean"
        if condition in (ONE_GLOBAL, ONE):
            parts[f"{name}_pool"].update(reads=[f"{name}_tokens"], width=32)
            parts[f"{name}_project"].update(hidden=[], identity=True)
    lengths = dict(a=PATCHES, b=WORDS)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=m, kind="vectors", shape=(n, WIDTH), field=m, targets=False) for m, n in lengths.items()],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives={name: losses[name] for name in CONDITIONS[condition]}, optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def tokens(experiment: Experiment, params, held_out, condition: str) -> list:
    """[`[n, tokens, D]` of unit length of a, of b], class tokens left out."""
    local = condition in (LOCAL, ALL, ONE_GLOBAL, ONE)
    model, batch = experiment.model(params), jax.tree.map(lambda x: x[:, 0], held_out)
    states, leaf = model.states, {m: model.states.shown(m) for m in "ab"}
    if local:
        nodes = {m: states.over(f"{m}_tokens", leaf) for m in "ab"}
    else:
        nodes = {m: states.call(f"{m}_project", states.stream(m, leaf[m]), modality=m, tokens=True) for m in "ab"}
    found = compute(model, nodes, batch)
    x = [np.asarray(found[m].x if local else found[m])[:, 1:] for m in "ab"]
    return [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in x]


def purity(z, classes) -> float:
    """How many of the nearest of each are of its class."""
    similarity = z @ z.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1)[:, :NEAREST]
    return float((classes[near] == classes[:, None]).mean())


def measure(steps=400, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            (train, _, _), (held_out, named, classes) = scenes(seed)
            params, _ = experiment.train(train, seed)
            patches, words = tokens(experiment, params, held_out, name)
            z = experiment.embeddings(params, held_out)
            results[name].append({
                "hits": float(((words @ patches.swapaxes(1, 2)).argmax(-1) == named).mean()),
                "R@1": recall_at_1(z["a"], z["b"]), "purity": purity(z["a"], classes),
            })  # fmt: skip
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Words and patches of 512 held-out pairs after {args.steps} steps of {args.batch}"
    finish("mgca", args, title, results, systems=[15], control=GLOBAL, gates=GATES)


if __name__ == "__main__":
    main()
