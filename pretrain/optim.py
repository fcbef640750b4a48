"""AdamW (arXiv 1711.05101), Adafactor, Muon, SGD, Adagrad; warm-up, cosine decay, clipping, path rules: one chain."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from pretrain.parameters import Roles, path_str

MOMENTS = ("float32", "bfloat16", "factored", "muon", "sgd", "adagrad")
# optax factors the two longest dimensions if both reach this: of a stack `[depth, d_in, d_out]` never the depth, which
# is less; its norms and biases `[depth, d]` and small matrices keep their own second moments.
MIN_FACTORED = 128


@dataclasses.dataclass(frozen=True)
class Rule:
    """Parameters whose path matches `pattern` (re.search) train with lr · lr_scale.

    0 holds them where they start: they are saved, but the optimizer keeps nothing of them. What `config.train` leaves
    out is the base's, and not saved.
    """

    pattern: str
    lr_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """lr is the peak, reached after `warmup` steps; then a cosine to `final_lr` · lr at the run's last step.

    layer_decay: block i = 0, 1, … of an encoder or tower trains with lr · layer_decay^(depth − i), what comes before
    its blocks with lr · layer_decay^(depth + 1); 1 for none (ELECTRA, arXiv 2003.10555; MAE's and 4M's fine-tuning).
    trust_ratio: scale every array's step by its own norm over the step's: LAMB (arXiv 1904.00962), for huge batches.
    moments: what a parameter's gradients g leave beside it, a running mean m of g and one v of g²:
      `float32`: Adam's two, 8 bytes.
      `bfloat16`: m in bfloat16, 6 bytes. v stays fp32: bfloat16 has 8 significant bits, so that with b2 = 0.999 a v
        that should fall by a thousandth of itself would stand still for ever; it was seen to harm (arXiv 2106.04560,
        section 3.4, where m in bfloat16 was seen not to).
      `factored`: m in bfloat16; of a matrix's v the means of its rows and of its columns (Adafactor, arXiv 1804.04235),
        2 bytes and a little.
      `muon`: of the network's kernels m alone, 4 bytes, and their step is the orthogonal matrix nearest to it (Muon as
        in arXiv 2502.16982, section 2.2); of everything else Adam's two.
      `sgd`: m ← b1 m + g, 4 bytes, and the step is m, whose size is that of gradients (PyTorch's SGD with momentum).
      `adagrad`: s ← s + g², from 0, 4 bytes, and the step is g / √(s + eps) (Duchi et al., JMLR 12, 2011).
    muon_rms: of such a step, in units of lr. 0.2 is about that of Adam's, so that its lr and weight_decay serve.
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
    muon_rms: float = 0.2
    layer_decay: float = 1.0
    rules: tuple[Rule, ...] = ()
    max_skipped: int = 20

    def __post_init__(self):
        if self.moments not in MOMENTS:
            raise ValueError(f"optim.moments={self.moments!r}: must be one of {', '.join(MOMENTS)}")
        if self.muon_rms <= 0:
            raise ValueError(f"optim.muon_rms={self.muon_rms}: must be above 0; 0.2 is usual")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay={self.layer_decay}: must be above 0 and at most 1 (none)")


def schedule(config: Config, steps: int):
    """Step → learning rate."""
    if not 0 <= config.warmup < steps:
        raise ValueError(f"optim.warmup={config.warmup}: must be at least 0 and below steps={steps}")
    return optax.warmup_cosine_decay_schedule(0.0, config.lr, config.warmup, steps, config.final_lr * config.lr)


def scale_by_moments(config: Config, roles: Roles) -> list[optax.GradientTransformation]:
    """Gradient g → Adam's step m̂ / (√v̂ + eps); for `factored`, Adafactor's as ViT-G was trained (arXiv 2106.04560,
    section 3.4), m of u = g / √v:

    m ← b1 m + (1 − b1) u;  v ← β v + (1 − β)(g² + eps²) with β = min(b2, 1 − t^−0.8) at step t = 1, 2, …, where of a
    matrix only v's means r over columns and c over rows are kept, and v = r cᵀ / mean r.
    """
    if config.moments == "muon":
        return [_muon(config, roles)]
    if config.moments == "sgd":
        return [optax.trace(config.b1)]
    if config.moments == "adagrad":
        return [optax.scale_by_rss(0.0, config.eps)]
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


def _muon(config: Config, roles: Roles) -> optax.GradientTransformation:
    """Kernels `[…, d_in, d_out]` step by muon_rms · √max(d_in, d_out) · U, U the orthogonal matrix (by five iterations
    of Newton and Schulz) nearest to the mean of gradients, whose entries have the root mean square 1 / √max(…).

    Tables, positions, norms and what objectives own keep Adam.
    """
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)  # stacked blocks one by one
    orthogonal = optax.contrib.scale_by_muon(weight_dimension_numbers=lambda g: jax.tree.map(lambda _: axes, g))

    def rescale(updates, _):
        return jax.tree.map(lambda u: config.muon_rms * np.float32(max(u.shape[-2:]) ** 0.5) * u, updates)

    def kinds(tree):
        def kind(path, _):
            path = path_str(path)
            return "muon" if path.startswith("model/") and roles[path].matrix else "adam"

        return jax.tree_util.tree_map_with_path(kind, tree)

    transforms = {
        "muon": optax.chain(orthogonal, optax.stateless(rescale)),
        "adam": optax.scale_by_adam(config.b1, config.b2, config.eps),
    }
    return optax.partition(transforms, kinds)


