"""python -m tools.experiments.skillnet: is one model with a skill for each modality as good as a model a task?

Four modalities of two tokens each, random two-layer networks of one normal latent, plus noise; three tasks, each to
retrieve one of them by the first, `t`, under softmax InfoNCE. Held out: R@1 among 512, the mean of both directions, of
every task and over all three.
`SkillNet` (arXiv 2205.06126): one stack, attention common, an MLP for each modality (`models.parts.skills`).
`a model a task`: three networks, each with an encoder for each of its two modalities, and as many steps.
`dense, equal active`: one stack, one MLP as wide as a skill; `dense, equal total`: one as wide as all skills together.
`SkillNet, a skill of all`: half as wide, a token takes that of its modality and one that all have.
Thousands of parameters of encoders beside each: all there are, and those that a token passes through.
Noise, number of tokens and learning rate are such that `dense, equal active` reaches about half on one seed: no other
condition was looked at to choose them.
"""

import importlib

import jax
import numpy as np

from pretrain.parameters import path_str
from tools.experiments.common import Experiment, Gate, finish, options, recall_at_1

NAMES, ROWS, WIDTH, LATENT, NOISE = ("t", "i", "s", "v"), 2, 16, 12, 0.3
EDGES = [("t", n) for n in NAMES[1:]]
RATIO = 2.0  # of an MLP's width to the stack's
ALL = [dict(name=n, modalities=[n]) for n in NAMES] + [dict(name="all", modalities=NAMES)]
ENCODERS = {
    "SkillNet": dict(part="skills", mlp_ratio=RATIO),
    "a model a task": dict(part="encoder", mlp_ratio=RATIO),
    "dense, equal active": dict(part="encoder", mlp_ratio=RATIO),
    "dense, equal total": dict(part="encoder", mlp_ratio=RATIO * len(NAMES)),
    "SkillNet, a skill of all": dict(part="skills", mlp_ratio=RATIO / 2, skills=ALL),
}
CONTROL = "a model a task"


def examples(seed: int, sizes=(4096, 512)):
    """(train, held out) of all modalities."""
    rng = np.random.default_rng(seed)
    latent, data = rng.normal(size=(sum(sizes), LATENT)), {}
    for name in NAMES:
        hidden = np.tanh(latent @ rng.normal(size=(LATENT, 64)) / LATENT**0.5)
        x = hidden @ rng.normal(size=(64, ROWS * WIDTH)) / 8 + NOISE * rng.normal(size=(len(latent), ROWS * WIDTH))
        x = x.astype(np.float32).reshape(-1, 1, ROWS, WIDTH)
        data[name] = {"vectors": x, "valid": np.ones(x.shape[:3], bool)}
    data["row"] = np.arange(len(latent))[:, None]
    return [jax.tree.map(lambda x, at=at: x[at], data) for at in (slice(sizes[0]), slice(sizes[0], None))]


def config(condition: str, edges, steps: int, batch: int):
    """One network for the tasks `edges`; of the control an encoder for each modality."""
    names = [n for n in NAMES if any(n in edge for edge in edges)]
    sizes = dict(dim=32, heads=4, depth=2, embed_dim=32, batch_size=batch, steps=steps)
    optim = dict(lr=6e-3, warmup=steps // 10, weight_decay=0.05)
    system = importlib.import_module("configs.systems.skillnet")
    c = system.one_model([system.rows(n, ROWS, WIDTH) for n in names], edges, **sizes, optim=optim)
    c.data, c.evals, c.final_evals, c.model.dtype = dict(source="none"), {}, {}, "float32"
    c.model.parts.encoder.update(ENCODERS[condition])
    parts = c.model.parts.to_dict()
    if condition == CONTROL:
        c.model.parts = {f"{part}_{n}": at(config, n) for n in names for part, config in parts.items()}
    else:
        c.model.parts = parts
    return c


def at(part: dict, modality: str) -> dict:
    """A part of the network of one modality alone."""
    return part | dict(reads=[f"{r}_{modality}" for r in part.get("reads", ())] or [modality])


def sizes(params, names) -> dict:
    """Thousands of parameters of the encoders, and of what a token of the first modality passes through."""
    leaves = {path_str(k): x.size / 1000 for k, x in jax.tree_util.tree_leaves_with_path(params["model"])}
    encoders = {k: n for k, n in leaves.items() if k.startswith("encoder")}
    others = [f"/skills/each/{n}/" for n in names[1:]] + [f"encoder_{n}/" for n in names[1:]]
    active = {k: n for k, n in encoders.items() if not any(o in k for o in others)}
    return {"parameters": sum(encoders.values()), "active": sum(active.values())}


def measure(steps=300, batch=128, seeds=6, conditions=tuple(ENCODERS)) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in conditions:
        tasks = [[edge] for edge in EDGES] if name == CONTROL else [EDGES]
        made, results[name] = [(edges, Experiment(config(name, edges, steps, batch))) for edges in tasks], []
        for seed in range(seeds):
            train, held_out = examples(seed)
            scores, counts = {}, []
            for edges, experiment in made:
                params, _ = experiment.train(train, seed)
                z = experiment.embeddings(params, held_out)
                scores |= {f"R@1 of {b}": recall_at_1(z[a], z[b]) for a, b in edges}
                counts.append(sizes(params, [m.name for m in experiment.run.modalities]))
            counts = {"parameters": sum(c["parameters"] for c in counts), "active": counts[0]["active"]}
            results[name].append({"R@1": sum(scores.values()) / len(scores)} | scores | counts)
    return results


SIZES = dict(steps=(300, 4, "of training"), batch=(128, 16, "examples a step"), seeds=(6, 2, "how many"))
GATES = (Gate("one SkillNet is at most a point below a model a task", "R@1", "SkillNet", CONTROL, bound=-0.01),)


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"R@1 among 512; {args.steps} steps of {args.batch}; thousands of parameters"
    finish("skillnet", args, title, results, systems=[36], control=CONTROL, gates=GATES)


if __name__ == "__main__":
    main()
