"""Mixtures: shares and epochs as asked, exact resume, the same for any workers and hosts, and the plan in words."""

import json

import numpy as np
import pytest

from data_pipeline.checks import check_fields
from data_pipeline.mixture import Part, Source
from data_pipeline.pipeline import Encoder, eval_batches, train_batches
from data_pipeline.plan import describe_data
from data_pipeline.spec import Modality

CODE = Modality("code", "grid", (1, 2), "code", "code", 1000, tokenizer="t")
TEXT = Modality("text", "sequence", (3,), "text", "words", 1000, tokenizer="stored")


class Numbers:
    """`size` examples whose ids say which source and which example they are."""

    fields = frozenset({"code", "words"})

    def __init__(self, size, first):
        self.size, self.first = size, first

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        at = self.first + index
        return {"row": np.int64(index), "code": np.array([[at, at]]), "words": [at]}

    def __repr__(self):
        return f"Numbers({self.size}, {self.first})"


def mixture(weights=(6, 1, 3), temperature=1.0, sizes=(10, 4, 6)):
    first = Part(Numbers(sizes[0], 0), fields={"text": "words"})
    second = Part(Numbers(sizes[1], 100), modalities=("code",), fields={"text": "words"})
    return Source([first, second, Part(Numbers(sizes[2], 200), ("text",), {"text": "words"})], weights, temperature)


def batches(count, source=None, **options):
    encoder = Encoder((CODE, TEXT), {}, True)
    stream = iter(train_batches(source or mixture(), encoder, **dict(batch_size=5, seed=1) | options))
    return [next(stream) for _ in range(count)]


def ids(batch):
    """Which number an example is, from whichever modality it has."""
    return np.where(batch["code"]["valid"][:, 0], batch["code"]["ids"][:, 0], batch["text"]["ids"][:, 0])


def same(a, b):
    return (
        all(np.array_equal(a[m][k], b[m][k]) for m in ("code", "text") for k in a[m]) and (a["row"] == b["row"]).all()
    )


def test_shares_and_epochs():
    drawn = np.concatenate([ids(b) for b in batches(40)])
    counts = np.bincount(drawn // 100, minlength=3)
    assert counts.tolist() == [120, 20, 60], "6 : 1 : 3 of 200"
    for source, size in ((0, 10), (1, 4), (2, 6)):
        mine = drawn[drawn // 100 == source]
        for start in range(0, len(mine) - size + 1, size):
            assert len(set(mine[start : start + size].tolist())) == size, "everything once, then again"
    first = drawn[drawn < 100]
    assert first[:10].tolist() != first[10:20].tolist(), "each time in another order"
    assert np.concatenate([ids(b) for b in batches(40, seed=2)]).tolist() != drawn.tolist()


def test_turns_are_spread_evenly():
    """In any window of ten there are six, one and three, give or take one."""
    kinds = np.concatenate([ids(b) for b in batches(40)]) // 100
    for start in range(190):
        counts = np.bincount(kinds[start : start + 10], minlength=3)
        assert abs(counts - [6, 1, 3]).max() <= 1


@pytest.mark.parametrize("temperature, power", [(1.0, 1.0), (2.0, 0.5), (1e9, 0.0)])
def test_temperatures(temperature, power):
    sizes = np.array([1000, 10, 160])
    shares = mixture((0, 0, 0), temperature, sizes).shares
    want = sizes**power
    np.testing.assert_allclose(shares, want / want.sum(), rtol=5e-3)  # to whole turns of which the least is 100


def test_subsets_of_modalities_and_rows():
    source = mixture()
    assert len(source) == 20 and source.fields == {"code", "words", "text"}
    assert [int(source[i]["row"]) for i in range(20)] == list(range(20)) and source.pick(14, ())["row"] == 14
    (batch,) = eval_batches(source, Encoder((CODE, TEXT), {}, False), batch_size=20)
    assert batch["code"]["valid"][:, 0].tolist() == [True] * 14 + [False] * 6
    assert batch["text"]["valid"][:, 0].tolist() == [True] * 10 + [False] * 4 + [True] * 6
    assert ids(batch).tolist() == [*range(10), *range(100, 104), *range(200, 206)]
    for batch in batches(10):
        number = ids(batch)
        np.testing.assert_array_equal(batch["row"], number % 100 + np.array([0, 10, 14])[number // 100])
    with pytest.raises(IndexError):
        source[20]


def test_resume_workers_and_hosts():
    encoder, want = Encoder((CODE, TEXT), {}, True), batches(9)
    stream = iter(train_batches(mixture(), encoder, batch_size=5, seed=1))
    for _ in range(4):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    fresh = iter(train_batches(mixture(), encoder, batch_size=5, seed=1))
    fresh.set_state(state)
    assert all(same(next(fresh), w) for w in want[4:])
    assert all(same(a, b) for a, b in zip(batches(3, workers=2), want))
    parts = [batches(5, rows=rows) for rows in ([0, 1], [2, 3, 4])]
    for whole, *halves in zip(want, *parts):
        np.testing.assert_array_equal(ids(whole), np.concatenate([ids(h) for h in halves]))


def test_repr_changes_with_what_is_mixed():
    other = Source([Part(Numbers(10, 0)), Part(Numbers(4, 100)), Part(Numbers(6, 200))], (6, 1, 3))
    texts = {repr(s) for s in (mixture(), mixture((1, 1, 1)), mixture(sizes=(10, 4, 7)), other)}
    assert len(texts) == 4 and repr(mixture()) == repr(mixture())


def test_the_plan():
    source = mixture()
    source.parts[2].source.report = "3 of 9 keys skipped"
    assert describe_data(source, (CODE, TEXT), batch_size=5, steps=16).splitlines() == [
        "data: 20 examples; an epoch is 40 of them drawn, 8.0 steps, and the run 2.00 epochs",
        f"   60.0%  10 examples, 24 drawn in an epoch, seen 4.80× in the run: {source.parts[0]!r}",
        "          code, text",
        f"   10.0%  4 examples, 4 drawn in an epoch, seen 2.00× in the run: {source.parts[1]!r}",
        "          code",
        f"   30.0%  6 examples, 12 drawn in an epoch, seen 4.00× in the run: {source.parts[2]!r}",
        "          text",
        "          3 of 9 keys skipped",
    ]
    image = Modality("edges", "pixels", (2, 2, 1), "edges:code")
    palette = Modality("palette", "sequence", (9,), "palette", "words", 1000, tokenizer="stored")
    assert describe_data(Numbers(30, 0), (CODE, TEXT, image, palette), 10, 6).splitlines() == [
        "data: 30 examples; an epoch is 30 of them drawn, 3.0 steps, and the run 2.00 epochs", "  code, edges"
    ]  # fmt: skip


def test_mistakes():
    for weights, temperature in (((1, 0, 1), 1.0), ((1, -1, 1), 1.0), ((1, 1, 1), 2.0)):
        with pytest.raises(ValueError, match=r"weights=.*: give every source a weight above 0 and no temperature"):
            mixture(weights, temperature)
    with pytest.raises(ValueError, match=r"Numbers\(0, 0\).* is empty"):
        mixture(sizes=(0, 4, 6))
    with pytest.raises(ValueError, match=r"fields: Numbers\(4, 0\) has no 'word'; it has code, words"):
        Part(Numbers(4, 0), fields={"text": "word"})
    with pytest.raises(ValueError, match=r"modality 'code': field='codes' is unknown: use one of code, text, words"):
        check_fields((Modality(**{**CODE.__dict__, "field": "codes"}),), mixture())
