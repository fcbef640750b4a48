"""4M's tokenizers in the layout of apple/ml-4m (`VQVAE` and `DiVAE`), read and written exactly.

VQ with a ViT or an MLP on both sides, memory codes, and the UNet that denoises. Their files have the two forms of
`fourm_file`.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from data_pipeline.spec import Modality
from pretrain import build
from pretrain.interop.fourm_file import nest, read_file, read_names, some, write_file
from pretrain.interop.fourm_networks import SAME, Tensor, affine, mlp_tensors, pointwise, unet_tensors, vit_tensors
from pretrain.interop.fourm_tokenizer_config import describe, make_run, metadata, resized
from pretrain.models.passes import ONLINE
from pretrain.ops.positions import sincos_2d
from pretrain.parameters import path_str
from pretrain.tokenizers.networks import mlp, vit
from pretrain.tokenizers.quantizers import vq


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A tokenizer of 4M in our terms.

    model: the `model` of a run's config; params: the tree of its part `autoencoder`; config: their constructor's
    arguments as they came; fixed: {their name: array} of what is no parameter and differs from ours in some bit, for
    `write` to give back as it came; report: what was missing or read in another way.
    """

    model: dict
    modality: Modality
    params: dict
    config: dict
    fixed: dict
    report: tuple[str, ...]


class Names:
    """Where everything of a tokenizer's checkpoint is in ours, of a run; no parameter is allocated.

    ours: {our path: ShapeDtypeStruct}; tensors: {their name: `Tensor`}; fixed: {their name: array} of what they save
    beside what is learned, position tables and that a codebook has begun.
    """

    def __init__(self, run: build.Run):
        c, modality = build.model_config(run), run.modalities[0]
        model = nnx.eval_shape(lambda: build.models(run, {})[ONLINE](nnx.Rngs(0))).autoencoder
        tree = nnx.to_pure_dict(nnx.split(model)[1])
        self.ours = {path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(tree)}
        self.fixed = {}
        channels = modality.vocab_size or modality.shape[-1]
        found = [*affine("quant_proj", "to_code", pointwise(2)), *affine("post_quant_proj", "from_code", pointwise(2))]
        found.append(Tensor("cls_emb.weight", "classes", None, *SAME))
        if isinstance(c.quantizer.args[0], vq.Config):
            names = {"_codebook.embed": "codebook", "_codebook.cluster_size": "counts", "_codebook.embed_avg": "sums"}
            self.fixed["quantize._codebook.initted"] = np.ones(1, np.float32)
        else:
            names = {"codes": "codes", "to_k.weight": "to_k", "to_v.weight": "to_v"}
        found += [Tensor(f"quantize.{there}", f"quantizer/{here}", None, *SAME) for there, here in names.items()]
        for side, part in (("encoder", c.encoder.args[0]), ("decoder", c.decoder.args[0])):
            if isinstance(part, vit.Config):
                found += vit_tensors(part, side, channels)
                grid = part.span or model.encoder.grid
                table = sincos_2d(*grid, part.dim).T.reshape(1, part.dim, *grid)
                self.fixed[f"{side}.pos_emb"] = np.ascontiguousarray(table)
            else:
                found += mlp_tensors(part, side) if isinstance(part, mlp.Config) else unet_tensors(part, channels)
        self.tensors = {t.name: t for t in found if t.path in self.ours}

    def shapes(self) -> dict[str, tuple]:
        """{their name: shape} of all that a checkpoint holds."""
        out = {name: array.shape for name, array in self.fixed.items()}
        for name, t in self.tensors.items():
            leaf = self.ours[t.path]
            part = jax.ShapeDtypeStruct(leaf.shape if t.index is None else leaf.shape[1:], leaf.dtype)
            out[name] = jax.eval_shape(t.out, part).shape
        return out


def is_tokenizer(path) -> bool:
    """Whether a file of 4M holds a tokenizer; its trunks are the other ones."""
    return "quant_proj.weight" in read_names(path)


def read(path, size: int = 0) -> Checkpoint:
    """Reads a file or a folder. ValueError names what is missing, unexpected, truncated or of another architecture.

    size: side of the images that it will read, 0 for that of its config.
    """
    config, state = read_file(path)
    config = resized(config, size, path) if size else config
    model, modality, report = describe(config, path)
    names = Names(make_run(model, modality))
    shapes = names.shapes()
    wrong = {"missing": names.tensors.keys() - state.keys(), "unexpected": state.keys() - shapes.keys()}
    if any(wrong.values()):
        found = "; ".join(f"{what}: {some(sorted(which))}" for what, which in wrong.items() if which)
        raise ValueError(f"{path}: {found}: these are not the tensors of the tokenizer that its config describes")
    if absent := sorted(names.fixed.keys() - state.keys()):
        report.append(f"missing, computed from the config: {some(absent)}")
    for name, value in state.items():
        if value.shape != shapes[name]:
            raise ValueError(f"{path}: {name} has shape {value.shape}, the config means {shapes[name]}")
        if value.dtype != np.float32:
            report.append(f"re-interpreted: {name} is {value.dtype}, becomes float32")

    flat = {k: np.zeros(s.shape, np.float32) for k, s in names.ours.items()}
    for name, t in names.tensors.items():
        target = flat[t.path] if t.index is None else flat[t.path][t.index]
        target[...] = t.back(state[name])
    fixed = {k: state[k] for k, ours in names.fixed.items() if k in state and not np.array_equal(state[k], ours)}
    for name, value in fixed.items():
        if not np.abs(value - names.fixed[name]).max() <= 1e-5:
            raise ValueError(f"{path}: {name} is not what its config means: it is fixed, and no network here reads it")
    return Checkpoint(model, modality, nest(flat), config, fixed, tuple(report))


def write(out, run: build.Run, params: dict, config: dict | None = None, fixed: dict | None = None) -> Path:
    """Writes `config.json` and `model.safetensors` into a new folder, which the reference loads with strict=True.

    run, params: of a tokenizer; config, fixed: of the checkpoint that it was read from, if it was; they are written
    again as far as they are still right. Raises ValueError for what 4M has no place for.
    """
    theirs = metadata(run)
    if config and metadata(make_run(*describe(config, "its config")[:2])) == theirs:
        theirs = config
    names = Names(run)
    flat = {path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(params)}
    left = sorted(flat.keys() - {t.path for t in names.tensors.values()})
    if left:
        raise ValueError(f"4M's tokenizers have no place for {some(left)}")
    state = dict(names.fixed)
    state |= {k: v for k, v in (fixed or {}).items() if k in state and state[k].shape == v.shape}
    for name, t in names.tensors.items():
        state[name] = np.ascontiguousarray(t.out(flat[t.path] if t.index is None else flat[t.path][t.index]))
    return write_file(out, theirs, state)
