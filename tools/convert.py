"""python -m tools.convert --read=SOURCE --workdir=DIR, or --workdir=DIR --write=FOLDER: models of others in and out.

SOURCE is a 4M checkpoint of apple/ml-4m, one of its tokenizers (VQVAE, memory codes, DiVAE), or a CLIP or SigLIP folder
of Hugging Face transformers. Reading makes a workdir that `--config.load` starts from, whole or tower by tower, that
`pretrain.evals` opens, and `tools.tokenize` if it is a tokenizer. Writing makes a folder that apple/ml-4m loads
strictly, or transformers by `AutoModel.from_pretrained`. A workdir that was read is written back bit for bit.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np

from pretrain import build
from pretrain.checkpoint import Checkpointer
from pretrain.finite import check_finite
from pretrain.interop import fourm, fourm_tokenizer_config, fourm_tokenizers, tokenizer_json, transformers
from pretrain.interop.agreement import compare
from pretrain.interop.transformers_config import select
from pretrain.models import multimodal
from pretrain.restore import restore
from pretrain.step import TrainState
from pretrain.storage import write as write_file
from pretrain.storage import write_config

POSITIONS = "fourm_positions.safetensors"  # their position tables, where ours differ in the last bit
TOKENIZER = "fourm_tokenizer.json"  # the arguments of a tokenizer's constructor, as they came


def read(source, workdir, size=0):
    """Checkpoint → workdir at step 0; prints what was missing or read in another way.

    size: of a tokenizer's images, 0 for that of its config.
    """
    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise FileExistsError(f"{workdir} is not empty: remove it or convert elsewhere")
    config_file = Path(source) / "config.json"
    if config_file.exists() and "model_type" in transformers.read_json(config_file):
        _read_transformers(source, workdir)
    elif fourm_tokenizers.is_tokenizer(source):
        _read_fourm_tokenizer(source, workdir, size)
    else:
        _read_fourm(source, workdir)


def _read_fourm(source, workdir):
    from safetensors.numpy import save_file

    held = fourm.read(source)
    names = [m.name for m in held.modalities]
    targets = [m.name for m in held.modalities if m.targets]
    mixture = [dict(inputs=dict.fromkeys(names, 0.5), targets=dict.fromkeys(targets, 0.5))]
    objectives = dict(masked=dict(input_tokens=[0, 128], target_tokens=[0, 128], mixture=mixture))
    params = {"model": held.params, "objective": {"masked": {}}}
    save(workdir, _config("models.encdec", held, held.modalities, objectives), params, held.report)
    if held.positions:
        save_file(held.positions, workdir / POSITIONS)


def _read_fourm_tokenizer(source, workdir, size):
    from safetensors.numpy import save_file

    held = fourm_tokenizers.read(source, size)
    config = fourm_tokenizer_config.run_config(held.model, held.modality)
    save(
        workdir,
        config,
        {"model": {"autoencoder": held.params}, "objective": {n: {} for n in config["objectives"]}},
        held.report,
    )
    write_file(workdir / TOKENIZER, json.dumps(held.config, indent=2) + "\n")
    if held.fixed:
        save_file(held.fixed, workdir / POSITIONS)


def _read_transformers(source, workdir):
    held = transformers.read(source)
    check_finite(held.params, str(source))
    print(compare(source, held.model, held.modalities, held.params["model"]))
    image, text = held.modalities
    if (Path(source) / tokenizer_json.FILE).exists():
        text = dataclasses.replace(text, tokenizer=str((workdir / tokenizer_json.FILE).resolve()))
    objectives = {name: build.keys_of(objective) for name, objective in held.objectives.items()}
    save(workdir, _config("models.multimodal", held, (image, text), objectives), held.params, held.report)
    tokenizer_json.copy(source, workdir)


def _config(model, held, modalities, objectives) -> dict:
    return dict(
        steps=1, batch_size=1, modalities=[build.plain(m) for m in modalities],
        model={"model": model, **build.plain(held.model)}, objectives=objectives, data=dict(source="tokens"),
    )  # fmt: skip


def save(workdir, config, params, report):
    """Writes a workdir at step 0, of a config and the parameters of its network; prints the report."""
    build.objectives(build.parse(config))  # what `restore` will do
    check_finite(params, "the checkpoint that is read")
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, json.loads(json.dumps(config)))
    with Checkpointer(workdir, info={"modalities": config["modalities"]}) as checkpointer:
        checkpointer.save(TrainState(np.zeros((), np.int32), params, (), None), _NoData())
    for line in report:
        print(line)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"wrote {workdir}: {count / 1e6:.1f}M parameters, {len(config['modalities'])} modalities")


def write(workdir, out, step=None, *, image="", text="", eos_id=None):
    """Workdir → folder in 4M's layout, or that of transformers if it holds towers."""
    from safetensors.numpy import load_file

    held = restore(workdir, step)
    check_finite(held.params, f"{workdir}, step {held.step}")
    file = Path(workdir) / POSITIONS
    positions = load_file(file) if file.exists() else {}
    if build.model_file(held.run).startswith("tokenizers."):
        arguments = Path(workdir) / TOKENIZER
        arguments = json.loads(arguments.read_text()) if arguments.exists() else None
        fourm_tokenizers.write(out, held.run, held.params["model"]["autoencoder"], arguments, positions)
        print(f"wrote {out}: {', '.join(sorted(p.name for p in Path(out).iterdir()))}")
        return
    model, modalities = build.model_config(held.run), held.run.modalities
    if isinstance(model, multimodal.Config):
        transformers.write(
            out, model, modalities, held.objectives, held.params, image=image, text=text, eos_id=eos_id
        )  # fmt: skip
        chosen, pair = select(model, modalities, image, text)
        parts = chosen.compose(tuple(pair), tuple(m.name for m in pair))
        print(compare(out, chosen, pair, {n: p for n, p in held.params["model"].items() if n in parts}))
    else:
        known = fourm.buffers(model, modalities)
        positions = {k: v for k, v in positions.items() if k in known and known[k].shape == v.shape}
        fourm.write(out, model, modalities, held.params["model"], positions)
    print(f"wrote {out}: {', '.join(sorted(p.name for p in Path(out).iterdir()))}")


class _NoData:
    """A data position for a model that has read none."""

    def get_state(self):
        return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=os.path.expanduser, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--read",
        type=os.path.expanduser,
        help="a 4M .safetensors file, or a folder with config.json and model.safetensors",
    )
    what.add_argument("--write", type=os.path.expanduser, help="a new folder")
    parser.add_argument("--size", type=int, default=0, help="of a 4M tokenizer: side of the images that it will read")
    parser.add_argument("--step", type=int, help="which checkpoint to write; the newest if not given")
    parser.add_argument("--image", default="", help="to transformers: which image modality, if there are several")
    parser.add_argument("--text", default="", help="to transformers: which text modality, if there are several")
    parser.add_argument("--eos_id", type=int, help="to CLIP: the id that ends a text, if its tokenizer does not say")
    args = parser.parse_args()
    if args.read:
        read(args.read, args.workdir, args.size)
    else:
        write(args.workdir, args.write, args.step, image=args.image, text=args.text, eos_id=args.eos_id)


if __name__ == "__main__":
    main()
