"""python -m tools.experiments.irra: are similarities to be compared with equal identities, and by which divergence?

Similarity-distribution matching (IRRA, arXiv 2303.12501, `configs/systems/irra.py`) in small: 64 identities, each a
latent vector; a picture and a text of one are two random nonlinear views of it, each with a deviation of its own, so
that pictures and texts of one identity go together as well as any. A batch has about four pairs of each. At the
published temperature of .02: cross-entropy from the own pair (ITC), cross-entropy from all of the identity, and SDM,
the reverse divergence. Held out: of 128 other identities with four pairs each, how often the picture nearest to a text
is of its identity.
"""

import numpy as np

from tools.experiments.common import Experiment, Gate, finish, options, pairs, vectors

OWN, SOFT, SDM = "own pairs (ITC)", "equal identities, cross-entropy", "equal identities, reverse KL (SDM)"
EQUAL = dict(target=dict(target="labels", label="id"))
CONDITIONS = {OWN: {}, SOFT: EQUAL, SDM: EQUAL | dict(divergence="reverse_kl")}
SIZES = dict(
    steps=(300, 4, "of training"), batch=(256, 16, "pairs a step"), identities=(64, 8, "to learn from"),
    each=(64, 8, "pairs of each"), seeds=(8, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("SDM is above own pairs", "R@1", SDM, OWN),
    Gate("SDM is no worse than cross-entropy from equal identities", "R@1", SDM, SOFT),
)
LATENT, WIDTH, SPREAD, HELD_OUT = 12, 64, 0.6, (128, 4)


def people(seed: int, identities: int, each: int) -> tuple:
    """(train, held out, the identities held out): data of pictures `a`, texts `b` and labels `id`, none of whose
    identities is in both."""
    rng = np.random.default_rng(seed)
    who = np.concatenate([np.arange(identities).repeat(each), identities + np.arange(HELD_OUT[0]).repeat(HELD_OUT[1])])
    latent, views = rng.normal(size=(identities + HELD_OUT[0], LATENT))[who], {}
    for name in "ab":
        seen = latent + SPREAD * rng.normal(size=latent.shape)
        hidden = np.tanh(seen @ rng.normal(size=(LATENT, WIDTH)) / LATENT**0.5)
        views[name] = hidden @ rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
    known = who < identities
    found = tuple(vectors(**{n: x[part] for n, x in views.items()}) for part in (known, ~known))
    labels = who[known].astype(np.int16)[:, None, None]
    return found[0] | {"id": {"ids": labels, "valid": np.ones_like(labels, bool)}}, found[1], who[~known]


def config(condition: str, steps: int, batch: int, identities: int) -> dict:
    how = dict(edges=[dict(a="a", b="b")], temperature=0.02, learn="fixed", directions="sum")
    made = pairs(
        dict(contrastive=how | CONDITIONS[condition]), steps=steps, batch=batch, depth=1, embed_dim=32, width=WIDTH
    )
    return made | dict(labels=[dict(name="id", kind="labels", shape=(1,), field="id", vocab_size=identities)])


def nearest(texts, pictures, who) -> float:
    """How often the picture nearest to a text is of its identity."""
    return float((who[(texts @ pictures.T).argmax(1)] == who).mean())


def measure(steps=300, batch=256, identities=64, each=64, seeds=8) -> dict:
    """{condition: [scores of every seed]}."""
    results = {}
    for name in CONDITIONS:
        experiment, results[name] = Experiment(config(name, steps, batch, identities)), []
        for seed in range(seeds):
            train, held_out, who = people(seed, identities, each)
            params, _ = experiment.train(train, seed)
            z = experiment.embeddings(params, held_out)
            results[name].append({"R@1": nearest(z["b"], z["a"], who)})
        print(name, [round(run["R@1"], 3) for run in results[name]], flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.identities, args.each, args.seeds)
    count, pairs_each = HELD_OUT
    title = f"R@1 of identities from texts, {count} with {pairs_each} pairs each; {args.steps} steps of {args.batch}"
    finish("irra", args, title, results, systems=[50], control=OWN, gates=GATES)


if __name__ == "__main__":
    main()
