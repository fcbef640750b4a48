"""The sentences of `tools.experiments.pixel_linguist` are what they are said to be."""

import numpy as np

from data_pipeline import text_tokenizers
from tools.experiments import pixel_linguist
from tools.experiments.pixel_linguist import LENGTHS, NAMED, PIECES, PIXELS


def test_pairs_share_as_many_words_as_they_are_said_to():
    texts, others, shared = pixel_linguist.pairs(0)
    found = [len({*a.split()} & {*b.split()}) for a, b in zip(texts, others)]
    assert found == list(shared) and set(found) == set(range(NAMED + 1))
    assert {len(a.split()) for a in (*texts, *others)} == {NAMED}


def test_both_forms_of_a_sentence_have_room():
    encode, known = text_tokenizers.make("text").encode, pixel_linguist.words(0)
    assert len(set(known)) == 200 and 2 < np.mean([len(encode(w, 9)) for w in known]) - 1 < 4, "pieces of a word"
    for condition, length in zip((PIXELS, PIECES), LENGTHS):
        given = pixel_linguist.encoded(condition, pixel_linguist.pairs(0)[0])
        assert given["valid"].shape[1] == length and given["valid"].sum(1).max() < length
