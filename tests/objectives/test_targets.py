"""What a similarity matrix is compared with: values and gradients by NumPy, golden numbers, and the laws of a run."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from laws import Built, close_trees, losses
from tiny import MODALITIES
from vector_run import config, write_split

from data_pipeline.spec import Modality
from pretrain import build
from pretrain.checkpoint import load_params
from pretrain.models.states import States
from pretrain.objectives.base import Context, weighted_sum
from pretrain.objectives.contrastive import Edge, Objective
from pretrain.objectives.targets import identity, labels, teacher
from pretrain.parameters import values
from pretrain.train import train

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
KINDS = Modality("kind", "labels", (1,), "kind", vocab_size=4)
CONTEXT = Context(MODALITIES, (KINDS,), others=(States(model="old"),))
EDGES, NAMES, B = (Edge("image", "caption"),), ("image", "caption"), 16
SCALE = 7.0


def make(**keys):
    fixed = dict(temperature=1 / SCALE, learn="fixed")
    return Objective(CONTEXT, EDGES, **(fixed | keys))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embedded(seed=0, missing=0.2):
    """Outputs of random embeddings, of some missing examples not finite; some examples have no label."""
    rng, out = np.random.default_rng(seed), {}
    for m in NAMES:
        there = rng.random(B) >= missing
        out["shown", m] = tiny.shown(there)
        for key, width in ((("z", m), 8), (("target", ("teacher", m)), 5)):
            out[key] = jnp.where(there[:, None], jnp.float32(unit(rng.normal(size=(B, width)))), jnp.nan)
    kinds = {"ids": jnp.asarray(rng.integers(3, size=B), jnp.int32), "valid": jnp.asarray(rng.random(B) > 0.2)}
    return out | {("target", "label"): kinds}


def with_gradient(one, outputs, own=None):
    """(loss as in a step, its gradient by what learns)."""
    own = values(one.init(None)) if own is None else own
    loss = lambda z, own: weighted_sum(one, one.totals(own, outputs | z, train=True, run=None), one.weights(outputs))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))({("z", m): outputs["z", m] for m in NAMES}, own)


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def numpy_divergence(kind, logits, q, epsilon=1e-8):
    """(Σ over rows of the divergence of softmax(logits) from q, ∂/∂logits)."""
    p = softmax(logits)
    if kind == "reverse_kl":
        g = np.log(p) - np.log(q + epsilon)
        return (p * g).sum(), p * (g - (p * g).sum(1, keepdims=True))
    total = -(q * np.log(p)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        total += np.where(q > 0, q * np.log(q), 0).sum() if kind == "kl" else 0
    return total, p - q


def numpy_labels(outputs, there, sharpness):
    ids, valid = (np.asarray(outputs["target", "label"][k])[there] for k in ("ids", "valid"))
    same = ((ids[:, None] == ids) & valid[:, None] & valid) | np.eye(len(ids), dtype=bool)
    q = softmax(sharpness * same) if sharpness else same / same.sum(1, keepdims=True)
    return q, q  # the same label is symmetric


def numpy_teacher(outputs, there, s, scale, correct):
    """Rows that the teacher gets wrong are the learner's, of either direction for itself."""
    x, y = (np.float64(outputs["target", ("teacher", m)])[there] for m in NAMES)
    ways, wrong = (scale * x @ y.T, scale * y @ x.T), []
    for o, ours in zip(ways, (s, s.T)):
        wrong.append(o.argmax(1) != np.arange(len(o)))
        if correct:
            o[wrong[-1]] = SCALE * ours[wrong[-1]]
    assert 0 < wrong[0].sum() < len(s) and (wrong[0] != wrong[1]).any()
    return tuple(map(softmax, ways))


def equals_numpy(one, target):
    outputs = embedded()
    there = np.logical_and(*(outputs["shown", m].tokens.valid[:, 0] for m in NAMES))
    a, b = (np.float64(outputs["z", m])[there] for m in NAMES)
    total, slope = 0.0, np.zeros((len(a), len(a)))
    for q, way in zip(target(outputs, there, a @ b.T), (lambda x: x, np.transpose)):
        value, by = numpy_divergence(one.divergence, SCALE * way(a @ b.T), q)
        total, slope = total + 0.5 * value, slope + 0.5 * SCALE * way(by)
    count = there.sum() if one.reduction == "mean" else 1
    got, (grads, _) = with_gradient(one, outputs)
    np.testing.assert_allclose(got, total / count, rtol=1e-5)
    for m, want in zip(NAMES, (slope @ b, slope.T @ a)):
        np.testing.assert_allclose(grads["z", m][there], want / count, atol=1e-5 * np.abs(want / count).max())
        assert not np.asarray(grads["z", m])[~there].any()


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("divergence", ["cross_entropy", "kl", "reverse_kl"])
@pytest.mark.parametrize("sharpness", [0.0, 3.0])
def test_labels_equal_numpy(sharpness, divergence, block):
    one = make(target=labels.Target("kind", sharpness), divergence=divergence, block=block)
    equals_numpy(one, lambda outputs, there, s: numpy_labels(outputs, there, sharpness))


