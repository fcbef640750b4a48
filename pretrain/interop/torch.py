"""Our parameters as a PyTorch state dict and back: an exact renaming, transposition and unstacking, no arithmetic.

ours                                   PyTorch
`encoder/attn/qkv/kernel [depth,a,b]`  `encoder.{i}.attn.qkv.weight [b, a]` for every layer i
`norm/scale`                           `norm.weight`
`tokens/tables/text [V, D]`            `tables.text [V, D]`
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np

from pretrain.build import plain
from pretrain.restore import Restored
from pretrain.sharding import path_str

STACKS = ("encoder", "decoder")


def to_state_dict(model_params: dict) -> dict[str, np.ndarray]:
    """Nested parameters → {PyTorch name: array}."""
    out = {}
    for path, value in jax.tree_util.tree_leaves_with_path(model_params):
        names, stacked, transposed = _names(path, value)
        for name, part in zip(names, np.asarray(value) if stacked else [np.asarray(value)]):
            out[name] = np.ascontiguousarray(part.T if transposed else part)
    return out


def from_state_dict(state: dict[str, np.ndarray], like: dict) -> dict:
    """The inverse; `like` gives the tree. Raises ValueError naming missing, unexpected or misshapen entries."""
    used = set()

    def take(path, leaf):
        names, stacked, transposed = _names(path, leaf)
        if missing := [n for n in names if n not in state]:
            raise ValueError(f"{missing[0]}: missing in the state dict")
        used.update(names)
        parts = [np.asarray(state[n]).T if transposed else np.asarray(state[n]) for n in names]
        wanted = leaf.shape[1:] if stacked else leaf.shape
        for name, part in zip(names, parts):
            if part.shape != wanted:
                raise ValueError(f"{name}: shape {np.asarray(state[name]).shape} does not fit {wanted} of the model")
        return np.stack(parts) if stacked else parts[0]

    out = jax.tree_util.tree_map_with_path(take, like)
    if extra := sorted(set(state) - used):
        raise ValueError(f"unexpected in the state dict: {', '.join(extra[:5])}{' …' if len(extra) > 5 else ''}")
    return out


def _names(path, leaf):
    """(PyTorch names, whether the leaf stacks a layer for each, whether each is transposed)."""
    *parents, last = path_str(path).removeprefix("tokens/").split("/")
    name = {"kernel": "weight", "scale": "weight"}.get(last, last)
    if parents and parents[0] in STACKS:
        names = [".".join([parents[0], str(i), *parents[1:], name]) for i in range(leaf.shape[0])]
        return names, True, last == "kernel"
    return [".".join([*parents, name])], False, last == "kernel"


def export(restored: Restored, out) -> Path:
    """Writes `model.safetensors`, `config.json` and the module that loads them into a new folder.

    ValueError for what the module does not have: a network without a decoder, or with adapters.
    """
    from safetensors.numpy import save_file

    for key, wanted in (("decoder_depth", True), ("adapter", False)):
        value = restored.run.model.get(key, wanted)
        if bool(value) is not wanted:
            raise ValueError(
                f"model.{key}={value}: the PyTorch module is an encoder-decoder without adapters; such a fine-tuned "
                "network can be restored and evaluated here, not exported yet"
            )
    out = Path(out)
    if (out / "model.safetensors").exists():
        raise FileExistsError(f"{out} already holds an export: remove it or write elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    model = restored.model
    config = {
        "model": dataclasses.asdict(model.config),
        "modalities": plain(model.modalities),
        "embedded": list(model.embedded),
    }
    save_file(to_state_dict(restored.params["model"]), out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.copyfile(Path(__file__).with_name("torch_model.py"), out / "tokenloom_torch.py")
    return out
