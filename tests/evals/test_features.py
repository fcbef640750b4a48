"""Frozen features: which examples they cover, and what they hold."""

import numpy as np
import pytest
import tiny
from flax import nnx
from toy import Toy

from pretrain.evals import retrieval
from pretrain.evals.base import Context
from pretrain.evals.features import STEPS, features, represent
from pretrain.generate.chain import Generator, Target
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole


class Fixed:
    """A context over given batches."""

    modalities = tiny.MODALITIES

    def __init__(self, model, batches):
        self.graph, params = nnx.split(model)
        self.params = {"model": nnx.to_pure_dict(params)}
        self.batches = lambda splits, batch_size: batches


def test_examples_that_lack_the_modality_are_left_out():
    model, batch = tiny.model(pool_queries=2), tiny.batch(8, missing=0.5)
    batch["row"] = np.asarray([10, 11, 12, 13, 14, 15, -1, -1])
    context = Fixed(model, [batch])
    found = features(context, context.params, "caption", "val")
    has = batch["caption"]["valid"].any(1) & (batch["row"] >= 0)
    assert 0 < has.sum() < 6
    np.testing.assert_array_equal(found.row, batch["row"][has])
    leaf = Leaf(Whole(("caption",), tiny.MODALITIES))
    pooled = compute(model, {"pooled": model.states.pooled("caption", leaf)}, batch)["pooled"]
    np.testing.assert_allclose(found.pooled, np.asarray(pooled)[has], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.z, axis=1), 1, atol=1e-5)


def test_a_modality_that_nobody_has_is_refused():
    batch = tiny.without(tiny.batch(4), "caption")
    context = Fixed(tiny.model(), [batch])
    with pytest.raises(ValueError, match="features of 'caption': no example of val has it"):
        features(context, context.params, "caption", "val")


class Vectors:
    """A tokenizer of vectors: three numbers a token."""

    def decode(self, ids):
        return np.stack([ids, ids**2, np.ones_like(ids)], axis=-1).astype(np.float32)


def test_through_a_modality_that_is_predicted(monkeypatch):
    """What the tokenizer makes of the tokens that the network predicts, centred; retrieval compares it."""
    toy = Toy(missing=0.3)
    monkeypatch.setattr(Context, "tokenizers", {"fsq": Vectors()})
    rows, x = represent(toy, toy.params, "caption+label>depth", ("val", "test"))
    batches = list(toy.batches(("val", "test"), 64))
    generator, wanted, kept = Generator(toy.graph, toy.params["model"], tiny.MODALITIES), [], []
    for batch in batches:
        made = generator(batch, ["caption", "label"], [Target("depth", steps=STEPS, temperature=0.0)])["depth"]["ids"]
        has = batch["caption"]["valid"].any(1) | batch["label"]["valid"].any(1)
        wanted.append(Vectors().decode(np.asarray(made)[has]).reshape(has.sum(), -1))
        kept.append(batch["row"][has])
    wanted, kept = np.concatenate(wanted), np.concatenate(kept)
    assert len(kept) < 48 and np.ptp(wanted, axis=0).max() > 0
    np.testing.assert_array_equal(rows, kept)
    np.testing.assert_allclose(x, wanted - wanted.mean(0), atol=1e-3)
    found = dict(retrieval.Evaluator(toy, (("image>depth", "caption>depth"),), splits=("test",)).run(toy.params))
    assert found["image>depth↔caption>depth/candidates"] < 24
    for pair, message in (
        (("image>depth", "caption"), "only what is predicted of the same modality can be compared"),
        (("image>caption", "label>caption"), ">caption: no grid or set that the network predicts"),
        (("smell>depth", "image>depth"), "no modality 'smell'"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval.Evaluator(toy, (pair,))
    monkeypatch.setattr(Context, "tokenizers", {})
    with pytest.raises(ValueError, match=">depth: no tokenizer here decodes it; there are none"):
        retrieval.Evaluator(toy, (("image>depth", "caption>depth"),)).check_tokenizers()
