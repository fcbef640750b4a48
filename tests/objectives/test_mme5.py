"""mmE5's loss: against an independent NumPy writing; its traps; what is refused; accumulation, any mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs import embedder_common as embedder
from configs.common import image, text
from configs.systems import mme5
from data_pipeline.pipeline import train_batches
from pretrain import build, ways
from pretrain.models.passes import draw, evaluate
from pretrain.objectives.base import weighted_sum
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

# At the published temperature the nearest candidate is all that a loss of random parameters shows.
B, KEYS, T = 16, example_keys(0, 3, 16), 0.5
FORMS = ("query", "positive", *(f"positive/negative{i}" for i in (1, 2, 3)))


def config():
    c = mme5.get_config("tiny")
    size = dict(dim=8, heads=2, depth=1)
    c.modalities = [image(32, 16, field="image"), text(12, field="text")]
    c.model.parts, c.batch_size = embedder.parts(size, size, length=16), B
    c.objectives.contrastive.temperature = T
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch of all tasks).

    Of the first example a negative is there twice, of the next one is its positive, the third lacks its positive, the
    fourth has a negative of another modality.
    """
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(1600)
    copy = lambda to, of, i: [batch[f"{m}/{to}"][k].__setitem__(i, x[i]) for m, _, k, x in entries(batch, of)]
    copy("negative3", "negative1", 0)
    copy("negative2", "positive", 1)
    batch["image/positive"]["valid"][2], batch["text/positive"]["valid"][2] = False, False
    for m in ("image", "text"):
        there = batch[f"{m}/negative1"]["valid"]
        there[3] = not there[3].any()
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


def entries(batch, variant):
    for m in ("image", "text"):
        for key, x in batch[f"{m}/{variant}"].items():
            yield m, variant, key, x


def run(nodes, batch=None):
    _, graphs, params, held = made()
    one = lambda p, b: [evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS)[n] for n in nodes]
    return jax.device_get(jax.jit(one)(params, held if batch is None else batch))


@functools.cache
def embeddings():
    """({form: `[B, 8]`}, {form: which examples have it}), in float64."""
    found = made()[0]["contrastive"].passes(True)
    nodes = {n: found["z", n] if n in ("query", "positive") else found["target", ("z", n)] for n in FORMS}
    out = dict(zip(nodes, run(list(nodes.values()))))
    batch, there = made()[3], {}
    for n in FORMS:
        end = "" if n == "query" else "/" + n.rpartition("/")[2]
        there[n] = np.asarray(batch[f"image{end}"]["valid"]) | np.asarray(batch[f"text{end}"]["valid"]).any(1)
    return {n: np.float64(z) for n, z in out.items()}, there


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def contents(form, i):
    """What is there of a form of an example."""
    batch = made()[3]
    held = [
        (m, k, np.asarray(batch[f"{m}/{form}"]["valid"][i]), np.asarray(x[i])) for m, _, k, x in entries(batch, form)
    ]
    return [(m, k, np.where(v, x, 0).tolist() if v.any() else None) for m, k, v, x in held if k != "valid"]


def columns(i, repeat=False):
    """The numbers of the negatives of an example; repeat: with those that are there twice or are its positive."""
    _, there = embeddings()
    out, seen = [], [contents("positive", i)]
    for k in (1, 2, 3):
        if there[f"positive/negative{k}"][i] and (repeat or contents(f"negative{k}", i) not in seen):
            out.append(k)
        seen.append(contents(f"negative{k}", i))
    return out


def numpy_loss(columns):
    z, there = embeddings()
    both, total = np.flatnonzero(there["query"] & there["positive"]), 0.0
    for i in both:
        own = [z["query"][i] @ z[f"positive/negative{k}"][i] for k in columns(i)]
        logits = np.asarray([*(z["positive"][both] @ z["query"][i]), *own]) / T
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - z["query"][i] @ z["positive"][i] / T
    return total / len(both)


def test_the_loss_equals_numpy():
    """Queries alone look for what they ask for, each among its own negatives; no column is there twice."""
    (loss, _), _ = undivided()
    assert columns(0) == [1, 2] and 2 not in columns(1) and embeddings()[1]["positive"].sum() == B - 1
    np.testing.assert_allclose(loss, numpy_loss(columns), rtol=1e-5)
    assert abs(numpy_loss(lambda i: columns(i, repeat=True)) / loss - 1) > 1e-4, "what is repeated would be seen"


def test_every_parameter_has_a_gradient():
    for path, x in jax.tree_util.tree_leaves_with_path(undivided()[1]["model"]):
        assert np.isfinite(x).all() and np.asarray(x).any(), jax.tree_util.keystr(path)
    assert not jax.tree.leaves(undivided()[1]["objective"]), "the temperature is fixed"


def test_an_embedding_is_what_the_last_token_gives_behind_the_picture():
    states = made()[0]["contrastive"].network
    node = made()[0]["contrastive"].passes(True)["z", "query"]
    z, stream = run([node, node.args[0].args[0]])
    assert states["join"].reads == ("connector", "text_embed") and stream.x.shape[1] == 4 + 12
    batch = made()[3]
    for i in range(B):
        words = int(batch["text"]["valid"][i].sum())
        last = stream.x[i, 4 + words - 1]
        np.testing.assert_allclose(z[i], last / np.linalg.norm(last), rtol=2e-5, atol=1e-6)
        assert batch["text"]["ids"][i, words - 1] == 3, "the end of the text"


