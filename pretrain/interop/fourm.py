"""4M and 4M-21 checkpoints in the layout of apple/ml-4m (`FourM` and its hub class `FM`), read and written exactly.

Two forms are read: one safetensors file whose metadata holds the config, and a folder of `config.json` and
`model.safetensors`, in which aliases of shared tensors may be missing. What is written serves both.
"""

import dataclasses
import math
import re
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from data_pipeline.fourm import IMAGENET, MODALITIES
from data_pipeline.spec import Modality
from pretrain.interop.fourm_file import nest, read_file, some, write_file
from pretrain.models.encdec import Config
from pretrain.models.network import Network
from pretrain.ops.positions import sincos_1d, sincos_2d
from pretrain.parameters import path_str

SEQUENCE_ROWS = 512  # of every sequence's position buffer, whatever its length
SIDES = {"inputs": "encoder_embeddings", "targets": "decoder_embeddings"}
TOP = {"encoder/norm": "encoder_norm", "decoder/norm": "decoder_norm", "decoder/context": "decoder_proj_context"}
# Of a block: {ours: theirs}, norms before what they are part of.
BLOCKS = {
    "encoder": {"attn/norm": "norm1", "mlp/norm": "norm2"},
    "decoder": {
        "cross_attn/context_norm": "context_norm", "cross_attn/norm": "query_norm", "attn/norm": "norm1",
        "mlp/norm": "norm2", "attn": "self_attn",
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A 4M checkpoint in our terms.

    params: the tree of the network that `models.encdec` composes; positions: {their name: table} of fixed position
    tables that differ from ours in some bit, for `write` to give back as they came; report: what was missing or read in
    another way.
    """

    model: Config
    modalities: tuple[Modality, ...]
    params: dict
    positions: dict
    report: tuple[str, ...]


def read(path) -> Checkpoint:
    """Reads a file or a folder. ValueError names what is missing, unexpected, truncated or of another architecture."""
    config, state = read_file(path)
    model, modalities, report = describe(config, state, path)
    names, shapes = layout(model, modalities), param_shapes(model, modalities)
    report += _fill_aliases(names, state, path)
    fixed = buffers(model, modalities)
    missing = sorted((names.keys() | fixed.keys()) - state.keys())
    lost = [n for n in missing if n in names]
    if lost:
        raise ValueError(f"{path}: {some(lost)} missing: not the whole 4M trunk that its config describes")
    if missing:
        report.append(f"missing, computed from the config: {some(missing)}")
    extra = sorted(state.keys() - names.keys() - fixed.keys())
    if extra:
        raise ValueError(f"{path}: {some(extra)} unexpected: another architecture than 4M's, or another config's")

    flat = {k: np.zeros(s.shape, np.float32) for k, s in shapes.items()}
    for theirs, (ours, index) in names.items():
        target = flat[ours] if index is None else flat[ours][index]
        value = state[theirs]
        if value.size != target.size or (value.ndim == 2 and value.shape != _theirs(ours, target).shape):
            raise ValueError(
                f"{path}: {theirs} has shape {value.shape}, the config means {_theirs(ours, target).shape}"
            )
        if value.dtype != np.float32:
            report.append(f"re-interpreted: {theirs} is {value.dtype}, becomes float32")
        target[...] = value.T if ours.endswith("kernel") else value.reshape(target.shape)
    positions = {}
    for theirs, table in fixed.items():
        value = state.get(theirs, table)
        if theirs.endswith("bias"):
            if value.any():
                raise ValueError(f"{path}: {theirs} is not zero, but the config says norm_bias=False")
        elif value.shape != table.shape or not np.abs(value - table).max() <= 1e-5:
            raise ValueError(f"{path}: {theirs} is no sine-cosine table of {table.shape[1]} positions")
        elif not np.array_equal(value, table):
            positions[theirs] = value
    return Checkpoint(model, modalities, nest(flat), positions, tuple(dict.fromkeys(report)))


def write(out, model: Config, modalities, params: dict, positions: dict | None = None) -> Path:
    """Writes `config.json` and `model.safetensors` (all aliases, config in its metadata) into a new folder.

    The reference loads either with strict=True. Raises ValueError for what 4M has no place for.
    """
    config = metadata(model, modalities)
    flat = {path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(params)}
    names = layout(model, modalities)
    left = sorted(flat.keys() - {ours for ours, _ in names.values()})
    if left:
        raise ValueError(f"4M has no place for {some(left)}")
    state = dict(buffers(model, modalities)) | (positions or {})
    for theirs, (ours, index) in names.items():
        value = _theirs(ours, flat[ours] if index is None else flat[ours][index])
        state[theirs] = np.ascontiguousarray(value.reshape(_lead(theirs) + value.shape))
    return write_file(out, config, state)


def shapes(model: Config, modalities) -> dict[str, tuple]:
    """{their name: shape} of everything that `write` writes, without allocating a parameter."""
    ours, out = param_shapes(model, modalities), {k: v.shape for k, v in buffers(model, modalities).items()}
    for theirs, (path, index) in layout(model, modalities).items():
        shape = ours[path].shape if index is None else ours[path].shape[1:]
        out[theirs] = _lead(theirs) + (shape[::-1] if path.endswith("kernel") else shape)
    return out


def layout(model: Config, modalities) -> dict[str, tuple[str, int | None]]:
    """{their name: (our path, index into its first axis or None)}; aliases of one tensor give the same pair."""
    out = {"mask_token": ("embed/mask_token", None)}
    if model.registers:
        out["register_tokens"] = ("encoder/registers", None)
    target_tables = {
        "shared": ("tables", "tables"),
        "split": ("decoder_tables",) * 2,
        "untied": ("decoder_tables", "heads"),
    }
    read_from, head = target_tables[model.tables]
    for i, m in enumerate(modalities):
        for side, group in SIDES.items():
            if not getattr(m, side):
                continue
            at = f"{group}.{m.fourm or m.name}."
            out[at + "mod_emb"] = ("embed/modality", i)
            if m.pictures:
                out[at + "proj.weight"] = (f"embed/dense/{m.name}/kernel", None)
            elif m.dense:
                out[at + "emb_proj.weight"] = (f"embed/dense/{m.name}/kernel", None)
                out[at + "emb_proj.bias"] = (f"embed/dense/{m.name}/bias", None)
            else:
                out[at + "token_emb.weight"] = (f"embed/{'tables' if side == 'inputs' else read_from}/{m.vocab}", None)
            if side == "targets":
                out[at + "to_logits.weight"] = (f"embed/{head}/{m.vocab}", None)
            if m.learned_positions:
                learned = "learned" if side == "inputs" or model.tables == "shared" else "decoder_learned"
                out[at + "pos_emb"] = (f"embed/{learned}/{m.name}", None)
    for path, leaf in param_shapes(model, modalities).items():
        part, first, *rest, last = *path.split("/"), ""
        *rest, last = rest or [""]
        name = {"kernel": "weight", "scale": "weight"}.get(last, last)
        if path.endswith("/slopes"):
            continue  # 4M has none: `write` refuses them
        if first == "blocks":
            ours = "/".join(rest)
            there = next((t + ours[len(o) :] for o, t in BLOCKS[part].items() if f"{ours}/".startswith(f"{o}/")), ours)
            for layer in range(leaf.shape[0]):
                out[".".join([part, str(layer), there.replace("/", "."), name])] = (path, layer)
        elif f"{part}/{first}" in TOP:
            out[f"{TOP[f'{part}/{first}']}.{name}"] = (path, None)
    return out


def buffers(model: Config, modalities) -> dict[str, np.ndarray]:
    """{their name: array} of what they save beside parameters: fixed position tables, and zero biases of norms."""
    out = {}
    for m in modalities:
        for side, group in SIDES.items():
            if getattr(m, side) and not m.learned_positions:
                rows = sincos_1d(SEQUENCE_ROWS, model.dim)
                if m.grid:
                    rows = sincos_2d(*m.grid, model.dim, span=m.trained_grid)
                out[f"{group}.{m.fourm or m.name}.pos_emb"] = rows[None]
    if not model.bias:
        for name, (path, _) in layout(model, modalities).items():
            if path.endswith("/scale"):
                out[name.removesuffix("weight") + "bias"] = np.zeros(
                    model.dim // model.heads if re.search("[qk]_norm", name) else model.dim, np.float32
                )
    return out


def param_shapes(model: Config, modalities) -> dict:
    """{our path: ShapeDtypeStruct} of the trunk without contrastive heads."""
    tree = nnx.split(nnx.eval_shape(lambda: Network(model, tuple(modalities), (), nnx.Rngs(0))))[1]
    return {path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(tree))}


def metadata(model: Config, modalities) -> dict:
    """Their constructor's arguments for this trunk."""
    pixels = [m for m in modalities if m.pictures] or [MODALITIES["rgb@224"]]
    config = dict(
        dim=model.dim, encoder_depth=model.encoder_depth, decoder_depth=model.decoder_depth, num_heads=model.heads,
        mlp_ratio=int(model.mlp_ratio) if model.mlp_ratio == int(model.mlp_ratio) else model.mlp_ratio,
        qkv_bias=model.bias, proj_bias=model.bias, mlp_bias=model.bias, norm_bias=model.bias,
        act_layer="SiLU" if model.gated else "GELU", gated_mlp=model.gated, qk_norm=model.qk_norm,
        domains_in=[m.fourm or m.name for m in modalities if m.inputs],
        domains_out=[m.fourm or m.name for m in modalities if m.targets],
        image_size=pixels[0].shape[0], patch_size=pixels[0].patch,
    )  # fmt: skip
    return config | ({"num_register_tokens": model.registers} if model.registers else {})


def describe(config: dict, state: dict, path) -> tuple[Config, tuple[Modality, ...], list[str]]:
    """Our model config and modality specs from their config and the shapes of their tensors."""
    report = []

    def need(key, allowed=None):
        if key not in config:
            raise ValueError(f"{path}: its config lacks {key!r}; is this a 4M checkpoint? it has {sorted(config)}")
        if allowed and config[key] not in allowed:
            raise ValueError(f"{path}: {key}={config[key]!r}: this trunk can be loaded with {allowed} only")
        return config[key]

    biases = {k: need(k, (True, False)) for k in ("qkv_bias", "proj_bias", "mlp_bias", "norm_bias")}
    if len(set(biases.values())) > 1:
        raise ValueError(f"{path}: {biases}: our blocks have biases everywhere or nowhere")
    gated = need("gated_mlp", (True, False))
    act = str(need("act_layer"))
    if act not in (("SiLU",) if gated else ("GELU",)):
        raise ValueError(f"{path}: act_layer={act!r} with gated_mlp={gated}: only SiLU gated and GELU plain are 4M's")
    domains_in, domains_out = need("domains_in"), need("domains_out")
    order = [*domains_in, *(d for d in domains_out if d not in domains_in)]
    modalities = tuple(
        _modality(d, d in domains_in, d in domains_out, config, state, path, report) for d in order
    )  # fmt: skip
    pairs = [
        (f"{SIDES['targets']}.{d}.token_emb.weight", f"{SIDES['targets']}.{d}.to_logits.weight") for d in domains_out
    ]
    untied = any(a in state and b in state and not np.array_equal(state[a], state[b]) for a, b in pairs)
    report.append(f"output heads: {'tables of their own' if untied else 'tied to the tables that the decoder reads'}")
    model = Config(
        dim=need("dim"), heads=need("num_heads"), encoder_depth=need("encoder_depth"),
        decoder_depth=need("decoder_depth"), mlp_ratio=float(need("mlp_ratio")), gated=gated,
        bias=biases["qkv_bias"], qk_norm=bool(config.get("qk_norm", False)),
        registers=config.get("num_register_tokens") or 0, tables="untied" if untied else "split",
    )  # fmt: skip
    return model, modalities, report


def _modality(name, is_in, is_out, config, state, path, report) -> Modality:
    """The spec of one domain: what its name says, with the sizes that its tensors have."""
    group = SIDES["inputs" if is_in else "targets"]
    got = {k.removeprefix(f"{group}.{name}."): v.shape for k, v in state.items() if k.startswith(f"{group}.{name}.")}
    if not got:
        raise ValueError(f"{path}: no tensor of modality {name!r}, which its config lists")
    known = MODALITIES.get(name)
    rows = got["pos_emb"][1] if "pos_emb" in got else known.length if known else 0
    side = math.isqrt(rows)
    common = dict(inputs=is_in, targets=is_out, fourm=name)
    if "proj.weight" in got:
        patch = config.get("patch_size", 16)
        channels = got["proj.weight"][1] // patch**2
        norm = IMAGENET if channels == 3 else dict(mean=(0.5,) * channels, std=(0.5,) * channels)
        return Modality(name, "pixels", (side * patch, side * patch, channels), "rgb", patch=patch, **norm, **common)
    if "emb_proj.weight" in got:
        length = known.length if known else 77
        return Modality(name, "vectors", (length, got["emb_proj.weight"][1]), name, **common)
    table = got.get("token_emb.weight") or got.get("to_logits.weight")
    if table is None:
        raise ValueError(f"{path}: modality {name!r} has no token table; it has {sorted(got)}")
    if known is None:
        report.append(f"re-interpreted: {name!r} is no published modality, its kind is read off its position table")
    elif known.vocab_size != table[0]:
        report.append(f"re-interpreted: {name!r} has {table[0]} codes, the published one {known.vocab_size}")
    common |= dict(field=name, vocab=name, vocab_size=table[0])
    kind = known.kind if known else "sequence" if rows == SEQUENCE_ROWS else "grid" if side**2 == rows else "set"
    if kind == "sequence":
        return Modality(name, kind, (known.length if known else 256,), tokenizer="wordpiece", **common)
    return Modality(name, kind, (side, side) if kind == "grid" else (rows,), tokenizer=name, **common)


def _fill_aliases(names: dict, state: dict, path) -> list[str]:
    """Adds names that the file dropped as aliases of others; aliases that differ are an error."""
    groups, report = {}, []
    for theirs, ours in names.items():
        groups.setdefault(ours, []).append(theirs)
    for group in groups.values():
        held = [n for n in group if n in state]
        for n in held[1:]:
            if not np.array_equal(state[n], state[held[0]]):
                raise ValueError(f"{path}: {held[0]} and {n} should be one shared tensor, but differ")
        for n in group:
            if held and n not in state:
                state[n] = state[held[0]]
                report.append(f"missing, an alias of {held[0]}: {n}")
    return report


def _lead(theirs: str) -> tuple:
    """The axes of size 1 with which they begin some tensors."""
    return (1,) * {"mod_emb": 2, "mask_token": 2, "pos_emb": 1, "register_tokens": 1}.get(theirs.rpartition(".")[2], 0)


def _theirs(path: str, value):
    return value.T if path.endswith("kernel") else value
