"""Sampling: the schedule, arg-max against one forward pass, determinism, what is given, and where a sequence ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import EOS, MODALITIES, SENTINEL

from pretrain.generate.sample import cosine_schedule, generate_grid, generate_sequence
from pretrain.models.tokens import TokenSet, whole

IMAGE, CAPTION = 0, 2


@pytest.fixture(scope="module")
def network():
    return nnx.split(tiny.model(noise=0.5))  # so that arg-maxima differ from place to place


@pytest.fixture(scope="module")
def given():
    return whole(tiny.batch(3, missing=0.0), "depth", MODALITIES)


@pytest.mark.parametrize("count", [1, 2, 7, 16, 64, 196])
def test_schedule_commits_every_token_once(count):
    for steps in (1, 2, 5, 8, count, count + 10):
        schedule = cosine_schedule(count, steps)
        assert sum(schedule) == count and min(schedule) >= 1 and len(schedule) == min(steps, count)


def test_schedule_is_a_cosine():
    schedule = cosine_schedule(1000, 10)
    left = 1000 - np.cumsum(schedule)
    np.testing.assert_allclose(left, 1000 * np.cos(np.pi / 2 * np.arange(1, 11) / 10), atol=1)
    assert schedule[0] < schedule[-1]


def test_temperature_zero_in_one_step_is_the_arg_max(network, given):
    graph, params = network
    got = generate_grid(graph, params, given, jax.random.key(0), target=IMAGE, schedule=(16,), temperature=0.0)
    model = nnx.merge(graph, params)
    at = jnp.broadcast_to(jnp.arange(16), (3, 16))
    queries = TokenSet(0 * at, jnp.full_like(at, IMAGE), at, jnp.ones_like(at, bool))
    logits = model.logits(model.decode(model.encode(given), queries), "image")
    np.testing.assert_array_equal(got, logits.argmax(-1))
    assert len(np.unique(got)) > 1


def test_a_grid_is_deterministic_by_key_and_in_range(network, given):
    graph, params = network
    schedule = tuple(cosine_schedule(16, 4))
    assert all(type(n) is int or np.issubdtype(type(n), np.integer) for n in schedule)
    draw = [
        np.asarray(generate_grid(graph, params, given, jax.random.key(k), target=IMAGE, schedule=schedule))
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any() and draw[0].shape == (3, 16) and 0 <= draw[0].min() <= draw[0].max() < 20


def test_every_step_conditions_on_what_is_committed(network, given):
    """Four steps at temperature 0: replayed by hand, in the random order that the key gives."""
    graph, params = network
    schedule = (1, 3, 5, 7)
    got = generate_grid(graph, params, given, jax.random.key(0), target=IMAGE, schedule=schedule, temperature=0.0)
    model = nnx.merge(graph, params)
    at = np.broadcast_to(np.arange(16), (3, 16))
    ids, known = np.zeros((3, 16), np.int32), np.zeros((3, 16), bool)
    key = jax.random.key(0)
    for step, commit in enumerate(schedule):
        _, k_order, key = jax.random.split(jax.random.fold_in(key, step), 3)
        order = np.asarray(jax.random.uniform(k_order, (3, 16)))
        own = TokenSet(jnp.asarray(ids), jnp.full((3, 16), IMAGE), jnp.asarray(at), jnp.asarray(known))
        both = TokenSet(*(jnp.concatenate(p, 1) for p in zip(given, own)))
        logits = model.logits(model.decode(model.encode(both), own._replace(valid=~own.valid)), "image")
        log_p = np.asarray(jax.nn.log_softmax(logits))
        for b in range(3):
            open_ = sorted(np.flatnonzero(~known[b]), key=lambda i, b=b, order=order: order[b, i])[:commit]
            ids[b, open_], known[b, open_] = log_p[b, open_].argmax(-1), True
    np.testing.assert_array_equal(got, ids)


def test_given_tokens_are_used_and_untouched(network, given):
    graph, params = network
    before = jax.tree.map(np.array, given)
    args = dict(target=IMAGE, schedule=(16,), temperature=0.0)
    one = generate_grid(graph, params, given, jax.random.key(0), **args)
    assert all(np.array_equal(a, b) for a, b in zip(given, before))
    flipped = given._replace(ids=11 - given.ids)
    assert (np.asarray(one) != np.asarray(generate_grid(graph, params, flipped, jax.random.key(0), **args))).any()


def test_a_sequence_at_temperature_zero_is_greedy(network, given):
    graph, params = network
    args = dict(target=CAPTION, sentinel=SENTINEL, eos=EOS)
    ids, valid = jax.device_get(generate_sequence(graph, params, given, jax.random.key(0), **args))
    assert ids.shape == valid.shape == (3, 10)
    model = nnx.merge(graph, params)
    prefix = np.concatenate([np.full((3, 1), SENTINEL), ids[:, :-1]], 1)
    at = jnp.broadcast_to(jnp.arange(10), (3, 10))
    queries = TokenSet(jnp.asarray(prefix), jnp.full((3, 10), CAPTION), at, jnp.ones((3, 10), bool))
    best = np.asarray(model.logits(model.decode(model.encode(given), queries), "text").argmax(-1))
    for b in range(3):
        until = valid[b].sum()
        assert until >= 1 and valid[b, :until].all()
        np.testing.assert_array_equal(ids[b, :until], best[b, :until])


@pytest.mark.parametrize("end", [EOS, SENTINEL + 1], ids=["eos", "next sentinel"])
def test_a_sequence_stops_where_it_ends(network, given, end):
    """With a head that prefers one ending token, what is valid ends with the first ending; the rest is [EOS]."""
    graph, params = network
    pure = nnx.to_pure_dict(params)
    table = pure["tokens"]["tables"]["text"]
    pure["tokens"]["tables"]["text"] = table.at[end].multiply(4.0)
    lengths = set()
    for key in range(6):
        ids, valid = jax.device_get(
            generate_sequence(
                graph, pure, given, jax.random.key(key), target=CAPTION, sentinel=SENTINEL, eos=EOS, temperature=1.0
            )
        )
        for b in range(3):
            ends = np.flatnonzero((ids[b] == EOS) | (ids[b] == SENTINEL + 1))
            # [EOS] belongs to the text, a closing sentinel does not.
            until = ends[0] + (ids[b, ends[0]] == EOS) if len(ends) else 10
            assert valid[b].tolist() == [i < until for i in range(10)]
            assert not len(ends) or (ids[b, ends[0] + 1 :] == EOS).all()
            lengths.add(int(until))
    assert min(lengths) < 10 and len(lengths) > 1


def test_a_sampled_sequence_is_deterministic_by_key(network, given):
    graph, params = network
    args = dict(target=CAPTION, sentinel=SENTINEL, eos=EOS, temperature=1.0)
    draw = [np.asarray(generate_sequence(graph, params, given, jax.random.key(k), **args)[0]) for k in (0, 0, 1)]
    assert (draw[0] == draw[1]).all() and (draw[0] != draw[2]).any()
