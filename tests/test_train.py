"""The train step as a whole on the tiny emoji run, and what the trainer refuses."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import emoji, emoji_tokenizer
from data_pipeline.sources.emoji import Source
from pretrain import optim, runtime
from pretrain.checkpoint import load_params
from pretrain.models.network import Config as Composed
from pretrain.models.network import Network
from pretrain.models.parts import base
from pretrain.models.passes import Leaf, call
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, whole
from pretrain.objectives.base import EXAMPLE
from pretrain.objectives.corruptions import Entry
from pretrain.parameters import Roles, undecayed, values, variables
from pretrain.step import accumulate, evaluate_objectives, example_keys, init_state, make_train_step
from pretrain.train import train


@pytest.fixture
def config(token_store):
    c = emoji.get_config("tiny")
    c.data.path = str(token_store)
    return c


@pytest.mark.slow
def test_accumulation_equals_one_batch(config):
    built = laws.Built(config)
    batch, keys = built.batch(), example_keys(0, 0, config.batch_size)

    def undivided(params, batch):
        return evaluate_objectives(built.graphs, params, built.objectives, batch, keys, train=True)

    (loss, terms), grads = jax.jit(jax.value_and_grad(undivided, has_aux=True))(built.params, batch)
    split = jax.jit(lambda p, batch: accumulate(built.graphs, p, built.objectives, batch, keys, 4))
    loss_4, (terms_4, _), grads_4 = split(built.params, batch)
    np.testing.assert_allclose(loss_4, loss, rtol=1e-5)
    laws.close_trees(terms, terms_4, 1e-5)
    laws.close_trees(grads, grads_4, 1e-5)


@pytest.mark.slow
def test_scan_equals_unrolled_and_remat():
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    seen = whole(batch, "image", tiny.MODALITIES)
    asked = whole(batch, "depth", tiny.MODALITIES)

    def gradients(**how):
        graph, params = nnx.split(tiny.model(encoder_depth=3, decoder_depth=2, **how))

        def loss(params):
            model = Predictor(nnx.merge(graph, params))
            return model.nll(model.decode(model.encode(Shown(seen, {})), asked), asked.ids).sum()

        return nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))

    plain = gradients()
    for how in (dict(unroll=True), dict(remat="block"), dict(remat="dots")):
        # The gradient of q is a small difference of large terms: an AMD EPYC rounds it 1.1e-5 apart.
        laws.close_trees(plain, gradients(**how), 5e-5)


@pytest.mark.slow
def test_every_term_has_a_gradient(config):
    """Each loss term reaches the trunk, and every parameter is reached by some term."""
    config.batch_size = 32
    built = laws.Built(config)
    batch, keys = built.batch(), example_keys(0, 0, 32)

    def terms(params, batch):
        found = evaluate_objectives(built.graphs, params, built.objectives, batch, keys, train=True)[1]
        return {name: term.total for name, term in found.items()}

    @jax.jit
    def gradient(params, batch, weights):
        return jax.grad(lambda p: sum(weights[n] * t for n, t in terms(p, batch).items()))(params)

    total = jax.tree.map(jnp.zeros_like, built.params)
    names = list(jax.eval_shape(terms, built.params, batch))
    for name in names:
        g = gradient(built.params, batch, {n: jnp.float32(n == name) for n in names})
        assert np.abs(g["model"]["encoder"]["blocks"]["attn"]["qkv"]["kernel"]).max() > 0, name
        total = jax.tree.map(lambda t, x: t + jnp.abs(x), total, g)
    for path, leaf in jax.tree_util.tree_leaves_with_path(total):
        assert leaf.max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped_and_named(config):
    built = laws.Built(config)
    batch = built.batch()
    before, _ = built.step(batch, steps=2)  # the first step of a warm-up has a learning rate of zero
    broken = dict(built.params, objective={"masked": {}, "contrastive": {"log_scale": jnp.float32(jnp.nan)}})
    built.params = broken
    state, metrics = built.step(batch, steps=2)
    assert metrics["skipped"] == 2 and metrics["skipped_in_a_row"] == 2
    jax.tree.map(np.testing.assert_array_equal, state.params["model"], broken["model"])
    bad = [name for name, ok in metrics["finite"].items() if not ok]
    assert "loss contrastive/render3d~noto" in bad and not any("masked" in b for b in bad)
    assert not np.array_equal(before.params["model"]["embed"]["mask_token"], broken["model"]["embed"]["mask_token"])


@dataclasses.dataclass(frozen=True)
class Part(base.Config):
    """A part of a network that is any module."""

    reads: tuple[str, ...] = ()
    module: type = nnx.Module

    def make(self, build, rngs):
        return self.module()


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is():
    class Objective:
        init, coef, scope = lambda self, key: {}, 1.0, EXAMPLE
        weights, loss_weight = lambda self, data: {"a": 1.0}, lambda self, name: 1.0

        def passes(self, train):
            offset = Leaf(Entry("offset"))
            return {"offset": offset, "sum": call("scale", offset)}

        def totals(self, params, outputs, *, train, run):
            return {"a": outputs["sum"][0] + outputs["offset"].sum()}

    class Scale(nnx.Module):
        def __init__(self):
            self.scale = undecayed(jnp.ones(3))

        def __call__(self, x, asked):
            return jnp.broadcast_to(self.scale[...].sum(), x.shape)

    made = Network(Composed({"scale": Part(module=Scale)}), (), (), nnx.Rngs(0))
    graph, own = nnx.split(made)[0], {"model": variables(made), "objective": {"o": {}}}
    params, objectives = values(own), {"o": Objective()}
    optimizer = optim.make_optimizer(optim.Config(), params, 10, Roles(own))
    step = jax.jit(make_train_step({"online": graph}, objectives, optimizer, seed=0))
    state = init_state(params, optimizer)
    for offset, skipped, changed in ((np.inf, 1, False), (np.nan, 2, False), (0.0, 0, True)):
        batch = {"row": jnp.arange(2), "offset": jnp.full(2, offset)}
        after, metrics = step(state, batch)
        assert metrics["skipped_in_a_row"] == skipped and metrics["finite"]["loss o/a"] == changed
        assert metrics["finite"]["gradient of model/scale"] and metrics["grad_norm"] == np.float32(3**0.5)
        assert bool((after.params["model"]["scale"]["scale"] != 1).any()) == changed
        state = after


def test_the_seed_and_the_step_fix_the_corruption():
    a, b = (jax.random.key_data(example_keys(1, step, 4)) for step in (0, 1))
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, jax.random.key_data(example_keys(1, 0, 4)))
    np.testing.assert_array_equal(a[:2], jax.random.key_data(example_keys(1, 0, 2)))


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path):
    def claim(config):
        with runtime.claim_workdir(tmp_path / "run", config) as resumed:
            return resumed

    assert not claim('{"steps": 1, "log": {"every": 1}}') and claim('{"steps": 1, "log": {"every": 2}}')
    with pytest.raises(ValueError, match=r'(?s)belongs to a run of another config.*-\s*"steps": 1.*\+\s*"steps": 2'):
        claim('{"steps": 2, "log": {"every": 1}}')
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is broken .* bring it back"):
        claim('{"steps": 1}')


@pytest.mark.slow
def test_other_data_are_told_when_a_run_is_continued(tmp_path, monkeypatch, capsys):
    c = emoji_tokenizer.get_config("gray-fsq")
    c.modalities = [{**m, "shape": (16, 16, 1)} for m in c.modalities[:1]]
    c.steps, c.optim.warmup, c.evals, c.batch_size = 1, 0, {}, 8
    train(c, tmp_path / "run")
    train(c, tmp_path / "run")
    out = capsys.readouterr().out
    assert "resuming" in out and "WARNING: the data" not in out
    monkeypatch.setattr(Source, "__repr__", lambda self: "Source(other)")
    train(c, tmp_path / "run")
    assert re.search(
        r"the data changed since that checkpoint: .*train.* then, Source\(other\) now", capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_run_starts_from_another(token_store, tmp_path, capsys):
    """Through the trainer: with a learning rate of 0 the second run ends where the first one's average stood."""

    def small(**changes):
        c = emoji.get_config("tiny")
        del c.objectives["contrastive"]
        names = ("render3d", "caption")  # few, to compile fast
        c.modalities = [m for m in c.modalities if m["name"] in names]
        alphas = dict.fromkeys(names, 1.0)
        c.objectives.masked.mixture = [dict(inputs=alphas, targets=alphas)]
        c.data.path, c.evals, c.final_evals, c.checkpoint.best = str(token_store), {}, {}, ""
        c.steps, c.optim.warmup = 1, 0
        with c.unlocked():
            c.update(changes)
        return c

    train(small(), tmp_path / "first")
    second = small(load=str(tmp_path / "first"), seed=5)
    second.optim.lr = 0.0
    end = train(second, tmp_path / "second")
    for held in (end.params, end.evaluated):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(held), load_params(tmp_path / "first"))
    assert "0 new" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "first")  # a run that has a checkpoint of its own no longer needs it
    again = train(second, tmp_path / "second")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.params), jax.device_get(end.params))
