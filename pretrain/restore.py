"""A finished or running training, opened for use: its config, network and parameters."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.checkpoint import load_params, steps
from pretrain.storage import locate
from pretrain.tokenizers.autoencoder import Tokenizer


@dataclasses.dataclass(frozen=True)
class Restored:
    """run: the frozen config; graph and params: `nnx.merge(graph, params["model"])` is the network; step: of which."""

    run: build.Run
    objectives: dict
    graph: Any
    params: dict
    step: int = 0

    @property
    def model(self):
        return nnx.merge(self.graph, self.params["model"])


def read_run(workdir) -> build.Run:
    """The frozen config that a workdir was trained with."""
    file = locate(workdir) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{workdir} is no workdir (no config.json): train with `python -m pretrain`")
    return build.parse(json.loads(file.read_text()))


def restore(workdir, step: int | None = None, *, ema: bool = True) -> Restored:
    """Opens a workdir at a step (None: the newest), with the moving average of its parameters if it has one."""
    run = read_run(workdir)
    objectives = build.objectives(run)
    graph, _ = init_function(build.model(run, objectives), objectives, run.seed)
    step = max(steps(workdir), default=None) if step is None else step
    return Restored(run, objectives, graph, load_params(workdir, step, ema=ema), step)


def untrained(restored: Restored, seed: int = 1) -> Restored:
    """The same network with fresh parameters: the baseline that shows what training gave."""
    _, init = init_function(build.model(restored.run, restored.objectives), restored.objectives, seed)
    return dataclasses.replace(restored, params=jax.jit(init)())


def init_function(make_model, objectives: dict, seed: int):
    """(graph, init): init() → {"model": …, "objective": {name: …}} of fp32 arrays, the same on any mesh."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))

    def init():
        model = nnx.to_pure_dict(nnx.split(make_model(nnx.Rngs(seed)))[1])
        keys = jax.random.split(jax.random.key(seed), len(objectives))
        return {"model": model, "objective": {n: o.init(k) for (n, o), k in zip(objectives.items(), keys)}}

    return graph, init


def load_tokenizer(workdir) -> Tokenizer:
    """The image tokenizer that a workdir trained."""
    restored = restore(workdir)
    if not hasattr(restored.model, "tokenize"):
        raise ValueError(f"{workdir} trained {restored.run.model['model']!r}, which is no tokenizer")
    return Tokenizer(restored.model, digest(restored.params["model"]))


def digest(params) -> str:
    """sha256 over the parameters in the order of their paths."""
    h = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        h.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return h.hexdigest()
