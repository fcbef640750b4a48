"""Dense prediction: the head and its losses against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from data_pipeline.spec import Modality
from pretrain.models import multimodal, tower
from pretrain.models.network import describe
from pretrain.objectives import dense
from pretrain.objectives.base import Context
from pretrain.parameters import values

SEGMENTS = Modality("segments", "pixels", (9, 12, 1), "segments", resample="nearest", vocab_size=5)
DEPTH = Modality("metres", "pixels", (9, 12, 2), "metres", resample="nearest")
SIZE = 4
KEYS = jax.random.split(jax.random.key(0), SIZE)


def objective(loss="segmentation", label="segments", **changes):
    options = dict(inputs=("depth", "image"), grid="image", width=6, up=2, blocks=2) | changes
    return dense.Objective(tiny.context(labels=(SEGMENTS, DEPTH)), label=label, loss=loss, **options)


def data():
    rng = np.random.default_rng(1)
    segments = rng.integers(5, size=(SIZE, 9, 12, 1)).astype(np.uint8)
    segments[rng.random(segments.shape) < 0.2] = 255
    metres = rng.integers(1, 60, size=(SIZE, 9, 12, 2)).astype(np.uint8)
    metres[:, 0] = 0
    valid = np.asarray([True, True, True, False])
    maps = {"segments": {"pixels": segments, "valid": valid}, "metres": {"pixels": metres, "valid": valid}}
    return jax.tree.map(jnp.asarray, tiny.batch(SIZE, missing=0.0) | maps)


def head(made):
    own = values(made.init(jax.random.key(1)))
    return jax.tree.map(lambda x: x + 0.2 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), own)


def test_the_head_equals_pytorch():
    torch = pytest.importorskip("torch")
    made, batch, model = objective(), data(), tiny.model(registers=2)
    own = head(made)
    encoded = tiny.outputs(made, model, batch, KEYS)["stream"]
    t = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), own)
    x = torch.tensor(np.asarray(encoded.x))[:, 2 + 6 :]  # registers, then the 2 × 3 tokens of depth
    x = (x @ t["expand"]["kernel"] + t["expand"]["bias"]).reshape(SIZE, 4, 4, 2, 2, 6)
    x = torch.einsum("bhwijc->bchiwj", x).reshape(SIZE, 6, 8, 8)
    for i in range(2):
        b = jax.tree.map(lambda x, i=i: x[i], t["blocks"])
        kernel = b["depthwise"]["kernel"].permute(3, 2, 0, 1)
        y = torch.nn.functional.conv2d(x, kernel, b["depthwise"]["bias"], padding=3, groups=6).permute(0, 2, 3, 1)
        y = torch.nn.functional.layer_norm(y, (6,), b["norm"]["scale"], b["norm"]["bias"], 1e-6)
        y = torch.nn.functional.gelu(y @ b["fc1"]["kernel"] + b["fc1"]["bias"])
        x = x + (b["scale"] * (y @ b["fc2"]["kernel"] + b["fc2"]["bias"])).permute(0, 3, 1, 2)
    x = torch.einsum("bchw,co->bohw", x, t["out"]["kernel"]) + t["out"]["bias"][:, None, None]
    x = torch.nn.functional.interpolate(x, (9, 12), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(made.predict(own, encoded), x.permute(0, 2, 3, 1), atol=2e-4)


def test_segmentation_ignores_what_has_no_label():
    made, batch, model = objective(), data(), tiny.model()
    own, outputs = head(made), tiny.outputs(made, model, batch, KEYS)
    found = made.totals(own, outputs, train=True, run=None)
    logits = np.asarray(made.predict(own, outputs["stream"]), np.float64)[:3]
    target = np.asarray(batch["segments"]["pixels"])[:3, ..., 0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.nonzero(target != 255)
    assert made.weights(outputs)["segmentation"] == len(at[0]) < target.size
    np.testing.assert_allclose(found["segmentation"], -log_p[(*at, target[at])].sum(), rtol=1e-4)
    assert found["accuracy"] == (log_p.argmax(-1)[at] == target[at]).sum()
    beyond = batch["segments"] | {"pixels": batch["segments"]["pixels"].at[0, 0, 0].set(7)}
    outputs = tiny.outputs(made, model, batch | {"segments": beyond}, KEYS)
    assert np.isnan(made.totals(own, outputs, train=True, run=None)["segmentation"])


@pytest.mark.parametrize("loss", ["l1", "berhu"])
def test_depth_equals_numpy(loss):
    made, batch, model = objective(loss, "metres", unit=0.001), data(), tiny.model()
    own, outputs = head(made), tiny.outputs(made, model, batch, KEYS, train=False)
    found = made.totals(own, outputs, train=False, run=None)
    y = np.asarray(made.predict(own, outputs["stream"]), np.float64)[:3, ..., 0]
    pixels = np.asarray(batch["metres"]["pixels"], np.int64)[:3]
    target = (256 * pixels[..., 0] + pixels[..., 1]) / 1000
    expected, good = 0.0, 0
    for p, t in zip(y, target):
        known = t > 0
        e = np.abs(p - t)[known]
        c = e.max() / 5
        expected += e.sum() if loss == "l1" else sum(x if x <= c else (x**2 + c**2) / (2 * c) for x in e)
        with np.errstate(divide="ignore"):
            good += ((p > 0) & (np.maximum(p / t, t / p) < 1.25))[known].sum()
    assert made.weights(outputs)[loss] == 3 * 8 * 12
    np.testing.assert_allclose(found[loss], expected, rtol=1e-4)
    assert found["delta1"] == good


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(grid="caption", inputs=("caption",)), "grid='caption': must be one of"),
        (dict(label="depth"), "label='depth': no such map among config.labels; there are: segments, metres"),
        (dict(blocks=0), "width=6: width, up, blocks and unit must be positive"),
        (dict(loss="l3"), "loss='l3': must be one of segmentation, l1, berhu"),
        (dict(label="metres"), "label='metres': segmentation needs one channel"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"objectives.dense.{error}"):
        objective(**changes)


def test_towers_alone_have_no_encoder_over_all_inputs():
    eyes = multimodal.Config((tower.Config("eyes", ("image",), dim=16, heads=2, depth=1),)).compose((), ())
    context = Context(tiny.MODALITIES, (SEGMENTS, DEPTH), network=describe(eyes, tiny.MODALITIES))
    with pytest.raises(ValueError, match="it reads the outputs of an encoder over all inputs"):
        dense.Objective(context, ("image",), "image", "segments")
