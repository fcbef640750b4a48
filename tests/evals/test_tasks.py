"""The tasks on a tiny network: what they give, what they refuse, and that features are encoded once."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from toy import CLASSES, Toy

from pretrain import build
from pretrain.evals import (
    base_novel,
    diagnostics,
    encoding,
    few_shot,
    harness,
    knn,
    linear_probe,
    losses,
    nll,
    retrieval,
    robustness,
    rsa,
    subspace,
    zero_shot,
)
from pretrain.evals import similarity as textual
from pretrain.evals.base import Unfit, check
from pretrain.evals.features import features, represent, together, unit
from pretrain.models.tokens import Whole


class Words:
    """A tokenizer whose words are the classes."""

    def encode(self, text, max_len):
        return [*(tiny.WORDS[0] + CLASSES.index(w) for w in text.split() if w in CLASSES), tiny.EOS]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(build, "text_tokenizers", lambda run: {"text": Words()})


@pytest.fixture(scope="module")
def toy():
    return Toy(pool_queries=2, seed=1)


def chance_of(values) -> dict:
    return {name: value.chance for name, value in values.items() if getattr(value, "chance", None) is not None}


def test_features_of_several_modalities_and_of_layers(toy):
    batch = next(iter(toy.batches("val", 64)))
    network = tiny.nnx.merge(toy.graph, toy.params["model"])
    shown = Whole(("image", "caption"), tiny.MODALITIES)(batch)
    encoded = network.run("encoder", network.run("embed", shown), layers=True)
    found = features(toy, toy.params, "image+caption", "val", layers=True)
    np.testing.assert_allclose(found.pooled, network.run("pool", encoded), atol=1e-4)
    weights = np.asarray(encoded.valid, np.float32)[:, None, :, None]
    mean = (encoded.layers * weights).sum(2) / weights.sum(2)
    np.testing.assert_allclose(found.layers, mean.swapaxes(0, 1), atol=1e-4)
    alone = [features(toy, toy.params, n, "val").z for n in ("image", "caption")]
    np.testing.assert_allclose(found.z, unit(sum(alone)), atol=1e-5)
    _, x = represent(toy, toy.params, "image+caption:-1", "val")
    np.testing.assert_array_equal(x, found.layers[1])
    with pytest.raises(ValueError, match=r"'image:2': 'image' has layers 0 … 1"):
        represent(toy, toy.params, "image:2", "val")


def test_features_are_encoded_once_for_each_network():
    toy, other = Toy(), Toy(seed=1)
    first = features(toy, toy.params, "image", "val")
    assert features(toy, toy.params, "image", "val") is first and toy.passes == ["val"]
    again = features(toy, other.params, "image", "val")
    assert not np.allclose(again.pooled, first.pooled)
    assert features(toy, toy.params, "image", "val") is first and len(toy.passes) == 2


def test_partners_are_matched_by_number():
    toy = Toy(missing=0.5)
    rows, (image, caption) = together(toy, toy.params, ("image", "caption"), "val", "z")
    own = features(toy, toy.params, "caption", "val")
    assert 0 < len(rows) < 24 and set(rows) == set(own.row)
    for row, a, b in zip(rows, image, caption):
        np.testing.assert_array_equal(b, own.z[own.row == row][0])
        np.testing.assert_array_equal(a, features(toy, toy.params, "image", "val").at([row]).z[0])


@pytest.mark.slow
def test_what_shows_the_class_is_classified(toy):
    """A random network keeps what the ids say: each classifier must find it, above its chance."""
    names, label = ("image", "caption"), ("label",)
    tasks = dict(
        knn=knn.Evaluator(toy, names, label),
        probe=linear_probe.Evaluator(toy, names, label, readouts=("pooled", "z", "layers", "mixture")),
        few=few_shot.Evaluator(toy, names, label, shots=(1, 8), seeds=12),
    )
    found = harness.score(tasks, toy.params)
    assert found["probe/image/label/pooled"] == 1 and found["probe/image/label/mixture"] == 1
    assert {"probe/caption/label/layer 0", "probe/caption/label/layer 1"} <= set(found)
    assert found["knn/image/label"] > 0.9 and found["few/image/label/8-shot"] > 0.9
    assert found["few/caption/label/1-shot sd"] > found["few/caption/label/8-shot sd"] > 0
    assert chance_of(found) and all(c == pytest.approx(1 / 3) for c in chance_of(found).values())


def test_zero_shot_takes_the_nearest_name(toy):
    task = zero_shot.Evaluator(toy, "caption", ("caption",), ("label",), templates=("{}", "a {}"))
    found = dict(task.run(toy.params))
    assert set(found) == {"caption/label"} and found["caption/label"].chance == pytest.approx(1 / 3)
    heads = task._heads(toy.params, list(CLASSES))
    rows, z = represent(toy, toy.params, "caption", ("val", "test"), "z")
    guess = (unit(z) @ heads.T).argmax(1)
    assert found["caption/label"] == pytest.approx((guess == rows % 3).mean())
    swapped = dataclasses.replace(task, names={"ant": ["bee"], "bee": ["ant"]})
    heads_of = swapped._heads(toy.params, list(CLASSES))
    np.testing.assert_allclose(heads_of, heads[[1, 0, 2]], atol=1e-6)
    ensemble = dataclasses.replace(task, names={"ant": ["bee", "cat"]})._heads(toy.params, list(CLASSES))
    np.testing.assert_allclose(ensemble[0], unit(heads[1] + heads[2]), atol=1e-5)


def test_base_and_novel_classes_compete_among_themselves(toy):
    task = base_novel.Evaluator(toy, "caption", ("caption",), ("label",), base=("ant", "cat"))
    halves = dict(dataclasses.replace(task, base=()).run(toy.params))
    found = dict(task.run(toy.params))
    heads = task._heads(toy.params, list(CLASSES))
    rows, z = represent(toy, toy.params, "caption", ("val", "test"), "z")
    z, kind = unit(z), rows % 3
    base = np.mean([(heads[[0, 2]] @ x).argmax() == k // 2 for x, k in zip(z, kind) if k != 1])
    assert 0 < base < 1 and found["caption/label/base"] == pytest.approx(base)
    assert found["caption/label/novel"] == 1, "a class alone"
    assert found["caption/label/harmonic"] == pytest.approx(2 * base / (1 + base))
    chances = {k.rpartition("/")[2]: c for k, c in chance_of(found).items()}
    assert chances == pytest.approx({"base": 1 / 2, "novel": 1.0, "harmonic": 2 / 3})
    first = np.mean([(heads[:2] @ x).argmax() == k for x, k in zip(z, kind) if k < 2])
    assert halves["caption/label/base"] == pytest.approx(first), "by default the first half of the names, and one more"


def test_retrieval_with_labels_and_of_several_modalities(toy):
    task = retrieval.Evaluator(toy, (("image", "caption"), ("image+caption", "image")), label="label")
    found = dict(task.run(toy.params))
    assert found["image↔caption/candidates"] == 48 and found["image→caption/R@1"].chance == pytest.approx(1 / 48)
    chance = found["image→caption/mAP label"].chance
    assert chance == pytest.approx(0.37, abs=0.02), "a third is relevant"
    assert found["image+caption→image/mAP label"] > 1.7 * chance


IMAGE = [f"label/{s}" for s in ("image", "image+depth", "image+caption", "image+depth+caption")]
OTHERS = [f"label/{s}" for s in ("depth", "caption", "depth+caption")]


def test_subsets_of_inputs(toy):
    found = dict(robustness.Evaluator(toy, ("image", "depth", "caption"), ("label",)).run(toy.params))
    assert len(found) == 7 + 2 + 6 and found["label/image+depth+caption"] > 0.9
    subsets = [v for k, v in found.items() if k not in ("label/mean", "label/worst") and "importance" not in k]
    held, rest = ([v for k, v in found.items() if k in of] for of in (IMAGE, OTHERS))
    assert len(subsets) == 7 and found["label/importance of image"] == pytest.approx(np.mean(held) - np.mean(rest))
    with_none = np.mean(held) - np.mean([*rest, found["label/worst"].chance])
    assert found["label/importance of image or nothing"] == pytest.approx(with_none)
    assert found["label/mean"] == pytest.approx(np.mean(subsets)) and found["label/worst"] == min(subsets)


def test_rated_pairs(toy, tmp_path):
    """Scores that are the embeddings' own cosines give a correlation of 1."""
    z = {w: features_of(toy, w) for w in CLASSES}
    pairs = [("ant", "bee"), ("ant", "cat"), ("bee", "cat"), ("ant", "ant")]
    lines = [json.dumps({"a": a, "b": b, "rating": 3 * float(z[a] @ z[b])}) for a, b in pairs]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    task = textual.Evaluator(
        toy, ("caption",), path=str(tmp_path), fields=("a", "b", "rating"), splits=("test",)
    )  # fmt: skip
    task.check()
    assert dict(task.run(toy.params)) == {"caption/spearman": pytest.approx(1)}
    with pytest.raises(ValueError, match=r"similarity.fields=.*line 1 of \('test',\) lacks 'score'; it has a, b"):
        dataclasses.replace(task, fields=("a", "b", "score")).check()


