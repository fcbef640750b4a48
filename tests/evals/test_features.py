"""Frozen features: which examples they cover, and what they hold."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.evals.features import features
from pretrain.models.tokens import whole


class Fixed:
    """A context over given batches."""

    modalities = tiny.MODALITIES

    def __init__(self, model, batches):
        self.graph, params = nnx.split(model)
        self.params = {"model": nnx.to_pure_dict(params)}
        self.batches = lambda splits, batch_size: batches


def test_examples_that_lack_the_modality_are_left_out():
    model, batch = tiny.model(probes=2), tiny.batch(8, missing=0.5)
    batch["row"] = np.asarray([10, 11, 12, 13, 14, 15, -1, -1])
    context = Fixed(model, [batch])
    found = features(context, context.params, "caption", "val")
    has = batch["caption"]["valid"].any(1) & (batch["row"] >= 0)
    assert 0 < has.sum() < 6
    np.testing.assert_array_equal(found.row, batch["row"][has])
    pooled = model.pool(model.encode(whole(jax.tree.map(np.asarray, batch), "caption", tiny.MODALITIES)))
    np.testing.assert_allclose(found.pooled, np.asarray(pooled)[has], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.z, axis=1), 1, atol=1e-5)


def test_a_modality_that_nobody_has_is_refused():
    batch = tiny.without(tiny.batch(4), "caption")
    context = Fixed(tiny.model(), [batch])
    with pytest.raises(ValueError, match="features of 'caption': no example of val has it"):
        features(context, context.params, "caption", "val")
