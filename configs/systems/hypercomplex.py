"""Knowledge graph embedding and pretrained language models in hypercomplex spaces (arXiv 2208.02743).

Carried: entities of four parts, one learned and three of frozen text vectors under a small network; quaternion and
dihedron products with a relation; cross-entropy over all entities, or random tails; ranking of all entities.

The published size reads a folder of FB15k-237 (`data_pipeline/sources/graph.py`, `--config.data.path`) with three views
of every entity: `words.npy` (word2vec), `subwords.npy` (fastText) and `sentence.npy`. `:tiny` is a graph of emoji,
their keywords and groups, with hashed pieces of their texts in the place of vectors that were trained.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Quaternion or dihedron products over one structural and three textual views of an entity improve link "
    "prediction, most where structure is sparse.",
    formula="`L = −log softmax_t φ(h, r, t)` over all entities, of both directions, `φ = −‖e_h ∘ r̂ − e_t‖² + b_h + "
    "b'_t`, `e = [table, MLP(words), MLP(subwords), MLP(sentence)]`, each a part of D/4; `∘` Hamilton's or the "
    "dihedron's product, `r̂` each number of four parts at Euclidean length 1. Or the mean of `−log σ(±φ)` with random "
    "tails.",
    test="tests/objectives/test_hypercomplex.py::test_the_loss_equals_numpy",
    experiment="hypercomplex",
    control="directed: DistMult",
    gate="Higher MRR of quaternions than of DistMult where relations have a direction, and of text beside structure "
    "than of structure alone on entities that training never saw. Hamilton against dihedron is no gate.",
    out="Its forms with pretrained structural vectors, whose relations also translate, and the language models.",
)
APPROXIMATE = (
    "A batch of 50 triples is 100 rows, each triple in both directions; the release shuffles these apart.",
    "Networks of views have one hidden layer of tanh, as wide as what they write. Their outputs are not scaled by the "
    "init size, as they are in places of the release.",
    "14,541 entities, 237 relations and 272,115 triples of FB15k-237 are from memory, as are views of 300, 300 and 512 "
    "numbers. Training does not stop after 20 epochs without progress: `checkpoint.best` keeps the best.",
    "Adagrad has √(s + eps) where PyTorch has √s + eps.",
    "In `:tiny` text vectors are bags of hashed words, letters and stems, of no language model; six epochs at a"
    " higher rate.",
)
ENTITIES, RELATIONS, TRIPLES = 14_541, 237, 272_115


def view(name: str, width: int) -> dict:
    return dict(name=name, kind="vectors", shape=(1, width), field=name, targets=False)


def parts(views: dict, dim: int) -> dict:
    """Of each view a network `NAME_mlp` that writes dim numbers. views: {name: its width}."""
    out = {}
    for name, width in views.items():
        out |= {
            f"{name}_embed": dict(part="embed_one", reads=[name], dim=width, raw=True),
            f"{name}_mlp": dict(part="mlp", reads=[f"{name}_embed"], dim=dim, hidden=[dim], activation="tanh"),
            f"{name}_pool": dict(part="pool", reads=[f"{name}_mlp"], width=dim),
        }
    return out


def labels(entities: int, relations: int) -> list[dict]:
    sizes = dict(head=entities, relation=relations, tail=entities)
    return [dict(name=n, kind="labels", shape=(1,), field=n, vocab_size=size) for n, size in sizes.items()]


def get_config(arg=""):
    check_arg(arg, __file__)
    views, sizes, dim = dict(words=300, subwords=300, sentence=512), (ENTITIES, RELATIONS), 32
    c = ConfigDict(dict(batch_size=50, data=dict(source="graph", transforms=[])))
    c.steps = 1500 * (TRIPLES // 50)
    if arg:
        views, sizes, dim = dict(words=256, letters=256, stems=256), (2641, 3), 64
        c.data.source = "emoji_graph"
    c.modalities, c.labels = [view(n, width) for n, width in views.items()], labels(*sizes)
    c.model = dict(model="models.network", parts=parts(views, dim // 4))
    c.objectives = dict(links=dict(views=list(views), dim=dim))
    c.optim = dict(lr=0.01, final_lr=1.0, moments="adagrad", eps=1e-10, weight_decay=0.0)
    c.evals = dict(val=dict(evaluator="losses", batch_size=50, every=TRIPLES // 50))
    c.final_evals = dict(links=dict(splits=["test"], drop_head=True))
    c.checkpoint = dict(best="val/loss")
    if arg:
        c.optim.lr = 0.1
        tiny(c, steps=400, batch_size=100, warmup=0, every=200, log=100)
    return c
