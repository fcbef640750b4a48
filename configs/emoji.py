"""Masked multimodal modeling and contrastive learning together on the emoji corpus: the quickstart's run.

Seven image styles as tokens of two tokenizers, and text, palettes and labels as SentencePiece tokens of one
vocabulary. `:tiny` is the same in a few seconds, for tests.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, text, tiny

STYLES = {
    **dict.fromkeys(("render3d", "flat", "noto"), "rgb"),
    **dict.fromkeys(("line", "mono", "mask", "edges"), "gray"),
}
PICTURES = ("render3d", "flat", "noto", "line")
TEXTS = {  # name: (field, longest)
    "caption": ("name:en", 16),
    "name": ("name:random", 20),
    "keywords": ("keywords", 32),
    "group": ("group", 8),
    "subgroup": ("subgroup", 8),
    "palette": ("palette", 23),
}
GROUPS = {  # what pictures of a group may show, for zero-shot classification
    "smileys & emotion": ("smiling face", "crying face", "heart"),
    "people & body": ("person", "man", "woman", "hand"),
    "animals & nature": ("animal", "bird", "fish", "flower", "tree"),
    "food & drink": ("fruit", "vegetable", "bread", "cake", "glass of wine"),
    "travel & places": ("building", "car", "train", "airplane", "moon"),
    "activities": ("ball", "trophy", "game", "sport"),
    "objects": ("tool", "book", "telephone", "musical instrument", "clothes"),
    "symbols": ("arrow", "button", "sign", "square"),
    "flags": ("flag",),
}
FOURM = {"caption": "caption", "palette": "color_palette", "edges": "tok_canny_edge@224"}


def modalities():
    grids = [
        dict(name=n, kind="grid", shape=(8, 8), field=n, vocab=t, vocab_size=1024, code_std=0.3, tokenizer=t,
             fourm=FOURM.get(n, ""))
        for n, t in STYLES.items()
    ]  # fmt: skip
    texts = [text(length, name=n, field=field) | dict(fourm=FOURM.get(n, "")) for n, (field, length) in TEXTS.items()]
    return grids + texts


def get_config(arg=""):
    check_arg(arg, __file__)
    names = [*STYLES, *TEXTS]
    c = ConfigDict()
    c.steps, c.batch_size = 640, 128
    c.data = dict(source="tokens", path="runs/quickstart/tokens")
    c.modalities = modalities()
    # A CPU without AMX multiplies bfloat16 more slowly than float32. Its kernels take an MLP's width of 352 faster than
    # the 341 of a ratio of 4.
    c.model = dict(
        dim=128, heads=4, encoder_depth=2, decoder_depth=2, mlp_ratio=4.125, embed_dim=128, pool_queries=8,
        table_std=0.1, waves=(0.35, 8.0), slopes=(64.0, 16.0, 4.0, 0.0), mimetic=True, dtype="float32", unroll=True,
    )  # fmt: skip
    c.objectives = dict(
        masked=dict(
            # A mean over modalities would give each of the four pictures, which have most to learn, a thirteenth.
            loss="token_mean", input_tokens=(32, 64), target_tokens=(48, 48),
            # Near half of the examples are pictures alone: what one says of a place is what another learns most from.
            mixture=[
                # Often one picture and part of another: what is made from a picture must agree with itself, too.
                dict(inputs=dict.fromkeys(PICTURES, 0.25), targets=dict.fromkeys(PICTURES, 1.0), weight=2.0),
                # Few input modalities at a time: often one is seen whole, as it is when it is asked for another.
                dict(inputs=dict.fromkeys(names, 0.05), targets=dict.fromkeys(names, 0.3)),
                # A caption is so short that it is hardly ever all there is, unless it is asked for. Its few tokens also
                # show the model what little input looks like, which guidance and `none` go by: with fewer of these what
                # it says where nothing is shown is worse than token frequencies.
                dict(inputs=dict(caption=1.0), targets=dict.fromkeys(PICTURES, 1.0)),
                # Words have few tokens in a mean over tokens: some examples ask for nothing else.
                dict(
                    inputs=dict.fromkeys(PICTURES, 0.05), targets=dict.fromkeys(TEXTS, 0.3) | {"caption": 1.0},
                    weight=0.5,
                ),
            ],
        ),
        contrastive=dict(
            coef=0.8, grid_tokens=16,
            edges=[
                dict(a="render3d", b="noto", weight=4.0), dict(a="flat", b="noto"),
                dict(a="render3d", b="caption", weight=0.1), dict(a="noto", b="caption", weight=0.1),
            ],
        ),
    )  # fmt: skip
    c.optim = dict(lr=4.5e-3, warmup=50, weight_decay=0.4, clip=1.0, moments="muon", muon_rms=1.2)
    c.ema = 0.99
    c.checkpoint = dict(every=320, best="val/loss")
    c.log = dict(every=25)
    c.evals = dict(val=dict(evaluator="losses", batch_size=32, every=320))
    pairs = [("render3d", "flat"), ("render3d", "noto"), ("render3d", "caption"), ("noto", "caption")]
    c.final_evals = dict(
        zero_shot=dict(text="caption", modalities=["render3d", "noto"], labels=["group"], names=GROUPS),
        retrieval=dict(pairs=[*pairs, ("noto+caption", "render3d"), ("noto>flat", "render3d>flat")], label="subgroup"),
        knn=dict(modalities=["render3d", "noto", "line"], labels=["group", "subgroup"]),
        linear_probe=dict(modalities=["noto"], labels=["group"]),
        few_shot=dict(modalities=["render3d", "noto"], labels=["group"]),
        similarity=dict(modalities=["caption"], overlap="keywords"),
        robustness=dict(inputs=["render3d", "caption"], labels=["group"]),
        diagnostics=dict(pairs=pairs),
        rsa=dict(modalities=["render3d", "noto", "caption"], reference="keywords"),
        nll=dict(inputs=["render3d", "noto", "line", "caption", "subgroup"], targets=names),
        generation=dict(
            pairs=[("flat", "render3d", "l1"), ("render3d", "group", "exact"), ("render3d", "palette", "colours")],
            examples=32,
        ),
    )
    if arg:
        # An MLP of 85, which `tensor` does not split: where it did, JAX 0.10's collectives waited for ever on 8 fake
        # devices of 2 cores.
        c.model.update(dict(dim=32, mlp_ratio=4.0, encoder_depth=2, decoder_depth=1, embed_dim=16, unroll=False))
        c.optim.moments = "float32"  # Muon's iterations take a quarter longer to compile
        c.evals.val.batch_size = 8
        tiny(c, steps=6, batch_size=8, warmup=2, every=2, log=2)
    return c
