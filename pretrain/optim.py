"""AdamW (arXiv 1711.05101) or Adafactor with warm-up, cosine decay, clipping and per-path rules, as one optax chain."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrain.sharding import path_str

# Norms, biases, slopes and an objective's scalars are not decayed, as in 4M; tables, positions and the mask token are.
NO_DECAY = r"(norm\w*/(scale|bias)|/bias|/slopes)$|^objective/"
MOMENTS = ("float32", "bfloat16", "factored")
# optax factors the two longest dimensions if both reach this: of a stack `[depth, d_in, d_out]` never the depth, which
# is less; its norms and biases `[depth, d]` and small matrices keep their own second moments.
MIN_FACTORED = 128


@dataclasses.dataclass(frozen=True)
class Rule:
    """Parameters whose path matches `pattern` (re.search) train with lr · lr_scale; 0 freezes them."""

    pattern: str
    lr_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """lr is the peak, reached after `warmup` steps; then a cosine to `final_lr` · lr at the run's last step.

    trust_ratio: scale every array's step by its own norm over the step's: LAMB (arXiv 1904.00962), for huge batches.
    moments: what a parameter's gradients g leave beside it, a running mean m of g and one v of g²:
      `float32`: Adam's two, 8 bytes.
      `bfloat16`: m in bfloat16, 6 bytes. v stays fp32: bfloat16 has 8 significant bits, so that with b2 = 0.999 a v
        that should fall by a thousandth of itself would stand still for ever; it was seen to harm (arXiv 2106.04560,
        section 3.4, where m in bfloat16 was seen not to).
      `factored`: m in bfloat16; of a matrix's v the means of its rows and of its columns (Adafactor, arXiv 1804.04235),
        2 bytes and a little.
    """

    lr: float = 1e-3
    warmup: int = 0
    final_lr: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip: float = 0.0
    trust_ratio: bool = False
    moments: str = "float32"
    rules: tuple[Rule, ...] = ()
    max_skipped: int = 20

    def __post_init__(self):
        if self.moments not in MOMENTS:
            raise ValueError(f"optim.moments={self.moments!r}: must be one of {', '.join(MOMENTS)}")


def schedule(config: Config, steps: int):
    """Step → learning rate."""
    if not 0 <= config.warmup < steps:
        raise ValueError(f"optim.warmup={config.warmup}: must be at least 0 and below steps={steps}")
    return optax.warmup_cosine_decay_schedule(0.0, config.lr, config.warmup, steps, config.final_lr * config.lr)


def scale_by_moments(config: Config) -> list[optax.GradientTransformation]:
    """Gradient g → Adam's step m̂ / (√v̂ + eps); for `factored`, Adafactor's as ViT-G was trained (arXiv 2106.04560,
    section 3.4), m of u = g / √v:

    m ← b1 m + (1 − b1) u;  v ← β v + (1 − β)(g² + eps²) with β = min(b2, 1 − t^−0.8) at step t = 1, 2, …, where of a
    matrix only v's means r over columns and c over rows are kept, and v = r cᵀ / mean r.
    """
    if config.moments == "float32":
        return [optax.scale_by_adam(config.b1, config.b2, config.eps)]
    # Not a Python number, which would take on the type of what it multiplies: 0.9 is 0.8984 in bfloat16.
    b1 = np.float32(config.b1)
    if config.moments == "bfloat16":
        return [optax.scale_by_adam(b1, config.b2, config.eps, mu_dtype=jnp.bfloat16)]
    return [
        optax.scale_by_factored_rms(
            decay_rate_fn=lambda step, power: jnp.minimum(config.b2, 1 - (step + 1.0) ** -power),
            decay_rate=0.8,
            epsilon=config.eps**2,
            min_dim_size_to_factor=MIN_FACTORED,
        ),
        optax.ema(b1, debias=False, accumulator_dtype=jnp.bfloat16),
    ]


def make_optimizer(config: Config, params, steps: int, frozen: tuple = ()) -> optax.GradientTransformation:
    """The chain for this tree of parameters (or of their shapes). frozen: patterns of what never changes.

    A step whose gradient is not finite changes nothing and is counted (`optax.apply_if_finite`); the training loop
    stops the run after `max_skipped` of them in a row.
    """
    paths = [path_str(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    for rule in config.rules:
        if not any(re.search(rule.pattern, p) for p in paths):
            raise ValueError(f"optim.rules: {rule.pattern!r} matches no parameter; paths look like {paths[0]!r}")

        held = [p for p in paths if re.search(rule.pattern, p) and any(re.search(f, p) for f in frozen)]
        if held and rule.lr_scale:
            raise ValueError(
                f"optim.rules: {rule.pattern!r} trains {held[0]}, which the model freezes; set frozen=False there"
            )
    rules = [*(Rule(pattern, 0.0) for pattern in frozen), *config.rules]

    def lr_scale(path, _):
        return next((r.lr_scale for r in rules if re.search(r.pattern, path_str(path))), 1.0)

    scales = jax.tree_util.tree_map_with_path(lr_scale, params)
    decay = jax.tree_util.tree_map_with_path(lambda p, _: not re.search(NO_DECAY, path_str(p)), params)
    chain = [
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        *scale_by_moments(config),
        optax.add_decayed_weights(config.weight_decay, mask=decay),
        optax.scale_by_trust_ratio() if config.trust_ratio else optax.identity(),
        optax.scale_by_learning_rate(schedule(config, steps)),
    ]
    if rules:
        chain.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales)))
    # The limit is out of reach on purpose: beyond its own limit optax would apply the bad update.
    return optax.apply_if_finite(optax.chain(*chain), max_consecutive_errors=2**31 - 1)
