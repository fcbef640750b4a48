"""Floating-point operations of the matrix products in a traced function; of a run's step."""

import dataclasses
import math

import jax
from jax.extend import core

from pretrain import build
from pretrain.models.parts.base import SCORES
from pretrain.models.passes import Call, draw, ordered, read
from pretrain.restore import init_function
from pretrain.step import evaluate_objectives, example_keys

PLAIN = {"remat": "none", "attention": "xla"}


def matmul_flops(jaxpr, loops: float = 0.0) -> float:
    """2·M·N·K of every `dot_general` and convolution, those of a scan as often as it runs.

    loops: how often a `while` whose length is known only at run time counts.
    """
    total = 0.0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            k = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
            total += 2.0 * k * math.prod(eqn.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / out_channels
        else:
            inside = [matmul_flops(body, loops) for body in _bodies(eqn)]
            times = {"scan": eqn.params.get("length", 1), "while": loops}.get(name, 1)
            total += times * (max(inside, default=0.0) if name == "cond" else sum(inside))
    return total


def _bodies(eqn):
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
                yield item


def model_flops(run: build.Run, example) -> float:
    """Operations that one step's learning takes, forward and backward, over the whole batch.

    What rematerialisation or an objective's second pass repeats does not count, as in PaLM's MFU (arXiv 2204.02311,
    appendix B). Of the targets of a masked objective, whose vocabularies only the data tell, every modality is taken
    to have the same share. example: one of the pipeline, arrays or shapes.
    """
    run = dataclasses.replace(run, accum=1, model=_plain(run.model))
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, run.seed)
    params = jax.eval_shape(init)
    split = build.split(run, params, init.roles)

    def loss(trained, base, batch):
        keys = example_keys(0, 0, run.batch_size)
        return evaluate_objectives(graphs, split.compose(trained, base), objectives, batch, keys, train=True)[0]

    trained, base = jax.eval_shape(lambda p: (split.trained(p, 0), split.base(p)), params)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((run.batch_size, *x.shape), x.dtype), example)
    traced = matmul_flops(jax.make_jaxpr(jax.grad(loss))(trained, base, batch))
    return traced + sum(_head_flops(run, o, batch) for o in objectives.values())


def _plain(model: dict) -> dict:
    """Nothing computed twice, and no kernel, whose products are not in the program."""
    return {
        k: _plain(v) if isinstance(v, dict) else PLAIN[k] if k in PLAIN and isinstance(v, str) else v
        for k, v in model.items()
    }


def _head_flops(run, objective, batch) -> float:
    """Logits of the targets and their gradients: their loops over tiles have no length in the program."""
    network, total = build.states(run), 0.0
    vocabs = [m.vocab_size for m in run.modalities if m.targets]
    keys = jax.eval_shape(lambda: example_keys(0, 0, run.batch_size))
    for node in ordered(objective.passes(train=True).values()):
        if isinstance(node, Call) and network[node.part].gives == SCORES:
            decoder, labels = node.args
            tokens = jax.eval_shape(lambda b, k, leaf=labels: read(leaf, draw((leaf,), b, k)), batch, keys).size
            # One product forward, two backward; that the backward pass makes the logits again does not count.
            total += 3 * 2.0 * network[decoder.part].dim * tokens * sum(vocabs) / len(vocabs)
    return total
