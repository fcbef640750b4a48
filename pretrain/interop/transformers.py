"""CLIP and SigLIP folders of Hugging Face `transformers` (`CLIPModel`, `SiglipModel`), read and written exactly.

A folder holds `config.json`, `model.safetensors` (or shards and their index), `preprocessor_config.json` and the files
of a tokenizer. Neither torch nor transformers is needed. CLIP pools a text at its first [EOS]: give it as the last
valid token, which data_pipeline's tokenizers do.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from data_pipeline import text_tokenizers
from data_pipeline.spec import Modality
from pretrain.interop import tokenizer_json
from pretrain.interop.transformers_config import CLASSES, classify, describe, metadata, preprocessor, read_json, select
from pretrain.models import multimodal
from pretrain.models.network import Network
from pretrain.objectives import contrastive, sigmoid
from pretrain.objectives.base import Context
from pretrain.parameters import path_str

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SIDES = {"image": "vision_model.", "text": "text_model."}

# Their modules and tensors: ours.
MODULES = {
    "embeddings.patch_embedding": "embed/patches", "pre_layrnorm": "embed/norm", "head.layernorm": "pool/head/norm",
    "head.mlp.fc1": "pool/head/mlp/fc1", "head.mlp.fc2": "pool/head/mlp/fc2",
    "head.attention.out_proj": "pool/head/attn/proj",
}  # fmt: skip
NORMS = {"image": "post_layernorm", "text": "final_layer_norm"}
TENSORS = {
    "embeddings.class_embedding": "embed/cls", "embeddings.position_embedding.weight": "embed/positions",
    "embeddings.token_embedding.weight": "embed/table", "head.probe": "pool/head/probe",
}  # fmt: skip
BLOCK = {
    "layer_norm1": "attn/norm", "layer_norm2": "mlp/norm", "self_attn.out_proj": "attn/proj", "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}  # fmt: skip
PROJECTIONS = {
    "clip": {"image": "visual_projection", "text": "text_projection"},
    "siglip": {"image": "", "text": "text_model.head"},
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder in our terms.

    kind: `clip` or `siglip`; modalities: `image` and `text`, each with a tower of its name; objectives:
    {"contrastive" or "sigmoid": Objective}; params: {"model", "objective"} of them; report: what was ignored,
    missing or read in another way.
    """

    kind: str
    model: multimodal.Config
    modalities: tuple[Modality, ...]
    objectives: dict[str, Any]
    params: dict
    report: tuple[str, ...]


def read(path) -> Checkpoint:
    """Reads a folder. ValueError names what is missing, unexpected, of a wrong shape or of another architecture."""
    path = Path(path)
    kind, model, modalities, report = describe(path)
    state = read_state(path)
    left = sorted(k for k in state if k.endswith("position_ids"))  # older versions saved these counters
    for name in left:
        del state[name]
    if left:
        report.append(f"ignored: {_some(left)}")
    expected = shapes(kind, model, modalities)
    for what, names in (("missing", expected.keys() - state.keys()), ("unexpected", state.keys() - expected.keys())):
        if names:
            raise ValueError(
                f"{path}: {_some(sorted(names))} {what}: not the {CLASSES[kind]} that its config.json describes; "
                f"save it again with {CLASSES[kind]}.from_pretrained(…).save_pretrained(…)"
            )
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {state[name].shape}, its config.json means {shape}")
    others = sorted(k for k, v in state.items() if v.dtype != np.float32)
    if others:
        report.append(f"re-interpreted: {_some(others)} become float32, from {state[others[0]].dtype}")

    flat = {k: np.zeros(s.shape, np.float32) for k, s in param_shapes(model, modalities).items()}
    for theirs, parts in layout(kind, model, flat).items():
        rest = state[theirs]
        for ours, index in parts:
            target = flat[ours][index]
            rows = _theirs(ours, target, modalities[0]).shape[0]
            target[...] = _ours(ours, rest[:rows])
            rest = rest[rows:]
    objective, own = _objective(kind, modalities, state, report)
    name = "contrastive" if kind == "clip" else "sigmoid"
    params = {"model": traverse_util.unflatten_dict(flat, sep="/"), "objective": {name: own}}
    return Checkpoint(kind, model, modalities, {name: objective}, params, tuple(report))


