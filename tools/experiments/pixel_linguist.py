"""python -m tools.experiments.pixel_linguist: do pixels of words tell what sentences share, however they are typed?

Pixel-Linguist (arXiv 2402.08183, `configs/systems/pixel_linguist.py`) in small. A sentence is four of 200 English words
of the emoji corpus, at random. Learned are 2048 sentences, each in four perturbed forms: mistyped (two letters swapped,
one dropped or doubled) and reordered; as pixels, and as pieces of our tokenizer, three or four a word, under a
network of equal size. Beside these: two runs from one start, of typos and of order alone, and the mean of their
weights. Held out are 512 pairs of sentences that share none to four words, in any order: Spearman's correlation of
their cosines with how many, as they are (`plain`), and where one of the two is mistyped in each word by a replaced
letter, of which training had none (`typos`).
"""

import importlib

import jax
import numpy as np

from data_pipeline import kinds, text_tokenizers
from data_pipeline.sources import emoji
from data_pipeline.spec import Modality
from data_pipeline.transforms.perturbed_text import Transform
from pretrain.evals.metrics import spearman
from tools.average import mean
from tools.experiments.common import Experiment, Gate, finish, options

FRESH, PIXELS, TYPOS, ORDER = "untrained", "pixels", "pixels, typos alone", "pixels, order alone"
MEAN, PIECES, FRESH_PIECES = "the mean of both", "word pieces", "word pieces, untrained"
HOW = {PIXELS: ("both",), TYPOS: ("typos",), ORDER: ("order",), PIECES: ("both",)}
SIZES = dict(steps=(300, 4, "of training"), batch=(64, 16, "sentences a step"), seeds=(3, 2, "how many"))
GATES = (
    Gate("contrast raises the correlation above the untrained", "plain", PIXELS, FRESH),
    Gate("also of mistyped words", "typos", PIXELS, FRESH),
    Gate("and is above word pieces where words are mistyped in a new way", "typos", PIXELS, PIECES),
)
WORDS, NAMED, COUNT, VIEWS, HELD_OUT = 200, 4, 2048, 4, 512
BOTH, LENGTHS = ("text", "other"), (16, 32)  # the most patches, and pieces, of a sentence
SEEN, UNSEEN = ("swap", "drop", "double"), ("replace",)


def words(seed: int) -> list[str]:
    """Some of the single words of keywords, of 4 to 8 letters."""
    every = {w for meta in emoji.metadata() for w in meta["keywords"]["en"] if w.isalpha() and 4 <= len(w) <= 8}
    return np.random.default_rng(seed).permutation(sorted(every))[:WORDS].tolist()


def pairs(seed: int) -> tuple:
    """(texts, others, how many words they share `[n]`)."""
    known, rng = words(seed), np.random.default_rng([seed, 1])
    texts, others, shared = [], [], rng.integers(NAMED + 1, size=HELD_OUT)
    for count in shared:
        drawn = rng.permutation(known)[: 2 * NAMED - count]
        texts.append(" ".join(drawn[:NAMED]))
        others.append(" ".join(rng.permutation(drawn[NAMED - count :])))
    return texts, others, shared


def encoded(condition: str, texts) -> dict:
    """A modality's entry of a batch, of texts."""
    spec = Modality(**config(condition, 1, 1)["modalities"][0])
    encode = text_tokenizers.make(spec.tokenizer).encode
    return kinds.of(spec).pad(spec, [encode(text, spec.length) for text in texts], np.arange(len(texts)))


def sentences(condition: str, seed: int) -> dict:
    """Training data: each sentence in some forms."""
    known, rng = words(seed), np.random.default_rng([seed, 2])
    said = [" ".join(rng.permutation(known)[:NAMED]) for _ in range(COUNT)]
    perturb = Transform("text", "other", HOW[condition], edits=SEEN).perturb
    forms = [perturb(text, rng) for text in said for _ in range(VIEWS)]
    texts = jax.tree.map(lambda x: np.repeat(x[:, None], VIEWS, 1), encoded(condition, said))
    others = jax.tree.map(lambda x: x.reshape(COUNT, VIEWS, *x.shape[1:]), encoded(condition, forms))
    return {"text": texts, "other": others, "row": np.repeat(np.arange(COUNT)[:, None], VIEWS, 1)}


def config(condition: str, steps: int, batch: int) -> dict:
    system = importlib.import_module("configs.systems.pixel_linguist")
    pieces = dict(kind="sequence", shape=(LENGTHS[1],), vocab="text", vocab_size=8000, tokenizer="text", targets=False)
    texts = [dict(pieces if condition == PIECES else system.rendered(n, LENGTHS[0]), name=n, field=n) for n in BOTH]
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"), modalities=texts,
        model=dict(model="models.network", dtype="float32", parts=system.parts(dim=64, heads=4, depth=2)),
        objectives=system.objectives(), optim=dict(lr=1e-3, warmup=steps // 10, clip=1.0),
    )  # fmt: skip


def scores(experiment, condition: str, params, seed: int) -> dict:
    texts, others, shared = pairs(seed)
    rng, mistype = np.random.default_rng([seed, 3]), Transform("a", "b", ("typos",), 1.0, UNSEEN).perturb
    forms, found = {"plain": others, "typos": [mistype(text, rng) for text in others]}, {}
    for name, given in forms.items():
        data = {"text": encoded(condition, texts), "other": encoded(condition, given), "row": np.arange(len(texts))}
        z = experiment.embeddings(params, jax.tree.map(lambda x: x[:, None], data))
        found[name] = float(spearman((z["text"] * z["other"]).sum(1), shared))
    return found


def measure(steps=300, batch=64, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in (FRESH, PIXELS, TYPOS, ORDER, MEAN, FRESH_PIECES, PIECES)}
    for fresh, names in ((FRESH, (PIXELS, TYPOS, ORDER)), (FRESH_PIECES, (PIECES,))):
        experiment = Experiment(config(names[0], steps, batch))
        for seed in range(seeds):
            start = jax.jit(experiment.init)(jax.random.key(seed))
            learned = {name: experiment.train(sentences(name, seed), seed)[0] for name in names}
            learned |= {fresh: start}
            if TYPOS in names:  # from one start
                learned |= {MEAN: mean([learned[TYPOS], learned[ORDER]])}
            for name, params in learned.items():
                results[name].append(scores(experiment, names[0], params, seed))
                print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"{HELD_OUT} pairs of sentences of four words after {args.steps} steps of {args.batch}"
    finish("pixel_linguist", args, title, results, systems=[38], control=FRESH, gates=GATES)


if __name__ == "__main__":
    main()
