"""python -m tools.experiments.lxmert: does the cross encoder ground words in objects, and does every task help answers?

LXMERT (arXiv 1908.07490, `configs/systems/lxmert.py`) in small on simulated scenes of three emoji (`emoji_scenes`), a
word a token: "dog left and pie below". Trained on masked words alone, beside the scene, beside another's, or beside
none; then with matching, and with the objects' three losses, too. Held out: how often a masked name is found, in the
data that was trained on; and how often "what left" is answered after the whole network was fine-tuned on 200 such
questions beside their scenes.
"""

import functools
import importlib

import jax
import numpy as np

from data_pipeline.sources.emoji_scenes import KINDS, PLACES, STYLES, Source
from pretrain.models.passes import draw, evaluate
from pretrain.parameters import path_str
from pretrain.step import example_keys
from tools.experiments.common import Experiment, Gate, finish, options

PAD, END, MASK = range(3)
WORDS = {word: i for i, word in enumerate(("what", "and", *PLACES, *KINDS), MASK + 1)}
LENGTH, OBJECTS, WIDTH, QUESTIONS = 6, 3, 192, 200
SHOWN = dict(text="text", objects="objects", boxes="boxes", mask_id=MASK, special=[END])
REGIONS = ("kinds", "attributes", "features")
CONDITIONS = {  # the losses, and beside what scene
    "masked words alone": (("words",), "its own"),
    "beside another's scene": (("words",), "another's"),
    "beside none": (("words",), "none"),
    "with matching": (("words", "match"), "its own"),
    "with matching and objects": (("words", "match", *REGIONS), "its own"),
}
NAME, ANSWER = "masked name", f"answer, of {QUESTIONS} questions"
ALONE = "masked words alone"
SIZES = dict(
    steps=(1000, 4, "of training"), probe=(200, 2, "steps on the questions"), scenes=(20_000, 200, "to train on"),
    seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("names are found in the scene", NAME, ALONE, "beside another's scene", bound=0.3),
    Gate("another's scene costs no more than .03", NAME, "beside another's scene", "beside none", bound=-0.03),
    Gate("matching helps answers", ANSWER, "with matching", ALONE),
    Gate("the objects' losses help answers further", ANSWER, "with matching and objects", "with matching"),
)


def config(losses, shown, steps: int, batch: int, lr: float) -> dict:
    """The network and some of its losses, over arrays."""
    rows, labels = dict(kind="vectors", targets=False), dict(kind="detections", shape=(OBJECTS, 2))
    system = importlib.import_module("configs.systems.lxmert")
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[
            dict(name="text", kind="sequence", shape=(LENGTH,), field="sentence", vocab="words",
                 vocab_size=MASK + 1 + len(WORDS), tokenizer="none"),
            dict(name="objects", shape=(OBJECTS, WIDTH), field="objects", **rows),
            dict(name="boxes", shape=(OBJECTS, 4), field="boxes", **rows),
        ],
        labels=[
            dict(name="kind", vocab_size=len(KINDS), field="kinds", **labels),
            dict(name="attribute", vocab_size=len(STYLES), field="styles", **labels),
            dict(name="answer", kind="labels", shape=(1,), vocab_size=len(KINDS), field="answer"),
        ],
        model=system.model(
            dim=32, heads=4, language=1, objects=1, cross=2, kinds=len(KINDS), attributes=len(STYLES), width=WIDTH,
            answers=len(KINDS), cls=True,
        ) | dict(dtype="float32"),
        objectives={name: o for name, o in system.objectives(SHOWN | shown).items() if name in losses},
        optim=dict(lr=lr, warmup=steps // 10, weight_decay=0.01, clip=1.0),
    )  # fmt: skip


