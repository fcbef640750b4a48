"""The reconstruction evaluator: PSNR and SSIM against SciPy, usage over a whole split, padding and gaps left out."""

import types

import jax
import numpy as np
import pytest
import scipy.linalg
import tiny
from flax import nnx
from scipy.ndimage import gaussian_filter
from toy_run import write_run

from configs import emoji_tokenizer, siglip_b16
from data_pipeline.spec import Modality
from pretrain import build
from pretrain.evals import reconstruction
from pretrain.evals.base import Context
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from pretrain.restore import restore


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
    made = build.models(run, build.objectives(run))["online"](nnx.Rngs(0))
    graph, params = nnx.split(made)
    first, last = tiny.batch(4, 0, run.modalities), tiny.batch(4, 1, run.modalities)
    last["row"] = np.array([5, 6, -1, -1])  # padding
    context = stand_in(run.modalities, graphs={"online": graph}, batches=lambda split, size: iter((first, last)))
    found = dict(reconstruction.Evaluator(context).run({"model": nnx.to_pure_dict(params)}))
    raw = np.concatenate(
        [b[m.name]["pixels"][b[m.name]["valid"] & (b["row"] >= 0)] for b in (first, last) for m in run.modalities]
    )
    made = made.autoencoder
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


def scipy_frechet(a, b):
    """As it is usually computed, by the root of a matrix that is not symmetric."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


def test_frechet_equals_scipy():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    np.testing.assert_allclose(reconstruction.frechet(a, b), scipy_frechet(a, b), rtol=1e-10)
    assert scipy_frechet(a, b) > 1
    np.testing.assert_allclose(reconstruction.frechet(a, a), 0, atol=1e-9)
    # Fewer rows than numbers: singular covariances. Of rows that are moved alone, the distance is that of the means.
    few = rng.normal(size=(5, 12))
    np.testing.assert_allclose(reconstruction.frechet(few, few + 2), 4 * 12, rtol=1e-6)
    # One number: (μ_a − μ_b)² + (σ_a − σ_b)².
    x, y = a[:, :1], b[:, :1]
    want = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    np.testing.assert_allclose(reconstruction.frechet(x, y), want, rtol=1e-10)


def test_rfid_of_a_split(tmp_path):
    """By the features of another workdir, of what is neither padding nor missing."""
    other = siglip_b16.get_config("tiny")
    other.model.embed_dim = 8
    for t in other.model.towers:
        t.update(dict(dim=8, heads=2))
    write_run(other, tmp_path)
    c = emoji_tokenizer.get_config("rgb-fsq")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities]
    run = build.parse(c)
    made = build.models(run, build.objectives(run))["online"](nnx.Rngs(0))
    graph, params = nnx.split(made)
    first, last = tiny.batch(8, 0, run.modalities), tiny.batch(8, 1, run.modalities)
    last["row"] = np.array([8, 9, 10, 11, 12, -1, -1, -1])
    context = stand_in(run.modalities, graphs={"online": graph}, batches=lambda split, size: iter((first, last)))
    (_, evaluator), *_ = build.evaluators(
        dict(codes=dict(evaluator="reconstruction", network=dict(workdir=str(tmp_path)))), context
    ).values()
    found = dict(evaluator.run({"model": nnx.to_pure_dict(params)}))
    raw = np.concatenate(
        [b[m.name]["pixels"][b[m.name]["valid"] & (b["row"] >= 0)] for b in (first, last) for m in run.modalities]
    )
    held = restore(tmp_path)

    def features(x):
        x = jax.image.resize(x.astype(np.float32), (len(x), 64, 64, 3), "cubic")
        batch = {"image": {"pixels": x, "valid": np.ones(len(x), bool)}}
        node = held.model.states.pooled("image", Leaf(Whole(("image",), held.run.modalities)))
        return np.asarray(compute(held.model, {"pooled": node}, batch)["pooled"])

    made = made.autoencoder
    want = scipy_frechet(features(raw), features(np.asarray(made.detokenize(made.tokenize(raw)))))
    np.testing.assert_allclose(found["rfid"], want, rtol=1e-3)
    assert want > 1e-2


def stand_in(modalities, **values) -> Context:
    """A context without a run."""
    made = object.__new__(Context)
    made.__dict__.update(run=types.SimpleNamespace(modalities=modalities), **values)
    return made


def test_a_network_that_is_not_there_is_named_before_the_training(tmp_path):
    context = stand_in(build.parse(emoji_tokenizer.get_config("rgb-fsq")).modalities)
    evals = dict(codes=dict(evaluator="reconstruction", network=dict(workdir=str(tmp_path))))
    with pytest.raises(FileNotFoundError, match=r"network\.workdir='.*no config\.json"):
        build.evaluators(evals, context)
    (tmp_path / "config.json").write_text(build.to_json(siglip_b16.get_config("tiny")))
    with pytest.raises(ValueError, match=r"network\.workdir='.*' has no checkpoint: train it first"):
        build.evaluators(evals, context)


def test_rfid_needs_pictures():
    vectors = Modality("v", "vectors", (4, 8), "v", targets=False)
    with pytest.raises(ValueError, match="network: it compares pictures; 'v' holds none"):
        reconstruction.Evaluator(types.SimpleNamespace(modalities=(vectors,)), network=object())
