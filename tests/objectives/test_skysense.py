"""SkySense's losses, its fusion over time and prototypes of regions: against independent NumPy writings; its traps;
what is refused; accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import skysense
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward, update_from

B, PLACES, REGIONS, K, DIM, KEYS = 16, 36, 9, 5, 12, example_keys(0, 3, 16)
CLUSTERS, ROUNDS = 4, 3


def config(**changes):
    c, size = skysense.get_config("tiny"), dict(dim=12, heads=2, depth=1)
    c.model.parts = skysense.parts(
        dict.fromkeys(skysense.SENSORS, size), size, places=PLACES, embed_dim=8, regions=REGIONS, prototypes=K
    )
    c.objectives, c.batch_size = skysense.objectives(PLACES, **changes), B
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a sensor in one example)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    for entry in ("optical", "optical/view"):
        batch[entry]["valid"][3] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device; what learns is its own teacher."""
    return laws.gradients(*made(), KEYS)


def computed(nodes: dict) -> dict:
    _, graphs, params, batch = made()
    every = list(nodes.values())
    run = lambda p, b: list(map(evaluate(every, Models(graphs, p), draw(every, b, KEYS), KEYS).get, every))
    return dict(zip(nodes, jax.device_get(jax.jit(run)(params, batch))))


@functools.cache
def streams():
    nodes = made()[0]["granularity"].passes(True)
    return computed({key: node for key, node in nodes.items() if key[0] != "shown"})


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def square(stream):
    """The mean over the frames of each place, in a loop."""
    out = np.zeros((B, PLACES, stream.x.shape[-1]))
    for b in range(B):
        for place in range(PLACES):
            rows = [i for i in range(place, stream.x.shape[1], PLACES) if stream.valid[b, i]]
            out[b, place] = np.float64(stream.x[b, rows]).mean(0) if rows else 0
    return out


def shares(scores):
    q = np.exp(scores - scores.max())
    for _ in range(ROUNDS):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdims=True)
    return q


def clusters(x):
    x = unit(x)
    centres = x[:: PLACES // CLUSTERS][:CLUSTERS]
    for _ in range(ROUNDS):
        q = shares(x @ unit(centres).T / 0.05)
        q = q / q.sum(0)
        centres = q.T @ x
    return q


def nll(a, b):
    e = np.exp(unit(a) @ unit(b).T / 0.1)
    return -np.log(np.diag(e) / e.sum(1))


def expected(a, b, there) -> dict:
    """{level: the mean over the examples that are there} of squares a of what learns, and b."""
    each = [clusters(b[i]) for i in there]
    return {
        "places": np.mean([nll(a[i], b[i]).mean() for i in there]),
        "clusters": np.mean([nll(q.T @ a[i], q.T @ b[i]).mean() for q, i in zip(each, there)]),
        "whole": nll(np.stack([a[i].mean(0) for i in there]), np.stack([b[i].mean(0) for i in there])).mean(),
    }


@pytest.mark.slow
def test_the_losses_equal_numpy():
    (loss, (terms, _)), _ = undivided()
    total, found = 0.0, {key: square(stream) for key, stream in streams().items()}
    for a in skysense.ENDS:
        for b in skysense.ENDS:
            there = [i for i in range(B) if i != 3 or "optical_head" not in (a, b)]
            for level, value in expected(found["student", a], found["teacher", b], there).items():
                term = terms[f"granularity/{level} {a}~{b}"]
                np.testing.assert_allclose(term.total / term.weight, value, rtol=1e-4, err_msg=f"{level} {a}~{b}")
                total += value
    np.testing.assert_allclose(loss, total, rtol=2e-5)
    assert len(terms) == 4 * 4 * 3


def test_positives_alone_and_alignment_by_its_weight():
    objectives, graphs, params, batch = made()
    one = {"granularity": dataclasses.replace(objectives["granularity"], loss="cosine", align=0.5, levels=("whole",))}
    loss, _ = jax.jit(lambda p, b: forward(graphs, p, one, b, KEYS, train=True))(params, batch)
    found, total = {key: unit(square(s).mean(1)) for key, s in streams().items() if key[1] != "optical_head"}, 0.0
    names = [n for n in skysense.ENDS if n != "optical_head"]
    one["granularity"] = dataclasses.replace(one["granularity"], parts=tuple(names))
    loss, _ = jax.jit(lambda p, b: forward(graphs, p, one, b, KEYS, train=True))(params, batch)
    for a in names:
        for b in names:
            cosine = (found["student", a] * found["teacher", b]).sum(1)
            total += (1.0 if a == b else 0.5) * (1 - cosine).mean()
    np.testing.assert_allclose(loss, total, rtol=2e-5)


def test_the_average_teaches_and_gets_no_gradient():
    objectives, graphs, params, batch = made()
    one = {"granularity": objectives["granularity"]}
    run = lambda p, t: forward(graphs, p, one, batch, KEYS, train=True, references={"teacher": t})[0]
    other = tiny.noisy(params, seed=5)
    loss, (grads, still) = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(params, other)
    assert abs(loss - undivided()[0][0]) > 1e-3
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(still))
    for part, tree in grads["model"].items():
        taught = jax.tree.leaves(tree) and part != "regions"
        assert not taught or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


@functools.cache
def moved():
    """(the table of prototypes before a step, and after it, statistics alone, as arrays)."""
    objectives, graphs, params, _ = made()
    statistics = undivided()[0][1][1]
    after = jax.jit(lambda p, s: update_from(s, graphs, objectives, p, True))(params, statistics)
    return np.float64(params["model"]["regions"]["table"]), np.asarray(after["model"]["regions"]["table"])


