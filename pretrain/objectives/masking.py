"""4M's input and target selection (arXiv 2312.06647, section 2.3, and the masking of apple/ml-4m), on the device.

Budgets are drawn from Dirichlet distributions over modalities; grid tokens are masked at random, sequences by spans
with sentinels. Everything is per example with static shapes; the objective vmaps it over the batch.
"""

import jax
import jax.numpy as jnp

from pretrain.models.tokens import TokenSet

SHRINK, TRIES = 0.9, 40  # keep probabilities tried for a sequence: p, 0.9 p, …, and at last 0


def select(flag, size: int, *arrays):
    """The first `size` entries whose flag is set, in order; returns (their number, arrays `[size]`)."""
    order = jnp.argsort(~flag, stable=True)[:size]
    order = jnp.pad(order, (0, max(0, size - len(order))))
    return jnp.minimum(flag.sum(), size), *(a[order] for a in arrays)


def split_budget(weights, budget, capacity):
    """Splits an integer budget by weights `[m]`, nowhere above capacity `[m]`; what one cannot take others get.

    A weight of zero takes nothing. Rounds down the shares, then hands the rest out in order of weight.
    """
    capacity = jnp.where(weights > 0, capacity, 0)
    share = weights / jnp.maximum(weights.sum(), 1e-9)
    taken = jnp.minimum(jnp.floor(share * budget).astype(jnp.int32), capacity)
    order = jnp.argsort(-weights)
    room = (capacity - taken)[order]
    before = jnp.cumsum(room) - room
    extra = jnp.clip(budget - taken.sum() - before, 0, room)
    return taken.at[order].add(extra)


def mask_sequence(key, ids, valid, budget, sentinel: int):
    """Span masking of one sequence so that its visible form takes at most `budget` tokens.

    ids, valid `[L]`. Each token is kept with a probability drawn from U(0, 1), lowered until the kept tokens and one
    sentinel a masked run fit; budget 0 masks all and shows nothing. Returns (visible ids `[L]`, their number,
    target ids `[2L + 2]`, their number): the target is `[S_1] span [S_2] span … [S_last]`, empty if all was kept.
    """
    length = len(ids)
    k_keep, k_prob = jax.random.split(key)
    tries = jax.random.uniform(k_prob) * jnp.append(SHRINK ** jnp.arange(TRIES), 0.0)
    keep = (jax.random.uniform(k_keep, (length,)) < tries[:, None]) & valid
    first = _run_starts(~keep & valid)
    fits = keep.sum(1) + first.sum(1) <= budget
    best = jnp.argmax(fits)
    found = fits[best]
    keep = jnp.where(found, keep[best], False)
    masked = ~keep & valid
    first = _run_starts(masked[None])[0]
    run = sentinel + jnp.cumsum(first) - 1

    shown = jnp.where(found, keep | first, False)
    n_shown, shown_ids = select(shown, length, jnp.where(keep, ids, run))

    pairs = jnp.stack([run, ids], axis=1).reshape(-1)
    flags = jnp.stack([first, masked], axis=1).reshape(-1)
    pairs = jnp.append(pairs, jnp.asarray([sentinel + first.sum(), 0]))
    flags = jnp.append(flags, jnp.asarray([masked.any(), False]))
    n_target, target_ids = select(flags, 2 * length + 2, pairs)
    return shown_ids, n_shown, target_ids, n_target


def _run_starts(masked):
    """First token of each run of masked tokens, `[…, L]`."""
    return masked & ~jnp.pad(masked, ((0, 0), (1, 0)))[:, :-1]


def window_start(key, target_ids, n_target, size, is_sentinel):
    """Where to cut a target that is longer than `size` tokens: the rule of apple/ml-4m.

    A random sentinel but the last; if fewer than `size` tokens follow it, the earliest sentinel whose tail fits.
    """
    at = jnp.arange(len(target_ids))
    marks = is_sentinel & (at < n_target)
    drawn = jax.random.randint(key, (), 0, jnp.maximum(marks.sum() - 1, 1))
    start = jnp.argmax(jnp.cumsum(marks) > drawn)
    tail = jnp.argmax(marks & (n_target - at <= size))
    start = jnp.where(n_target - start >= size, start, tail)
    return jnp.where(n_target <= size, 0, start)


