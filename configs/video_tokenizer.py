"""A tokenizer of clips as MAGVIT-v2 has them (arXiv 2310.05737): causal convolutions and lookup-free codes.

17 frames of 128 × 128 become 5 × 16 × 16 codes of 18 bits. config.data.path: a folder whose JSONL files name clips,
uint8[T, H, W, 3] arrays that NumPy saved, as `clip`. `:tiny` runs on emoji that move. Learning rate, batch and the
widths of the networks are ours.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "tiny"):
        raise ValueError(f"configs/video_tokenizer.py:{arg}: the argument must be empty or `tiny`")
    c = ConfigDict()
    c.seed = 0
    c.mesh = "ddp"
    c.accum = 1
    c.steps = 100_000
    c.batch_size = 128
    c.data = dict(source="files", path="", train="train", options={})
    c.modalities = [dict(name="clip", kind="video", shape=(17, 128, 128, 3), field="clip")]
    network = dict(network="causal3d", widths=(128, 256, 256, 512), blocks=2, halvings=2)
    c.model = dict(
        model="tokenizers.autoencoder", code_scale=1.0, dtype="bfloat16",
        encoder=network, quantizer=dict(quantizer="lfq", width=18), decoder=dict(network),
    )  # fmt: skip
    c.objectives = dict(
        reconstruction=dict(terms=dict(l2=1.0, commitment=0.02)), code_entropy=dict(coef=0.1, group=512)
    )
    c.optim = dict(lr=3e-4, warmup=1000, b2=0.99, weight_decay=0.0, clip=1.0)
    c.ema = 0.999
    c.checkpoint = dict(every=2000, keep=2)
    c.log = dict(every=50, wandb="", profile="")
    c.evals = dict(
        val=dict(evaluator="losses", split="val", batch_size=32, repeats=1, every=2000),
        codes=dict(evaluator="reconstruction", split="val", batch_size=32),
    )
    if not arg:
        return c
    c.data = dict(source="moving_emoji", path="", train="train", options=dict(frames=9, size=32))
    c.modalities = [dict(name="clip", kind="video", shape=(5, 32, 32, 3), field="clip")]
    for part in ("encoder", "decoder"):
        c.model[part].update(dict(widths=(16, 32, 64), blocks=1, halvings=1))
    c.model.quantizer.width, c.model.dtype = 10, "float32"
    c.objectives.code_entropy.group = 1024
    c.steps, c.batch_size = 200, 8
    c.optim.update(dict(lr=2e-3, warmup=20))
    c.ema = 0.9
    c.checkpoint.every = c.evals.val.every = 100
    c.log.every = 25
    return c
