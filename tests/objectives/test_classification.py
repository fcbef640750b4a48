"""Classification: the loss against NumPy, and what mixup and cutmix mix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from data_pipeline.spec import Modality
from pretrain.models import multimodal, tower
from pretrain.models.network import describe
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, dense_rows, whole
from pretrain.objectives import classification
from pretrain.objectives.base import Context
from pretrain.parameters import values

PIXELS = Modality("rgb", "pixels", (8, 8, 3), "rgb", patch=2, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
MODALITIES = (*tiny.MODALITIES, PIXELS)
LABELS = (Modality("class", "labels", (1,), "class", vocab_size=7),)
SIZE = 6


def objective(inputs=("image",), pool_queries=0, **changes):
    return classification.Objective(
        tiny.context(MODALITIES, LABELS, pool_queries=pool_queries), inputs, "class", **changes
    )


def network(**changes):
    return tiny.model(modalities=MODALITIES, **changes)


def data(missing=0.3):
    rng = np.random.default_rng(0)
    label = {"ids": rng.integers(7, size=(SIZE, 1)).astype(np.int16), "valid": rng.random((SIZE, 1)) > 0.2}
    label["valid"][0], label["valid"][-1] = True, False
    return jax.tree.map(jnp.asarray, tiny.batch(SIZE, modalities=MODALITIES, missing=missing) | {"class": label})


KEYS = jax.random.split(jax.random.key(3), SIZE)


def head(made):
    own = values(made.init(jax.random.key(1)))
    return jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), own)


def numpy_logits(own, x, valid):
    pooled = np.stack([row[v].mean(0) if v.any() else 0 * row[0] for row, v in zip(x, valid)])
    pooled = pooled - pooled.mean(1, keepdims=True)
    pooled = pooled / np.sqrt((pooled**2).mean(1, keepdims=True) + 1e-6)
    return (pooled * own["norm"]["scale"] + own["norm"]["bias"]) @ own["kernel"] + own["bias"]


@pytest.mark.parametrize("train, registers", [(False, 0), (True, 3)])
def test_equals_numpy(train, registers):
    made, batch = objective(("image", "depth"), label_smoothing=0.2), data()
    own = head(made)
    outputs = tiny.outputs(made, network(registers=registers), batch, KEYS, train)
    total, weight, found = made.totals(own, outputs, train=train, run=None), made.weights(outputs), outputs["pooled"]
    logits = numpy_logits(jax.device_get(own), *(np.asarray(a)[:, registers:] for a in (found.x, found.valid)))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    label, valid = (np.asarray(batch["class"][k])[:, 0] for k in ("ids", "valid"))
    known = valid & (batch["image"]["valid"].any(1) | batch["depth"]["valid"].any(1))
    epsilon = 0.2 if train else 0.0
    nll = [-(1 - epsilon) * p[y] - epsilon * p.mean() for p, y in zip(log_p, label)]
    assert 1 < known.sum() < SIZE and weight["nll"] == weight["accuracy"] == known.sum()
    np.testing.assert_allclose(total["nll"], sum(n for n, k in zip(nll, known) if k), rtol=1e-4)
    assert total["accuracy"] == sum(p.argmax() == y for p, y, k in zip(log_p, label, known) if k)


def test_probes_pool_as_the_network_does():
    made, batch, model = objective(pool_queries=2, pool="queries"), data(), network(pool_queries=2, registers=3)
    own, outputs = head(made), tiny.outputs(made, model, batch, KEYS)
    assert made.embedded == ("image",) and own["kernel"].shape == (2 * 16, 7)
    found = Predictor(model).encode(outputs["shown"])
    x, placed, valid = (np.asarray(a)[:, 3:] for a in (found.x, found.placed, found.valid))
    scores = np.exp(np.einsum("pd,bnd->bpn", model.pool.head.pool_queries[...], x + placed)) * valid[:, None]
    pooled = np.einsum("bpn,bnd->bpd", scores / np.maximum(scores.sum(2, keepdims=True), 1e-9), x).reshape(SIZE, 1, -1)
    expected = numpy_logits(jax.device_get(own), pooled, np.ones((SIZE, 1), bool))
    has = valid.any(1)
    np.testing.assert_allclose(made.predict(own, outputs["pooled"])[has], expected[has], atol=1e-4)


def test_mixup_of_pixels_is_that_of_the_paper():
    """What the encoder reads is the patch projection of λ x + (1 − λ) x', and the target is mixed alike."""
    made, batch, model = objective(("rgb",), mixup=0.8), data(missing=0.0), network()
    batch["class"]["valid"] = jnp.ones((SIZE, 1), bool)
    own, outputs = head(made), tiny.outputs(made, model, batch, KEYS)
    share = np.asarray(outputs["share"])
    assert (np.ptp(share, axis=1) == 0).all()
    share = share[:, :1]
    assert np.ptp(share) > 0.1 and (share >= 0).all() and (share <= 1).all()
    pixels = np.asarray(batch["rgb"]["pixels"], np.float32)
    mixed = share[:, :, None, None] * pixels + (1 - share)[:, :, None, None] * pixels[::-1]
    tokens = whole(batch, "rgb", MODALITIES)
    found = Predictor(model).encode(Shown(tokens, dense_rows({"rgb": {"pixels": jnp.asarray(mixed)}}, (PIXELS,))))
    log_p = np.asarray(jax.nn.log_softmax(made.predict(own, found)))
    label = np.asarray(batch["class"]["ids"])[:, 0]
    expected = sum(-s * p[y] - (1 - s) * p[z] for s, p, y, z in zip(share[:, 0], log_p, label, label[::-1]))
    np.testing.assert_allclose(made.totals(own, outputs, train=True, run=None)["nll"], expected, rtol=1e-4)
    mixing, plain = (
        one.totals(own, tiny.outputs(one, model, batch, KEYS, train=False), train=False, run=None)
        for one in (made, objective(("rgb",)))
    )
    assert mixing == plain, "nothing is mixed in evaluation"


