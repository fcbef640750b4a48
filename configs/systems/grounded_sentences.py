"""Grounded sentence representations (Merkx and Frank) (arXiv 1903.11393).

Carried: characters as tokens, read by gated recurrent units in both directions; pooling under weights of each channel;
the ranking loss as a mean over all pairs of a batch; similarities of sentences against those that people gave.

The published size reads a folder with a `caption` (five an example) and `features`, 2048 numbers of a ResNet-152, for
every example (`--config.data.path`), and trains in eight cycles of the rate. With a folder of rated pairs,
`--config.final_evals.similarity.path`, in the place of `overlap`, sentences are compared as people compare them.
`:tiny` reads the names of emoji by their letters, beside their pictures.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="A sentence encoder that is trained on pictures and captions alone, without vectors of words, matches how "
    "people judge the similarity of sentences, and retrieves as well as others.",
    formula="`L = 1/B² Σ_{i≠j} relu(.2 + s_ij − s_ii) + relu(.2 + s_ij − s_jj)`, cosines s of a picture's features "
    "under one linear map and of a sentence, `Σ_n softmax_n(V tanh(W h_n + b)) ∘ h_n`, h the states of a GRU in "
    "both directions behind each character.",
    test="tests/objectives/test_grounded_sentences.py::test_the_loss_equals_numpy",
    experiment="grounded_sentences",
    control="words in common",
    gate="Rank correlation of the similarities of sentences with those of what they are about: .85 and more, and above "
    "that of the words that they have in common. The hardest negative without a warm-up is reported, not gated.",
    out="SentEval's data, and the ensemble of the snapshots at the ends of the cycles.",
)
APPROXIMATE = (
    "100 symbols, of which 4 are special and 96 printable; the release's are Python's 100 printable ones. [EOS] ends a "
    "sentence, there a full stop.",
    "Padding has no weight in the pooling. In the release it has, at states of zero, so that a sentence's vector "
    "changes with the longest one of its batch.",
    "A cycle of the rate, 1e-6 to 1e-4 and back in four epochs of five captions, is a phase with a fresh Adam; it "
    "rises in a line, from zero, where the release's follows a cosine.",
    "108,287 pictures of COCO, from memory: Karpathy's split without 5,000. Kernels start by Xavier's rule.",
    "At most 256 characters are ours. In `:tiny` a picture is a mean over a small transformer's tokens, and keywords "
    "in common stand for judgements.",
)
EDGES, CYCLE = [dict(a="image", b="text")], 108_287 // 32 * 5 * 4
OBJECTIVE = dict(triplet=dict(edges=EDGES, negatives="sum", reduction="pairs"))


def parts(picture: dict, width: int, *, letter=20, dim=2048, hidden=128) -> dict:
    """picture: the parts before its pooling, the last of which is `image_encoder`, of `width`. letter: width of a
    character's embedding; dim: of the sentence's; hidden: of the pooling."""
    return picture | dict(
        image_pool=dict(part="pool", reads=["image_encoder"], width=width),
        image_project=dict(part="project", reads=["image_pool"], dim=dim, bias=True),
        text_embed=dict(part="embed_one", reads=["text"], dim=letter, positions="none"),
        text_encoder=dict(part="gru", reads=["text_embed"], dim=dim),
        text_pool=dict(part="pool", reads=["text_encoder"], how="channels", width=dim, hidden=hidden),
        text_project=dict(part="project", reads=["text_pool"], dim=dim, identity=True),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=OBJECTIVE, evals=dict(val=dict(evaluator="losses", batch_size=32, every=2000))))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]), similarity=dict(modalities=["text"]))
    letters = text(256, 100, "characters")
    if arg:
        size = dict(dim=64, heads=4, depth=1)
        picture = dict(
            image_embed=dict(part="embed_one", reads=["image"], dim=64),
            image_encoder=dict(part="encoder", reads=["image_embed"], **size),
        )
        c.model = dict(model="models.network", parts=parts(picture, 64, dim=128, hidden=32))
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3, weight_decay=0.0, clip=1.0)
        c.modalities = [image(64, 8, field="render3d"), letters | dict(shape=(48,), field="name:en")]
        c.final_evals.similarity.overlap = "keywords"
        return tiny(c, steps=150, warmup=20)
    picture = dict(image_encoder=dict(part="embed_one", reads=["image"], dim=2048, raw=True))
    c.model = dict(model="models.network", parts=parts(picture, 2048))
    c.data, c.batch_size, c.steps = dict(source="files"), 32, CYCLE
    features = dict(name="image", kind="vectors", shape=(1, 2048), field="features", targets=False)
    c.modalities = [features, letters]
    c.optim = dict(lr=1e-4, warmup=CYCLE // 2, final_lr=0.01, b2=0.999, weight_decay=0.0)
    c.final_evals.similarity.overlap = "caption"
    c.phases = [dict(name=f"cycle_{i + 1}") for i in range(8)]
    return c
