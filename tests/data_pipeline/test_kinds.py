"""A kind of modality is one file: how a field is read, padded, made up for benchmarks, and what others ask of it."""

import jax
import numpy as np
import pytest

from data_pipeline import discover, kinds
from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from pretrain.models.tokens import dense_rows

PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
# Of each kind: a spec, what a field may hold, and what a batch then holds of it.
SPECS = {
    "grid": (dict(shape=(2, 2), vocab="v", vocab_size=9, tokenizer="t"), [[1, 2, 3, 4]], [1, 2, 3, 4]),
    "set": (dict(shape=(3,), vocab="v", vocab_size=9, tokenizer="t"), [[1, 2, 3]], [1, 2, 3]),
    "sequence": (dict(shape=(4,), vocab="v", vocab_size=9, tokenizer="t"), [5, 6], [5, 6, 0, 0]),
    "pixels": (dict(shape=(6, 8, 3)), PICTURE, PICTURE),
    "video": (dict(shape=(2, 6, 8, 3)), np.stack([PICTURE] * 3), np.stack([PICTURE] * 2)),
    "vectors": (dict(shape=(2, 3), targets=False), [1.0, 2.0, 3.0], [[1, 2, 3], [0, 0, 0]]),
    "rendered": (dict(shape=(2, 3), tokenizer="t", targets=False), [1.0, 2.0, 3.0], [[1, 2, 3], [0, 0, 0]]),
    "labels": (dict(shape=(1,), vocab_size=9), 4, [4]),
    "detections": (dict(shape=(2, 2), vocab_size=9), [[4, 0.5]], [[4, 0.5], [0, 0]]),
    "boxes": (dict(shape=(2, 4)), [[0.25, 0, 0.5, 1]], [[0.25, 0, 0.5, 1], [0, 0, 0, 0]]),
    "phrases": (dict(shape=(3, 2), tokenizer="t"), [[1, 0], [0, 1]], [[1, 0], [0, 1], [0, 0]]),
}


def test_every_file_is_a_kind_and_has_its_case():
    assert sorted(kinds.names()) == sorted(SPECS)
    assert all(kinds.load(name) is kinds.load(name) for name in kinds.names()), "one object a kind"


@pytest.mark.parametrize("name", SPECS)
def test_what_is_read_made_up_and_absent_has_one_form(name):
    spec, field, expected = SPECS[name]
    m = Modality("m", name, field="f", **spec)
    kind, encoder = kinds.of(m), Encoder((m,), {}, False)

    class Source(list):
        pass

    source = Source([{"row": 0, "f": field}, {"row": 1}, {"row": 2, "f": None}])
    (batch,) = eval_batches(source, encoder, batch_size=4)
    found, made = batch["m"], kind.synthetic(m, 4, np.random.default_rng(0))
    assert np.array_equal(found[m.form][0], expected)
    assert found["valid"][0].any() and not found["valid"][1:].any() and not found[m.form][1:].any()
    assert found.keys() == made.keys() == {m.form, "valid"} and found[m.form].dtype == m.dtype
    for key in found:
        assert (found[key].shape, found[key].dtype) == (made[key].shape, made[key].dtype), key
    assert found[m.form].shape[1:] == ((m.length,) if m.form == "ids" else m.shape)
    assert m.dense == (m.form != "ids") and made["valid"].any()
    assert len(m.shape) == kind.rank and m.fields[0] == "f"
    if m.fixed_length:
        assert made["valid"].all()


def test_random_texts_end():
    m = Modality("m", "sequence", (40,), "f", "text", 8000, tokenizer="text")
    made = kinds.of(m).synthetic(m, 50, np.random.default_rng(0))
    length = made["valid"].sum(1)
    assert 4 <= length.min() < 8 and 36 < length.max() <= 40
    assert (made["ids"][np.arange(50), length - 1] == TextTokenizer.eos_id).all()
    assert ((made["ids"] == TextTokenizer.eos_id).sum(1) == 1).all() and not made["ids"][~made["valid"]].any()


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "jax"])
def test_rows_are_what_a_network_projects(numpy):
    norm = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    rgb = Modality("rgb", "pixels", (8, 12, 3), "rgb", patch=4, targets=False, **norm)
    vectors = Modality("v", "vectors", (2, 3), "v", targets=False)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), np.uint8)
    values = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    batch = {"rgb": {"pixels": pixels}, "v": {"vectors": values}}
    if numpy:
        rows = {m.name: m.rows(batch[m.name][m.form]) for m in (rgb, vectors)}
    else:
        rows = {m.name: np.asarray(jax.jit(m.rows)(batch[m.name][m.form])) for m in (rgb, vectors)}
    expected = dense_rows(batch, (rgb, vectors))
    for m in (rgb, vectors):
        assert rows[m.name].shape == (5, m.length, m.width) and rows[m.name].dtype == np.float32
        np.testing.assert_allclose(rows[m.name], np.asarray(expected[m.name]), rtol=1e-6, atol=1e-6)
    first = (pixels[0, :4, 4:8] / 255 - norm["mean"]) / norm["std"]
    np.testing.assert_allclose(rows["rgb"][0, 1].reshape(4, 4, 3), first, atol=1e-5)
    for m in (Modality("c", "video", (2, 8, 8, 3), "c"), Modality("l", "labels", (1,), "l", vocab_size=2)):
        with pytest.raises(NotImplementedError, match=f"a {m.kind} modality has no rows of numbers"):
            m.rows(pixels)


NEW = '''
"""A number; `shape` is (1,)."""

import numpy as np

from data_pipeline.kinds import base


class Kind(base.Kind):
    form, dense = "numbers", True

    def check(self, m, fail):
        if m.targets:
            fail("targets", True, "numbers can only be input: set targets=False")

    def dtype(self, m):
        return "float32"

    def read(self, m, example, rng, encode):
        return example.get(m.field)

    def pad(self, m, parts, rows):
        numbers = [[0.0 if p is None else p] for p in parts]
        return {"numbers": np.array(numbers, np.float32), "valid": np.array([[p is not None] for p in parts])}
'''


def test_a_new_kind_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "number.py").write_text(NEW)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    discover.files.cache_clear()
    try:
        m = Modality("age", "number", (1,), "age", targets=False)
        with pytest.raises(ValueError, match="modality 'age': targets=True: numbers can only be input"):
            Modality("age", "number", (1,), "age")
        with pytest.raises(ValueError, match=r"kind='numbr': must be one of .*grid, .*, video, number"):
            Modality("age", "numbr", (1,), "age")
        (batch,) = eval_batches([{"row": 0, "age": 3}, {"row": 1}], Encoder((m,), {}, False), batch_size=2)
        assert batch["age"]["numbers"].tolist() == [[3.0], [0.0]] and batch["age"]["valid"].tolist() == [
            [True],
            [False],
        ]
    finally:
        discover.files.cache_clear()
