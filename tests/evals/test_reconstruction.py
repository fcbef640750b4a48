"""The reconstruction evaluator: PSNR and SSIM against SciPy, usage over a whole split, padding and gaps left out."""

import types

import numpy as np
import pytest
import tiny
from flax import nnx
from scipy.ndimage import gaussian_filter

from configs import emoji_tokenizer
from data_pipeline.spec import Modality
from pretrain import build
from pretrain.evals import reconstruction


def images(seed, count=3):
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(count, 20, 24, 3)), (0, 2, 2, 0)) * 400 + 128
    return smooth.clip(0, 255).round().astype(np.float32)


def scipy_ssim(a, b):
    """One channel at a time in fp64; windows that leave the picture are cut off afterwards."""
    scores = []
    for c in range(a.shape[-1]):
        x, y = a[..., c].astype(np.float64), b[..., c].astype(np.float64)
        blur = lambda x: gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]
        mx, my = blur(x), blur(y)
        vx, vy, xy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = 2.55**2, 7.65**2
        scores.append(((2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return np.mean(scores)


def test_ssim_and_psnr_equal_scipy():
    a = images(0)
    b = (
        (a + np.random.default_rng(1).normal(size=a.shape) * [[[[5]]], [[[30]]], [[[90]]]])
        .clip(0, 255)
        .astype(np.float32)
    )
    want = [scipy_ssim(x, y) for x, y in zip(a, b)]
    assert want[0] > 0.8 > want[2]
    np.testing.assert_allclose(reconstruction.ssim(a, b), want, atol=1e-5)
    mse = ((a.astype(np.float64) - b) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(reconstruction.psnr(a, b), 20 * np.log10(255) - 10 * np.log10(mse), atol=1e-4)
    np.testing.assert_allclose(reconstruction.ssim(a, a), 1, atol=1e-6)
    np.testing.assert_allclose(reconstruction.psnr(a, a), 100)


@pytest.mark.parametrize("name", ["fsq", "residual"])
def test_scores_of_a_split(name):
    c = emoji_tokenizer.get_config(f"rgb-{name}")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities]
    run = build.parse(c)
    made = build.model(run, build.objectives(run))(nnx.Rngs(0))
    graph, params = nnx.split(made)
    first, last = tiny.batch(4, 0, run.modalities), tiny.batch(4, 1, run.modalities)
    last["row"] = np.array([5, 6, -1, -1])  # padding
    context = types.SimpleNamespace(
        modalities=run.modalities, graph=graph, batches=lambda split, size: iter((first, last))
    )
    found = dict(reconstruction.Evaluator(context).run({"model": nnx.to_pure_dict(params)}))
    raw = np.concatenate(
        [b[m.name]["pixels"][b[m.name]["valid"] & (b["row"] >= 0)] for b in (first, last) for m in run.modalities]
    )
    ids = np.asarray(made.tokenize(raw))
    books, size = made.quantizer.books, made.quantizer.vocab_size
    p = np.stack([np.bincount(ids[:, k::books].ravel(), minlength=size) for k in range(books)]) / (ids.size / books)
    np.testing.assert_allclose(found["usage"], (p > 0).mean(), rtol=1e-6)
    entropy = [-(q[q > 0] * np.log(q[q > 0])).sum() for q in p]
    np.testing.assert_allclose(found["perplexity"], np.exp(entropy).mean(), rtol=1e-4)
    out = np.asarray(made.detokenize(ids)).astype(np.float64)
    psnr = 10 * np.log10(255**2 / ((out - raw) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found["psnr"], psnr.mean(), atol=1e-3)
    np.testing.assert_allclose(found["ssim"], np.mean([scipy_ssim(x, y) for x, y in zip(out, raw)]), atol=1e-4)
    assert set(found) == {"usage", "perplexity", "psnr", "ssim"}


def test_pictures_smaller_than_a_window_are_refused():
    context = types.SimpleNamespace(modalities=(Modality("rgb", "pixels", (8, 16, 3), "rgb"),))
    with pytest.raises(ValueError, match=r"'rgb' is 8×16: SSIM needs 11 × 11"):
        reconstruction.Evaluator(context)
