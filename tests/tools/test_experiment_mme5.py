"""The tasks of `tools.experiments.mme5` hold what they are said to."""

import numpy as np

from tools.experiments import mme5


def there(data, entry):
    return data[entry]["valid"].reshape(len(data["row"]), -1).any(1)


def test_a_task_shows_and_asks_for_its_modalities():
    for task, (a, b) in mme5.TASKS.items():
        data = mme5.World(0).task(task, 6)
        found = [there(data, f"{m}{end}").all() for m in ("image", "text") for end in ("", "/positive")]
        assert found == [a == "p", b == "p", True, b == "t"], "every query has an instruction"
        assert data["text"]["valid"][:, 0, 1].all() == (a == "t")
    data = mme5.World(0).task(mme5.COMPOSED, 6)
    assert data["text"]["valid"].all() and there(data, "image").all() and there(data, "image/positive").all()


def test_a_share_of_positives_is_another_ones():
    right, wrong = (mme5.World(0).task(mme5.COMPOSED, 100, wrong=share) for share in (0.0, 0.3))
    a, b = (x["image/positive"]["vectors"][:, 0, 0] for x in (right, wrong))
    moved = (a != b).any(1)
    assert moved.sum() == 30 and {tuple(x) for x in a} == {tuple(x) for x in b}
    np.testing.assert_array_equal(right["image"]["vectors"], wrong["image"]["vectors"])


def test_conditions_have_as_many_examples():
    sizes = {name: len(mme5.training(mme5.World(0), name, 64)["row"]) for name in mme5.CONDITIONS}
    assert set(sizes.values()) == {64}
    composed = mme5.training(mme5.World(0), mme5.SYNTHETIC, 64)["text"]["valid"].all((1, 2))
    both = composed & there(mme5.training(mme5.World(0), mme5.SYNTHETIC, 64), "image")
    assert both.sum() == 34
