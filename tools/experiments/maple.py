"""python -m tools.experiments.maple: do prompts adapt a frozen CLIP to classes of which it sees a few pictures?

MaPLe (arXiv 2210.03117, `configs/systems/maple.py`) in small. A CLIP of ours learns from pictures of 24 silhouettes of
emoji in 8 colours on a light ground and sentences that name both. Then pictures change: the ground is grey and
cluttered, and colours are dull. 60 classes, ten silhouettes in six colours; of 20, the base classes, prompts see 16
pictures each, and nothing else of the network learns: prompts of texts alone, independent ones in both towers, and
coupled ones. Held out: accuracy among the base classes and, of the other 40, among these; harmonic means.
"""

import dataclasses
import functools
import importlib

import jax
import numpy as np

from data_pipeline.sources import emoji
from data_pipeline.sources.emoji_scenes import KINDS
from data_pipeline.text import TextTokenizer
from pretrain.evals.base_novel import among, harmonic
from pretrain.models.passes import compute
from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options

SIDE, LENGTH, SHOTS = 32, 14, 16
COLOURS = dict(
    red=(220, 30, 30), orange=(245, 140, 20), yellow=(235, 215, 40), green=(40, 160, 60), blue=(40, 80, 220),
    purple=(140, 50, 180), pink=(245, 150, 190), brown=(120, 75, 40),
)  # fmt: skip
PAIRS = tuple((kind, colour) for kind in KINDS for colour in COLOURS)
SHAPES = ("camel", "bat", "airplane", "umbrella", "star", "cloud", "key", "hammer", "house", "bird")
TASK = tuple((kind, colour) for kind in SHAPES for colour in list(COLOURS)[:6])  # the 60 classes
NAMES = tuple(f"{colour} {kind}" for kind, colour in TASK)
# Every silhouette twice, every colour at least three times.
BASE = tuple(n for i, n in enumerate(NAMES) if (i // 6 + i % 6) % 3 == 0)
SENTENCES = ("a photo of a {}.", "a {}.", "{}", "this is a {}.")
CONDITIONS = {"zero-shot": "", "texts alone": "texts alone", "independent": "independent", "coupled": "coupled"}
SIZES = dict(
    pretraining=(500, 3, "steps of CLIP"), pictures=(8000, 256, "that CLIP sees"), steps=(200, 2, "of prompts"),
    held_out=(40, 1, "pictures of each class"), seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = tuple(Gate(f"base classes: {name} above zero-shot", "base", name, "zero-shot") for name in list(CONDITIONS)[1:])


def config(how: str, objectives: dict, steps: int, batch: int, **more) -> dict:
    """Both towers, with prompts or without, and the objective `contrastive`."""
    parts, half = importlib.import_module("configs.systems.maple").parts, (0.5, 0.5, 0.5)
    towers = {name: dict(dim=64, heads=4, depth=3) for name in ("image", "text")}
    words = tuple(TextTokenizer().encode("a photo of a", LENGTH)[:-1])
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[
            dict(name="image", kind="pixels", shape=(SIDE, SIDE, 3), field="image", patch=8, mean=half, std=half,
                 targets=False),
            dict(name="text", kind="sequence", shape=(LENGTH,), field="text", vocab="text", vocab_size=8000,
                 tokenizer="text"),
        ],
        labels=[dict(name="class", kind="labels", shape=(1,), field="class", vocab_size=len(NAMES), classes=NAMES)],
        model=dict(
            model="models.network", parts=parts(towers, 64, how=how, layers=2, at=0, words=words), dtype="float32"
        ),
        objectives=dict(contrastive=objectives), **more,
    )  # fmt: skip


def prompting(how: str, steps: int, lr: float = 0.02) -> Experiment:
    """The second stage: prompts alone learn, of the base classes."""
    objective = dict(objective="class_texts", modality="image", text="text", label="class", among=BASE)
    optimizer = dict(lr=lr, warmup=steps // 5, moments="sgd", weight_decay=0.0)
    return Experiment(config(how, objective, steps, 32, optim=optimizer, train=[dict(pattern="_prompts/")]))


@functools.cache
def silhouettes() -> dict:
    """{kind: float32[64, 64], 1 inside}."""
    rows, corpus = {meta["name"]["en"]: i for i, meta in enumerate(emoji.metadata())}, emoji.Source("all")
    return {kind: 1 - corpus[rows[kind]]["mask"][..., 0] / np.float32(255) for kind in KINDS}


def picture(rng, kind: str, colour: str, shifted: bool) -> np.ndarray:
    """uint8[SIDE, SIDE, 3]: a silhouette of a random size at a random place; shifted: as the second stage has it."""
    shape, size = silhouettes()[kind], rng.integers(20, SIDE + 1)
    at = np.linspace(0, 63, size).round().astype(int)
    alpha, (top, left) = np.zeros((SIDE, SIDE, 1)), rng.integers(0, SIDE - size + 1, 2)
    alpha[top : top + size, left : left + size, 0] = shape[np.ix_(at, at)]
    ink = np.asarray(COLOURS[colour]) + rng.normal(size=3) * 15
    ground = rng.uniform(190, 255) + rng.normal(size=(SIDE, SIDE, 1)) * 8
    if shifted:
        clutter = rng.uniform(100, 220, size=(4, 4, 1)).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
        ink, ground = 0.8 * ink + 20, clutter + rng.normal(size=(SIDE, SIDE, 1)) * 8
    return (alpha * ink + (1 - alpha) * ground).clip(0, 255).astype(np.uint8)


def examples(rng, pairs, shifted: bool) -> dict:
    """Data of a batch `[n, 1, …]`: a picture, a sentence, and of pairs that are classes their number, of each pair."""
    tokenizer, count = TextTokenizer(), len(pairs)
    ids = np.zeros((count, LENGTH), np.int16)
    for row, (kind, colour) in zip(ids, pairs):
        sentence = SENTENCES[rng.integers(len(SENTENCES))].format(f"{colour} {kind}")
        made = tokenizer.encode(sentence, LENGTH, keep_end=True)
        row[: len(made)] = made
    number = {pair: i for i, pair in enumerate(TASK)}
    labels = np.asarray([number.get(pair, 0) for pair in pairs], np.int16)
    known = np.asarray([pair in number for pair in pairs])
    pictures = np.stack([picture(rng, *pair, shifted) for pair in pairs])
    return {
        "row": np.arange(count)[:, None],
        "image": {"pixels": pictures[:, None], "valid": np.ones((count, 1), bool)},
        "text": {"ids": ids[:, None], "valid": (ids > 0)[:, None]},
        "class": {"ids": labels[:, None, None], "valid": known[:, None, None]},
    }


def scores(experiment: Experiment):
    """(params, data) → {metric: value}."""
    (trained,) = experiment.objectives.values()
    nodes = dataclasses.replace(trained, among=()).passes(False)
    wanted = {key: nodes[key] for key in ("z", "classes")}
    embed = jax.jit(lambda params, batch: compute(experiment.model(params), wanted, batch))

    def score(params, data) -> dict:
        out = jax.device_get(embed(params, jax.tree.map(lambda x: x[:, 0], data)))
        base, labels = np.isin(NAMES, BASE), data["class"]["ids"][:, 0, 0]
        found = {}
        for key, chosen in (("base", base), ("novel", ~base)):
            mine = chosen[labels]
            number = np.cumsum(chosen) - 1
            found[key] = among(out["z"][mine], out["classes"][chosen], number[labels[mine]])
        return found | {"H": harmonic(**found)}

    return score


def measure(pretraining=500, pictures=8000, steps=200, held_out=40, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    pairs = dict(edges=[dict(a="image", b="text")])
    clip = Experiment(config("", pairs, pretraining, 128, optim=dict(lr=2e-3, warmup=pretraining // 10, clip=1.0)))
    tuned = {name: prompting(how, steps) for name, how in CONDITIONS.items() if how}
    plain = prompting_free(steps)
    score = {name: scores(tuned.get(name, plain)) for name in CONDITIONS}
    results = {name: [] for name in CONDITIONS}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        seen = [PAIRS[i] for i in rng.integers(len(PAIRS), size=pictures)]
        params, losses = clip.train(examples(rng, seen, False), seed)
        print(f"seed {seed}: loss of CLIP {float(losses[-50:].mean()):.3f}", flush=True)
        flat = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
        few = [pair for pair, name in zip(TASK, NAMES) if name in BASE for _ in range(SHOTS)]
        few, test = examples(rng, few, True), examples(rng, list(TASK) * held_out, True)
        for name in CONDITIONS:
            if name in tuned:
                params, losses = tuned[name].train(few, seed, flat)
                print(f"seed {seed}: {name}: loss {float(losses[-20:].mean()):.3f}", flush=True)
            results[name].append(score[name](params, test))
            print(name, results[name][-1], flush=True)
    return results


def prompting_free(steps: int) -> Experiment:
    """The network without prompts, for zero-shot."""
    objective = dict(objective="class_texts", modality="image", text="text", label="class", among=BASE)
    return Experiment(config("", objective, steps, 32, optim=dict(lr=1e-3)))


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.pretraining, args.pictures, args.steps, args.held_out, args.seeds)
    novel = len(NAMES) - len(BASE)
    title = f"accuracy among {len(BASE)} base and {novel} novel classes; {SHOTS} pictures of each base class"
    finish("maple", args, title, results, systems=[18], control="zero-shot", gates=GATES)


if __name__ == "__main__":
    main()
