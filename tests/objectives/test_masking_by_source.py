"""Components of the Dirichlet mixture that apply to some sources of the data only."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from pretrain.objectives.masked import Mixture, Objective

NAMES = [m.name for m in MODALITIES]
SOURCES = ("photos", "books", "")
SIZE = 6000
# Each component shows and asks another pair, so that what is seen tells which one was drawn.
PAIRS = (("image", "depth"), ("depth", "image"), ("image", "image"), ("depth", "depth"))


def component(number, **more):
    shown, asked = PAIRS[number]
    return Mixture({shown: 1.0}, {asked: 1.0}, **more)


MIXTURE = (
    component(0, weight=1.0),
    component(1, weight=3.0, sources=("photos",)),
    component(2, weight=2.0, sources=("photos", "books")),
    component(3, weight=0.0, sources=("books",)),
)


def objective(mixture=MIXTURE, sources=SOURCES, **more):
    return Objective(dataclasses.replace(tiny.context(), sources=sources), (2, 2), (2, 2), mixture, **more)


def drawn(masked, batch):
    """The component of each example, read off from what it shows and asks."""
    made = jax.jit(masked._masking)(batch, jax.random.split(jax.random.key(1), SIZE))
    inputs, queries = made["inputs"].tokens, made["queries"].tokens
    assert inputs.valid.all() and queries.valid.all()
    assert (inputs.modality == inputs.modality[:, :1]).all() and (queries.modality == queries.modality[:, :1]).all()
    seen = zip(np.asarray(inputs.modality[:, 0]), np.asarray(queries.modality[:, 0]))
    return np.array([PAIRS.index((NAMES[a], NAMES[b])) for a, b in seen])


@pytest.fixture(scope="module")
def batch():
    source = np.random.default_rng(0).choice(3, SIZE, p=(0.5, 0.3, 0.2)).astype(np.int32)
    return tiny.batch(SIZE, missing=0.0) | {"source": source}


def numpy_components(rng, sources):
    """One example at a time: those components that apply, drawn by their weights."""
    out = []
    for source in sources:
        allowed = [i for i, c in enumerate(MIXTURE) if c.sources == () or SOURCES[source] in c.sources]
        weights = np.array([MIXTURE[i].weight for i in allowed])
        out.append(rng.choice(allowed, p=weights / weights.sum()))
    return np.array(out)


@pytest.mark.parametrize("fill", ["full", "4m"])
def test_an_examples_component_is_one_of_its_source(batch, fill):
    got, want = drawn(objective(fill=fill), batch), numpy_components(np.random.default_rng(2), batch["source"])
    for source in range(3):
        ours, theirs = (np.bincount(c[batch["source"] == source], minlength=4) for c in (got, want))
        assert ((ours > 0) == (theirs > 0)).all(), "none of another source, all of its own"
        np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=0.04)
    assert len(set(got[batch["source"] == 2])) == 1 < len(set(got[batch["source"] == 1]))


def test_without_sources_all_components_apply_as_before(batch):
    """Data that do not say their source, and mixtures that name none."""
    plain = tuple(component(i, weight=c.weight) for i, c in enumerate(MIXTURE))
    want = drawn(objective(plain, ()), {n: batch[n] for n in ("row", *NAMES)})
    np.testing.assert_array_equal(drawn(objective(plain), batch), want)
    np.testing.assert_array_equal(drawn(objective(), {n: batch[n] for n in ("row", *NAMES)}), want)
    np.testing.assert_allclose(np.bincount(want, minlength=4) / SIZE, np.array([1, 3, 2, 0]) / 6, atol=0.03)


@pytest.mark.parametrize(
    "mixture, sources, message",
    [
        ((*MIXTURE, component(0, sources=("book",))), SOURCES,
         r"mixture\[4\].sources: no source 'book'; config.data.sources has photos, books: name one of these, or"),
        (MIXTURE, (), r"mixture\[1\].sources: no source 'photos'; config.data.sources has none of a name"),
        ((component(0, sources=("photos",)), component(3, weight=0.0)), ("photos", "books"),
         r"no component of positive weight applies to config.data.sources\[1\] \(name='books'\): add one, or take"),
    ],
    ids=["unknown", "no mixture of data", "left out"],
)  # fmt: skip
def test_mistakes(mixture, sources, message):
    with pytest.raises(ValueError, match=message):
        objective(mixture, sources)
