"""An FSQ image tokenizer (arXiv 2309.15505) for the emoji corpus: `:rgb` for colour styles, `:gray` for the others.

The colour styles share one tokenizer and so one vocabulary, the grey ones another.
"""

from ml_collections import ConfigDict

STYLES = {"rgb": (("render3d", "flat", "noto"), 3), "gray": (("line", "mono", "mask", "edges:render3d"), 1)}


def get_config(arg="rgb"):
    if arg not in STYLES:
        raise ValueError(f"configs/emoji_tokenizer.py:{arg}: the argument must be one of {', '.join(STYLES)}")
    fields, channels = STYLES[arg]
    c = ConfigDict()
    c.seed = 0
    c.mesh = "ddp"
    c.accum = 1
    c.steps = 1800
    c.batch_size = {"rgb": 3, "gray": 2}[arg]  # examples; every style of them is an image
    c.data = dict(source="emoji", train="train")
    c.modalities = [dict(name=f.split(":")[0], kind="pixels", shape=(64, 64, channels), field=f) for f in fields]
    c.model = dict(
        model="tokenizers.autoencoder", code_scale=3.0, dtype="float32",
        encoder=dict(network="patches", patch=8, dim=128, mlps=2),
        quantizer=dict(quantizer="fsq", levels=(4, 4, 4, 4, 4)),
        decoder=dict(network="patches", patch=8, dim=128, mlps=1, blocks=1, heads=2),
    )  # fmt: skip
    c.objectives = dict(reconstruction=dict(loss="l1"))
    c.optim = dict(lr=4e-3, warmup=50, b2=0.99, weight_decay=0.0, clip=1.0)
    c.ema = 0.99
    c.checkpoint = dict(every=900, keep=1)
    c.log = dict(every=150, wandb="", profile="")
    c.evals = dict(val=dict(evaluator="losses", split="val", batch_size=32, repeats=1, every=900))
    return c
