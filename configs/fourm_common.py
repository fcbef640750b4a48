"""What the 4M configs share: the named sizes, the optimizer as published, and how steps follow from tokens.

Sources: arXiv 2312.06647 (4M-7), 2406.09406 (4M-21), and the released configs of apple/ml-4m; where they differ the
released config is followed and the config here says what the paper says.
"""

from ml_collections import ConfigDict

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
    "swiglu_nobias": dict(gated=True, bias=False),
    "swiglu_qknorm_nobias": dict(gated=True, bias=False, qk_norm=True),
}


def rates(size):
    """XL trains with a fifth of the learning rate and clipped gradients, in both papers and all released configs."""
    return dict(blr=2e-5, clip=3.0) if size == "XL" else dict(blr=1e-4)


def parse_arg(arg, file, default="B"):
    """`SIZE` or `SIZE,BLOCKS` of a config argument → (size, model settings)."""
    size, _, blocks = (arg or default).partition(",")
    blocks = blocks or "swiglu_nobias"
    if size not in SIZES or blocks not in BLOCKS:
        raise ValueError(
            f"configs/{file}.py:{arg}: write SIZE or SIZE,BLOCKS with SIZE one of {', '.join(SIZES)} and BLOCKS one of "
            f"{', '.join(BLOCKS)}"
        )
    return size, SIZES[size] | BLOCKS[blocks]


def base(names, model, *, batch_size, inputs, targets, tokens, warmup_tokens, blr, clip=0.0):
    """A 4M run over modalities `names`; inputs and targets are (smallest, largest) token budgets.

    4M counts a sample as its full budgets, filled or not: steps = tokens / (batch · (inputs + targets)); its learning
    rate is blr · batch / 256 (released configs).
    """
    per_step = batch_size * (inputs[1] + targets[1])
    c = ConfigDict()
    c.seed = 0
    c.mesh = "fsdp"
    c.accum = 1
    c.steps = round(tokens / per_step)
    c.batch_size = batch_size
    c.data = dict(source="tokens", path="", train="train")
    c.modalities = modalities(names)
    c.model = dict(model="models.encdec", **model, tables="split", dtype="bfloat16", remat="none", attention="xla")
    c.objectives = dict(
        masked=dict(
            coef=1.0, loss="modality_mean", fill="full", input_tokens=inputs, target_tokens=targets, mixture=[],
        )
    )  # fmt: skip
    c.init = ""
    c.optim = dict(
        lr=blr * batch_size / 256, warmup=round(warmup_tokens / per_step), weight_decay=0.05, b1=0.9, b2=0.95,
        clip=clip, moments="float32",
    )  # fmt: skip
    c.ema = 0.0
    c.checkpoint = dict(every=2000, keep=2, best="")
    c.log = dict(every=50, wandb="", profile="")
    c.evals = dict(val=dict(evaluator="losses", split="val", batch_size=256, repeats=1, every=2000))
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
