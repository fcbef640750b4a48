"""From word vectors to multimodal embeddings: a survey (arXiv 2411.05036).

Carried: the probes of word vectors that it lists: similarity to rated pairs (the task `similarity`), analogies (the
task `analogy`) and a test of bias (the task `association`).

Nothing is trained by a survey. At full size the text tower of CLIP (`configs/clip_b16.py`) is tested, on rated pairs of
one's own, `--config.final_evals.similarity.path`, such as WordSim-353. `:tiny` is CLIP on emoji, whose names of men and
women at the same thing are the analogies.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="Embeddings of words, of sentences and of several modalities are judged by similarity, by analogy, and by the "
    "biases that they take over from their data.",
    formula="Spearman of `cos(u, v)` with ratings; `argmax_d cos(d, b − a + c)` without a, b and c; the effect "
    "`d = (mean s(X) − mean s(Y)) / sd s`, `s(w) = mean cos(w, A) − mean cos(w, B)`, with its permutation p.",
    test="tests/evals/test_words.py::test_associations_equal_numpy",
    experiment="embeddings_survey",
    control="untrained",
    gate="Words that were learned from pictures are as alike as what they mean, and solve analogies, both better than "
    "before training, and analogies better than by c alone; a bias of the pictures is one of the words, and where the "
    "pictures have none it is smaller.",
    out="The rest of the survey, which reviews models.",
)
APPROXIMATE = (
    "Which data and scores the survey lists was not read; the formulas are those of Mikolov et al. (2013) and Caliskan "
    "et al. (2017), whose lists of words are shortened here.",
)
FLOWERS, INSECTS = ("rose", "tulip", "sunflower", "daisy", "lily"), ("ant", "beetle", "cockroach", "mosquito", "fly")
PLEASANT, UNPLEASANT = ("love", "peace", "happy", "gift", "laughter"), ("sick", "poison", "angry", "death", "dirt")
FAMILY = (("man", "woman"), ("boy", "girl"), ("king", "queen"), ("father", "mother"), ("uncle", "aunt"))

AT_WORK = (
    *("health worker", "student", "teacher", "judge", "farmer", "cook", "mechanic", "factory worker", "office worker"),
    *("scientist", "technologist", "singer", "artist", "pilot", "astronaut", "firefighter", "police officer", "guard"),
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    pairs = [(f"man {work}", f"woman {work}") for work in AT_WORK] if arg else FAMILY
    sets = dict(first=FLOWERS, second=INSECTS, one=PLEASANT, other=UNPLEASANT)
    c.final_evals.similarity = dict(
        modalities=["text"], **(dict(overlap="keywords") if arg else dict(path="data/pairs"))
    )
    c.final_evals.analogy = dict(modalities=["text"], relations={"man to woman": pairs})
    c.final_evals.association = dict(modalities=["text"], tests={"flowers are pleasant, insects not": sets})
    return c
