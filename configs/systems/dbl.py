"""Deep Boosting Learning (DBL) for image-text matching (arXiv 2404.18114).

Carried: the ranking loss whose margins another model sets, absolute or relative to its similarities, beside VSE++'s;
an anchor that learns beside the target, follows it as a moving average, or was trained before.

Two towers over precomputed regions of pictures and captions (`--config.data.path`), a peer for the anchor. `:mss` has a
moving average in its place, `:oas` a finished run: `--config.references.anchor.workdir`. The form is
`--config.objectives.boosting.form`. `:tiny` trains a target and its peer on the emoji corpus.
"""

from configs import contrastive_common
from configs.common import check_arg, text
from configs.systems import Claim

CLAIM = Claim(
    says="An anchor branch lends its margins to a target branch, which gains over distillation, mutual learning and "
    "contrastive baselines at an equal cost of inference.",
    formula="`L = base + (α / n) Σ_anchors boost`, with cosines s of the target, t of an anchor, without gradient, and "
    "d = s − t. base: VSE++, `Σ_i max_{j≠i} relu(.2 + s_ij − s_ii)` of rows and of columns; so learns a peer, too. "
    "boost: `rel`, `Σ_i max_{j≠i} relu(.2 + d_ij − d_ii)` of rows and of columns, which with t = 0 is VSE++; or `abs`, "
    "`2 Σ_i relu(.1 − d_ii)`, and `Σ_i max_{j≠i} relu(.1 + d_ij)` of rows and of columns. All are sums over the batch, "
    "which ties the learning rate to its size.",
    test="tests/objectives/test_boosting.py::test_equals_numpy",
    experiment="dbl",
    control="unboosted",
    gate="R@1 of the boosted target, `rel` and `abs`, is above that of the same target unboosted, under mutual "
    "learning, and alone under each other margin of .1 to .6. The ensemble of target and anchor, and a moving average "
    "as the anchor, are reported, not gated.",
    out="The host networks, which match words with regions, and their tables.",
)
APPROXIMATE = (
    "The release starts with the hardest negatives, which are known to be unstable from fresh weights; here they and "
    "the boost rise over the second of 40 epochs, in the place of the mean over all negatives.",
    "Each branch of the release has its own optimizer, and its gradient is clipped alone; here both are clipped "
    "together, at 2.",
    "A cosine takes the place of a learning rate that falls to a tenth at epoch 30.",
    "Two transformers over regions and words, whose outputs are pooled, take the place of the host networks. Epochs "
    "are of 29,000 pictures with five captions each, from memory of Flickr30K's usual split.",
    "The release has both forms of the boost; its default is `abs`.",
)
EDGES, PAIRS = [dict(a="image", b="text")], 29_000 * 5
ANCHORS = {
    "mss": dict(reference="ema", momentum=0.99995, schedule="cosine"),
    "oas": dict(reference="frozen", workdir=""),
}


def objectives(rise, begin=0, *, peer=True, boost=None, edges=EDGES, margin=0.2):
    """Ranking losses of the target and its peer, and what boosts the target.

    rise: over how many steps from `begin` the hardest negatives take over from the mean of all. boost: {keys of
    `boosting`}; None for no boost.
    """
    up, down = (dict(start=a, end=1 - a, steps=rise, begin=begin) for a in (0.0, 1.0))
    rank = dict(objective="triplet", edges=edges, margin=margin, reduction="sum")
    out = {}
    for name in ("online", "anchor") if peer else ("online",):
        out[f"all_{name}"] = rank | dict(model=name, negatives="all", coef=down)
        out[f"hardest_{name}"] = rank | dict(model=name, negatives="hardest", coef=up)
    if boost is not None:
        out["boosting"] = dict(edges=edges, anchors=["anchor"], reduction="sum", coef=up) | boost
    return out


def get_config(arg=""):
    check_arg(arg, __file__, ("tiny", *ANCHORS))
    regions = dict(name="image", kind="vectors", shape=(36, 2048), field="image", targets=False)
    towers = [dict(name=n, modalities=(n,), dim=512, heads=8, depth=2) for n in ("image", "text")]
    tiny, epoch = arg == "tiny", PAIRS // 128
    c = contrastive_common.base(
        [regions, text(64, 30522, "tokenizers/bert.json")], towers,
        objectives(*((30, 60) if tiny else (epoch, epoch)), peer=arg not in ANCHORS, boost={}),
        embed_dim=1024, batch_size=128, steps=40 * PAIRS // 128,
        optim=dict(lr=2e-4, final_lr=0.1, b2=0.999, weight_decay=0.0, clip=2.0),
    )  # fmt: skip
    if arg in ANCHORS:
        c.references = dict(anchor=ANCHORS[arg])
    else:
        c.models = dict(anchor={})
    if tiny:
        contrastive_common.tiny(c, dict(image="render3d", text="name:en"))
        c.steps, c.evals.val.every, c.checkpoint.every = 120, 60, 60
    return c
