"""The ways in which a parameter is trained: what of it learns, what stays beside it, how the two are put together."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from pretrain.parameters import Role


@dataclasses.dataclass(frozen=True)
class Way:
    """One parameter under a rule (`adapt.Rule`); role and shape are the parameter's.

    needs: the keys that such a rule gives, and no other.
    """

    rule: Any
    role: Role
    shape: tuple[int, ...]

    needs: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def serves(rule, role: Role) -> bool:
        """Whether a parameter of this role can be trained so."""
        return True

    def problem(self) -> str:
        """What is wrong with the rule for this parameter, with the remedy; "" if nothing is."""
        return ""

    def trained(self, x, key):
        """What learns, as it starts out: an array, a dict of them, or None."""
        return None

    def base(self, x):
        """What stays, None if nothing does."""
        return x

    def join(self, trained, base):
        """The parameter. Differentiable in trained."""
        return base

    def put(self, trained, x):
        """What learns, as the parameter x has it; as it was where the parameter does not say it."""
        return trained

    def role_of(self, name: str) -> Role:
        """The role of what learns; name: of an entry, where that is a dict."""
        return self.role

    def stays(self, row: str = "") -> bool:
        """Whether the base gives the parameter, or a named row of it."""
        return True


class Full(Way):
    """The whole parameter learns."""

    def trained(self, x, key):
        return x

    def base(self, x):
        return None

    def join(self, trained, base):
        return trained

    def put(self, trained, x):
        return x

    def stays(self, row=""):
        return False


class Nothing(Way):
    """It stays; `store` says in which type."""

    def base(self, x):
        return x.astype(self.rule.store)

    def join(self, trained, base):
        # Products cast their operands anyway: a copy of all kernels in fp32 would undo what bfloat16 saves.
        return base if self.role.matrix else base.astype(jnp.float32)


class Last(Way):
    """The last k of stacked blocks `[depth, …]`."""

    needs = ("k",)

    @staticmethod
    def serves(rule, role):
        return role.stacked

    def problem(self):
        depth = self.shape[0]
        return f"k={self.rule.k}: it has {depth} blocks; take how='full'" if self.rule.k >= depth else ""

    def trained(self, x, key):
        return x[-self.rule.k :]

    def base(self, x):
        return x[: -self.rule.k]

    def join(self, trained, base):
        return jnp.concatenate([base, trained])

    def put(self, trained, x):
        return x[-self.rule.k :]


class LowRank(Way):
    """LoRA (arXiv 2106.09685, section 4.1): W + alpha / rank · A B beside a W that stays, a kernel `[…, d_in, d_out]`.

    A `[…, d_in, rank]` starts uniform in ± d_in^−½ and B `[…, rank, d_out]` at zero.
    """

    needs = ("rank", "alpha")

    @staticmethod
    def serves(rule, role):
        return role.matrix

    def trained(self, x, key):
        a = jax.random.uniform(key, (*x.shape[:-1], self.rule.rank), minval=-1.0) * x.shape[-2] ** -0.5
        return {"lora_a": a, "lora_b": jnp.zeros((*x.shape[:-2], self.rule.rank, x.shape[-1]))}

    def join(self, trained, base):
        return base + self.rule.alpha / self.rule.rank * (trained["lora_a"] @ trained["lora_b"])

    def role_of(self, name):
        # They are no matrices for Muon: their product is. The dimension that they share is never split.
        split = self.role.split if (name, self.role.split) in (("lora_a", -2), ("lora_b", -1)) else 0
        return dataclasses.replace(self.role, matrix=False, split=split)


class Magnitudes(LowRank):
    """DoRA (arXiv 2402.09353, equation 5): m · V / ‖V‖, V = W + alpha / rank · A B, ‖V‖ that of an output's column.

    m `[…, 1, d_out]` learns too, from ‖W‖; what is kept is m − ‖W‖, whose gradient is the same: it starts at zero, and
    the kernel exactly as W. No gradient passes through ‖V‖ (section 4.3).
    """

    def trained(self, x, key):
        return super().trained(x, key) | {"magnitude": jnp.zeros((*x.shape[:-2], 1, x.shape[-1]))}

    def join(self, trained, base):
        v = super().join(trained, base)
        # V + V (m − ‖V‖) / ‖V‖, and ‖V‖² as ‖W‖² and what is added to it: exactly W as long as nothing is.
        square = jnp.square(base).sum(-2, keepdims=True)
        added = ((v - base) * (v + base)).sum(-2, keepdims=True)
        norm = lambda x: jnp.sqrt(jnp.maximum(x, 1e-12))  # a column may be all zeros
        now = jax.lax.stop_gradient(norm(square + added))
        return v + v * ((norm(square) - now + trained["magnitude"]) / now)

    def role_of(self, name):
        role = super().role_of(name)
        return dataclasses.replace(role, decay=False, split=0) if name == "magnitude" else role


class Rows(Way):
    """Rows of a table `[n, …]`: by name where they have names, such as a modality's, and by id in a vocabulary's."""

    needs = ("rows",)

    @staticmethod
    def serves(rule, role):
        return bool(role.rows) if any(isinstance(row, str) for row in rule.rows) else bool(role.vocab)

    def problem(self):
        known = self.role.rows or range(self.shape[0])
        unknown = [row for row in self.rule.rows if row not in known]
        has = ", ".join(self.role.rows) or f"those of the ids 0…{self.shape[0] - 1}"
        return f"rows={self.rule.rows}: it has no row {unknown[0]!r}, but {has}" if unknown else ""

    @property
    def _at(self):
        return jnp.asarray([self.role.rows.index(r) if self.role.rows else r for r in self.rule.rows])

    def trained(self, x, key):
        return x[self._at]

    def join(self, trained, base):
        return base.at[self._at].set(trained)

    def put(self, trained, x):
        return x[self._at]

    def role_of(self, name):
        return dataclasses.replace(self.role, rows=(), vocab="", resize="")

    def stays(self, row=""):
        return row not in self.rule.rows


WAYS = {"full": Full, "last": Last, "lora": LowRank, "dora": Magnitudes, "rows": Rows, "nothing": Nothing}
