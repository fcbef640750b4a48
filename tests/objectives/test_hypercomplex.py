"""Links of a knowledge graph: the loss against an independent NumPy writing, with all entities and with random ones;
what the products become in special cases; what is refused; accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import hypercomplex
from data_pipeline.sources.emoji_graph import graph
from pretrain import build
from pretrain.models.passes import draw
from pretrain.restore import init_function
from pretrain.step import example_keys, forward

B, KEYS, E, R = 16, example_keys(0, 3, 16), 2641, 3
VIEWS = dict(words=256, letters=256)


def config(**changes):
    c = hypercomplex.get_config("tiny")
    c.model.parts, c.batch_size = hypercomplex.parts(VIEWS, 4), B
    c.objectives = dict(links=dict(views=list(VIEWS), dim=16, n3=0.5, std=0.5) | changes)
    return c


@functools.cache
def made(**changes):
    """(objectives, graphs, parameters that are not trivial, a batch of which one example is no triple)."""
    built = laws.Built(config(**changes))
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["tail"]["valid"][5] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided(**changes):
    return laws.gradients(*made(**changes), KEYS)


def hamilton(a, b):
    (s, x, y, z), (t, u, v, w) = a.reshape(4, -1), b.reshape(4, -1)
    parts = [
        s * t - x * u - y * v - z * w, s * u + x * t + y * w - z * v,
        s * v - x * w + y * t + z * u, s * w + x * v - y * u + z * t,
    ]  # fmt: skip
    return np.concatenate(parts)


def dihedron(a, b):
    (s, x, y, z), (t, u, v, w) = a.reshape(4, -1), b.reshape(4, -1)
    parts = [
        s * t - x * u + y * v + z * w, s * u + x * t - y * w + z * v,
        s * v - x * w + y * t + z * u, s * w + x * v - y * u + z * t,
    ]  # fmt: skip
    return np.concatenate(parts)


def entities(params):
    """`[E, 16]`: the table, and what two layers make of each view."""
    params, columns = jax.tree.map(np.float64, params), []
    for name in VIEWS:
        first, last = (params["model"][f"{name}_mlp"]["layers"]["linears"][i] for i in range(2))
        x = np.tanh(np.float64(graph().views[name]) @ first["kernel"] + first["bias"])
        columns.append(x @ last["kernel"] + last["bias"])
    return np.concatenate([params["objective"]["links"]["entity"], *columns], 1)


def asked(batch):
    """(term, head, relation, tail) of every row, triple by triple."""
    for i in range(B):
        h, r, t = (int(batch[name]["ids"][i, 0]) for name in ("head", "relation", "tail"))
        if i != 5:
            yield from (("tail", i, h, r, t), ("head", i, t, r + R, h))


def phi(params, e, product, h, r, tails, *, normalise=True, dot=False):
    own = jax.tree.map(np.float64, params["objective"]["links"])
    relation = own["relation"][r]
    if normalise:
        relation = (relation.reshape(4, -1) / np.linalg.norm(relation.reshape(4, -1), axis=0)).ravel()
    q = product(e[h], relation)
    found = e[tails] @ q if dot else -np.square(e[tails] - q).sum(-1)
    return found + own["head_bias"][h] + own["tail_bias"][tails]


def terms(found):
    return {name: float(term.total / term.weight) for name, term in found[0][1][0].items()}


@pytest.mark.parametrize("product", [hamilton, dihedron])
def test_the_loss_equals_numpy(product):
    changes = dict(product=product.__name__)
    _, _, params, batch = made(**changes)
    e, want, cubes = entities(params), dict(tail=[], head=[]), []
    relations = np.float64(params["objective"]["links"]["relation"])
    for name, _, h, r, t in asked(batch):
        scores = phi(params, e, product, h, r, np.arange(E))
        want[name].append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[t])
        cubes.append(sum((np.abs(x) ** 3).sum() for x in (e[h], relations[r], e[t])))
    want = {f"links/{name}": np.mean(values) for name, values in want.items()} | {"links/n3": np.mean(cubes)}
    found = undivided(**changes)
    assert terms(found).keys() == want.keys()
    for name, value in terms(found).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)
    loss = (want["links/tail"] + want["links/head"]) / 2 + 0.5 * want["links/n3"]
    np.testing.assert_allclose(found[0][0], loss, rtol=1e-5)


def test_random_tails_equal_numpy():
    changes = dict(negatives=3, n3=0.0)
    objectives, _, params, batch = made(**changes)
    nodes = objectives["links"].passes(True)
    drawn = draw(nodes.values(), batch, KEYS)
    e, want = entities(params), dict(tail=[], head=[])
    for name, i, h, r, t in asked(batch):
        others = np.asarray(drawn[nodes["random", name].make][i])
        assert len(others) == 3
        scores = phi(params, e, hamilton, h, r, np.concatenate([[t], others]))
        want[name] += np.logaddexp(0, np.asarray([-1, 1, 1, 1]) * scores).tolist()
    for name, value in terms(undivided(**changes)).items():
        np.testing.assert_allclose(value, np.mean(want[name.removeprefix("links/")]), rtol=1e-5, err_msg=name)
    one, other = (np.asarray(drawn[nodes["random", name].make]) for name in want)
    assert (one != other).any() and len(np.unique(one)) > 40 and (one < E).all()


def scored(objective, relation, entity, **changes):
    """φ `[E, E]` of one relation."""
    one = dataclasses.replace(objective, views=(), dim=entity.shape[1], **changes)
    zeros = jnp.zeros(len(entity))
    params = {"entity": entity, "relation": relation[None], "head_bias": zeros, "tail_bias": zeros}
    every = np.arange(len(entity))
    return np.asarray(one.scores(params, params["entity"], every, np.zeros_like(every)))


def test_special_cases_of_the_algebra():
    """Real parts alone: DistMult without unit length by products, ±h against t by distances; both ways differ."""
    objective = made(negatives=3, n3=0.0)[0]["links"]
    rng = np.random.default_rng(0)
    e, r = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    real = np.arange(8) < 2
    distmult = scored(objective, r * real, e * real, normalise=False, score="dot")
    np.testing.assert_allclose(distmult, np.einsum("hd,d,td->ht", e * real, r, e * real), rtol=1e-4, atol=1e-5)
    own = scored(objective, r[:2], e[:, :2], normalise=False, score="dot", product="real")
    np.testing.assert_allclose(own, distmult, rtol=1e-5, atol=1e-6)
    signs = np.sign(r[:2])
    apart = -np.square((e[:, None, :2] * signs) - e[None, :, :2]).sum(-1)
    np.testing.assert_allclose(scored(objective, r * real, e * real), apart, rtol=1e-4, atol=1e-5)
    whole = scored(objective, r, e)
    assert np.abs(distmult - distmult.T).max() < 1e-5 < 0.1 < np.abs(whole - whole.T).max()


def test_heads_and_tails_are_one_table():
    """Trap: in a variant of the release parts of the tail alone are scaled, and in evaluation alone."""
    objectives, _, params, _ = made(negatives=3, n3=0.0)
    one, own = objectives["links"], params["objective"]["links"]
    table, h, r = jnp.asarray(entities(params), jnp.float32), np.arange(7), np.arange(7) % R
    some = np.asarray([5, 900, 2640])
    np.testing.assert_allclose(
        one.scores(own, table, h, r, some), one.of_pairs(own, table, h, r, np.tile(some, (7, 1))), rtol=1e-4
    )
    assert one.passes(False).items() <= one.passes(True).items(), "evaluation computes what training does"


def test_every_part_has_a_gradient():
    grads = undivided(product="hamilton")[1]
    for path, x in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.abs(x).max() > 0 or "head_bias" in name, f"{name}: a head's bias is the same for all tails"
    assert np.abs(undivided(negatives=3, n3=0.0)[1]["objective"]["links"]["head_bias"]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
@pytest.mark.parametrize("changes", [dict(product="hamilton"), dict(negatives=3, n3=0.0)])
def test_microbatches_and_devices_change_nothing(changes, divided):
    laws.same_gradients(laws.gradients(*made(**changes), KEYS, **divided), undivided(**changes), 1e-4)


def test_a_batch_without_triples_has_no_loss():
    objectives, graphs, params, batch = made(negatives=3, n3=0.0)
    empty = batch | {"head": batch["head"] | {"valid": jnp.zeros((B, 1), bool)}}
    loss, _ = jax.jit(lambda p: forward(graphs, p, objectives, empty, KEYS, train=True))(params)
    assert loss == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(head="heads"), r"links\.head='heads': no such labels in config\.labels; there are head, relation, tail"),
        (dict(tail="head"), r"links\.(head|tail)='head': head, relation and tail are three labels"),
        (dict(tail="relation", relation="tail"), r"tail='relation': heads and tails are the same .*\[2641, 3\]"),
        (dict(product="octonion"), r"product='octonion': must be one of real, hamilton, dihedron"),
        (dict(score="cosine"), r"score='cosine': must be one of distance, dot"),
        (dict(dim=18), r"dim=18: must be a multiple of 4"),
        (dict(product="real"), r"normalise=True: real numbers of length 1 would be signs"),
        (dict(negatives=-1), r"negatives=-1: must not be negative"),
        (dict(std=0.0), r"std=0\.0: must be positive"),
        (dict(views=["word"]), r"views=\('word',\): name each once, of the modalities letters, stems, words"),
        (dict(views=["stems"]), r"views=\('stems',\): the network makes no vector of 'stems'"),
        (dict(dim=8), r"dim=8: views take 8 of it; leave some to the table"),
    ],
)
def test_what_cannot_be_is_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        run = build.parse(config(**changes))
        build.objectives(run)


def test_entities_of_another_number_are_named():
    c = config()
    for label in c.labels[::2]:
        label.update(vocab_size=2640)
    run = build.parse(c)
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, 0)
    with pytest.raises(ValueError, match=r"entities='entities': 2641 examples have 'words'; labels know 2640"):
        jax.eval_shape(lambda p: forward(graphs, p, objectives, made()[3], KEYS, train=True), jax.eval_shape(init))
