"""What the fine-tuning recipes of 4M share (arXiv 2312.06647, 2406.09406, their appendices; `B`, `L`, `XL` of a model).

Only the encoder is used. Every recipe says where its numbers are from; what no paper says is marked `ours`.
"""

from ml_collections import ConfigDict

from configs.common import check_arg

SIZES = ("B", "L", "XL")


def by_size(arg, file, **values):
    """The entries of each `key=(B, L, XL)` for a config's argument, B if it is empty."""
    check_arg(arg, file, SIZES)
    at = SIZES.index(arg or "B")
    return {key: choices[at] for key, choices in values.items()}


def lora(rank):
    """Low-rank updates of the encoder's kernels, beside the head. alpha: ours, the update as it is."""
    return [dict(parts=["encoder"], how="lora", rank=rank, alpha=float(rank))]


def recipe(*, epochs, warmup, images, batch_size, shape, labels, objectives, **optim):
    """A run on the pixels that the model reads, in another size if `shape` is; epochs of `images` examples, rounded."""
    return ConfigDict(
        dict(
            steps=round(epochs * images / batch_size), batch_size=batch_size, mesh="fsdp",
            data=dict(source="files", workers=8, transforms=[dict(transform="crop", min_scale=1.0, flip=0.5)]),
            modalities=[dict(name="rgb@224", shape=shape)], labels=[labels],
            model=dict(decoder_depth=0), objectives=objectives,
            optim=dict(warmup=round(warmup * images / batch_size), **optim),
            checkpoint=dict(every=1000), evals=dict(val=dict(evaluator="losses", batch_size=batch_size, every=1000)),
        )
    )  # fmt: skip