def test_prototypes_move_to_what_is_seen_in_their_region_and_nothing_else_moves_them():
    """Trap: by statistics over the batch, and not by a gradient."""
    before, after = moved()
    network = made()[0]["granularity"].context.network
    node = network.over("fused", {m: network.shown(m) for m in network.read_by("fused")})
    x = np.float64(computed({"x": node})["x"].x)
    region = np.asarray(made()[3]["region"]["vectors"])[:, 0, 0].astype(int)
    sums, counts = np.zeros_like(before), np.zeros((REGIONS, K, 1))
    for b, r in enumerate(region):
        s = shares(unit(x[b]) @ unit(before[r]).T / 0.05)
        sums[r] += s.T @ x[b]
        counts[r] += s.sum(0)[:, None]
    want = np.where(counts > 0, 0.99 * before + 0.01 * sums / np.maximum(counts, 1e-9), before)
    np.testing.assert_allclose(after, want, rtol=1e-4, atol=1e-5)
    seen = sorted(set(region))
    assert [r for r in range(REGIONS) if (after[r] != np.float32(before[r])).any()] == seen and len(seen) < REGIONS
    assert not np.any(undivided()[1]["model"]["regions"]["table"])


def test_what_a_region_remembers_is_read_back():
    network = made()[0]["granularity"].context.network
    leaves = {m: network.shown(m) for m in network.read_by("regions")}
    found = computed({"fused": network.over("fused", leaves), "regions": network.over("regions", leaves)})
    x, table = np.float64(found["fused"].x), np.float64(made()[2]["model"]["regions"]["table"])
    region = np.asarray(made()[3]["region"]["vectors"])[:, 0, 0].astype(int)
    logits = np.einsum("bnd,bkd->bnk", x, table[region]) / DIM**0.5
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = np.concatenate([x, np.einsum("bnk,bkd->bnd", weights, table[region])], -1)
    np.testing.assert_allclose(found["regions"].x, want, rtol=1e-4, atol=1e-5)


def fused(batch):
    _, graphs, params, _ = made()
    network = made()[0]["granularity"].context.network
    node = network.over("fused", {m: network.shown(m) for m in network.read_by("fused")})
    run = jax.jit(lambda p, b: evaluate([node], Models(graphs, p), draw([node], b, KEYS), KEYS)[node].x)
    return np.asarray(run(params, batch))


def test_time_is_the_date_and_a_sensor_that_saw_nothing_is_not_seen():
    batch = made()[3]
    own, nothing = fused(batch), batch["optical"]["vectors"].at[3].set(7.0)
    np.testing.assert_array_equal(fused(batch | {"optical": batch["optical"] | {"vectors": nothing}}), own)
    later = batch["dates"]["ids"].at[:, -1].set(364)
    differs = np.abs(fused(batch | {"dates": batch["dates"] | {"ids": later}}) - own).max((1, 2))
    assert (differs > 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    """Also of what prototypes are moved by: sums of the global batch."""
    found = laws.gradients(*made(), KEYS, **divided)
    laws.same_gradients(found, undivided(), 2e-4)
    laws.close_trees(found[0][1][1], undivided()[0][1][1], 1e-4)


part = lambda c, name: c.model.parts[name].update
contrast = lambda c: c.objectives.granularity.update


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: contrast(c)(levels=["pixels"]), r"levels=\('pixels',\): name one or more of places, clust"),
        (lambda c: contrast(c)(loss="mse"), "loss='mse': must be one of infonce, cosine"),
        (lambda c: contrast(c)(temperature=0.0), r"align=1\.0: not negative; temperature=0\.0"),
        (lambda c: contrast(c)(clusters=99), "clusters=99: must be 2 … places=36"),
        (lambda c: contrast(c)(teacher="online"), "teacher='online': name another model"),
        (lambda c: contrast(c)(teacher="anchor"), r"granularity\.teacher='anchor': no such model; there are onli"),
        (lambda c: contrast(c)(parts=["optical_pool"]), "parts='optical_pool': name parts that give a stream"),
        (lambda c: contrast(c)(places=35), "places=35: must divide the 36 tokens of 'optical'"),
        (lambda c: contrast(c)(view="other"), r"granularity\.view='other': no transform writes 'optical/other'"),
        (lambda c: part(c, "fused")(places=35), r"fused': places=35: must divide the tokens of each sensor"),
        (lambda c: part(c, "fused")(reads=["optical_width", "dates_embed"]), "have 1 frames together, .* 9 dates"),
        (lambda c: part(c, "fused")(causal=True), "causal=True: an encoder has it; leave it out here"),
        (lambda c: part(c, "regions")(dim=12), "regions': dim=12: must be twice that of 'fused', 12"),
        (lambda c: part(c, "regions")(reads=["fused", "dates_embed"]), "name a stream, and an embedding of one number"),
        (lambda c: part(c, "regions")(prototypes=1), "regions=9: must be at least 1, and prototypes=1 at least 2"),
        (lambda c: part(c, "regions")(epsilon=0.0), r"epsilon=0\.0: must be positive"),
        (lambda c: c.objectives.region_prototypes.update(part="fused"), "part='fused': it has no prototypes of r"),
        (lambda c: c.objectives.region_prototypes.update(momentum=1.0), r"momentum=1\.0: must be at least 0 and below"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        objectives = build.objectives(run)
        [o.passes(True) for o in objectives.values()]
        init_function(build.models(run, objectives), objectives, 0)
