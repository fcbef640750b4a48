"""`fill="4m"`, keep schemes, chunks and vectors against an independent NumPy writing of ml-4m's `UnifiedMasking`."""

import jax
import numpy as np
import pytest
import tiny
from tiny import EOS, SENTINEL

from data_pipeline.spec import Modality
from pretrain.objectives.masked import Mixture, Objective

DRAWS = 3000
MODALITIES = (
    Modality("pixels", "pixels", (8, 8, 3), "p", patch=2, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False),
    Modality("image", "grid", (4, 4), "image", "image", 20, tokenizer="fsq"),
    Modality("codes", "set", (6,), "codes", "codes", 20, tokenizer="codes"),
    Modality("caption", "sequence", (20,), "caption", "text", 80, tokenizer="text"),
    Modality("pairs", "sequence", (9,), "pairs", "text", 80, tokenizer="text", chunk=2),
    Modality("vectors", "vectors", (12, 3), "vectors", targets=False),
)
NAMES = [m.name for m in MODALITIES]
LENGTH = dict(pixels=16, image=16, codes=6, caption=14, pairs=9, vectors=10)  # tokens that the example has


def batch(missing=()):
    """The same example many times."""
    out = {"row": np.arange(DRAWS)}
    for m in MODALITIES:
        valid = np.arange(m.length) < (0 if m.name in missing else LENGTH[m.name])
        ids = np.append(np.arange(40, 40 + LENGTH[m.name] - 1), EOS) if m.kind == "sequence" else np.arange(m.length)
        field = {"ids": np.pad(ids, (0, m.length - len(ids)))} if m.vocab else {}
        if m.kind == "pixels":
            field, valid = {"pixels": np.zeros(m.shape, np.uint8)}, np.bool_(m.name not in missing)
        if m.kind == "vectors":
            field = {"vectors": np.zeros(m.shape, np.float32)}
        out[m.name] = {k: np.broadcast_to(v, (DRAWS, *np.shape(v))) for k, v in {**field, "valid": valid}.items()}
    return out


def view(data, mixture, budgets, **options):
    one = Objective(tiny.context(MODALITIES), *budgets, mixture, **options)
    made = jax.jit(one._masking)(data, jax.random.split(jax.random.key(0), DRAWS))
    return jax.tree.map(np.asarray, (made["inputs"].tokens, made["queries"].tokens, made["labels"]))


def counts(tokens):
    return np.stack([(tokens.valid & (tokens.modality == i)).sum(1) for i in range(len(NAMES))], 1)


def numpy_spans(ids, keep):
    """(visible, target) of a list of chunks."""
    shown, target, run = [], [], 0
    for i, (chunk, kept) in enumerate(zip(ids, keep)):
        if kept:
            shown += chunk
            continue
        if i == 0 or keep[i - 1]:
            shown.append(SENTINEL + run)
            target.append(SENTINEL + run)
            run += 1
        target += chunk
    return shown, [*target, SENTINEL + run] if target else []


def numpy_4m(rng, component, n_in, n_out, missing=(), min_in=None):
    """(input tokens, predictions) of each modality by the reference's rules."""

    def split(alphas, n, limits):
        alphas = np.maximum(alphas, 1e-9)
        share = np.floor(rng.dirichlet(alphas) * n).astype(int)
        for _ in range(n - share.sum()):
            share[rng.dirichlet(alphas).argmax()] += 1
        return np.minimum(share, limits)

    limits = np.array([m.length for m in MODALITIES])
    single = np.array([m.kind not in ("sequence", "vectors") for m in MODALITIES])
    alpha_in, alpha_out = ([getattr(component, side).get(n, 0.0) for n in NAMES] for side in ("inputs", "targets"))
    share = split(alpha_in, n_in, limits)
    wanted = split(alpha_out, n_out, np.where(single, limits - share, limits))
    seen, asked = np.zeros(len(NAMES), int), np.zeros(len(NAMES), int)
    for i, m in enumerate(MODALITIES):
        if m.name in missing:
            continue
        if single[i]:
            seen[i], asked[i] = share[i], wanted[i]
            continue
        tokens = list(range(100, 100 + LENGTH[m.name]))
        chunks = [tokens[k : k + m.chunk] for k in range(0, len(tokens), m.chunk)]
        scheme = component.keep.get(m.name, "random")
        p = dict(random=rng.random(), all=1.0, binary=float(rng.integers(2)))[scheme] if share[i] else 0.0
        shown, target = numpy_spans(chunks, rng.random(len(chunks)) < p)
        while share[i] and len(shown) > share[i]:
            p *= 0.9
            shown, target = numpy_spans(chunks, rng.random(len(chunks)) < p)
        if len(target) > wanted[i]:
            marks = [k for k, t in enumerate(target) if t < 100]
            start = marks[rng.integers(max(1, len(marks) - 1))]
            if len(target) - start < wanted[i]:
                start = next(k for k in marks if len(target) - k <= wanted[i])
            target = target[start : start + wanted[i]]
        seen[i] = len(shown) if share[i] else 0
        asked[i] = max(len(target) - 1, 0) if m.targets else 0
    return seen, asked


