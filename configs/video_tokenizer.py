"""A tokenizer of clips as MAGVIT-v2 has them (arXiv 2310.05737): causal convolutions and lookup-free codes.

17 frames of 128 × 128 become 5 × 16 × 16 codes of 18 bits. config.data.path: a folder whose JSONL files name clips,
uint8[T, H, W, 3] arrays that NumPy saved, as `clip`. `:tiny` runs on emoji that move. Learning rate, batch and the
widths of the networks are ours.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, tiny


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    c.steps = 100_000
    c.batch_size = 128
    c.data = dict(source="files")
    c.modalities = [dict(name="clip", kind="video", shape=(17, 128, 128, 3), field="clip")]
    network = dict(network="causal3d", widths=(128, 256, 256, 512))
    quantizer = dict(quantizer="lfq", width=18)
    c.model = dict(model="tokenizers.autoencoder", encoder=network, quantizer=quantizer, decoder=dict(network))
    c.objectives = dict(reconstruction=dict(terms=dict(l2=1.0, commitment=0.02)), code_entropy=dict(group=512))
    c.optim = dict(lr=3e-4, warmup=1000, b2=0.99, weight_decay=0.0, clip=1.0)
    c.ema = 0.999
    c.evals = dict(
        val=dict(evaluator="losses", batch_size=32, every=2000),
        codes=dict(evaluator="reconstruction", batch_size=32),
    )
    if not arg:
        return c
    c.data = dict(source="moving_emoji", options=dict(frames=9, size=32))
    c.modalities = [dict(name="clip", kind="video", shape=(5, 32, 32, 3), field="clip")]
    for part in ("encoder", "decoder"):
        c.model[part].update(dict(widths=(16, 32, 64), blocks=1, halvings=1))
    c.model.quantizer.width, c.objectives.code_entropy.group = 10, 1024
    c.optim.lr, c.ema = 2e-3, 0.9
    return tiny(c, steps=200, batch_size=8, warmup=20, every=100, log=25)
