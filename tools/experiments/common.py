"""What the experiments share: the trainer's own objectives, network, optimizer and step, on data held in memory; how a
result is judged by gates that were fixed beforehand, and written to `results/NAME.json`.
"""

import argparse
import dataclasses
import importlib
import json
import os
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain import build, optim
from pretrain.evals.retrieval import recall
from pretrain.models.passes import ONLINE, Leaf, compute
from pretrain.models.tokens import Whole
from pretrain.objectives.corruptions import Entry
from pretrain.parameters import path_str
from pretrain.restore import init_function
from pretrain.step import init_state, make_train_step

RESULTS = Path(__file__).parent / "results"


class Experiment:
    """One config, trained from any seed: `params, losses = experiment.train(data, seed)`, or from what another run
    learned: `train(data, seed, held)` with {path: array}; order: int `[steps, batch]`, which examples each step sees,
    where these are not drawn.

    data: a batch of all examples with a second axis, `[n, views, …]`: an epoch takes every example once, in a random
    view. The whole run is one compiled scan, which serves all seeds and all data of these shapes.
    """

    def __init__(self, config: dict):
        self.run = build.parse(config)
        self.objectives, self.references = build.objectives(self.run), build.references(self.run)
        self.graphs, self.init = init_function(build.models(self.run, self.objectives), self.objectives, self.run.seed)
        self.train = jax.jit(self._train)
        self._embed = jax.jit(self._embed, static_argnames="name")
        self._compute = jax.jit(self._compute, static_argnames="parts")

    def _train(self, data, seed, held=None, order=None):
        run, held = self.run, held or {}
        params = self.init(jax.random.key(seed))
        params = jax.tree_util.tree_map_with_path(lambda path, x: held.get(path_str(path), x), params)
        split = build.split(run, params, self.roles)
        own, base = split.trained(params, seed), () if split.all else (split.base(params),)
        optimizer = optim.make_optimizer(run.optim, own, run.steps, split.roles)
        step = make_train_step(
            self.graphs, self.objectives, optimizer, seed=seed, references=self.references, steps=run.steps, split=split
        )  # fmt: skip
        examples, views = data["row"].shape
        k_order, k_view = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        order = self.order(k_order, examples, run.batch_size) if order is None else order
        view = jax.random.randint(k_view, order.shape, 0, views)

        def body(state, chosen):
            state, metrics = step(state, jax.tree.map(lambda x: x[chosen], data), *base)
            return state, metrics["loss"]

        state, losses = jax.lax.scan(body, init_state(own, optimizer, self.references), (order, view))
        return split.whole(state.evaluated, *base), losses

    def order(self, key, examples: int, batch: int):
        """Which examples make the batches, `[steps, batch]`: an epoch takes every one once."""
        epochs = -(-self.run.steps // (examples // batch))
        order = jax.vmap(lambda k: jax.random.permutation(k, examples))(jax.random.split(key, epochs))
        return order[:, : examples // batch * batch].reshape(-1, batch)[: self.run.steps]

    @property
    def graph(self):
        return self.graphs[ONLINE]

    @property
    def roles(self):
        return self.init.roles

    def model(self, params):
        return nnx.merge(self.graph, params["model"])

    def embeddings(self, params, data, layers: int = 0) -> dict:
        """{modality: `[n, embed_dim]` of unit length}, of the first views; layers: of so many layers, 0 for all."""
        depth = max((t["depth"] for t in self.run.model.get("towers", ())), default=0)
        # The middle of the interval that `parts.encoder` rounds to this layer.
        early = jnp.float32((layers - 0.5) / (depth - 1)) if 0 < layers < depth else None
        batch = jax.tree.map(lambda x: x[:, 0], data)
        names = [m.name for m in self.run.modalities]
        return {n: np.asarray(self._embed(params, batch, early, name=n)) for n in names}

    def outputs(self, params, data, *parts: str) -> dict:
        """{part: `[n, N, D]`}, what parts make of all modalities together, of the first views."""
        return jax.device_get(self._compute(params, jax.tree.map(lambda x: x[:, 0], data), parts=parts))

    def _compute(self, params, batch, parts):
        model = self.model(params)
        given = Leaf(Whole(tuple(m.name for m in self.run.modalities), self.run.modalities))
        found = compute(model, {part: model.states.chain(part, given) for part in parts}, batch)
        return {part: stream.x for part, stream in found.items()}

    def _embed(self, params, batch, early, name):
        model = self.model(params)
        leaf = Leaf(Whole((name,), self.run.modalities))
        node = model.states.embedding(name, leaf, None if early is None else Leaf(Entry("early")))
        given = {} if early is None else {"early": jnp.broadcast_to(early, len(batch["row"]))}
        return compute(model, {"z": node or model.states.embedding(name, leaf)}, batch | given)["z"]


def vectors(**arrays) -> dict:
    """{modality: `[n, D]`} → data of `vectors` modalities of one row, one view."""
    data = {
        name: {"vectors": x.astype(np.float32)[:, None, None], "valid": np.ones((len(x), 1, 1), bool)}
        for name, x in arrays.items()
    }
    return data | {"row": np.arange(len(next(iter(arrays.values()))))[:, None]}


def classes(**ids) -> dict:
    """{label: numbers `[n]`} → data of `labels` of one view."""
    valid = lambda y: np.ones((len(y), 1, 1), bool)
    return {name: {"ids": y[:, None, None].astype(np.int16), "valid": valid(y)} for name, y in ids.items()}


def lacking(data: dict, name: str, which=True) -> dict:
    """The data without a modality of vectors: of all examples, or of some, bool `[n]`."""
    there = data[name]["valid"] & ~np.broadcast_to(which, len(data["row"]))[:, None, None]
    return data | {name: data[name] | {"valid": there}}


def encoded(experiment: Experiment, split, views: int = 1) -> dict:
    """Data of a split of the experiment's own source: `views` random forms, or the deterministic one."""
    run = experiment.run
    source, encode = build.source(run.data, split), build.encoder(run, train=views > 1)
    rows = [encode(source[i], np.random.default_rng([i, v])) for i in range(len(source)) for v in range(views)]
    return jax.tree.map(lambda *x: np.stack(x).reshape(len(source), views, *np.shape(x[0])), *rows)


def split(experiment: Experiment):
    """(training data in four random forms, the held-out examples)."""
    return encoded(experiment, "train", views=4), encoded(experiment, ("val", "test"))


def latent_views(seed: int, noise: float, sizes=(4096, 512), latent=12, width=64):
    """(train, held out): two random two-layer networks, `a` and `b`, of one normal latent, plus noise."""
    rng = np.random.default_rng(seed)
    shared, views = rng.normal(size=(sum(sizes), latent)), {}
    for name in "ab":
        hidden = np.tanh(shared @ rng.normal(size=(latent, width)) / latent**0.5)
        views[name] = hidden @ rng.normal(size=(width, width)) / width**0.5
        views[name] += noise * rng.normal(size=views[name].shape)
    parts = slice(0, sizes[0]), slice(sizes[0], None)
    return tuple(vectors(**{n: x[part] for n, x in views.items()}) for part in parts)


def recall_at_1(a, b) -> float:
    """R@1 among all examples, the mean of a→b and b→a; a, b `[n, D]`, compared by cosine."""
    return sum(directed_recall_at_1(a, b)) / 2


def directed_recall_at_1(a, b) -> tuple[float, float]:
    """R@1 of a→b and of b→a."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return recall(a @ b.T, 1), recall(b @ a.T, 1)


def cut(z, width: int):
    """The first numbers of an embedding, as `recall_at_1` and every nearest-neighbour search would see them."""
    return z[:, :width]


def mean_sd(values) -> str:
    """ "Mean ± standard deviation" over seeds."""
    values = np.asarray(values, float)
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" if len(values) > 1 else f"{values.mean():.3f}"


VERDICTS = ("holds", "weak", "refuted")


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a claim foretells: over seeds, sign · (metric of `condition` − that of `control`) exceeds `bound`.

    control: "" compares with 0. A `bound` below 0 allows that much loss.
    """

    says: str
    metric: str
    condition: str
    control: str = ""
    sign: int = 1
    bound: float = 0.0

    def judge(self, results: dict) -> dict:
        """`holds` if the mean passes by more than two standard errors over seeds, `weak` if by less, else `refuted`."""
        of = lambda name: np.asarray([run[self.metric] for run in results[name]], float) if name else 0.0
        passed = self.sign * (of(self.condition) - of(self.control)) - self.bound
        error = passed.std(ddof=1) / len(passed) ** 0.5 if len(passed) > 1 else np.inf
        verdict = "refuted" if not passed.mean() > 0 else "holds" if passed.mean() > 2 * error else "weak"
        mean = passed.mean() + self.bound
        found = dict(mean=round(float(mean), 6), standard_error=round(float(error), 6) if np.isfinite(error) else None)
        return dataclasses.asdict(self) | found | dict(verdict=verdict)


def options(doc: str, argv, sizes: dict, **more):
    """An experiment's arguments. sizes: {name: (usual, for --smoke, meaning)}; more: {name: keywords of argparse}."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="where the result is written as JSON (default: tools/experiments/results)")
    parser.add_argument("--smoke", action="store_true", help="the smallest size that runs: it shows nothing of a claim")
    for name, (usual, smoke, meaning) in sizes.items():
        default = smoke if "--smoke" in argv else usual
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default {usual})")
    for name, keywords in more.items():
        parser.add_argument(f"--{name}", **keywords)
    args = parser.parse_args(argv)
    args.argv = argv
    return args


def finish(name: str, args, title: str, results: dict, *, systems, control: str, gates, variant: str = "") -> dict:
    """Judges, prints and writes a result; what is of --smoke size is written only where --out says.

    results: {condition: [{metric: value} of every seed]}; systems: the numbers of those whose claim this tests
    (`tools/systems.json`); control: the condition that the others are compared with; variant: of an experiment that
    has several results, each in a file of its own.
    """
    report(title, results)
    judged = [gate.judge(results) for gate in gates if {gate.condition, gate.control} <= {*results, ""}]
    for gate in judged:
        print(f"{gate['verdict']}: {gate['says']}: {gate['mean']:.3f}, standard error {gate['standard_error']}")
    verdict = max((gate["verdict"] for gate in judged), key=VERDICTS.index, default="no gate")
    given = [a for i, a in enumerate(args.argv) if not a.startswith("--out") and args.argv[i - 1 : i] != ["--out"]]
    quoted = [f'"{a}"' if " " in a else a for a in given]
    record = dict(
        systems=list(systems), command=" ".join([f"python -m tools.experiments.{name}", *quoted]),
        title=title, seeds=list(range(len(next(iter(results.values()))))), control=control,
        conditions={
            condition: {metric: [round(float(run[metric]), 6) for run in runs] for metric in runs[0]}
            for condition, runs in results.items()
        },
        gates=judged, verdict=verdict,
        machine=dict(
            backend=jax.default_backend(), cpus=os.cpu_count(), jax=jax.__version__, python=platform.python_version()
        ),
    )  # fmt: skip
    file = "_".join(filter(None, (name, variant)))
    if args.out or not args.smoke:
        out = Path(args.out or RESULTS / f"{file}.json")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def report(title: str, results: dict):
    """results: {condition: [{metric: value} of every seed]}, as a Markdown table."""
    metrics = list(next(iter(results.values()))[0])
    seeds = {len(r) for r in results.values()}
    print(f"\n{title}; mean ± sd of {'/'.join(map(str, seeds))} seeds\n")
    print("| | " + " | ".join(metrics) + " |\n|" + "---|" * (len(metrics) + 1))
    for name, runs in results.items():
        print(f"| {name} | " + " | ".join(mean_sd([r[m] for r in runs]) for m in metrics) + " |", flush=True)


def sequential(names, labels, objective, optim, *, steps, batch, state, hidden, width=8) -> dict:
    """A config: modalities of `width` numbers that enter one state in turn (MultiModN), of which labels of two classes
    are read. objective: keys of `stepwise`; state: its width, hidden: those of what encodes and what reads it.
    """
    parts, decoders = importlib.import_module("configs.systems.multimodn").parts, {n: f"decode_{n}" for n in labels}
    layers = dict(state=state, hidden=hidden, decoders=dict.fromkeys(decoders, 2))
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, kind="vectors", shape=(1, width), field=n, targets=False) for n in names],
        labels=[dict(name=n, kind="labels", shape=(1,), field=n, vocab_size=2) for n in decoders],
        model=dict(model="models.network", parts=parts(names, 32, **layers), dtype="float32"),
        objectives=dict(stepwise=dict(inputs=names, decoders=decoders, **objective)),
        optim=dict(warmup=steps // 10, weight_decay=0.0, **optim),
    )  # fmt: skip


def pairs(objectives, *, steps, batch, depth, embed_dim, width=64) -> dict:
    """A config: the `latent_views`, each under a tower of its own."""
    tower = dict(dim=64, heads=4, depth=depth, positions="none")
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, kind="vectors", shape=(1, width), field=n, targets=False) for n in "ab"],
        model=dict(
            model="models.multimodal", embed_dim=embed_dim, dtype="float32",
            towers=[dict(name=n, modalities=(n,), **tower) for n in "ab"],
        ),
        objectives=objectives, optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def pictures(objectives, *, steps, batch, depth, shared=True, embed_dim=64) -> dict:
    """A config: the pictures of two designers (emoji corpus), 64 pixels in patches of 8, under one tower or two."""
    names, half = ("render3d", "noto"), (0.5, 0.5, 0.5)
    spec = dict(kind="pixels", shape=(64, 64, 3), patch=8, mean=half, std=half, targets=False)
    tower = dict(dim=64, heads=4, depth=depth, pool="map")
    owned = [names] if shared else [(n,) for n in names]
    return dict(
        steps=steps, batch_size=batch, data=dict(source="emoji", transforms=[dict(transform="crop", min_scale=0.6)]),
        modalities=[dict(name=n, field=n, **spec) for n in names],
        model=dict(
            model="models.multimodal", embed_dim=embed_dim, dtype="bfloat16",
            towers=[dict(name=owner[0], modalities=owner, **tower) for owner in owned],
        ),
        objectives=objectives, optim=dict(lr=2e-3, warmup=steps // 10, weight_decay=0.2, clip=1.0), ema=0.99,
    )  # fmt: skip
