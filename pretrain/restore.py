"""A finished or running training, opened for use: its config, network and parameters."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.checkpoint import load_params, read_info, steps
from pretrain.initialize import Source, start
from pretrain.models.passes import ONLINE
from pretrain.ops.keys import named
from pretrain.parameters import Roles, path_str, values, variables
from pretrain.tokenizers.autoencoder import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Init:
    """init() → {"model": …, "objective": {name: …}} of fp32 arrays, the same on any mesh; key: in the seed's place.

    make: {name: make(rngs)} of the models (`build.models`): others than what learns first are in `models`.
    """

    make: dict[str, Callable]
    objectives: dict
    seed: int

    def __call__(self, key=None) -> dict:
        return values(self._make(jax.random.key(self.seed) if key is None else key))

    @functools.cached_property
    def roles(self) -> Roles:
        """Of these parameters."""
        return Roles(jax.eval_shape(lambda: self._make(jax.random.key(self.seed))))

    def _make(self, key):
        heads = {name: o.init(named(key, name)) for name, o in self.objectives.items()}
        made = {"model": variables(self.make[ONLINE](nnx.Rngs(key))), "objective": heads}
        others = {n: variables(m(nnx.Rngs(named(key, "models", n)))) for n, m in self.make.items() if n != ONLINE}
        return made | {"models": others} if others else made


@dataclasses.dataclass(frozen=True)
class Restored:
    """run: the frozen config; graphs: of its models, by name; params: their parameters and those of objectives; init:
    what these started as; step: of which."""

    run: build.Run
    objectives: dict
    graphs: dict
    params: dict
    init: Init
    step: int = 0

    @property
    def graph(self):
        """Of the network: `nnx.merge(graph, params["model"])`."""
        return self.graphs[ONLINE]

    @property
    def model(self):
        return nnx.merge(self.graph, self.params["model"])

    @property
    def roles(self) -> Roles:
        return self.init.roles


def restore(workdir, step: int | None = None, *, ema: bool = True) -> Restored:
    """Opens a workdir at a step (None: the newest), with the moving average of its parameters if it has one.

    Of a run that trained a part of a network, the rest comes from the workdirs that it started from.
    """
    run = build.read_run(workdir)
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, run.seed)
    step = max(steps(workdir), default=None) if step is None else step
    params = load_params(workdir, step, ema=ema)
    shapes = jax.eval_shape(init)
    split = build.split(run, shapes, init.roles)
    if not split.all:
        sources = read_sources(run, tuple(shapes["model"]), read_info(workdir, step)["base"])
        full, _ = start(sources, jax.jit(init)(), init.roles)
        params = jax.jit(split.whole)(params, split.base(full))
    return Restored(run, objectives, graphs, params, init, step)


def read_sources(run: build.Run, ours: tuple[str, ...], base: list | None = None) -> list[Source]:
    """What a run whose network has these parts starts from: `config.load`, and the networks of its objectives.

    base: what `describe_base` said of them, so that they are the same.
    """
    wanted = [(f"config.load: {c.workdir!r}", c.workdir, partial(c.names, ours=ours)) for c in run.load]
    for into, (said, workdir) in build.networks(run).items():
        wanted.append((f"{said}: workdir={workdir!r}", workdir, lambda theirs, into=into: {"model": into}))
    sources = []
    for (said, workdir, names), then in zip(wanted, base or [None] * len(wanted), strict=True):
        try:
            held = restore(workdir, then and then["step"])
        except (FileNotFoundError, ValueError) as e:
            raise type(e)(f"{said}: {'the rest of this run was read there: ' if then else ''}{e}") from e
        if then and digest(held.params) != then["digest"]:
            raise ValueError(
                f"{said}: step {then['step']} there is not what this run was trained beside (its sha256 was "
                f"{then['digest'][:12]}…): bring that workdir back"
            )
        sources.append(Source(said, held, names(tuple(held.params["model"]))))
    return sources


def describe_base(sources) -> list[dict]:
    """What a run that saves only its own part says of where the rest is; the sources were just read."""
    return [{"said": s.said, "step": s.held.step, "digest": digest(s.held.params)} for s in sources]


def untrained(restored: Restored, seed: int = 1) -> Restored:
    """The same network with fresh parameters: the baseline that shows what training gave."""
    init = dataclasses.replace(restored.init, seed=seed)
    fixed = tuple(f"{into}/" for into in build.networks(restored.run))  # no part of what was trained
    # By path: where a module is a list, checkpoints number its entries in text.
    held = {path_str(path): x for path, x in jax.tree_util.tree_leaves_with_path(restored.params)}
    params = jax.tree_util.tree_map_with_path(
        lambda path, new: held[path_str(path)] if path_str(path).startswith(fixed) else new, jax.jit(init)()
    )
    return dataclasses.replace(restored, params=params)


def init_function(make: dict, objectives: dict, seed: int):
    """({name: graph} of the models, `Init`) of a run; make: of `build.models`."""
    graphs = {name: nnx.split(nnx.eval_shape(lambda m=m: m(nnx.Rngs(0))))[0] for name, m in make.items()}
    return graphs, Init(make, objectives, seed)


def load_tokenizer(workdir) -> Tokenizer:
    """The image tokenizer that a workdir trained."""
    restored = restore(workdir)
    model = restored.model
    if "autoencoder" not in model.states:
        raise ValueError(f"{workdir} trained {build.model_file(restored.run)!r}, which is no tokenizer")
    return Tokenizer(model.autoencoder, digest(restored.params["model"]["autoencoder"]))


def digest(params) -> str:
    """sha256 over the parameters in the order of their paths."""
    h = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        h.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return h.hexdigest()