def features_of(toy, word):
    from pretrain.evals.features import embed_texts

    return unit(embed_texts(toy, toy.params, "caption", [word]))[0]


def test_shared_words_are_a_similarity(toy):
    found = dict(rsa.Evaluator(toy, ("image",), "words", permutations=19).run(toy.params))
    assert found["image/similarity"] > 0.2, "pictures of a class share a word, and look alike"
    assert found["image/p"] == 1 / 20 and set(found) == {"image/similarity", "image/p"}
    task = textual.Evaluator(toy, ("caption",), overlap="words")
    task.check()
    assert dict(task.run(toy.params)) == {"caption/spearman": 0}, "all pairs that share a word share as much"


def test_diagnostics_of_the_same_twice(toy):
    pairs = (("image", "image"), ("image:0", "caption:-1"))
    found = dict(diagnostics.Evaluator(toy, pairs).run(toy.params))
    for name, wanted in (("gap", 0), ("alignment", 0), ("CKA", 1), ("mutual 10-NN", 1)):
        assert found[f"image~image/{name}"] == pytest.approx(wanted, abs=1e-5)
    assert 0 < found["image:0~caption:-1/CKA"] < 0.9 and "image:0~caption:-1/gap" not in found


def test_similarity_to_raters(toy, tmp_path):
    """One rates as the network does, the other of a few examples only by chance."""
    rows, x = represent(toy, toy.params, "image", ("val", "test"))
    own = (unit(x) @ unit(x).T)[::-1, ::-1]
    noise = np.random.default_rng(0).normal(size=own.shape)
    np.savez(tmp_path / "one.npz", row=rows[::-1], similarity=own)
    np.savez(tmp_path / "two.npz", row=rows[::-1], similarity=np.stack([own, noise + noise.T]))
    one, two = (
        dict(rsa.Evaluator(toy, ("image",), str(tmp_path / f"{n}.npz"), permutations=0).run(toy.params))
        for n in ("one", "two")
    )
    assert one == {"image/similarity": pytest.approx(1)}
    assert two["image/a rater"] == pytest.approx(0.5, abs=0.05) and 0 < two["image/similarity"] < 0.9
    assert abs(two["image/lower noise ceiling"]) < 0.1 < two["image/upper noise ceiling"] < 0.9


