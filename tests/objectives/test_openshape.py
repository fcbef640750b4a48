"""OpenShape's losses: which pairs of near duplicates count, by golden numbers and NumPy; both ways of dropping; texts
that lack; what is refused; blocks, accumulation, any mesh."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from vector_run import NAMES, config, write_split

from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.objectives.targets import identity, neighbours
from pretrain.ops.pairs import Candidates, cross_entropy, target_losses
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
B, KEYS, SIZE, MARGIN = 16, example_keys(0, 3, 16), 4, 0.3
EDGES = [dict(a="a", b="b"), dict(a="a", b="c")]  # points, text and image
MODES = ("left out", "zero")
GROUP = 2  # of the golden batch: three seeds with one neighbour each


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def golden(*names):
    return [unit(GOLDEN[f"in/{n}"].astype(np.float64)).astype(np.float32) for n in names]


def test_what_is_kept_is_the_golden_mask():
    a, b = golden("a", "b")
    target = neighbours.Target(GROUP, image="image", text="caption")
    found = {("shown", n): tiny.shown(np.ones(6, bool)) for n in ("image", "caption")}
    sides = target.sides(None, found | {("z", "image"): a, ("z", "caption"): b}, None, None)
    own = jnp.eye(6, dtype=bool)
    given = Candidates(jnp.zeros((6, 6)), own, jnp.ones((6, 6), bool))
    np.testing.assert_array_equal(target(given, 1.0, *sides).counted, GOLDEN["out/openshape_keep"])
    np.testing.assert_array_equal(target(given, 1.0, *sides[::-1]).counted, GOLDEN["out/openshape_keep"].T)
    assert (~GOLDEN["out/openshape_keep"]).sum() == 3, "how many are dropped"


@pytest.mark.parametrize("mode, name", [("zero", "openshape_masked_zero"), ("left out", "openshape_masked_inf")])
def test_the_golden_losses(mode, name):
    """Trap: the release multiplies logits by 0, and they stay in the denominator."""
    a, b, c = golden("a", "b", "c")
    target = neighbours.Target(GROUP, image="image", text="caption", dropped=mode)
    found = {("shown", n): tiny.shown(np.ones(6, bool)) for n in ("image", "caption")}
    sides = target.sides(None, found | {("z", "image"): a, ("z", "caption"): b}, None, None)
    ways = target_losses(a, c, jnp.ones(6, bool), 14.28, target, sides, divergence=cross_entropy)
    loss = sum(ways).sum() / 2
    np.testing.assert_allclose(loss / 6, GOLDEN[f"out/{name}"], rtol=1e-5)


def run_config(folder, mode=MODES[0], block=0, **target):
    keys = dict(target="neighbours", size=SIZE, image="c", text="b", margin=MARGIN, dropped=mode) | target
    one = dict(edges=EDGES, temperature=1 / 14.28, max_scale=0.0, coef=2.0, block=block, target=keys)
    return config(folder, batch_size=B, objectives=dict(contrastive=one))


@functools.cache
def built(mode):
    with tempfile.TemporaryDirectory() as folder:
        write_split(Path(folder), "train", B)
        made = laws.Built(run_config(folder, mode))
        batch = made.batch()
    for name, row in (("b", 3), ("b", 4), ("c", 9), ("a", 13)):
        batch[name]["valid"][row] = False
    params = tiny.noisy(made.params)
    params["objective"]["contrastive"]["log_scale"] = jnp.float32(np.log(14.28))
    return made.objectives, made.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided(mode):
    return laws.gradients(*built(mode), KEYS)


def embedded(mode):
    objectives, graphs, params, batch = built(mode)
    nodes = {n: objectives["contrastive"].passes(True)["z", n] for n in NAMES}
    every = list(nodes.values())
    found = evaluate(every, Models(graphs, params), draw(every, batch, KEYS), KEYS)
    return {n: np.float64(found[node]) for n, node in nodes.items()}


def kept(z, lacks):
    """bool `[B, B]` in loops."""
    keep = np.ones((B, B), bool)
    for i in range(B):
        for j in range(B):
            known = i not in lacks["c"] | lacks["b"] and j not in lacks["b"] and i != j and i // SIZE == j // SIZE
            keep[i, j] = not (known and z["c"][i] @ z["b"][j] > z["c"][i] @ z["b"][i] - MARGIN)
    return keep


LACKS = dict(a={13}, b={3, 4}, c={9})


@pytest.mark.parametrize("mode", MODES)
def test_the_losses_equal_numpy(mode):
    z = embedded(mode)
    keep, scale = kept(z, LACKS), 14.28
    assert 5 < (~keep).sum() < 48
    (loss, (terms, _)), _ = undivided(mode)
    want = {}
    for other in "bc":
        both = [i for i in range(B) if i not in LACKS["a"] | LACKS[other]]
        s, known = scale * z["a"][both] @ z[other][both].T, keep[np.ix_(both, both)]
        s = np.where(known, s, -np.inf if mode == "left out" else 0.0)
        ways = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (s, s.T)]
        want[f"contrastive/a~{other}"] = np.mean(ways)
        assert terms[f"contrastive/a~{other}"].weight == len(both), "a text that lacks affects its own edge alone"
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


def test_what_decides_has_no_gradient():
    """It would draw pictures and texts apart until all of them count."""
    z = embedded("left out")
    target = neighbours.Target(SIZE, image="c", text="b", margin=MARGIN)
    shown = {("shown", n): tiny.shown(np.ones(B, bool)) for n in "bc"}

    def total(c, b):
        sides = target.sides(None, shown | {("z", "c"): c, ("z", "b"): b}, None, None)
        return sides[0]["image"].sum() + sides[0]["own"].sum() + sides[1]["text"].sum()

    grads = jax.grad(total, (0, 1))(jnp.float32(z["c"]), jnp.float32(z["b"]))
    assert not any(np.asarray(g).any() for g in grads)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "block, divided", [(0, dict(accum=2)), (4, {}), (0, dict(mesh="data=4,fsdp=2")), (2, dict(mesh="data=4,fsdp=2"))]
)
def test_microbatches_blocks_and_devices_change_nothing(mode, block, divided):
    objectives = {n: dataclasses.replace(o, block=block) for n, o in built(mode)[0].items()}
    laws.same_gradients(laws.gradients(objectives, *built(mode)[1:], KEYS, **divided), undivided(mode), 1e-4)


def test_without_texts_their_edge_has_no_loss_and_nothing_is_dropped():
    objectives, graphs, params, batch = built("left out")
    empty = batch | {"b": batch["b"] | {"valid": jnp.zeros_like(batch["b"]["valid"])}}
    plain = {"contrastive": dataclasses.replace(objectives["contrastive"], target=identity.Target())}
    run = lambda o: jax.jit(lambda p, b: forward(graphs, p, o, b, KEYS, train=True))(params, empty)
    (loss, (terms, _)), (other, _) = run(objectives), run(plain)
    assert terms["contrastive/a~b"].weight == 0 and terms["contrastive/a~b"].total == 0
    np.testing.assert_allclose(loss, other, rtol=1e-6)


@pytest.mark.parametrize(
    "target, message",
    [
        (dict(size=1), r"target\.size=1: must be at least 2"),
        (dict(dropped="kept"), r"target\.dropped='kept': must be one of left out, zero"),
        (dict(text="c"), r"target\.text='c': name another modality than `image`"),
        (dict(image="d"), r"target\.image='d': the network gives no embedding of it, but of a, b, c"),
    ],
)
def test_what_cannot_be_is_refused_before_training(target, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run = build.parse(run_config(tmp_path, **target))
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
