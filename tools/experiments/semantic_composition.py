"""python -m tools.experiments.semantic_composition: do literal phrases lie nearer to their words than idioms?

The probe of `configs/systems/semantic_composition.py` on a planted language: 60 words, each of a meaning of its own,
and 240 phrases of two of them, of which a quarter are idioms: a literal phrase means the mean of its words, an idiom
something else. A picture is a random nonlinear view of a meaning, under noise. Words and phrases are learned from
pictures by contrast, by a transformer and, as a control, by a bag of words; beside them the untrained transformer. How
often a literal phrase lies nearer to the mean of its words than an idiom does (AUROC; chance .5), and both cosines.
"""

import jax
import numpy as np

from pretrain.evals.composition import compose
from pretrain.evals.metrics import auroc
from tools.experiments.common import Experiment, Gate, finish, options, pairs, recall_at_1

TRAINED, BAG, UNTRAINED = "trained", "bag of words", "untrained"
SIZES = dict(steps=(600, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(6, 2, "how many"))
GATES = (
    Gate("literal phrases lie nearer to their words than idioms", "AUROC", TRAINED, bound=0.5),
    Gate("more so than before training", "AUROC", TRAINED, UNTRAINED),
    Gate("a bag of words does not tell them apart as well", "AUROC", TRAINED, BAG),
)
WORDS, PHRASES, IDIOMS = 60, 240, 60
LATENT, WIDTH, NOISE, PICTURES = 12, 64, 0.3, 8


def language(seed: int) -> tuple:
    """(data of words and phrases with pictures, `[texts, PICTURES, …]`, the words of each phrase, which are idioms)."""
    rng = np.random.default_rng(seed)
    meaning, rows = rng.normal(size=(WORDS, LATENT)), rng.normal(size=(WORDS, WIDTH))
    every = np.array([(u, v) for u in range(WORDS) for v in range(WORDS) if u != v])
    of = every[rng.choice(len(every), PHRASES, replace=False)]
    idiom = np.arange(PHRASES) < IDIOMS
    meant = np.where(idiom[:, None], rng.normal(size=(PHRASES, LATENT)), meaning[of].sum(1) / 2**0.5)
    shown = np.concatenate([meaning, meant])[:, None].repeat(PICTURES, 1)
    first, last = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH)))
    picture = np.tanh(shown @ first) @ last
    picture += NOISE * rng.normal(size=picture.shape)
    text = np.zeros((WORDS + PHRASES, 2, WIDTH))
    text[:WORDS, 0], text[WORDS:] = rows, rows[of]
    valid = np.ones(text.shape[:2], bool)
    valid[:WORDS, 1] = False
    again = lambda x: np.repeat(x[:, None], PICTURES, 1)
    data = {
        "a": dict(vectors=picture[:, :, None].astype(np.float32), valid=np.ones((*picture.shape[:2], 1), bool)),
        "b": dict(vectors=again(text).astype(np.float32), valid=again(valid)),
        "row": again(np.arange(WORDS + PHRASES)),
    }
    return data, of, idiom


def config(condition: str, steps: int, batch: int) -> dict:
    objectives = dict(contrastive=dict(edges=[dict(a="a", b="b")]))
    made = pairs(objectives, steps=steps, batch=batch, depth=1, embed_dim=32, width=WIDTH)
    made["modalities"][1]["shape"] = (2, WIDTH)
    made["model"]["towers"][1].update(dict(depth=0, dim=WIDTH) if condition == BAG else dict(positions="learned"))
    return made


def scores(experiment: Experiment, params, given) -> dict:
    data, of, idiom = given
    found = experiment.embeddings(params, data)
    z, whole = found["b"][:WORDS], found["b"][WORDS:]
    cosine = (compose([z[words] for words in of]) * whole).sum(1)
    return {
        "AUROC": auroc(cosine, ~idiom), "literal": float(cosine[~idiom].mean()), "idiom": float(cosine[idiom].mean()),
        "R@1": recall_at_1(found["a"], found["b"]),
    }  # fmt: skip


def measure(steps=600, batch=128, seeds=6) -> dict:
    """{condition: [scores of every seed]}."""
    results = {TRAINED: [], BAG: [], UNTRAINED: []}
    for name in (TRAINED, BAG):
        experiment = Experiment(config(name, steps, batch))
        for seed in range(seeds):
            given = language(seed)
            params, _ = experiment.train(given[0], seed)
            results[name].append(scores(experiment, params, given))
            if name == TRAINED:
                results[UNTRAINED].append(scores(experiment, experiment.init(jax.random.key(seed)), given))
        print(name, [{k: round(v, 3) for k, v in run.items()} for run in results[name]], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"{PHRASES} phrases of two of {WORDS} words, {IDIOMS} of them idioms; {args.steps} steps of {args.batch}"
    finish("semantic_composition", args, title, results, systems=[72], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
