"""Tasks on emoji: what a query shows, what it asks for, whose negatives they are, and what is refused."""

import re

import numpy as np
import pytest

from data_pipeline.sources import emoji
from data_pipeline.sources.emoji_tasks import Source


def test_an_example_is_a_query_and_what_it_asks_for():
    tasks, corpus = Source("val", "name", "noto", "Find it.", ("fr", "de")), emoji.Source("val")
    assert len(tasks) == 2 * len(corpus)
    for index in (0, 7, 100):
        found, own = tasks[index], corpus[index // 2]
        language = ("fr", "de")[index % 2]
        assert found.keys() == {"row", "instruction", "language", "text", "image/positive"} and found["row"] == index
        assert (found["text"], found["language"]) == (own["name"][language], language)
        np.testing.assert_array_equal(found["image/positive"], own["noto"])


def test_a_picture_and_a_text_may_stand_together():
    found, own = Source("val", "render3d+keywords", "name")[3], emoji.Source("val")[3]
    assert (found["text"], found["text/positive"]) == (", ".join(own["keywords"]), own["name"]["en"])
    np.testing.assert_array_equal(found["image"], own["render3d"])


def test_negatives_are_others_of_the_subgroup_and_fewer_where_it_is_small():
    tasks, corpus, counts = Source("test", "name", "keywords", negatives=3), emoji.Source("test"), set()
    by_words = {", ".join(e["keywords"]): e for e in map(corpus.__getitem__, range(len(corpus)))}
    for index in range(len(tasks)):
        found = tasks[index]
        own = by_words[found["text/positive"]]
        others = [by_words[found[f"text/negative{i}"]] for i in (1, 2, 3) if f"text/negative{i}" in found]
        assert {e["subgroup"] for e in others} <= {own["subgroup"]} and own["id"] not in {e["id"] for e in others}
        assert len({e["id"] for e in others}) == len(others)
        counts.add(len(others))
    assert counts == {0, 1, 2, 3}


def test_every_example_has_its_texts():
    assert any(not meta["keywords"]["en"] for meta in emoji.metadata())
    tasks = Source("all", "keywords", "name")
    assert len(tasks) == sum(bool(meta["keywords"]["en"]) for meta in emoji.metadata()) < len(emoji.metadata())


def test_a_share_of_positives_is_wrong_and_always_the_same():
    right, wrong = (Source("train", "keywords", "name", misaligned=share) for share in (0.0, 0.3))
    differ = [right[i]["text/positive"] != wrong[i]["text/positive"] for i in range(400)]
    assert 0.2 < np.mean(differ) < 0.4
    assert all(wrong[i]["text/positive"] == wrong[i]["text/positive"] for i in range(20))
    assert repr(right) != repr(wrong)


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(query="title"), "query='title': must be one of name, keywords, render3d, flat, noto, or a text and a pi"),
        (dict(asks="flat+noto"), "asks='flat+noto': must be one of"),
        (dict(query="name", asks="name"), "query='name', asks='name': a query would ask for itself"),
        (dict(languages=("en", "tlh")), "languages=('en', 'tlh'): name some of en, es,"),
        (dict(languages=()), "languages=(): name some of"),
        (dict(negatives=9), "negatives=9, misaligned=0.0: must be 0…8, and a share"),
        (dict(misaligned=1.5), "misaligned=1.5: must be"),
    ],
)
def test_what_cannot_be_is_named(keys, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Source("val", **keys)