def test_cutmix_takes_one_box_whose_share_the_label_gets():
    made, keys = objective(cutmix=1.0), jax.random.split(jax.random.key(0), 500)
    share = np.asarray(jax.vmap(classification.Mixing(made)._share)(keys)).reshape(-1, 4, 4)
    assert set(np.unique(share)) == {0.0, 1.0}
    for cut in 1 - share:
        rows, columns = cut.any(1), cut.any(0)
        np.testing.assert_array_equal(cut, rows[:, None] & columns[None])  # a rectangle
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
    assert 0.4 < share.mean() < 0.8  # half of it in the paper; the border cuts boxes off
    batch, model, own = data(missing=0.0), network(), head(made)
    batch["class"]["valid"] = jnp.ones((SIZE, 1), bool)
    outputs = tiny.outputs(made, model, batch, KEYS)
    keep = np.asarray(outputs["share"]).astype(bool)
    ids = np.where(keep, batch["image"]["ids"], batch["image"]["ids"][::-1])
    tokens = whole(batch | {"image": batch["image"] | {"ids": jnp.asarray(ids)}}, "image", MODALITIES)
    log_p = np.asarray(jax.nn.log_softmax(made.predict(own, Predictor(model).encode(Shown(tokens, {})))))
    label = np.asarray(batch["class"]["ids"])[:, 0]
    s = keep.mean(1)
    expected = sum(-a * p[y] - (1 - a) * p[z] for a, p, y, z in zip(s, log_p, label, label[::-1]))
    np.testing.assert_allclose(made.totals(own, outputs, train=True, run=None)["nll"], expected, rtol=1e-4)


def test_nothing_is_mixed_with_what_has_no_label():
    made, batch = objective(mixup=0.8, cutmix=1.0), data(missing=0.0)
    given = tiny.data(made, batch, KEYS)
    known, share = np.asarray(made._known(given)), np.asarray(given["share"])
    np.testing.assert_array_equal(share[~known[::-1]], 1.0)
    assert (share < 1).any() and not known.all()


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(inputs=("caption",), mixup=1.0), "mixup=1.0: mixes grids and pixels alone"),
        (dict(inputs=("nose",)), r"inputs=\('nose',\): must be of the network's inputs, image, depth"),
        (dict(label_smoothing=1.0), "label_smoothing=1.0: must be at least 0 and below 1"),
        (dict(pool="queries"), "pool='queries': must be mean, or queries of a network that has some"),
        (dict(cutmix=-1.0), "cutmix=-1.0: must not be negative"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"objectives.classification.{error}"):
        objective(**changes)


def test_towers_alone_have_no_encoder_over_all_inputs():
    eyes = multimodal.Config((tower.Config("eyes", ("image",), dim=16, heads=2, depth=1),)).compose((), ())
    context = Context(tiny.MODALITIES, LABELS, network=describe(eyes, tiny.MODALITIES))
    with pytest.raises(ValueError, match="it reads the outputs of an encoder over all inputs"):
        classification.Objective(context, ("image",), "class")
