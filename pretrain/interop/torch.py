"""Our parameters as a PyTorch state dict and back: an exact renaming, transposition and unstacking, no arithmetic.

Fine-tuned heads go with the network, as `predictors`; low-rank updates are in the matrices of what `restore` gives.

ours                                   PyTorch
`encoder/blocks/attn/qkv/kernel [depth,a,b]`  `encoder.{i}.attn.qkv.weight [b, a]` for every layer i
`norm/scale`                           `norm.weight`
`embed/tables/text [V, D]`             `tables.text [V, D]`
`depthwise/kernel [H, W, 1, C]`        `depthwise.weight [C, 1, H, W]`
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np

from pretrain import build, digests
from pretrain.build import plain
from pretrain.finite import check_finite
from pretrain.models import encdec
from pretrain.objectives import classification, dense
from pretrain.parameters import path_str
from pretrain.restore import Restored

STACKS = ("encoder", "decoder")
# {ours: PyTorch's} of the beginnings of paths, the first that fits.
PREFIXES = {
    "embed/": "", "encoder/blocks/": "encoder/", "encoder/registers": "registers", "encoder/norm/": "encoder_norm/",
    "decoder/blocks/": "decoder/", "decoder/norm/": "decoder_norm/", "decoder/context/": "context/",
    "pool/head/": "", "project/each/": "project/",
}  # fmt: skip


def to_state_dict(model_params: dict) -> dict[str, np.ndarray]:
    """Nested parameters → {PyTorch name: array}."""
    out = {}
    for path, value in jax.tree_util.tree_leaves_with_path(model_params):
        names, stacked, axes = _names(path, value)
        for name, part in zip(names, np.asarray(value) if stacked else [np.asarray(value)]):
            out[name] = np.ascontiguousarray(part.transpose(axes))
    return out


def from_state_dict(state: dict[str, np.ndarray], like: dict) -> dict:
    """The inverse; `like` gives the tree. Raises ValueError naming missing, unexpected or misshapen entries."""
    used = set()

    def take(path, leaf):
        names, stacked, axes = _names(path, leaf)
        if missing := [n for n in names if n not in state]:
            raise ValueError(f"{missing[0]}: missing in the state dict")
        used.update(names)
        wanted = leaf.shape[1:] if stacked else leaf.shape
        for name in names:
            if np.shape(state[name]) != tuple(wanted[a] for a in axes):
                raise ValueError(f"{name}: shape {np.shape(state[name])} does not fit {wanted} of the model")
        parts = [np.asarray(state[n]).transpose(np.argsort(axes)) for n in names]
        return np.stack(parts) if stacked else parts[0]

    out = jax.tree_util.tree_map_with_path(take, like)
    if extra := sorted(set(state) - used):
        raise ValueError(f"unexpected in the state dict: {', '.join(extra[:5])}{' …' if len(extra) > 5 else ''}")
    return out


def _names(path, leaf):
    """(PyTorch names, whether the leaf stacks a layer for each, the order of each one's axes in PyTorch)."""
    ours = path_str(path)
    prefix = next((p for p in PREFIXES if ours.startswith(p)), "")
    *parents, last = (PREFIXES.get(prefix, "") + ours.removeprefix(prefix)).split("/")
    weight = last == "kernel" or (last == "scale" and "norm" in parents[-1])
    name = "weight" if weight else last
    at = None
    if parents and parents[0] in STACKS:
        at = 0
    elif parents and parents[0] == "predictors" and parents[2:3] == ["blocks"]:
        at = 2
    rank = leaf.ndim - (at is not None)
    # Products have [out, in] there, convolutions [out, in, height, width].
    axes = tuple(range(rank)) if last != "kernel" else (1, 0) if rank == 2 else (3, 2, 0, 1)
    if at is not None:
        names = [".".join([*parents[: at + 1], str(i), *parents[at + 1 :], name]) for i in range(leaf.shape[0])]
        return names, True, axes
    return [".".join([*parents, name])], False, axes


def heads(restored: Restored) -> dict:
    """{objective: what its head is} of those that stand on the encoder's outputs, as `config.json` says it."""
    out = {}
    for name, o in restored.objectives.items():
        lengths = {m.name: m.length for m in restored.run.modalities}
        about = {"inputs": [(n, lengths[n]) for n in getattr(o, "inputs", ())]}
        if isinstance(o, classification.Objective):
            label = next(m for m in o.context.labels if m.name == o.label)
            about |= {"kind": "classification", "pool": o.pool, "outputs": o.classes, "classes": list(label.classes)}
        elif isinstance(o, dense.Objective):
            grid = next(m.grid for m in o.context.modalities if m.name == o.grid)
            start = sum(lengths[n] for n in o.inputs[: o.inputs.index(o.grid)])
            about |= {"kind": "dense", "grid": grid, "start": start, "size": o.target.shape[:2], "outputs": o.outputs}
            about |= {"width": o.width, "up": o.up, "blocks": o.blocks}
        else:
            continue
        out[name] = about
    return out


def export(restored: Restored, out) -> Path:
    """Writes `model.safetensors`, `config.json`, the module that loads them and their sha256 into a new folder.

    ValueError for a network of another kind than the trunk that the module is.
    """
    from safetensors.numpy import save_file

    composed = build.model_config(restored.run)
    if type(composed) is not encdec.Config:
        raise ValueError(
            f"model.model={restored.run.model['model']!r}: the PyTorch module is models.encdec alone; towers of images "
            "and texts go to PyTorch through `tools.convert --write`, as CLIP or SigLIP of transformers"
        )
    check_finite(restored.params, f"step {restored.step}")
    out = Path(out)
    if (out / digests.FILE).exists():
        raise FileExistsError(f"{out} already holds an export: remove it or write elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    model = restored.model
    predictors = heads(restored)
    params = restored.params["model"] | {"predictors": {n: restored.params["objective"][n] for n in predictors}}
    config = {
        "model": dataclasses.asdict(composed),
        "modalities": plain(model.modalities),
        "embedded": list(model.embedded),
        "predictors": predictors,
    }
    save_file(to_state_dict(params), out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.copyfile(Path(__file__).with_name("torch_model.py"), out / "tokenloom_torch.py")
    digests.write(out)
    return out
