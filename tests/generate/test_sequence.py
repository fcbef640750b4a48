"""Sequences: the cache against whole prefixes, greedy against one pass, and where a text ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import EOS, MODALITIES, SENTINEL

from pretrain.generate import sequence
from pretrain.generate.chain import Generator, Target
from pretrain.generate.parallel import Conditions
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import TokenSet, Whole, whole

DATA, CAPTION = tiny.batch(3, missing=0.0), 2
DEPTH = Whole(("depth",), MODALITIES)(DATA)
VARIANTS = [{}, {"qk_norm": True, "bias": True}, {"slopes": (2.0, 0.0)}, {"tables": "untied"}, {"registers": 2}]


def network(depth=2, **config):
    return tiny.model(noise=0.5, decoder_depth=depth, **config)


def write(graph, params, given=("depth",), **more):
    made = Generator(graph, params, MODALITIES)(DATA, given, [Target("caption", **more.pop("target", {}))], **more)
    return jax.tree.map(np.asarray, made["caption"])


@pytest.fixture(scope="module")
def split():
    return nnx.split(network(depth=1))


@pytest.fixture(autouse=True)
def toy_text(monkeypatch):
    """Ids of the tests' texts: the real tokenizer has the same [EOS], and sentinels from [S_0] on."""
    assert (EOS, SENTINEL) == (Generator.text.eos_id, Generator.text.sentinel_start)
    monkeypatch.setattr(Generator.text, "sentinel_start", SENTINEL - 1)


@pytest.mark.parametrize("config", [*VARIANTS, {"dtype": "bfloat16", "qk_norm": True, "bias": True}], ids=str)
def test_a_cached_step_is_the_last_row_of_the_whole_prefix(config):
    made, error = network(**config), 0.1 if "dtype" in config else 3e-5
    model = Predictor(made)
    encoded = model.encode(DEPTH)
    prefix = jnp.asarray(np.random.default_rng(0).integers(40, 80, (3, 10)))
    at = jnp.broadcast_to(jnp.arange(10), (3, 10))
    queries = TokenSet(prefix, jnp.full((3, 10), CAPTION), at, jnp.ones((3, 10), bool))
    cache, wanted = model.open_cache(encoded, 10), model.decode(encoded, queries).x
    step = jax.jit(lambda network, *args: Predictor(network).extend(*args))
    for i in range(10):
        token = jax.tree.map(lambda x, i=i: x[:, i : i + 1], queries)
        y, cache = step(made, encoded, token, i, cache)
        np.testing.assert_allclose(y[:, 0], wanted[:, i], rtol=1e-4, atol=error)


def test_by_default_it_is_greedy(split):
    tokens = jax.tree.map(lambda x: x[:, None], whole(DATA, "depth", MODALITIES))
    conditions, keys = Conditions(tokens, {}, jnp.ones(1)), jax.random.split(jax.random.key(0), 3)
    ids, valid = sequence.write(*split, conditions, keys, target=CAPTION, sentinel=SENTINEL, eos=EOS)
    wanted = write(*split, target=dict(temperature=0.0))
    np.testing.assert_array_equal(ids, wanted["ids"])
    np.testing.assert_array_equal(valid, wanted["valid"])


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_at_temperature_zero_it_is_greedy(config):
    """Every token is the arg-max of the uncached model given those before it."""
    made = network(**config)
    model, got = Predictor(made), write(*nnx.split(made), target=dict(temperature=0.0))
    prefix = np.concatenate([np.full((3, 1), SENTINEL), got["ids"][:, :-1]], 1)
    at = jnp.broadcast_to(jnp.arange(10), (3, 10))
    queries = TokenSet(jnp.asarray(prefix), jnp.full((3, 10), CAPTION), at, jnp.ones((3, 10), bool))
    decoded = model.decode(model.encode(DEPTH), queries)
    best = np.asarray(model.logits(decoded.x, "text").argmax(-1))
    for b, valid in enumerate(got["valid"]):
        until = valid.sum()
        assert until >= 1 and valid[:until].all()
        np.testing.assert_array_equal(got["ids"][b, :until], best[b, :until])


@pytest.mark.parametrize("end", [EOS, SENTINEL + 1], ids=["eos", "next sentinel"])
def test_a_sequence_stops_where_it_ends(split, end):
    """With a head that prefers one ending token, what is valid ends with the first ending; the rest is [EOS]."""
    graph, params = split
    pure = nnx.to_pure_dict(params)
    table = pure["embed"]["tables"]["text"]
    pure["embed"]["tables"]["text"] = table.at[end].multiply(4.0)
    lengths = set()
    for seed in range(6):
        got = write(graph, pure, seed=seed)
        for ids, valid in zip(got["ids"], got["valid"]):
            ends = np.flatnonzero((ids == EOS) | (ids == SENTINEL + 1))
            # [EOS] belongs to the text, a closing sentinel does not.
            until = ends[0] + (ids[ends[0]] == EOS) if len(ends) else 10
            assert valid.tolist() == [i < until for i in range(10)]
            assert not len(ends) or (ids[ends[0] + 1 :] == EOS).all()
            lengths.add(int(until))
    assert min(lengths) < 10 and len(lengths) > 1


def test_a_draw_depends_on_seed_and_sample_and_guidance(split):
    graph, params = split
    first = write(graph, params)["ids"]
    np.testing.assert_array_equal(first, write(graph, params)["ids"])
    np.testing.assert_array_equal(first, write(graph, params, target=dict(guidance=1.0))["ids"])
    np.testing.assert_array_equal(
        write(graph, params, target=dict(guidance=0.0))["ids"], write(graph, params, given=())["ids"]
    )
    others = dict(seed=1), dict(sample=1), dict(target=dict(guidance=3.0)), dict(target=dict(top_k=2))
    for more in others:
        assert (first != write(graph, params, **more)["ids"]).any(), more