@pytest.mark.parametrize("reduction, block", [("sum", 0), ("mean", 4)])
@pytest.mark.parametrize("scale, correct", [(1.0, True), (14.0, True), (3.0, False)])
def test_a_teacher_equals_numpy(scale, correct, reduction, block):
    target = teacher.Target("old", scale, correct)
    one = make(target=target, divergence="kl", reduction=reduction, block=block)
    equals_numpy(one, lambda outputs, there, s: numpy_teacher(outputs, there, s, scale, correct))


@pytest.mark.parametrize("of", NAMES)
def test_the_relations_of_a_teacher_equal_numpy(of):
    """Both directions are taught by one matrix: how alike the examples of one modality are to it."""

    def relations(outputs, there, s):
        x = np.float64(outputs["target", ("teacher", of)])[there]
        return softmax(4.0 * x @ x.T), softmax(4.0 * x @ x.T)

    for block in (0, 4):
        equals_numpy(make(target=teacher.Target("old", 4.0, of=of), divergence="kl", block=block), relations)


def golden(one, own=None, **entries):
    outputs = {("shown", m): tiny.shown(np.ones(6, bool)) for m in NAMES}
    for key, name in entries.items():
        x = GOLDEN[f"in/{name}"]
        kind, _, modality = key.partition("_")
        if key == "label":
            outputs["target", key] = {"ids": jnp.asarray(x, jnp.int32), "valid": jnp.ones(6, bool)}
        else:
            key = ("z", modality) if kind == "z" else ("target", (kind, modality))
            outputs[key] = jnp.float32(unit(x.astype(np.float64)))
    return with_gradient(one, outputs, own)[0]


def test_golden():
    close = lambda got, name: np.testing.assert_allclose(got, GOLDEN[f"out/{name}"], rtol=1e-5)
    gap = make(target=labels.Target("kind", 10.0), divergence="kl", learn="raw", temperature=1 / np.log(1 / 0.07))
    close(golden(gap, z_image="a", z_caption="b", label="labels"), "gap")
    sdm = make(target=labels.Target("kind"), divergence="reverse_kl", temperature=0.02, directions="sum")
    close(golden(sdm, z_image="sdm_image", z_caption="sdm_text", label="sdm_identity"), "irra_sdm")
    pair = dict(z_image="a", z_caption="b")
    clip = golden(make(temperature=0.07), **pair)
    old = dict(target=teacher.Target("old", correct=True), divergence="kl", temperature=1.0, reduction="sum")
    kept = golden(make(coef=20.0, **old), **pair, teacher_image="c", teacher_caption="d")
    close(clip + kept, "modx")
    close(clip, "modx_without_distillation")


def test_a_raw_scale_is_no_exponential():
    """As GAP's release learns it; log(1 / .07) = 2.659 is there the scale itself."""
    raw = make(learn="raw", temperature=1 / np.log(1 / 0.07))
    own = values(raw.init(None))
    np.testing.assert_allclose(raw.scale(own), 2.6593, rtol=1e-4)
    at = lambda x: with_gradient(raw, embedded(), {"scale": jnp.float32(x)})
    slope = (at(2.66)[0] - at(2.65)[0]) / 0.01
    np.testing.assert_allclose(at(2.655)[1][1]["scale"], slope, rtol=1e-3)
    assert raw.scale({"scale": jnp.float32(1e4)}) == 100 and raw.scale({"scale": jnp.float32(-2)}) == -2


@pytest.mark.parametrize("sharpness", [0.0, 40.0])
def test_one_text_a_class_leaves_nothing_to_the_target(sharpness):
    """Cross-entropy from the own column and from all of the label are equal, in value and in gradient."""
    outputs = embedded(missing=0.0)
    kinds = outputs["target", "label"]["ids"] = jnp.asarray(np.arange(B) % 4, jnp.int32)
    outputs["target", "label"]["valid"] = jnp.ones(B, bool)
    table = jnp.float32(unit(np.random.default_rng(4).normal(size=(4, 8))))

    def loss(one, table, image):
        z = outputs | {("z", "image"): image, ("z", "caption"): table[kinds]}
        return one.totals({}, z, train=True, run=None)["image~caption"] / B

    found = [
        jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), static_argnums=0)(one, table, outputs["z", "image"])
        for one in (make(), make(target=labels.Target("kind", sharpness)))
    ]
    for own, all_of_it in zip(*map(jax.tree.leaves, found)):
        np.testing.assert_allclose(own, all_of_it, atol=2e-6)


def test_a_teacher_that_finds_nothing_teaches_nothing():
    outputs = embedded(missing=0.0)
    x = outputs["target", ("teacher", "image")]
    outputs["target", ("teacher", "caption")] = jnp.roll(x, 1, 0)
    kept = dict(divergence="kl", temperature=1.0)
    loss, (grads, _) = with_gradient(make(target=teacher.Target("old", correct=True), **kept), outputs)
    assert abs(loss) < 1e-6 and all(np.abs(g).max() < 1e-6 for g in grads.values())
    loss, (grads, _) = with_gradient(make(target=teacher.Target("old"), **kept), outputs)
    assert loss > 1e-3 and all(np.abs(g).max() > 1e-3 for g in grads.values())