def test_what_is_absent_says_nothing():
    """Of a text without a picture, whatever the picture's place holds; and queries share a network with answers."""
    batch, node = made()[3], made()[0]["contrastive"].passes(True)["z", "query"]
    other = jax.tree.map(lambda x: x, batch)
    other["image"]["pixels"] = jnp.where(other["image"]["valid"][:, None, None, None], other["image"]["pixels"], 77)
    alone = ~np.asarray(batch["image"]["valid"])
    assert 2 < alone.sum() < B
    np.testing.assert_array_equal(run([node])[0], run([node], other)[0])
    swapped = batch | {f"{m}/positive": batch[m] for m in ("image", "text")}
    both = made()[0]["contrastive"].passes(True)
    q, t = run([both["z", "query"], both["z", "positive"]], swapped)
    np.testing.assert_allclose(q, t, atol=1e-6)


def test_an_empty_text_is_not_the_positives():
    """Trap: the release gives the positive's text to the picture of a negative."""
    batch = made()[3]
    pictures = np.asarray(batch["image/negative2"]["valid"]) & ~np.asarray(batch["text/positive"]["valid"]).any(1)
    assert pictures.sum() > 2 and not np.asarray(batch["text/negative2"]["valid"])[pictures].any()


def test_without_negatives_it_is_one_direction_of_clip():
    outputs = {("z", n): z for n, z in zip(("query", "positive"), np.random.default_rng(0).normal(size=(2, B, 8)))}
    outputs = {k: jnp.float32(z / np.linalg.norm(z, axis=1, keepdims=True)) for k, z in outputs.items()}
    outputs |= {("shown", n): tiny.shown(np.ones(B, bool)) for n in ("query", "positive")}
    c = config()
    c.objectives = mme5.objectives(0)
    (one,) = build.objectives(build.parse(c)).values()
    logits = np.float64(outputs["z", "query"]) @ np.float64(outputs["z", "positive"]).T / 0.02
    want = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    loss = weighted_sum(one, one.totals({}, outputs, train=True, run=None), one.weights(outputs))
    np.testing.assert_allclose(loss, want, rtol=1e-5)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


def test_every_batch_holds_as_many_of_each_task():
    run = build.parse(mme5.get_config("tiny"))
    batches = iter(
        train_batches(build.source(run.data, "train"), build.encoder(run, train=True), batch_size=20, seed=1)
    )
    for _ in range(3):
        assert np.bincount(next(batches)["source"]).tolist() == [4] * 5


def test_the_published_size_learns_a_low_rank_of_the_language_model_alone():
    run = build.parse(mme5.get_config(""))
    objectives = build.objectives(run)
    init = init_function(build.models(run, objectives), objectives, 0)[1]
    split = build.split(run, jax.eval_shape(init), init.roles)
    learns = {path.split("/")[1] for path, way in split.ways.items() if not isinstance(way, ways.Nothing)}
    assert learns == {"language"} and run.accum == 8
    assert (objectives["contrastive"].temperature, objectives["contrastive"].learn) == (0.02, "fixed")
    assert objectives["contrastive"].tokens_per_example == 2 * (1600 + 256)


def branches(**changes):
    return lambda c: c.objectives.contrastive.branches[1].update(changes)


def vector_among_streams(c):
    c.model.parts["vector"] = dict(part="pool", reads=["connector"], width=8)
    c.model.parts.join.reads = ["connector", "text_embed", "vector"]


@pytest.mark.parametrize(
    "change, message",
    [
        (branches(variant="answer"), "contrastive.branches.variant='answer': no transform writes 'image/answer'"),
        (branches(part="last"), "branches[1].part='last': name a part that gives an embedding of one modality, or of"),
        (branches(name="text"), "branches=['query', 'text']: give each a name that no other and no modality has"),
        (
            lambda c: c.objectives.contrastive.target.update(variants=["negative1", "positive"]),
            "target.variants=('negative1', 'positive'): 'positive' is 'positive' itself: name other forms",
        ),
        (
            lambda c: c.objectives.contrastive.target.update(variants=["negative4"]),
            "target.variants='negative4': no transform writes 'image/negative4'",
        ),
        (vector_among_streams, "'join': reads='vector': it gives no stream; name an embedding or an encoder"),
        (lambda c: c.model.parts.connector.update(dim=4), "'join': dim=8: 'connector' gives tokens of width 4"),
    ],
)
def test_bad_settings_are_named(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=re.escape(message)):
        run = build.parse(c)
        init_function(build.models(run, objectives := build.objectives(run)), objectives, 0)


def test_forward_is_finite_where_nothing_is_there():
    objectives, graphs, params, batch = made()
    gone = jax.tree.map(lambda x: x, batch)
    for m in ("image/positive", "text/positive"):
        gone[m]["valid"] = jnp.zeros_like(gone[m]["valid"])
    loss, _ = jax.jit(lambda p, b: forward(graphs, p, objectives, b, KEYS, train=True))(params, gone)
    assert loss == 0.0
