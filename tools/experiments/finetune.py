"""python -m tools.experiments.finetune --tokens=DIR --load=WORKDIR: what is pretraining worth to a small task?

The subgroup of an emoji, one of 95, from its 3D picture (`configs/finetune_emoji.py`), with 5 labels a class (of rare
classes all there are) and with all 1300. `scratch` trains the same network, all of it, from random values with the same
steps, batches and recipe, and without layer-wise decay, which would hold its first layers back; it is given the better
of the learning rates of `--rates`. The other conditions start from WORKDIR, the quickstart's model, and train what the
config's argument of that name says. Top-1 and top-5 accuracy on the 270 held-out emoji; a seed fixes which labels are
kept, the head, and the order of the examples.
"""

import importlib

import jax
import numpy as np

from pretrain import build
from pretrain.inherit import fill
from pretrain.initialize import start
from pretrain.models.passes import compute
from pretrain.parameters import path_str
from pretrain.restore import read_sources
from tools.experiments.common import Experiment, Gate, encoded, finish, options

CONDITIONS = ("scratch", "full", "last", "lora", "dora", "adapter", "prompt", "probe")
SIZES = dict(
    steps=(120, 2, "of training with all labels; half of them with 5 a class"), seeds=(3, 1, "how many")
)  # fmt: skip
FEW = 5


def held_out(experiment, params, data) -> dict:
    """Accuracies over the first views of the data."""
    objective = experiment.objectives["classification"]

    def logits(params, batch):
        model = experiment.model(params)
        pooled = compute(model, objective.passes(train=False), batch)[objective.reads]
        return objective.predict(params["objective"]["classification"], pooled)

    batch = jax.tree.map(lambda x: x[:, 0], data)
    best = np.argsort(-np.asarray(jax.jit(logits)(params, batch)), axis=1)
    truth = batch[objective.label]["ids"]
    return {"top-1": float((best[:, :1] == truth).mean()), "top-5": float((best[:, :5] == truth).any(1).mean())}


def few(data, label, seed):
    """At most FEW examples of every class."""
    ids, rng = data[label]["ids"][:, 0, 0], np.random.default_rng(seed)
    order = rng.permutation(len(ids))
    chosen = [i for c in np.unique(ids) for i in order[ids[order] == c][:FEW]]
    return jax.tree.map(lambda x: x[np.asarray(chosen)], data)


def loaded(experiment) -> dict:
    """{path: array} of what the run's config loads of the network."""
    fresh = jax.eval_shape(experiment.init)
    fresh = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), fresh)
    sources = read_sources(experiment.run, tuple(fresh["model"]))
    params, found = start(sources, fresh, experiment.roles)
    flat = {path_str(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    return {path: np.asarray(flat[path]) for path in found.loaded}


def measure(configs, steps=120, seeds=3, rates=(3e-3, 6e-3), conditions=("scratch", "full")) -> dict:
    """{condition: [accuracies of every seed]}. configs: {condition: a filled config, a plain dict}."""
    results = {}
    for name in conditions:
        scratch = name == "scratch"
        for kept in (f"{FEW} a class", "all"):
            runs = []
            for rate in rates if scratch else (None,):
                config = configs[name] | dict(steps=steps if kept == "all" else steps // 2)
                if scratch:
                    config["optim"] = config["optim"] | dict(lr=float(rate), layer_decay=1.0)
                experiment = Experiment(config)
                train, test = (encoded(experiment, s, views=v) for s, v in (("train", 4), (("val", "test"), 1)))
                given = {} if scratch else loaded(experiment)
                label, found = experiment.objectives["classification"].label, []
                for seed in range(seeds):
                    data = train if kept == "all" else few(train, label, seed)
                    params, losses = experiment.train(data, seed, given)
                    found.append(held_out(experiment, params, test) | {"loss at the end": float(losses[-10:].mean())})
                print(f"{name}, {kept}, {rate or config['optim']['lr']}: {found}", flush=True)
                runs.append(found)
            results[f"{name}, {kept}"] = max(runs, key=lambda found: np.mean([f["top-1"] for f in found]))
    return results


GATES = tuple(
    Gate(f"fine-tuning beats training from scratch with {kept} labels", "top-1", f"full, {kept}", f"scratch, {kept}")
    for kept in (f"{FEW} a class", "all")
)


def main(argv=None):
    args = options(
        __doc__, argv, SIZES,
        tokens=dict(required=True, help="the token store"),
        load=dict(required=True, help="the workdir of the pretrained model"),
        rates=dict(nargs="+", type=float, default=(3e-3, 6e-3), help="learning rates that `scratch` may choose from"),
        conditions=dict(nargs="+", choices=CONDITIONS, default=CONDITIONS[:2]),
    )  # fmt: skip
    run, configs = build.read_run(args.load), {}
    for name in args.conditions:
        config = importlib.import_module("configs.finetune_emoji").get_config("full" if name == "scratch" else name)
        config.load, config.data.path = args.load, args.tokens
        configs[name] = fill(config.to_dict(), run)
    results = measure(configs, args.steps, args.seeds, args.rates, args.conditions)
    control = f"scratch, {FEW} a class"
    finish("finetune", args, f"{args.steps} steps", results, systems=[], control=control, gates=GATES)


if __name__ == "__main__":
    main()
