"""SkySense (arXiv 2312.10115).

Carried: an encoder of its own for each sensor; what all of them saw of a place on several dates, fused by a transformer
over time, the day of the year added; contrast with a moving average of the network, of places, clusters of places and
wholes, of a sensor's own and of every two; prototypes of each region of the world, moved by what is seen there, and
read back into the features.

The published size reads a folder (`--config.data.path`) of arrays: of `optical`, `spectral` and `radar` [dates, places,
numbers], the pixels of each place, and days of the year [dates], `optical_dates` and so on, and a `region`. `:tiny`
reads simulated squares of land.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="A factorised encoder with contrast at several granularities and prototypes of regions, trained on 21.5 "
    "million sequences of three sensors, beats 18 models of remote sensing on 16 sets.",
    formula="`L = Σ_i MGCL(F_i, F'_i) + Σ_{i≠j} MGCL(F_i, F'_j)` over sensors and their fusion, F' of the moving "
    "average, on other dates; `MGCL = L_places + L_clusters + L_whole`, each InfoNCE of cosines at .1: of a place "
    "among those of its square, of clusters' means, assigned by Sinkhorn's algorithm, of squares among those of the "
    "batch. Of a region's prototypes: `S = sinkhorn(cos(F, P_r) / .05)`, `P_r ← m P_r + (1 − m) Sᵀ F / Σ S`; what is "
    "read back is `[F, softmax(F P_rᵀ / √d) P_r]`.",
    test="tests/objectives/test_skysense.py::test_the_losses_equal_numpy",
    experiment="skysense",
    control="wholes alone",
    gate="Contrast at all levels tells what covers a place better than that of the network before training. What it "
    "gains over wholes alone, and prototypes of the right region over those of another, is reported, and no gate.",
    out="Swin-H, the 21.5 million sequences, and the transfer to 16 sets.",
)
APPROXIMATE = (
    "The loss of a pair was not found: notes say positives alone, and InfoNCE. It is InfoNCE, from what learns to the "
    "average, among places of the square, its clusters, and squares of the batch; `loss=cosine` is the other.",
    "The weight of the alignment (1), both momenta (.996, rising to 1, and .99), temperature, and epsilon and "
    "iterations of Sinkhorn's algorithm are from no source. So are optimiser, steps and patches.",
    "Frames are averaged before they are compared, for two draws of dates need have none in common; crops are left "
    "out, so that every place has its partner. A sensor's encoder sees all of its frames together.",
    "What a square gives to its region's prototypes is brought to equal shares over its own places, and is divided by "
    "these; in the batch few squares are of one region.",
    "A ViT of Swin-H's size takes its place; sizes of the fusion are from its 398 M parameters and 24 layers.",
    "In `:tiny` land, regions and seasons are simulated.",
)
SENSORS = ("optical", "spectral", "radar")
ENDS = (*(f"{name}_head" for name in SENSORS), "fused_head")


def modalities(places: int, frames: dict, widths: dict) -> list:
    """frames, widths: of each sensor, how many, and numbers of a place."""
    vectors = dict(kind="vectors", targets=False)
    dates = dict(kind="set", vocab="days", vocab_size=365, tokenizer="none", targets=False)
    return [
        *(dict(name=n, field=n, shape=(frames[n] * places, widths[n]), **vectors) for n in SENSORS),
        dict(name="dates", field="dates", shape=(sum(frames.values()),), **dates),
        dict(name="region", field="region", shape=(1, 1), **vectors),
    ]


def parts(sensors: dict, fused: dict, *, places: int, embed_dim: int, **regions) -> dict:
    """sensors: {name: sizes of its encoder}, whose streams are brought to the width of `fused`, sizes of the fusion;
    regions: settings of `parts.regions`."""
    dim, found = fused["dim"], {}
    for name, sizes in sensors.items():
        found |= {
            f"{name}_embed": dict(part="embed_one", reads=[name], dim=sizes["dim"]),
            f"{name}_encoder": dict(part="encoder", reads=[f"{name}_embed"], **sizes),
            f"{name}_width": dict(part="mlp", reads=[f"{name}_encoder"], dim=dim),
            f"{name}_head": dict(part="mlp", reads=[f"{name}_width"], hidden=[dim], dim=embed_dim),
            f"{name}_pool": dict(part="pool", reads=[f"{name}_head"], width=embed_dim),
            f"{name}_project": dict(part="project", reads=[f"{name}_pool"], dim=embed_dim, identity=True),
        }
    reads = [*(f"{name}_width" for name in sensors), "dates_embed"]
    return found | dict(
        dates_embed=dict(part="embed_one", reads=["dates"], dim=dim, positions="none"),
        fused=dict(part="over_time", reads=reads, places=places, **fused),
        fused_head=dict(part="mlp", reads=["fused"], hidden=[dim], dim=embed_dim),
        region_embed=dict(part="embed_one", reads=["region"], dim=1, raw=True),
        regions=dict(part="regions", reads=["fused", "region_embed"], dim=2 * dim, **regions),
    )


def objectives(places: int, **changes) -> dict:
    contrast = dict(parts=ENDS, places=places, teacher="teacher", view="view") | changes
    return dict(granularity=contrast, region_prototypes=dict(part="regions"))


def get_config(arg=""):
    check_arg(arg, __file__)
    c, frames, places = ConfigDict(), dict(optical=1, spectral=4, radar=4), 36 if arg else 256
    c.objectives = objectives(places)
    c.references = dict(teacher=dict(reference="ema", momentum=0.996, schedule="cosine"))
    draw = dict(transform="acquisitions", sensors=SENSORS, frames=[frames[n] for n in SENSORS], view="view")
    c.data = dict(source="revisited" if arg else "files", transforms=[draw])
    c.evals = dict(val=dict(evaluator="losses", batch_size=64, every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("optical", "spectral"), ("spectral", "radar")]))
    if arg:
        size, fused = dict(dim=32, heads=2, depth=1), dict(dim=32, heads=2, depth=1)
        c.modalities = modalities(places, frames, dict(optical=12, spectral=6, radar=2))
        few = dict(regions=8, prototypes=6)
        c.model = dict(
            model="models.network", parts=parts(dict.fromkeys(SENSORS, size), fused, places=places, embed_dim=32, **few)
        )
        c.references.teacher.momentum = 0.99
        c.optim = dict(lr=2e-3, clip=1.0)
        return tiny(c, steps=80, batch_size=32, every=40)
    large = dict(dim=1024, heads=16, depth=24)
    sizes = dict(optical=dict(dim=1472, heads=16, depth=25), spectral=large, radar=large)
    c.modalities = modalities(places, frames, dict(optical=3072, spectral=40, radar=8))
    c.model = dict(
        model="models.network", parts=parts(sizes, dict(dim=1152, heads=16, depth=24), places=places, embed_dim=256)
    )
    c.batch_size, c.steps = 240, 100_000
    c.optim = dict(lr=1e-4, warmup=5000)
    return c
