"""4M's corruption: what must hold for every example and key, and distributions against an independent NumPy writing.

The facts are in 4M (arXiv 2312.06647, section 2.3, and the code of apple/ml-4m, `UnifiedMasking`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import MODALITIES, N_SENTINELS, SENTINEL, is_sentinel

from data_pipeline.spec import Modality
from pretrain.objectives.masked import Mixture, Objective
from pretrain.objectives.masking import mask_example, mask_sequence

NAMES = [m.name for m in MODALITIES]
EXAMPLES = 400


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _masked(batch, keys, modalities, n_in, n_out, lows, alphas):
    def one(key, example):
        return mask_example(
            key, example, modalities, inputs=(lows[0], n_in), outputs=(lows[1], n_out), alphas=alphas,
            sentinel=SENTINEL, n_sentinels=N_SENTINELS,
        )  # fmt: skip

    return jax.vmap(one)(keys, {m.name: batch[m.name] for m in modalities})


def masked(batch, *, inputs, outputs, alpha_in=0.3, alpha_out=0.3, odds=(1.0, 0.0), seed=0, modalities=MODALITIES):
    """(seen, asked, labels) as NumPy. An alpha is a number, one a modality, or one a component and modality.

    Few shapes and two components at all times: compiling takes far longer than running.
    """
    shape = (2, len(modalities))
    alphas = (*(np.broadcast_to(np.float32(a), shape) for a in (alpha_in, alpha_out)), np.float32(odds))
    keys, parts = jax.random.split(jax.random.key(seed), len(batch["row"])), []
    for start in range(0, len(keys), EXAMPLES):
        part = {m.name: {k: x[start : start + EXAMPLES] for k, x in batch[m.name].items()} for m in modalities}
        lows = np.int32([inputs[0], outputs[0]])
        parts.append(_masked(part, keys[start : start + EXAMPLES], modalities, inputs[1], outputs[1], lows, alphas))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def of(tokens, b, index):
    """The ids and positions of one modality in one example's slots, in the order of the slots."""
    mine = tokens.valid[b] & (tokens.modality[b] == index)
    return tokens.ids[b][mine], tokens.position[b][mine], mine


def counts(tokens):
    """Tokens of each modality in each example, `[B, modalities]`."""
    return np.stack([(tokens.valid & (tokens.modality == i)).sum(1) for i in range(len(MODALITIES))], 1)


def full_target(original, shown):
    """`[S_1] span [S_2] span … [S_last]` from the original tokens (all different) and the visible ones."""
    out, run, inside = [], 0, False
    for token in original:
        kept = token in shown
        if not kept:
            out += [token] if inside else [SENTINEL + run, token]
            run += not inside
        inside = not kept
    return [*out, SENTINEL + run] if out else []