@pytest.mark.parametrize("target", [labels.Target("kind"), teacher.Target("old", 5.0, True)], ids=repr)
@pytest.mark.parametrize("divergence", ["cross_entropy", "kl", "reverse_kl"])
def test_what_stands_alone_or_lacks_is_finite(target, divergence):
    one = make(target=target, divergence=divergence)
    for there in (np.zeros(B, bool), np.arange(B) == 3):
        outputs = embedded(missing=0.0) | {("shown", m): tiny.shown(there) for m in NAMES}
        loss, grads = with_gradient(one, outputs)
        assert abs(loss) < 1e-6 and all(np.abs(g).max() < 1e-6 for g in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 32), ("val", 16)):
        kinds = {i: {"kind": ["x", "y", "z"][i % 3]} for i in range(1, count)}  # the first has none
        write_split(folder, split, count, changed=kinds)
    return folder


def targeted(data, **changes):
    """Three objectives: labels, a snapshot, and the own column by name."""
    edges = [dict(a="a", b="b")]
    sdm = dict(objective="contrastive", edges=edges, target=dict(target="labels", label="kind"))
    return config(
        data, steps=3, batch_size=16, references=dict(before=dict(reference="snapshot")),
        labels=[dict(name="kind", kind="labels", shape=(1,), field="kind", vocab_size=3, classes=["x", "y", "z"])],
        objectives=dict(
            labels=sdm | dict(divergence="reverse_kl", learn="raw"),
            old=sdm | dict(target=dict(target="teacher", model="before", correct=True), divergence="kl"),
            own=sdm | dict(target=dict(target="identity")),
        ),
        **changes,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [dict(accum=2), dict(mesh="data=4,fsdp=2"), dict(mesh="data=8", block=2)], ids=str)
def test_accumulated_or_on_a_mesh(data, tmp_path, how):
    block = how.get("block", 0)
    for name, more in (("one", {}), ("other", how)):
        c = targeted(data, evals={}, **{k: v for k, v in more.items() if k != "block"})
        for objective in c.objectives.values() if more else ():
            objective.block = block
        train(c, tmp_path / name)
    close_trees(*(load_params(tmp_path / name) for name in ("one", "other")), 1e-4)
    one, other = (losses(tmp_path / name) for name in ("one", "other"))
    for step in one:
        for key in ("loss", "labels/a~b", "old/a~b", "own/a~b"):
            assert one[step][key] > 0 or (key, step) == ("old/a~b", 1), "the snapshot is what starts"
            np.testing.assert_allclose(other[step][key], one[step][key], rtol=1e-5, atol=1e-6)


def test_the_own_column_is_what_is_meant_where_no_target_is_named(data):
    named, left = targeted(data), targeted(data)
    del left.objectives.own.target
    assert build.objectives(build.parse(named))["own"] == build.objectives(build.parse(left))["own"]
    assert make().target == identity.Target()
    texts = [json.dumps(build.whole(c.to_dict())) for c in (named, left)]
    assert texts[0] == texts[1]
    assert all(f'{{"target": "{file}"' in texts[0] for file in ("identity", "labels", "teacher"))


def test_a_teacher_does_not_learn(data):
    built = Built(targeted(data))
    state, _ = built.step(built.batch(), steps=2)
    close_trees(state.references["before"]["model"], built.params["model"], 0)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params["model"], built.params["model"])
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(target=labels.Target("sort")), "target.label='sort': no such labels in config.labels; there are kind"),
        (dict(target=labels.Target("kind", -1.0)), "target.sharpness=-1.0: must not be negative"),
        (dict(target=teacher.Target("new")), "contrastive.target.model='new': no such model; there are online, old"),
        (dict(target=teacher.Target("online")), "target.model='online': name another model than the one that learns"),
        (dict(target=teacher.Target("old", 0.0)), "target.scale=0.0: must be positive"),
        (dict(target=teacher.Target("old", of="sound")), "target.of='sound': must be one of image, caption, which the"),
        (dict(divergence="js"), "divergence='js': must be one of cross_entropy, kl, reverse_kl"),
        (dict(divergence="kl", label_smoothing=0.1), "label_smoothing=0.1: smooths the target of divergence='cross"),
        (dict(epsilon=0.0), "epsilon=0.0: must be positive"),
    ],
)
def test_bad_settings_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        make(**keys)


def test_labels_of_one_class_are_named():
    context = dataclasses.replace(CONTEXT, labels=(dataclasses.replace(KINDS, vocab_size=1),))
    with pytest.raises(ValueError, match=r"target.label='kind': all examples are of one class"):
        Objective(context, EDGES, target=labels.Target("kind"))


def test_a_target_that_is_no_file_lists_those_that_there_are(data):
    c = targeted(data)
    c.objectives.own.target.target = "label"
    there = "identity, intra_modal, labels, negatives, neighbours, teacher"
    with pytest.raises(ValueError, match=rf"own.target.target='label': .* there are: {there}"):
        build.objectives(build.parse(c))
