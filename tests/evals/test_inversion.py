"""Modality inversion: the inner loop against one by hand, what retrieval is made of, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from toy import CLASSES, Toy

from pretrain import build
from pretrain.evals import harness, inversion
from pretrain.evals.features import features
from pretrain.models.edits import Edited, Replace
from pretrain.models.passes import compute


class Words:
    """A tokenizer whose words are the classes."""

    def encode(self, text, max_len, keep_end=False):
        return [*(tiny.WORDS[0] + CLASSES.index(w) for w in text.split() if w in CLASSES), tiny.EOS]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(build, "text_tokenizers", lambda run: {"text": Words()})
    monkeypatch.setattr(build, "pooled_at_end", lambda run: ())


@pytest.fixture(scope="module")
def toy():
    return Toy(seed=1)


def task(toy, **keys):
    values = dict(pairs=(("image", "caption"),), label="label", template="ant bee", steps=20) | keys
    return inversion.Evaluator(toy, **values)


def test_the_inner_loop_is_adamw_of_each_example_alone(toy):
    """Steps by hand, one example at a time, of the vector behind the words of the template."""
    made = task(toy, steps=5)
    found = features(toy, toy.params, "image", "val")
    rows, wanted = found.row[:3], found.z[:3]
    inverted = made.invert(toy.params, "caption", wanted, rows)
    network = tiny.nnx.merge(toy.graph, toy.params["model"])
    ids = np.zeros((1, 10), int)
    ids[0, :4] = tiny.WORDS[0], tiny.WORDS[1], 0, tiny.EOS
    data = {"caption": {"ids": ids, "valid": np.arange(10)[None] < 4}}
    node = network.states.embedding("caption", network.states.shown("caption"))
    at = np.where(np.arange(10) == 2, 0, -1)

    def cosine(v, z):
        edited = Edited(network, {"embed": Replace(v[None], at)})
        return (compute(edited, {"z": node}, data)["z"][0] * z).sum()

    slope = jax.jit(jax.value_and_grad(cosine))
    starts = made.invert(toy.params, "caption", wanted, rows)
    for i in range(3):
        v, m, s = first_vector(made, rows[i], 16), 0.0, 0.0
        for t in range(1, 6):
            value, g = slope(jnp.asarray(v, jnp.float32), wanted[i])
            assert inverted.cosine[t - 1, i] == pytest.approx(float(value), abs=1e-4)
            g = -np.asarray(g, np.float64)
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
            v = v - 0.02 * (m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8) + 0.01 * v)
        np.testing.assert_allclose(inverted.values[i], v, atol=1e-3)
    np.testing.assert_array_equal(starts.values, inverted.values)


def first_vector(made, row, dim):
    """What inversion of an example starts from: 0 steps of it."""
    none = dataclasses.replace(made, steps=1, lr=1e-12)
    found = none.invert(made.context.params, "caption", np.eye(1, 8, dtype=np.float32), np.asarray([row]))
    assert found.values.shape == (1, 1, dim) and 0.005 < found.values.std() < 0.05
    return np.asarray(found.values[0], np.float64)


def test_examples_do_not_know_of_each_other_and_the_network_stays(toy):
    before = jax.tree.map(np.array, toy.params)
    made, found = task(toy), features(toy, toy.params, "image", "val")
    every = made.invert(toy.params, "caption", found.z, found.row)
    some = np.asarray([5, 2, 17])
    alone = made.invert(toy.params, "caption", found.z[some], found.row[some])
    np.testing.assert_array_equal(alone.values, every.values[some])
    in_parts = dataclasses.replace(made, batch_size=9).invert(toy.params, "caption", found.z, found.row)
    np.testing.assert_allclose(in_parts.values, every.values, atol=1e-3)
    assert (every.cosine[-1] > every.cosine[0]).all() and (every.cosine <= 1 + 1e-5).all()
    np.testing.assert_allclose((every.z * found.z).sum(-1), every.cosine[-1], atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, toy.params)


def test_retrieval_is_among_the_others(toy):
    made = task(toy)
    made.check()
    found = dict(made.run(toy.params))
    assert set(found) == {
        f"image→caption/{n}" for n in ("first cosine", "cosine", "native, mAP label", "inverted, mAP label")
    }
    assert found["image→caption/cosine"] > found["image→caption/first cosine"]
    assert 0 < found["image→caption/native, mAP label"].chance < 0.5
    assert len(list(made.figures(toy.params, None))) == 1
    # A query that is what it looks for finds what the example itself does.
    z, label = features(toy, toy.params, "image", "val").z, np.arange(24) % 3
    relevant = inversion.others(label[:, None] == label)
    assert relevant.shape == (24, 23) and relevant.sum(1).tolist() == [7] * 24
    scores = []
    for i in range(24):
        order = [j for j in np.argsort(-(z @ z[i])) if j != i]
        hits = label[order] == label[i]
        scores.append((hits.cumsum() / np.arange(1, 24))[hits].mean())
    assert inversion.average_precision(z, z, relevant) == pytest.approx(np.mean(scores))


def test_into_a_picture_vectors_share_its_places(toy):
    made = task(toy, pairs=(("caption", "image"),), pseudo=4)
    _, at = made._carrier("image", 2)
    np.testing.assert_array_equal(at, np.repeat(np.arange(4), 4))
    found = dict(made.run(toy.params))
    assert found["caption→image/cosine"] > found["caption→image/first cosine"]
    z = features(toy, toy.params, "caption", "val")
    assert made.invert(toy.params, "image", z.z[:2], z.row[:2]).values.shape == (2, 4, 16)


REFUSED = [
    (dict(pairs=[("image", "sound")]), r"inversion\.pairs: no modality 'sound'; the run has image"),
    (dict(pairs=[("image", "depth")]), r"inversion\.pairs=.*no objective embeds 'depth', but image, caption"),
    (dict(pairs=[("image", "caption:1")]), r"no objective embeds 'caption:1'"),
    (dict(pairs=[("caption", "image")], pseudo=17), r"inversion\.pseudo=17: must be 1 … 16, the tokens of 'image'"),
    (dict(template="ant " * 9), r"inversion\.template=.*its 10 tokens leave no room among the 10 of 'caption'"),
    (dict(steps=0), r"inversion\.steps=0: must be at least 1"),
    (dict(examples=1), r"inversion\.examples=1: must be at least 2"),
    (dict(lr=0.0), r"inversion\.lr=0\.0: must be above 0"),
    (dict(label="kind"), r"inversion\.label: 'kind': row 3000 of .* has no such field"),
]


@pytest.mark.parametrize("keys, message", REFUSED, ids=range(len(REFUSED)))
def test_refused_before_anything_is_computed(keys, message):
    context = Toy()
    context.run.final_evals = {"inversion": dict(pairs=[("image", "caption")], label="label") | keys}
    with pytest.raises(ValueError, match=message):
        harness.make_tasks(context)
    assert not context.passes


def test_a_text_that_no_tokenizer_writes(monkeypatch):
    monkeypatch.setattr(build, "text_tokenizers", lambda run: {})
    with pytest.raises(ValueError, match=r"inversion\.pairs=.*no tokenizer here writes 'caption'"):
        task(Toy())
