"""2D Matryoshka sentence embeddings (arXiv 2402.14776).

Carried: a loss at a drawn layer and a drawn width beside the last and the whole, around any contrastive loss; the last
layer teaches the drawn one.

A text tower of BERT-base's size over pairs of sentences, JSONL with `sentence` and `other` (`--config.data.path`).
`:tiny` pairs the English name of an emoji with its keywords.
"""

from configs.common import check_arg, text
from configs.contrastive_common import base, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Training nested widths and nested layers gives usable sentence embeddings from the first layers of a "
    "transformer.",
    formula="With the last layer L, the whole width D, one layer l < L and one width d drawn a step: "
    "`base(L, D) + base(L, d) + base(l, D) + base(l, d) + τ · KL(softmax(z_L / τ) ‖ softmax(z_l / τ))`, τ = .3, no "
    "gradient into z_L; each embedding is cut, then normalised again.",
    test="tests/objectives/test_published.py::test_2d_matryoshka_is_the_sum_of_four_losses_and_a_divergence",
    experiment="matryoshka",
    control="CLIP",
    gate="R@1 of the first layer rises by at least 20 points, that of the last falls by at most 3.",
    out="AnglE's base losses (CoSENT, angles), the compression of ESE; tables of STS.",
)
APPROXIMATE = (
    "The base loss is in-batch negatives at a scale of 20, one of AnglE's three terms.",
    "The drawn layer has weight 1; AnglE's is 1 / (1 + ln(1 + i)).",
    "Widths, batch, rate and steps are ours.",
)
COEF = 4.0  # the objective takes the mean of its four losses, the paper their sum


def get_config(arg=""):
    check_arg(arg, __file__)
    names = ("sentence", "other")
    modalities = [text(128, 30522, "tokenizers/bert.json", name=n, field=n) for n in names]
    tower = dict(name="text", modalities=names, dim=768, heads=12, depth=12, pool="mean")
    matching = dict(objective="contrastive", edges=[dict(a="sentence", b="other")], temperature=0.05, learn="fixed")
    objective = dict(
        base=matching, widths=(8, 16, 32) if arg else (32, 128, 512), layers=True, align=1 / COEF, coef=COEF
    )
    c = base(
        modalities, [tower], dict(matryoshka=objective), embed_dim=768, batch_size=512, steps=10_000,
        optim=dict(lr=5e-5, warmup=1000, weight_decay=0.01),
    )  # fmt: skip
    return tiny(c, dict(sentence="name:en", other="keywords")) if arg else c