CASES = {
    "mixed": dict(inputs=(0, 16), outputs=(4, 16)),
    "tight": dict(inputs=(1, 4), outputs=(1, 4)),
    "ample": dict(inputs=(100, 100), outputs=(100, 100)),
    "no text in": dict(inputs=(0, 16), outputs=(12, 16), alpha_in=(0.5, 1.0, 0.0, 0.0)),
    "no grids out": dict(inputs=(8, 16), outputs=(0, 16), alpha_out=(0.0, 0.0, 0.2, 2.0)),
    "few": dict(inputs=(3, 16), outputs=(5, 16), alpha_in=0.01, alpha_out=0.01),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    options, batch = CASES[request.param], tiny.batch(EXAMPLES, seed=len(request.param))
    for name in ("caption", "label"):  # words that begin right after the last sentinel are none
        ids = batch[name]["ids"]
        batch[name]["ids"] = np.where(ids >= 40, ids - 40 + SENTINEL + N_SENTINELS, ids)
    return options, batch, masked(batch, **options)


def test_budgets_capacities_and_alphas_are_respected(case):
    options, batch, (seen, asked, labels) = case
    present = np.stack([batch[n]["valid"].sum(1) for n in NAMES], 1)
    for tokens, budget, alpha in ((seen, "inputs", "alpha_in"), (asked, "outputs", "alpha_out")):
        assert tokens.ids.shape == (EXAMPLES, options[budget][1])
        assert (tokens.valid.sum(1) <= options[budget][1]).all()
        assert (tokens.valid == (np.arange(tokens.ids.shape[1]) < tokens.valid.sum(1)[:, None])).all(), "packed"
        got = counts(tokens)
        assert not got[present == 0].any(), "an absent modality got tokens"
        allowed = np.broadcast_to(np.asarray(options.get(alpha, 0.3)), len(NAMES))
        assert not got[:, allowed == 0].any(), "a modality of alpha 0 got tokens"
    assert labels.shape == asked.ids.shape


def test_grid_tokens_are_theirs_and_never_both_seen_and_asked(case):
    _, batch, (seen, asked, labels) = case
    some = 0
    for b in range(EXAMPLES):
        for i, m in enumerate(MODALITIES):
            if m.kind != "grid":
                continue
            ids, at, _ = of(seen, b, i)
            _, asked_at, mine = of(asked, b, i)
            original = batch[m.name]["ids"][b]
            assert (ids == original[at]).all() and (labels[b, mine] == original[asked_at]).all()
            both = [*at, *asked_at]
            assert len(set(both)) == len(both) <= m.length
            some += len(both)
    assert some or not counts(seen)[:, :2].any()


def test_sequences_decode_back_to_the_original(case):
    """Visible form + target = the original; a target cut to its budget is a window of it, by 4M's rule."""
    _, batch, (seen, asked, labels) = case
    for b in range(EXAMPLES):
        for i, m in enumerate(MODALITIES):
            if m.kind != "sequence":
                continue
            original = batch[m.name]["ids"][b][batch[m.name]["valid"][b]].tolist()
            shown, at, _ = of(seen, b, i)
            assert at.tolist() == list(range(len(shown)))
            target = full_target(original, shown)
            if len(shown):
                spans, filled = _spans(target), []
                for token in shown.tolist():
                    filled += spans[token] if is_sentinel(token) else [token]
                assert filled == original
                assert sum(is_sentinel(shown)) == len(spans), "every masked run is shown as one sentinel"
            query, at, mine = of(asked, b, i)
            if not len(query):
                continue
            assert at.tolist() == list(range(len(query)))
            assert query[1:].tolist() == labels[b][mine][:-1].tolist(), "the decoder reads what it has just predicted"
            window = [query[0], *labels[b][mine]]
            assert is_sentinel(query[0]) and _contains(target, window), (target, window)


def _spans(target):
    spans = {}
    for token in target:
        if is_sentinel(np.asarray(token)):
            spans[token] = current = []
        else:
            current.append(token)
    return dict(list(spans.items())[:-1])


def _contains(target, window):
    return any(target[s : s + len(window)] == window for s in range(len(target) - len(window) + 1))


def test_an_ample_target_budget_asks_for_everything_hidden():
    batch = tiny.batch(EXAMPLES, seed=1)
    seen, asked, labels = masked(batch, inputs=(0, 100), outputs=(100, 100))
    for b in range(EXAMPLES):
        for i, m in enumerate(MODALITIES):
            original = batch[m.name]["ids"][b][batch[m.name]["valid"][b]].tolist()
            (shown, _, _), (query, _, mine) = of(seen, b, i), of(asked, b, i)
            if m.kind == "sequence":
                target = full_target(original, shown)
                assert [*query[:1], *labels[b][mine]] == target
            else:
                assert len(shown) + len(query) == len(original)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.01])
def test_every_input_slot_is_filled_where_grids_can_fill_it(alpha):
    """fill="full": what a modality cannot take goes to others, and 16 + 6 grid tokens fill 16 slots."""
    batch = tiny.batch(EXAMPLES, seed=2, missing=0.0)
    seen, _, _ = masked(batch, inputs=(16, 16), outputs=(0, 16), alpha_in=alpha)
    assert seen.valid.all()


def test_every_target_slot_is_filled_where_grids_can_fill_it():
    batch = tiny.batch(EXAMPLES, seed=3, missing=0.0)
    alpha = (1.0, 1.0, 0.0, 0.0)
    _, asked, _ = masked(batch, inputs=(4, 4), outputs=(4, 4), alpha_in=alpha, alpha_out=alpha)
    assert asked.valid.all()


def test_budgets_are_uniform_between_their_bounds():
    batch = tiny.batch(4000, seed=4, missing=0.0)
    alpha = (1.0, 1.0, 0.0, 0.0)
    seen, asked, _ = masked(batch, inputs=(2, 4), outputs=(1, 4), alpha_in=alpha, alpha_out=alpha)
    for tokens, low, high in ((seen, 2, 4), (asked, 1, 4)):
        sizes, n = np.unique(tokens.valid.sum(1), return_counts=True)
        assert sizes.tolist() == list(range(low, high + 1))
        assert np.abs(n / 4000 - 1 / len(sizes)).max() < 0.04


