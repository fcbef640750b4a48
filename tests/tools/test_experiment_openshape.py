"""The shapes of `tools.experiments.openshape` and its batches are what they are said to be."""

import numpy as np
import pytest

from tools.experiments import openshape


@pytest.fixture(scope="module")
def made():
    return openshape.world(3)


def test_raw_names_are_wrong_half_of_the_time_and_filtered_ones_never(made):
    own = made["classes"][made["class"]]
    right = (made["raw"][:, 0] == own).all(-1)
    assert 0.48 < right.mean() < 0.53, "a few are right by chance"
    enriched, text = made["enriched"], ~np.isnan(made["enriched"]).any(-1)
    named = (enriched == own[:, None]).all(-1)
    assert 0.95 < text.mean() < 1 and 0.2 < named[right].mean() < 0.6
    assert not named[~right].any(), "what was wrong is filtered"


def test_splits_share_no_shape(made):
    train, held = openshape.split_of(made, 8, "enriched")
    count = openshape.KINDS * openshape.EACH
    assert len(train["row"]) == count * openshape.SHAPES // 8 and len(held["class"]) == count * openshape.HELD
    rows = {x.tobytes() for x in train["points"]["vectors"][:, 0, 0]}
    assert not rows & {x.astype(np.float32).tobytes() for x in held["points"]}
    assert np.isfinite(train["text"]["vectors"]).all() and not train["text"]["valid"].all()


def test_a_batch_holds_groups_of_near_duplicates(made):
    train, _ = openshape.split_of(made, 8, "enriched")
    points = train["points"]["vectors"][:, 0, 0]
    near = openshape.nearest(points)
    experiment = openshape.Experiment(openshape.config(openshape.FILTER, 3, 16))
    order = np.asarray(openshape.near_duplicates(experiment, near, 0)).reshape(-1, openshape.GROUP)
    assert order.shape == (6, openshape.GROUP) and len(set(order[:, 0].tolist())) == 6
    for first, *others in order.tolist():
        assert len(set(others)) == openshape.GROUP - 1 and set(others) <= set(near[first].tolist())


def test_conditions_differ_in_what_their_names_say():
    made = {n: openshape.config(n, 8, 16)["objectives"]["contrastive"] for n in openshape.CONDITIONS}
    assert [n for n, c in made.items() if "target" in c] == [openshape.FILTER]
    assert made[openshape.FILTER].pop("target") == dict(target="neighbours", size=openshape.GROUP)
    assert len({str(c) for c in made.values()}) == 1
