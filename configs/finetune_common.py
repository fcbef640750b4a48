"""What the fine-tuning recipes of 4M share (arXiv 2312.06647, 2406.09406, their appendices; `B`, `L`, `XL` of a model).

Only the encoder is used. Every recipe says where its numbers are from; what no paper says is marked `ours`.
"""

from ml_collections import ConfigDict


def by_size(arg, file, **values):
    """The entries of each `key=(B, L, XL)` for a config's argument, B if it is empty."""
    sizes = ("B", "L", "XL")
    if (arg or "B") not in sizes:
        raise ValueError(f"configs/{file}.py:{arg}: the argument must be empty or one of {', '.join(sizes)}")
    at = sizes.index(arg or "B")
    return {key: choices[at] for key, choices in values.items()}


def lora(rank):
    """Low-rank updates of the encoder's matrices, beside the head. alpha: ours, the update as it is."""
    return [dict(pattern="^model/encoder/.*kernel$", how="lora", rank=rank, alpha=float(rank))]


def recipe(*, path, epochs, warmup, images, batch_size, lr, layer_decay, weight_decay, b2, shape, labels, objectives):
    """A run on the pixels that the model reads, in another size if `shape` is; epochs of `images` examples, rounded."""
    c = ConfigDict()
    c.seed, c.mesh, c.accum = 0, "fsdp", 1
    c.batch_size = batch_size
    c.steps = round(epochs * images / batch_size)
    c.init = ""
    c.data = dict(
        source="files", path=path, train="train", workers=8, min_scale=1.0, ratio=(1.0, 1.0), flip=0.5, jitter=(),
        randaugment=dict(ops=0, magnitude=9.0, std=0.5),
    )  # fmt: skip
    c.modalities = [dict(name="rgb@224", shape=shape)]
    c.labels = [labels]
    c.model = dict(decoder_depth=0)
    c.adapt = []
    c.objectives = objectives
    c.optim = dict(
        lr=lr, warmup=round(warmup * images / batch_size), weight_decay=weight_decay, b1=0.9, b2=b2, clip=0.0,
        layer_decay=layer_decay, moments="float32",
    )  # fmt: skip
    c.ema = 0.0
    c.checkpoint = dict(every=1000, keep=2, best="")
    c.log = dict(every=50, wandb="", profile="")
    c.evals = dict(val=dict(evaluator="losses", split="val", batch_size=batch_size, repeats=1, every=1000))
    return c
