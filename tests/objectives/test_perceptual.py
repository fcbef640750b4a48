"""The perceptual term: LPIPS's formula in NumPy, gradients, and a run whose network comes from a workdir and stays."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from laws import Built
from toy_run import write_run

from configs import emoji_tokenizer, siglip_b16
from pretrain import build
from pretrain.checkpoint import load_params
from pretrain.evals import losses
from pretrain.evals.base import Context
from pretrain.models.tokens import Whole
from pretrain.parameters import path_str
from pretrain.program import Program
from pretrain.restore import restore, untrained
from pretrain.step import example_keys
from pretrain.train import train


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A workdir of two small towers, one of which reads pictures of 64 pixels."""
    workdir = tmp_path_factory.mktemp("eyes")
    c = siglip_b16.get_config("tiny")
    c.model.embed_dim = 16
    for t in c.model.towers:
        t.update(dict(dim=16, heads=2))
    write_run(c, workdir)
    return workdir


def config(eyes, style="rgb", **network):
    """A small tokenizer of pictures that are not of the network's size."""
    c = emoji_tokenizer.get_config(f"{style}-fsq")
    c.modalities = [{**m, "shape": (32, 32, m["shape"][2])} for m in c.modalities[:1]]
    c.model.encoder.dim = c.model.decoder.dim = 16
    c.objectives = dict(
        reconstruction=dict(
            terms=dict(l1=1.0, perceptual=0.5), network=dict(workdir=str(eyes), layers=(0, -1)) | network
        )
    )
    c.steps, c.batch_size, c.optim.warmup, c.evals = 4, 8, 1, {}
    c.checkpoint.every, c.log.every = 2, 1
    return c


def numpy_distance(eyes, a, b, layers=(0, -1)):
    """From the blocks of the tower itself, given normalised patches of pictures that were resized beforehand."""
    held = restore(eyes)
    m = held.run.modalities[0]
    total = 0.0
    hidden = []
    for x in (a, b):
        x = jax.image.resize(x, (len(x), 64, 64, x.shape[-1]), "cubic")
        batch = {m.name: {"pixels": np.broadcast_to(x, (*x.shape[:3], 3)), "valid": np.ones(len(x), bool)}}
        given = held.model.run("image_embed", Whole((m.name,), held.run.modalities)(batch))
        hidden.append(np.asarray(held.model.run("image_encoder", given, layers=True).layers, np.float64))
    for i in layers:
        u, v = (h[:, i] / np.linalg.norm(h[:, i], axis=-1, keepdims=True) for h in hidden)
        total = total + ((u - v) ** 2).sum(-1).mean(-1) / len(layers)
    return total


@pytest.mark.parametrize("style, channels", [("rgb", 3), ("gray", 1)])
def test_the_term_equals_numpy(eyes, style, channels):
    built = Built(config(eyes, style))
    objective, m = built.objectives["reconstruction"], built.run.modalities
    batch, keys = tiny.batch(6, 0, m), example_keys(0, 0, 6)
    own = {"network": restore(eyes).params["model"]}
    network = nnx.merge(built.graph, built.params["model"])
    outputs, model = tiny.outputs(objective, network, batch, keys, train=False), network.autoencoder
    totals = jax.jit(lambda own, outputs: objective.totals(own, outputs, train=False, run=None))(own, outputs)
    weights = objective.weights(outputs)
    raw = batch[m[0].name]["pixels"].astype(np.float32)
    made = np.asarray(model.decode(model.encode(raw))) * 127.5 + 127.5
    want = numpy_distance(eyes, made, raw)[batch[m[0].name]["valid"]]
    assert raw.shape[-1] == channels and 0 < len(want) < 6 and want.min() > 0.01
    np.testing.assert_allclose(totals["perceptual"] / weights["perceptual"], want.mean(), rtol=1e-4)
    assert objective.loss_weight("perceptual") == 0.5


def test_what_is_alike_has_no_distance_and_the_gradient_is_that_of_finite_differences(eyes):
    objective = Built(config(eyes)).objectives["reconstruction"]
    params, rng = restore(eyes).params["model"], np.random.default_rng(0)
    a, b, step = (rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32) for _ in range(3))
    distance = jax.jit(objective.network.distance)
    np.testing.assert_array_equal(distance(params, a, a), 0)
    grad = jax.grad(lambda x: distance(params, x, b).sum())(a)
    h = 0.5
    slope = (distance(params, a + h * step / 255, b) - distance(params, a - h * step / 255, b)).sum() / (2 * h)
    np.testing.assert_allclose((grad * step / 255).sum(), slope, rtol=1e-2)


