"""Orders: which example comes when, the same for any number of workers and hosts, from any place on."""

import itertools
import json

import grain
import numpy as np
import pytest

from data_pipeline import mixture
from data_pipeline.orders import one_source, shuffle
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


@pytest.mark.parametrize("order", [shuffle.Order(), one_source.Order(4), one_source.Order(8), Backwards()], ids=repr)
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


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"one_source needs a mixture; .* is one source: take shuffle"):
        stream(one_source.Order(4), Numbers(9))
    with pytest.raises(ValueError, match=r"one_source.size=0: must be at least 1"):
        one_source.Order(0)
    modalities = [dict(name="rgb", kind="pixels", shape=(32, 32, 3), field="render3d")]
    config = dict(steps=1, batch_size=2, modalities=modalities, model={}, objectives={"masked": {}})
    parse = lambda **order: build.parse(config | dict(data=dict(source="emoji", **order))).data.order
    assert parse() == shuffle.Order() and parse(order=dict(order="one_source", size=4)) == one_source.Order(4)
    with pytest.raises(ValueError, match=r"config.data.order.order='knn': .* there are: one_source, shuffle"):
        parse(order=dict(order="knn"))
