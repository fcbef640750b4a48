"""python -m tools.experiments.ima: does a frozen language model come nearer to pictures as it learns to read them?

Implicit multimodal alignment (arXiv 2405.16700, the task `implicit_alignment`) in the setting of `information_flow`. A
causal language model learns to answer questions on four descriptions, each the sum of embeddings of a place and of a
colour. It is frozen, and pictures take the place of the descriptions: mixtures of the same numbers that it has never
seen, of which a linear map is trained into it in rounds. After each, of held-out examples: the accuracy by the last
word's output, the alignment of pictures' and words' tokens over layers (the cosine of their means), and what is left of
accuracy where every other block's MLP is skipped by pictures' tokens or by words'. Over rounds: the rank correlation of
alignment and accuracy. Beside it the language model on its own descriptions.
"""

import jax
import numpy as np

from pretrain.evals import implicit_alignment, metrics
from pretrain.parameters import path_str
from tools.experiments import information_flow as flow
from tools.experiments.common import Experiment, Gate, finish, options

FROZEN = ("embed_text", "join", "language", "previous", "words")
TRAINED, BEFORE, DESCRIBED = "trained", "before training", "descriptions"
CORRELATION, LESS = "alignment with accuracy", "skipped by pictures less by words"
PAIR = "image~text"
SIZES = dict(
    before=(2000, 3, "of the language model"), steps=(100, 2, "a round of the map"), rounds=(5, 2, "of these"),
    batch=(128, 8, "examples a step"), examples=(4096, 64, "to train on"), held_out=(256, 16, "to evaluate on"),
    seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("alignment rises with accuracy over training", CORRELATION, TRAINED),
    Gate("pictures' tokens that skip MLPs cost less accuracy than words' that do", LESS, TRAINED),
)


def pictures(data: dict, seed: int) -> dict:
    """The examples with another basis of what describes them."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(flow.PLACES + flow.COLOURS,) * 2))[0]
    return data | {"image": data["image"] | {"vectors": data["image"]["vectors"] @ basis.astype(np.float32)}}


def scores(experiment: Experiment, data: dict, params) -> dict:
    """data: {split: examples}."""
    held = flow.Held(experiment.run, experiment.graphs, experiment.objectives, data)
    count = len(data["val"]["row"])
    task = implicit_alignment.Evaluator(held, (("image", "text"),), "answer", examples=count, splits="val")
    found = dict(task.run(params))
    nothing, image, text = (float(found[f"{PAIR}/skipped {n}/answer"]) for n in ("nothing", "image", "text"))
    names = {"alignment": "alignment", "last layer": "alignment, last layer", "overlap of masks": "overlap"}
    names |= {f"length of {n} tokens": f"norm of {n}" for n in ("image", "text")}
    told = {name: float(found[f"{PAIR}/{key}"]) for name, key in names.items()}
    return {"accuracy": nothing, **told, "skipped by pictures": image, "skipped by words": text, LESS: image - text}


def without_answer(data: dict) -> dict:
    return {name: value for name, value in data.items() if name != "answer"}


def by_path(params) -> dict:
    return {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


def measure(before=2000, steps=100, rounds=5, batch=128, examples=4096, held_out=256, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    language, mapped = Experiment(flow.config(before, batch)), Experiment(flow.config(steps, batch, frozen=FROZEN))
    results = {TRAINED: [], BEFORE: [], DESCRIBED: []}
    for seed in range(seeds):
        told = dict(train=flow.examples(2 * seed, examples), val=flow.examples(2 * seed + 1, held_out))
        shown = {split: pictures(data, seed) for split, data in told.items()}
        learned, _ = language.train(without_answer(told["train"]), seed)
        described = scores(language, told, learned)
        kept = {path: x for path, x in by_path(learned).items() if "embed_image" not in path}
        start = mapped.init(jax.random.key(seeds + seed))
        params = jax.tree_util.tree_map_with_path(lambda path, x, k=kept: k.get(path_str(path), x), start)
        every = [scores(mapped, shown, params)]
        for i in range(rounds):
            params, _ = mapped.train(without_answer(shown["train"]), seeds * (i + 1) + seed, by_path(params))
            every.append(scores(mapped, shown, params))
        rank = metrics.spearman(*(np.asarray([found[name] for found in every]) for name in ("alignment", "accuracy")))
        for name, found, value in ((TRAINED, every[-1], rank), (BEFORE, every[0], 0.0), (DESCRIBED, described, 0.0)):
            results[name].append(found | {CORRELATION: value})
        print(seed, described, *every, rank, sep="\n", flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.before, args.steps, args.rounds, args.batch, args.examples, args.held_out, args.seeds)
    title = f"one of {flow.COLOURS} colours, {args.held_out} held out; {args.rounds} rounds of {args.steps} steps of "
    title += f"{args.batch}, the language model {args.before}"
    finish("ima", args, title, results, systems=[59], control=BEFORE, gates=GATES)


if __name__ == "__main__":
    main()
