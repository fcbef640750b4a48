"""What a run compiles: network, objectives, optimizer and step, and how its state lies on a mesh.

The trainer runs it, `tools.plan` compiles the same for machines that are not here.
"""

import functools
import math

import jax
import jax.numpy as jnp

from pretrain import build, optim, sharding
from pretrain.restore import init_function
from pretrain.step import TrainState, init_state, make_train_step

# Rings of small products in the place of one and a reduce-scatter cost a TPU more, by its compiler's clock.
TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}


def compiler_options(device) -> dict | None:
    """What a train step is compiled with for such devices; None for nothing but what is usual."""
    return TPU_OPTIONS if device.platform == "tpu" else None


class Program:
    """A run on `devices` (None: all there are). Its errors come before anything is compiled."""

    def __init__(self, run: build.Run, devices=None):
        config = sharding.parse_mesh(run.mesh)
        self.run, self.mesh = run, sharding.make_mesh(config, devices)
        check_batch(run, self.mesh)
        self.objectives, self.references = build.objectives(run), build.references(run)
        self.graphs, self.init = init_function(build.models(run, self.objectives), self.objectives, run.seed)
        self.params, self.roles = jax.eval_shape(self.init), self.init.roles
        self.split = split = build.split(run, self.params, self.roles)
        trained, base = jax.eval_shape(lambda p: (split.trained(p, run.seed), split.base(p)), self.params)
        self.optimizer = optim.make_optimizer(run.optim, trained, run.steps, split.roles)
        self.state = jax.eval_shape(self.fresh)
        self.layout = sharding.state_sharding(self.state, split.roles, self.mesh)
        self.base = () if split.all else (base,)  # what the step takes beside state and batch
        self.base_layout = sharding.state_sharding(self.base, split.base_roles, self.mesh)
        self.report = sharding.report(self.state, split.roles, self.mesh, strict=config.strict)
        if self.base:
            self.report += f"\n{split.describe(self.params)}, {sharding.report(base, split.base_roles, self.mesh)}"

    def fresh(self) -> TrainState:
        return self.from_params(self.init())

    def from_params(self, params) -> TrainState:
        """params: of the whole network."""
        # Copies: the step donates them, and must not write into what they were read from.
        trained = self.split.trained(jax.tree.map(jnp.copy, params), self.run.seed)
        return init_state(trained, self.optimizer, self.references)

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
        trained = state.evaluated
        return self._compose(trained, *base) if base else trained

    @functools.cached_property
    def _compose(self):
        return jax.jit(self.split.whole, out_shardings=sharding.state_sharding(self.params, self.roles, self.mesh))

    @functools.cached_property
    def step(self):
        """jitted step(state, batch, *base) → (state, metrics), the state donated."""
        run = self.run
        step = make_train_step(
            self.graphs, self.objectives, self.optimizer, seed=run.seed, accum=run.accum, references=self.references,
            steps=run.steps, split=self.split,
        )  # fmt: skip
        return jax.jit(
            step, donate_argnums=0, compiler_options=compiler_options(self.mesh.devices.flat[0]),
            in_shardings=(self.layout, sharding.batch_sharding(self.mesh), *self.base_layout),
            out_shardings=(self.layout, None),
        )  # fmt: skip

    def lower(self, example):
        """The step lowered for a batch of examples such as this one of the pipeline, under the mesh."""
        with jax.set_mesh(self.mesh):
            batch = sharding.batch_shapes(example, self.run.batch_size, self.mesh)
            return self.step.lower(self.state, batch, *self.base)


def check_batch(run: build.Run, mesh):
    """The batch must split evenly over the devices that share it, at every microbatch."""
    ways = math.prod(mesh.shape[a] for a in sharding.BATCH)
    micro = run.batch_size // run.accum
    if micro % ways:
        raise ValueError(
            f"config.batch_size={run.batch_size}: batch_size / accum = {micro} must be divisible by "
            f"slice × data × fsdp = {ways} of the mesh"
        )
