"""MDETR: modulated detection for end-to-end multi-modal understanding (arXiv 2104.12763).

Carried: picture and text side by side in one encoder, a decoder of learned queries, whose every layer finds the objects
that the text names: boxes, matched to the true ones at the least cost, the positions of the tokens that name each, and
a contrast of queries with those tokens.

`--config.data.path`: a folder with an image, a caption, boxes, and the characters of the caption that name each box,
for every example. Boxes as tokens of a text (4M's `det`, `configs/systems/fourm21.py`) need none of this and are the
first choice; here they are a set. `:tiny` runs on simulated scenes: coloured silhouettes of emoji, of which a caption
names some.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="A detector that a text modulates, trained end to end on pictures whose captions name what lies where, "
    "transfers to grounding, segmentation and questions, also of rare objects.",
    formula="Of every decoder layer the queries are matched to the boxes at the least cost `−⟨softmax(logits), m⟩ + "
    "5 · ‖b − b'‖₁ − 2 · GIoU(b, b')`, m the map of the tokens that name a box, of sum 1. `L = Σ_layers (tokens + "
    "5 · l1 + 2 · giou + align) / boxes`, the boxes those of the global batch, at least 1. `tokens`: `−⟨m, log p⟩` of "
    "matched queries, `−log p(no object) · .1` of the others; `l1` and `giou`, `1 − GIoU`, of matched ones; `align`: "
    "for each matched query `log Σ_tokens exp(q·t / .07) −` the mean of `q·t / .07` over its tokens, and for each of "
    "these tokens the same over queries, `/ 2`; q and t of 64 numbers and unit length. `mask_pad`: padding is left out "
    "of the sum; the release, and the full size, has it in there.",
    test="tests/objectives/test_set_prediction.py::test_the_loss_and_its_gradient_equal_numpy",
    experiment="mdetr",
    control="soft tokens alone",
    gate="With alignment AP@.5 is above that of soft tokens alone. On colours and shapes that were never named "
    "together soft tokens beat a closed set of such pairs by .1 of AP@.5 and more. The matcher is indifferent to the "
    "order of boxes and of queries (a test).",
    out="ResNet-101 and the weights of RoBERTa, the 1.3 million pairs, segmentation and question answering.",
)
APPROXIMATE = (
    "The picture's encoder is a transformer of RoBERTa's size over patches of 32 pixels, the stride of the published "
    "ResNet-101's last stage, on squares of 640 pixels; MDETR's pictures have sides of up to 1,333.",
    "Norms stand before attention and MLP, as in all blocks here, the decoder's last after every layer; MDETR's stand "
    "behind them. Positions are added once before the encoder and once to what the queries look at, MDETR's to queries "
    "and keys of every attention; queries start as their embeddings, and no dropout is applied.",
    "From memory of the release: the token map is scaled to sum 1 in cost and loss, and a box whose phrase has no "
    "token counts in the boxes, but in no alignment; 8 heads, MLPs of 2,048, batch 64.",
    "AdamW with a cosine; MDETR's rates fall in a step, and linearly for the text. 40 epochs are of 1.3 million pairs.",
    "What a phrase finds is ranked by the probability of all its tokens, from memory; AP@.5 is the area under the "
    "interpolated curve over all phrases of a split.",
    "In the experiment the closed set ranks unseen pairs by logits that no training ever raised: the gate says that "
    "token positions compose, and not that a closed set is badly trained.",
)
SIZES = {
    "": dict(dim=256, heads=8, mlp_ratio=8.0, encoder=6, decoder=6, queries=100),
    "tiny": dict(dim=64, heads=4, mlp_ratio=4.0, encoder=2, decoder=2, queries=8),
}


def model(dim, heads, mlp_ratio, encoder, decoder, queries, *, positions, towers=None, align=64, waves=(1.0, 10_000.0)):
    """The network: encoders of picture and text (`towers`, their settings), one of both, queries, and their heads.

    positions: of a query's logits, of which the last is "no object". align: numbers of a projection.
    """
    towers = towers or dict(dim=dim, heads=heads, depth=1)
    block, of_queries = dict(dim=dim, heads=heads, mlp_ratio=mlp_ratio), dict(part="predict", reads=["queries"])
    width = towers["dim"]
    return dict(
        model="models.network",
        parts=dict(
            embed_image=dict(part="embed_one", reads=["image"], dim=width),
            embed_text=dict(part="embed_one", reads=["text"], dim=width),
            vision=dict(part="encoder", reads=["embed_image"], **towers),
            language=dict(part="encoder", reads=["embed_text"], **towers),
            text_pool=dict(part="pool", reads=["language"], width=width),  # what the harness reads: language alone
            both=dict(part="join", reads=["vision", "language"], dim=dim, waves=waves),
            encoder=dict(part="encoder", reads=["both"], depth=encoder, **block),
            queries=dict(part="query_decoder", reads=["encoder"], depth=decoder, queries=queries, **block),
            boxes=dict(part="mlp", reads=["queries"], dim=4, hidden=(dim, dim), final="sigmoid"),
            tokens=of_queries | dict(dim=positions),
            align_queries=of_queries | dict(dim=align),
            align_tokens=dict(part="predict", reads=["encoder"], dim=align),
        ),
    )  # fmt: skip


def objective(**align):
    """Boxes, tokens and their alignment; align: its settings."""
    projections = dict(queries="align_queries", tokens="align_tokens")
    return dict(
        objective="set_prediction", inputs=("image", "text"), text="text", boxes="boxes", phrases="phrases",
        box_head="boxes", token_head="tokens", align=projections | align,
    )  # fmt: skip


def get_config(arg=""):
    check_arg(arg, __file__)
    small = arg == "tiny"
    objects, length, tokenizer = (3, 16, "text") if small else (100, 255, "tokenizers/roberta.json")
    c = ConfigDict()
    c.steps, c.batch_size = 812_500, 64
    c.data = dict(source="coloured_emoji", options=dict(side=36)) if small else dict(source="files", path="data/mdetr")
    picture = image(36, 6, field="picture") if small else image(640, 32)
    c.modalities = [picture, text(length, 8000 if small else 50_265, tokenizer)]
    c.labels = [
        dict(name="boxes", kind="boxes", shape=(objects, 4), field="boxes"),
        dict(name="phrases", kind="phrases", shape=(length, objects), field="phrases", tokenizer=tokenizer),
    ]
    towers = None if small else dict(dim=768, heads=12, depth=12)
    c.model = model(**SIZES[arg], positions=length + 1, towers=towers, waves=(1.0, 20.0) if small else (1.0, 10_000.0))
    c.objectives = dict(found=objective() if small else objective(mask_pad=False))
    rules = [("model/(embed_image|vision)/", 0.1), ("model/(embed_text|language)/", 0.5)]
    c.optim = dict(lr=1e-4, b2=0.999, weight_decay=1e-4, clip=0.1)
    c.evals = dict(val=dict(evaluator="losses", every=20_000))
    if small:
        c.optim.update(dict(lr=2e-3, clip=1.0))
        tiny(c, steps=400, warmup=20, every=200, log=50)
        c.final_evals = dict(grounding=dict(splits=("val", "test")), losses=dict(split="test"))
        return c
    c.optim.rules, c.ema = [dict(pattern=pattern, lr_scale=scale) for pattern, scale in rules], 0.9998
    return c
