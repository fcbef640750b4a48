"""Graphs of the emoji and of one's own: numbers, texts and views agree; what a folder lacks is named."""

import collections

import numpy as np
import pytest

from data_pipeline.sources import emoji, emoji_graph, graph


def test_triples_of_emoji_say_what_the_corpus_says():
    meta, entities = emoji.metadata(), emoji_graph.Source("entities")
    source = emoji_graph.Source(("train", "val", "test"))
    found, texts = {}, [entities[i]["text"] for i in range(len(entities))]
    for i in range(len(source)):
        e = source.pick(i, {"head", "relation", "tail"})
        found.setdefault((int(e["head"]), emoji_graph.RELATIONS[e["relation"]]), set()).add(texts[e["tail"]])
    assert texts[: len(meta)] == [e["name"]["en"] for e in meta]
    counts = collections.Counter(word for e in meta for word in e["keywords"]["en"])
    known = {word for word in counts if counts[word] >= 3}
    for i in range(0, len(meta), 7):
        assert found[i, "subgroup"] == {meta[i]["subgroup"]}
        assert found.get((i, "keyword"), set()) == {w for w in meta[i]["keywords"]["en"] if w in known}
    assert {g for (_, r), tails in found.items() if r == "group" for g in tails} == {e["group"] for e in meta}


def test_splits_are_apart_and_unseen_emoji_are_never_heads_of_training():
    triples = emoji_graph.graph().triples
    rows = [set(map(tuple, triples[name].tolist())) for name in ("train", "val", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) and len(rows[1]) / sum(map(len, rows)) > 0.09
    heads = {name: set(x[:, 0].tolist()) for name, x in emoji_graph.graph(True).triples.items()}
    assert not heads["train"] & heads["test"] and {emoji.metadata()[i]["split"] for i in heads["test"]} == {"test"}


def test_views_count_pieces():
    entities = emoji_graph.Source("entities")
    views = np.stack([entities[i]["words"] for i in range(len(entities))])
    norms = np.linalg.norm(views, axis=1)
    assert np.isclose(norms, 1, atol=1e-5).mean() > 0.99, "but signs without words, and words that cancel"
    one = emoji_graph.hashed(["a", "b"])
    np.testing.assert_allclose(one, (emoji_graph.hashed(["a"]) + emoji_graph.hashed(["b"])) / 2**0.5, atol=1e-6)
    triple = emoji_graph.Source("test")[5]
    np.testing.assert_array_equal(triple["letters"], entities[int(triple["head"])]["letters"])


def write(folder):
    (folder / "entities.txt").write_text("e1\tOslo\ne2\tNorway\ne3\n")
    (folder / "relations.txt").write_text("capital\n")
    (folder / "train.txt").write_text("e1\tcapital\te2\n")
    (folder / "test.txt").write_text("e3\tcapital\te2\n\n")
    np.save(folder / "words.npy", np.arange(6.0).reshape(3, 2))
    return folder


def test_a_folder_of_ones_own(tmp_path):
    source = graph.Source(write(tmp_path), ("train", "test"))
    assert graph.Source.available(tmp_path) == ["train", "test", "entities"] and len(source) == 2
    e = source[1]
    assert (e["head"], e["relation"], e["tail"], e["text"], e["words"].tolist()) == (2, 0, 1, "e3", [4.0, 5.0])
    entities = graph.Source(tmp_path, "entities")
    assert [entities[i]["text"] for i in range(3)] == ["Oslo", "Norway", "e3"] and "head" not in entities.fields


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train.txt", "e1\tcapital\n", r"train\.txt, line 1: .*write head, relation and tail"),
        ("train.txt", "e1\tcapital\te9\n", r"line 1: 'e9' is not in entities\.txt"),
        ("train.txt", "\n", "no triple"),
        ("entities.txt", "e1\ne2\ne3\ne1\n", "'e1' is there twice"),
        ("words.npy", np.zeros((2, 2)), r"shape \(2, 2\); it must be \[3 entities, width\]"),
        ("relations.txt", None, "it must hold relations.txt"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, name, content, message):
    graph._graph.cache_clear()
    write(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    elif isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        graph.Source(tmp_path)


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"split='val': .* has train, test, entities"):
        graph.Source(write(tmp_path), "val")
    with pytest.raises(ValueError, match="or entities alone"):
        emoji_graph.Source(("train", "entities"))