def test_partners_are_found_in_directions_that_correlate(toy):
    task = subspace.Evaluator(toy, (("image", "caption"), ("image:0", "image:-1")), anchors=48, directions=(1, 2, 4))
    task.check()
    found = dict(task.run(toy.params))
    kinds = ("affine", "PCA", "CCA", "local CKA", "local CKA in CCA")
    assert {f"image~caption/{k}" for k in kinds} <= set(found) and len(found) == 12
    assert found["image~caption/directions"] in (1, 2, 4) and found["image~caption/CCA"].chance == 1 / 48
    assert found["image:0~image:-1/affine"] > 0.5, "one layer tells the other"
    none = dataclasses.replace(task, directions=(23,))
    with pytest.raises(ValueError, match=r"subspace.directions=\(23,\): 48 anchors of .* allow none"):
        dict(none.run(toy.params))


def test_words_are_encoded(toy, tmp_path):
    task = encoding.Evaluator(toy, "image", "caption", "words", folds=4, least=10, draws=50)
    task.check()
    found = dict(task.run(toy.params))
    assert found["sites"] == 3 and found["both/r"] > 0.6, "pictures show the class, and its word is a site"
    assert 0 <= found["sites that integrate"] <= 1
    rows = sorted(toy.facts(("val", "test")))
    held = np.asarray([[w in toy.facts(("val", "test"))[r]["words"] for w in CLASSES] for r in rows], float)
    np.savez(tmp_path / "given.npz", row=rows[::-1] + [9], responses=np.concatenate([held[::-1], held[:1]]))
    given = dataclasses.replace(task, responses=str(tmp_path / "given.npz"))
    given.check()
    assert dict(given.run(toy.params)) == pytest.approx(found), "in whatever order, and of rows that are not asked for"
    np.savez(tmp_path / "given.npz", row=rows, responses=held * 0)
    with pytest.raises(ValueError, match=r"encoding\.responses=.*site 0 never changes"):
        given.check()


