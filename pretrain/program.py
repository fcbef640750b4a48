"""What a run compiles: network, objectives, optimizer and step, and how its state lies on a mesh.

The trainer runs it, `tools.plan` compiles the same for machines that are not here.
"""

import functools

import jax
import jax.numpy as jnp

from pretrain import build, optim, sharding
from pretrain.adapt import Split
from pretrain.restore import init_function
from pretrain.step import TrainState, init_state, make_train_step


class Program:
    """A run on `devices` (None: all there are). Its errors come before anything is compiled."""

    def __init__(self, run: build.Run, devices=None):
        config = sharding.parse_mesh(run.mesh)
        self.run, self.mesh = run, sharding.make_mesh(config, devices)
        build.check_batch(run, self.mesh)
        self.objectives = build.objectives(run)
        self.graph, self.init = init_function(build.model(run, self.objectives), self.objectives, run.seed)
        self.params, self.roles = jax.eval_shape(self.init), self.init.roles
        self.split = Split(run.adapt, self.params)
        own, base = jax.eval_shape(lambda p: (self.split.own(p, run.seed), self.split.base(p)), self.params)
        # What must be given by the run that this one starts from: it never learns, or not all of it is saved.
        self.frozen = self.roles.fixed | self.split.fixed
        build.check_frozen(run)
        self.optimizer = optim.make_optimizer(run.optim, own, run.steps, self.roles)
        self.state = jax.eval_shape(self.fresh)
        self.layout = sharding.state_sharding(self.state, self.roles, self.mesh)
        self.base = (base,) if run.adapt else ()  # what the step takes beside state and batch
        self.base_layout = sharding.state_sharding(self.base, self.roles, self.mesh)
        self.report = sharding.report(self.state, self.roles, self.mesh, strict=config.strict)
        if run.adapt:
            self.report += f"\n{self.split.describe(self.params)}, {sharding.report(base, self.roles, self.mesh)}"

    def fresh(self) -> TrainState:
        return self.from_params(self.init())

    def from_params(self, params) -> TrainState:
        """params: of the whole network."""
        # Copies: the step donates them, and must not write into what they were read from.
        own = self.split.own(jax.tree.map(jnp.copy, params), self.run.seed)
        return init_state(own, self.optimizer, ema=self.run.ema > 0)

    def place(self, make, *args) -> TrainState:
        """The state that `make(*args)` gives, laid out on the mesh."""
        return jax.jit(make, out_shardings=self.layout)(*args)

    def place_params(self, params=None):
        """Parameters of the whole network laid out on the mesh: fresh ones, or these host arrays."""
        layout = sharding.state_sharding(self.params, self.roles, self.mesh)
        return jax.jit(self.init, out_shardings=layout)() if params is None else sharding.place(params, layout)

    def place_base(self, params):
        """What the step takes of them beside state and batch: (base,), or () where everything is trained."""
        return jax.jit(lambda p: (self.split.base(p),), out_shardings=self.base_layout)(params) if self.base else ()

    def whole(self, state: TrainState, base):
        """All parameters of the network, the averaged ones if there are."""
        own = state.params if state.ema is None else state.ema
        return self._compose(own, *base) if base else own

    @functools.cached_property
    def _compose(self):
        return jax.jit(self.split.compose, out_shardings=sharding.state_sharding(self.params, self.roles, self.mesh))

    @functools.cached_property
    def step(self):
        """jitted step(state, batch, *base) → (state, metrics), the state donated."""
        run = self.run
        step = make_train_step(
            self.graph, self.objectives, self.optimizer, seed=run.seed, accum=run.accum, ema=run.ema,
            compose=self.split.compose,
        )  # fmt: skip
        return jax.jit(
            step, donate_argnums=0,
            in_shardings=(self.layout, sharding.batch_sharding(self.mesh), *self.base_layout),
            out_shardings=(self.layout, None),
        )  # fmt: skip

    def lower(self, example):
        """The step lowered for a batch of examples such as this one of the pipeline, under the mesh."""
        with jax.set_mesh(self.mesh):
            batch = sharding.batch_shapes(example, self.run.batch_size, self.mesh)
            return self.step.lower(self.state, batch, *self.base)
