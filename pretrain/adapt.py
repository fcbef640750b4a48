"""What of a network a run trains (`config.train`): rules that split its parameters in two.

trained: what learns, and so is averaged and saved. base: the rest, an argument of the step that is neither donated nor
saved; `restore` finds it again in the workdirs that the run started from.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from pretrain.ops.keys import named
from pretrain.parameters import Role, Roles, param, parts_called, path_str
from pretrain.ways import WAYS, Way

ONLY = {
    "": lambda role: True,
    "kernel": lambda role: role.matrix,
    "table": lambda role: bool(role.rows or role.vocab),
    "undecayed": lambda role: not role.decay,
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """How some parameters of the network are trained; the first rule that a parameter falls under counts.

    parts: names of parts, or of towers, for all of their parts; () for any. pattern: its path matches (re.search).
    only: `kernel` of products, `table` of a vocabulary or of modalities, `undecayed`: norms, biases, scalars.
    how: `full`; `last`, the last k of stacked blocks; `lora`, `dora`: a low-rank update of kernels, scaled by alpha /
      rank; `rows` of tables, names of modalities or ids of a vocabulary; `nothing`, as what no rule takes: kept as
      `store`, float32 or bfloat16. A rule of `last`, `lora`, `dora` or `rows` leaves what has none to the others.
    fresh: where no `config.load` gives what stays, it is what the seed makes of it, which is else refused as forgotten.
    """

    parts: tuple[str, ...] = ()
    how: str = "full"
    pattern: str = ""
    only: str = ""
    k: int = 0
    rank: int = 0
    alpha: float = 0.0
    rows: tuple[int | str, ...] = ()
    store: str = "float32"
    fresh: bool = False

    def __post_init__(self):
        for key, allowed in (("how", WAYS), ("only", ONLY), ("store", ("float32", "bfloat16"))):
            if (value := getattr(self, key)) not in allowed:
                raise ValueError(f"config.train: {key}={value!r}: must be one of {', '.join(filter(None, allowed))}")
        for key in ("k", "rank", "alpha", "rows"):
            value, needed = getattr(self, key), key in WAYS[self.how].needs
            if (value != () if key == "rows" else value > 0) != needed:
                what = "name at least one" if key == "rows" else "must be positive"
                self.fail(f"{key}={value!r}: {what}" if needed else f"{key}={value!r}: such a rule has none")
        if self.store != "float32" and self.how != "nothing":
            self.fail(f"store={self.store!r}: what learns is float32; take how='nothing'")
        if self.fresh and self.how == "full":
            self.fail("fresh=True: nothing of it stays, and what is trained may always start fresh; leave it out")
        try:
            re.compile(self.pattern)
        except re.error as e:
            self.fail(f"no regular expression: {e}")

    def fail(self, problem: str):
        """ValueError that says which rule it is."""
        chosen = [f"{key}={v!r}" for key in ("parts", "pattern", "only", "how") if (v := getattr(self, key))]
        raise ValueError(f"config.train: the rule {', '.join(chosen)}: {problem}")


class Split:
    """The rules of a run, laid out over its parameters `{"model", "objective", "models"}` (arrays or shapes).

    Without rules all is trained. What belongs to objectives, such as a head, always is, whole. Peers follow
    the rules of what they are peers of.
    """

    def __init__(self, rules: tuple[Rule, ...], params, roles: Roles, *, frozen=(), given=(), stored=None):
        """roles: of the parameters. frozen: where paths begin that learn nothing, whatever the rules say. given: where
        paths begin whose values other runs give: what never learns (`Role.fixed`) is there no part of this run.
        stored: {where paths begin: how what lies there is kept} of whole models that others trained."""
        shapes = {path_str(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(params)}
        parts, falls = tuple(params["model"]), {}
        taken = {rule: {p for name in rule.parts for p in parts_called(name, parts)} for rule in rules}
        for rule in rules:
            for name in rule.parts:
                if not parts_called(name, parts):
                    rule.fail(f"the network has no part or tower {name!r}; its parts are {', '.join(parts)}")

        def falls_under(rule, path):
            fits = not rule.parts or part_of(path) in taken[rule]
            able = WAYS[rule.how].serves(rule, roles[path]) and ONLY[rule.only](roles[path])
            return fits and able and re.search(rule.pattern, path)

        for path in (p for p in shapes if part_of(p)):
            falls[path] = next((r for r in rules if falls_under(r, path)), Rule(how="nothing") if rules else Rule())
            if path.startswith(tuple(frozen)) and falls[path].how != "nothing":
                falls[path] = Rule(how="nothing")
            if store := next((store for begin, store in (stored or {}).items() if path.startswith(begin)), ""):
                falls[path] = Rule(how="nothing", store=store)
        for rule in rules:
            if rule not in falls.values():
                rule.fail(
                    "it is the first rule for no parameter of the network that can be trained so; paths look like "
                    f"{next(iter(shapes))!r}, and what belongs to a part with frozen=True stays as it is"
                )
        self.ways: dict[str, Way] = {}
        for path, shape in shapes.items():
            rule = falls.get(path, Rule())
            if roles[path].fixed and path.startswith(tuple(given)):
                rule = rule if rule.how == "nothing" else Rule(how="nothing")
            self.ways[path] = way = WAYS[rule.how](rule, roles[path], shape)
            if problem := way.problem():
                rule.fail(f"{path}: {problem}")
        self.all = not any(way.stays() for way in self.ways.values())
        trained, base = jax.eval_shape(lambda p: (self.trained(p, 0), self.base(p)), params)
        self.roles, self.base_roles = self._roles(trained), self._roles(base)

    def trained(self, params, seed: int):
        """The part that is trained, as it starts out."""
        if self.all:
            return params
        return _pick(params, lambda path, x: self.ways[path].trained(x, named(jax.random.key(seed), path)))

    def base(self, params):
        """The part that stays; nothing where everything is trained."""
        return {} if self.all else _pick(params, lambda path, x: self.ways[path].base(x))

    def compose(self, trained, base=None):
        """trained, base → the parameters of the network, as a step takes them. Differentiable in trained."""
        return trained if self.all else self._join("", trained, {} if base is None else base)

    def whole(self, trained, base=None):
        """trained, base → the parameters of the network in fp32."""
        return jax.tree.map(lambda x: x.astype(jnp.float32), self.compose(trained, base))

    def put(self, trained, params):
        """trained with the values that `params`, of the network, have of it: whole, last blocks or rows."""
        return params if self.all else self._put("", trained, params)

    def stays(self, name: str) -> bool:
        """Whether what is loaded must give a parameter by its path, or `path/row`, a named row of it."""
        path, row = (name, "") if name in self.ways else name.rsplit("/", 1)
        return self.ways[path].stays(row) and not self.ways[path].rule.fresh

    def describe(self, params) -> str:
        """One line: how much is trained how."""
        counts = dict.fromkeys(WAYS, 0)
        for path, x in jax.tree_util.tree_leaves_with_path(params):
            counts[self.ways[path_str(path)].rule.how] += x.size
        trained = sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda p: self.trained(p, 0), params)))
        parts = ", ".join(f"{n / 1e6:.2f}M {how}" for how, n in counts.items() if n)
        return f"{trained / 1e6:.3f}M parameters that learn beside a base ({parts})"

    def _join(self, path, trained, base):
        if path in self.ways:
            return self.ways[path].join(trained, base)
        trained, base = ({} if tree is None else tree for tree in (trained, base))
        keys = {**dict.fromkeys(base), **dict.fromkeys(trained)}
        return {k: self._join(f"{path}/{k}".lstrip("/"), trained.get(k), base.get(k)) for k in sorted(keys)}

    def _put(self, path, trained, params):
        if path in self.ways:
            return self.ways[path].put(trained, params)
        return {k: self._put(f"{path}/{k}".lstrip("/"), v, params[k]) for k, v in trained.items()}

    def _roles(self, tree) -> Roles:
        def role(path, x) -> Role:
            path = path_str(path)
            owner, _, name = path.rpartition("/")
            return self.ways[path].role_of("") if path in self.ways else self.ways[owner].role_of(name)

        return Roles(jax.tree_util.tree_map_with_path(lambda p, x: param(x, **vars(role(p, x))), tree))


def part_of(path: str) -> str:
    """The part of a network that a parameter belongs to; "" of what belongs to an objective."""
    owner, *rest = path.split("/")
    return {"model": rest[0], "models": rest[1] if len(rest) > 1 else ""}.get(owner, "")


def _pick(tree, part, path=""):
    """The tree of `part(path, leaf)`, without the leaves where that is None, and without what they leave empty."""
    if not isinstance(tree, dict):
        return part(path, tree)
    found = {k: _pick(v, part, f"{path}/{k}".lstrip("/")) for k, v in tree.items()}
    # An objective without parameters stays an empty dict, at its place.
    return {k: v for k, v in found.items() if v is not None and (not isinstance(v, dict) or v or not tree[k])}
