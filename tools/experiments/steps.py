"""python -m tools.experiments.steps: do more decoding steps make samples that agree with themselves?

4M's masked objective and its sampler in random order (arXiv 2312.06647) on grids of 16 tokens of 8 values in which
every token is one more or one less than the one before (modulo 8). Tokens that are drawn in one step do not see each
other. The share of 512 samples, made from nothing, that keep the rule throughout; one network a seed for all numbers of
steps.
"""

import numpy as np

from pretrain.generate.chain import Generator, Target
from tools.experiments.common import Experiment, Gate, finish, options

# Of 4 values the rule would be one of parity alone, which the first token settles for all others.
VALUES, SIDE, SAMPLES, STEPS = 8, 4, 512, (1, 4, 8, 12, 16)
NAMES = {n: f"{n} step{'s' * (n > 1)}" for n in STEPS}
SIZES = dict(steps=(2000, 2, "of training"), batch=(128, 16, "examples a step"), seeds=(3, 2, "how many"))
GATES = tuple(
    Gate(f"{b} steps beat {a}", "consistent", NAMES[b], NAMES[a]) for a, b in ((1, 4), (4, 8), (8, 16))
)  # fmt: skip


def config(steps: int, batch: int) -> dict:
    walk = dict(name="walk", kind="grid", shape=(SIDE, SIDE), field="walk", vocab="walk", vocab_size=VALUES)
    every = dict(walk=1.0)
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"), modalities=[walk | dict(tokenizer="none")],
        model=dict(dim=64, heads=4, encoder_depth=2, decoder_depth=2, embed_dim=8, dtype="float32"),
        objectives=dict(
            masked=dict(
                input_tokens=(0, 15), target_tokens=(16, 16), loss="token_mean",
                mixture=[dict(inputs=every, targets=every)],
            )
        ),
        optim=dict(lr=2e-3, warmup=steps // 10),
    )  # fmt: skip


def walks(seed: int, count: int = 16384) -> dict:
    """Data of random walks `[count, 16]`."""
    rng = np.random.default_rng(seed)
    moves = rng.choice((-1, 1), size=(count, SIDE**2))
    ids = (rng.integers(VALUES, size=(count, 1)) + moves.cumsum(1)) % VALUES
    walk = {"ids": ids[:, None].astype(np.int16), "valid": np.ones((count, 1, SIDE**2), bool)}
    return {"row": np.arange(count)[:, None], "walk": walk}


def consistent(ids) -> float:
    """The share of walks `[n, 16]` in which every step is ±1."""
    moves = np.diff(np.asarray(ids, int), axis=1) % VALUES
    return float(np.isin(moves, (1, VALUES - 1)).all(1).mean())


def measure(steps=2000, batch=128, seeds=3) -> dict:
    """{number of decoding steps: [score of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {name: [] for name in NAMES.values()}
    for seed in range(seeds):
        params, _ = experiment.train(walks(seed), seed)
        make = Generator(experiment.graph, params["model"], experiment.run.modalities)
        for n, name in NAMES.items():
            made = make({"row": np.arange(SAMPLES)}, [], [Target("walk", steps=n)], seed=seed)
            results[name].append({"consistent": consistent(made["walk"]["ids"])})
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"share of {SAMPLES} samples that keep the rule; {args.steps} steps of {args.batch}"
    finish("steps", args, title, results, systems=[51, 39], control=NAMES[1], gates=GATES)


if __name__ == "__main__":
    main()