def make_optimizer(config: Config, params, steps: int, roles: Roles) -> optax.GradientTransformation:
    """The chain for this tree of parameters (or of their shapes), which keeps nothing of what their roles fix."""
    paths = [path_str(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    for rule in config.rules:
        if not any(re.search(rule.pattern, p) for p in paths):
            raise ValueError(f"optim.rules: {rule.pattern!r} matches no parameter; paths look like {paths[0]!r}")

        held = [p for p in paths if re.search(rule.pattern, p) and p in roles.still]
        if held and rule.lr_scale:
            raise ValueError(f"optim.rules: {rule.pattern!r} trains {held[0]}, which no gradient changes; leave it out")
    scale = {p: next((r.lr_scale for r in config.rules if re.search(r.pattern, p)), 1.0) for p in paths}
    still = {p for p in paths if p in roles.still or not scale[p]}
    if config.layer_decay < 1:
        decays = layer_decays(config.layer_decay, params, roles)
        scale = {p: s * decays.get(p, 1.0) for p, s in scale.items()}

    def per_path(f):  # of a tree from which partition may have taken leaves
        return lambda tree: jax.tree_util.tree_map_with_path(lambda p, x: f(path_str(p), x), tree)

    chain = [
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        *scale_by_moments(config, roles),
        optax.add_decayed_weights(config.weight_decay, mask=per_path(lambda p, _: roles[p].decay)),
        optax.scale_by_trust_ratio() if config.trust_ratio else optax.identity(),
        optax.scale_by_learning_rate(schedule(config, steps)),
    ]
    if config.rules or config.layer_decay < 1:
        scaled = per_path(lambda p, u: u * scale[p])
        chain.append(optax.stateless(lambda updates, _: scaled(updates)))
    chain = optax.chain(*chain)
    if still:
        labels = per_path(lambda p, _: "still" if p in still else "learns")
        chain = optax.partition({"learns": chain, "still": optax.set_to_zero()}, labels)
    return chain


def init(chain, params) -> optax.ApplyIfFiniteState:
    """The chain's state, and how many steps were skipped."""
    return optax.apply_if_finite(chain, 1).init(params)


def apply(chain, grads, state, params, finite):
    """(params, state) after a step; they stay where its loss or gradient is not `finite`, which is counted.

    The training loop stops the run after `max_skipped` of them in a row. The parameters are written inside the branch:
    `optax.apply_if_finite` would hand out updates, a further array of their size written and read, and looks at every
    gradient again.
    """

    def step():
        updates, inner = chain.update(grads, state.inner_state, params)
        return optax.apply_updates(params, updates), inner

    with jax.named_scope("optimizer"):
        params, inner = jax.lax.cond(finite, step, lambda: (params, state.inner_state))
    bad = 1 - finite.astype(jnp.int32)
    skipped = bad * (state.notfinite_count + 1), finite, state.total_notfinite + bad
    return params, optax.ApplyIfFiniteState(*skipped, inner)


def layer_decays(decay: float, params, roles: Roles) -> dict:
    """{path: factor of `layer_decay`}, one a block of stacked ones, `[depth, 1, …]`; the others' is 1 and not there."""
    out = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        path = path_str(path)
        role = roles[path]
        if role.stacked and role.depth:  # of the last blocks alone the last one is still 1
            out[path] = np.float32(decay ** np.arange(len(x), 0.0, -1)).reshape(-1, *[1] * (x.ndim - 1))
        elif role.depth:
            out[path] = decay**role.depth
    return out
