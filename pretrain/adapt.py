"""What of a pretrained network a run trains: path rules that split its parameters in two.

own: what is trained, averaged and saved. base: the rest, an argument of the step that is neither donated nor saved;
`restore` finds it again in the workdir that the run started from.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from pretrain.ops.keys import named
from pretrain.parameters import path_str

HOW = ("full", "last", "lora", "frozen")


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the parameters of the network whose path matches `pattern` (re.search) are trained; the first match wins.

    `full`: whole. `last`: of stacked blocks `[depth, …]` the last k. `frozen`: not at all, as what no rule matches.
    `lora`: W + alpha / rank · A B beside a W that stays (arXiv 2106.09685, section 4.1): of kernels `[…, d_in, d_out]`,
    stacked or not, A `[…, d_in, rank]` starts uniform in ± d_in^−½ and B `[…, rank, d_out]` at zero.
    """

    pattern: str
    how: str = "full"
    k: int = 0
    rank: int = 0
    alpha: float = 0.0

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"config.adapt: {self.pattern!r}: {key}={getattr(self, key)!r}: {remedy}")

        if self.how not in HOW:
            fail("how", f"must be one of {', '.join(HOW)}")
        for key, needed in (("k", self.how == "last"), ("rank", self.how == "lora"), ("alpha", self.how == "lora")):
            if (getattr(self, key) > 0) != needed:
                fail(key, f"must be positive with how={self.how!r}" if needed else f"how={self.how!r} has none")


class Split:
    """The rules of a run, laid out over its parameters `{"model", "objective"}` (arrays or shapes).

    An objective's own parameters, such as a head, are always trained whole. Without rules everything is.
    """

    def __init__(self, rules: tuple[Rule, ...], params):
        self.rules, paths = rules, {path_str(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(params)}
        for rule in rules:
            if not any(re.search(rule.pattern, p) for p in paths if p.startswith("model/")):
                raise ValueError(
                    f"config.adapt: {rule.pattern!r} matches no parameter of the network; paths look like "
                    f"{next(iter(paths))!r}"
                )
        self.ways = {path: self._way(path, shape) for path, shape in paths.items()}

    def _way(self, path, shape) -> Rule:
        if not self.rules or path.startswith("objective/"):
            return Rule(path)
        rule = next((r for r in self.rules if re.search(r.pattern, path)), Rule(path, "frozen"))
        if rule.how == "lora" and len(shape) < 2:
            raise ValueError(f"config.adapt: {rule.pattern!r}: {path} of shape {shape} is no matrix: name the kernels")
        if rule.how == "last" and rule.k >= (rows := shape[0] if shape else 0):
            raise ValueError(f"config.adapt: {rule.pattern!r}: k={rule.k}: {path} has {rows} rows; take how='full'")
        return rule

    @property
    def fixed(self) -> frozenset:
        """Paths of the parameters that the base must give, since not all of their values are saved."""
        return frozenset(path for path, rule in self.ways.items() if rule.how != "full")

    def own(self, params, seed: int):
        """The part that is trained, as it starts out."""
        if not self.rules:
            return params

        def part(path, x):
            rule = self.ways[path]
            if rule.how == "lora":
                key = named(jax.random.key(seed), path)
                a = jax.random.uniform(key, (*x.shape[:-1], rule.rank), minval=-1.0) * x.shape[-2] ** -0.5
                return {"lora_a": a, "lora_b": jnp.zeros((*x.shape[:-2], rule.rank, x.shape[-1]))}
            return x[-rule.k :] if rule.how == "last" else x if rule.how == "full" else None

        return _pick(params, part)

    def base(self, params):
        """The part that stays; nothing without rules."""
        if not self.rules:
            return {}

        def part(path, x):
            rule = self.ways[path]
            return x[: -rule.k] if rule.how == "last" else None if rule.how == "full" else x

        return _pick(params, part)

    def compose(self, own, base=None):
        """own, base → the parameters of the whole network. Differentiable in own."""
        return own if not self.rules else self._join("", own, {} if base is None else base)

    def _join(self, path, own, base):
        if own is None or base is None:  # one side has it all
            return base if own is None else own
        if path not in self.ways:
            keys = {**dict.fromkeys(base), **dict.fromkeys(own)}
            return {k: self._join(f"{path}/{k}".lstrip("/"), own.get(k), base.get(k)) for k in sorted(keys)}
        rule = self.ways[path]
        if rule.how == "last":
            return jnp.concatenate([base, own])
        return base + rule.alpha / rule.rank * (own["lora_a"] @ own["lora_b"])

    def describe(self, params) -> str:
        """One line: how much is trained how."""
        counts = dict.fromkeys(HOW, 0)
        for path, x in jax.tree_util.tree_leaves_with_path(params):
            counts[self.ways[path_str(path)].how] += x.size
        trained = sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda p: self.own(p, 0), params)))
        parts = ", ".join(f"{n / 1e6:.2f}M {how}" for how, n in counts.items() if n)
        return f"{trained / 1e6:.3f}M parameters of its own beside a base ({parts})"


def _pick(tree, part, path=""):
    """The tree of `part(path, leaf)`, without the leaves where that is None, and without what they leave empty."""
    if not isinstance(tree, dict):
        return part(path, tree)
    made = {k: _pick(v, part, f"{path}/{k}".lstrip("/")) for k, v in tree.items()}
    # An objective without parameters stays an empty dict, at its place.
    return {k: v for k, v in made.items() if v is not None and (not isinstance(v, dict) or v or not tree[k])}