def test_gradients_reach_the_tokenizer_and_never_the_network(eyes):
    built = Built(config(eyes))
    batch, keys = tiny.batch(4, 0, built.run.modalities, missing=0.0), example_keys(0, 0, 4)
    objective = built.objectives["reconstruction"]

    def term(params):
        outputs = tiny.outputs(objective, nnx.merge(built.graph, params["model"]), batch, keys)
        return objective.totals(params["objective"]["reconstruction"], outputs, train=True, run=None)["perceptual"]

    grads = jax.jit(jax.grad(term))(built.params)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["model"]))
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads["objective"]))


@pytest.mark.slow
def test_a_run_takes_the_network_from_its_workdir_and_leaves_it_alone(eyes, tmp_path):
    c = config(eyes)
    c.optim.weight_decay, c.ema = 0.5, 0.9
    given = restore(eyes).params["model"]
    program = Program(build.parse(c), jax.devices()[:1])
    kept = [path_str(p) for p, _ in jax.tree_util.tree_leaves_with_path(program.state.opt_state)]
    assert any("decoder" in p for p in kept) and not any("network" in p for p in kept)
    train(c, tmp_path / "run")
    for ema in (True, False):
        assert load_params(tmp_path / "run", ema=ema).keys() == {"model"}, "the network is not saved"
    held = restore(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, held.params["objective"]["reconstruction"]["network"], given)
    context = Context(held.run, held.graphs, held.objectives)
    found = dict(losses.Evaluator(context, batch_size=64, repeats=1).run(held.params))
    assert 0 < found["reconstruction/perceptual"] < 4
    before = untrained(held).params["objective"]["reconstruction"]["network"]
    jax.tree.map(np.testing.assert_array_equal, before, given)
    c.steps = 6
    (tmp_path / "run" / "config.json").write_text(build.to_json(c))
    assert int(train(c, tmp_path / "run").step) == 6
    for path in (eyes / "checkpoints").iterdir():
        path.rename(eyes / path.name)
    try:
        with pytest.raises(FileNotFoundError, match=r"reconstruction.network: .*the rest of this run was read there"):
            restore(tmp_path / "run")
    finally:
        for path in eyes.glob("[0-9]*"):
            path.rename(eyes / "checkpoints" / path.name)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(workdir="nowhere"), r"network.workdir='nowhere': .*no config.json"),
        (dict(modality="text"), r"network.modality='text': must be one of image \(network.workdir="),
        (dict(layers=(2,)), r"network.layers=\(2,\): that network has blocks 0 … 1"),
        (dict(layer=1), r"config.objectives.reconstruction.network.layer=1: unknown key; did you mean 'layers'"),
    ],
    ids=str,
)
def test_mistakes_are_named_before_training(eyes, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(eyes, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_term_and_network_go_together(eyes):
    for key in ("terms", "network"):
        c = config(eyes)
        if key == "terms":
            c.objectives.reconstruction.terms = dict(l1=1.0)
        else:
            del c.objectives.reconstruction.network
        with pytest.raises(ValueError, match="go together: give both"):
            Built(c)


def test_what_reads_no_pictures_is_refused(eyes, tmp_path):
    write_run(emoji_tokenizer.get_config("rgb-fsq"), tmp_path)
    with pytest.raises(ValueError, match="no transformer over pictures was trained there"):
        Built(config(tmp_path))


def test_a_codebook_goes_on_learning_beside_the_network(eyes, tmp_path):
    """What statistics set is no part of the base, though the network that pictures are compared by is."""
    c = config(eyes)
    c.model.quantizer = dict(quantizer="vq", size=8, width=4)
    c.steps, c.optim.warmup = 1, 0
    program = Program(build.parse(c), jax.devices()[:1])
    before = program.init()["model"]["autoencoder"]["quantizer"]
    state = train(c, tmp_path / "run")
    after = state.params["model"]["autoencoder"]["quantizer"]
    assert program.base and (np.asarray(after["codebook"]) != np.asarray(before["codebook"])).any()
