"""python -m tools.experiments.finetune --tokens=DIR --init=WORKDIR: what is pretraining worth to a small task?

The subgroup of an emoji, one of 95, from its 3D picture (`configs/finetune_emoji.py`), with 5 labels a class (of rare
classes all there are) and with all 1300. `scratch` trains the same network, all of it, from random values with the same
steps, batches and recipe, and without layer-wise decay, which would hold its first layers back; it is given the better
of the learning rates of `--rates`. The other conditions start from WORKDIR, the quickstart's model, and train what the
config's argument of that name says. Top-1 and top-5 accuracy on the 270 held-out emoji; a seed fixes which labels are
kept, the head, and the order of the examples.
"""

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from pretrain.inherit import fill
from pretrain.initialize import start_from
from pretrain.parameters import path_str
from pretrain.restore import restore
from tools.experiments.common import Experiment, encoded, report

CONFIG = config_flags.DEFINE_config_file("config", "configs/finetune_emoji.py", "The recipe of `scratch` and `full`.")
OTHERS = {  # condition: config.adapt and more of it, as `configs/finetune_emoji.py` has them
    name: config_flags.DEFINE_config_file(name, f"configs/finetune_emoji.py:{name}", f"The recipe of `{name}`.")
    for name in ("last", "lora", "adapter", "prompt", "probe")
}
TOKENS = flags.DEFINE_string("tokens", None, "The token store.", required=True)
INIT = flags.DEFINE_string("init", None, "The workdir of the pretrained model.", required=True)
STEPS = flags.DEFINE_integer("steps", 120, "Of training with all labels; half of them with 5 a class.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How many.")
RATES = flags.DEFINE_list("rates", ["3e-3", "6e-3"], "Learning rates that `scratch` may choose from.")
ONLY = flags.DEFINE_multi_enum("condition", ["scratch", "full"], ["scratch", "full", *OTHERS], "Which of them.")
FEW = 5


def held_out(experiment, params, data) -> dict:
    """Accuracies over the first views of the data."""
    objective = experiment.objectives["classification"]

    def logits(params, batch):
        model = experiment.model(params)
        view = objective.view(batch, jax.random.split(jax.random.key(0), len(batch["row"])))
        return objective.logits(
            model, params["objective"]["classification"], model.encode(view["tokens"], view["dense"])
        )

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


def loaded(experiment, held) -> dict:
    """{path: array} of what the pretrained model has of the network."""
    fresh = jax.eval_shape(experiment.init)
    fresh = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), fresh)
    params, found = start_from(held, fresh, experiment.roles)
    flat = {path_str(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    return {path: np.asarray(flat[path]) for path in found.loaded}


def measure(configs, held, steps=120, seeds=3, rates=(3e-3, 6e-3), conditions=("scratch", "full")) -> dict:
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
                given = {} if scratch else loaded(experiment, held)
                label, found = experiment.objectives["classification"].label, []
                for seed in range(seeds):
                    data = train if kept == "all" else few(train, label, seed)
                    params, losses = experiment.train(data, seed, given)
                    found.append(held_out(experiment, params, test) | {"loss at the end": float(losses[-10:].mean())})
                print(f"{name}, {kept}, {rate or config['optim']['lr']}: {found}", flush=True)
                runs.append(found)
            results[f"{name}, {kept}"] = max(runs, key=lambda found: np.mean([f["top-1"] for f in found]))
    return results


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    held = restore(INIT.value)
    configs = {}
    for name in ONLY.value:
        config = (OTHERS[name] if name in OTHERS else CONFIG).value
        config.init, config.data.path = INIT.value, TOKENS.value
        configs[name] = fill(config.to_dict(), held.run)
    rates = tuple(map(float, RATES.value))
    results = measure(configs, held, STEPS.value, SEEDS.value, rates, tuple(ONLY.value))
    report(f"{STEPS.value} steps", results)


if __name__ == "__main__":
    app.run(main)
