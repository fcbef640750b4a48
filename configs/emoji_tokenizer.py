"""Image tokenizers for the emoji corpus: `:rgb` for colour styles, `:gray` for the others.

The colour styles share one tokenizer and so one vocabulary, the grey ones another. Their codes are the k-means of
random projections of patches, and a decoder with attention learns to paint from them. `:rgb-fsq`, `:gray-lfq`, … learn
the encoder too, for another quantizer of the same ten bits a patch, `:rgb-fsq-conv` with other networks.
"""

from ml_collections import ConfigDict

from configs.common import wrong_arg

STYLES = {"rgb": (("render3d", "flat", "noto"), 3), "gray": (("line", "mono", "mask", "edges:render3d"), 1)}
# {name: (quantizer, what its codes are multiplied by, further terms of the loss, the objective `code_entropy`)}
# A stronger commitment than this draws codes into the few directions in which patches differ most, such as brightness.
# Without an entropy `fsq`, `lfq` and `memcodes` leave many of their codes unused.
QUANTIZERS = {
    "kmeans": (dict(quantizer="vq", size=1024, width=64, cosine=False, decay=0.999, kmeans=60_000), 1.0, {}, {}),
    "fsq": (dict(quantizer="fsq", levels=(4, 4, 4, 4, 4)), 3.0, {}, dict(coef=0.02, sure=0.3, temperature=0.25)),
    "vq": (dict(quantizer="vq", size=1024, width=16, decay=0.95), 3.0, dict(commitment=0.02), {}),
    "euclidean": (dict(quantizer="vq", size=1024, width=16, cosine=False, decay=0.95), 1.0, dict(commitment=0.01), {}),
    "residual": (dict(quantizer="residual", levels=2, size=32, width=16, decay=0.95), 1.0, dict(commitment=0.01), {}),
    "lfq": (dict(quantizer="lfq", width=10), 1.0, dict(commitment=0.02), dict(coef=0.1)),
    "memcodes": (dict(quantizer="memcodes", heads=2, size=32, width=64), 1.0, {}, dict(coef=0.02, sure=0.5)),
}
PAINTER = dict(network="patches", patch=8, overlap=2, dim=128, mlps=1, blocks=1, heads=2)
NETWORKS = {  # {name: (encoder, decoder)}
    "patches": (dict(network="patches", patch=8, dim=128, mlps=2), PAINTER),
    "linear": (dict(network="patches", patch=8, dim=128, mlps=0), PAINTER),  # it keeps its random values
    "conv": (dict(network="conv", widths=(16, 32, 64, 128)), dict(network="conv", widths=(16, 32, 64, 128))),
}


def get_config(arg="rgb"):
    parts = arg.split("-")
    style, name = [*parts, *("rgb", "kmeans")[len(parts) :]][:2]
    network = parts[2] if len(parts) > 2 else "linear" if name == "kmeans" else "patches"
    if len(parts) > 3 or style not in STYLES or name not in QUANTIZERS or network not in NETWORKS:
        raise wrong_arg(
            arg, __file__, f"one of {', '.join(STYLES)}, alone, as in rgb-fsq with one of {', '.join(QUANTIZERS)}, or "
            f"as in rgb-fsq-conv with one of {', '.join(NETWORKS)} too",
        )  # fmt: skip
    encoder, decoder = NETWORKS[network]
    quantizer, code_scale, terms, entropy = QUANTIZERS[name]
    fields, channels = STYLES[style]
    c = ConfigDict()
    c.steps = 700
    c.batch_size = {"rgb": 3, "gray": 2}[style]  # examples; every style of them is an image
    c.data = dict(source="emoji")
    c.modalities = [dict(name=f.split(":")[0], kind="pixels", shape=(64, 64, channels), field=f) for f in fields]
    c.model = dict(
        model="tokenizers.autoencoder", code_scale=code_scale, fixed_encoder=network == "linear", dtype="float32",
        encoder=encoder, quantizer=quantizer, decoder=decoder,
    )  # fmt: skip
    c.objectives = dict(reconstruction=dict(terms=dict(l1=1.0, l2=1.0, **terms)))
    if entropy:
        c.objectives.code_entropy = entropy
    c.optim = dict(lr=4e-3, warmup=50, b2=0.99, weight_decay=0.0, clip=1.0, moments="muon")
    c.ema = 0.99
    c.checkpoint = dict(every=350, keep=1)
    c.log = dict(every=100)
    c.evals = dict(
        val=dict(evaluator="losses", batch_size=32, every=350),
        codes=dict(evaluator="reconstruction", batch_size=32),
    )
    return c
