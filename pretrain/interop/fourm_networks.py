"""Where the tensors of 4M's tokenizer networks are in ours, and how each is laid out there and here.

Their maps are `[B, C, H, W]`, ours `[B, H, W, C]`; in a patch they count (channel, row, column), we (row, column,
channel).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pretrain.tokenizers.networks import mlp, unet, vit


class Tensor(NamedTuple):
    """One of their tensors: part `index` of the first axis of our `path`, or all of it if that is None.

    Where a network lacks a layer (a projection to other channels, attention), neither is there.
    out: our array → theirs; back: theirs → ours. Both also work on shapes alone, under `jax.eval_shape`.
    """

    name: str
    path: str
    index: int | None
    out: Callable
    back: Callable


class Layout(NamedTuple):
    out: Callable
    back: Callable


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))


def pointwise(axes: int) -> Layout:
    """A linear layer of ours that is a convolution over single places of `axes` axes there."""
    return Layout(lambda x: x.T.reshape(*x.T.shape, *(1,) * axes), lambda x: x.reshape(x.shape[:2]).T)


def reordered(layout: Layout, order, axis: int) -> Layout:
    """Their channels along `axis` of our array are ours in this order."""
    inverse = np.argsort(order)
    return Layout(lambda x: layout.out(x.take(order, axis)), lambda x: layout.back(x).take(inverse, axis))


def patch_order(patch: int, channels: int) -> np.ndarray:
    """The places in our patch `(row, column, channel)` in the order of theirs, `(channel, row, column)`."""
    return np.arange(patch**2 * channels).reshape(patch, patch, channels).transpose(2, 0, 1).ravel()


def patch_kernel(patch: int) -> Layout:
    """Our linear layer of patches as their convolution."""
    return Layout(
        lambda x: x.reshape(patch, patch, -1, x.shape[1]).transpose(3, 2, 0, 1),
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    )


def affine(name: str, path: str, kernel: Layout = LINEAR, bias: Layout = SAME, index=None) -> list[Tensor]:
    """Weight and bias of a layer; `kernel` says what layer it is, SAME a norm."""
    ours = "scale" if kernel is SAME else "kernel"
    parts = (("weight", ours, kernel), ("bias", "bias", bias))
    return [Tensor(f"{name}.{there}", f"{path}/{here}", index, *layout) for there, here, layout in parts]


def vit_tensors(config: vit.Config, side: str, channels: int) -> Iterator[Tensor]:
    """side: `encoder` or `decoder`; channels: of what comes out of the decoder."""
    blocks = f"{side}/trunk/blocks"
    for i in range(config.depth):
        for norm, ours in (("norm1", "attn/norm"), ("norm2", "mlp/norm")):
            yield from affine(f"{side}.blocks.{i}.{norm}", f"{blocks}/{ours}", SAME, index=i)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            yield from affine(f"{side}.blocks.{i}.{layer}", f"{blocks}/{layer.replace('.', '/')}", index=i)
    if config.post_mlp:
        yield from affine(f"{side}.norm_mlp", f"{side}/trunk/post/norm", SAME)
        for layer in ("fc1", "fc2"):
            yield from affine(f"{side}.post_mlp.{layer}", f"{side}/trunk/post/mlp/{layer}")
    if side == "encoder":
        yield from affine("encoder.proj", "encoder/proj", patch_kernel(config.patch))
        return
    order = patch_order(config.patch, channels)
    yield from affine("decoder.out_proj", "decoder/proj", reordered(LINEAR, order, 1), reordered(SAME, order, 0))
    for i in range(config.convs):
        name, path = f"decoder.out_conv.{i}", "decoder/convs"
        yield from affine(f"{name}.dwconv", f"{path}/conv", CONV, index=i)
        yield from affine(f"{name}.norm", f"{path}/norm", SAME, index=i)
        yield from affine(f"{name}.pwconv1", f"{path}/fc1", index=i)
        yield from affine(f"{name}.pwconv2", f"{path}/fc2", index=i)
        yield Tensor(f"{name}.gamma", f"{path}/gamma", i, *SAME)


def mlp_tensors(config: mlp.Config, side: str) -> Iterator[Tensor]:
    for layer in ("linear_in", "linear_out"):
        yield from affine(f"{side}.{layer}", f"{side}/{layer}")
    for i in range(config.depth):
        yield from affine(f"{side}.layernorms.{i}", f"{side}/blocks/mlp/norm", SAME, index=i)
        for there, here in (("0", "fc1"), ("2", "fc2")):
            yield from affine(f"{side}.blocks.{i}.block.{there}", f"{side}/blocks/mlp/{here}", index=i)


def unet_tensors(config: unet.Config, channels: int) -> Iterator[Tensor]:
    """Theirs are numbered along the way down (the stem is 0) and along the way up, with what is inside each."""
    pixels = patch_order(config.patch, channels)
    stem = np.append(pixels, len(pixels) + np.arange(config.dim))
    for there, here in (("0", "time1"), ("2", "time2")):
        yield from affine(f"decoder.time_embed.{there}", f"decoder/{here}")
    yield from affine("decoder.input_blocks.0.0", "decoder/stem", reordered(CONV, stem, 2))
    levels, at = len(config.multipliers), 1
    for level in range(levels):
        for i in range(config.blocks):
            yield from block_tensors(f"decoder.input_blocks.{at}", f"decoder/down/{level}/blocks/{i}")
            at += 1
        if level < levels - 1:
            yield from affine(f"decoder.input_blocks.{at}.0.op", f"decoder/down/{level}/leave", CONV)
            at += 1
    middle = "decoder.middle_block"
    yield from residual_tensors(f"{middle}.0", "decoder/middle1/residual")
    yield from attention_tensors(f"{middle}.1", "decoder/middle1/attention")
    yield from residual_tensors(f"{middle}.2", "decoder/middle2")
    at = 0
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            name = f"decoder.output_blocks.{at}"
            yield from block_tensors(name, f"decoder/up/{level}/blocks/{i}")
            if level and i == config.blocks:
                inside = 1 + (2**level in config.attention)
                yield from affine(f"{name}.{inside}.conv", f"decoder/up/{level}/leave", CONV)
            at += 1
    yield from affine("decoder.out.0", "decoder/norm", SAME)
    yield from affine("decoder.out.2", "decoder/out", reordered(CONV, pixels, 3), reordered(SAME, pixels, 0))


def block_tensors(name: str, path: str) -> Iterator[Tensor]:
    yield from residual_tensors(f"{name}.0", f"{path}/residual")
    yield from attention_tensors(f"{name}.1", f"{path}/attention")


def residual_tensors(name: str, path: str) -> Iterator[Tensor]:
    yield from affine(f"{name}.in_layers.0", f"{path}/norm1", SAME)
    yield from affine(f"{name}.in_layers.2", f"{path}/conv1", CONV)
    yield from affine(f"{name}.emb_layers.1", f"{path}/time")
    yield from affine(f"{name}.out_layers.0", f"{path}/norm2", SAME)
    yield from affine(f"{name}.out_layers.3", f"{path}/conv2", CONV)
    yield from affine(f"{name}.skip_connection", f"{path}/skip", pointwise(2))


def attention_tensors(name: str, path: str) -> Iterator[Tensor]:
    yield from affine(f"{name}.norm", f"{path}/norm", SAME)
    yield from affine(f"{name}.qkv", f"{path}/attn/qkv", pointwise(1))
    yield from affine(f"{name}.proj_out", f"{path}/attn/proj", pointwise(1))