def write(
    out, model: multimodal.Config, modalities, objectives: dict, params: dict, *, image="", text="", eos_id=None
) -> Path:
    """Writes a new folder that `transformers.AutoModel`, `AutoTokenizer` and `AutoProcessor` open.

    image, text: which modalities, where a run has several; other modalities and towers stay behind. eos_id: what ends a
    text, if its tokenizer does not say. Raises ValueError for what `CLIPModel` and `SiglipModel` have no place for.
    """
    from safetensors.numpy import save_file

    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: remove it or write elsewhere")
    model, pair = select(model, modalities, image, text)
    kind = classify(model)
    scale = _scale(kind, objectives, params["objective"], pair)
    config = metadata(kind, model, pair, eos_id)
    flat = {path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(params["model"])}
    state = to_state(kind, model, pair, flat) | scale
    out.mkdir(parents=True, exist_ok=True)
    pad_id = model.towers[1].pad_id if kind == "siglip" else None
    # SigLIP reads its padding: a mask would hide it.
    inputs = ["input_ids"] if kind == "siglip" else ["input_ids", "attention_mask"]
    has_tokenizer = tokenizer_json.write(out, pair[1], pad_id, inputs)
    save_file({k: np.asarray(v, order="C") for k, v in state.items()}, out / FILE, metadata={"format": "pt"})
    for name, value in (("config.json", config), ("preprocessor_config.json", preprocessor(kind, pair[0]))):
        (out / name).write_text(json.dumps(value, indent=2) + "\n")
    (out / "README.md").write_text(_readme(kind, pair, has_tokenizer))
    return out


def shapes(kind: str, model: multimodal.Config, modalities) -> dict[str, tuple]:
    """{their name: shape} of everything that `write` writes, without allocating a parameter."""
    flat = {k: np.broadcast_to(np.float32(0), s.shape) for k, s in param_shapes(model, modalities).items()}
    out = {k: v.shape for k, v in to_state(kind, model, modalities, flat).items()}
    return out | ({"logit_scale": ()} if kind == "clip" else {"logit_scale": (1,), "logit_bias": (1,)})


def to_state(kind: str, model: multimodal.Config, modalities, flat: dict) -> dict[str, np.ndarray]:
    """{our path: array} → {their name: array} of the two towers."""
    out = {}
    for theirs, parts in layout(kind, model, flat).items():
        values = [_theirs(ours, flat[ours][index], modalities[0]) for ours, index in parts]
        out[theirs] = np.concatenate(values) if len(values) > 1 else values[0]
    return out


def layout(kind: str, model: multimodal.Config, flat) -> dict[str, tuple]:
    """{their name: ((our path, index), …)}: these parts of ours, below each other, make their tensor.

    flat: what has our paths; `model.towers` are those of the image and of the text.
    """
    out = {}

    def add(theirs, ours, index=...):
        for name, leaf in (("weight", "kernel"), ("weight", "scale"), ("bias", "bias")):
            if f"{ours}/{leaf}" in flat:
                out[f"{theirs}.{name}"] = ((f"{ours}/{leaf}", index),)

    for (side, prefix), t in zip(SIDES.items(), model.towers):
        at = f"{t.name}_"
        for theirs, ours in TENSORS.items():
            if at + ours in flat:
                out[prefix + theirs] = ((at + ours, ...),)
        for theirs, ours in (MODULES | {NORMS[side]: "encoder/norm"}).items():
            add(prefix + theirs, at + ours)
        for layer in range(t.depth):
            block = f"{prefix}encoder.layers.{layer}."
            for theirs, ours in BLOCK.items():
                add(block + theirs, f"{at}encoder/blocks/{ours}", layer)
            for i, part in enumerate("qkv"):
                add(
                    f"{block}self_attn.{part}_proj", f"{at}encoder/blocks/attn/qkv",
                    (layer, ..., slice(i * t.dim, (i + 1) * t.dim)),
                )  # fmt: skip
        if t.pool == "map":
            for name, leaf in (("weight", "kernel"), ("bias", "bias")):
                parts = tuple((f"{at}pool/head/attn/{p}/{leaf}", ...) for p in ("q", "kv"))
                out[f"{prefix}head.attention.in_proj_{name}"] = parts
        if t.project:
            add(PROJECTIONS[kind][side], at + "project/linear")
    return out


def param_shapes(model: multimodal.Config, modalities) -> dict:
    """{our path: ShapeDtypeStruct} of the towers."""
    names = tuple(m.name for m in modalities)
    tree = nnx.split(nnx.eval_shape(lambda: Network(model, tuple(modalities), names, nnx.Rngs(0))))[1]
    return {path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(tree))}