@pytest.mark.parametrize(
    "task, key, names", [("rsa", "reference", "similarity"), ("encoding", "responses", "responses")]
)
def test_a_file_that_is_not_what_it_should_be_is_named_before_training(toy, tmp_path, task, key, names):
    evaluator = dict(rsa=rsa, encoding=encoding)[task].Evaluator
    keys = dict(modalities=("image",)) if task == "rsa" else dict(vision="image", language="caption")

    def fails(file, message):
        with pytest.raises(ValueError, match=rf"config\.final_evals\.mine: {task}\.{key}='.*{file}': {message}"):
            check(evaluator(toy, **keys, **{key: str(tmp_path / file)}), toy, "config.final_evals.mine", whole=False)

    fails("none.npz", "cannot be read .*none.npz")
    np.savez(tmp_path / "whole.npz", row=np.arange(9))
    fails("whole.npz", f"lacks {names}: give an .npz of the arrays row and {names}")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:60])
    fails("cut.npz", "cannot be read")
    for name, held in (("empty.npz", b""), ("text.npz", b"row,similarity")):
        (tmp_path / name).write_bytes(held)
        fails(name, "cannot be read")
    np.save(tmp_path / "one.npy", np.arange(9))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    fails("one.npz", "cannot be read")


def test_a_folder_of_rated_pairs_that_is_not_there_is_named_before_training(toy, tmp_path):
    task = textual.Evaluator(toy, ("caption",), path=str(tmp_path / "none"), splits=("test",))
    with pytest.raises(ValueError, match=r"config\.final_evals\.mine: .*none"):
        check(task, toy, "config.final_evals.mine", whole=False)


def test_likelihoods_given_several_modalities(toy):
    found = dict(nll.Evaluator(toy, ("image", "image+depth"), ("depth", "caption")).run(toy.params))
    assert set(found) == {
        "image→depth", "image→caption", "image+depth→caption", "none→depth", "none→caption",
        "unigram→depth", "unigram→caption",
    }  # fmt: skip
    assert found["image+depth→caption"] != found["image→caption"]
    assert found["image→caption"].chance == pytest.approx(found["unigram→caption"])


def test_defaults_take_what_fits(toy):
    made, left_out = harness.make_tasks(toy, ("all",))
    assert set(made) == set(harness.known_tasks()) - {"grounding", "encoding", "reranking"}
    assert left_out == {
        "grounding": "no objective of the run finds boxes (set_prediction)",
        "reranking": "no objective of the run matches pairs (sampled_matching)",
        "encoding": "no word of 'words' is on 20 or more of the held-out examples, and not on as many",
    }
    assert made["knn"].labels == ("label",) and made["zero_shot"].text == "caption"
    nothing = Toy(embedded=())
    nothing.objectives["contrastive"].embedded = ()
    made, left_out = harness.make_tasks(nothing, ("all",))
    unfit = {"zero_shot", "retrieval", "similarity", "inversion", "grounding", "encoding", "reranking"}
    assert set(left_out) == unfit and "knn" in made
    with pytest.raises(ValueError, match=r"--tasks=zero_shot: zero_shot: needs a text modality that an objective"):
        harness.make_tasks(nothing, ("zero_shot",))
    toy.run.final_evals = {"mine": dict(evaluator="knn", modalities=["depth"], labels=["label"], k=3)}
    made, _ = harness.make_tasks(toy, ("knn", "losses"))
    assert set(made) == {"mine", "losses"} and made["mine"].k == 3
    toy.run.final_evals = {}
    with pytest.raises(ValueError, match="names no final_evals: give --tasks=all"):
        harness.make_tasks(toy, ())
    with pytest.raises(ValueError, match="--tasks=nn: no task 'nn'; there are all, zero_shot, retrieval"):
        harness.make_tasks(toy, ("nn",))


class Stricter(Toy):
    """Its test split has a label that training lacks."""

    def facts(self, splits):
        found = super().facts(splits)
        found.update({r: f | {"label": "dog"} for r, f in found.items() if r == 6005})
        return found


