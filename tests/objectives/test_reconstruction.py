"""Training tokenizers: losses against NumPy, and codebooks that follow the batch alike on any mesh and accumulation."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import emoji_tokenizer
from data_pipeline.spec import Modality
from pretrain import build, parameters, sharding
from pretrain.objectives import reconstruction
from pretrain.objectives.base import Context, weighted_sum
from pretrain.program import Program
from pretrain.step import accumulate, example_keys, forward, make_train_step

QUANTIZERS = ("vq", "residual", "lfq", "memcodes")


def config(name, **changes):
    """The emoji tokenizer at a sixteenth of the pixels, most codes dead at first."""
    c = emoji_tokenizer.get_config(f"rgb-{name}")
    c.modalities = [{**m, "shape": (16, 16, 3)} for m in c.modalities]
    c.batch_size, c.optim.warmup, c.ema = 8, 1, 0.0
    for part in ("encoder", "decoder"):
        c.model[part].dim, c.model[part].patch = 16, 4
    if "size" in c.model.quantizer:
        c.model.quantizer.size = 24
    c.update(changes)
    return c


def pixels(c, seed=0):
    """A batch in which some images are missing, as different from each other as can be."""
    modalities = build.parse(c).modalities
    return tiny.batch(c.batch_size, seed, modalities)


def value_and_grad(built, batch, keys):
    return jax.jit(
        jax.value_and_grad(lambda p: forward(built.graphs, p, built.objectives, batch, keys, train=True), has_aux=True)
    )


def held(params):
    return params["model"]["autoencoder"].get("quantizer", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
def test_accumulation_equals_the_undivided_batch(name):
    # Of seed 0 a pixel lies within a rounding of its target, where the gradient of |e| jumps; of this one none does.
    built, batch, keys = laws.Built(config(name)), pixels(config(name), 7), example_keys(0, 0, 8)
    run = value_and_grad(built, batch, keys)
    split = jax.jit(lambda p: accumulate(built.graphs, p, built.objectives, batch, keys, 4))
    (loss, aux), grads = run(built.params)
    loss_4, aux_4, grads_4 = split(built.params)
    np.testing.assert_allclose(loss_4, loss, rtol=1e-5)
    laws.close_trees(aux, aux_4, 1e-5)  # terms, and the statistics that codebooks follow, renewals among them
    laws.close_trees(grads, grads_4, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq", "residual"])
def test_eight_devices_equal_one(name):
    made = {}
    for count, mesh in ((1, "ddp"), (8, "data=4,fsdp=2")):
        program = Program(build.parse(config(name, mesh=mesh)), jax.devices()[:count])
        with jax.set_mesh(program.mesh):
            state = program.place(program.fresh)
            for step in range(2):
                batch = sharding.place_batch(pixels(config(name), step), np.arange(8), 8, program.mesh)
                state, metrics = program.step(state, batch)
        made[count] = jax.device_get((state.params, metrics["terms"]))
    laws.close_trees(made[1][1], made[8][1], 1e-5)
    for name in held(made[1][0]):
        np.testing.assert_allclose(held(made[1][0])[name], held(made[8][0])[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["vq", "residual"])
def test_a_codebook_follows_its_statistics_and_nothing_else(name):
    c = config(name)
    c.optim.weight_decay = 0.5
    built, batch, keys = laws.Built(c), pixels(c), example_keys(0, 0, 8)
    before, quantizer = held(built.params), nnx.merge(built.graph, built.params["model"]).autoencoder.quantizer
    (_, (terms, statistics)), grads = value_and_grad(built, batch, keys)(built.params)
    still = {p for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.asarray(g).any()}
    assert {parameters.path_str(p) for p in still} == {f"model/autoencoder/quantizer/{n}" for n in before}
    assert set(statistics) == {"reconstruction"} and "reconstruction/commitment" in terms
    after = held(built.step(batch)[0].params)
    want = quantizer.update(statistics["reconstruction"])
    assert set(want) == set(before) == set(after)
    for key, value in want.items():
        np.testing.assert_allclose(after[key], value, atol=1e-5, err_msg=key)
        assert np.abs(np.asarray(after[key]) - np.asarray(before[key])).max() > 1e-3
    # The optimizer keeps nothing of them.
    program = Program(build.parse(c), jax.devices()[:1])
    shapes = {s.shape for s in jax.tree.leaves(program.state.opt_state)}
    assert not shapes & {np.shape(before["codebook"]), np.shape(before["counts"])}


def test_a_skipped_step_leaves_the_codebook():
    c = config("vq")
    built, batch = laws.Built(c), pixels(c)
    bad = jax.tree.map(np.copy, built.params)
    bad["model"]["autoencoder"]["encoder"]["patch_in"]["bias"][0] = np.nan
    step = jax.jit(make_train_step(built.graphs, built.objectives, built.optimizer, seed=0))
    state, metrics = step(laws.init_state(bad, built.optimizer), batch)
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, held(state.params), held(bad))


@pytest.mark.parametrize("name", ["lfq", "memcodes"])
def test_every_parameter_has_a_gradient(name):
    built, batch, keys = laws.Built(config(name)), pixels(config(name)), example_keys(0, 0, 8)
    _, grads = value_and_grad(built, batch, keys)(built.params)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads))


def terms_of(objective, batch, made, target, losses=None):
    """({term: mean}, totals, weights) of what a network made, train=False."""
    given = tiny.data(objective, batch, example_keys(0, 0, len(batch["row"])), train=False)
    out = {"made": jnp.asarray(made), "target": jnp.asarray(target), "losses": losses or {}}
    totals, weights = objective.totals({}, given | {"out": out}, train=False, run=None), objective.weights(given)
    assert totals.keys() == weights.keys()
    return {k: float(totals[k] / weights[k]) for k in totals}, totals, weights


def test_losses_of_pixels():
    m = (Modality("a", "pixels", (4, 4, 3), "a"), Modality("b", "pixels", (4, 4, 3), "b"))
    batch, rng = tiny.batch(5, 0, m), np.random.default_rng(0)
    raw = np.stack([batch[x.name]["pixels"] for x in m], 1).reshape(10, 4, 4, 3)
    valid = np.stack([batch[x.name]["valid"] for x in m], 1).ravel()
    target, made = raw / 127.5 - 1, rng.normal(size=raw.shape) * 1.5
    commitment = rng.random(10)
    objective = reconstruction.Objective(Context(m), dict(l1=1.0, l2=0.5, smooth_l1=2.0, commitment=0.25))
    found, totals, weights = terms_of(objective, batch, made, target, {"commitment": jnp.asarray(commitment)})
    e = (made - target)[valid]
    huber = np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5)
    psnr = 10 * np.log10(4 / ((made.clip(-1, 1) - target) ** 2)[valid].mean((1, 2, 3)))
    want = dict(
        l1=np.abs(e).mean(), l2=(e**2).mean(), smooth_l1=huber.mean(), commitment=commitment[valid].mean(),
        psnr=psnr.mean(),
    )  # fmt: skip
    assert found == pytest.approx(want, rel=1e-5)
    loss = want["l1"] + 0.5 * want["l2"] + 2 * want["smooth_l1"] + 0.25 * want["commitment"]
    np.testing.assert_allclose(weighted_sum(objective, totals, weights), loss, rtol=1e-5)


def test_losses_of_label_maps_count_every_labelled_pixel_alike():
    m = (Modality("map", "pixels", (4, 4, 1), "map", vocab_size=5, resample="nearest"),)
    batch, rng = tiny.batch(6, 0, m), np.random.default_rng(0)
    labels = rng.integers(0, 5, (6, 4, 4, 1), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    batch["map"]["pixels"] = labels
    made = rng.normal(size=(6, 4, 4, 5))
    found, _, _ = terms_of(
        reconstruction.Objective(Context(m), dict(cross_entropy=1.0)), batch, made, labels[..., 0].astype(int)
    )
    losses, right = [], []
    for i in np.ndindex(6, 4, 4):
        if batch["map"]["valid"][i[0]] and labels[i][0] != 255:
            losses.append(np.log(np.exp(made[i]).sum()) - made[i][labels[i][0]])
            right.append(made[i].argmax() == labels[i][0])
    assert found == pytest.approx(dict(cross_entropy=np.mean(losses), accuracy=np.mean(right)), rel=1e-5)


def test_cosine_of_vectors():
    m = (Modality("v", "vectors", (3, 6), "v", targets=False),)
    batch, made = tiny.batch(6, 0, m), np.random.default_rng(1).normal(size=(6, 3, 6))
    batch["v"]["valid"][:3] = [[True, True, False], [True] * 3, [True] * 3]  # the first lacks one: it is left out
    target, whole = batch["v"]["vectors"], batch["v"]["valid"].all(1)
    found, _, _ = terms_of(reconstruction.Objective(Context(m), dict(cosine=1.0, l2=1.0)), batch, made, target)
    cosine = (made * target).sum(-1) / np.linalg.norm(made, axis=-1) / np.linalg.norm(target, axis=-1)
    want = dict(cosine=(1 - cosine[whole]).mean(), l2=((made - target) ** 2)[whole].mean())
    assert found == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "shape, terms, message",
    [
        ((4, 4, 3), dict(l3=1.0), r"'l3': of 'm' it may be one of l1, l2, smooth_l1, perceptual, commitment"),
        ((4, 4, 3), dict(cosine=1.0), r"'cosine': of 'm' it may be"),
        ((4, 4, 3), dict(l1=-1.0), r"l1=-1.0: must be a number, 0 or more"),
        ((4, 4, 3), dict(commitment=1.0), r"nothing to reconstruct; name one of l1"),
    ],
)
def test_mistaken_terms(shape, terms, message):
    with pytest.raises(ValueError, match=message):
        reconstruction.Objective(Context((Modality("m", "pixels", shape, "m"),)), terms)


def test_terms_and_quantizer_must_fit():
    c = config("memcodes")
    c.objectives.reconstruction.terms.commitment = 1.0
    built = laws.Built(c)
    with pytest.raises(ValueError, match="the quantizer has no commitment: take it out"):
        value_and_grad(built, pixels(c), example_keys(0, 0, 8)).lower(built.params)
    c = config("lfq")
    c.model.quantizer = dict(quantizer="vq")
    c.objectives.reconstruction.terms = dict(l1=1.0)
    built = laws.Built(c)
    with pytest.raises(ValueError, match=r"code_entropy: needs quantizer='lfq', 'fsq' or"):
        value_and_grad(built, pixels(c), example_keys(0, 0, 8)).lower(built.params)
