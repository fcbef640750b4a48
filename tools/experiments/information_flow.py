"""python -m tools.experiments.information_flow: does knocking attention out find the path by which an answer comes?

Attention knock-out (arXiv 2411.18620, the task `knockout`) in a causal language model that reads four pictures, each a
colour in a place, a word that asks for one place, and a word that asks for the answer: image → question → last. In a
network of four blocks whose weights are set by hand (`planted`), the question looks the colour up in the second block,
and the last word takes it from there in the third: cut there, the answer must be as likely as any, and elsewhere as
likely as before. The same network is trained to say the next word (`trained`), and not at all (`untrained`); what it
does is reported: of each edge the share of the answer's probability that is lost, (p′ − p) / p, around the block where
most is, and which that is.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.evals import knockout
from pretrain.evals.base import Context
from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options

PLACES, COLOURS, DIM, HEADS, DEPTH, NOISE = 4, 4, 64, 4, 4, 0.1
LOOKS_UP, HANDS_ON = 1, 2  # the blocks of the planted circuit
ASK, END = PLACES, PLACES + 1 + COLOURS  # words: places, the one that asks, colours, the end
GROUPS = ("image", "text", "last")
EDGES = {"image→question": ("image", "text"), "question→last": ("text", "last"), "image→last": ("image", "last")}
PLANTED, TRAINED, UNTRAINED = "planted", "trained", "untrained"
SIZES = dict(
    steps=(2000, 3, "of training"), batch=(128, 8, "examples a step"), examples=(4096, 64, "to train on"),
    held_out=(128, 16, "to evaluate on"), seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("without image→question in its block the answer is at chance", "image→question, p − chance", PLANTED, sign=-1,
         bound=-0.01),
    Gate("without question→last in its block the answer is at chance", "question→last, p − chance", PLANTED, sign=-1,
         bound=-0.01),
    Gate("every other cut costs less than 1 %", "elsewhere", PLANTED, sign=-1, bound=-0.01),
)  # fmt: skip


def config(steps: int, batch: int, *, frozen=()) -> dict:
    """frozen: the parts that stay as they are."""
    parts = dict(
        embed_image=dict(part="embed_one", reads=["image"], dim=DIM, positions="none"),
        embed_text=dict(part="embed_one", reads=["text"], dim=DIM, cls=True, positions="none"),
        join=dict(part="sequence", reads=["embed_image", "embed_text"], dim=DIM, length=PLACES + 5),
        language=dict(part="encoder", reads=["join"], dim=DIM, depth=DEPTH, heads=HEADS, causal=True),
        previous=dict(part="previous", reads=["language"], dim=DIM),
        words=dict(part="word_head", reads=["previous"], table="embed_text"),
        pool=dict(part="pool", reads=["language"], width=DIM, how="last"),
    )
    for name in frozen:
        parts[name]["frozen"] = True
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[
            dict(name="image", kind="vectors", shape=(PLACES, PLACES + COLOURS), field="image", targets=False),
            dict(name="text", kind="sequence", shape=(4,), field="text", vocab="words", vocab_size=END + 1,
                 tokenizer="none"),
        ],
        model=dict(model="models.network", parts=parts, dtype="float32"),
        objectives=dict(next_token=dict(sequence=dict(join="join", segments=["embed_image", "embed_text"]))),
        optim=dict(lr=2e-3, warmup=steps // 10, weight_decay=0.01, clip=1.0),
    )  # fmt: skip


def examples(seed: int, size: int) -> dict:
    """Data `[n, 1, …]`: every colour is the answer as often as others. `answer [n]`."""
    rng = np.random.default_rng(seed)
    colour, asked, answer = rng.integers(COLOURS, size=(size, PLACES)), rng.integers(PLACES, size=size), np.arange(size)
    answer = answer % COLOURS
    colour[np.arange(size), asked] = answer
    places = np.broadcast_to(np.eye(PLACES), (size, PLACES, PLACES))
    image = np.concatenate([places, np.eye(COLOURS)[colour]], axis=-1)
    image += NOISE * rng.normal(size=image.shape)
    text = np.stack([asked, np.full(size, ASK), ASK + 1 + answer, np.full(size, END)], axis=1)
    return {
        "row": np.arange(size)[:, None], "answer": answer,
        "image": {"vectors": image[:, None].astype(np.float32), "valid": np.ones((size, 1, PLACES), bool)},
        "text": {"ids": text[:, None].astype(np.int16), "valid": np.ones((size, 1, 4), bool)},
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Held(Context):
    """The context of tasks on examples in memory, whose texts end before the answer; data: {split: examples}."""

    data: dict = dataclasses.field(default_factory=dict)

    def batches(self, split, batch_size):
        for part in (split,) if isinstance(split, str) else split:
            held = jax.tree.map(lambda x: x[:, 0], {n: self.data[part][n] for n in ("image", "text", "row")})
            valid = held["text"]["valid"]
            yield held | {"text": held["text"] | {"valid": valid & (np.arange(valid.shape[1]) < 2)}}

    def facts(self, splits):
        return {i: {"answer": str(a)} for i, a in enumerate(self.data[splits]["answer"])}


def planted(params):
    """The parameters of a network that answers: a feature is a number in one half of a token, and less it in the other,
    so that norms find no mean. The first head alone says something."""
    width = DIM // HEADS
    kinds = dict(place=PLACES, colour=COLOURS, asked=PLACES, question=1, ask=1, cls=1, found=COLOURS, answer=COLOURS)
    first = dict(zip(kinds, np.cumsum([0, *kinds.values()])))
    at = lambda kind, i=0: first[kind] + i

    def token(*features):
        x = np.zeros(DIM, np.float32)
        x[list(features)], x[[f + DIM // 2 for f in features]] = 1, -1
        return x

    table = [token(at("question"), at("asked", i)) for i in range(PLACES)] + [token(at("ask"))]
    patches = [token(at("place", i)) for i in range(PLACES)] + [token(at("colour", i)) for i in range(COLOURS)]
    qkv, proj = np.zeros((DEPTH, DIM, 3 * DIM), np.float32), np.zeros((DEPTH, DIM, DIM), np.float32)

    def looks(block, pairs, reads, writes):
        """pairs: (feature of a query, of a key, how much it looks there); what is found of `reads` goes to `writes`."""
        for i, (query, key, much) in enumerate(pairs):
            qkv[block, query, i], qkv[block, key, DIM + i] = much, 1.0
        for i in range(COLOURS):
            qkv[block, at(reads, i), 2 * DIM + i] = 0.25
            proj[block, i] = token(at(writes, i))

    none = [(at(kind), at("cls"), 6.0) for kind in ("question", "ask", "cls")]  # where they look else
    looks(LOOKS_UP, [(at("asked", i), at("place", i), 20.0) for i in range(PLACES)] + none, "colour", "found")
    looks(HANDS_ON, [(at("ask"), at("question"), 20.0), *none], "found", "answer")
    assert max(PLACES + len(none), COLOURS) <= width
    given = {
        "embed_text/table": np.stack([*table, *np.zeros((END + 1 - len(table), DIM), np.float32)]),
        "embed_text/cls": token(at("cls")), "embed_image/patches/kernel": np.stack(patches),
        "language/blocks/attn/qkv/kernel": qkv, "language/blocks/attn/proj/kernel": proj,
    }  # fmt: skip
    nothing = ("bias", "join/positions", "mlp/fc2/kernel")

    def put(path, x):
        name = path_str(path).removeprefix("model/")
        if name in given:
            return jnp.asarray(given[name])
        return jnp.zeros_like(x) if name.endswith(nothing) else x

    return jax.tree_util.tree_map_with_path(put, params)


def scores(task: knockout.Evaluator, params) -> dict:
    """What each edge costs, and the network's accuracy; of cuts in the blocks of the planted circuit how far p is from
    chance, and what any other costs at most."""
    lost, right, chance = task.lost(params)
    found = {"accuracy": float(right)}
    for name, edge in EDGES.items():
        found |= {name: float(lost[edge].min()), f"{name}, block": float(lost[edge].argmin())}
    for name, block in (("image→question", LOOKS_UP), ("question→last", HANDS_ON)):
        found[f"{name}, p − chance"] = abs(float(lost[EDGES[name]][block] - chance))
        lost[EDGES[name]][block] = 0.0
    return found | {"elsewhere": float(max(np.abs(changes).max() for changes in lost.values()))}


def measure(steps=2000, batch=128, examples_=4096, held_out=128, seeds=3) -> dict:
    """{condition: [scores of every seed]}."""
    experiment = Experiment(config(steps, batch))
    results = {PLANTED: [], TRAINED: [], UNTRAINED: []}
    for seed in range(seeds):
        data = dict(train=examples(2 * seed, examples_), val=examples(2 * seed + 1, held_out))
        held = Held(experiment.run, experiment.graphs, experiment.objectives, data)
        task = knockout.Evaluator(held, "image+text", "answer", GROUPS, examples=held_out, splits="val")
        start = jax.jit(experiment.init)(jax.random.key(seed))
        learned, _ = experiment.train({k: v for k, v in data["train"].items() if k != "answer"}, seed)
        for name, params in ((PLANTED, planted(start)), (TRAINED, learned), (UNTRAINED, start)):
            results[name].append(scores(task, params))
            print(name, seed, results[name][-1], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.examples, args.held_out, args.seeds)
    title = f"one of {COLOURS} colours, {args.held_out} held out; {args.steps} steps of {args.batch}"
    finish("information_flow", args, title, results, systems=[79], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
