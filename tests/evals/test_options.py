"""Option tests: their sentences, what is chosen of them, and that words alone cannot choose between equal words."""

import numpy as np
import pytest
from small_towers import evaluated

from configs.systems import snare
from pretrain.evals import base, options
from pretrain.evals.features import embed_texts, features

GRAPH = (["star", "traffic light"], ["red", "blue"], "left of")


def context(bag=False, **changes):
    c = snare.get_config("tiny")
    for tower in c.model.towers:
        if bag and tower["name"] == "text":
            tower.update(dict(positions="none", pool="mean", causal=False))
    c.data.options = dict(scenes=300)
    return evaluated(c, **changes)


@pytest.fixture(scope="module")
def made():
    return context()


def test_the_sentences_of_a_graph():
    found = {test: dict(given) for test, given in options.sentences(*GRAPH).items()}
    assert tuple(found) == options.TESTS
    assert [len(options.sentences(*GRAPH)[test]) for test in options.TESTS] == [3, 2, 3, 4, 5]
    assert found["ownership"]["exchanged"] == "the star is blue and the traffic light is red"
    assert found["negation"] == {"true": "the star is red", "negated": "the star is not red"}
    assert found["relation"]["exchanged"] == "the traffic light is left of the star"
    order = found["order"]
    assert order["true"] == "the red star is left of the blue traffic light"
    assert order["content"] == "the light traffic is left of the blue star red"
    assert order["other words"] == "the red star of left is the blue traffic light"
    assert order["groups"] == "light the blue traffic is left of the red star"
    assert order["in groups"] == "star red the of left is traffic blue the light"
    assert len(set(order.values())) == 5 and len({tuple(sorted(o.split())) for o in order.values()}) == 1


def test_shares_equal_a_count_by_hand():
    scores = np.array([[0.9, 0.1, 0.2, 0.3], [0.1, 0.5, 0.2, 0.5], [0.2, 0.1, 0.4, 0.1], [0.5, 0.5 + 1e-8, 0.1, 0.5]])
    found = options.shares(["true", "a", "b", "b"], scores)
    assert found == pytest.approx({"true": (1 + 1 / 3) / 4, "a": (1 / 2 + 1 / 3) / 4, "b": (1 / 2 + 1 + 1 / 3) / 4})


def test_what_is_nearest_is_counted_beside_its_chance(made):
    held, params = made
    task = options.Evaluator(held, "text", ("image",), splits=("val",))
    base.check(task, held, "final_evals.options")
    found = dict(task.run(params))
    assert sum(v for k, v in found.items() if k.startswith("image/ownership/") and "over" not in k) == pytest.approx(1)
    chances = {"ownership/true": 1 / 3, "negation/true": 1 / 2, "relation/none": 1 / 3, "place/true": 1 / 4}
    chances |= {"place/another": 3 / 4, "order/groups": 1 / 5, "relation/true over exchanged": 1 / 2}
    assert {k: found[f"image/{k}"].chance for k in chances} == pytest.approx(chances)
    z, right = features(held, params, "image", ("val",)), []
    for row, fact in held.facts(("val",)).items():
        (a, b), r = fact["objects"], fact["relation"]
        texts = [f"the {p} is {r} the {q}" for p, q in ((a, b), (b, a))]
        here = embed_texts(held, params, "text", texts) @ z.at([row]).z[0]
        right.append(here[0] > here[1])
    assert found["image/relation/true over exchanged"] == pytest.approx(np.mean(right)) and len(right) == 30


def test_a_bag_of_words_guesses_between_equal_words():
    held, params = context(bag=True)
    found = dict(options.Evaluator(held, "text", ("image",), splits=("val",)).run(params))
    assert found["image/ownership/true over exchanged"] == found["image/relation/true over exchanged"] == 0.5
    assert found["image/order/true"] == pytest.approx(1 / 5) and found["image/negation/true"] != 0.5


def test_one_example_is_shown_with_what_is_chosen(made):
    held, params = made
    ((title, figure),) = options.Evaluator(held, "text", ("image",), splits=("val",)).figures(params, None)
    assert "nearest to image" in title
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 5 and labels[1].startswith("negation: the ")


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(text="image"), r"options.text='image': has no text tokenizer; there are text"),
        (dict(modalities=("sound",)), r"options.modalities: no modality 'sound'"),
        (dict(tests=("size",)), r"options.tests=\('size',\): no test 'size'; there are ownership, negation"),
        (dict(relations=("above",)), r"options.relations=\('above',\): needs at least 2"),
        (dict(examples=0), r"options.examples=0: must be at least 1"),
        (dict(relation="verb"), r"options.relation: 'verb': row 0 of .* has no such field; all have attributes, cap"),
        (dict(relations=("above", "below")), r"options.relations=.*: lacks '(left|right) of' of row \d+: name it"),
        (dict(objects="caption", attributes="relation"), r"options.objects='caption': no example of .* has two"),
    ],
)  # fmt: skip
def test_what_it_cannot_test_is_named(made, keys, message):
    with pytest.raises(ValueError, match=message):
        options.Evaluator(made[0], **(dict(text="text", modalities=("image",)) | keys)).check()
