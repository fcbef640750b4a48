"""4M's input and target selection (arXiv 2312.06647, section 2.3, and the masking of apple/ml-4m), on the device.

Budgets are drawn from Dirichlet distributions over modalities. Tokens of grids, sets and pixels are masked one by one;
sequences and vectors by spans, which sentinels stand for. Everything is per example with static shapes; the objective
vmaps it over the batch. Order is found by counting where that is fast: a TPU takes seconds to compile a sort.
"""

import functools

import jax
import jax.numpy as jnp

from pretrain.models.tokens import TokenSet
from pretrain.ops.counting import running_count
from pretrain.ops.keys import named

SHRINK, TRIES = 0.9, 40  # keep probabilities tried for a sequence: p, 0.9 p, …, and at last 0
KEEP = ("random", "all", "binary")  # how much of a sequence is kept: p from U(0, 1), 1, or 0 or 1


def select(flag, size: int, *arrays):
    """The first `size` entries whose flag is set, in order; returns (their number, arrays `[size]`)."""
    by = [functools.partial(f, size=size) for f in (order_by_sorting, order_by_counting)]
    order = jax.lax.platform_dependent(flag, cpu=by[0], default=by[1])
    return jnp.minimum(flag.sum(), size), *(a[order] for a in arrays)


def order_by_sorting(flag, size):
    """Where the first `size` entries lie, those whose flag is set first; past the last, 0."""
    order = jnp.argsort(~flag, stable=True)[:size]
    return jnp.pad(order, (0, max(0, size - len(order))))


def order_by_counting(flag, size):
    """`order_by_sorting`, without a sort."""
    at, rank = jnp.arange(len(flag)), running_count(flag)
    slot = jnp.where(flag, rank - 1, rank[-1] + at - rank)
    return jnp.where(slot == jnp.arange(size)[:, None], at, 0).sum(1)


def rank_by_sorting(x):
    """The place of each entry of x `[…, L]` in a stable ascending order of its row."""
    return jnp.argsort(jnp.argsort(x, axis=-1), axis=-1)


def rank_by_counting(x):
    """`rank_by_sorting`, without a sort."""
    return _precedes(x).sum(-1)


def _precedes(x):
    """Whether entry k precedes entry i in a stable ascending order of x `[…, L]`; `[…, i, k]`."""
    at, mine, other = jnp.arange(x.shape[-1]), x[..., :, None], x[..., None, :]
    return (other < mine) | ((other == mine) & (at < at[:, None]))


def _first(flag):
    """The index of the first flag that is set, 0 if none is: an argmax, whose pairs TPUs are slow to compile."""
    return jnp.where(flag, jnp.arange(len(flag)), len(flag)).min() % len(flag)


def split_budget(weights, budget, capacity):
    """Splits an integer budget by weights `[m]`, nowhere above capacity `[m]`; what one cannot take others get.

    A weight of zero takes nothing. Rounds down the shares, then hands the rest out in order of weight.
    """
    capacity = jnp.where(weights > 0, capacity, 0)
    share = weights / jnp.maximum(weights.sum(), 1e-9)
    taken = jnp.minimum(jnp.floor(share * budget).astype(jnp.int32), capacity)
    room = capacity - taken
    before = jnp.where(_precedes(-weights), room, 0).sum(-1)
    return taken + jnp.clip(budget - taken.sum() - before, 0, room)


def split_budget_4m(keys, alphas, budget, capacity):
    """4M's own split: floor(Dirichlet · budget), what is left one by one to the largest of fresh draws, then clamped.

    What the clamp takes away is lost, and so is what an absent modality gets: `fill="4m"`. keys `[m]`.
    """
    rounds = 1 + len(alphas)
    draw = jax.vmap(lambda key, a: jax.random.loggamma(key, a, (rounds,)), out_axes=1)
    log_gamma = draw(keys, jnp.maximum(alphas, 1e-9))
    share = jnp.floor(jax.nn.softmax(log_gamma[0]) * budget).astype(jnp.int32)
    rest = jnp.arange(len(alphas)) < budget - share.sum()
    lucky = jax.nn.one_hot(log_gamma[1:].argmax(-1), len(alphas), dtype=jnp.int32)
    return jnp.minimum(share + jnp.where(rest[:, None], lucky, 0).sum(0), capacity)


