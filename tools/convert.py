"""python -m tools.convert --read=4M_CHECKPOINT --workdir=DIR, or --workdir=DIR --write=FOLDER: 4M models in and out.

Reading makes a workdir that `--config.init` starts from and `pretrain.evals` opens; writing makes `config.json` and
`model.safetensors` that apple/ml-4m loads strictly. A workdir that was read is written back bit for bit.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from pretrain import build
from pretrain.checkpoint import Checkpointer
from pretrain.interop import fourm
from pretrain.restore import restore
from pretrain.step import TrainState

POSITIONS = "fourm_positions.safetensors"  # their position tables, where ours differ in the last bit


def read(source, workdir):
    """4M checkpoint → workdir at step 0; prints what was missing or read in another way."""
    from safetensors.numpy import save_file

    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise FileExistsError(f"{workdir} is not empty: remove it or convert elsewhere")
    held = fourm.read(source)
    names = [m.name for m in held.modalities]
    targets = [m.name for m in held.modalities if m.targets]
    mixture = [dict(inputs=dict.fromkeys(names, 0.5), targets=dict.fromkeys(targets, 0.5))]
    config = dict(
        steps=1, batch_size=1, modalities=[build.plain(m) for m in held.modalities],
        model={"model": "models.encdec", **dataclasses.asdict(held.model)},
        objectives=dict(masked=dict(input_tokens=[0, 128], target_tokens=[0, 128], mixture=mixture)),
        data=dict(source="tokens"),
    )  # fmt: skip
    build.objectives(build.parse(config))  # what `restore` will do
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if held.positions:
        save_file(held.positions, workdir / POSITIONS)
    params = {"model": held.params, "objective": {"masked": {}}}
    with Checkpointer(workdir, info={"modalities": config["modalities"]}) as checkpointer:
        checkpointer.save(TrainState(np.zeros((), np.int32), params, (), None), _NoData())
    for line in held.report:
        print(line)
    count = sum(x.size for x in jax.tree.leaves(held.params))
    print(f"wrote {workdir}: {count / 1e6:.1f}M parameters, {len(names)} modalities")


def write(workdir, out, step=None):
    """Workdir → folder in 4M's layout."""
    from safetensors.numpy import load_file

    held = restore(workdir, step)
    file = Path(workdir) / POSITIONS
    positions = load_file(file) if file.exists() else {}
    known = fourm.buffers(held.model.config, held.run.modalities)
    positions = {k: v for k, v in positions.items() if k in known and known[k].shape == v.shape}
    fourm.write(out, held.model.config, held.run.modalities, held.params["model"], positions)
    print(f"wrote {out}: config.json, {fourm.FILE}")


class _NoData:
    """A data position for a model that has read none."""

    def get_state(self):
        return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--read", help="a 4M .safetensors file, or a folder with config.json and model.safetensors")
    what.add_argument("--write", help="a new folder")
    parser.add_argument("--step", type=int, help="which checkpoint to write; the newest if not given")
    args = parser.parse_args()
    if args.read:
        read(args.read, args.workdir)
    else:
        write(args.workdir, args.write, args.step)


if __name__ == "__main__":
    main()
