"""LXMERT: learning cross-modality encoder representations from transformers (arXiv 1908.07490).

Carried: an encoder of language and one of objects, cross-modality layers in which one cross-attention serves both
directions, and five losses in one pass: masked words, regression of masked objects' features, classification of
detected labels, matching of sentences, of which half are another picture's, and question answering.

The published size reads features of a detector, which this project has none of (`--config.data.path`: a folder with a
file of `objects`, `boxes`, `kinds`, `attributes`, `sentence` and `answer` for every example). `:tiny` runs on simulated
scenes of emoji, whose "objects" are their pictures in 8 × 8 mean colours.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Encoders of language and of objects, joined by cross-attention and trained on five tasks, learn a joint "
    "representation that transfers to questions about pictures.",
    formula="`L = L_words + L_match + L_kinds + L_attributes + L_features + L_answers`. Words and objects are masked "
    "at a rate of .15 (80 % mask or zeros, 10 % random, 10 % kept). `L_words`: cross-entropy of masked words; `L_match`"
    ": of matched or not, half of the sentences swapped; `L_kinds`, `L_attributes`: confidence · cross-entropy of all "
    "objects; `L_features`: smooth L1, a mean over numbers, over masked ones; these three a mean over objects, / .15; "
    "`L_answers`: cross-entropy, of matched questions. An object is `½ (norm(W f) + norm(V box))`.",
    test="tests/objectives/test_lxmert.py::test_the_losses_equal_numpy",
    experiment="lxmert",
    control="masked words alone",
    gate="A masked name is found far better (.3 and more) beside its picture than beside another's, and there no worse "
    "than without any (.03); matching, and then the objects' losses, raise the accuracy of answers learned from 200 "
    "questions.",
    out="The Faster R-CNN that detects objects, tables of VQA, GQA and NLVR2, and NLVR2's pair of pictures.",
)
APPROXIMATE = (
    "Norms stand before attention and MLP, as in all blocks here; LXMERT's, as BERT's, behind them. Words have no bias "
    "in the head, and no dropout is applied.",
    "AdamW with a cosine after the warm-up; LXMERT's Adam falls linearly. The number of steps takes the 9.18 million "
    "pairs of the paper from memory; the release trains answers from the first of its epochs, the paper from half.",
    "An answer is one of 9,500 classes, from memory of the paper; the release draws among the answers of a question by "
    "their scores, here an example has one.",
    "A swapped sentence is that of another example of the batch; LXMERT's of any other picture.",
)
SIZES = {
    "": dict(dim=768, heads=12, language=9, objects=5, cross=5),
    "tiny": dict(dim=64, heads=4, language=2, objects=1, cross=2),
}


def model(dim, heads, language, objects, cross, *, kinds, attributes, width, answers, cls):
    """The network: two encoders, the layers across them, and a head a loss."""
    block, predict = dict(dim=dim, heads=heads), dict(part="predict", reads=["object_words"])
    return dict(
        model="models.network",
        parts=dict(
            embed_text=dict(part="embed_one", reads=["text"], dim=dim, cls=cls, norm=True),
            language=dict(part="encoder", reads=["embed_text"], depth=language, **block),
            embed_objects=dict(part="embed_objects", reads=["objects", "boxes"], dim=dim),
            vision=dict(part="encoder", reads=["embed_objects"], depth=objects, **block),
            text_pool=dict(part="pool", reads=["language"], width=dim),  # what the harness reads: language alone
            cross=dict(part="fusion", topology="shared_cross", reads=["language", "vision"], depth=cross, **block),
            crossed_text=dict(part="pick", reads=["cross"], of="language", dim=dim),
            crossed_objects=dict(part="pick", reads=["cross"], of="vision", dim=dim),
            pooled=dict(part="pooler", reads=["crossed_text"], dim=dim),
            text_words=dict(part="transform", reads=["crossed_text"], dim=dim),
            object_words=dict(part="transform", reads=["crossed_objects"], dim=dim),
            words=dict(part="word_head", reads=["text_words"], table="embed_text"),
            match=dict(part="predict", reads=["pooled"], dim=2),
            kinds=predict | dict(dim=kinds),
            attributes=predict | dict(dim=attributes),
            features=predict | dict(dim=width),
            answers=dict(part="predict", reads=["pooled"], dim=answers, hidden=2 * dim),
        ),
    )  # fmt: skip


def objectives(shown):
    """The five losses, the detected labels being of two kinds, of one pass over what `shown` makes of a pair."""
    return dict(
        words=dict(objective="masked_words", head="words", shown=shown),
        match=dict(objective="matching", head="match", shown=shown),
        kinds=dict(objective="region_labels", head="kinds", label="kind", shown=shown),
        attributes=dict(objective="region_labels", head="attributes", label="attribute", shown=shown),
        features=dict(objective="region_features", head="features", shown=shown),
        answers=dict(objective="answers", head="answers", label="answer", shown=shown),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    small = arg == "tiny"
    objects, width, kinds, attributes = (3, 192, 24, 3) if small else (36, 2048, 1600, 400)
    answers = 24 if small else 9500
    rows = dict(kind="vectors", targets=False)
    labels = dict(kind="detections", shape=(objects, 2))
    c = ConfigDict()
    c.steps, c.batch_size = 717_187, 256
    c.data = dict(source="emoji_scenes") if small else dict(source="files", path="data/lxmert")
    c.modalities = [
        text(12, field="sentence") if small else text(20, 30522, "tokenizers/bert.json", field="sentence"),
        dict(name="objects", shape=(objects, width), field="objects", **rows),
        dict(name="boxes", shape=(objects, 4), field="boxes", **rows),
    ]
    c.labels = [
        dict(name="kind", vocab_size=kinds, field="kinds", **labels),
        dict(name="attribute", vocab_size=attributes, field="styles" if small else "attributes", **labels),
        dict(name="answer", kind="labels", shape=(1,), vocab_size=answers, field="answer"),
    ]
    c.model = model(**SIZES[arg], kinds=kinds, attributes=attributes, width=width, answers=answers, cls=small)
    # BERT's [MASK], [CLS] and [SEP]; of ours [S_0], which nothing else means, and [EOS].
    tokens = dict(mask_id=4, special=[3]) if small else dict(mask_id=103, special=[101, 102])
    c.objectives = objectives(dict(text="text", objects="objects", boxes="boxes", **tokens))
    c.optim = dict(lr=1e-4, warmup=35_859, b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0)
    c.evals = dict(val=dict(evaluator="losses", every=20_000))
    if small:
        c.optim.lr = 2e-3
        tiny(c, steps=300, warmup=30, every=150, log=50)
        c.final_evals = dict(test=dict(evaluator="losses", split="test"))
    return c