REFUSED = [
    (knn, dict(modalities=["sound"], labels=["label"]), "knn.modalities: no modality 'sound'; the run has image"),
    (knn, dict(modalities=["image"], labels=["kind"]), "knn.labels: 'kind': row 0 of 'train' has no such field"),
    (knn, dict(modalities=["image"], labels=["label"]), "label='dog' of row 6005 in .* is none of the 3 labels of"),
    (linear_probe, dict(modalities=["image"], labels=["label"], validation="test"), "holds 'test', which chooses"),
    (linear_probe, dict(modalities=["image"], labels=["label"], decays=[0]), "all positive"),
    (few_shot, dict(modalities=["image"], labels=["label"], splits=["val"], shots=[17]), "'ant' has 16 examples"),
    (zero_shot, dict(text="image", modalities=["caption"], labels=["label"]), "text='image': has no text tokenizer"),
    (zero_shot, dict(text="caption", modalities=["depth"], labels=["label"]), "no objective embeds 'depth'"),
    (zero_shot, dict(text="caption", modalities=["image"], labels=["label"], splits=["val"], names={"x": ["y"]}),
     "zero_shot.names=.*no example is labelled 'x'"),
    (base_novel, dict(text="caption", modalities=["image"], labels=["label"], splits=["val"], base=["dog"]),
     r"base_novel\.base=.*no example is labelled 'dog'; labels are ant, bee, cat"),
    (base_novel, dict(text="caption", modalities=["image"], labels=["label"], splits=["val"], base=CLASSES),
     r"base_novel\.base=.*leave some classes out, which are novel"),
    (base_novel, dict(text="caption", modalities=["image"], labels=["label", "group"], base=["ant"]),
     r"base_novel\.labels=.*`base` names classes of one label: take an evaluation each"),
    (retrieval, dict(pairs=[("image", "image+sound")]), "retrieval.pairs: no modality 'sound'"),
    (retrieval, dict(pairs=[("image", "depth")]), "no objective embeds depth with the others: there is no"),
    (robustness, dict(inputs=["image"], labels=["label"]), "needs 2 … 6 modalities"),
    (robustness, dict(inputs=["image", "depth"], labels=["label"], features="z"), "embedded are image, caption"),
    (textual, dict(modalities=["caption"]), "give a folder of rated pairs, or a field"),
    (rsa, dict(modalities=["image"], reference="kind"), "rsa.reference: 'kind': row 3000 of .* has no such field"),
    (rsa, dict(modalities=["image"], reference="words", permutations=-1), "rsa.permutations=-1: must not be negative"),
    (subspace, dict(pairs=[("image", "depth")], anchors=40, directions=[20]), "anchors=40: 20 directions are"),
    (subspace, dict(pairs=[("image", "depth")], anchors=60, directions=[5]), "train has 48 examples: take as many or"),
    (subspace, dict(pairs=[("image", "depth")], ridge=0), "subspace.ridge=0.0: must be above 0"),
    (encoding, dict(vision="image", language="caption", responses="words"), "no word is on 20 or more examples"),
    (encoding, dict(vision="image", language="caption", responses="words", least=10, folds=7), "at most 6 folds"),
    (encoding, dict(vision="image", language="sound", responses="words"), "encoding.language: no modality 'sound'"),
    (encoding, dict(vision="image", language="caption", responses="words", alphas=[0]), "needs numbers above 0"),
    (diagnostics, dict(pairs=[("image", "depth")], k=100), "48 examples; k=100 neighbours need 102"),
    (losses, dict(batch_size=0), "losses.batch_size=0: must be at least 1"),
    (nll, dict(inputs=["image"], targets=["sound"]), "nll.targets: no modality 'sound'"),
]  # fmt: skip


@pytest.mark.parametrize(
    "task, keys, message", REFUSED, ids=[f"{t.__name__[15:]}-{i}" for i, (t, *_) in enumerate(REFUSED)]
)
def test_refused_before_anything_is_computed(task, keys, message):
    context = Stricter()
    name = task.__name__.rpartition(".")[2]
    context.run.final_evals = {name: keys}
    with pytest.raises(ValueError, match=message):
        harness.make_tasks(context)
    assert not context.passes, "nothing was read for computing"


def test_a_network_that_predicts_nothing_has_no_likelihoods():
    context = Toy()
    del context.objectives["masked"]
    with pytest.raises(Unfit, match="no masked objective"):
        nll.Evaluator.default(context)