@functools.cache
def scenes(split: str, count: int, questions: float) -> dict:
    """Data of scenes, one view of each: sentences, or questions and their answers."""
    source = Source(split, scenes=count if split == "train" else 20 * count, questions=questions)
    rows = [source[i] for i in range(count)]
    ids = np.full((count, LENGTH), PAD, np.int16)
    for one, row in zip(ids, rows):
        words = [*(WORDS[word] for word in row["sentence"].split()), END]
        one[: len(words)] = words
    full = np.ones((count, 1, OBJECTS), bool)
    of = lambda name: np.stack([row[name] for row in rows])[:, None]
    answers = np.array([[row["answer"] or 0] for row in rows], np.int16)
    return {
        "row": np.arange(count)[:, None], "text": {"ids": ids[:, None], "valid": (ids != PAD)[:, None]},
        "objects": {"vectors": of("objects"), "valid": full}, "boxes": {"vectors": of("boxes"), "valid": full},
        "kind": {"vectors": of("kinds"), "valid": full}, "attribute": {"vectors": of("styles"), "valid": full},
        "answer": {"ids": answers[:, None], "valid": np.full((count, 1, 1), questions > 0)},
    }  # fmt: skip


def beside(data: dict, whose: str, seed: int) -> dict:
    """The data with its own scenes, another's, or none."""
    if whose == "its own":
        return data
    order = np.random.default_rng(seed).permutation(len(data["row"]))
    change = {
        "another's": lambda x: jax.tree.map(lambda a: a[order], x),
        "none": lambda x: x | {"valid": 0 * x["valid"] > 0},
    }
    return data | {name: change[whose](data[name]) for name in ("objects", "boxes", "kind", "attribute")}


class Reader:
    """What a network, trained in any condition, says of scenes of which nothing is masked by chance."""

    def __init__(self, probe: Experiment):
        one = probe.objectives["answers"]
        nodes = {"words": one.over("text_words"), "answers": one.over("answers")}

        def read(params, batch):
            network = probe.model(params)
            data = draw(nodes.values(), batch, example_keys(0, 0, len(batch["row"])))
            values = evaluate(nodes.values(), {"online": network}, data)
            words = values[nodes["words"]].x[:, -LENGTH:] @ network.embed_text.table[...].T
            return words.argmax(-1), values[nodes["answers"]].argmax(-1)

        self._read = jax.jit(read)

    def names(self, params, data) -> float:
        """How often a masked name is found; each sentence has one first and one fourth."""
        found, batch = [], jax.tree.map(lambda x: x[:, 0], data)
        for place in (0, 3):
            ids = batch["text"]["ids"].copy()
            ids[:, place] = MASK
            words, _ = self._read(params, batch | {"text": batch["text"] | {"ids": ids}})
            found.append(np.asarray(words)[:, place] == batch["text"]["ids"][:, place])
        return float(np.mean(found))

    def answers(self, params, data) -> float:
        batch = jax.tree.map(lambda x: x[:, 0], data)
        return float((np.asarray(self._read(params, batch)[1]) == batch["answer"]["ids"][:, 0]).mean())


def measure(steps=1000, probe=200, scenes_=20_000, seeds=3, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    still = dict(words=0.0, regions=0.0, mismatched=0.0)
    tuned, results, made = Experiment(config(("answers",), still, probe, 50, 1e-3)), {}, {}
    reader, held = Reader(tuned), min(1000, scenes_ // 2)
    test, questions = scenes("val", held, 0.0), scenes("val", held, 1.0)
    for name in conditions:
        losses, whose = CONDITIONS[name]
        if losses not in made:
            shown = dict(mismatched=0.5 if "match" in losses else 0.0)
            made[losses] = Experiment(config(losses, shown, steps, 128, 2e-3))
        experiment, results[name] = made[losses], []
        for seed in range(seeds):
            params, _ = experiment.train(beside(scenes("train", scenes_, 0.0), whose, seed), seed)
            flat = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
            flat = {path: x for path, x in flat.items() if not path.startswith("model/answers/")}
            asked = scenes("train", scenes_, 1.0)  # of which every seed learns 200 others
            few = np.random.default_rng(seed).permutation(scenes_)[:QUESTIONS]
            answering, _ = tuned.train(jax.tree.map(lambda x, few=few: x[few], asked), seed, flat)
            scores = {
                NAME: reader.names(params, beside(test, whose, seed)),
                ANSWER: reader.answers(answering, questions),
            }
            results[name].append(scores)
            print(name, seed, scores, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.probe, args.scenes, args.seeds)
    title = f"accuracy among {len(KINDS)} names; {args.steps} steps of 128"
    finish("lxmert", args, title, results, systems=[44], control=ALONE, gates=GATES)


if __name__ == "__main__":
    main()