def mask_sequence(key, ids, valid, budget, sentinel, scheme=0, chunk=1):
    """Span masking of one sequence so that its visible form takes at most `budget` tokens.

    ids, valid `[L]`. Chunks of `chunk` tokens are kept with a probability p (`scheme`: index into KEEP), drawn again
    with 0.9 p until the kept tokens and one sentinel a masked run fit; budget 0 masks all and shows nothing. Returns
    (visible ids `[L]`, their number, target ids `[2L + 2]`, their number): the target is `[S_1] span [S_2] span …
    [S_last]`, empty if all was kept. Runs are numbered from `sentinel` on.
    """
    length = len(ids)
    drawn = jax.random.uniform(named(key, "share"))
    probability = jnp.stack([drawn, 1.0, jnp.round(drawn)])[scheme]
    tries = probability * jnp.append(SHRINK ** jnp.arange(TRIES), 0.0)
    uniform = jax.random.uniform(named(key, "tokens"), (len(tries), length))[:, jnp.arange(length) // chunk]
    keep = (uniform < tries[:, None]) & valid
    first = _run_starts(~keep & valid)
    fits = (keep.sum(1) + first.sum(1) <= budget) & (budget > 0)
    best, found = _first(fits), fits.any()
    keep = jnp.where(found, keep[best], False)
    masked = ~keep & valid
    first = _run_starts(masked[None])[0]
    run = sentinel + running_count(first) - 1

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
    start = _first(running_count(marks) > drawn)
    tail = _first(marks & (n_target - at <= size))
    start = jnp.where(n_target - start >= size, start, tail)
    return jnp.where(n_target <= size, 0, start)


def mask_example(key, example, modalities, *, inputs, outputs, alphas, sentinel, n_sentinels, keep=None, fill="full"):
    """Splits one example into what the encoder sees and what the decoder predicts; no token is both.

    example: {name: {"ids" [L], "valid" [L]}}; inputs = (min, N) and outputs = (min, M): token budgets are drawn
    uniformly between them; alphas: (input `[components, m]`, target `[components, m]`, weight `[components]`); keep:
    indices into KEEP `[components, m]`; fill: `full` gives what one modality cannot take to others of its component,
    `4m` loses it, as 4M does. Returns (TokenSet `[N]`, TokenSet `[M]`, labels `[M]`).
    """
    each = lambda name, chosen=modalities: jnp.stack([named(key, name, m.name) for m in chosen])
    spans = [i for i, m in enumerate(modalities) if m.spans]
    singles = [i for i, m in enumerate(modalities) if not m.spans]
    is_single = jnp.asarray([not m.spans for m in modalities])
    present = jnp.stack([example[m.name]["valid"].sum() for m in modalities])
    lengths = jnp.asarray([m.length for m in modalities])

    alpha_in, alpha_out, odds = (jnp.asarray(a, jnp.float32) for a in alphas)
    component = jax.random.categorical(named(key, "component"), jnp.log(odds))
    alpha_in, alpha_out = alpha_in[component], alpha_out[component]
    n_in = jax.random.randint(named(key, "input tokens"), (), inputs[0], inputs[1] + 1)
    n_out = jax.random.randint(named(key, "target tokens"), (), outputs[0], outputs[1] + 1)
    if fill == "full":
        weight_in = _dirichlet(each("inputs"), alpha_in, present > 0)
        weight_out = _dirichlet(each("targets"), alpha_out, present > 0)
        share = split_budget(weight_in, n_in, present)
    else:
        share = split_budget_4m(each("inputs"), alpha_in, n_in, lengths)
    shown, hidden, seen, asked = jnp.zeros_like(present), jnp.zeros_like(present), [], []

    # Spans first: what they leave of their share of the input budget then goes to the others.
    if spans:
        at = jnp.asarray(spans)
        ids, valid = _side_by_side(example, [modalities[i].name for i in spans])
        # A masked run of vectors is shown as a row past the last: zeros.
        first = jnp.asarray([modalities[i].length if modalities[i].dense else sentinel for i in spans])
        chunk = jnp.asarray([modalities[i].chunk for i in spans])
        scheme = jnp.zeros_like(at) if keep is None else jnp.asarray(keep)[component][at]
        keys = each("spans", [modalities[i] for i in spans])
        shown_ids, n_shown, target, n_target = jax.vmap(mask_sequence)(
            keys, ids, valid, share[at], first, scheme, chunk
        )
        seen.append(_entries(jnp.arange(ids.shape[1]) < n_shown[:, None], shown_ids, at))
        shown, hidden = shown.at[at].set(n_shown), hidden.at[at].set(jnp.maximum(n_target - 1, 0))
    if fill == "full":
        shown += split_budget(jnp.where(is_single, weight_in, 0.0), n_in - shown.sum(), present)
        hidden = jnp.where(is_single, present - shown, hidden)
        predicted = split_budget(weight_out, n_out, hidden)
    else:
        wanted = split_budget_4m(each("targets"), alpha_out, n_out, jnp.where(is_single, lengths - share, lengths))
        shown = jnp.where(is_single, jnp.minimum(share, present), shown)
        # A target sequence of b tokens makes b − 1 predictions.
        predicted = jnp.where(is_single, jnp.minimum(wanted, present - shown), jnp.maximum(wanted - 1, 0))

    if spans:
        is_sentinel = (target >= sentinel) & (target < sentinel + n_sentinels)
        keys = each("window", [modalities[i] for i in spans])
        begin = jax.vmap(window_start)(keys, target, n_target, predicted[at] + 1, is_sentinel)
        target = jax.vmap(lambda t, b: jnp.roll(t, -b))(target, begin)
        # 4M's rule may start the window so late that fewer tokens follow than were asked for.
        count = jnp.minimum(predicted[at], n_target - begin - 1)
        flag = jnp.arange(target.shape[1] - 1) < count[:, None]
        asked.append((*_entries(flag, target[:, :-1], at), target[:, 1:].reshape(-1)))
    if singles:
        at = jnp.asarray(singles)
        ids, valid = _side_by_side(example, [modalities[i].name for i in singles])
        draw = jax.vmap(lambda key: jax.random.uniform(key, ids.shape[1:]))
        drawn = jnp.where(valid, draw(each("tokens", [modalities[i] for i in singles])), jnp.inf)
        rank = jax.lax.platform_dependent(drawn, cpu=rank_by_sorting, default=rank_by_counting)
        low, high = shown[at][:, None], (shown + predicted)[at][:, None]
        seen.append(_entries(rank < low, ids, at))
        asked.append((*_entries((rank >= low) & (rank < high), ids, at), ids.reshape(-1)))

    valid, *visible = _pack(seen, inputs[1])
    asked_valid, *queries, labels = _pack(asked, outputs[1])
    return TokenSet(*visible, valid), TokenSet(*queries, asked_valid), labels


def _side_by_side(example, names):
    """(ids, valid), each `[len(names), longest]`: one array for all, so that compilation does not grow with them."""
    longest = max(len(example[n]["ids"]) for n in names)

    def rows(field, dtype):
        parts = [example[n][field].astype(dtype) for n in names]
        return jnp.stack([jnp.pad(p, (0, longest - len(p))) for p in parts])

    return rows("ids", jnp.int32), rows("valid", bool)


def _dirichlet(keys, alpha, present):
    """A Dirichlet draw over the modalities that are present and have alpha > 0; zeros elsewhere. keys `[m]`."""
    allowed = (alpha > 0) & present
    log_gamma = jax.vmap(jax.random.loggamma)(keys, jnp.where(alpha > 0, alpha, 1.0))
    # Not quite zero: a small alpha may underflow, but what is left over may still go there.
    return jnp.where(allowed, jnp.maximum(jax.nn.softmax(jnp.where(allowed, log_gamma, -jnp.inf)), 1e-30), 0.0)


def _entries(flag, ids, modalities):
    """Rows `[R, L]` of modalities `[R]` as flat (flag, ids, modality, position); the position is the index in L."""
    modality = jnp.broadcast_to(modalities[:, None], ids.shape)
    position = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    return tuple(x.reshape(-1) for x in (flag, ids, modality.astype(jnp.int32), position.astype(jnp.int32)))


def _pack(parts, size):
    """Joins the flagged entries `(flag, *fields)` of all modalities into `size` slots: (valid, *fields)."""
    flag, *fields = (jnp.concatenate(f) for f in zip(*parts))
    count, *fields = select(flag, size, *fields)
    return jnp.arange(size) < count, *fields
