"""What the 4M configs share: the named sizes, the optimizer as published, and how steps follow from tokens.

Sources: arXiv 2312.06647 (4M-7), 2406.09406 (4M-21), and the released configs of apple/ml-4m; where they differ the
released config is followed and the config here says what the paper says. Weight decay .05 and Adam's .9 and .95 are
the defaults of `pretrain.optim`.
"""

from ml_collections import ConfigDict

from configs.common import wrong_arg
from data_pipeline.fourm import modalities

# name: width, heads, layers of the encoder and of the decoder. A head is 64 wide, an MLP four times the width. The tiny
# one is for CPUs: its blocks are written out, so that XLA does not copy what the backward pass needs of each.
SIZES = {
    "tiny": dict(dim=384, heads=6, encoder_depth=6, decoder_depth=6, unroll=True),
    "small": dict(dim=512, heads=8, encoder_depth=8, decoder_depth=8),
    "B": dict(dim=768, heads=12, encoder_depth=12, decoder_depth=12),
    "L": dict(dim=1024, heads=16, encoder_depth=24, decoder_depth=24),
    "XL": dict(dim=2048, heads=32, encoder_depth=24, decoder_depth=24),
}
BLOCKS = {
    "gelu": dict(gated=False, bias=True),
    "swiglu_nobias": dict(),
    "swiglu_qknorm_nobias": dict(qk_norm=True),
}


def rates(size):
    """XL trains with a fifth of the learning rate and clipped gradients, in both papers and all released configs."""
    return dict(blr=2e-5, clip=3.0) if size == "XL" else dict(blr=1e-4)


def parse_arg(arg, file, default="B"):
    """`SIZE` or `SIZE,BLOCKS` of a config argument → (size, model settings)."""
    size, _, blocks = (arg or default).partition(",")
    blocks = blocks or "swiglu_nobias"
    if size not in SIZES or blocks not in BLOCKS:
        raise wrong_arg(
            arg, file, f"empty, SIZE or SIZE,BLOCKS with SIZE one of {', '.join(SIZES)} and BLOCKS one of "
            f"{', '.join(BLOCKS)}",
        )  # fmt: skip
    return size, SIZES[size] | BLOCKS[blocks]


def masked(specs, model, *, steps, batch_size, inputs, targets, **optim):
    """A run of 4M's network and objective over specs; inputs and targets are (smallest, largest) token budgets."""
    return ConfigDict(
        dict(
            steps=steps, batch_size=batch_size, data=dict(source="tokens"), modalities=specs,
            model=dict(model, tables="split"), objectives=dict(masked=dict(input_tokens=inputs, target_tokens=targets)),
            optim=optim, evals=dict(val=dict(evaluator="losses", batch_size=256, every=2000)),
        )
    )  # fmt: skip


def base(names, model, *, batch_size, inputs, targets, tokens, warmup_tokens, blr, **optim):
    """A published 4M run over modalities `names`.

    4M counts a sample as its full budgets, filled or not: steps = tokens / (batch · (inputs + targets)); its learning
    rate is blr · batch / 256 (released configs).
    """
    per_step = batch_size * (inputs[1] + targets[1])
    c = masked(
        modalities(names), model, steps=round(tokens / per_step), batch_size=batch_size, inputs=inputs, targets=targets,
        lr=blr * batch_size / 256, warmup=round(warmup_tokens / per_step), **optim,
    )  # fmt: skip
    c.mesh = "fsdp"
    return c


def component(names, inputs, targets, *, weight=1.0, keep=None, **more):
    """A mixture component: one alpha for every input and one for every target, but for those in `more`.

    more: {modality: (input alpha, target alpha)}.
    """
    dense = ("rgb@224", "rgb@448", "t5_caption")  # input only
    pairs = {n: more.get(n, (inputs, targets)) for n in names}
    return dict(
        inputs={n: a for n, (a, _) in pairs.items() if a},
        targets={n: b for n, (_, b) in pairs.items() if b and n not in dense},
        keep=keep or {}, weight=weight,
    )  # fmt: skip
