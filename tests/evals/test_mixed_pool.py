"""One pool of all that queries ask for: ranks and kinds against loops, candidates that occur twice, what is refused."""

import re

import jax
import numpy as np
import pytest

from configs import embedder_common as embedder
from configs.common import image, text
from configs.systems import mme5
from pretrain import build
from pretrain.evals import base, mixed_pool
from pretrain.restore import Restored, init_function, untrained


@pytest.fixture(scope="module")
def made():
    c = mme5.get_config("tiny")
    size = dict(dim=8, heads=2, depth=1)
    c.modalities = [image(32, 16, field="image"), text(12, field="text")]
    c.model.parts = embedder.parts(size, size, length=16)
    for part in c.data.sources:
        part["options"]["languages"] = ["en"] if part["name"] != "translation" else ["fr"]
    run = build.parse(c)
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, 0)
    return base.Context(run, graphs, objectives), jax.jit(init)()


def pool(**changes):
    rng = np.random.default_rng(3)
    own = np.asarray([0, 1, 2, 3, 3, 1])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    kind, first = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 2, 3])
    q, c = unit(rng.normal(size=(6, 3))), unit(rng.normal(size=(4, 3)))
    values = dict(row=np.arange(6), source=np.asarray([0, 0, 1, 1, 1, 0]), queries=q, candidates=c, own=own)
    return mixed_pool.Pool(**values | dict(kind=kind, kinds=["text", "image"], first=first) | changes)


def test_ranks_and_kinds_equal_loops():
    held = pool()
    ranks, alike, kinds = mixed_pool.ranks(held)
    for i, own in enumerate(held.own):
        s = [held.queries[i] @ c for c in held.candidates]
        mine = [j for j in range(4) if held.kind[j] == held.kind[own]]
        assert ranks[i] == 1 + sum(s[j] > s[own] for j in range(4))
        assert alike[i] == 1 + sum(s[j] > s[own] for j in mine)
        assert kinds[i] == (int(np.argmax(s)) in mine)
    assert len(set(kinds)) == 2 and len(set(ranks)) > 2


def test_what_all_say_alike_finds_nothing():
    """Trap: ties must not look good, neither in the pool nor of the kind."""
    held = pool(candidates=np.ones((4, 3)), queries=np.ones((6, 3)))
    ranks, alike, kinds = mixed_pool.ranks(held)
    assert (ranks == 4).all() and (alike == 2).all() and not kinds.any()


def test_a_preference_for_a_kind_shows_in_the_whole_pool_alone():
    """Texts before all pictures: within a kind every query finds its own."""
    own, kind = np.arange(4), np.asarray([0, 0, 1, 1])
    z = np.eye(4)
    candidates = z + 2.0 * (kind == 0)[:, None]
    held = pool(own=own, kind=kind, queries=z, candidates=candidates, row=own, source=own)
    ranks, alike, kinds = mixed_pool.ranks(held)
    assert (alike == 1).all() and kinds.tolist() == [True, True, False, False] and ranks.tolist() == [1, 1, 3, 3]


def test_the_pool_holds_each_candidate_once(made):
    context, params = made
    found = mixed_pool.search(context, params, "project", "positive", ("test",))
    source = context.source(("test",))
    wanted = {}
    for i in range(len(source)):
        e = source[i]
        key = e.get("text/positive"), None if "image/positive" not in e else e["image/positive"].tobytes()
        wanted.setdefault(key, []).append(i)
    # Pictures are asked for by three tasks and names by two.
    assert len(found.candidates) <= len(wanted) < len(source) == len(found.queries)
    assert sorted(found.kinds) == ["image", "text"]
    assert (found.first[found.own] <= found.row).all() and len(set(found.first)) == len(found.candidates)
    same = [found.own[found.row == i][0] for i in wanted[min(wanted, key=lambda k: -len(wanted[k]))]]
    assert len(set(same)) == 1 and len(same) > 1
    np.testing.assert_allclose(np.linalg.norm(found.candidates, axis=1), 1, rtol=1e-5)


def test_it_yields_scores_beside_their_chance(made):
    context, params = made
    scores = dict(mixed_pool.Evaluator(context, splits=("test",)).run(params))
    names = [part.name for part in context.run.data.sources]
    fixed = {"candidates", "R@1", "R@5", "kind", "own kind/R@1", "own kind/R@5"}
    assert scores.keys() == fixed | {f"{name}/R@1" for name in names}
    assert scores["R@5"].chance == 5 / scores["candidates"] and 0 <= scores["kind"] <= 1
    assert scores["own kind/R@1"].chance > scores["R@1"].chance and 0.3 < scores["kind"].chance < 0.7
    assert scores["own kind/R@5"] >= scores["R@5"]


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(part="last"), "mixed_pool.part='last': name a part that embeds modalities"),
        (dict(part="nobody"), "mixed_pool.part='nobody': the network has no such part"),
        (
            dict(variant="answer"),
            "mixed_pool.variant='answer': no transform writes 'image/answer'; written are text/pos",
        ),
        (dict(at=()), "mixed_pool.at=(): must be at least 1"),
        (dict(batch_size=0), "mixed_pool.batch_size=0: must be at least 1"),
    ],
)
def test_what_it_cannot_search_is_named(made, keys, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mixed_pool.Evaluator(made[0], **keys)


def test_what_is_read_of_a_workdir_has_an_untrained_network_too(made):
    """Places of a list are texts there."""
    context, params = made
    texts = lambda tree: {str(k): texts(v) for k, v in tree.items()} if isinstance(tree, dict) else tree
    graphs, init = init_function(build.models(context.run, context.objectives), context.objectives, 0)
    held = Restored(context.run, context.objectives, graphs, texts(params), init, 1)
    assert "0" in held.params["model"]["connector"]["layers"]["linears"]
    fresh = untrained(held).params
    assert not np.array_equal(fresh["model"]["text_embed"]["table"], params["model"]["text_embed"]["table"])
