"""python -m tools.experiments.grounded_sentences: do sentences that were learned beside pictures mean what they say?

Merkx and Frank (arXiv 1903.11393, `configs/systems/grounded_sentences.py`) in small, on a simulated language: 24
notions, each a latent vector, have three words of random letters, which nothing but pictures tells to be the same. A
scene is three notions; its picture is a linear map of their sum, as features of a trained network nearly are, under
noise, and a sentence names each by one of its words, in any order, letter by letter. Learned are 16,384 scenes with
four sentences each, by the mean of all hinges (as published), by InfoNCE, and by the hardest negative, summed over the
batch, without a warm-up. Held out are 512 scenes: Spearman's correlation of the cosines of all pairs of sentences with
those of what they are about, and R@1. Controls: the network before training, and the share of words in common.
"""

import importlib

import jax
import numpy as np

from data_pipeline.text_tokenizers.characters import Tokenizer
from pretrain.evals.metrics import spearman
from tools.experiments.common import Experiment, Gate, finish, options, recall_at_1

HINGE, SOFT, HARDEST = "all hinges, their mean", "InfoNCE", "the hardest negative"
FRESH, WORDS = "untrained", "words in common"
EDGES = [dict(a="image", b="text")]
OTHERS = {
    SOFT: dict(contrastive=dict(edges=EDGES)),
    HARDEST: dict(triplet=dict(edges=EDGES, negatives="hardest", reduction="sum")),
}
TRAINED = (HINGE, *OTHERS)
SIZES = dict(steps=(800, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(6, 2, "how many"))
METRIC = "Spearman"
GATES = (
    Gate("the mean of all hinges reaches .85", METRIC, HINGE, bound=0.85),
    Gate("InfoNCE reaches .85", METRIC, SOFT, bound=0.85),
    *(Gate(f"{name} is above words in common", METRIC, name, WORDS) for name in (HINGE, SOFT)),
)
NOTIONS, SYNONYMS, NAMED, LATENT, SEEN, NOISE = 24, 3, 3, 8, 64, 1.0
LETTERS, LENGTH, VIEWS, HELD_OUT = (2, 4), 12, 4, 512


def config(condition: str, steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.grounded_sentences")
    picture = dict(image_encoder=dict(part="embed_one", reads=["image"], dim=SEEN, raw=True))
    text = dict(kind="sequence", vocab="text", vocab_size=Tokenizer.vocab_size, tokenizer="characters")
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[
            dict(name="image", kind="vectors", field="image", shape=(1, SEEN), targets=False),
            dict(name="text", field="text", shape=(LENGTH,), **text),
        ],
        model=dict(model="models.network", parts=system.parts(picture, SEEN, dim=128, hidden=32), dtype="float32"),
        objectives=OTHERS.get(condition, system.OBJECTIVE),
        optim=dict(lr=1e-2, warmup=steps // 10, weight_decay=0.0, clip=1.0),
    )  # fmt: skip


def language(seed: int) -> tuple:
    """(latent vectors `[notions, LATENT]`, words `[notions][SYNONYMS]`)."""
    rng = np.random.default_rng(seed)
    notions, words = rng.normal(size=(NOTIONS, LATENT)), []
    while len(words) < len(notions) * SYNONYMS:
        word = "".join(rng.choice(list("abcdefghijklmnop"), rng.integers(*LETTERS)))
        words += [word] * (word not in words)
    return notions, np.reshape(words, (len(notions), SYNONYMS))


def scenes(seed: int, count: int = 16_384) -> tuple:
    """(train, held out: data; what the scenes that are held out are about `[n, LATENT]`; their sentences)."""
    (notions, words), rng = language(seed), np.random.default_rng([seed, 1])
    total = count + HELD_OUT
    named = np.argsort(rng.random((total, len(notions))), 1)[:, :NAMED]  # different ones
    about = notions[named].sum(1)
    image = about @ rng.normal(size=(LATENT, SEEN)) / LATENT**0.5 + NOISE * rng.normal(size=(total, SEEN))
    ids, said, write = np.zeros((total, VIEWS, LENGTH), np.uint8), [], Tokenizer().encode
    for scene, of_scene in enumerate(named):
        every = [[words[n, rng.integers(SYNONYMS)] for n in rng.permutation(of_scene)] for _ in range(VIEWS)]
        for row, chosen in zip(ids[scene], every):
            made = write(" ".join(chosen), LENGTH)
            row[: len(made)] = made
        said.append(every[0])
    pictures = np.repeat(image.astype(np.float32)[:, None, None], VIEWS, 1)
    data = {
        "image": {"vectors": pictures, "valid": np.ones((total, VIEWS, 1), bool)},
        "text": {"ids": ids, "valid": ids > 0},
        "row": np.repeat(np.arange(total)[:, None], VIEWS, 1),
    }
    train, held_out = (jax.tree.map(lambda x, p=p: x[p], data) for p in (slice(count), slice(count, None)))
    return train, held_out, about[count:], said[count:]


def agreement(cosines, about) -> float:
    """Spearman's correlation, over all pairs, with the cosines of what sentences are about."""
    unit = about / np.linalg.norm(about, axis=1, keepdims=True)
    upper = np.triu_indices(len(about), 1)
    return float(spearman(cosines[upper], (unit @ unit.T)[upper]))


def in_common(said) -> np.ndarray:
    """The share of words that sentences have in common, of all words of both `[n, n]`."""
    every = {word: i for i, word in enumerate(sorted({w for words in said for w in words}))}
    has = np.zeros((len(said), len(every)))
    for row, words in zip(has, said):
        row[[every[w] for w in words]] = 1
    both = has @ has.T
    return both / (has.sum(1)[:, None] + has.sum(1) - both)


def scores(experiment, params, held_out, about) -> dict:
    z = experiment.embeddings(params, held_out)
    return {METRIC: agreement(z["text"] @ z["text"].T, about), "R@1": recall_at_1(z["image"], z["text"])}


def measure(steps=800, batch=128, seeds=6) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in (FRESH, WORDS, *TRAINED)}
    for name in TRAINED:
        experiment = Experiment(config(name, steps, batch))
        for seed in range(seeds):
            train, held_out, about, said = scenes(seed)
            if name == HINGE:
                fresh = jax.jit(experiment.init)(jax.random.key(seed))
                results[FRESH].append(scores(experiment, fresh, held_out, about))
                results[WORDS].append({METRIC: agreement(in_common(said), about), "R@1": 1 / HELD_OUT})
            params, _ = experiment.train(train, seed)
            results[name].append(scores(experiment, params, held_out, about))
        print(name, [{k: round(v, 3) for k, v in run.items()} for run in results[name]], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = (
        f"{HELD_OUT} sentences; {args.steps} steps of {args.batch}; words alone find no picture, R@1 of them is chance"
    )
    finish("grounded_sentences", args, title, results, systems=[32], control=WORDS, gates=GATES)


if __name__ == "__main__":
    main()
