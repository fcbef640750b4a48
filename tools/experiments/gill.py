"""python -m tools.experiments.gill: does a frozen language model retrieve pictures, and what does a second example add?

GILL (arXiv 2305.17216, `configs/systems/gill.py`) in small on simulated scenes of three emoji (`emoji_scenes`): a
picture is its four places, 8 × 8 mean colours each; a caption, a word a token, names two of them: "dog left and pie
below". First a run on other scenes makes the encoders: a causal language model of texts of two sentences on one scene,
without which nothing would teach it to keep what was said, and pictures beside prompts under InfoNCE. They are then
frozen, the same for all seeds, and GILL is trained between them with examples concatenated with probability .5, or
never (`single`).

Held out: R@1 of captions → pictures by the first [IMG], alone and behind another example (R@1 over chance is of the
former); −log p of a caption's words given its picture, alone and behind another picture and its caption; the distance
of the mapped tokens to the prompt's encoding, and that of the best constant; how far training moved the logits of old
tokens in plain captions, and how far, relatively, the norms of [IMG] rows are from the mean of the others.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sources.emoji_scenes import KINDS, PLACES, Source
from pretrain.models.passes import draw, evaluate
from pretrain.parameters import path_str
from pretrain.step import example_keys
from tools.experiments.common import Experiment, Gate, finish, options

PAD, END = range(2)
WORDS = {word: i for i, word in enumerate(("and", *PLACES, *KINDS), END + 1)}
IMG = tuple(range(END + 1 + len(WORDS), END + 9 + len(WORDS)))
LENGTH, SIDES, WIDTH, BATCH = 6, len(PLACES), 192, 64
BLOCKS = dict(dim=64, depth=2, heads=4)
CONDITIONS = {"concatenated": 0.5, "single": 0.0}  # how often examples are
BEHIND = "−log p behind another"
SIZES = dict(
    steps=(600, 4, "of GILL"), before=(2000, 4, "of its encoders"), scenes=(20_000, 256, "to train on"),
    held=(256, 16, "scenes held out"), seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("R@1 is beyond ten times chance", "R@1 over chance", "concatenated", bound=10.0),
    Gate("concatenation helps captions behind another example", BEHIND, "concatenated", "single", sign=-1),
    Gate("no logit of an old token moves", "old logits moved", "concatenated", sign=-1, bound=-1e-30),
    Gate("[IMG] rows keep the norm of the others", "norms off", "concatenated", sign=-1, bound=-1e-5),
)


def config(steps: int, preceded: float | None) -> dict:
    """GILL, or with None the run that makes its encoders, over arrays."""
    gill = importlib.import_module("configs.gill_common")
    lengths = dict(text=LENGTH if preceded is not None else 2 * LENGTH, prompt=LENGTH)
    text = dict(kind="sequence", field="sentence", vocab="words", vocab_size=IMG[-1] + 1, tokenizer="none")
    reads = "embed_text" if preceded is None else "img"
    parts = gill.encoders(BLOCKS, BLOCKS, BLOCKS | dict(pad_id=PAD), positions=4 * LENGTH + 20, reads=reads)
    if preceded is None:
        more, objectives = gill.pretraining(BLOCKS["dim"])
    else:
        more = gill.learned(IMG, BLOCKS, width=BLOCKS["dim"], target=BLOCKS["dim"], queries=LENGTH, embed_dim=64)
        objectives = gill.objectives(IMG, preceded)
    return dict(
        steps=steps, batch_size=BATCH, data=dict(source="none"), objectives=objectives,
        modalities=[
            *(dict(name=name, shape=(length,), **text) for name, length in lengths.items()),
            dict(name="image", kind="vectors", shape=(SIDES, WIDTH), field="image", targets=False),
        ],
        model=dict(model="models.network", parts=parts | more, dtype="float32"),
        train=() if preceded is None else gill.trained(IMG),
        optim=dict(lr=2e-3, warmup=steps // 10, weight_decay=0.01, clip=1.0),
    )  # fmt: skip


@functools.cache
def scenes(split: str, count: int, start: int = 0, sentences: int = 1) -> dict:
    """Data of scenes from number `start` on, one view of each. sentences: of a text; the first is the prompt."""
    source = Source(split, scenes=(start + count) * (1 if split == "train" else 20), questions=0.0)
    rng = np.random.default_rng(start)
    texts, image = [], np.zeros((count, SIDES, WIDTH), np.float32)
    for i in range(count):
        row = source[start + i]
        centres = row["boxes"].reshape(-1, 2, 2).mean(1)
        places = np.square(centres[:, None] - np.asarray(list(PLACES.values()))).sum(-1).argmin(1)
        image[i, places] = row["objects"]
        said = [f"{KINDS[int(k)]} {list(PLACES)[p]}" for (k, _), p in zip(row["kinds"], places)]
        pairs = [rng.permutation(said)[:2] for _ in range(sentences)]
        texts.append([id for pair in pairs for id in (*(WORDS[word] for word in " and ".join(pair).split()), END)])
    ids, full = np.asarray(texts, np.int16)[:, None], np.ones((count, 1, sentences * LENGTH), bool)
    return {
        "row": np.arange(count)[:, None], "text": {"ids": ids, "valid": full},
        "prompt": {"ids": ids[..., :LENGTH], "valid": full[..., :LENGTH]},
        "image": {"vectors": image[:, None], "valid": np.ones((count, 1, SIDES), bool)},
    }  # fmt: skip


class Reader:
    """What is measured of a network, trained in any condition."""

    def __init__(self, experiment: Experiment):
        objectives = experiment.objectives
        behind = lambda o: dataclasses.replace(o, sequence=dataclasses.replace(o.sequence, preceded=1.0))
        passes = {name: o.passes(False) for name, o in objectives.items() if name != "norms"}
        passes |= {f"behind {name}": behind(objectives[name]).passes(True) for name in ("caption", "retrieve")}
        nodes = list({node for found in passes.values() for node in found.values()})

        def read(params, batch):
            network = experiment.model(params)
            data = draw(nodes, batch, example_keys(0, 0, len(batch["row"])))
            values = evaluate(nodes, {"online": network}, data)
            return {name: {k: values[node] for k, node in found.items()} for name, found in passes.items()}

        def logits(params, batch):
            network = experiment.model(params)
            words = objectives["caption"].sequence.nodes(objectives["caption"].context, False)["embed_text"]
            node = network.states.over("language", {"join": network.states.call("join", words)})
            out = evaluate([node], {"online": network}, draw([node], batch, None))[node]
            return out.x @ network.embed_text.table[: IMG[0]].T, network.embed_text.table[...]

        self._read, self._logits = jax.jit(read), jax.jit(logits)

    def __call__(self, start, params, data) -> dict:
        batch = jax.tree.map(lambda x: jnp.asarray(x[:, 0]), data)
        found, size = jax.device_get(self._read(params, batch)), len(batch["row"])
        images, second = found["retrieve"]["z", "image"], np.arange(size) % 2 == 1
        hits = lambda out: (out["z", "text"] @ images.T).argmax(1) == np.arange(size)
        nll = lambda out: out["nll"][second].sum() / out["words"]["chosen"][second].sum()
        target = found["generate"]["target"].x
        distance = lambda x: float(np.sqrt(np.square(x - target).sum(-1)).mean())
        before, after = (jax.device_get(self._logits(p, batch)) for p in (start, params))
        norms = np.linalg.norm(after[1].astype(np.float64), axis=1)
        r1 = float(hits(found["retrieve"]).mean())
        return {
            "R@1": r1,
            "R@1 over chance": r1 * size,
            "R@1 behind another": float(hits(found["behind retrieve"])[second].mean()),
            "−log p": float(nll(found["caption"])),
            BEHIND: float(nll(found["behind caption"])),
            "distance": distance(found["generate"]["found"]),
            "of a constant": distance(target.mean(0)),
            "old logits moved": float(np.abs(after[0] - before[0]).max()),
            "norms off": float(np.abs(norms[list(IMG)] / norms[: IMG[0]].mean() - 1).max()),
        }


def measure(steps=600, before=2000, scenes_=20_000, held=256, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    encoders = Experiment(config(before, None))
    experiments = {name: Experiment(config(steps, preceded)) for name, preceded in CONDITIONS.items()}
    results = {name: [] for name in CONDITIONS}
    reader = Reader(experiments["single"])  # all have one network
    learned, _ = encoders.train(scenes("train", scenes_, scenes_, sentences=2), 0)
    learned = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(learned)}
    for seed in range(seeds):
        for name, experiment in experiments.items():
            start = jax.jit(experiment.init)(jax.random.key(seed))
            taken = {path_str(path) for path, _ in jax.tree_util.tree_leaves_with_path(start)} & learned.keys()
            taken = {path: learned[path] for path in taken}
            start = jax.tree_util.tree_map_with_path(lambda path, x, t=taken: t.get(path_str(path), x), start)
            params, _ = experiment.train(scenes("train", scenes_), seed, taken)
            results[name].append(reader(start, params, scenes("val", held)))
            print(name, seed, results[name][-1], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.before, args.scenes, args.held, args.seeds)
    title = f"R@1 of {args.held} scenes, nats a word; {args.steps} steps of {BATCH}, encoders {args.before}"
    finish("gill", args, title, results, systems=[54], control="single", gates=GATES)


if __name__ == "__main__":
    main()
