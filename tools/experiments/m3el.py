"""python -m tools.experiments.m3el: do negatives of the same modality tell near duplicates apart?

M3EL (arXiv 2412.10440, `configs/systems/m3el.py`) in small. 64 families of 8 entities, near duplicates: latent vectors
that share a centre. Of an entity and of each of its mentions there is a text and a picture, of four tokens each: random
nonlinear views of parts of its latent, with noise, another network for mentions than for entities. Trained on eight
mentions of each entity by the scores of the whole and its tokens alone, or beside InfoNCE with negatives across alone,
or with those of the same modality, too (M3EL). Held out, another mention of each: how often its entity is first of all
512 by the mean score, its mean reciprocal rank, and how often any of its family is first.
"""

import importlib

import jax
import numpy as np

from pretrain.evals.metrics import ranks
from pretrain.models.passes import compute
from pretrain.objectives.global_local import mean_score
from tools.experiments.common import Experiment, Gate, finish, options

SCORES, ACROSS, M3EL = "scores alone", "negatives across alone", "M3EL"
CONDITIONS = {SCORES: None, ACROSS: dict(target="identity"), M3EL: dict(target="intra_modal")}
SIZES = dict(steps=(200, 4, "of training"), batch=(128, 16, "pairs a step"), seeds=(6, 2, "how many"))
GATES = (Gate("M3EL finds the own entity first more often than with negatives across alone", "Hit@1", M3EL, ACROSS),)
FAMILIES, EACH, MENTIONS, TOKENS = 64, 8, 8, 4
LATENT, WIDTH, APART, NOISE = 12, 64, 0.15, 0.6
EDGES = [dict(a="mention", b="entity"), dict(a="mention_image", b="entity_image")]
READS = dict(image=["mention_image", "entity_image"], text=["mention", "entity"])


def links(seed: int) -> tuple:
    """(data to train with, `[entities, mentions, …]`, data of one more mention of each)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(FAMILIES, 1, LATENT))
    latent = (centres + APART * rng.normal(size=(FAMILIES, EACH, LATENT))).reshape(-1, LATENT)
    views = {}
    for name in (n for names in READS.values() for n in names):
        # What tokens say: each a part of the latent, the same of mentions and of entities.
        masks = np.random.default_rng([seed, "image" in name]).random((TOKENS, LATENT)) < 0.5
        first, last = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH)))
        x = np.tanh((latent[:, None] * masks) @ first) @ last
        x = np.repeat(x[:, None], MENTIONS + 1, 1)
        noise = rng.normal(size=x.shape) * x.std() * NOISE
        views[name] = (x + (noise if name.startswith("mention") else noise[:, :1])).astype(np.float32)
    valid = np.ones((len(latent), MENTIONS + 1, TOKENS), bool)
    data = {name: {"vectors": x, "valid": valid} for name, x in views.items()}
    data["row"] = np.arange(len(latent))[:, None].repeat(MENTIONS + 1, 1)
    return jax.tree.map(lambda x: x[:, :MENTIONS], data), jax.tree.map(lambda x: x[:, MENTIONS:], data)


def config(condition: str, steps: int, batch: int) -> dict:
    system, sizes = importlib.import_module("configs.systems.m3el"), dict(dim=64, heads=4, depth=1)
    parts = system.parts(dict(image=sizes, text=sizes), READS, 32)
    for name in READS:
        parts[f"{name}_embed"].update(cls=False)
        parts[f"{name}_pool"].update(how="mean")
    losses = system.objectives(EDGES, dim=32)
    if CONDITIONS[condition] is None:
        del losses["contrastive"]
    else:
        losses["contrastive"]["target"] = CONDITIONS[condition]
    spec = dict(kind="vectors", shape=(TOKENS, WIDTH), targets=False)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, field=n, **spec) for names in READS.values() for n in names],
        model=dict(model="models.network", dtype="float32", parts=parts),
        objectives=losses, optim=dict(lr=1e-3, warmup=steps // 10),
    )  # fmt: skip


def scores(experiment: Experiment, params, held_out) -> np.ndarray:
    """`[mentions, entities]`: the mean of those of texts and of pictures."""
    one = experiment.objectives["global_local"]
    outputs = compute(experiment.model(params), one.passes(False), jax.tree.map(lambda x: x[:, 0], held_out))
    return np.asarray(mean_score(*zip(*one.sides(params["objective"]["global_local"], outputs).values())))


def measure(steps=200, batch=128, seeds=6, conditions=tuple(CONDITIONS)) -> dict:
    """{condition: [scores of every seed]}."""
    results, family = {}, np.arange(FAMILIES).repeat(EACH)
    for name in conditions:
        experiment, results[name] = Experiment(config(name, steps, batch)), []
        for seed in range(seeds):
            train, held_out = links(seed)
            params, _ = experiment.train(train, seed)
            found = scores(experiment, params, held_out)
            rank = ranks(found)
            results[name].append({
                "Hit@1": float((rank == 1).mean()), "MRR": float((1 / rank).mean()),
                "family": float((family[found.argmax(1)] == family).mean()),
            })  # fmt: skip
            print(name, seed, {k: round(v, 3) for k, v in results[name][-1].items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Entities found among {FAMILIES * EACH} after {args.steps} steps of {args.batch}"
    finish("m3el", args, title, results, systems=[34], control=ACROSS, gates=GATES)


if __name__ == "__main__":
    main()
