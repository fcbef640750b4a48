"""python -m tools.average RUN RUN … --workdir=DIR: the mean of what several runs learned, as one to start from.

Weights of runs from one start lie in one basin, and their mean is often better than each (model soups, arXiv
2203.05482); from several starts it is nothing. So they must have one network, and one `config.load`, or without it one
seed. DIR is a workdir at step 0 that `--config.load` starts from and `pretrain.evals` opens.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from pretrain import build
from pretrain.restore import restore
from pretrain.storage import read_config
from tools.convert import save


def average(workdir, runs):
    """Writes the mean of the newest parameters (their moving average, if there is one) of runs into a fresh workdir."""
    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise FileExistsError(f"{workdir} is not empty: remove it or write elsewhere")
    if len(runs) < 2:
        raise ValueError(f"{', '.join(map(str, runs)) or 'none'}: name at least two runs")
    held = [restore(run) for run in runs]
    check(runs, held)
    config = read_config(runs[0]) | {"load": [], "train": []}  # what it started from is in it
    save(workdir, config, mean([h.params for h in held]), [f"the mean of {', '.join(map(str, runs))}"])


def check(names, held):
    """ValueError unless all started as one network at one place. held: `Restored` of each."""
    first = held[0]
    for name, other in zip(names[1:], held[1:]):
        same = {
            "model": build.model_config(first.run) == build.model_config(other.run),
            "load": first.run.load == other.run.load,
            "seed": bool(first.run.load) or first.run.seed == other.run.seed,
            "objectives": jax.tree.map(np.shape, first.params) == jax.tree.map(np.shape, other.params),
        }
        if wrong := [key for key, agrees in same.items() if not agrees]:
            raise ValueError(
                f"{name}: its {wrong[0]} differs from that of {names[0]}: only runs of one network that started from "
                "the same weights can be averaged"
            )


def mean(trees: list):
    """The mean of trees of arrays of one form, each in its own type."""
    return jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64).astype(np.asarray(x[0]).dtype), *trees)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="their workdirs")
    parser.add_argument("--workdir", required=True, help="where the mean is written")
    args = parser.parse_args(argv)
    average(args.workdir, args.runs)


if __name__ == "__main__":
    main()
