"""python -m tools.experiments.ima: does a frozen language model come nearer to pictures as it learns them?

Implicit multimodal alignment (arXiv 2405.16700, the task `implicit_alignment`) in the setting of `information_flow`. A
causal language model learns words alone: four that each say a colour and its place, one that asks for a place, one that
asks for the answer, the answer. It is frozen, and a linear map of pictures, which take the place of the four words, is
trained into it in rounds. After each, of held-out examples: the accuracy by the last word's output, the alignment of
pictures' and words' tokens over layers (the cosine of their means), and what is left of accuracy where every other
block's MLP is skipped by pictures' tokens or by words'. Over rounds: the rank correlation of alignment and accuracy.
"""

import jax
import numpy as np

from pretrain.evals import implicit_alignment, metrics
from pretrain.parameters import path_str
from tools.experiments import information_flow as flow
from tools.experiments.common import Experiment, Gate, finish, options

LENGTH, WORDS = flow.PLACES + 4, flow.END + 1 + flow.PLACES * flow.COLOURS
FROZEN = ("embed_text", "join", "language", "previous", "words")
TRAINED, BEFORE = "trained", "before training"
CORRELATION, LESS = "alignment with accuracy", "skipped by pictures less by words"
PAIR = "image~text"
SIZES = dict(
    before=(2000, 3, "of the language model"), steps=(50, 2, "a round of the map"), rounds=(5, 2, "of these"),
    batch=(128, 8, "examples a step"), examples=(4096, 64, "to train on"), held_out=(256, 16, "to evaluate on"),
    seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("alignment rises with accuracy over training", CORRELATION, TRAINED),
    Gate("pictures' tokens that skip MLPs cost less accuracy than words' that do", LESS, TRAINED),
)


def shown(data: dict) -> dict:
    """The examples with texts as long as those of the language model."""
    pad = lambda x: np.pad(x, ((0, 0), (0, 0), (0, LENGTH - x.shape[2])))
    return data | {"text": jax.tree.map(pad, data["text"])}


def said(data: dict, seed: int) -> dict:
    """The examples in words alone: of each place its word of a colour, in any order, before the question."""
    rng, (places, colours) = (
        np.random.default_rng(seed),
        np.split(data["image"]["vectors"][:, 0], [flow.PLACES], axis=-1),
    )
    words = flow.END + 1 + places.argmax(-1) * flow.COLOURS + colours.argmax(-1)
    ids = np.concatenate([rng.permuted(words, axis=1), data["text"]["ids"][:, 0]], axis=1).astype(np.int16)[:, None]
    absent = data["image"] | {"valid": np.zeros_like(data["image"]["valid"])}
    return data | {"image": absent, "text": {"ids": ids, "valid": np.ones(ids.shape, bool)}}


def scores(task, params) -> dict:
    found = dict(task.run(params))
    nothing, image, text = (float(found[f"{PAIR}/skipped {n}/answer"]) for n in ("nothing", "image", "text"))
    names = {"alignment": "alignment", "last layer": "alignment, last layer", "overlap of masks": "overlap"}
    names |= {f"length of {n} tokens": f"norm of {n}" for n in ("image", "text")}
    told = {name: float(found[f"{PAIR}/{key}"]) for name, key in names.items()}
    return {"accuracy": nothing, **told, "skipped by pictures": image, "skipped by words": text, LESS: image - text}


def without(data: dict) -> dict:
    return {name: value for name, value in data.items() if name != "answer"}


def measure(before=2000, steps=50, rounds=5, batch=128, examples=4096, held_out=256, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    common = dict(length=LENGTH, words=WORDS)
    language = Experiment(flow.config(before, batch, **common))
    mapped = Experiment(flow.config(steps, batch, frozen=FROZEN, **common))
    results = {TRAINED: [], BEFORE: []}
    for seed in range(seeds):
        data = dict(train=shown(flow.examples(2 * seed, examples)), val=shown(flow.examples(2 * seed + 1, held_out)))
        held = flow.Held(mapped.run, mapped.graphs, mapped.objectives, data)
        task = implicit_alignment.Evaluator(held, (("image", "text"),), "answer", examples=held_out, splits="val")
        params, _ = language.train(without(said(flow.examples(2 * seed, examples), seed)), seed)
        every = [scores(task, params)]
        for i in range(rounds):
            learned = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
            params, _ = mapped.train(without(data["train"]), seeds * (i + 1) + seed, learned)
            every.append(scores(task, params))
        rank = metrics.spearman(*(np.asarray([found[name] for found in every]) for name in ("alignment", "accuracy")))
        results[TRAINED].append(every[-1] | {CORRELATION: rank})
        results[BEFORE].append(every[0] | {CORRELATION: 0.0})
        print(seed, *every, rank, sep="\n", flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(
        args.before, args.steps, args.rounds, args.batch, args.examples, args.held_out, args.seeds
    )  # fmt: skip
    title = f"one of {flow.COLOURS} colours, {args.held_out} held out; {args.rounds} rounds of {args.steps} steps of "
    title += f"{args.batch}, the language model {args.before}"
    finish("ima", args, title, results, systems=[59], control=BEFORE, gates=GATES)


if __name__ == "__main__":
    main()
