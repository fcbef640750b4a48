"""python -m tools.experiments.mdetr: does alignment help grounding, and do token positions compose?

MDETR (arXiv 2104.12763, `configs/systems/mdetr.py`) in small on simulated scenes (`coloured_emoji`): three coloured
silhouettes, of which a caption names one or two, "red star and blue bus", a word a token. Trained on 24 of 36 pairs of
colour and shape with soft tokens alone, with alignment too, or with a closed set of pairs in the tokens' stead: then a
query says which pair it found, and not which words name it. Held out: AP@.5 and accuracy of phrases, of pairs that were
named in training, and of the 12 that never were, though their colours and shapes were.
"""

import functools
import importlib

import jax
import numpy as np

from data_pipeline.sources.coloured_emoji import COLOURS, SHAPES, Source
from pretrain.evals.grounding import accuracy, average_precision, grounded
from pretrain.models.passes import compute
from tools.experiments.common import Experiment, Gate, finish, options

SIDE, PATCH, OBJECTS, NAMED = 36, 6, 3, 2
WORDS = {word: i for i, word in enumerate(("and", *COLOURS, *SHAPES), 1)}
LENGTH, PAIRS = 3 * NAMED - 1, len(COLOURS) * len(SHAPES)
ALONE, ALIGNED, CLOSED = "soft tokens alone", "with alignment", "closed set of pairs"
SEEN, UNSEEN = "AP@.5", "AP@.5, unseen pairs"
SIZES = dict(
    steps=(750, 4, "of training"), scenes=(8000, 128, "to train on"), held=(500, 20, "held-out scenes of each kind"),
    seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("alignment helps", SEEN, ALIGNED, ALONE),
    Gate("token positions name what a closed set cannot", UNSEEN, ALONE, CLOSED, bound=0.1),
)


def config(condition: str, steps: int) -> dict:
    """The network and its loss in one of the conditions, over arrays."""
    system, half = importlib.import_module("configs.systems.mdetr"), (0.5, 0.5, 0.5)
    positions = PAIRS if condition == CLOSED else LENGTH
    return dict(
        steps=steps, batch_size=64, data=dict(source="none"),
        modalities=[
            dict(name="image", kind="pixels", shape=(SIDE, SIDE, 3), field="picture", patch=PATCH, mean=half, std=half,
                 targets=False),
            dict(name="text", kind="sequence", shape=(LENGTH,), field="caption", vocab="words",
                 vocab_size=1 + len(WORDS), tokenizer="none"),
        ],
        labels=[
            dict(name="boxes", kind="boxes", shape=(NAMED, 4), field="boxes"),
            dict(name="phrases", kind="phrases", shape=(positions, NAMED), field="phrases", tokenizer="none"),
        ],
        model=system.model(
            dim=64, heads=4, mlp_ratio=4.0, encoder=2, decoder=2, queries=8, positions=positions + 1, waves=(1.0, 20.0),
            towers=dict(dim=64, heads=4, depth=0),
        ) | dict(dtype="float32"),
        objectives=dict(found=system.objective() | ({} if condition == ALIGNED else dict(align=None))),
        optim=dict(lr=2e-3, warmup=steps // 20, weight_decay=1e-4, clip=1.0, b2=0.999),
    )  # fmt: skip


@functools.cache
def scenes(split: str, count: int, pairs: str, closed: bool = False) -> dict:
    """Data of scenes, one view of each. closed: a box's row of `phrases` says its pair, not the places of its words."""
    source = Source(
        split, scenes=count if split == "train" else 10 * count, side=SIDE, objects=OBJECTS, named=NAMED, pairs=pairs
    )
    rows = [source[i] for i in range(count)]
    ids, boxes = np.zeros((count, LENGTH), np.int16), np.zeros((count, NAMED, 4), np.float32)
    phrases = np.zeros((count, PAIRS if closed else LENGTH, NAMED), np.float32)
    for i, row in enumerate(rows):
        words = row["caption"].split()
        ids[i, : len(words)] = [WORDS[word] for word in words]
        boxes[i, : len(row["boxes"])] = row["boxes"]
        for t, (pair, _) in enumerate(row["pairs"]):
            phrases[i, int(pair) if closed else slice(3 * t, 3 * t + 2), t] = 1
    made = {
        "image": {"pixels": np.stack([row["picture"] for row in rows]), "valid": np.ones(count, bool)},
        "text": {"ids": ids, "valid": ids > 0},
        "boxes": {"vectors": boxes, "valid": boxes.any(-1)},
        "phrases": {"vectors": phrases, "valid": phrases.any(-1)},
    }
    return {"row": np.arange(count)[:, None]} | jax.tree.map(lambda x: x[:, None], made)


def measure(steps=750, scenes_=8000, held=500, seeds=3, conditions=(ALONE, ALIGNED, CLOSED)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        experiment, closed, results[name] = Experiment(config(name, steps)), name == CLOSED, []
        nodes = experiment.objectives["found"].found()
        find = jax.jit(lambda params, batch, e=experiment, nodes=nodes: compute(e.model(params), nodes, batch))
        for seed in range(seeds):
            params, _ = experiment.train(scenes("train", scenes_, "seen", closed), seed)
            scores = {}
            for pairs, key, correct in (
                ("seen", SEEN, "accuracy"), ("unseen", UNSEEN, "accuracy, unseen pairs")
            ):  # fmt: skip
                batch = jax.tree.map(lambda x: x[:, 0], scenes("val", held, pairs, closed))
                phrases = grounded(jax.device_get(find(params, batch)))
                scores |= {key: average_precision(phrases), correct: accuracy(phrases)}
            results[name].append(scores)
            print(name, seed, scores, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.scenes, args.held, args.seeds)
    title = f"phrases grounded in scenes of {OBJECTS} silhouettes; {args.steps} steps of 64"
    finish("mdetr", args, title, results, systems=[66], control=ALONE, gates=GATES)


if __name__ == "__main__":
    main()
