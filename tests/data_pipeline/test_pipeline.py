"""Batches: the same for any number of workers and hosts, every evaluation row once."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags

from data_pipeline.checks import check_labels
from data_pipeline.pipeline import Encoder, eval_batches, train_batches
from data_pipeline.spec import Modality, check_modalities

MODALITIES = (
    Modality("code", "grid", (2, 2), "code", "code", 50, tokenizer="fsq"),
    Modality("depth", "grid", (1, 3), "depth", "depth", 40_000, tokenizer="fsq"),
    Modality("label", "sequence", (4,), "group", "text", 300, tokenizer="text"),
    Modality("rgb", "pixels", (6, 6, 3), "rgb"),
)


class Letters:
    """A text tokenizer: one id a letter, 3 at the end."""

    def encode(self, text, max_len):
        return [*(ord(c) for c in text), 3][:max_len]


class Memory:
    """13 examples; every third lacks the depth, and number 5 the label. Two crops of each grid."""

    size = 13

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        example = {
            "row": np.int64(100 + index),
            "code": index % 25 + np.asarray([0, 25])[:, None, None] + np.zeros((2, 2, 2), np.int64),
            "rgb": rng.integers(0, 256, (6, 6, 3), dtype=np.uint8),
        }
        if index % 3:
            example["depth"] = rng.integers(39_000, 40_000, (2, 1, 3))
        return example | ({"group": "abcdefgh"[: 1 + index % 8]} if index != 5 else {})

    def __repr__(self):
        return "Memory()"


def encoder(train=True):
    return Encoder(MODALITIES, {"text": Letters()}, train)


def take(count, **options):
    batches = iter(train_batches(Memory(), encoder(), **dict(batch_size=4, seed=3) | options))
    return [next(batches) for _ in range(count)]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and np.array_equal(a, b)


def joined(parts):
    first = parts[0]
    return {k: joined([p[k] for p in parts]) for k in first} if isinstance(first, dict) else np.concatenate(parts)


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_slices_make_up_the_global_batch(hosts):
    parts = [take(9, rows=range(h * 4 // hosts, (h + 1) * 4 // hosts)) for h in range(hosts)]
    for whole, *slices in zip(take(9), *parts):
        assert len(slices[0]["row"]) == 4 // hosts
        assert equal(whole, joined(slices))


def test_workers_do_not_change_the_data():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags, which `python -m pretrain` has parsed
    for alone, beside in zip(take(5), take(5, workers=1)):
        assert equal(alone, beside)


def test_seed_and_epochs():
    one, again, other = (np.concatenate([b["row"] for b in take(13, seed=s)]) for s in (3, 3, 4))
    assert (one == again).all() and (one != other).any()
    assert all(len(set(one[13 * e : 13 * (e + 1)])) == 13 for e in range(4)), "an epoch shows every example once"
    assert one[:13].tolist() != one[13:26].tolist(), "every epoch has an order of its own"


def test_the_iterators_state_continues_the_stream():
    stream = iter(train_batches(Memory(), encoder(), batch_size=4, seed=3))
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    want = [next(stream) for _ in range(3)]
    fresh = iter(train_batches(Memory(), encoder(), batch_size=4, seed=3))
    fresh.set_state(state)
    assert all(equal(next(fresh), w) for w in want)


def test_a_batch_is_as_the_design_says():
    batch = take(1, batch_size=12)[0]
    assert {k: v["ids"].dtype for k, v in batch.items() if k not in ("row", "rgb")} == {
        "code": np.int16, "depth": np.int32, "label": np.int16
    }  # fmt: skip
    assert batch["row"].dtype == np.int64 and batch["rgb"]["pixels"].shape == (12, 6, 6, 3)
    assert batch["rgb"]["pixels"].dtype == np.uint8 and batch["rgb"]["valid"].shape == (12,)
    for b, row in enumerate(batch["row"]):
        example = Memory()[row - 100]
        assert batch["code"]["valid"][b].all() and batch["depth"]["valid"][b].all() == ("depth" in example)
        assert batch["depth"]["valid"][b].any() == ("depth" in example)
        text = Letters().encode(example["group"], 4) if "group" in example else []
        assert batch["label"]["ids"][b].tolist() == text + [0] * (4 - len(text))
        assert batch["label"]["valid"][b].tolist() == [i < len(text) for i in range(4)]


def test_all_grids_of_an_example_come_from_the_same_crop_and_crops_vary():
    chosen = set()
    for batch in take(13):
        for b, row in enumerate(batch["row"]):
            example = Memory()[row - 100]
            crop = int(batch["code"]["ids"][b, 0] >= 25)
            chosen.add(crop)
            assert batch["code"]["ids"][b].tolist() == example["code"][crop].ravel().tolist()
            if "depth" in example:
                assert batch["depth"]["ids"][b].tolist() == example["depth"][crop].ravel().tolist()
    assert chosen == {0, 1}


@pytest.mark.parametrize("batch_size", [1, 4, 13, 20])
def test_evaluation_sees_every_row_once_and_marks_the_padding(batch_size):
    batches = list(eval_batches(Memory(), encoder(train=False), batch_size=batch_size))
    assert all(len(b["row"]) == batch_size for b in batches)
    rows = np.concatenate([b["row"] for b in batches])
    assert rows[rows >= 0].tolist() == list(range(100, 113)) and len(rows) < 13 + batch_size
    sizes = [(b["row"] >= 0).sum() for b in batches]
    assert max(sizes) - min(sizes) <= 1, "what is compared inside a batch has as many others in each"
    for batch in batches:
        for m in MODALITIES:
            assert not batch[m.name]["valid"][batch["row"] < 0].any()
        real = batch["row"] >= 0
        assert (batch["code"]["ids"][real] < 25).all(), "the first crop, always"
    again = list(eval_batches(Memory(), encoder(train=False), batch_size=batch_size))
    assert all(equal(a, b) for a, b in zip(batches, again))


def test_errors():
    empty = Memory()
    empty.size = 0
    with pytest.raises(ValueError, match=r"Memory\(\) is empty"):
        train_batches(empty, encoder(), batch_size=4, seed=0)
    narrow = Encoder((Modality("code", "grid", (2, 2), "code", "code", 5, tokenizer="fsq"),), {}, False)
    with pytest.raises(ValueError, match=r"modality 'code': 4 ids of 7…7 in row 107 do not fit .* vocab_size 5"):
        narrow(Memory()[7], np.random.default_rng(0))
    floats = {"row": 3, "code": np.full((1, 2, 2), 0.7)}
    with pytest.raises(ValueError, match=r"modality 'code': row 3 holds float64 of shape \(4,\): ids are integers"):
        narrow(floats, np.random.default_rng(0))
    four = Encoder((Modality("rgb", "pixels", (6, 6, 4), "rgb"),), {}, False)
    with pytest.raises(ValueError, match=r"modality 'rgb': shape=\(6, 6, 4\), but row 100 has \(6, 6, 3\)"):
        four(Memory()[0], np.random.default_rng(0))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(kind="film"), "modality 'code': kind='film': must be one of boxes, detections, grid"),
        (dict(shape=(4,)), r"shape=\(4,\): a grid modality needs 2 positive sizes"),
        (dict(shape=(0, 4)), "shape"),
        (dict(tokenizer=""), "name the tokenizer"),
        (dict(vocab=""), "name a vocabulary"),
    ],
    ids=str,
)
def test_specs_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Modality(
            **dict(name="code", kind="grid", shape=(2, 2), field="c", vocab="v", vocab_size=9, tokenizer="t") | changes
        )


def test_lists_of_specs_that_make_no_sense():
    code = MODALITIES[0]
    with pytest.raises(ValueError, match=r"'code' occurs twice"):
        check_modalities([code, code])
    with pytest.raises(ValueError, match=r"modality 'other': vocab_size.*9.*vocabulary 'code' has .*50.* elsewhere"):
        check_modalities([code, Modality("other", "grid", (2, 2), "o", "code", 9, tokenizer="fsq")])
    for name in ("row", "source", "step"):
        with pytest.raises(ValueError, match=f"modality '{name}': batches hold something else under that name"):
            check_modalities([dataclasses.replace(code, name=name)])


CLASS = Modality("class", "labels", (1,), "group", vocab_size=8, classes=tuple("abcdefgh"[:n] for n in range(1, 9)))


def test_labels_travel_as_numbers():
    named, numbered = (
        Encoder((CLASS,), {}, True),
        Encoder((Modality("class", "labels", (1,), "age", vocab_size=3),), {}, True),
    )
    encode = lambda encoder, example: encoder(example | {"row": np.int64(0)}, np.random.default_rng(0))["class"]
    found = encode(named, {"group": "abc"})
    assert (found["ids"].tolist(), found["valid"].tolist(), found["ids"].dtype) == ([2], [True], np.int16)
    assert encode(numbered, {"age": 1})["ids"].tolist() == [1]
    assert not encode(named, {})["valid"].any() and not encode(named, {"group": None})["valid"].any()
    for encoder, example in (
        (named, {"group": "x"}),
        (named, {"group": 0}),
        (numbered, {"age": 3}),
        (numbered, {"age": True}),
    ):
        with pytest.raises(ValueError, match=r"labels 'class': row 0 has \w+=.*: must be"):
            encode(encoder, example)
    check_labels((CLASS,), Memory())


def test_labels_are_checked_before_a_run():
    class Maps(Memory):
        def __getitem__(self, index):
            return {"row": index, "map": np.full((2, 2, 1), 9 if index == 7 else 255, np.uint8), "group": "abc"}

    class Files(Memory):
        pick = lambda self, index, fields, texts: {"row": index, "group": "abcd" if index < 12 else "nobody"}
        __getitem__ = None

    maps = Modality("map", "pixels", (2, 2, 1), "map", resample="nearest", vocab_size=9)
    with pytest.raises(ValueError, match=r"labels 'map': row 7 has map of \[9\]: must be 0…8, or 255 for none"):
        check_labels((CLASS, maps), Maps())
    with pytest.raises(ValueError, match="labels 'class': row 12 has group='nobody': must be one of its classes a, ab"):
        check_labels((CLASS,), Files())
    with pytest.raises(ValueError, match=r"labels 'map': none of 13 examples of .* has its field"):
        check_labels((maps,), Memory())
    with pytest.raises(ValueError, match=r"Memory\(\) is empty: nothing to train on"):
        empty = Memory()
        empty.size = 0
        check_labels((CLASS,), empty)
