"""The tasks, batches and negatives of `tools.experiments.mm_embed` are what they are said to be."""

import numpy as np

from tools.experiments import mm_embed


def test_each_thing_is_asked_for_in_two_modalities_by_two():
    world = mm_embed.World(0)
    queries, found = world.asked(5)
    data = mm_embed.data_of(world, queries, found)
    picture, words = (data[f"{m}/positive"]["valid"].reshape(20, -1).any(1) for m in ("image", "text"))
    np.testing.assert_array_equal(picture, np.repeat([True, False, True, False], 5))
    np.testing.assert_array_equal(words, ~picture)
    np.testing.assert_array_equal(data["image/positive"]["vectors"][:5], data["image/positive"]["vectors"][10:15])
    assert data["text"]["valid"][:, 0, 0].all() and not data["text/positive"]["valid"][:, 0, 0].any()
    assert not data["image/negative1"]["valid"].any() and not data["text/negative2"]["valid"].any()


def test_negatives_are_candidates_of_their_kind():
    world = mm_embed.World(0)
    queries, found = world.asked(5)
    own, kind = np.concatenate([np.arange(5) + 5 * (t[1] == "t") for t in mm_embed.TASKS]), np.arange(10) >= 5
    numbers = mm_embed.random_negatives(np.random.default_rng(0), own, kind)
    assert (kind[numbers[:, 0]] != kind[own]).all() and (kind[numbers[:, 1]] == kind[own]).all()
    assert (numbers != own[:, None]).all()
    numbers[3] = -1
    data = mm_embed.data_of(world, queries, found, numbers)
    for k in (0, 1):
        image, text = data[f"image/negative{k + 1}"], data[f"text/negative{k + 1}"]
        for i, number in enumerate(numbers[:, k]):
            assert image["valid"][i].any() == (0 <= number < 5) and text["valid"][i].any() == (number >= 5)
            if number >= 0:
                shown, at = (image, 0) if number < 5 else (text, 1)
                want = np.concatenate([found["p"], found["t"]])[number]
                np.testing.assert_allclose(shown["vectors"][i, 0, at], want, rtol=1e-6)


def test_a_batch_of_one_task_holds_no_other():
    order = mm_embed.one_task(np.random.default_rng(0), 32, 8, 16)
    assert (order // 32 == np.arange(8)[:, None] % 4).all() and all(len(set(row)) == 16 for row in order.tolist())
