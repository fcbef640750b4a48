"""python -m tools.export --workdir=DIR --out=DIR: weights for PyTorch, and a check that it computes the same.

Writes model.safetensors, config.json and tokenloom_torch.py, the module that loads them. Where torch is installed,
64 held-out examples go through both and the largest absolute differences are printed; above the tolerance it fails.
Heads of fine-tuned networks go with them, low-rank updates inside the matrices, adapters and prompts as they are.
"""

import argparse
import dataclasses
import importlib.util
import os
import sys

import jax
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.evals.base import Context
from pretrain.finite import furthest
from pretrain.interop.torch import export
from pretrain.models.network import Network
from pretrain.models.passes import Call, Leaf, draw, evaluate, leaves, ordered, read
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Whole
from pretrain.restore import Restored, restore
from pretrain.step import example_keys


def compare(restored: Restored, folder, examples: int = 64) -> dict[str, float]:
    """Largest |JAX − PyTorch| of logits, embeddings and what heads say over test examples, both in fp32."""
    spec = importlib.util.spec_from_file_location("tokenloom_torch", f"{folder}/tokenloom_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs, graph = module.load(folder), fp32_graph(restored)
    context = Context(restored.run, restored.graphs, restored.objectives)
    split = (*context.held_out, restored.run.data.train)[max(len(context.held_out) - 1, 0)]
    batch = next(context.batches(split, examples))
    batch = jax.tree.map(lambda x: x[batch["row"] >= 0], batch)
    head = context.network.predicts
    masked = next((p for o in restored.objectives.values() if head in _called(p := o.passes(train=False))), None)
    if masked is None and not theirs.predictors:
        raise ValueError("the run has neither a masked objective nor a head, of whose outputs the two are compared")
    worst = _compare_trunk(restored, graph, theirs, masked, batch) if masked else {}
    for name in theirs.predictors:
        worst[f"head/{name}"] = _compare_head(restored, graph, theirs, name, batch)
    return worst


def check_agreement(worst: dict[str, float], tolerance: float):
    """ValueError unless something was compared, all of it is finite, and nothing differs by more than the tolerance."""
    apart = [f"{name} by {d:.1e}" for name, d in worst.items() if not d <= tolerance]
    if apart or not worst:
        raise ValueError(
            f"PyTorch differs from JAX by more than {tolerance:.0e}: {', '.join(apart) or 'nothing compared'}"
        )


def _called(passes: dict) -> set[str]:
    """The parts that are called."""
    return {node.part for node in ordered(passes.values()) if isinstance(node, Call)}


def _compare_trunk(restored, graph, theirs, passes, batch) -> dict[str, float]:
    """passes: of an objective that masks; compared on what it masks of the batch."""
    import torch

    data = draw(passes.values(), batch, example_keys(0, 0, len(batch["row"])))
    made = {leaf.item: read(leaf, data) for leaf in leaves(passes.values())}
    shown, queries = made["inputs"], made["queries"]
    (inputs, dense), queries = shown, queries.tokens

    @jax.jit
    def ours(params):
        network = nnx.merge(graph, params)
        model, states = Predictor(network), network.states
        encoded = model.encode(shown)
        y = model.decode(encoded, queries).x
        logits = {v: model.logits(y, v) for v in model.vocabularies}
        pooled = network.run(states.pools(model.encoder), encoded)
        return logits, {name: network.run("project", pooled, modality=name) for name in network.embedded}

    logits, z = jax.device_get(ours(restored.params["model"]))
    worst = {}
    with torch.no_grad():
        x_t = theirs.encode(*_tensors(inputs), {n: torch.from_numpy(np.array(x)) for n, x in dense.items()})
        y_t = theirs.decode(x_t, _tensors(inputs), _tensors(queries))
        valid = np.asarray(queries.valid)
        for vocab in theirs.vocabs:
            if valid.any():
                worst[f"logits/{vocab}"] = furthest(logits[vocab][valid], theirs.logits(y_t, vocab).numpy()[valid])
        for name in z:
            said = theirs.embed(x_t, _tensors(inputs), name).numpy()
            worst[f"embedding/{name}"] = furthest(z[name], said)
    return worst


def _compare_head(restored, graph, theirs, name: str, batch) -> float:
    import torch

    objective = restored.objectives[name]
    leaf = Leaf(Whole(objective.inputs, objective.context.modalities))
    shown = leaf.make(batch)

    @jax.jit
    def ours(params):
        network = nnx.merge(graph, params["model"])
        passes = objective.passes(train=False)
        node = passes[objective.reads]
        values = evaluate((node,), {"online": network}, {leaf.make: shown})
        return objective.predict(params["objective"][name], values[node])

    inputs, dense = _tensors(shown.tokens), {n: torch.from_numpy(np.array(x)) for n, x in shown.dense.items()}
    with torch.no_grad():
        said = theirs.predict(theirs.encode(*inputs, dense), inputs, name).numpy()
    present = np.asarray(shown.tokens.valid).any(1)
    return furthest(np.asarray(ours(restored.params))[present], said[present])


def _tensors(tokens):
    import torch

    return tuple(torch.from_numpy(np.asarray(f).astype(bool if f.dtype == bool else np.int64)) for f in tokens)


def fp32_graph(restored: Restored):
    """The graph of the same network computing in fp32."""
    model, config = restored.model, dataclasses.replace(build.model_config(restored.run), dtype="float32")
    return nnx.split(nnx.eval_shape(lambda: Network(config, model.modalities, model.embedded, nnx.Rngs(0))))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=os.path.expanduser, required=True)
    parser.add_argument("--out", type=os.path.expanduser, required=True)
    parser.add_argument("--step", type=int, help="which checkpoint; the newest if not given")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    restored = restore(args.workdir, args.step)
    folder = export(restored, args.out)
    print(f"wrote {folder}: model.safetensors, config.json, tokenloom_torch.py")
    if importlib.util.find_spec("torch") is None:
        print("skipped the comparison with PyTorch: torch is not installed (`make quickstart EXTRAS=torch`)")
        return
    worst = compare(restored, folder)
    for name, difference in worst.items():
        print(f"{name}: max |JAX − PyTorch| = {difference:.1e}")
    try:
        check_agreement(worst, args.tolerance)
    except ValueError as e:
        sys.exit(str(e))
    print(f"PyTorch and JAX agree to {args.tolerance:.0e}")


if __name__ == "__main__":
    main()