def test_mixture_components_are_drawn_by_weight():
    components = [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)]
    options = dict(alpha_in=components, alpha_out=components[::-1], odds=(3.0, 1.0))
    seen, asked, _ = masked(tiny.batch(4000, missing=0.0), inputs=(4, 4), outputs=(4, 4), **options)
    first = counts(seen)[:, 0] == 4
    assert abs(first.mean() - 0.75) < 0.03
    assert (counts(seen)[~first, 1] == 4).all(), "an example belongs to one component"
    assert (counts(asked)[first, 1] == 4).all() and (counts(asked)[~first, 0] == 4).all()


def test_an_example_without_anything_gives_nothing():
    seen, asked, _ = masked(tiny.batch(EXAMPLES, missing=1.0), inputs=(4, 4), outputs=(4, 4))
    assert not seen.valid.any() and not asked.valid.any()


def test_permuting_the_batch_permutes_the_result():
    objective = Objective(
        tiny.context(), (0, 10), (2, 8),
        (Mixture(dict.fromkeys(NAMES, 0.3), dict.fromkeys(NAMES, 0.3)),),
    )  # fmt: skip
    batch, keys = tiny.batch(16), jax.random.split(jax.random.key(0), 16)
    order = np.random.default_rng(0).permutation(16)
    view = jax.jit(objective._masking)
    want = jax.tree.map(lambda x: np.asarray(x)[order], view(batch, keys))
    got = view(jax.tree.map(lambda x: x[order], batch), keys[order])
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)))


def test_the_same_key_gives_the_same_and_another_key_another():
    batch, options = tiny.batch(EXAMPLES), CASES["mixed"]
    one, same, other = (masked(batch, **options, seed=s) for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same)))
    assert not np.array_equal(one[0].ids, other[0].ids)


# -- Distributions ---------------------------------------------------------------------------------------------------


def test_kept_tokens_of_a_sequence_with_ample_budget_are_uniform():
    """The keep probability is U(0, 1) and tokens are independent: their number is uniform over 0 … L."""
    length, draws = 10, 22_000
    ids, valid = jnp.arange(40, 40 + length), jnp.ones(length, bool)
    mask = jax.jit(jax.vmap(lambda key: mask_sequence(key, ids, valid, jnp.int32(2 * length), SENTINEL)))
    shown, n_shown, _, _ = jax.tree.map(np.asarray, mask(jax.random.split(jax.random.key(0), draws)))
    kept = ((shown >= 40) & (np.arange(length) < n_shown[:, None])).sum(1)
    assert abs(kept.mean() / length - 0.5) < 0.01
    frequency = np.bincount(kept, minlength=length + 1) / draws
    assert np.abs(frequency - 1 / (length + 1)).max() < 0.01


def numpy_budget(rng, alpha, n):
    """4M's input budget: floor of the Dirichlet shares, the rest one by one to the arg-max of fresh draws."""
    alpha = np.maximum(alpha, 1e-9)
    budget = np.floor(rng.dirichlet(alpha) * n).astype(int)
    while budget.sum() < n:
        budget[rng.dirichlet(alpha).argmax()] += 1
    return budget


@pytest.mark.parametrize("alpha", [(0.3, 0.3, 0.3), (0.5, 1.0, 3.0), (5.0, 0.0, 5.0)], ids=str)
def test_dirichlet_budgets_agree_with_4m(alpha):
    """Where no modality can be full, means and spreads of the input budgets are those of 4M's rule."""
    grids = tuple(Modality(n, "grid", (8, 8), n, n, 50, tokenizer="fsq") for n in "abc")
    size, n = 4000, 48
    ids = {"ids": np.zeros((size, 64), np.int32), "valid": np.ones((size, 64), bool)}
    batch = {"row": np.arange(size), **{m.name: ids for m in grids}}
    seen, _, _ = masked(batch, inputs=(n, n), outputs=(1, 1), alpha_in=alpha, modalities=grids)
    got = np.stack([(seen.valid & (seen.modality == i)).sum(1) for i in range(3)], 1)
    rng = np.random.default_rng(0)
    want = np.stack([numpy_budget(rng, np.asarray(alpha), n) for _ in range(size)])
    np.testing.assert_allclose(got.mean(0), want.mean(0), atol=1.2)
    np.testing.assert_allclose(got.mean(0), n * np.asarray(alpha) / sum(alpha), atol=1.2)
    np.testing.assert_allclose(got.std(0), want.std(0), atol=1.0)


def test_a_grid_is_masked_uniformly():
    batch = tiny.batch(6000, missing=0.0, seed=5)
    alpha = (1.0, 0.0, 0.0, 0.0)
    seen, asked, _ = masked(batch, inputs=(4, 4), outputs=(4, 4), alpha_in=alpha, alpha_out=alpha)
    for tokens in (seen, asked):
        assert np.abs(np.bincount(tokens.position.ravel(), minlength=16) / 6000 - 4 / 16).max() < 0.03