def read_state(path) -> dict[str, np.ndarray]:
    """All tensors of a folder, from one file or from shards."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    files = [FILE]
    if not (path / FILE).exists():
        if not (path / INDEX).exists():
            raise FileNotFoundError(
                f"{path}: no {FILE} and no {INDEX}; a folder with pytorch_model.bin becomes one by "
                "AutoModel.from_pretrained(…).save_pretrained(…)"
            )
        files = sorted(set(read_json(path / INDEX)["weight_map"].values()))
    state = {}
    for name in files:
        if not (path / name).exists():
            raise FileNotFoundError(f"{path / name}: no such file, but {INDEX} lists it; copy all shards")
        try:
            with safe_open(path / name, "numpy") as f:
                state |= {k: f.get_tensor(k) for k in f.keys()}
        except SafetensorError as e:
            raise ValueError(f"{path / name}: not a whole safetensors file ({e}); copy or download it again") from e
    return state


def _theirs(path: str, value, image: Modality):
    """A part of one of our arrays, without the layers' axis, as theirs: Linear `[out, in]`, patches `[D, C, p, p]`."""
    if path.endswith("patches/kernel"):
        return value.T.reshape(-1, image.patch, image.patch, image.shape[2]).transpose(0, 3, 1, 2)
    if path.endswith("head/probe"):
        return value[None, None]
    return value.T if path.endswith("kernel") else value


def _ours(path: str, value):
    if path.endswith("patches/kernel"):
        return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    if path.endswith("head/probe"):
        return value[0, 0]
    return value.T if path.endswith("kernel") else value


def _objective(kind: str, modalities, state: dict, report: list):
    """(our objective, its learned scalars)."""
    own = {"log_scale": state["logit_scale"].astype(np.float32).reshape(())}
    edges = (contrastive.Edge(*(m.name for m in modalities)),)
    if kind == "siglip":
        return sigmoid.Objective(Context(modalities), edges), own | {
            "bias": state["logit_bias"].astype(np.float32).reshape(())
        }
    made = contrastive.Objective(Context(modalities), edges)
    if not _clamps(made, own):
        return made, own
    report.append(f"re-interpreted: logit_scale={own['log_scale']:.4f} is above log {made.max_scale}: no clamp")
    return dataclasses.replace(made, max_scale=0.0), own


def _scale(kind: str, objectives: dict, params: dict, pair) -> dict[str, np.ndarray]:
    """Their logit_scale and logit_bias, from the first objective that compares image with text as they do."""
    image, text = (m.name for m in pair)
    for name, o in objectives.items():
        o = getattr(o, "base", o)
        loss = isinstance(o, (contrastive.Objective, sigmoid.Objective))
        if not loss or not any({e.a, e.b} == {image, text} for e in o.edges):
            continue
        own, bias = params[name], np.float32(0)
        if isinstance(o, sigmoid.Objective):
            if kind == "clip":
                raise ValueError(
                    f"objectives.{name}: CLIPModel has no bias for a sigmoid; train CLIP's towers with `contrastive`, "
                    "or SigLIP's (configs/siglip_b16.py) with this"
                )
            scale, bias = own["log_scale"], own["bias"]
        elif o.learn == "log":
            scale = math.log(o.max_scale) if _clamps(o, own) else own["log_scale"]
        else:
            scale = np.log(o.scale(own))
        scale, bias = (np.asarray(v, np.float32) for v in (scale, bias))
        return {"logit_scale": scale} if kind == "clip" else {"logit_scale": scale[None], "logit_bias": bias[None]}
    raise ValueError(
        f"objectives={list(objectives)}: none of kind contrastive or sigmoid compares {image!r} with {text!r}, and "
        f"{CLASSES[kind]} needs its scale"
    )


def _clamps(objective, own) -> bool:
    """Whether the objective limits a scale that transformers would take as it is; at the bound counts as within."""
    return bool(objective.max_scale) and float(own["log_scale"]) > math.log(objective.max_scale) + 1e-4


def _readme(kind: str, pair, has_tokenizer: bool) -> str:
    image, text = pair
    lines = [
        "---", "library_name: transformers", "---", "",
        f"A {CLASSES[kind]} trained with Tokenloom on images (`{image.name}`) and texts (`{text.name}`).", "",
        "    from transformers import AutoModel, AutoProcessor", "",
        f"Texts are padded to {text.length} tokens (`padding=\"max_length\"`): the model reads the padding."
        if kind == "siglip"
        else f"Texts have up to {text.length} tokens and are pooled at their end token.",
    ]  # fmt: skip
    if kind == "siglip":
        lines += [
            "",
            "Pictures that are not square were cut to their centre; SiglipImageProcessor squeezes them instead.",
        ]
    if not has_tokenizer:
        lines += ["", f"No tokenizer is included: {text.tokenizer!r} made the ids and has no tokenizer.json."]
    elif text_tokenizers.sentencepiece_model(text.tokenizer) is not None:
        lines += ["", f"tokenizer.json is made from a SentencePiece model. {tokenizer_json.LIMITS}"]
    return "\n".join(lines) + "\n"


def _some(names) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
