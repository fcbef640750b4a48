"""Roles: what optimizer, sharding and loading do with a parameter, said where it is made.

A role is metadata of the parameter's variable; nothing of it is on disk. A run reads the roles of all its parameters
once, and what the optimizer and the average keep of one takes its role.
"""

import dataclasses

import jax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Role:
    """What is done with one parameter; dimensions count from the last, so that stacking leaves them true.

    decay: whether weight decay draws it to zero.
    matrix: a product's kernel `[…, d_in, d_out]`: Muon steps it as one.
    split: the dimension that `tensor` may split, -1 or -2; 0 for none.
    rows: the names of its first dimension's rows, which are found by them when another model is loaded.
    vocab: the vocabulary whose ids number its rows.
    resize: how it takes on another length: `linear`, rows of a line, `grid`, rows of a square grid, "" not at all.
    stacked: it has a leading axis, one entry a block.
    depth: how many blocks lie between it and the output, itself included, where `optim.layer_decay` counts them: of
      what is stacked, of the first block; 0 for what is not scaled.
    fixed: it never learns; statistics: no gradient changes it, but an objective's `update`.
    anew: it starts anew where a model that is loaded has none, such as an adapter or one more expert, or one of another
      size, such as a projection.
    """

    decay: bool = True
    matrix: bool = False
    split: int = 0
    rows: tuple[str, ...] = ()
    vocab: str = ""
    resize: str = ""
    stacked: bool = False
    depth: int = 0
    fixed: bool = False
    statistics: bool = False
    anew: bool = False


def param(value, **role) -> nnx.Param:
    """A parameter and its role."""
    return nnx.Param(value, role=Role(**role))


def undecayed(value, **role) -> nnx.Param:
    """A parameter that weight decay leaves alone: a norm's, a bias, a scalar."""
    return param(value, decay=False, **role)


def mark(module, **changes):
    """Changes the roles of all parameters of a module, of a tree of them, or of one; gives it back."""
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Variable):
            node.set_metadata(role=dataclasses.replace(node.get_metadata()["role"], **changes))
    return module


def variables(module) -> dict:
    """The parameters of a module as a nested dict, roles and all: what an objective's `init` may give."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param), extract_fn=lambda variable: variable)


def values(tree):
    """A nested dict of parameters as one of plain arrays."""
    return jax.tree.map(lambda p: p[...], tree, is_leaf=is_variable)


def is_variable(x) -> bool:
    return isinstance(x, nnx.Variable)


def path_str(path) -> str:
    """`model/encoder/attn/qkv/kernel` of a pytree key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parts_called(name: str, parts) -> tuple[str, ...]:
    """The parts that a config means by a name: the one called so, or those of a tower, `NAME_embed` and the like."""
    return (name,) if name in parts else tuple(p for p in parts if p.rpartition("_")[0] == name)


class Roles:
    """{path: Role} of the parameters of a run, `{"model", "objective"}`."""

    def __init__(self, params):
        """params: a tree of parameters (or of their shapes) with their roles."""
        flat = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_variable)
        self._roles = {path_str(path): p.get_metadata()["role"] for path, p in flat}
        self._shapes = {path_str(path): p.shape for path, p in flat}

    def __getitem__(self, path: str) -> Role:
        return self._roles[path]

    def items(self):
        return self._roles.items()

    def owner(self, path: str) -> str:
        """The path of the parameter whose path ends that of an array of the train state; "" if none does."""
        parts = path.split("/")
        return next((p for i in range(len(parts)) if (p := "/".join(parts[i:])) in self._roles), "")

    def of(self, path: str, shape) -> Role | None:
        """The role of an array of the train state: its owner's. None of what has another shape, such as the rows of a
        factored moment; of what nobody owns the usual one."""
        owner = self.owner(path)
        if not owner:
            return Role()
        return self._roles[owner] if self._shapes[owner] == tuple(shape) else None

    @property
    def still(self) -> frozenset:
        """The paths of what no optimizer changes."""
        return frozenset(path for path, role in self.items() if role.fixed or role.statistics)
