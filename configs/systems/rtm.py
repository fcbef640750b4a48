"""RTM / ASC-Former: toward real text manipulation detection (arXiv 2312.06934).

Carried: contrast of tampered places with authentic ones over the batch, which is left out where either are few; cosine
coefficients of blocks in zigzag order, error levels and residuals as further pictures beside the picture itself.

The published size reads a folder with an `image` and its `tampered`, a map of 0 and 1, and starts from a picture
encoder (`--config.load`). `:tiny` finds rectangles of one emoji that were pasted into another, whose picture was
compressed before.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Fusion of frequencies across gated neighbourhoods, and contrast of tampered with authentic places, find what "
    "was forged by hand in texts better, on a set of 14,250 real pictures.",
    formula="`L = CE + .05 · SupCon`, `SupCon = mean_i −mean_{p ≠ i, y_p = y_i} log softmax_{j ≠ i}(z_i·z_j / .07)_p` "
    "over up to 1024 places of either class of a batch, 0 where there are fewer than 512 of one.",
    test="tests/objectives/test_rtm.py::test_the_losses_equal_numpy",
    experiment="rtm",
    control="cross-entropy alone",
    gate="Of few labelled pictures, tampered patches are found with a higher average precision with contrast than "
    "without. What the frequencies add is reported.",
    out="The segmentation decoder, the set, and gated attention over neighbourhoods, in the place of which one encoder "
    "reads all pictures side by side.",
)
APPROXIMATE = (
    "A ViT-B/16 from any weights stands for two MiT-B2, a ConvNeXt head for SegFormer's. Places are patches of 16 "
    "pixels; there of 4.",
    "The release skips a step where fewer than 512 tampered places were drawn, or fewer than 514 of both; here where "
    "either are fewer than 512. Its memory of the step before, 256 places of either class, is not carried.",
    "Pictures of frequencies are bytes: coefficients beyond 127 are cut, residuals have steps of .024 deviations.",
    "Pictures are flipped and cropped to their size, whose blocks then lie anywhere; the release crops in steps of 8.",
    "A cosine takes the place of a linear decay. In `:tiny` attention starts out from where tokens stand.",
)
TRACES = {"dct": 1, "ela": 3, "srm": 3}  # channels


def modalities(size: int, patch: int, field: str, traces=tuple(TRACES)) -> list:
    """The picture and what is derived from it. Means and deviations are those of bytes / 255."""
    scale = dict(dct=(0.5, 0.1), ela=(0.0, 0.02), srm=(0.5, 0.05))
    more = [
        image(size, patch, name=n, field=f"{n}:{field}")
        | dict(shape=(size, size, TRACES[n]), mean=(scale[n][0],) * TRACES[n], std=(scale[n][1],) * TRACES[n])
        for n in traces
    ]
    return [image(size, patch, field=field), *more]


def model(dim: int, heads: int, depth: int, **more) -> dict:
    """more: settings of `parts.encoder`."""
    parts = dict(
        embed=dict(part="embed", dim=dim),
        encoder=dict(part="encoder", reads=["embed"], dim=dim, heads=heads, depth=depth, **more),
        pool=dict(part="pool", reads=["encoder"], width=dim),  # what the harness asks every network for
    )
    return dict(model="models.network", parts=parts)


def objectives(traces=tuple(TRACES), *, contrast=None, **head) -> dict:
    """contrast: more settings of `map_contrast`, or False for none; head: of `dense`."""
    on = dict(inputs=["image", *traces], grid="image", label="tampered")
    found = dict(dense=dict(**on, **head))
    if contrast is not False:
        found["map_contrast"] = dict(coef=0.05) | on | (contrast or {})
    return found


def labels(size: int) -> list:
    spec = dict(name="tampered", kind="pixels", field="tampered", resample="nearest", vocab_size=2)
    return [spec | dict(shape=(size, size, 1))]


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(evals=dict(val=dict(evaluator="losses", every=2000))))
    c.final_evals = dict(losses=dict(split="val"))
    if arg:
        c.data = dict(source="tampered_emoji", options=dict(pictures=1000), transforms=[])
        c.modalities, c.labels = modalities(64, 8, "picture"), labels(64)
        c.model = model(64, 4, 2, mimetic=True)
        c.objectives = objectives(contrast=dict(points=256, least=64, hidden=64, dim=32), width=32, up=2, blocks=1)
        c.optim = dict(lr=2e-3, weight_decay=0.01, clip=1.0)
        return tiny(c, steps=150, batch_size=16, warmup=20, every=75)
    c.data = dict(source="files", transforms=[dict(transform="crop", min_scale=1.0, flip=0.5)])
    c.modalities, c.labels = modalities(512, 16, "image"), labels(512)
    c.model, c.objectives = model(768, 12, 12), objectives()
    c.batch_size, c.steps, c.evals.val.batch_size = 6, 80_000, 6
    head = dict(pattern="^objective/", lr_scale=10.0)
    c.optim = dict(lr=6e-5, warmup=800, b2=0.999, weight_decay=0.01, rules=[head])
    return c