def mask_example(key, example, modalities, *, inputs, outputs, alphas, sentinel, n_sentinels):
    """Splits one example into what the encoder sees and what the decoder predicts; no token is both.

    example: {name: {"ids" [L], "valid" [L]}}; inputs = (min, N) and outputs = (min, M): token budgets are drawn
    uniformly between them; alphas: (input `[components, m]`, target `[components, m]`, weight `[components]`).
    Returns (TokenSet `[N]`, TokenSet `[M]`, labels `[M]`).
    """
    keys = iter(jax.random.split(key, 6 + 3 * len(modalities)))
    present = jnp.stack([example[m.name]["valid"].sum() for m in modalities])
    is_grid = jnp.asarray([m.kind == "grid" for m in modalities])

    alpha_in, alpha_out, odds = (jnp.asarray(a, jnp.float32) for a in alphas)
    component = jax.random.categorical(next(keys), jnp.log(odds))
    weight_in = _dirichlet(next(keys), alpha_in[component], present > 0)
    weight_out = _dirichlet(next(keys), alpha_out[component], present > 0)
    n_in = jax.random.randint(next(keys), (), inputs[0], inputs[1] + 1)
    n_out = jax.random.randint(next(keys), (), outputs[0], outputs[1] + 1)

    # Sequences first: what spans leave of their share of the input budget then goes to the grids.
    share = split_budget(weight_in, n_in, present)
    sequences = {}
    for i, m in enumerate(modalities):
        if m.kind == "sequence":
            e = example[m.name]
            sequences[i] = mask_sequence(next(keys), e["ids"].astype(jnp.int32), e["valid"], share[i], sentinel)
    used = jnp.stack([sequences[i][1] if i in sequences else jnp.int32(0) for i in range(len(modalities))])
    shown = jnp.where(is_grid, split_budget(jnp.where(is_grid, weight_in, 0.0), n_in - used.sum(), present), used)
    hidden = jnp.stack(
        [
            jnp.maximum(sequences[i][3] - 1, 0) if i in sequences else present[i] - shown[i]
            for i in range(len(modalities))
        ]
    )
    predicted = split_budget(weight_out, n_out, hidden)

    seen, asked = [], []
    for i, m in enumerate(modalities):
        if i in sequences:
            shown_ids, _, target, n_target = sequences[i]
            at = jnp.arange(m.length)
            seen.append(_entries(at < shown[i], shown_ids, i, at))
            is_sentinel = (target >= sentinel) & (target < sentinel + n_sentinels)
            begin = window_start(next(keys), target, n_target, predicted[i] + 1, is_sentinel)
            target, at = jnp.roll(target, -begin), jnp.arange(len(target) - 1)
            # 4M's rule may start the window so late that fewer tokens follow than were asked for.
            count = jnp.minimum(predicted[i], n_target - begin - 1)
            asked.append((*_entries(at < count, target[:-1], i, at), target[1:]))
        else:
            ids, at = example[m.name]["ids"].astype(jnp.int32), jnp.arange(m.length)
            rank = jnp.zeros_like(at).at[jax.random.permutation(next(keys), m.length)].set(at)
            seen.append(_entries(rank < shown[i], ids, i, at))
            asked.append((*_entries((rank >= shown[i]) & (rank < shown[i] + predicted[i]), ids, i, at), ids))

    valid, *visible = _pack(seen, inputs[1])
    asked_valid, *queries, labels = _pack(asked, outputs[1])
    return TokenSet(*visible, valid), TokenSet(*queries, asked_valid), labels


def _dirichlet(key, alpha, present):
    """A Dirichlet draw over the modalities that are present and have alpha > 0; zeros elsewhere."""
    allowed = (alpha > 0) & present
    log_gamma = jax.random.loggamma(key, jnp.where(alpha > 0, alpha, 1.0))
    # Not quite zero: a small alpha may underflow, but what is left over may still go there.
    return jnp.where(allowed, jnp.maximum(jax.nn.softmax(jnp.where(allowed, log_gamma, -jnp.inf)), 1e-30), 0.0)


def _entries(flag, ids, modality, position):
    return flag, ids, jnp.full(ids.shape, modality, jnp.int32), position.astype(jnp.int32)


def _pack(parts, size):
    """Joins the flagged entries `(flag, *fields)` of all modalities into `size` slots: (valid, *fields)."""
    flag, *fields = (jnp.concatenate(f) for f in zip(*parts))
    count, *fields = select(flag, size, *fields)
    return jnp.arange(size) < count, *fields
