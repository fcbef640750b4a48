"""The experiment on what stands in the place of an absent modality: its measure of a pool's use, and its conditions."""

import numpy as np
import pytest

from pretrain import build
from tools.experiments import ptunifier


def test_the_entropy_of_a_pool_that_gives_the_same_entries_is_that_of_a_static_prompt():
    same = np.tile(np.arange(4), (9, 1))
    assert ptunifier.entropy(same) == pytest.approx(np.log(4))
    apart = np.arange(36).reshape(9, 4)
    assert ptunifier.entropy(apart) == pytest.approx(np.log(36))
    assert np.log(4) < ptunifier.entropy(same + 4 * (np.arange(9) < 2)[:, None]) < np.log(8)


def test_conditions_differ_in_what_is_filled_in_and_in_nothing_else():
    found = {name: ptunifier.config(fill, 4, 8) for name, fill in ptunifier.CONDITIONS.items()}
    for name, c in found.items():
        build.objectives(build.parse(c))
        pools = [c["model"]["parts"].pop(n) for n in ("text_fill", "image_fill")]
        assert all({k: p[k] for k in ptunifier.CONDITIONS[name]} == ptunifier.CONDITIONS[name] for p in pools)
    assert all(c == found[ptunifier.STATIC] for c in found.values())
    assert {g.control for g in ptunifier.GATES} | {g.condition for g in ptunifier.GATES} <= set(found)
