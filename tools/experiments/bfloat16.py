"""python -m tools.experiments.bfloat16 --tokens=DIR: does training in bfloat16 follow the fp32 curve?

`configs/emoji.py` (masked and contrastive) and `configs/fourm_tiny.py` (4M's blocks, masked alone) in both types of
`model.dtype`, each seed with the same initial parameters, batches and masks in both. A curve is the mean training loss
of each sixth of the run. `apart`: the largest distance, over the sixths, of a curve in bfloat16 from its seed's in
fp32; of one in fp32 from the mean of the other seeds'. DIR: a token store of `tools.tokenize`.
"""

import importlib

import numpy as np

from tools.experiments.common import Experiment, Gate, encoded, finish, options

CONFIGS = ("emoji", "fourm_tiny")
SIZES = dict(steps=(300, 6, "of training"), batch=(64, 4, "examples a step"), seeds=(3, 2, "how many"))
GATES = tuple(
    Gate(f"{name}: bfloat16 is nearer to fp32 than seeds are to each other", "apart", f"{name} bfloat16",
         f"{name} float32", sign=-1)
    for name in CONFIGS
)  # fmt: skip


def curves(config, dtype: str, steps: int, batch: int, seeds: int):
    """Mean training losses of each sixth of a run, `[seeds, 6]`."""
    run = Experiment(config | dict(steps=steps, batch_size=batch, model=config["model"] | dict(dtype=dtype)))
    data = encoded(run, "train", views=3)
    losses = np.stack([np.asarray(run.train(data, seed)[1]) for seed in range(seeds)])
    return losses.reshape(seeds, 6, -1).mean(2)


def measure(configs: dict, steps=300, batch=64, seeds=3) -> dict:
    """{"config type": [scores of every seed]}; configs: {name: a plain dict}; steps: a multiple of 6."""
    results = {}
    for name, config in configs.items():
        exact, rounded = (curves(config, dtype, steps, batch, seeds) for dtype in ("float32", "bfloat16"))
        others = (exact.sum(0) - exact) / (seeds - 1)
        for dtype, found, beside in (("float32", exact, others), ("bfloat16", rounded, exact)):
            results[f"{name} {dtype}"] = [
                {f"loss {i + 1}/6": x for i, x in enumerate(curve)} | {"apart": np.abs(curve - other).max()}
                for curve, other in zip(found, beside, strict=True)
            ]
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES, tokens=dict(required=True, help="the token store"))
    configs = {}
    for name in CONFIGS:
        config = importlib.import_module(f"configs.{name}").get_config()
        config.data.path = args.tokens
        configs[name] = config.to_dict()
    results = measure(configs, args.steps, args.batch, args.seeds)
    title = f"mean training loss of each sixth of {args.steps} steps of {args.batch}, emoji tokens"
    finish("bfloat16", args, title, results, systems=[], control="emoji float32", gates=GATES)


if __name__ == "__main__":
    main()