COMPONENTS = {
    "even": Mixture(dict.fromkeys(NAMES, 1.0), dict.fromkeys(["image", "codes", "caption", "pairs"], 1.0)),
    "few": Mixture(dict.fromkeys(NAMES, 0.1), dict.fromkeys(["image", "codes", "caption", "pairs"], 0.2)),
    "text": Mixture(
        {"caption": 5.0, "vectors": 5.0, "pairs": 5.0}, {"image": 1.0, "caption": 1.0, "pairs": 1.0},
        keep={"caption": "binary", "vectors": "all"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("missing", [(), ("image", "caption")], ids=["whole", "missing"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_counts_are_distributed_as_in_the_reference(name, missing):
    component, budgets = COMPONENTS[name], ((16, 40), (8, 24))
    inputs, queries, _ = view(batch(missing), (component,), budgets, fill="4m")
    rng = np.random.default_rng(0)
    drawn = [
        numpy_4m(rng, component, rng.integers(16, 41), rng.integers(8, 25), missing) for _ in range(DRAWS)
    ]  # fmt: skip
    for ours, theirs in zip((counts(inputs), counts(queries)), map(np.stack, zip(*drawn))):
        assert theirs.any()
        for i, m in enumerate(NAMES):
            high = max(ours[:, i].max(), theirs[:, i].max()) + 1
            a, b = (np.bincount(x[:, i], minlength=high).cumsum() / DRAWS for x in (ours, theirs))
            # Two-sample Kolmogorov-Smirnov distance; 0.05 is beyond the 99.9 % quantile for 3000 draws each.
            assert np.abs(a - b).max() < 0.05, (m, np.abs(a - b).max())


def test_chunks_are_masked_whole():
    component = Mixture({"pairs": 1.0}, {"pairs": 1.0})
    inputs, _, _ = view(batch(), (component,), ((9, 9), (9, 9)))
    both = 0
    for b in range(300):
        shown = set(inputs.ids[b][inputs.valid[b]])
        kept = [all(t in shown for t in pair) for pair in ((40, 41), (42, 43), (44, 45), (46, 47), (EOS,))]
        some = [any(t in shown for t in pair) for pair in ((40, 41), (42, 43), (44, 45), (46, 47), (EOS,))]
        assert kept == some
        both += any(kept) and not all(kept)
    assert both > 100


def test_keep_schemes():
    def kept(scheme):
        component = Mixture({"caption": 1.0}, {"caption": 1.0}, keep={"caption": scheme})
        inputs, _, _ = view(batch(), (component,), ((20, 20), (20, 20)))
        ids = np.where(inputs.valid, inputs.ids, 0)
        return ((ids >= 40) | (ids == EOS)).sum(1)

    assert (kept("all") == 14).all()
    n, often = np.unique(kept("binary"), return_counts=True)
    assert n.tolist() == [0, 14] and abs(often[0] / DRAWS - 0.5) < 0.04


def test_vectors_show_zero_rows_for_what_is_hidden_and_are_never_asked_for():
    component = Mixture({"vectors": 1.0}, {"image": 1.0})
    inputs, queries, _ = view(batch(), (component,), ((12, 12), (4, 4)))
    sentinels = inputs.valid & (inputs.ids >= 12)
    rows = inputs.valid & (inputs.ids < 10)
    assert sentinels.any() and rows.any() and (sentinels | rows == inputs.valid).all()
    assert (queries.modality[queries.valid] == NAMES.index("image")).all()
    for b in range(200):
        ids = inputs.ids[b][inputs.valid[b]]
        assert (np.diff(ids[ids < 10]) > 0).all(), "rows stay in order"
        assert not ((ids[1:] >= 12) & (ids[:-1] >= 12)).any(), "one zero row for a hidden run"


def test_zero_alpha_gets_nothing_when_filling():
    """rgb → all stays rgb → all: 16 patches do not fill 40 slots, and nobody else may."""
    component = Mixture({"pixels": 1000.0}, dict.fromkeys(["image", "codes", "caption", "pairs"], 0.5))
    inputs, queries, _ = view(batch(), (component,), ((16, 40), (24, 24)))
    assert (counts(inputs) == [16, 0, 0, 0, 0, 0]).all()
    assert queries.valid.all(), "targets fill up: 16 + 6 + 15 + 10 can be asked for"
