"""What a run compiles: network, objectives, optimizer and step, and how its state lies on a mesh.

The trainer runs it, `tools.plan` compiles the same for machines that are not here.
"""

import functools

import jax
import jax.numpy as jnp

from pretrain import build, optim, sharding
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
        self.params = jax.eval_shape(self.init)
        self.frozen = build.frozen(run)
        self.optimizer = optim.make_optimizer(run.optim, self.params, run.steps, self.frozen)
        self.state = jax.eval_shape(self.fresh)
        self.layout = sharding.state_sharding(self.state, self.mesh)
        self.report = sharding.report(self.state, self.mesh, strict=config.strict)

    def fresh(self) -> TrainState:
        return init_state(self.init(), self.optimizer, ema=self.run.ema > 0)

    def from_params(self, params) -> TrainState:
        # Copies: the step donates them, and must not write into what they were read from.
        return init_state(jax.tree.map(jnp.copy, params), self.optimizer, ema=self.run.ema > 0)

    def place(self, make, *args) -> TrainState:
        """The state that `make(*args)` gives, laid out on the mesh."""
        return jax.jit(make, out_shardings=self.layout)(*args)

    @functools.cached_property
    def step(self):
        """jitted step(state, batch) → (state, metrics), the state donated."""
        run = self.run
        step = make_train_step(self.graph, self.objectives, self.optimizer, seed=run.seed, accum=run.accum, ema=run.ema)
        return jax.jit(
            step, donate_argnums=0, in_shardings=(self.layout, sharding.batch_sharding(self.mesh)),
            out_shardings=(self.layout, None),
        )  # fmt: skip

    def lower(self, example):
        """The step lowered for a batch of examples such as this one of the pipeline, under the mesh."""
        with jax.set_mesh(self.mesh):
            batch = sharding.batch_shapes(example, self.run.batch_size, self.mesh)
            return self.step.lower(self.state, batch)
