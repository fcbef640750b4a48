"""What fresh parameters take from data: codes from examples, tables from codes; the same on any mesh."""

import shutil

import jax
import laws
import numpy as np
import pytest
import scipy.cluster.vq
import tiny
from flax import nnx

from configs import emoji_tokenizer
from pretrain import build
from pretrain.data import read_codes
from pretrain.data_init import data_init, latents
from pretrain.program import Program
from pretrain.train import train


def parts(config, devices=1):
    run = build.parse(config)
    program = Program(run, jax.devices()[:devices])
    return program, read_codes(run), build.source(run.data, "train"), build.encoder(run, train=True)


def tokenizer_config(**quantizer):
    c = emoji_tokenizer.get_config("rgb-kmeans")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities[:2]]
    c.model.quantizer.update(dict(size=16, width=8, kmeans=4000) | quantizer)
    for part in ("encoder", "decoder"):
        c.model[part].dim, c.model[part].patch = 16, 4
    c.batch_size, c.steps, c.optim.warmup, c.evals, c.checkpoint.every, c.log.every = 8, 2, 1, {}, 2, 1
    return c


def test_codes_start_as_kmeans_of_what_the_encoder_makes():
    program, codes, source, encode = parts(tokenizer_config())
    params = data_init(program, codes, source, encode)
    model, own = nnx.merge(program.graphs["online"], params["model"]).autoencoder, params["model"]["autoencoder"]
    z, tokens = latents(model, program.run, source, encode)
    assert tokens == 16 and z.shape == (1300 * 2 * 16, 8)
    used, distance = scipy.cluster.vq.vq(z, own["quantizer"]["codebook"])
    assert len(set(used)) == 16
    best = scipy.cluster.vq.kmeans2(z.astype(float), 16, seed=0, minit="++")
    assert np.square(distance).mean() < 1.2 * np.square(scipy.cluster.vq.vq(z, best[0])[1]).mean()
    np.testing.assert_allclose(own["quantizer"]["counts"].sum(), 8 * 2 * 16, rtol=1e-5)
    read = z @ own["from_code"]["kernel"] + own["from_code"]["bias"]
    np.testing.assert_allclose(read.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(read.std(0), 1, atol=0.1)  # of all vectors: k-means saw some of them
    fresh = jax.jit(program.init)()["model"]["autoencoder"]
    jax.tree.map(np.testing.assert_array_equal, own["encoder"], jax.device_get(fresh["encoder"]))


def residual_config():
    c = tokenizer_config()
    c.model.quantizer = dict(quantizer="residual", levels=2, size=16, width=8, kmeans=4000)
    return c


@pytest.mark.slow
@pytest.mark.parametrize("config", [tokenizer_config(cosine=True), residual_config()], ids=["cosine", "residual"])
def test_a_training_starts_there_whatever_the_quantizer_and_the_mesh(config, tmp_path):
    """The first step chooses among codes that k-means found, not random ones; a mesh changes nothing."""
    config.modalities = config.modalities[:1]
    start = [data_init(*parts(config, devices)) for devices in (1, 8)]
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get(start))
    train(config, tmp_path / "with")
    del config.model.quantizer.kmeans
    train(config, tmp_path / "without")
    usage = {n: laws.losses(tmp_path / n)[1]["reconstruction/usage"] for n in ("with", "without")}
    assert usage["with"] > 0.8 and usage["with"] > usage["without"]


def test_too_few_examples_for_kmeans_are_told():
    c = tokenizer_config()
    c.model.quantizer.size = 40
    program, codes, source, encode = parts(c)
    with pytest.raises(ValueError, match=r"quantizer.kmeans=4000: 1 examples give 32 vectors, too few .* of 40 codes"):
        data_init(program, codes, [source[0]], encode)


def test_tables_start_as_images_of_codes(token_store):
    c = tiny.emoji_run(token_store)
    c.modalities[0]["code_std"] = 0.25
    program, codes, source, encode = parts(c)
    params = data_init(program, codes, source, encode)
    tables, fresh = (
        params["model"]["embed"]["tables"],
        jax.device_get(jax.jit(program.init)())["model"]["embed"]["tables"],
    )
    np.testing.assert_array_equal(tables["text"], fresh["text"])
    np.testing.assert_allclose(tables["rgb"].std(), 0.25, rtol=0.15)
    centred = codes["rgb"][1] - codes["rgb"][1].mean(0)
    linear, *_ = np.linalg.lstsq(centred, tables["rgb"], rcond=None)
    left = tables["rgb"] - (centred) @ linear
    np.testing.assert_allclose(left.std(), 0.025, rtol=0.05)


def test_a_store_without_codes_is_told(token_store, tmp_path):
    for file in token_store.iterdir():
        said = file.read_bytes().replace(b'"codes"', b'"others"').replace(b'\n  "sha256"', b'\n  "was"')
        (tmp_path / file.name).write_bytes(said)
    c = tiny.emoji_run(tmp_path)
    c.modalities[0]["code_std"] = 0.25
    with pytest.raises(ValueError, match=r"'render3d': code_std=0.25: no token store of config.data holds the codes"):
        train(c, "unused")


def test_codes_that_are_not_those_of_the_store_are_refused(token_store, tmp_path):
    shutil.copytree(token_store, tmp_path / "store")
    c, file = tiny.emoji_run(tmp_path / "store"), tmp_path / "store" / "rgb.codes.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"rgb.codes.npy: another sha256 than its manifest says; copy it again"):
        train(c, tmp_path / "run")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"rgb.codes.npy: missing; bring it back, or tokenize again"):
        train(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_read_where_nothing_is_wanted(token_store):
    c = tiny.emoji_run(token_store)
    c.modalities[0]["code_std"] = 0.0
    program, codes, *_ = parts(c)
    assert data_init(program, codes, None, None) is None
