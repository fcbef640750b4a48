"""Orders: which example comes when, the same for any number of workers and hosts, from any place on."""

import itertools
import json

import grain
import numpy as np
import pytest

from data_pipeline import mixture
from data_pipeline.orders import neighbours, one_source, shuffle
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.spec import Modality
from pretrain import build

CODE = Modality("code", "grid", (1, 2), "code", "c", 99, tokenizer="c")


class Numbers(list):
    """`count` examples that say which they are."""

    def __init__(self, count):
        super().__init__({"row": i, "code": [[i, i]]} for i in range(count))


def mixed():
    return mixture.Source([mixture.Part(Numbers(30), number=0), mixture.Part(Numbers(50), number=1)], [1.0, 2.0])


def stream(order, source, **options):
    return iter(train_batches(source, Encoder((CODE,), {}, True), batch_size=4, seed=3, order=order, **options))


def rows(iterator, count):
    return [batch["row"].tolist() for batch in itertools.islice(iterator, count)]


class Backwards:
    """Written for this test: from the last to the first."""

    __repr__ = lambda self: "Backwards()"

    def __call__(self, source, seed):
        return grain.MapDataset.range(len(source) - 1, -1, -1).repeat().seed(seed)


ORDERS = [
    shuffle.Order(), one_source.Order(4), one_source.Order(8), neighbours.Order(4, among=9, field="code"), Backwards()
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=repr)
def test_hosts_and_a_stop_change_nothing(order):
    want = rows(stream(order, mixed()), 12)
    halves = zip(rows(stream(order, mixed(), rows=range(2)), 12), rows(stream(order, mixed(), rows=range(2, 4)), 12))
    assert [[*a, *b] for a, b in halves] == want
    begun = stream(order, mixed())
    assert rows(begun, 5) == want[:5]
    again = stream(order, mixed())
    again.set_state(json.loads(json.dumps(begun.get_state())))
    assert rows(again, 7) == want[5:]
    assert rows(stream(order, mixed(), workers=2), 12) == want


def test_the_default_is_the_shuffle_that_there_always_was():
    assert rows(stream(shuffle.Order(), Numbers(9)), 9) == rows(
        iter(train_batches(Numbers(9), Encoder((CODE,), {}, True), batch_size=4, seed=3)), 9
    )
    expected = [int(x) for x in itertools.islice(mixture.shuffled(Numbers(9), 3), 36)]
    assert list(itertools.chain(*rows(stream(shuffle.Order(), Numbers(9)), 9))) == expected
    assert rows(stream(Backwards(), Numbers(8)), 2) == [[7, 6, 5, 4], [3, 2, 1, 0]]


def test_batches_of_one_source_show_every_example_of_it_and_keep_the_weights():
    batches = list(itertools.islice(stream(one_source.Order(4), mixed()), 60))
    assert all(len(set(b["source"].tolist())) == 1 for b in batches)
    first = np.array([b["source"][0] for b in batches])
    assert (first == 0).sum() == 20, "one batch of three"
    seen = np.concatenate([b["row"] for b in batches if b["source"][0] == 1])
    assert sorted(seen[:50]) == list(range(30, 80)), "an epoch shows each once"
    apart = np.concatenate([b["source"] for b in itertools.islice(stream(shuffle.Order(), mixed()), 9)])
    assert len(set(apart[:4].tolist())) == 2


class Places(list):
    """Examples of two numbers each, their places on a circle."""

    def __init__(self, count):
        angles = np.random.default_rng(0).permutation(count) / count * 2 * np.pi
        places = np.stack([np.cos(angles), np.sin(angles)], 1)
        super().__init__({"row": i, "code": [[i, i]], "place": x} for i, x in enumerate(places))


def test_groups_are_an_example_and_some_of_those_nearest_to_it(tmp_path):
    source = Places(60)
    places = np.stack([e["place"] for e in source])
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :6]
    order = neighbours.Order(4, among=6, field="place")
    groups = np.asarray(rows(stream(order, source), 60))
    seeds = [int(x) for x in itertools.islice(mixture.shuffled(source, 3), 60)]
    assert groups[:, 0].tolist() == seeds and sorted(seeds) == list(range(60)), "an epoch of seeds"
    drawn = set()
    for first, *others in groups.tolist():
        assert len(set(others)) == 3 and set(others) <= set(nearest[first].tolist())
        drawn |= {nearest[first].tolist().index(n) for n in others}
    assert drawn == set(range(6)), "any of them"
    np.save(tmp_path / "n.npy", nearest)
    written = neighbours.Order(4, among=6, path=str(tmp_path / "n.npy"))
    held = rows(stream(written, source), 60)
    assert all(set(others) <= set(nearest[first].tolist()) for first, *others in held)


@pytest.mark.parametrize(
    "found, message",
    [
        (np.zeros((5, 3), int), r"int64\[5, 3\]; it must be numbers \[8 examples, 3 or more\]"),
        (np.ones((8, 2), int), r"int64\[8, 2\]; it must be"),
        (np.zeros((8, 3)), r"float64\[8, 3\]; it must be"),
        (np.full((8, 3), 8), r"row 0 names 8: it must be another example of 0…7"),
        (np.full((8, 3), 4), r"row 4 names 4: it must be another"),
    ],
)
def test_neighbours_that_are_none_are_named(tmp_path, found, message):
    np.save(tmp_path / "n.npy", found)
    with pytest.raises(ValueError, match=message):
        stream(neighbours.Order(2, among=3, path=str(tmp_path / "n.npy")), Places(8))


def test_mistakes_about_neighbours_are_named():
    for keys, message in (
        (dict(size=1, field="place"), "size=1: must be at least 2 and at most among"),
        (dict(size=8, among=6, field="place"), "size=8: must be .* among . 1 = 7"),
        (dict(size=2), "path='', field='': name one of them"),
        (dict(size=2, path="a", field="b"), "name one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbours.Order(**keys)
    with pytest.raises(ValueError, match="among=9: the 8 examples have no more"):
        stream(neighbours.Order(2, among=9, field="place"), Places(8))
    with pytest.raises(ValueError, match=r"field='plase': example 0 of .* has none"):
        stream(neighbours.Order(2, among=3, field="plase"), Places(8))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"one_source needs a mixture; .* is one source: take shuffle"):
        stream(one_source.Order(4), Numbers(9))
    with pytest.raises(ValueError, match=r"one_source.size=0: must be at least 1"):
        one_source.Order(0)
    modalities = [dict(name="rgb", kind="pixels", shape=(32, 32, 3), field="render3d")]
    config = dict(steps=1, batch_size=2, modalities=modalities, model={}, objectives={"masked": {}})
    parse = lambda **order: build.parse(config | dict(data=dict(source="emoji", **order))).data.order
    assert parse() == shuffle.Order() and parse(order=dict(order="one_source", size=4)) == one_source.Order(4)
    with pytest.raises(
        ValueError, match=r"config.data.order.order='knn': .* there are: neighbours, one_source, shuffle"
    ):
        parse(order=dict(order="knn"))
