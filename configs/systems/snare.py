"""SNARE (arXiv 2308.12898).

Carried: its tests of what a network of pictures and texts knows beyond words: sentences that templates make of a scene
graph, of which the true one should be nearest to the picture (the task `options`).

Nothing is trained by the paper. At full size CLIP's towers (`configs/clip_b16.py`) are tested on a folder whose
examples have two `objects`, the `attributes` of each and their `relation`. `:tiny` is CLIP on scenes of two coloured
silhouettes of emoji, one beside or above the other.
"""

from configs import clip_b16
from configs.common import check_arg, image, text
from configs.systems import Claim

CLAIM = Claim(
    says="Vision-language models go by content words: they are weak where a sentence differs in syntax, negation, "
    "ownership or relation alone.",
    formula="How often `argmax_o cos(picture, sentence_o)` is the true sentence, of 3 for ownership (true, attributes "
    "exchanged, 'respectively'), 2 for negation, 3 for relation (true, objects exchanged, none), 4 for the place and 5 "
    "orders of the words; ties are shared. Chance is one in as many; of the true and the exchanged alone it is ½.",
    test="tests/evals/test_options.py::test_shares_equal_a_count_by_hand",
    experiment="snare",
    control="bag of words",
    gate="A bag of words is at ½ where words are exchanged, while it finds sentences by their words; CLIP's towers are "
    "above it in ownership and relation, in which batches of scenes that words do not tell apart help. Negation is "
    "reported, and no gate.",
    out="Its five models, and its scene graphs.",
)
APPROXIMATE = (
    "The wording of the sentences is ours. Orders of words are after ARO (arXiv 2210.01936), which shuffles words; "
    "here they are turned round, the same every time.",
    "A sentence with 'respectively' is as true as the first; it counts as another option, as in the release.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    c.final_evals.options = dict(text="text", modalities=["image"])
    if arg:
        c.data = dict(source="related_emoji")
        c.modalities = [image(48, 16, field="picture"), text(20)]
        c.steps, c.optim.warmup = 400, 40
    return c
