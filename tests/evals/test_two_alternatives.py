"""The choice between a caption and another form of it: what counts, ties, and what is refused."""

import jax
import numpy as np
import pytest
from flax import nnx
from small_towers import evaluated

from configs.systems import structure_clip
from pretrain.evals import base, two_alternatives
from pretrain.models.passes import compute

PAIRS = (("image", "text"),)


def context(**changes):
    return evaluated(structure_clip.get_config("tiny"), **changes)


@pytest.fixture(scope="module")
def made():
    return context()


class Few(base.Context):
    """Some of the examples; changes: what is done to a batch."""

    def __init__(self, made, changes=lambda batch: batch):
        super().__init__(made.run, made.graphs, made.objectives)
        self.__dict__["changes"] = changes

    def batches(self, split, batch_size):
        yield self.changes(next(iter(super().batches(split, batch_size))))


def test_it_counts_how_often_the_own_text_is_nearer(made):
    held, params = made
    task = two_alternatives.Evaluator(Few(held), PAIRS)
    base.check(task, held, "final_evals.two_alternatives")
    found = dict(task.run(params))
    batch = next(iter(held.batches(("val", "test"), 64)))
    states = held.network
    network = nnx.merge(held.graph, params["model"])
    embed = lambda name, batch: np.asarray(
        compute(network, {"z": states.embedding(name, states.shown(name))}, batch)["z"], np.float64
    )
    z, t = embed("image", batch), embed("text", batch)
    other = embed("text", batch | {"text": batch["text/swapped"]})
    there = batch["text/swapped"]["valid"].any(1)
    assert 8 < there.sum() < 64
    want = ((z * t).sum(1) > (z * other).sum(1))[there].mean()
    assert found == {"image→text/swapped": pytest.approx(want), "image→text/examples": there.sum()}
    assert found["image→text/swapped"].chance == 0.5 and 0 < want < 1


def test_forms_that_say_the_same_do_not_count(made):
    held, params = made
    same = lambda batch: batch | {"text/swapped": batch["text"]}
    found = dict(two_alternatives.Evaluator(Few(held, same), PAIRS).run(params))
    assert found == {"image→text/swapped": 0.5, "image→text/examples": 0}


def test_a_bag_of_words_guesses(made):
    """Words that see each other, without their places: exchanged ones make no difference, and a tie is half right."""
    towers = [t | (dict(pool="mean", causal=False) if t["name"] == "text" else {}) for t in made[0].run.model["towers"]]
    held, params = context(model=made[0].run.model | dict(towers=towers))
    params["model"]["text_embed"]["positions"] *= 0
    found = dict(two_alternatives.Evaluator(Few(held), PAIRS).run(params))
    assert found["image→text/swapped"] == 0.5 and found["image→text/examples"] > 8


def test_what_it_cannot_choose_between_is_named(made):
    held, _ = made
    of = lambda **keys: two_alternatives.Evaluator(held, **(dict(pairs=PAIRS) | keys))
    with pytest.raises(ValueError, match=r"alternatives.variant='far': no transform writes 'text/far'; written are te"):
        of(variant="far")
    with pytest.raises(ValueError, match=r"variant='swapped': no transform writes 'image/swapped'"):
        of(pairs=(("text", "image"),))
    with pytest.raises(ValueError, match=r"two_alternatives.pairs: no modality 'sound'"):
        of(pairs=(("image", "sound"),))
    with pytest.raises(ValueError, match=r"two_alternatives.batch_size=0: must be at least 1"):
        of(batch_size=0)
    lacks = lambda batch: batch | {"text/swapped": jax.tree.map(np.zeros_like, batch["text"])}
    with pytest.raises(
        ValueError, match=r"two_alternatives.splits=.*: no example has 'image', 'text' and 'text/swapped'"
    ):
        two_alternatives.Evaluator(Few(held, lacks), PAIRS).check()
