"""Analogies and associations of word vectors: planted ones, against a writing in loops, and what is refused."""

import itertools

import numpy as np
import pytest
from small_towers import evaluated

from configs.systems import embeddings_survey
from pretrain.evals import analogy, association, harness
from pretrain.evals.features import embed_texts, unit

RELATIONS = {"sex": (("man", "woman"), ("king", "queen"), ("boy", "girl"))}
SETS = dict(first=("cook", "nurse"), second=("pilot", "judge"), one=("woman", "girl"), other=("man",))


@pytest.fixture(scope="module")
def made():
    return evaluated(embeddings_survey.get_config("tiny"))


def test_analogies_equal_numpy():
    rng = np.random.default_rng(0)
    z, pairs = unit(rng.normal(size=(9, 3))), np.arange(8).reshape(4, 2)
    asked = analogy.analogies(pairs)
    wanted = set()
    for p, q in itertools.permutations(pairs.tolist(), 2):
        wanted |= {(*p, *q), (*p[::-1], *q[::-1])}
    assert {tuple(x) for x in asked.tolist()} == wanted and len(asked) == len(wanted) == 24
    right, alone = [], []
    for a, b, c, d in asked:
        rest = [i for i in range(9) if i not in (a, b, c)]
        right.append(max(rest, key=lambda i: z[i] @ (z[b] - z[a] + z[c])) == d)
        alone.append(max(rest, key=lambda i: z[i] @ z[c]) == d)
    assert 0 < np.mean(right) < 1
    assert analogy.solved(z, asked) == np.mean(right) and analogy.solved(z, asked, alone=True) == np.mean(alone)


def test_a_parallelogram_is_an_analogy_and_equal_vectors_are_none():
    rng = np.random.default_rng(0)
    one, offset = rng.normal(size=(6, 64)), 2 * rng.normal(size=64)
    z = unit(np.stack([one, one + offset], 1).reshape(12, 64))
    asked = analogy.analogies(np.arange(12).reshape(6, 2))
    assert analogy.solved(z, asked) == 1 and analogy.solved(z, asked, alone=True) < 0.6
    assert analogy.solved(np.ones((12, 4)), asked) == 0, "a tie counts against d"


def test_associations_equal_numpy():
    rng = np.random.default_rng(1)
    first, second, one, other = (unit(rng.normal(size=(n, 4))) for n in (3, 4, 2, 3))
    s = lambda w: np.mean([w @ a for a in one]) - np.mean([w @ b for b in other])
    both = [s(w) for w in (*first, *second)]
    differ = np.mean(both[:3]) - np.mean(both[3:])
    effect, p = association.association(first, second, one, other, 4000)
    assert effect == pytest.approx(differ / np.std(both, ddof=1))
    ways = [np.mean([both[i] for i in of]) for of in itertools.combinations(range(7), 3)]
    mean = lambda x: x - (sum(both) - 3 * x) / 4
    assert p == pytest.approx(np.mean([mean(x) >= differ - 1e-12 for x in ways]), abs=0.03)


def test_a_planted_bias_is_found():
    rng = np.random.default_rng(0)
    one, other = (
        unit(np.eye(8)[:1] + 0.1 * rng.normal(size=(4, 8))),
        unit(-np.eye(8)[:1] + 0.1 * rng.normal(size=(4, 8))),
    )
    far = lambda sign: unit(rng.normal(size=(8, 8)) + sign * np.eye(8)[0])
    effect, p = association.association(far(1), far(-1), one, other, 999)
    assert effect > 0.8 and p < 0.02
    assert association.association(far(-1), far(1), one, other, 999)[1] > 0.9
    assert association.association(*[np.ones((2, 3))] * 4, 99) == (0.0, 1.0)


def test_what_is_yielded(made):
    held, params = made
    found = dict(analogy.Evaluator(held, ("text",), RELATIONS).run(params))
    assert found.keys() == {"text/sex", "text/sex, c alone"} and found["text/sex"].chance == pytest.approx(1 / 3)
    found = dict(association.Evaluator(held, ("text",), {"work": SETS}, permutations=99).run(params))
    z = [np.asarray(embed_texts(held, params, "text", list(SETS[key]))) for key in association.SETS]
    assert found["text/work"] == pytest.approx(association.association(*map(unit, z), 99)[0])
    assert found["text/work"].chance == 0 and 0 < found["text/work, p"] <= 1


def test_the_tiny_run_has_analogies_and_a_bias_test(made):
    held, _ = made
    tasks, _ = harness.make_tasks(held)
    assert len(tasks["analogy"].relations["man to woman"]) > 10
    assert {"similarity", "analogy", "association"} <= set(tasks)


@pytest.mark.parametrize(
    "task, keys, message",
    [
        (analogy, dict(relations={}), r"analogy.relations={}: name one"),
        (analogy, dict(relations={"a": (("x", "y"),)}), r"analogy.relations=.*: 'a': give two pairs of texts or more"),
        (analogy, dict(relations={"a": (("x", "y"), ("y", "z"))}), r"'a': its pairs have a text in common"),
        (analogy, dict(modalities=("image",), relations=RELATIONS), r"analogy.modalities=.*: has no text tokenizer"),
        (association, dict(tests={}), r"association.tests={}: needs at least 1"),
        (association, dict(tests={"a": SETS | dict(one=())}), r"association.tests=.*: 'a': give texts of each of"),
        (association, dict(tests={"a": SETS | dict(first=("x",), second=("y",))}), r"'a': a deviation needs four"),
        (association, dict(tests={"a": SETS}, permutations=0), r"association.permutations=0: needs at least 1"),
    ],
)  # fmt: skip
def test_what_it_cannot_compare_is_named(made, task, keys, message):
    with pytest.raises(ValueError, match=message):
        task.Evaluator(made[0], **(dict(modalities=("text",)) | keys))
