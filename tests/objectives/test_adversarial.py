"""The adversarial objective: one loss whose gradient on each side is that of this side alone, and when it begins."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import emoji_tokenizer
from pretrain import build, optim
from pretrain.objectives.adversarial import Discriminator
from pretrain.step import accumulate, example_keys, forward, make_train_step

WEIGHT = 0.3


def config(**changes):
    c = emoji_tokenizer.get_config("rgb-fsq")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities[:2]]
    c.model.encoder.dim = c.model.decoder.dim = 16
    c.model.encoder.patch = c.model.decoder.patch = 4
    c.objectives = dict(adversarial=dict(terms=dict(l1=1.0), weight=WEIGHT, width=8, layers=2) | changes)
    c.batch_size, c.optim.warmup, c.ema = 4, 0, 0.0
    return c


@pytest.fixture(scope="module")
def made():
    return laws.Built(config())


@pytest.fixture(scope="module")
def data(made):
    return tiny.batch(4, 0, made.run.modalities)


def one_loss(made, data):
    """(value, terms), gradient of the loss as the step has it."""
    keys = example_keys(0, 0, 4)
    run = jax.value_and_grad(
        lambda p: forward(made.graphs, p, made.objectives, data, keys, train=True), has_aux=True
    )  # fmt: skip
    (loss, (terms, _)), grads = jax.jit(run)(made.params)
    return loss, terms, grads


def game(made, data):
    """What each side plays for, written for itself: functions of (network, discriminator)."""
    valid = np.stack([data[m.name]["valid"] for m in made.run.modalities], 1).ravel()
    raw = np.stack([data[m.name]["pixels"] for m in made.run.modalities], 1).reshape(-1, 16, 16, 3)[valid]
    x = raw / np.float32(127.5) - 1
    d_graph = nnx.split(nnx.eval_shape(lambda: Discriminator(3, 8, 2, rngs=nnx.Rngs(0))))[0]

    def paint(model):
        tokenizer = nnx.merge(made.graph, model).autoencoder
        return tokenizer.decode(tokenizer.encode(raw))

    def generator(model, judge):
        painted = paint(model)
        return jnp.abs(painted - x).mean() - WEIGHT * nnx.merge(d_graph, judge)(painted).mean()

    def discriminator(model, judge):
        judge = nnx.merge(d_graph, judge)
        real, fake = judge(x), judge(paint(model))
        return (jnp.maximum(0, 1 - real).mean() + jnp.maximum(0, 1 + fake).mean()) / 2

    return generator, discriminator


@pytest.mark.slow
def test_each_side_has_the_gradient_of_its_own_loss(made, data):
    loss, terms, grads = one_loss(made, data)
    generator, discriminator = game(made, data)
    judge = made.params["objective"]["adversarial"]["discriminator"]
    args = made.params["model"], judge
    g, d_model = jax.jit(jax.value_and_grad(generator))(*args)
    d, d_judge = jax.jit(jax.value_and_grad(discriminator, argnums=1))(*args)
    np.testing.assert_allclose(loss, g + d, rtol=1e-5)
    laws.close_trees(grads["model"], d_model, 1e-5)
    laws.close_trees(grads["objective"]["adversarial"]["discriminator"], d_judge, 1e-5)
    # What each would get of the other's loss is not nothing: it is what the gradient stops.
    other = jax.jit(jax.grad(discriminator))(*args), jax.jit(jax.grad(generator, argnums=1))(*args)
    assert all(np.abs(np.asarray(jax.tree.leaves(t)[0])).max() > 1e-6 for t in other)
    assert all(np.asarray(x).any() for x in jax.tree.leaves((d_model, d_judge)))
    found = {k: float(t.total / t.weight) for k, t in terms.items()}
    assert found["adversarial/discriminator"] == pytest.approx(float(d), rel=1e-5)
    np.testing.assert_allclose(found["adversarial/l1"] + WEIGHT * found["adversarial/generator"], g, rtol=1e-5)


@pytest.mark.slow
def test_accumulation_equals_the_undivided_batch(made, data):
    loss, terms, grads = one_loss(made, data)
    keys = example_keys(0, 0, 4)
    split = jax.jit(lambda p: accumulate(made.graphs, p, made.objectives, data, keys, 2))
    loss_2, (terms_2, _), grads_2 = split(made.params)
    np.testing.assert_allclose(loss_2, loss, rtol=1e-5)
    laws.close_trees(terms, terms_2, 1e-5)
    laws.close_trees(grads, grads_2, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("accum", [1, 2])
def test_it_begins_at_its_step(data, accum):
    c = config(start=2)
    c.optim.rules = [dict(pattern="^objective/adversarial/discriminator/", lr_scale=0.1)]
    built = laws.Built(c)
    step = jax.jit(make_train_step(built.graphs, built.objectives, built.optimizer, seed=0, accum=accum))
    state, found = laws.init_state(built.params, built.optimizer), []
    for _ in range(3):
        before = state.params["objective"]["adversarial"]["discriminator"]
        state, metrics = step(state, data)
        after = state.params["objective"]["adversarial"]["discriminator"]
        moved = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(*map(jax.tree.leaves, (after, before)))]
        totals = [float(metrics["terms"][f"adversarial/{n}"].total) for n in ("generator", "discriminator")]
        found.append((any(totals), all(m > 0 for m in moved), any(m > 0 for m in moved)))
    assert found == [(False, False, False), (False, False, False), (True, True, True)]


@pytest.mark.slow
def test_the_discriminator_learns_what_is_made(data):
    """A tokenizer that stands still is found out."""
    c = config()
    c.optim.rules = [dict(pattern="^model/", lr_scale=0.0)]
    built = laws.Built(c)
    _, metrics = built.step(data, steps=30)
    term = metrics["terms"]["adversarial/discriminator"]
    assert term.total / term.weight < 0.3  # 1 of one that says 0


def test_the_discriminator_equals_torch():
    torch = pytest.importorskip("torch")
    made = Discriminator(3, 8, 3, rngs=nnx.Rngs(0))
    layers = [made.conv_in, *made.convs, made.conv_out]
    for i, norm in enumerate(made.norms):
        norm.scale[...], norm.bias[...] = (
            jax.random.normal(jax.random.key(10 * i + k), norm.scale.shape) for k in (0, 1)
        )
    modules = []
    for i, conv in enumerate(layers):
        *_, c_in, c_out = conv.kernel.shape
        own = torch.nn.Conv2d(c_in, c_out, 4, stride=2 if i < 3 else 1, padding=1)
        own.weight.data = torch.tensor(np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1))
        own.bias.data = torch.tensor(np.asarray(conv.bias[...]))
        modules.append(own)
        if 0 < i < len(layers) - 1:
            norm = torch.nn.GroupNorm(8, c_out, eps=1e-6)
            norm.weight.data, norm.bias.data = (
                torch.tensor(np.asarray(p[...])) for p in (made.norms[i - 1].scale, made.norms[i - 1].bias)
            )
            modules.append(norm)
        if i < len(layers) - 1:
            modules.append(torch.nn.LeakyReLU(0.2))
    x = np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)
    want = torch.nn.Sequential(*modules)(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    assert want.shape == (2, 1, 2, 3)
    np.testing.assert_allclose(made(x), want.transpose(0, 2, 3, 1), atol=1e-4)


def test_the_optimizer_trains_and_keeps_both(made):
    optimizer = optim.make_optimizer(made.run.optim, made.params, made.run.steps, made.roles)
    shapes = [x.shape for x in jax.tree.leaves(optimizer.init(made.params))]
    assert shapes.count((4, 4, 8, 16)) == 2  # Adam's two moments of a kernel of the discriminator


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(weight=-1.0), "adversarial.weight=-1.0: must not be negative"),
        (dict(start=-1), "adversarial.start=-1: must not be negative"),
        (dict(width=12), "adversarial.width=12: must be positive, the width a multiple of 8"),
        (dict(layers=3), r"adversarial.layers=3: needs pictures of at least 3 · 2\^layers = 24 pixels: take fewer"),
        (dict(terms=dict(generator=1.0)), "'generator': of 'render3d' it may be one of l1"),
    ],
    ids=str,
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        laws.Built(config(**changes))


def test_the_smallest_pictures_that_are_judged():
    c = config()
    c.modalities = [m | dict(shape=(12, 12, 3)) for m in c.modalities]
    build.objectives(build.parse(c))
    c.modalities = [m | dict(shape=(12, 8, 3)) for m in c.modalities]
    with pytest.raises(ValueError, match=r"adversarial.layers=2: needs pictures of at least 3 · 2\^layers = 12 pixels"):
        build.objectives(build.parse(c))


def test_only_pictures_are_judged():
    c = config()
    c.modalities = [m | dict(shape=(16, 16, 1), vocab_size=4, resample="nearest") for m in c.modalities]
    c.objectives.adversarial.terms = dict(cross_entropy=1.0)
    with pytest.raises(ValueError, match="it judges pictures; 'render3d' holds none"):
        laws.Built(c)
