"""python -m tools.experiments.eva: are features aligned with text better targets of masked pictures than pixels?

EVA (arXiv 2211.07636) in small on simulated pictures of 6 × 6 patches: all patches of a picture show its meaning (eight
numbers around the mean of one of ten classes), its style (sixteen, which say more of the pixels) and a smooth local
field, through one random nonlinear network, amid noise; its text is another network's view of the meaning. CLIP on such
pairs is the teacher. The same network then learns to find what is said of 15 masked patches: the patches' own pixels,
what a teacher with random weights says, or the teacher. A linear probe of the mean of its tokens tells the class from
200 labels. Beside that, R@1 of CLIP after few steps when its tower of pictures starts from each.
"""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from pretrain.build import to_json
from pretrain.evals.linear import choose
from pretrain.models.passes import compute
from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options, recall_at_1

SIDE, PATCH, CLASSES, MEANING, STYLE, LABELS, PAIRS, HELD_OUT = 6, 4, 10, 8, 16, 200, 300, 2000
EMBED, TEXT, MASKED = 16, 16, 15
TOWER = dict(dim=32, heads=4, depth=2)
NOTHING, RANDOM, PIXELS, ALIGNED = "untrained", "random-network targets", "pixel targets", "aligned teacher"
ITSELF = "the teacher itself"
PROBE, FEW, MORE = f"accuracy, {LABELS} labels", "R@1, few steps of CLIP", "R@1, three times as many"
SIZES = dict(
    steps=(300, 4, "of the teacher and of every student"), clip=(40, 2, "steps of CLIP from each start"),
    batch=(64, 16, "examples a step"), pictures=(8192, 64, "to train on"), seeds=(6, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("an aligned teacher is a better target than pixels", PROBE, ALIGNED, PIXELS),
    Gate("its alignment does it: random weights are no such teacher", PROBE, ALIGNED, RANDOM),
)
PICTURE = dict(
    name="image", kind="pixels", shape=(SIDE * PATCH, SIDE * PATCH, 1), field="image", patch=PATCH, mean=(0.5,),
    std=(0.25,), targets=False,
)  # fmt: skip


def config(steps: int, batch: int, **more) -> dict:
    optim = dict(lr=2e-3, warmup=max(1, steps // 10), clip=3.0)
    return dict(steps=steps, batch_size=batch, data=dict(source="none"), optim=optim) | more


def clip(steps: int, batch: int) -> dict:
    """CLIP: a tower of pictures, one of texts, which are vectors."""
    text = dict(name="text", kind="vectors", shape=(1, TEXT), field="text", targets=False)
    towers = [
        dict(name="image", modalities=("image",), pool="cls", **TOWER),
        dict(name="text", modalities=("text",), positions="none", **TOWER),
    ]
    return config(
        steps, batch, modalities=[PICTURE, text],
        model=dict(model="models.multimodal", towers=towers, embed_dim=EMBED, dtype="float32"),
        objectives=dict(contrastive=dict(edges=[dict(a="image", b="text")])),
    )  # fmt: skip


def masked(steps: int, batch: int, workdir: str = "") -> dict:
    """The tower of pictures, with a mask token and a linear layer; workdir: of the teacher, "" for pixels."""
    tower, width = dict(TOWER), EMBED if workdir else PATCH**2
    parts = dict(
        image_embed=dict(part="embed_one", reads=["image"], dim=tower["dim"], cls=True, masks=True),
        image_encoder=dict(part="encoder", reads=["image_embed"], **tower),
        image_pool=dict(part="pool", reads=["image_encoder"], width=tower["dim"]),
        features=dict(part="predict", reads=["image_encoder"], dim=width),
    )
    objective = dict(objective="feature_regression", modality="image", head="features", masked=dict(count=MASKED))
    teacher = dict(teacher=dict(reference="frozen", workdir=workdir)) if workdir else {}
    return config(
        steps, batch, modalities=[PICTURE], model=dict(model="models.network", parts=parts, dtype="float32"),
        objectives=dict(regression=objective | dict(teacher=next(iter(teacher), ""))), references=teacher,
    )  # fmt: skip


def examples(seed: int, count: int):
    """(data of pictures and texts, one view of each; the class of each)."""
    world, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    means, hidden = world.normal(size=(CLASSES, MEANING)), 32
    labels = rng.integers(CLASSES, size=count)
    meaning = means[labels] + 0.8 * rng.normal(size=(count, MEANING))
    style = rng.normal(size=(count, STYLE))
    # A field of four channels that changes slowly from patch to patch.
    at = np.stack(np.meshgrid(*[np.linspace(0, 1, SIDE)] * 2, indexing="ij"), -1).reshape(-1, 2)
    waves, phase = rng.normal(size=(count, 4, 2)) * 2, rng.uniform(0, 2 * np.pi, (count, 4, 1))
    local = np.sin(waves @ at.T + phase).transpose(0, 2, 1)
    given = 0.5 * (meaning @ world.normal(size=(MEANING, hidden))) / MEANING**0.5
    given = given + style @ world.normal(size=(STYLE, hidden)) / STYLE**0.5
    given = given[:, None] + local @ world.normal(size=(4, hidden)) / 2
    pixels = np.tanh(given) @ world.normal(size=(hidden, PATCH**2)) / hidden**0.5
    pixels = 128 + 64 * (pixels + 0.3 * rng.normal(size=pixels.shape))
    pixels = pixels.clip(0, 255).astype(np.uint8).reshape(count, SIDE, SIDE, PATCH, PATCH).transpose(0, 1, 3, 2, 4)
    text = np.tanh(meaning @ world.normal(size=(MEANING, 32))) @ world.normal(size=(32, TEXT)) / 32**0.5
    text = text + 0.1 * rng.normal(size=text.shape)
    data = {
        "row": np.arange(count)[:, None],
        "image": {"pixels": pixels.reshape(count, 1, *PICTURE["shape"]), "valid": np.ones((count, 1), bool)},
        "text": {"vectors": np.float32(text)[:, None, None], "valid": np.ones((count, 1, 1), bool)},
    }
    return data, labels


def part(data, where):
    return jax.tree.map(lambda x: x[where], data)


def network(params, name: str = "model", parts: str = "") -> dict:
    """{path: array} of a network's parameters, of parts whose names begin so, under the name of another network."""
    flat = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(params["model"])}
    return {f"{name}/{path}": x for path, x in flat.items() if path.startswith(parts)}


class Student:
    """One kind of target, and what its network says of pictures."""

    def __init__(self, config: dict):
        self.experiment = Experiment(config)
        self._pooled = jax.jit(self._pool)

    def _pool(self, params, batch):
        model = self.experiment.model(params)
        return compute(model, {"x": model.states.pooled("image", model.states.shown("image"))}, batch)["x"]

    def pooled(self, params, data):
        return np.asarray(self._pooled(params, jax.tree.map(lambda x: x[:, 0], data)))


def probe(x, labels) -> float:
    """Accuracy of a regression on the first 200, its weight decay chosen on half of the others, on the other half."""
    half = LABELS + (len(x) - LABELS) // 2
    first, middle, last = slice(LABELS), slice(LABELS, half), slice(half, None)
    best, _ = choose(x[None, first], labels[first], x[None, middle], labels[middle], CLASSES)
    return best.accuracy(x[None, last], labels[last])


def measure(steps=300, few=40, batch=64, pictures=8192, seeds=6) -> dict:
    """{condition: [scores of every seed]}."""
    results = {name: [] for name in (NOTHING, RANDOM, PIXELS, ALIGNED, ITSELF)}
    with tempfile.TemporaryDirectory() as workdir:
        (Path(workdir) / "config.json").write_text(to_json(ConfigDict(clip(steps, batch))))
        teacher, pixels = Student(clip(steps, batch)), Student(masked(steps, batch))
        student = Student(masked(steps, batch, workdir))
        starts = {FEW: Student(clip(few, batch)), MORE: Student(clip(3 * few, batch))}
        for seed in range(seeds):
            data, labels = examples(seed, pictures + HELD_OUT)
            train, held = part(data, slice(pictures)), part(data, slice(pictures, None))
            known = labels[pictures:]
            clever, _ = teacher.experiment.train(train, seed)
            random = teacher.experiment.init(jax.random.key(1000 + seed))
            targets = lambda params: network(params, "models/teacher")
            learned = {
                NOTHING: (student, student.experiment.init(jax.random.key(seed))),
                RANDOM: (student, student.experiment.train(train, seed, targets(random))[0]),
                PIXELS: (pixels, pixels.experiment.train(train, seed)[0]),
                ALIGNED: (student, student.experiment.train(train, seed, targets(clever))[0]),
                ITSELF: (teacher, clever),
            }
            for name, (of, params) in learned.items():
                scores = {PROBE: probe(of.pooled(params, held), known)}
                for metric, start in starts.items():
                    given = {} if name == NOTHING else network(params, parts="image_e")
                    tuned, _ = start.experiment.train(train, seed, given)
                    z = start.experiment.embeddings(tuned, part(held, slice(PAIRS)))
                    scores[metric] = recall_at_1(z["image"], z["text"])
                results[name].append(scores)
                print(name, seed, json.dumps(scores), flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.clip, args.batch, args.pictures, args.seeds)
    title = (
        f"accuracy among {CLASSES} classes, R@1 of {PAIRS} after {args.clip} and {3 * args.clip} steps of CLIP; "
        f"{args.steps} steps of {args.batch}"
    )
    finish("eva", args, title, results, systems=[11], control=PIXELS, gates=GATES)


if __name__ == "__main__":
    main()
