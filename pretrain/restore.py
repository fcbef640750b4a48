"""A finished or running training, opened for use: its config, network and parameters."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.adapt import Split
from pretrain.checkpoint import load_params, read_info, steps
from pretrain.initialize import Origin, start
from pretrain.ops.keys import named
from pretrain.parameters import Roles, values, variables
from pretrain.tokenizers.autoencoder import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Init:
    """init() → {"model": …, "objective": {name: …}} of fp32 arrays, the same on any mesh; key: in the seed's place."""

    make_model: Callable
    objectives: dict
    seed: int

    def __call__(self, key=None) -> dict:
        return values(self._make(jax.random.key(self.seed) if key is None else key))

    @functools.cached_property
    def roles(self) -> Roles:
        """Of these parameters."""
        return Roles(jax.eval_shape(lambda: self._make(jax.random.key(self.seed))))

    def _make(self, key):
        own = {name: o.init(named(key, name)) for name, o in self.objectives.items()}
        return {"model": variables(self.make_model(nnx.Rngs(key))), "objective": own}


@dataclasses.dataclass(frozen=True)
class Restored:
    """run: the frozen config; graph and params: `nnx.merge(graph, params["model"])` is the network; init: what its
    parameters started as; step: of which."""

    run: build.Run
    objectives: dict
    graph: Any
    params: dict
    init: Init
    step: int = 0

    @property
    def model(self):
        return nnx.merge(self.graph, self.params["model"])

    @property
    def roles(self) -> Roles:
        return self.init.roles


def restore(workdir, step: int | None = None, *, ema: bool = True) -> Restored:
    """Opens a workdir at a step (None: the newest), with the moving average of its parameters if it has one.

    Of a run that trained a part of a network, the rest comes from the workdir that it started from.
    """
    run = build.read_run(workdir)
    objectives = build.objectives(run)
    graph, init = init_function(build.model(run, objectives), objectives, run.seed)
    step = max(steps(workdir), default=None) if step is None else step
    params = load_params(workdir, step, ema=ema)
    if run.adapt:
        split = Split(run.adapt, jax.eval_shape(init))
        origin = read_origin(run, read_info(workdir, step)["base"])
        full, _ = start(origin, jax.jit(init)(), init.roles, split.fixed)
        params = jax.jit(split.compose)(params, split.base(full))
    return Restored(run, objectives, graph, params, init, step)


def read_origin(run: build.Run, base: dict | None = None) -> Origin | None:
    """What a run starts from, None if from nothing. base: what `describe_base` said of it, so that it is the same."""
    loads = build.tower_loads(run)
    if not run.init and not loads:
        return None
    try:
        whole = restore(run.init, base and base["step"]) if run.init else None
    except (FileNotFoundError, ValueError) as e:
        if not base:
            raise
        raise type(e)(f"config.init={run.init!r}: the rest of this run's network was read there: {e}") from e
    if base and digest(whole.params) != base["digest"]:
        raise ValueError(
            f"config.init={run.init!r}: step {base['step']} there is not what this run was trained beside (its sha256 "
            f"was {base['digest'][:12]}…): bring that workdir back"
        )
    return Origin(whole, {name: restore(path) for name, path in loads.items()})


def read_networks(run: build.Run) -> dict[str, Restored]:
    """{objective: what it compares pictures by}, of the workdirs that the config names."""
    return {name: restore(workdir) for name, workdir in build.networks(run).items()}


def with_networks(params: dict, networks: dict[str, Restored]) -> dict:
    """Parameters of a run with those of its objectives' networks in their places, as host arrays."""
    own = dict(params["objective"])
    for name, held in networks.items():
        own[name] = own[name] | {"network": jax.device_get(held.params["model"])}
    return params | {"objective": own}


def describe_base(run: build.Run, origin: Origin) -> dict:
    """What a run that saves only its own part says of where the rest is; the origin was just read."""
    return {"init": run.init, "step": origin.whole.step, "digest": digest(origin.whole.params)}


def untrained(restored: Restored, seed: int = 1) -> Restored:
    """The same network with fresh parameters: the baseline that shows what training gave."""
    init = dataclasses.replace(restored.init, seed=seed)
    params, held = jax.jit(init)(), restored.params["objective"]
    for name in build.networks(restored.run):  # what pictures are compared by is no part of what was trained
        params["objective"][name]["network"] = held[name]["network"]
    return dataclasses.replace(restored, params=params)


def init_function(make_model, objectives: dict, seed: int):
    """(graph, `Init`) of a run."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))
    return graph, Init(make_model, objectives, seed)


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
