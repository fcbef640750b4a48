"""Deep learning applied to image and text matching (arXiv 1601.03478).

Carried: the ranking loss whose negatives are texts, images or both, one at random, all of them or the hardest: a
historical baseline.

Two towers over a folder of image-text files (`--config.data.path`). `:tiny` runs on the emoji corpus.
"""

from configs.common import check_arg, image, text
from configs.contrastive_common import base, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="A global ranking objective matches more complex systems, and the side that negatives are taken from "
    "specialises a model to one direction of retrieval.",
    formula="`relu(m − s(i, t) + s(i, t⁻))` and, with negatives of both, `relu(m − s(i, t) + s(i⁻, t))`, cosines s, "
    "m = .2; `directions` says which, `negatives` over which: `random`, `sum`, `all` (their mean), `hardest`.",
    test="tests/objectives/test_cross.py::test_triplet_equals_numpy",
    experiment="ranking",
    control="negatives of both",
    gate="R@1 of finding texts less that of finding images is above 0 with negative texts alone, below it with "
    "negative images alone.",
    out="Its tower of sentence embeddings.",
)
APPROXIMATE = (
    "The margin of .2 is ours: the paper's could not be confirmed.",
    "Towers are transformers; the paper has convolutions for pictures, and bags of words and n-grams for texts.",
    "Sizes, batch, rate and steps are ours.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    size = dict(dim=384, heads=6, depth=6)
    towers = [dict(name=n, modalities=(n,), **size) for n in ("image", "text")]
    objective = dict(edges=[dict(a="image", b="text")], negatives="sum")
    c = base(
        [image(224, 16), text(64, 30522, "tokenizers/bert.json")], towers, dict(triplet=objective), embed_dim=256,
        batch_size=128, steps=100_000, optim=dict(lr=3e-4, warmup=1000, weight_decay=0.01),
    )  # fmt: skip
    return tiny(c, dict(image="render3d", text="name:en")) if arg else c
