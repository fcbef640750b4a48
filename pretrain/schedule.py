"""Numbers of a config that change as training goes on."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Ramp:
    """Linear from `start` at step `begin` to `end`, which it has `steps` steps later and from then on."""

    start: float
    end: float
    steps: int
    begin: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.begin < 0:
            raise ValueError(f"a ramp of steps={self.steps} from begin={self.begin}: needs steps >= 1 and begin >= 0")


Coefficient = float | Ramp  # in a config a number, or dict(start=…, end=…, steps=…, begin=…)


def at(value: Coefficient, step=None):
    """What it is at a step, counted from 0; at the end without one."""
    if isinstance(value, float | int):
        return value
    if step is None:
        return value.end
    return value.start + (value.end - value.start) * jnp.clip((step - value.begin) / value.steps, 0.0, 1.0)
