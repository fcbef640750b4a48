"""The scenes of `tools.experiments.structure_clip` are what they are said to be."""

import numpy as np

from tools.experiments import structure_clip as clip


def halves(data, name):
    """`[n, colour or thing, of either, WIDTH]` of texts."""
    return data[name]["vectors"].reshape(-1, 2, 2, clip.WIDTH).swapaxes(1, 2)


def test_exchanged_texts_have_the_same_words_and_say_something_else():
    for data in clip.scenes(0, 64):
        own, other = (halves(data, n) for n in ("b", "b/swapped"))
        np.testing.assert_array_equal(own[:, 0], other[:, 0, ::-1])
        np.testing.assert_array_equal(own[:, 1], other[:, 1])
        assert (own != other).any((1, 2, 3)).all()


def test_a_random_text_is_another_scenes_and_held_out_it_is_the_exchanged_one():
    (train, held_out), (drawn, same) = clip.scenes(0, 64), clip.scenes(0, 64, random=True)
    for n in ("a", "b"):
        np.testing.assert_array_equal(train[n]["vectors"], drawn[n]["vectors"])
    np.testing.assert_array_equal(held_out["b/swapped"]["vectors"], same["b/swapped"]["vectors"])
    texts = train["b"]["vectors"].reshape(64, -1)
    found = (drawn["b/swapped"]["vectors"].reshape(64, 1, -1) == texts).all(-1).argmax(1)
    assert sorted(found) == list(range(64)) and (found == np.arange(64)).mean() < 0.1


def test_conditions_add_to_contrast_and_to_ranking():
    made = {name: clip.config(name, 8, 8)["objectives"] for name in clip.CONDITIONS}
    assert made[clip.LOGIT] == made[clip.RANDOM_LOGIT] and made[clip.HINGE] == made[clip.RANDOM_HINGE]
    assert made[clip.HINGE].keys() - made[clip.ALONE].keys() == {"swapped"}
    assert made[clip.PUBLISHED].keys() - made[clip.RANKING].keys() == {"swapped"}
    assert made[clip.HINGE]["swapped"] == made[clip.PUBLISHED]["swapped"]
    assert "target" not in made[clip.ALONE]["contrastive"] and made[clip.LOGIT]["contrastive"]["target"]
