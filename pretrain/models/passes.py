"""Passes through a network: trees of frozen nodes, compared by value, of which each is computed once.

An objective says what it needs as nodes; the step gathers the nodes of all objectives and evaluates them together. Two
objectives that read the same encoder output share it, whatever else they do with it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pretrain.ops.keys import named

ONLINE = "online"  # the model that learns


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Data of a batch: what a corruption makes of it, or one `item` of that.

    make: a corruption, make(batch, keys) → a tree of arrays with the leading axis B; keys `[B]`, one an example.
    Corruptions that are equal are drawn once.
    """

    make: Callable
    item: str = ""


@dataclasses.dataclass(frozen=True)
class Constant:
    """Data that are no example's, such as the texts of classes: computed once a step, whatever the batch.

    make: make() → a tree of arrays with a leading axis of rows of its own.
    """

    make: Callable


@dataclasses.dataclass(frozen=True)
class Call:
    """The output of a part of a network for arguments that are nodes; `options` are static.

    noise: the name of what a part draws at random: the same part with another one draws anew.
    model: which of the models it is a part of.
    """

    part: str
    args: tuple
    options: tuple = ()
    noise: str = ""
    model: str = ONLINE


def call(part: str, *args, noise: str = "", model: str = ONLINE, **options) -> Call:
    """The node of a part's output; options that are None are left out."""
    given = tuple(sorted((k, v) for k, v in options.items() if v is not None))
    return Call(part, args, given, noise, model)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a part is told beside its arguments.

    network: the network that it is a part of. keys `[B]`: one an example, of this call. layers: whether somebody wants
    what every block gave (`Stream.layers`). edit: what an evaluation changes inside of it (`models.edits`).
    """

    network: Any
    keys: Any = None
    layers: bool = False
    edit: Callable | None = None


def leaves(nodes) -> list[Leaf]:
    """All leaves below some nodes, each once."""
    return [n for n in ordered(nodes) if isinstance(n, Leaf)]


def ordered(nodes, known=()) -> list:
    """All nodes below some, themselves included, each once and behind its arguments; known: where to stop."""
    found = {}

    def visit(node):
        if node not in found and node not in known:
            for below in node.args if isinstance(node, Call) else ():
                visit(below)
            found[node] = None

    for node in nodes:
        visit(node)
    return list(found)


def constant(node) -> bool:
    """Whether a node depends on no example: on parameters and constants alone."""
    return isinstance(node, Constant) or (isinstance(node, Call) and all(map(constant, node.args)))


def constants(nodes) -> list[Call]:
    """The outputs that depend on no example, of those below some nodes that are asked for or read by what does."""
    read_by = [a for n in ordered(nodes) if not constant(n) and isinstance(n, Call) for a in n.args]
    return [n for n in dict.fromkeys([*nodes, *read_by]) if isinstance(n, Call) and constant(n)]


def draw(nodes, batch, keys) -> dict:
    """{corruption: what it makes of the batch} of all leaves below some nodes."""
    with jax.named_scope("corruption"):
        return {make: make(batch, keys) for make in dict.fromkeys(leaf.make for leaf in leaves(nodes))}


def read(leaf: Leaf | Constant, data: dict):
    """The value of data, of an example in what `draw` gave."""
    if isinstance(leaf, Constant):
        return leaf.make()
    return data[leaf.make][leaf.item] if leaf.item else data[leaf.make]


def evaluate(nodes, models: dict, data: dict, keys=None, *, layers=(), known=None) -> dict:
    """{node: value} of all nodes below some, each computed once.

    models: {name: Network}; data: of `draw`; keys `[B]`: one an example, where parts draw. layers: the nodes of which
    what every block gave is wanted too. known: {node: value} of what need not be computed.
    Calls of one part whose arguments have the same shapes run as one, their examples side by side, if what they read
    beside examples is the same.
    """
    every = ordered(nodes, known := known or {})
    values = known | {n: read(n, data) for n in every if not isinstance(n, Call)}
    open_calls = [n for n in every if isinstance(n, Call)]
    wanted = {*layers, *(n.args[0] for n in open_calls if models[n.model].reads_layers(n))}
    while open_calls:
        ready = [n for n in open_calls if all(a in values for a in n.args)]
        groups = {}
        for n in ready:
            args = tuple(values[a] for a in n.args)
            shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(args))
            shared = n if constant(n) else tuple(a for a in n.args if constant(a))
            alike = n.model, n.part, n.options, jax.tree.structure(args), shapes, shared
            groups.setdefault(alike, []).append((n, args))
        for members in groups.values():
            values |= _together(members, models, keys, wanted)
        done = set(ready)
        open_calls = [n for n in open_calls if n not in done]
    return values


def compute(network, nodes: dict, batch, *, layers=()) -> dict:
    """{key: value} of {key: node} for a batch, outside a train step: nothing is drawn at random. layers: as in
    `evaluate`."""
    values = evaluate(nodes.values(), {ONLINE: network}, draw(nodes.values(), batch, None), layers=layers)
    return {key: values[node] for key, node in nodes.items()}


def _together(members, models, keys, wanted) -> dict:
    """{node: value} of calls of one part with arguments of the same shapes."""
    (first, given), k = members[0], len(members)
    each = None
    if keys is not None:
        rows = _keys_of_rows(keys, given) if constant(first) else keys
        each = [named(rows, "part", n.model, n.part, *filter(None, (n.noise,))) for n, _ in members]
    # Interleaved [B, k] → [B·k], so that a sharded batch axis stays where it is.
    join = lambda *x: x[0] if k == 1 else jnp.stack(x, 1).reshape(-1, *x[0].shape[1:])
    every = zip(*(args for _, args in members))
    args = [a[0] if constant(n) else jax.tree.map(join, *a) for n, a in zip(first.args, every)]
    layers = any(n in wanted for n, _ in members)
    out = models[first.model].run(first.part, *args, keys=each and join(*each), layers=layers, **dict(first.options))
    if k == 1:
        return {first: out}
    apart = [jax.tree.map(lambda x, i=i: x.reshape(-1, k, *x.shape[1:])[:, i], out) for i in range(k)]
    return {n: value for (n, _), value in zip(members, apart)}


def _keys_of_rows(keys, args):
    """One key for each row of arguments that are no example's."""
    rows = jax.tree.leaves(args)[0].shape[0] if args else 1
    return jax.vmap(lambda i: jax.random.fold_in(named(keys[0], "constant"), i))(jnp.arange(rows))
